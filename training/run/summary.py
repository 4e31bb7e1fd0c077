"""What a run ends with: its best epoch with the interval of its metric, what it is to be compared with, time, place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from datasets.segmentation import SegmentationDataset
from evaluation.classical.comparison import best_cheap_method
from evaluation.scores import mean_iou
from evaluation.scores.bootstrap import bootstrap_counts, percentile_interval, small_sample_reach
from evaluation.scores.few_images import MIN_IMAGES
from utils.background import LazySequence

COMPARED_IMAGES = 64  # on which classic methods are tried


def metric_text(tables: np.ndarray, threshold: float | None, images: int, offset: float = 0.0) -> str:
    """The metric of the best epoch with its interval, to go on a line.

    Args:
        tables: confusion matrices of the validation images, or of groups of them, (n, K, K); rows = truth.
        threshold: that of binary labels; None for several classes.
        images: how many validation images there are.
        offset: pixels by which the outlines of masks are moved outwards.
    """
    if (tables.sum((0, 2)) > 0).sum() < 2:
        return ", the last one: the validation labels have a single class, which is nothing to choose by"
    if threshold is None:
        return f": val miou {mean_iou(tables.sum(0)):.4f} {interval(tables, mean_iou)} over {images} images"
    reached = foreground_iou(tables.sum(0))
    within = interval(tables, foreground_iou)
    moved = f", outlines moved by {offset:+g} px" if offset else ""
    return f": val iou {reached:.4f} {within} over {images} images, threshold {threshold:.3g}{moved}"


def foreground_iou(table: np.ndarray) -> float:
    """IoU of the foreground from a confusion matrix (2, 2); NaN where there is none."""
    union = table.sum() - table[0, 0]
    return float(table[1, 1] / union) if union else math.nan


def interval(tables: np.ndarray, metric: Callable[[np.ndarray], float]) -> str:
    """The 95 % interval of a metric of the pooled table, from resampling images (n, K, K)."""
    if len(tables) < MIN_IMAGES:
        return "(no interval from so few images)"
    resampled = np.array([metric(table) for table in bootstrap_counts(tables, seed=0)])
    low, high = percentile_interval(resampled, small_sample_reach(len(tables)))
    return f"[{low:.4f}, {high:.4f}]"


def classic_line(tables: np.ndarray, validation: SegmentationDataset, groups: Sequence[int]) -> str:
    """The best cheap classic method on the validation images, as a warning where it wins.

    Args:
        tables: of the best epoch, (n, 2, 2).
        groups: the number of the table that each image of ``validation`` was counted into.
    """
    n = len(tables)
    compared = max(1, n * COMPARED_IMAGES // len(validation)) if len(validation) > COMPARED_IMAGES else n
    indices = [index for index, group in enumerate(groups) if group < compared]
    reached = foreground_iou(tables[:compared].sum(0))
    method, classic = best_cheap_method(
        LazySequence(lambda place: validation.image(indices[place]), len(indices)),
        LazySequence(lambda place: validation.label(indices[place]), len(indices)),
    )
    where = f"{len(indices)} of these" if len(indices) < len(validation) else f"the same {len(indices)} images"
    if not classic > reached:
        return f"best quick classic method on {where}: {method}, iou {classic:.4f}; this run {reached:.4f}"
    return (
        f"warning: {method}, a classic method without training, wins on {where}: iou {classic:.4f}, this run "
        f"{reached:.4f}. More --steps or more images may help; or look at the labels"
    )


def missed_classes(table: np.ndarray) -> list[int]:
    """Classes that occur in the labels and are never predicted, from a confusion matrix (K, K)."""
    return np.flatnonzero((table.sum(1) > 0) & (table.sum(0) == 0)).tolist()


def missed_line(missed: Sequence[int], is_weighted: bool) -> str:
    """A warning that names classes which are never predicted, and what to do."""
    advice = "more --steps" if is_weighted else "--class_weights frequency, or more --steps,"
    return f"warning: never predicted: class {', '.join(map(str, missed))}; {advice} may help"
