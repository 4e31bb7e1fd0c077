"""How outlines are drawn beside the truth, and whether that is beyond chance: wider, narrower, smoother, uneven.

Offsets of outlines are found by the distance at which the share of labels steps.
"""

from __future__ import annotations

import cv2
import numpy as np

from datasets.labels import IGNORE
from evaluation.label_audit.bias import FARTHEST
from evaluation.label_audit.by_distance import DISTANCE_EDGES, inward_distance, local_density
from evaluation.label_audit.moves import NEAR, SURE, Labels, as_maps
from evaluation.scores import ratio
from evaluation.scores.bootstrap import MIN_IMAGES, bootstrap_mean, counts_interval, student_reach

# Fixed on simulated sets, see ``bias_search.py``.
OFFSET_STEP = 0.5
OFFSETS = np.arange(-FARTHEST + OFFSET_STEP / 2, FARTHEST, OFFSET_STEP)  # pixels by which outlines may be off
MIN_OFFSET = 0.5  # pixels
MIN_EXPLAINED = 0.05  # part of the label errors' variance that distance, image or place must explain
MIN_TOLD = 0.2  # of the variance of local density, that the distance must explain for labels to be called wider
ONE_SIDED = 0.4  # error rate on the other side of the outline, as a part of that on its own, of labels that are off it
LEAST_PIXELS = 0.05  # of a side of the outline, that the rate at a distance is told from
CURVATURE_SIGMA = 3.0  # pixels, of the outline's surroundings
MIN_CURVED = 0.1  # difference of label rates between concave and convex boundary that counts
OFFSET_GAIN = 0.02  # of the variance explained at the true boundary that an offset must win
LEAST_OF_ONE = 1.0  # pixels by which the outlines of a single label must be off
LEAST_ODD = 2, 0.15  # number, and part, of labels whose outlines are off, that are told
MOST_ON_TRUTH = 0.25  # part of the labels that may lie on the true boundary, where all are said to be off it
CHANCE = 20.0  # that unrelated pixels hardly reach: what an offset wins, in χ²
LAGS = 8  # pixels up to which labels are held against themselves


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

    Wide labels must also be wide by themselves: thin structures that lie off step beside their outlines, too.

    Args:
        distances: to the true boundary, positive inside, (H, W) each.
    Returns: (offset, low, high); 0 where the step at the boundary is as good. On the grid of pixels neighbouring steps
        part the same pixels, so bounds reach half a step further, at most to FARTHEST; NaN with too few images.
    """
    table = np.array([_count_by_distance(*pair) for pair in zip(distances, labels, strict=True)])
    best, none = _step(distances, labels, table.sum(0)), (0.0, float("nan"), float("nan"))
    if not best or _is_of_some(table, best):
        return none

    def steps(sums: np.ndarray) -> np.ndarray:
        return _best_steps(_explained(sums[:, 0], sums[:, 1]))

    low = counts_interval(lambda sums: steps(sums)[0], table, seed, 400)[0] - OFFSET_STEP / 2
    high = counts_interval(lambda sums: steps(sums)[1], table, seed, 400)[1] + OFFSET_STEP / 2
    return (0.0 if low <= 0 <= high else best), low, high


def _is_of_some(table: np.ndarray, offset: float) -> bool:
    """Whether more labels than a few lie on the true boundary, rather than at an offset that most have.

    Args:
        table: of `_count_by_distance` of each image, (n, 4, B).
    """
    explained = _explained(table[:, 0], table[:, 1])[table[:, 0].sum(1) > 0]
    at_truth = explained[:, np.abs(OFFSETS) < MIN_OFFSET].max(1)
    lost = at_truth - explained[:, np.abs(OFFSETS - offset) < MIN_OFFSET].max(1)
    return float((lost > OFFSET_GAIN * explained.max(1)).mean()) > MOST_ON_TRUTH


def _count_by_distance(distance: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Labels, pixels, and summed local density of labels and its square, by signed distance, (4, B)."""
    edges = np.concatenate([[-np.inf], OFFSETS, [np.inf]])
    known = label != IGNORE
    place = np.searchsorted(edges, -distance[known], side="right") - 1
    density = np.nan_to_num(local_density(label))[known]
    weights = (label[known] == 1, None, density, density**2)
    return np.array([np.bincount(place, weight, len(OFFSETS) + 1) for weight in weights], float)


