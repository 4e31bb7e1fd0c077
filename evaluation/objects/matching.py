"""How the objects of a mask meet those of a label: matched by IoU, counted, and the F1 that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.objects.splitting import label_objects

THRESHOLDS = np.arange(10) / 20 + 0.5  # 0.5, 0.55, …, 0.95


@dataclass(frozen=True)
class ObjectCounts:
    """Objects of a mask and of its label, and how many of them match at each of THRESHOLDS; sums over images add up."""

    matched: np.ndarray  # int64 (10,)
    predicted: int
    labelled: int

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        return ObjectCounts(
            self.matched + other.matched, self.predicted + other.predicted, self.labelled + other.labelled
        )

    @property
    def f1(self) -> np.ndarray:
        r""":math:`2 TP / (2 TP + FP + FN)` of objects at each of THRESHOLDS, float (10,); 1 where neither has any."""
        total = self.predicted + self.labelled
        return 2 * self.matched / total if total else np.ones(len(THRESHOLDS))

    def metrics(self) -> dict[str, float]:
        """F1 at an IoU of 0.5, and its mean over THRESHOLDS."""
        return {"object_f1": float(self.f1[0]), "object_f1_mean": float(self.f1.mean())}


NO_OBJECTS = ObjectCounts(np.zeros(len(THRESHOLDS), np.int64), 0, 0)


def count_objects(predicted: np.ndarray, labelled: np.ndarray) -> ObjectCounts:
    """Match numbered objects, integers (H, W) with 0 as background, to those of a label.

    Two objects match where their IoU reaches the threshold; at 0.5 and above that leaves an object at most one partner,
    but for halves of exactly 0.5, of which one is taken.
    """
    sizes, sizes_of_label = (np.bincount(numbers.ravel(), minlength=1) for numbers in (predicted, labelled))
    ious = np.sort(_matched_ious(predicted, labelled, sizes, sizes_of_label))
    matched = len(ious) - np.searchsorted(ious, THRESHOLDS - 1e-9)
    return ObjectCounts(matched, int(np.count_nonzero(sizes[1:])), int(np.count_nonzero(sizes_of_label[1:])))


def count_class_objects(
    predicted: np.ndarray, labelled: np.ndarray, num_classes: int, *, min_area: int = 1
) -> list[ObjectCounts]:
    """Match the connected components of each class, of class indices (H, W), to those of a label.

    Returns: the counts of each class; class 0, the background, has no objects.
    """
    counts = [NO_OBJECTS] * num_classes
    for index in np.union1d(predicted, labelled).tolist():
        if index > 0:
            found, truth = label_objects(predicted == index, min_area=min_area), label_objects(labelled == index)
            counts[index] = count_objects(found, truth)
    return counts


def class_metrics(counts: Sequence[ObjectCounts]) -> list[dict[str, float]]:
    """`ObjectCounts.metrics` of each class; NaN for a class without any object."""
    rows = [each.metrics() for each in counts]
    known = [each.predicted + each.labelled > 0 for each in counts]
    return [row if there else dict.fromkeys(row, float("nan")) for row, there in zip(rows, known, strict=True)]


def _matched_ious(
    predicted: np.ndarray, labelled: np.ndarray, sizes: np.ndarray, sizes_of_label: np.ndarray
) -> np.ndarray:
    """The IoU of every pair of objects that share at least half of their union, each object in one pair."""
    both = (predicted > 0) & (labelled > 0)
    width = len(sizes_of_label)
    pairs, shared = np.unique(predicted[both].astype(np.int64) * width + labelled[both], return_counts=True)
    first, second = pairs // width, pairs % width
    ious = shared / (sizes[first] + sizes_of_label[second] - shared)
    keep = ious >= THRESHOLDS[0] - 1e-9
    first, second, ious = first[keep], second[keep], ious[keep]
    _, once = np.unique(first, return_index=True)  # pairs form stars: one of each is left by these two steps
    _, again = np.unique(second[once], return_index=True)
    return ious[once][again]
