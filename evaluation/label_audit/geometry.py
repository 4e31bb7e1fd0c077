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
from evaluation.label_audit.by_distance import DISTANCE_EDGES, local_density
from evaluation.scores.bootstrap import MIN_IMAGES, counts_interval, student_reach
from evaluation.scores.confusion import ratio

Labels = Sequence[np.ndarray]

# Fixed on simulated sets, see ``bias.py``.
REACH = 10  # pixels up to which labels are looked for beside their place
NEAR = 3.0  # pixels from an outline that errors at outlines are looked for
SLOPE = 6.0  # pixels from an outline beyond which distances count alike, for a move
MOVE_GAIN = 0.02  # of the covariance with the truth that moving back must win
SURE = 1.4  # times a 95 % interval's reach: several looks at ten images shall rarely be wrong
OFFSET_STEP = 0.5
OFFSETS = np.arange(-9.75, 10, OFFSET_STEP)  # pixels by which outlines may be off
FARTHEST = float(OFFSETS[-1] + OFFSET_STEP / 2)
MIN_OFFSET = 0.5  # pixels
MIN_EXPLAINED = 0.05  # part of the label errors' variance that distance, image or place must explain
MIN_TOLD = 0.2  # of the variance of local density, that the distance must explain for labels to be called wider
ONE_SIDED = 0.4  # error rate on the other side of the outline, as a part of that on its own, of labels that are off it
LEAST_PIXELS = 0.05  # of a side of the outline, that the rate at a distance is told from
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
    tables = [shift_covariances(*pair) for pair in zip(firsts, seconds, strict=True)]
    return best_move(np.stack(tables), seed)


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


