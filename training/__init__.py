"""How a network learns: options, losses, optimizers, the training loop, and training without labels."""
