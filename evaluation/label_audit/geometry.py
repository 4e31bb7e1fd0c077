"""How labels lie beside the truth, and whether that is beyond chance: moved as a whole, or outlines drawn off it.

Moves are found by covariance, offsets of outlines by the distance at which the share of labels steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.labels import IGNORE
from datasets.noise_steps import move
from evaluation.scores.bootstrap import MIN_IMAGES, counts_interval, student_reach
from evaluation.scores.confusion import ratio

Labels = Sequence[np.ndarray]

# Fixed on simulated sets, see ``bias.py``.
REACH = 10  # pixels up to which labels are looked for beside their place
MOVE_GAIN = 0.02  # of the covariance with the truth that moving back must win
SURE = 1.4  # times a 95 % interval's reach: several looks at ten images shall rarely be wrong
OFFSETS = np.arange(-9.75, 10, 0.5)  # pixels by which outlines may be off
MIN_OFFSET = 0.5  # pixels
OFFSET_GAIN = 0.02  # of the variance explained at the true boundary that an offset must win


@dataclass(frozen=True)
class Moved:
    """By how many pixels whole labels lie off their reference, (0, 0) where no move is beyond chance."""

    down: int = 0
    right: int = 0
    low: float = float("nan")
    high: float = float("nan")

    def __bool__(self) -> bool:
        return bool(self.down or self.right)

    @property
    def length(self) -> float:
        """Of the move, pixels."""
        return float(np.hypot(self.down, self.right))

    def undo(self, label: np.ndarray) -> np.ndarray:
        """The label moved back; what comes in is ignored."""
        return move(label, -self.down, -self.right, num_classes=2)


def centred(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Values less their mean where they are known, 0 elsewhere; float32."""
    return np.where(known, values - values[known].mean() if known.any() else 0, 0).astype(np.float32)


def shift_covariances(first: np.ndarray, second: np.ndarray, reach: int = REACH) -> np.ndarray:
    """Σ first(x) · second(x + d) of two centred maps (H, W) for |d| ≤ reach; float64 (2·reach + 1, 2·reach + 1)."""
    shape = [cv2.getOptimalDFTSize(size + reach) for size in first.shape]
    product = np.conj(np.fft.rfft2(first, shape)) * np.fft.rfft2(second, shape)
    full = np.fft.irfft2(product, shape)
    around = np.arange(-reach, reach + 1)
    return full[np.ix_(around, around)]


def find_move(firsts: Labels, seconds: Labels, seed: int = 0) -> Moved:
    """By how much the second maps lie off the first: the best covariance, where beyond chance.

    Args:
        firsts, seconds: maps in which NaN counts nowhere, (H, W) each, such as truths and labels.
    """
    tables = []
    for first, second in zip(firsts, seconds, strict=True):
        known = np.isfinite(first) & np.isfinite(second)
        tables.append(shift_covariances(centred(first, known), centred(second, known)))
    return best_move(np.stack(tables), seed)


def best_move(stack: np.ndarray, seed: int = 0) -> Moved:
    """The shift of the largest pooled covariance, (0, 0) where it is not beyond chance.

    Args:
        stack: covariances of each image by shift down and right, from −r to r, (n, 2·r + 1, 2·r + 1).
    """
    reach = stack.shape[1] // 2
    flat = stack.reshape(len(stack), -1)
    best, middle = int(flat.sum(0).argmax()), flat.shape[1] // 2
    if best == middle or len(stack) < MIN_IMAGES:
        return Moved()
    gains = flat[:, best] - flat[:, middle]
    error = gains.std(ddof=1) * np.sqrt(len(gains))
    if gains.sum() < MOVE_GAIN * flat[:, best].sum() or gains.sum() < SURE * student_reach(len(gains)) * error:
        return Moved()

    def place(sums: np.ndarray) -> np.ndarray:
        return np.stack(np.divmod(sums.argmax(-1), 2 * reach + 1)) - reach

    bounds = counts_interval(lambda sums: np.hypot(*place(sums)), flat, seed, 400)
    return Moved(*place(flat.sum(0)).tolist(), *bounds)


def as_maps(labels: Labels) -> list[np.ndarray]:
    """Binary labels as float32 maps, NaN where they are ignored."""
    return [np.where(label == IGNORE, np.nan, label == 1).astype(np.float32) for label in labels]


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
    low, high = counts_interval(lambda sums: _best_step(_explained(sums[:, 0], sums[:, 1])), table, seed, 400)
    return (0.0 if low <= 0 <= high else best), low, high


def _best_step(explained: np.ndarray) -> np.ndarray:
    """The offset that explains most, the mean of equal ones; (…, B) → (…)."""
    equal = explained >= explained.max(-1, keepdims=True) - 1e-9
    return (equal * OFFSETS).sum(-1) / equal.sum(-1)
