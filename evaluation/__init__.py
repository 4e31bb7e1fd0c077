"""How good a segmentation is: inference, counts, the figures derived from them, and their report."""
