"""What a few validation images can decide: a threshold and a direction, only where they differ beyond their errors.

Errors come from resampling images, since the pixels of an image err together. A threshold that is the best of four
images is often worse elsewhere than the one that is right by theory.
"""

from __future__ import annotations

import numpy as np

from evaluation.scores import BINS, auc, best_threshold, counts_at, iou
from evaluation.scores.bootstrap import bootstrap_counts, student_reach

MAX_GROUPS = 32  # of validation images that are counted apart: enough for errors, 32 MB of histograms
MIN_IMAGES = 4  # fewer move no threshold
ERROR_OF_ONE = 0.25  # of the AUC of a single image, whose error cannot be estimated
COARSE = 256  # bins that suffice for the error of an AUC


def choose_threshold(histograms: np.ndarray, prior: float, seed: int = 0) -> tuple[float, float]:
    """The threshold of the highest pooled IoU where its gain over ``prior`` exceeds its error, else ``prior``.

    Args:
        histograms: score histograms of images, or of groups of them, (n, 2, BINS).
        prior: the threshold that is right without a look at these images.
    Returns: the threshold and the pooled IoU there.
    """
    pooled = histograms.sum(0)
    best, highest = best_threshold(pooled)
    at_prior = float(iou(counts_at(pooled, prior)))
    told = histograms[histograms.any((1, 2))]
    can_tell = len(told) >= MIN_IMAGES and pooled[1].any()
    if can_tell and highest - at_prior > error_of_gain(told, best, prior, seed):
        return best, float(highest)
    return prior, at_prior


def error_of_gain(histograms: np.ndarray, threshold: float, other: float, seed: int = 0) -> float:
    """The standard error, over images, of the difference in pooled IoU between two thresholds (paired bootstrap)."""
    counts = [[counts_at(histogram, place) for place in (threshold, other)] for histogram in histograms]
    table = np.array([[(at.tp, at.fp, at.fn) for at in pair] for pair in counts])  # (n, 2, 3)
    tp, fp, fn = np.moveaxis(bootstrap_counts(table, seed), -1, 0)  # (resamples, 2) each
    found = tp / np.maximum(tp + fp + fn, 1)
    images = len(histograms)
    return float((found[:, 0] - found[:, 1]).std() * (images / (images - 1)) ** 0.5)


def is_inverted_beyond_error(histograms: np.ndarray, seed: int = 0) -> bool:
    """Whether foreground scores lower than background: the AUC lies below one half by more than chance explains.

    Args:
        histograms: score histograms of images, or of groups of them, (n, 2, BINS).
    """
    told = histograms[histograms.any((1, 2))]
    shortfall = 0.5 - auc(told.sum(0))
    if not shortfall > 0:  # also where no AUC is defined
        return False
    if len(told) == 1:
        return shortfall > ERROR_OF_ONE
    coarse = told.reshape(len(told), 2, COARSE, BINS // COARSE).sum(-1)
    resampled = np.array([auc(histogram) for histogram in bootstrap_counts(coarse, seed)])
    images = len(told)
    error = np.nanstd(resampled) * (images / (images - 1)) ** 0.5
    return bool(shortfall > student_reach(images) * error)