def _step(distances: Labels, labels: Labels, counts: np.ndarray) -> float:
    """The offset of labels, counted by distance, (4, B); 0 where the step at the true boundary is as good."""
    explained = _explained(*counts[:2])
    at_truth = explained[np.abs(OFFSETS) < MIN_OFFSET].max()
    best = float(_best_steps(explained).mean(0))
    gain, (found, pixels) = explained.max() - at_truth, counts[:2].sum(1)
    if abs(best) < MIN_OFFSET or gain < OFFSET_GAIN * explained.max():
        return 0.0
    if gain * pixels < CHANCE * ratio(found * (pixels - found), pixels**2, 0.0):
        return 0.0
    if (best > 0 and _told_by_distance(counts) < MIN_TOLD) or not _is_one_sided(*counts[:2], best):
        return 0.0
    return best if best < 0 or _look_wide(distances, labels, best) else 0.0


def offsets_of_some(distances: Labels, labels: Labels, seed: int = 0) -> list[tuple[str, float, float, float]]:
    """Outlines that are wider, or narrower, in some labels alone, each found in its own image.

    Args:
        distances: to the true boundary, positive inside, (H, W) each.
    Returns: (what, mean size in these, low, high) of either side of which there are several.
    """
    counts = [_count_by_distance(*pair) for pair in zip(distances, labels, strict=True)]
    steps = np.array([_step([d], [label], own) for d, label, own in zip(distances, labels, counts, strict=True)])
    found = []
    for side, what in ((1, "wider"), (-1, "narrower")):
        own = side * steps[side * steps >= LEAST_OF_ONE]
        if len(own) >= max(LEAST_ODD[0], LEAST_ODD[1] * len(labels)):
            size = bootstrap_mean(own, limits=(0.0, FARTHEST), seed=seed)
            found.append((f"outlines of {len(own)} of {len(labels)} labels {what}", *size))
    return found


def _look_wide(distances: Labels, labels: Labels, offset: float) -> bool:
    """Whether labels are, wherever they lie, more alike to the truth widened by an offset than to the truth."""
    drawn, true, wide = (
        _self_covariance(maps)
        for maps in (
            as_maps(labels),
            [np.where(distance == 0, np.nan, distance > 0) for distance in distances],
            [np.where(distance == 0, np.nan, distance > -offset) for distance in distances],
        )
    )
    return float(((drawn - wide) ** 2).sum()) < float(((drawn - true) ** 2).sum())


def _self_covariance(maps: Labels) -> np.ndarray:
    """Covariance of maps with themselves at 2 … LAGS pixels along rows and columns, as parts of that at 1 pixel.

    Errors that are independent from pixel to pixel scale all of them alike.

    Args:
        maps: NaN where they are not known, (H, W) each.
    """
    sums = np.zeros((LAGS, 2))
    for values in maps:
        known = np.isfinite(values)
        centered = np.where(known, values - (values[known].mean() if known.any() else 0), 0)
        for both, own in ((centered, known), (centered.T, known.T)):
            sums += [((both[lag:] * both[:-lag]).sum(), (own[lag:] & own[:-lag]).sum()) for lag in range(1, LAGS + 1)]
    found = ratio(sums[:, 0], sums[:, 1], 0.0)
    return found[1:] / found[0] if found[0] > 0 else np.zeros(LAGS - 1)


def _best_steps(explained: np.ndarray) -> np.ndarray:
    """The least and the largest of the offsets that explain most; (…, B) → (2, …)."""
    equal = explained >= explained.max(-1, keepdims=True) - 1e-9
    return np.stack([np.where(equal, OFFSETS, np.inf).min(-1), np.where(equal, OFFSETS, -np.inf).max(-1)])