def outline_map(distance: np.ndarray) -> np.ndarray:
    """What tells where a truth lies, for labels of any width: its sides, and up to SLOPE pixels the distance; float32.

    Of the sides alone a wide label covers the same after many a move.

    Args:
        distance: signed, to the true boundary, positive inside, 0 where the truth is not known, (H, W).
    """
    known = np.where(distance == 0, np.nan, distance)
    return (np.sign(known) + np.clip(known, -SLOPE, SLOPE) / SLOPE).astype(np.float32)


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
    too, and neither moves it. Labels that lie off the truth, each in its own direction, step nowhere: theirs is a slope
    on both sides of the outline, or distance tells little of where they are. They have no offset.

    Args:
        distances: to the true boundary, positive inside, (H, W) each.
    Returns: (offset, low, high); 0 where the step at the boundary is as good. On the grid of pixels neighbouring steps
        part the same pixels, so bounds reach half a step further, at most to FARTHEST; NaN with too few images.
    """
    edges = np.concatenate([[-np.inf], OFFSETS, [np.inf]])
    counts = []
    for distance, label in zip(distances, labels, strict=True):
        known = label != IGNORE
        place = np.searchsorted(edges, -distance[known], side="right") - 1
        density = np.nan_to_num(local_density(label))[known]
        weights = (label[known] == 1, None, density, density**2)
        counts.append([np.bincount(place, weight, len(OFFSETS) + 1) for weight in weights])
    table = np.array(counts)
    pooled = _explained(*table.sum(0)[:2])
    at_truth = pooled[np.abs(OFFSETS) < MIN_OFFSET].max()
    best = float(_best_steps(pooled).mean(0))
    none = 0.0, float("nan"), float("nan")
    if abs(best) < MIN_OFFSET or pooled.max() - at_truth < OFFSET_GAIN * pooled.max():
        return none
    if (best > 0 and _told_by_distance(table.sum(0)) < MIN_TOLD) or not _is_one_sided(*table.sum(0)[:2], best):
        return none

    def steps(sums: np.ndarray) -> np.ndarray:
        return _best_steps(_explained(sums[:, 0], sums[:, 1]))

    low = counts_interval(lambda sums: steps(sums)[0], table, seed, 400)[0] - OFFSET_STEP / 2
    high = counts_interval(lambda sums: steps(sums)[1], table, seed, 400)[1] + OFFSET_STEP / 2
    return (0.0 if low <= 0 <= high else best), low, high


def _best_steps(explained: np.ndarray) -> np.ndarray:
    """The least and the largest of the offsets that explain most; (…, B) → (2, …)."""
    equal = explained >= explained.max(-1, keepdims=True) - 1e-9
    return np.stack([np.where(equal, OFFSETS, np.inf).min(-1), np.where(equal, OFFSETS, -np.inf).max(-1)])


def uneven_outlines(table: np.ndarray) -> tuple[str, float, float, float] | None:
    """Errors that depend on the distance to the outline, though no common offset undoes them.

    Some labels are drawn wider, or narrower, than others, or off to either side, or middles were left out. The size is
    by how much more of the labels within NEAR pixels of the outline are wrong, or of those farther inside.

    Args:
        table: of ``by_distance.location_table``, (n, 2, D, R, 2).
    Returns: (what, size, low, high).
    """
    rows = table.sum(3).astype(float)  # (n, 2, D, 2): true class, distance, label
    total, wrong = rows.sum(-1), np.stack([rows[:, 0, :, 1], rows[:, 1, :, 0]], 1)
    rate, mean = (np.nan_to_num(ratio(wrong.sum(axes), total.sum(axes))) for axes in ((0,), (0, 2)))
    variance = (total.sum((0, 2)) * mean * (1 - mean)).sum()
    told = (total.sum(0) * (rate - mean[:, None]) ** 2).sum()
    if told < MIN_EXPLAINED * max(variance, 1e-6):
        return None
    near = int(np.searchsorted(DISTANCE_EDGES, NEAR))  # bins up to it
    parts = [[count[..., own].sum(-1) for count in (wrong, total)] for own in (slice(near), slice(near, None))]
    gaps = ratio(*parts[0]) - ratio(*parts[1])
    outside, inside = (_beyond_error(gaps[:, side]) for side in (0, 1))
    if inside[0] < 0:
        return "middles left out", -inside[0], -inside[2], -inside[1]
    if max(outside[0], inside[0]) <= 0:
        return None
    what = "some wider" if inside[0] <= 0 else "some narrower" if outside[0] <= 0 else "off to either side"
    return f"outlines {what}", *max(outside, inside)


def _beyond_error(gaps: np.ndarray) -> tuple[float, float, float]:
    """Mean of a difference of rates over images with its 95 % bounds; 0 where these hold 0, NaN left out."""
    gaps = gaps[np.isfinite(gaps)]
    if len(gaps) < MIN_IMAGES:
        return 0.0, 0.0, 0.0
    mean, reach = float(gaps.mean()), student_reach(len(gaps)) * float(gaps.std(ddof=1)) / float(np.sqrt(len(gaps)))
    return (mean, mean - reach, mean + reach) if abs(mean) > reach else (0.0, 0.0, 0.0)


def _told_by_distance(table: np.ndarray) -> float:
    """The part of the variance of labels' local density that the distance explains; density averages out speckle.

    Args:
        table: labels found, pixels, summed density and its square, (4, B).
    """
    _, total, density, square = table
    mean = density.sum() / max(total.sum(), 1)
    between = (ratio(density, total, 0.0) ** 2 * total).sum() - mean**2 * total.sum()
    return float(between / max(square.sum() - mean**2 * total.sum(), 1e-9))


def _is_one_sided(found: np.ndarray, total: np.ndarray, offset: float) -> bool:
    """Whether labels err beyond the outline on the side of an offset, and not as much on the other side of it.

    By how much more of the labels near the outline are wrong on either side than where fewest are.
    """
    middle, reach = len(OFFSETS) // 2 + 1, int(np.ceil(NEAR / OFFSET_STEP))
    sides = []
    for own, wrong in ((slice(middle, None), found), (slice(middle - 1, None, -1), total - found)):
        errors, pixels = wrong[own], total[own]
        rates = ratio(errors, pixels)[pixels > LEAST_PIXELS * pixels.sum()]
        sides.append(ratio(errors[:reach].sum(), pixels[:reach].sum(), 0.0) - min(rates, default=0.0))
    wide, narrow = sides
    return narrow < ONE_SIDED * wide if offset > 0 else wide < ONE_SIDED * narrow
