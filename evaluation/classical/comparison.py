"""What cheap classic methods reach on images with labels: a bar that a trained network should clear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.classical import BASELINES
from evaluation.classical.foreground import orient, resolve_foreground
from evaluation.scores import DEFAULT_THRESHOLD, counts_at, iou, score_histogram

CHEAP = ("otsu", "local_threshold", "local_contrast", "kmeans", "gaussian_mixture")


def best_cheap_method(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[str, float]:
    """The cheap classic method with the highest pooled IoU, and that IoU.

    >>> image = np.zeros((32, 32)); image[8:16, 8:16] = 9
    >>> best_cheap_method([image], [(image > 0).astype(np.uint8)])
    ('otsu', 1.0)

    Args:
        images: (H, W) or (H, W, C), any type; colours are averaged. Structures may be bright or dark.
        labels: 0 background, 1 foreground, 255 is ignored, (H, W) each.
    """
    grey = [image if image.ndim == 2 else image.mean(-1) for image in images]
    foreground = resolve_foreground("auto", grey)
    found = {}
    for name in CHEAP:
        scores = (BASELINES[name](orient(image, foreground)) for image in grey)
        pooled = sum(score_histogram(score, label) for score, label in zip(scores, labels, strict=True))
        found[name] = float(iou(counts_at(pooled, DEFAULT_THRESHOLD)))
    best = max(found, key=found.__getitem__)
    return best, found[best]
