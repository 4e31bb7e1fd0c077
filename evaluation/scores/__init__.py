"""Counts first, every metric from them: score histograms and confusion counts of segmentations.

A score histogram holds, for background and for foreground pixels, how many of them got which score, in 65,536 equal
bins. Histograms and counts add up over batches, processes and images, and one pair of them gives the confusion counts
of every threshold, the areas under the curves and the calibration without looking at a pixel again.

Nothing here knows whether an array lives in NumPy or on a torch device: histograms and matrices are of the same kind
as their input, and the metrics accept both. 0/0 is NaN, except that IoU and F1 of two empty masks are 1.

``surface`` measures boundaries and thin structures, ``bootstrap`` says how sure a mean is, ``images`` holds score maps
on disk against labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.labels import IGNORE
from evaluation.scores.bootstrap import bootstrap_mean as bootstrap_mean

BINS = 65536
DEFAULT_THRESHOLD = 0.5  # where neither labels nor their noise tell a better one
Array = Any  # a NumPy array or a torch tensor


def _bincount(indices: Array, length: int) -> Array:
    """How often each of 0 … length − 1 occurs in a flat integer array; larger indices are left out."""
    if isinstance(indices, np.ndarray):
        return np.bincount(indices, minlength=length)[:length].astype(np.int64, copy=False)
    return indices.bincount(minlength=length)[:length]


def _numpy(counts: Array) -> np.ndarray:
    return counts if isinstance(counts, np.ndarray) else counts.cpu().numpy()


def score_histogram(scores: Array, labels: Array) -> Array:
    """Histograms of the scores of background and of foreground pixels.

    Bin k holds scores in [k/BINS, (k+1)/BINS), the last one 1.0 too. Scaling by a power of two is exact, so for every
    threshold t = k/BINS a score is ≥ t exactly if its bin is ≥ k. NaN goes to bin 0, as no comparison holds for it.

    Args:
        scores: foreground probabilities in [0, 1], any shape, any floating type.
        labels: 0 background, 1 foreground, 255 is ignored; same shape.
    Returns: int64 (2, BINS), row 0 background, row 1 foreground; on the device of ``scores``.
    """
    if tuple(scores.shape) != tuple(labels.shape):
        raise ValueError(f"scores have shape {tuple(scores.shape)}, labels {tuple(labels.shape)}")
    scores, labels = scores.reshape(-1), labels.reshape(-1)
    if isinstance(scores, np.ndarray):
        scores = scores.astype(np.float32) if scores.dtype == np.float16 else scores
        with np.errstate(invalid="ignore"):  # NaN becomes a negative integer
            cells = (scores * BINS).astype(np.int32)
        np.clip(cells, 0, BINS - 1, out=cells)
        cells += np.minimum(labels, 2).astype(np.int32) * BINS
    else:
        scores = scores if scores.element_size() > 2 else scores.float()
        cells = (scores * BINS).nan_to_num(0.0).clamp(0, BINS - 1).long() + labels.long().clamp(max=2) * BINS
    return _bincount(cells, 2 * BINS).reshape(2, BINS)


def invert_histogram(histogram: Array) -> Array:
    """The histogram of 1 − score. A score on the edge of two bins lands one bin (1.5e-5) too low; others are exact."""
    return histogram[:, ::-1] if isinstance(histogram, np.ndarray) else histogram.flip(1)


@dataclass(frozen=True, slots=True)
class Counts:
    """Confusion counts of a binary segmentation; each a number of pixels, or an array of such numbers."""

    tp: int | np.ndarray
    fp: int | np.ndarray
    fn: int | np.ndarray
    tn: int | np.ndarray

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)


def confusion_counts(mask: Array, label: Array) -> Counts:
    """Confusion counts of a predicted mask.

    Args:
        mask: predicted foreground, bool or 0/1, any shape.
        label: 0 background, 1 foreground, 255 is ignored; same shape.
    """
    (tn, fp), (fn, tp) = _numpy(confusion_matrix(mask, label, 2)).tolist()
    return Counts(tp, fp, fn, tn)


def confusion_matrix(prediction: Array, label: Array, num_classes: int) -> Array:
    """How many pixels of each true class (row) were given each class (column); int64 (K, K).

    Args:
        prediction: class indices 0 … K − 1, any shape; for K = 2 also a bool mask.
        label: class indices, 255 is ignored; same shape.
    """
    if tuple(prediction.shape) != tuple(label.shape):
        raise ValueError(f"the prediction has shape {tuple(prediction.shape)}, the label {tuple(label.shape)}")
    prediction, label = prediction.reshape(-1), label.reshape(-1)
    if isinstance(prediction, np.ndarray):
        rows = np.where(label == IGNORE, num_classes, label).astype(np.int64)
        cells = rows * num_classes + prediction
    else:
        cells = label.long().masked_fill(label == IGNORE, num_classes) * num_classes + prediction.long()
    return _bincount(cells, num_classes * num_classes).reshape(num_classes, num_classes)


def counts_at(histogram: Array, threshold: float) -> Counts:
    """Confusion counts of ``score >= threshold``; exact for multiples of 1/BINS, others are rounded up to the next."""
    background, foreground = _numpy(histogram)
    k = int(np.ceil(threshold * BINS))
    tp, fp = int(foreground[k:].sum()), int(background[k:].sum())
    return Counts(tp, fp, int(foreground.sum()) - tp, int(background.sum()) - fp)


def counts_at_all(histogram: Array) -> Counts:
    """Confusion counts of every threshold k/BINS, k = 0 … BINS − 1; each count an int64 array (BINS,)."""
    fp, tp = _numpy(histogram)[:, ::-1].cumsum(1)[:, ::-1]
    return Counts(tp, fp, tp[0] - tp, fp[0] - fp)


def ratio(numerator: Any, denominator: Any, empty: float = np.nan) -> Any:
    """numerator / denominator elementwise, and ``empty`` where the denominator is 0; a float of two numbers."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    result = np.divide(numerator, denominator, out=np.full(denominator.shape, empty), where=denominator != 0)
    return float(result) if result.ndim == 0 else result