def smoother_outlines(truths: Labels, labels: Labels, skipped: Labels) -> tuple[str, float, float, float] | None:
    """Outlines drawn smoother than the truth: labels are set more often where the outline is concave than convex.

    Labels that lie off are set so too, but then the truth lies off the labels no less. The size is the difference of
    label rates, at equal distance, between the upper and the lower third of the foreground's local density.

    Args:
        truths, labels: binary with 255 ignored; skipped: what counts nowhere, bool; (H, W) each.
    Returns: (what, size, low, high).
    """
    known = [
        (truth != IGNORE) & (label != IGNORE) & ~skip
        for truth, label, skip in zip(truths, labels, skipped, strict=True)
    ]
    gaps = _curvature_gaps(truths, labels, known)
    further = gaps - _curvature_gaps(labels, truths, known)
    mean, low, high = _beyond_error(gaps, SURE)
    if mean < MIN_CURVED or _beyond_error(further)[0] < MIN_CURVED / 2:
        return None
    return "smoother", mean, low, high


def _curvature_gaps(outlines: Labels, labels: Labels, known: Labels) -> np.ndarray:
    """How much more often labels are set where outlines are concave than where they are convex, image by image."""
    parts = []
    for outline, label, use in zip(outlines, labels, known, strict=True):
        distance = inward_distance(outline)
        near = use & (np.abs(distance) <= NEAR) & (distance != 0)
        density = cv2.GaussianBlur((outline == 1).astype(np.float32), (0, 0), CURVATURE_SIGMA)
        parts.append((np.floor(distance[near]), density[near], label[near] == 1))
    image = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    step, density, label = (np.concatenate(column) for column in zip(*parts, strict=True))
    rest, side = np.zeros(len(step)), np.zeros(len(step), int)
    for value in np.unique(step):
        here = step == value
        rest[here] = label[here] - label[here].mean()
        side[here] = np.searchsorted(np.quantile(density[here], (1 / 3, 2 / 3)), density[here])
    index = image * 3 + side
    sums, counts = (np.bincount(index, weight, len(parts) * 3).reshape(-1, 3) for weight in (rest, None))
    means = ratio(sums, counts)
    return means[:, 2] - means[:, 0]


def uneven_outlines(table: np.ndarray) -> tuple[str, float, float, float] | None:
    """Errors that depend on the distance to the outline, though no common offset undoes them.

    Some labels are drawn wider, or narrower, than others, or off to either side, or middles were left out, or
    background far from all outlines was marked, as inverted rims do. The size is by how much more of the labels within
    NEAR pixels of the outline are wrong, or of those farther off.

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
    close, far = ratio(*parts[0]), ratio(*parts[1])
    if parts[1][1][:, 1].sum() < LEAST_PIXELS * total[:, 1].sum():
        far[:, 1] = far[:, 0]  # thin structures have nothing farther inside
    gaps = close - far
    outside, inside = (_beyond_error(gaps[:, side]) for side in (0, 1))
    if inside[0] < 0:
        return "middles left out", -inside[0], -inside[2], -inside[1]
    if outside[0] < 0:
        return "background far from outlines marked", -outside[0], -outside[2], -outside[1]
    if max(outside[0], inside[0]) <= 0:
        return None
    what = "some wider" if inside[0] <= 0 else "some narrower" if outside[0] <= 0 else "off to either side"
    return f"outlines {what}", *max(outside, inside)


def _beyond_error(gaps: np.ndarray, sure: float = 1.0) -> tuple[float, float, float]:
    """Mean of a difference of rates over images with its 95 % bounds; 0 where these hold 0, NaN left out.

    Args:
        sure: times the reach that a mean must exceed.
    """
    gaps = gaps[np.isfinite(gaps)]
    if len(gaps) < MIN_IMAGES:
        return 0.0, 0.0, 0.0
    mean, reach = float(gaps.mean()), student_reach(len(gaps)) * float(gaps.std(ddof=1)) / float(np.sqrt(len(gaps)))
    return (mean, mean - reach, mean + reach) if abs(mean) > sure * reach else (0.0, 0.0, 0.0)


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
