"""By how many pixels outlines are drawn too wide or too narrow: where the share of labels steps."""

from __future__ import annotations

import numpy as np

from datasets.labels import IGNORE
from evaluation.label_audit.moves import Labels
from evaluation.scores.bootstrap import MIN_IMAGES, bootstrap_counts, percentile_interval, small_sample_reach
from evaluation.scores.confusion import ratio

# Fixed on simulated sets, see ``bias.py``.
OFFSETS = np.arange(-9.75, 10, 0.5)  # pixels by which outlines may be off
MIN_OFFSET = 0.5  # pixels
OFFSET_GAIN = 0.02  # of the variance explained at the true boundary that an offset must win


def _explained(found: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Variance between the two sides of every step, of counts by distance; (…, B) → (…, B − 1)."""
    inside_found, inside = found.cumsum(-1)[..., :-1], total.cumsum(-1)[..., :-1]
    all_found, whole = found.sum(-1)[..., None], total.sum(-1)[..., None]
    outside_found, outside = all_found - inside_found, whole - inside
    means = ratio(inside_found, inside, 0.0), ratio(outside_found, outside, 0.0)
    return ratio(inside * outside, whole**2, 0.0) * (means[0] - means[1]) ** 2


def find_offset(distances: Labels, labels: Labels, seed: int = 0) -> tuple[float, float, float]:
    """By how many pixels labels are wider (> 0) or narrower (< 0) than the truth: where their share steps.

    The share of labels as a function of signed distance is fitted by a step; flips lower the step, missing objects
    too, and neither moves it.

    Args:
        distances: to the true boundary, positive inside, (H, W) each.
    Returns: (offset, low, high); 0 where the step at the boundary is as good; bounds NaN with too few images.
    """
    edges = np.concatenate([[-np.inf], OFFSETS, [np.inf]])
    counts = []
    for distance, label in zip(distances, labels, strict=True):
        known = label != IGNORE
        place = np.searchsorted(edges, -distance[known], side="right") - 1
        total = np.bincount(place, minlength=len(OFFSETS) + 1)
        counts.append([np.bincount(place, label[known] == 1, len(OFFSETS) + 1), total])
    table = np.array(counts)
    pooled = _explained(*table.sum(0))
    at_truth = pooled[np.abs(OFFSETS) < MIN_OFFSET].max()
    best = float(_best_step(pooled))
    if abs(best) < MIN_OFFSET or pooled.max() - at_truth < OFFSET_GAIN * pooled.max():
        return 0.0, float("nan"), float("nan")
    if len(table) < MIN_IMAGES:
        return best, float("nan"), float("nan")
    resampled = bootstrap_counts(table, seed, 400)
    found = _best_step(_explained(resampled[:, 0], resampled[:, 1]))
    low, high = (float(bound) for bound in percentile_interval(found, small_sample_reach(len(table))))
    return (0.0 if low <= 0 <= high else best), low, high


def _best_step(explained: np.ndarray) -> np.ndarray:
    """The offset that explains most, the mean of equal ones; (…, B) → (…)."""
    equal = explained >= explained.max(-1, keepdims=True) - 1e-9
    return (equal * OFFSETS).sum(-1) / equal.sum(-1)
