"""What cheap classic methods reach on images with labels: a bar that a trained network should clear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.classical import BASELINES
from evaluation.classical.foreground import orient, resolve_foreground
from evaluation.scores import DEFAULT_THRESHOLD, counts_at, iou, score_histogram

CHEAP = ("otsu", "local_threshold", "local_contrast", "kmeans", "gaussian_mixture")
CHEAP_ON_LARGE = ("otsu", "local_threshold")  # the others take minutes, and half a gigabyte more than these
LARGE_PIXELS = 2**22  # of an image


def cheap_methods(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
    """The pooled IoU of every cheap classic method.

    Args:
        images: (H, W) or (H, W, C), any type; colours are averaged. Structures may be bright or dark. Both
            sequences are read item by item, twice, and may load from disk.
        labels: 0 background, 1 foreground, 255 is ignored, (H, W) each.
    """
    foreground = resolve_foreground("auto", images)
    methods = CHEAP_ON_LARGE if max(label.size for label in labels) > LARGE_PIXELS else CHEAP
    pooled = dict.fromkeys(methods, 0)
    for image, label in zip(images, labels, strict=True):
        oriented = orient(image, foreground)
        for name in methods:
            pooled[name] = pooled[name] + score_histogram(BASELINES[name](oriented), label)
    return {name: float(iou(counts_at(histogram, DEFAULT_THRESHOLD))) for name, histogram in pooled.items()}


def best_cheap_method(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[str, float]:
    """The method of `cheap_methods` with the highest IoU, and that IoU.

    >>> image = np.zeros((32, 32)); image[8:16, 8:16] = 9
    >>> best_cheap_method([image], [(image > 0).astype(np.uint8)])
    ('otsu', 1.0)
    """
    found = cheap_methods(images, labels)
    best = max(found, key=found.__getitem__)
    return best, found[best]