def iou(counts: Counts) -> Any:
    """Intersection over union, TP / (TP + FP + FN); 1 where both masks are empty.

    >>> mask, label = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]])
    >>> float(iou(confusion_counts(mask, label)))
    0.5
    """
    return ratio(counts.tp, counts.tp + counts.fp + counts.fn, empty=1.0)


def f1(counts: Counts) -> Any:
    """F1 = Dice, 2 TP / (2 TP + FP + FN); 1 where both masks are empty."""
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn, empty=1.0)


def accuracy(counts: Counts) -> Any:
    """Share of pixels that are right; NaN without pixels."""
    return ratio(counts.tp + counts.tn, counts.tp + counts.fp + counts.fn + counts.tn)


def precision(counts: Counts) -> Any:
    """Share of the predicted foreground that is right; NaN where nothing was predicted."""
    return ratio(counts.tp, counts.tp + counts.fp)


def sensitivity(counts: Counts) -> Any:
    """Share of the true foreground that was found (recall); NaN where there is none."""
    return ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Counts) -> Any:
    """Share of the true background that was left alone; NaN where there is none."""
    return ratio(counts.tn, counts.tn + counts.fp)


COUNT_METRICS = {
    "iou": iou,
    "f1": f1,
    "accuracy": accuracy,
    "precision": precision,
    "sensitivity": sensitivity,
    "specificity": specificity,
}


def auc(histogram: Array) -> float:
    """Area under the ROC curve: the chance that a foreground pixel scores above a background one, ties counting half.

    Exact for scores that differ by more than a bin; NaN without foreground or without background.
    """
    background, foreground = _numpy(histogram).astype(np.float64)
    below = background.cumsum() - background
    return ratio((foreground * (below + background / 2)).sum(), foreground.sum() * background.sum())


