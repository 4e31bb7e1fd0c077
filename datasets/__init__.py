"""From files to tensors: lists, images and labels, label noise, simulated micrographs, augmentation."""
