"""What is written of an image that is predicted: folder → suffix, in the order of writing."""

MAP_FILES = {"pred": ".tif", "scores": ".tif", "masks": ".png", "overlays": ".png"}