def average_precision(histogram: Array) -> float:
    """Σ (recall step) · precision over descending thresholds (scikit-learn's definition); NaN without foreground."""
    counts = counts_at_all(histogram)
    gained = _numpy(histogram)[1] * ratio(counts.tp, counts.tp + counts.fp, empty=0.0)
    return ratio(gained.sum(), _numpy(histogram)[1].sum())


def calibration_error(histogram: Array, groups: int = 16) -> float:
    """Expected calibration error of the foreground probability.

    Pixels are grouped by score into equal widths; the gaps between mean score and share of foreground are averaged
    over pixels. Scores are known to half a bin (8e-6). NaN without pixels.
    """
    background, foreground = _numpy(histogram).reshape(2, groups, -1).astype(np.float64)
    centers = ((np.arange(BINS) + 0.5) / BINS).reshape(groups, -1)
    gaps = ((background + foreground) * centers).sum(1) - foreground.sum(1)
    return ratio(np.abs(gaps).sum(), background.sum() + foreground.sum())


def _threshold_of_maximum(metric: np.ndarray) -> float:
    """The middle of the longest run of thresholds that reach the maximum (the lowest of equal runs).

    Between two occupied bins every threshold gives the same mask. The middle keeps the largest distance from the
    scores on either side, so it is the choice most likely to hold on other images.
    """
    best = np.flatnonzero(metric == metric.max())
    starts = np.flatnonzero(np.diff(best, prepend=-2) > 1)
    lengths = np.diff(starts, append=len(best))
    first = best[starts[lengths.argmax()]]
    return float(first + lengths.max() // 2) / BINS


def best_threshold(histogram: Array) -> tuple[float, float]:
    """The threshold with the highest pooled F1 (hence also IoU), and the pooled IoU there.

    Of tied thresholds the middle is taken, see `_threshold_of_maximum`; an empty histogram gives 0.5.
    """
    counts = counts_at_all(histogram)
    threshold = _threshold_of_maximum(f1(counts))
    return threshold, iou(counts_at(histogram, threshold))


def youden_threshold(histogram: Array) -> tuple[float, float]:
    """The threshold with the highest Youden's J = sensitivity + specificity − 1, and J; (0.5, NaN) if undefined.

    The choice for noisy labels: class-dependent flips scale J at every threshold alike and so keep its maximum.
    """
    counts = counts_at_all(histogram)
    j = sensitivity(counts) + specificity(counts) - 1
    if np.isnan(j[0]):
        return 0.5, float("nan")
    threshold = _threshold_of_maximum(j)
    return threshold, float(j[int(threshold * BINS)])


def class_counts(matrix: Array) -> Counts:
    """One-against-rest confusion counts of every class from a confusion matrix (K, K); each count an array (K,)."""
    matrix = _numpy(matrix)
    tp = matrix.diagonal()
    fp, fn = matrix.sum(0) - tp, matrix.sum(1) - tp
    return Counts(tp, fp, fn, matrix.sum() - tp - fp - fn)


def class_iou(matrix: Array) -> np.ndarray:
    """IoU of every class, (K,); NaN for a class that neither the labels nor the predictions have."""
    counts = class_counts(matrix)
    return ratio(counts.tp, counts.tp + counts.fp + counts.fn)


def class_f1(matrix: Array) -> np.ndarray:
    """F1 of every class, (K,); NaN for a class that neither the labels nor the predictions have."""
    counts = class_counts(matrix)
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def mean_iou(matrix: Array) -> float:
    """Mean of the classes' IoU, absent classes left out; NaN if all are."""
    return defined_mean(class_iou(matrix))


def foreground_iou(matrix: np.ndarray) -> float:
    """IoU of the foreground from a confusion matrix (2, 2); NaN where there is none."""
    return float(class_iou(matrix)[1])


def defined_mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN if none is."""
    defined = np.asarray(values, np.float64)
    defined = defined[~np.isnan(defined)]
    return float(defined.mean()) if defined.size else float("nan")
