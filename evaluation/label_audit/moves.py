"""Labels that lie off the truth as a whole: the move, or turn, of the best covariance, where that is beyond chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.labels import IGNORE
from datasets.noise_steps import move
from evaluation.scores.bootstrap import MIN_IMAGES, counts_interval, student_reach

Labels = Sequence[np.ndarray]

# Fixed on simulated sets, see ``bias_search.py``.
REACH = 10  # pixels up to which parts of labels are looked for beside their place
FAR_REACH = 32  # the same of whole labels, if so much is at most a quarter of an image
NEAR = 3.0  # pixels from an outline that errors at outlines are looked for
SLOPE = 6.0  # pixels from an outline beyond which distances count alike, for a move
MOVE_GAIN = 0.02  # of the covariance with the truth that moving back must win
TURN_GAIN = 2.0  # times the correlation of labels as they are, that turned back they must have
LEAST_TURNED = 0.1  # that it must be at least
MOST_TURNED = 0.6  # of the images must be those that no other turn takes back as well
TURNED_IMAGES, TURNED_SIDE = 20, 512  # that suffice, and pixels along a side of them
SURE = 1.4  # times a 95 % interval's reach: several looks at ten images shall rarely be wrong


# What may have been done to labels on their way, and what takes it back, (…, H, W).
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored left to right": lambda label: label[..., ::-1],
    "mirrored top to bottom": lambda label: label[..., ::-1, :],
    "turned by 180°": lambda label: label[..., ::-1, ::-1],
    "transposed (rows and columns exchanged)": lambda label: label.swapaxes(-2, -1),
    "turned by 90° to the left": lambda label: np.rot90(label, -1, (-2, -1)),
    "turned by 90° to the right": lambda label: np.rot90(label, 1, (-2, -1)),
    "transposed and turned by 180°": lambda label: label[..., ::-1, ::-1].swapaxes(-2, -1),
}


@dataclass(frozen=True)
class Turned:
    """Labels that were mirrored or turned alike in all images.

    Args:
        what: one of TURNS.
        before, after: their correlation with what they show, and the same once that is taken back.
    """

    what: str
    before: float
    after: float


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

    def at(self, down: int, right: int) -> Moved:
        """The same, found more exactly; what bounds there are reach as far."""
        length = float(np.hypot(down, right))
        return Moved(down, right, float(np.minimum(self.low, length)), float(np.maximum(self.high, length)))

    def undo(self, label: np.ndarray) -> np.ndarray:
        """The label moved back; what comes in is ignored."""
        return move(label, -self.down, -self.right, num_classes=2)


def shift_covariances(truth: np.ndarray, label: np.ndarray, reach: int = REACH) -> np.ndarray:
    """How much of the label lies on the truth, moved back by d: Σ (truth(x) − a) · (label(x + d) − b), |d| ≤ reach.

    a is the truth's mean, b the label's outside the truth: how much background the border cuts off does not matter.

    Args:
        truth: higher inside, such as `outline_map`; label: 0 to 1; NaN where they are not known, (H, W) each.
    Returns: float64 (2·reach + 1, 2·reach + 1), as a part of the largest possible.
    """
    known = np.isfinite(truth) & np.isfinite(label)
    around = np.arange(-reach, reach + 1)
    middle = truth[known].mean() if known.any() else 0.0
    outside = known & (truth < middle)
    level = label[outside].mean() if outside.any() else 0.0
    maps = np.where(known, truth - middle, 0), np.where(known, label - level, 0)
    shape = [cv2.getOptimalDFTSize(size + reach) for size in truth.shape]
    spectra = [np.fft.rfft2(item, shape) for item in maps]
    found = np.fft.irfft2(np.conj(spectra[0]) * spectra[1], shape)[np.ix_(around, around)]
    return found / max(float(np.sqrt((maps[0] ** 2).sum() * (maps[1] ** 2).sum())), 1e-9)


def find_move(firsts: Labels, seconds: Labels, seed: int = 0) -> Moved:
    """By how much the second maps lie off the first: the best covariance, where beyond chance.

    Args:
        firsts, seconds: maps in which NaN counts nowhere, (H, W) each, such as `outline_map` of truths, and labels.
    """
    reach = far_reach(firsts)
    tables = [shift_covariances(*pair, reach) for pair in zip(firsts, seconds, strict=True)]
    return best_move(np.stack(tables), seed)


def far_reach(labels: Labels) -> int:
    """Pixels up to which labels, (H, W) each, are looked for beside their place."""
    return max(REACH, min(FAR_REACH, *(min(label.shape) // 4 for label in labels)))


def best_move(stack: np.ndarray, seed: int = 0) -> Moved:
    """The shift of the largest pooled covariance, (0, 0) where it is not beyond chance.

    Args:
        stack: covariances of each image by shift down and right, from −r to r, (n, 2·r + 1, 2·r + 1).
    """
    reach = stack.shape[1] // 2
    flat = stack.reshape(len(stack), -1)
    best, middle = int(flat.sum(0).argmax()), flat.shape[1] // 2
    if best == middle or len(stack) < MIN_IMAGES or not flat[:, best].sum() > 0:
        return Moved()
    pooled = flat.sum(0)
    gains = [own[(pooled - own).argmax()] - own[middle] for own in flat]  # by what the other images chose
    if not is_gain_beyond_chance(np.array(gains), float(pooled[best])):
        return Moved()

    def length(sums: np.ndarray) -> np.ndarray:
        return np.hypot(*np.moveaxis(best_shifts(sums, reach), -1, 0))

    return Moved(*best_shifts(flat.sum(0), reach).tolist(), *counts_interval(length, flat, seed, 400))


def possible_turns(labels: Labels) -> list[str]:
    """Those of TURNS that leave the labels' shapes, (H, W) each, as they are."""
    shapes = {label.shape for label in labels}
    return [what for what, undo in TURNS.items() if all(undo(np.empty(shape)).shape == shape for shape in shapes)]


