"""The steps of label noise as pure functions of a label: vectorised, with randomness handed in.

Every function takes a label, uint8 (H, W) of class indices with `IGNORE` where no pixel counts, and returns a new one.
Ignored pixels stay ignored, are in no share, and neither erode nor grow anything. Steps that work on shapes treat each
class ≠ 0 by itself, in index order, the higher on top; with two classes that is the foreground.

Source: label types of Luo et al., AAAI-22; wobble, missing, merge and polygon are the errors of hurried annotators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from datasets.labels import IGNORE

WIDTHS_BEYOND = 5  # wobble: a Gaussian ends this many widths from its middle
MANY_OBJECTS = 64  # skeleton: above, objects are not worth a call each

MaskOperator = Callable[[np.ndarray], np.ndarray]


def clean(label: np.ndarray) -> np.ndarray:
    """Nothing happens."""
    return label.copy()


def sample(label: np.ndarray, share: float, *, unlabelled: str = "background", rng: np.random.Generator) -> np.ndarray:
    """Keep an exact share of the pixels, drawn without replacement.

    Args:
        share: in [0, 1]; of n pixels `share_count` (share, n) are kept.
        unlabelled: ``background``: of each class ≠ 0 the share is kept and the rest becomes 0. ``ignore``: of every
            class the share is kept and the rest is ignored.
    """
    rest = IGNORE if unlabelled == "ignore" else 0
    noisy = np.full(label.shape, rest, np.uint8)
    for value, positions in _pixels_by_class(label, lowest=0 if unlabelled == "ignore" else 1):
        kept = rng.choice(positions, share_count(share, positions.size), replace=False)
        noisy.reshape(-1)[kept] = value
    return _keep_ignored(noisy, label)


def flip(
    label: np.ndarray,
    foreground_share: float,
    background_share: float | None = None,
    *,
    num_classes: int = 1,
    rng: np.random.Generator,
) -> np.ndarray:
    """Move an exact share of every class evenly to the other classes, drawn without replacement.

    Of the m pixels that a class of K gives away, each other class gets m // (K−1); the m mod (K−1) left over go one
    each to different classes drawn at random, so that small classes leave no bias.

    Args:
        foreground_share: in [0, 1], of each class ≠ 0.
        background_share: of class 0; None is the same share.
        num_classes: 1 (binary) or K.
    """
    classes = max(num_classes, 2)
    background_share = foreground_share if background_share is None else background_share
    noisy = label.copy()
    for value, positions in _pixels_by_class(label):
        moved = share_count(foreground_share if value else background_share, positions.size)
        others = np.delete(np.arange(classes), value)
        each, left = divmod(moved, classes - 1)
        counts = np.full(classes - 1, each)
        counts[rng.choice(classes - 1, left, replace=False)] += 1
        noisy.reshape(-1)[rng.choice(positions, moved, replace=False)] = np.repeat(others, counts)
    return noisy


def random_label(label: np.ndarray, share: float, *, num_classes: int = 1, rng: np.random.Generator) -> np.ndarray:
    """Independent pixels: foreground with probability ``share``, each class ≠ 0 equally likely; no exact share."""
    classes = max(num_classes, 2)
    draws = rng.random(label.shape)
    noisy = (draws < share).astype(np.uint8)
    if classes > 2 and share > 0:
        parts = np.minimum(draws * ((classes - 1) / share), classes - 2).astype(np.uint8)  # 0…K−2 where foreground
        noisy *= parts + np.uint8(1)
    return _keep_ignored(noisy, label)


def apply_matrix(label: np.ndarray, matrix: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Move pixels between classes so that the realised transition matrix is ``matrix``, as exactly as n pixels can.

    Args:
        matrix: (K, K), row j the shares in which class j is spread, summing to 1. Counts are rounded by the largest
            remainder (see `largest_remainder`).
    """
    noisy = label.copy()
    for value, positions in _pixels_by_class(label):
        counts = largest_remainder(matrix[value], positions.size)
        counts[value] = 0
        moved = rng.choice(positions, counts.sum(), replace=False)
        noisy.reshape(-1)[moved] = np.repeat(np.arange(len(counts)), counts)
    return noisy


