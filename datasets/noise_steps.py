"""The steps of label noise as pure functions of a label: vectorised, with randomness handed in.

Every function takes a label, uint8 (H, W) of class indices with `IGNORE` where no pixel counts, and returns a new one.
Ignored pixels stay ignored, are in no share, and neither erode nor grow anything. Steps that work on shapes treat each
class ≠ 0 by itself, in index order, the higher on top; with two classes that is the foreground.

Source: label types of Luo et al., AAAI-22; wobble, missing, merge and polygon are the errors of hurried annotators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from datasets.image_io import IGNORE

MIN_NODES_BEYOND = 5  # wobble: Gaussians this many widths outside the image still count
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
    noisy = np.full_like(label, rest)
    for value, positions in _pixels_by_class(label, lowest=0 if unlabelled == "ignore" else 1):
        kept = rng.choice(positions, share_count(share, positions.size), replace=False)
        np.put(noisy, kept, value)
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
        np.put(noisy, rng.choice(positions, moved, replace=False), np.repeat(others, counts))
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
        np.put(noisy, rng.choice(positions, counts.sum(), replace=False), np.repeat(np.arange(len(counts)), counts))
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
    influence one another; where their bounding boxes cover less than half of the image they are thinned one by one,
    with the same result and several times faster.
    """
    return _paint_classes(label, _skeleton)


def shift(label: np.ndarray, reach: int, *, rng: np.random.Generator) -> np.ndarray:
    """Scatter every foreground pixel by up to ±``reach`` in x and y, each uniform; clamped, collisions merge."""
    height, width = label.shape
    known = _without_ignored(label)
    rows, columns = np.nonzero(known)
    offsets = rng.integers(-reach, reach + 1, (2, rows.size), np.int16)
    targets = np.clip(rows + offsets[0], 0, height - 1) * width + np.clip(columns + offsets[1], 0, width - 1)
    values = known[rows, columns]
    noisy = np.zeros_like(label)
    for value in _foreground_classes(known):
        np.put(noisy, targets[values == value], value)
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
    """A smooth random field of standard deviation 1 at every pixel, float64 of ``shape``.

    White noise on a lattice, filtered by a Gaussian of standard deviation s = length / √2: its autocorrelation is
    Gaussian of standard deviation ``length``. A lattice of spacing s (at least a pixel) suffices: the filtered field
    differs from that of a finer one by less than 1e-4 of its variance, which is made exact at every pixel.
    """
    width = length / np.sqrt(2)
    spacing = max(1.0, width)
    filters = [_gaussian_rows(size, width, spacing) for size in shape]
    noise = rng.standard_normal((filters[0].shape[1], filters[1].shape[1]))
    return filters[0] @ noise @ filters[1].T


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


def _foreground_classes(label: np.ndarray, lowest: int = 1) -> list[int]:
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    return [int(value) for value in np.flatnonzero(counts[:IGNORE]) if value >= lowest]


def _pixels_by_class(label: np.ndarray, lowest: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Class and flat positions of its pixels, for every class present from ``lowest`` up."""
    for value in _foreground_classes(label, lowest):
        yield value, np.flatnonzero(label == value)


def _without_ignored(label: np.ndarray) -> np.ndarray:
    return np.where(label == IGNORE, np.uint8(0), label)


def _keep_ignored(noisy: np.ndarray, label: np.ndarray) -> np.ndarray:
    noisy[label == IGNORE] = IGNORE
    return noisy


def _paint_classes(label: np.ndarray, operator: MaskOperator) -> np.ndarray:
    """What ``operator`` makes of the mask (uint8 0/1) of each class ≠ 0, painted in index order on background."""
    noisy = np.zeros_like(label)
    for value in _foreground_classes(label):
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

    count, objects, boxes, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    boxes = boxes[1:, :4]  # the first is the background
    if count > MANY_OBJECTS or 2 * (boxes[:, 2] * boxes[:, 3]).sum() > mask.size:
        return skeletonize(mask.view(bool))
    thinned = np.zeros(mask.shape, bool)
    for number, (left, top, width, height) in enumerate(boxes, start=1):
        place = slice(top, top + height), slice(left, left + width)
        thinned[place] |= skeletonize(objects[place] == number)
    return thinned


def _gaussian_rows(size: int, width: float, spacing: float) -> np.ndarray:
    """Weights (size, nodes) of lattice nodes for each pixel, Gaussian in the distance, each row of length 1."""
    beyond = int(np.ceil(MIN_NODES_BEYOND * width / spacing))
    nodes = np.arange(-beyond, int(np.ceil((size - 1) / spacing)) + beyond + 1) * spacing
    weights = np.exp(-((np.arange(size)[:, None] - nodes) ** 2) / (2 * width**2))
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


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