def best_turn(table: np.ndarray, undone: Sequence[str]) -> Turned | None:
    """What the correlations of images with labels as they are, and undone, (n, 1 + undone), show beyond chance."""
    known = table[np.isfinite(table).all(1) & table.any(1)]  # labels of one class tell nothing
    if len(known) < MIN_IMAGES:
        return None
    means = known.mean(0)
    best = int(means.argmax())
    least = max(LEAST_TURNED, TURN_GAIN * abs(means[0]))
    if min(means[best], np.median(known[:, best])) < least:  # also where nothing is better, or for few images alone
        return None
    if not is_gain_beyond_chance(known[:, best] - known[:, 0], float(known[:, best].sum())):
        return None
    if (known[:, best] >= known.max(1)).mean() < MOST_TURNED:
        return None
    return Turned(undone[best - 1], float(means[0]), float(means[best]))


def is_gain_beyond_chance(gains: np.ndarray, largest: float) -> bool:
    """Whether covariances that images gain by a shift, (n,), are a part of the largest and no chance."""
    error = gains.std(ddof=1) * np.sqrt(len(gains))
    return bool(gains.sum() > max(MOVE_GAIN * largest, SURE * student_reach(len(gains)) * error))


def best_shifts(tables: np.ndarray, reach: int = REACH) -> np.ndarray:
    """The shift down and right, from −reach to reach, of the largest of flat covariances; (…, shifts) → (…, 2)."""
    return np.stack(np.divmod(tables.argmax(-1), 2 * reach + 1), -1) - reach


def as_maps(labels: Labels) -> list[np.ndarray]:
    """Binary labels as float32 maps, NaN where they are ignored."""
    return [np.where(label == IGNORE, np.nan, label == 1).astype(np.float32) for label in labels]


def outline_map(distance: np.ndarray) -> np.ndarray:
    """What tells where a truth lies, for labels of any width: its sides, and up to SLOPE pixels the distance; float32.

    Of the sides alone a wide label covers the same after many a move.

    Args:
        distance: signed, to the true boundary, positive inside, 0 where the truth is not known, (H, W).
    """
    known = np.where(distance == 0, np.nan, distance)
    return (np.sign(known) + np.clip(known, -SLOPE, SLOPE) / SLOPE).astype(np.float32)