def dilate(label: np.ndarray, side: int) -> np.ndarray:
    """Grow every class ≠ 0 by a square kernel of odd ``side``; ignored pixels grow nothing."""
    import cv2

    return _paint_classes(label, lambda mask: _square(cv2.dilate, mask, side, side // 2))


def erode(label: np.ndarray, side: int) -> np.ndarray:
    """Shrink every class ≠ 0 by a square kernel of odd ``side``; neither the outside nor ignored pixels erode."""
    import cv2

    ignored = (label == IGNORE).astype(np.uint8)
    return _paint_classes(label, lambda mask: _square(cv2.erode, mask | ignored, side, side // 2))


def skeleton(label: np.ndarray) -> np.ndarray:
    """Thin every class ≠ 0 to one pixel width.

    Source: ``skimage.morphology.skeletonize``, Zhang and Suen, Communications of the ACM 27, 1984. Objects do not
    influence one another: where their bounding boxes cover less than half of the image they are thinned one by one,
    with the same result in less time.
    """
    return _paint_classes(label, _skeleton)


def shift(label: np.ndarray, reach: int, *, rng: np.random.Generator) -> np.ndarray:
    """Scatter every foreground pixel by up to ±``reach`` in x and y, each uniform; clamped, collisions merge."""
    height, width = label.shape
    known = _without_ignored(label)
    foreground = known > 0
    short = np.int16 if max(label.shape) + reach <= np.iinfo(np.int16).max else np.int32  # small arrays are faster
    places = rng.integers(-reach, reach + 1, (2, np.count_nonzero(foreground)), short)
    places[0] += np.broadcast_to(np.arange(height, dtype=short)[:, None], label.shape)[foreground]
    places[1] += np.broadcast_to(np.arange(width, dtype=short), label.shape)[foreground]
    targets = places[0].clip(0, height - 1).astype(np.intp) * width + places[1].clip(0, width - 1)
    values, classes = known[foreground], _classes(known, lowest=1)
    noisy = np.zeros(label.shape, np.uint8)
    for value in classes:
        noisy.reshape(-1)[targets if len(classes) == 1 else targets[values == value]] = value
    return _keep_ignored(noisy, label)


def wobble(label: np.ndarray, amplitude: float, length: float, *, rng: np.random.Generator) -> np.ndarray:
    """Displace contours by a smooth random field (see `smooth_displacement`): each pixel shows the class found there.

    Args:
        amplitude: standard deviation of the displacement along y and along x, pixels.
        length: correlation length, pixels: at a distance d the displacements correlate by exp(−d² / 2·length²).

    The nearest pixel is taken, at the border the nearest one inside; a pixel that would show an ignored one keeps its
    class.
    """
    width, places = label.shape[1], []
    for axis, size in enumerate(label.shape):
        field = amplitude * smooth_displacement(label.shape, length, rng)
        field += np.arange(size).reshape((-1, 1) if axis == 0 else (1, -1))
        places.append(np.clip(np.rint(field), 0, size - 1).astype(np.intp))
    noisy = label.ravel()[places[0] * width + places[1]]
    ignored_source = noisy == IGNORE
    noisy[ignored_source] = label[ignored_source]
    return _keep_ignored(noisy, label)


def smooth_displacement(shape: tuple[int, int], length: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field of standard deviation 1 at every pixel, float32 of ``shape``.

    White noise on a lattice, filtered by a Gaussian of standard deviation s = length / √2: its autocorrelation is
    Gaussian of standard deviation ``length``. A lattice of spacing s (at least a pixel) suffices: its correlations are
    those of a finer one to about 1e-4, and the deviation is made exact at every pixel.
    """
    along_y, along_x = (_lattice_filter(size, length / np.sqrt(2)) for size in shape)
    noise = rng.standard_normal((along_y.shape[1], along_x.shape[1]), np.float32)
    return (along_x @ (along_y @ noise).T).T


def missing(label: np.ndarray, share: float, *, rng: np.random.Generator) -> np.ndarray:
    """Drop an exact share of the 8-connected objects: `share_count` (share, n) of the n objects of each class ≠ 0."""
    import cv2

    def drop(mask: np.ndarray) -> np.ndarray:
        count, objects = cv2.connectedComponents(mask, connectivity=8)
        kept = np.ones(count, np.uint8)
        kept[0] = 0
        kept[1 + rng.choice(count - 1, share_count(share, count - 1), replace=False)] = 0
        return kept[objects]

    return _paint_classes(label, drop)


def merge(label: np.ndarray, gap: int) -> np.ndarray:
    """Close gaps of up to ``gap`` pixels: a morphological closing by a square of side ``gap`` + 1.

    Nothing is taken away, and a gap between an object and the border of the image is none.
    """
    import cv2

    gap = min(gap, max(label.shape))

    def close(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, gap)
        grown = _square(cv2.dilate, padded, gap + 1, gap // 2)
        return _square(cv2.erode, grown, gap + 1, gap - gap // 2)[gap : gap + mask.shape[0], gap : gap + mask.shape[1]]

    return _paint_classes(label, close)


def polygon(label: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify outlines, of objects and of their holes, to polygons within ``tolerance`` pixels.

    Source: ``cv2.approxPolyDP`` (Douglas and Peucker, 1973) on the contours of 8-connected objects.
    """
    return _paint_classes(label, lambda mask: _polygons(mask, tolerance))


def offset(label: np.ndarray, reach: float) -> np.ndarray:
    """Widen (``reach`` > 0) or narrow (< 0) every class ≠ 0 by ``reach`` pixels, in fractions of one where need be.

    The mask is the level set {s ≤ 0} of its `signed_distance` s; the new one is {s ≤ ``reach``}. Neither the outside
    of the image nor ignored pixels narrow anything.
    """
    ignored = (label == IGNORE).view(np.uint8)
    return _paint_classes(label, lambda mask: signed_distance(mask, ignored) <= reach)


def signed_distance(mask: np.ndarray, ignored: np.ndarray | None = None) -> np.ndarray:
    """Distance to the boundary of a mask, pixels: ≥ 0.5 outside of it, ≤ −0.5 inside, ±inf without boundary.

    The boundary runs half way between the centres of neighbouring pixels.

    Args:
        mask: uint8 0/1 (H, W).
        ignored: 1 where no label is known; inside the mask these places are no boundary.
    Returns: float32 (H, W).
    """
    outside = _distance_to_zero(1 - mask) - np.float32(0.5)
    inside = _distance_to_zero(mask if ignored is None else mask | ignored) - np.float32(0.5)
    return np.where(mask > 0, -inside, outside)


def move(label: np.ndarray, down: int, right: int, *, num_classes: int = 1) -> np.ndarray:
    """Move the whole label, ignored pixels with it, by ``down`` and ``right`` pixels (< 0: up and left).

    What comes in is background, or ignored where labels know ignored pixels: with several classes, and in binary
    labels that have some.
    """
    has_ignored = num_classes > 1 or bool((label == IGNORE).any())
    moved = np.full(label.shape, IGNORE if has_ignored else 0, np.uint8)
    (to_rows, from_rows), (to_columns, from_columns) = map(_moved_slices, (down, right), label.shape)
    moved[to_rows, to_columns] = label[from_rows, from_columns]
    return moved


def share_count(share: float, total: int) -> int:
    """How many of ``total`` an exact share is: floor(share · total + 0.5)."""
    return int(np.floor(share * total + 0.5))


def largest_remainder(shares: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """Whole numbers (K,) that add up to ``total`` and differ from ``shares`` · ``total`` by less than one each.

    What rounding down leaves over goes to the largest remainders, of equal ones to the lower index.
    """
    exact = np.asarray(shares, float) * total
    counts = np.floor(exact + 1e-9).astype(np.int64)  # 0.3 · 10 is 3, not 2.9999…
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts


def _classes(label: np.ndarray, lowest: int) -> list[int]:
    """The classes present, from ``lowest`` up, in index order."""
    highest = int((label + np.uint8(1)).max()) - 1  # IGNORE wraps round to 0
    return [value for value in range(lowest, highest + 1) if (label == value).any()]


def _pixels_by_class(label: np.ndarray, lowest: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Each class present from ``lowest`` up, with the flat positions of its pixels."""
    for value in _classes(label, lowest):
        yield value, np.flatnonzero(label == value)


def _without_ignored(label: np.ndarray) -> np.ndarray:
    return np.where(label == IGNORE, np.uint8(0), label)


def _keep_ignored(noisy: np.ndarray, label: np.ndarray) -> np.ndarray:
    noisy[label == IGNORE] = IGNORE
    return noisy


def _paint_classes(label: np.ndarray, operator: MaskOperator) -> np.ndarray:
    """What ``operator`` makes of the mask (uint8 0/1) of each class ≠ 0, painted in index order on background."""
    noisy = np.zeros(label.shape, np.uint8)
    for value in _classes(label, lowest=1):
        np.copyto(noisy, np.uint8(value), where=operator((label == value).view(np.uint8)).astype(bool))
    return _keep_ignored(noisy, label)


def _square(operator: Callable[..., np.ndarray], mask: np.ndarray, side: int, anchor: int) -> np.ndarray:
    """``cv2.dilate`` or ``cv2.erode`` by a square, a row and a column at a time; the outside has no influence."""
    reach = max(mask.shape)
    if side > 2 * reach + 1:  # the whole image either way
        side, anchor = 2 * reach + 1, reach
    across = operator(mask, np.ones((1, side), np.uint8), anchor=(anchor, 0))
    return operator(across, np.ones((side, 1), np.uint8), anchor=(0, anchor))


def _skeleton(mask: np.ndarray) -> np.ndarray:
    import cv2
    from skimage.morphology import skeletonize

    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = [cv2.boundingRect(outline) for outline in outlines]
    if len(boxes) > MANY_OBJECTS or 2 * sum(width * height for _, _, width, height in boxes) > mask.size:
        return skeletonize(mask.view(bool))
    thinned = np.zeros(mask.shape, bool)
    for outline, (left, top, width, height) in zip(outlines, boxes, strict=True):
        place = slice(top, top + height), slice(left, left + width)
        inside = cv2.fillPoly(np.zeros((height, width), np.uint8), [outline], 1, offset=(-left, -top))
        thinned[place] |= skeletonize((inside & mask[place]).view(bool))
    return thinned


def _distance_to_zero(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the nearest zero, float32 (H, W); infinite where there is none."""
    import cv2

    if mask.all():
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _moved_slices(step: int, size: int) -> tuple[slice, slice]:
    """Where an axis of ``size`` pixels goes, and comes from, when it moves by ``step``."""
    step = max(-size, min(step, size))
    return slice(max(step, 0), size + min(step, 0)), slice(max(-step, 0), size - max(step, 0))


def _lattice_filter(size: int, width: float) -> Any:
    """Sparse weights (size, nodes) of lattice nodes for each pixel, Gaussian in the distance, rows of length 1."""
    from scipy.sparse import csr_array

    spacing = max(1.0, width)
    beyond = int(np.ceil(WIDTHS_BEYOND * width / spacing))
    near = np.rint(np.arange(size) / spacing).astype(int)[:, None] + np.arange(2 * beyond + 1)
    weights = np.exp(-((np.arange(size)[:, None] - (near - beyond) * spacing) ** 2) / (2 * width**2))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    ends = np.arange(size + 1) * (2 * beyond + 1)
    return csr_array((weights.astype(np.float32).ravel(), near.ravel(), ends), (size, int(near.max()) + 1))


def _polygons(mask: np.ndarray, tolerance: float) -> np.ndarray:
    import cv2

    outlines, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    simplified = [cv2.approxPolyDP(outline, tolerance, closed=True) for outline in outlines]
    objects: dict[int, list[np.ndarray]] = {}
    for number, (_, _, _, parent) in enumerate(hierarchy[0]):
        objects.setdefault(number if parent < 0 else int(parent), []).append(simplified[number])
    drawn = np.zeros_like(mask)
    for outer_and_holes in objects.values():  # object by object: where simplified outlines overlap, both are drawn
        cv2.fillPoly(drawn, outer_and_holes, 1)
    return drawn
