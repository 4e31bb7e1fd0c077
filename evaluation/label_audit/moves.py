"""Whole labels that lie some pixels off: found by covariance, where it is beyond chance, and moved back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.labels import IGNORE
from evaluation.scores.bootstrap import (
    MIN_IMAGES,
    bootstrap_counts,
    percentile_interval,
    small_sample_reach,
    student_reach,
)

Labels = Sequence[np.ndarray]

# Fixed on simulated sets, see ``bias.py``.
REACH = 10  # pixels up to which labels are looked for beside their place
MOVE_GAIN = 0.02  # of the covariance with the truth that moving back must win
SURE = 1.4  # times a 95 % interval's reach: several looks at ten images shall rarely be wrong


@dataclass(frozen=True)
class Moved:
    """By how many pixels whole labels lie off their reference, (0, 0) where no move is beyond chance."""

    down: int = 0
    right: int = 0
    low: float = float("nan")
    high: float = float("nan")

    def __bool__(self) -> bool:
        return bool(self.down or self.right)

    def undo(self, label: np.ndarray) -> np.ndarray:
        """The label moved back; what comes in is ignored."""
        back = np.full_like(label, IGNORE)
        height, width = label.shape
        rows = slice(max(-self.down, 0), height - max(self.down, 0))
        columns = slice(max(-self.right, 0), width - max(self.right, 0))
        source_rows = slice(max(self.down, 0), height + min(self.down, 0))
        source_columns = slice(max(self.right, 0), width + min(self.right, 0))
        back[rows, columns] = label[source_rows, source_columns]
        return back


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
    sides = 2 * reach + 1
    places = np.stack(np.divmod(bootstrap_counts(flat, seed, 400).argmax(1), sides), 1) - reach
    lengths = np.hypot(*places.T)
    down, right = (int(value) - reach for value in divmod(best, sides))
    low, high = percentile_interval(lengths, small_sample_reach(len(stack)))
    return Moved(down, right, float(low), float(high))


def as_maps(labels: Labels) -> list[np.ndarray]:
    """Binary labels as float32 maps, NaN where they are ignored."""
    return [np.where(label == IGNORE, np.nan, label == 1).astype(np.float32) for label in labels]
