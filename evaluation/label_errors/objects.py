"""What is wrong with a label, object by object: missing, invented, merged, split, too wide, too narrow, moved.

Objects of the label and objects that the predictions expect are held against each other, by pixels that they share.
Both are cut into parts where they are pinched, so that of two touching objects one may be missing. Whether there is an
issue is decided in absolute terms, never by comparison with the other labels of the list: of labels that are equally
sloppy everywhere, every fault is told. What predictions are sure of they say relative to the noise of the labels, see
`quality.Calibration.evidence`: where one object in five was left out, four of five labels are all there can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.noise_steps import move

# What an issue must be sure of to be told: more where outlines are at stake, along which networks blur.
MIN_CONFIDENCE = {"missing": 0.6, "invented": 0.6, "moved": 0.6}
MIN_CONFIDENCE |= {"merged": 0.8, "split": 0.8, "too wide": 0.8, "too narrow": 0.8}
MIN_AREA = 12  # pixels of an object
MIN_SHARE = 0.15  # area of an object as a share of the image's median object
UNCOVERED = 0.25  # share of an object up to which the other side has nothing of it
PINCH = 1.0  # pixels by which a neck is narrower, on each side, than what it joins
REACH = 14  # pixels that a label may have been moved
MIN_MOVE = 2.5  # pixels
MOVED_BY = 0.2  # of an object's radius, at least
MOVE_GAIN = 0.12  # by which undoing a move raises the IoU
MIN_IOU = 0.65  # of a moved object with its place, after the move was undone
WHOLE_GAIN = 0.4  # share of all differing pixels that undoing a move of the whole label removes
MIN_OFFSET = 2.0  # pixels by which an outline is too wide or too narrow, on the average
OFFSET_SHARE = 0.25  # of an object's radius, at least
ONE_SIDED = 4.0  # how many times as many pixels differ on one side as on the other
SURROUNDED = 0.5  # share of an object's rim from which what lies around it is no bridge, but an outline
NEAR = 2  # pixels from a bridge, 3 pixels wide at least, to the objects that it joins
OBJECT_REACH, GROUND_REACH, GROUND_MARGIN = 8, 24, 2  # pixels from a gap to what it is compared with; from objects
TOLD_APART = 2.0  # standard deviations between objects and background from which an image tells them apart
# 95 % of cuts through objects of simulated sets lie below this; of right gaps, up to 7 pixels wide, 95 % above 0.52.
SHOWN_GAP = 0.36


@dataclass(frozen=True)
class Region:
    """Pixels of an image whose label is likely to be wrong.

    Args:
        top, left: of the box.
        mask: the pixels in the box, bool (h, w).
        confidence: in [0, 1].
    """

    kind: str
    top: int
    left: int
    mask: np.ndarray
    confidence: float

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.mask.sum())

    @property
    def window(self) -> tuple[slice, slice]:
        """The box, as an index of images."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @property
    def center(self) -> tuple[float, float]:
        """Mean row and column of the pixels."""
        rows, columns = np.nonzero(self.mask)
        return self.top + float(rows.mean()), self.left + float(columns.mean())


def split_parts(mask: np.ndarray) -> np.ndarray:
    """Number the objects of a mask; those that are pinched are cut there, by a watershed of the distance inside.

    Args:
        mask: bool (H, W).
    Returns: 0 outside, 1, 2, … inside, int32 (H, W).
    """
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    if not mask.any():
        return np.zeros(mask.shape, np.int32)
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    depth = cv2.GaussianBlur(depth, (0, 0), 1)
    _, seeds = cv2.connectedComponents(h_maxima(depth, PINCH).astype(np.uint8), connectivity=8)
    parts = watershed(-depth, seeds, mask=mask)
    _, rest = cv2.connectedComponents((mask & (parts == 0)).astype(np.uint8), connectivity=8)  # too small for a seed
    return np.where(rest > 0, rest + parts.max(), parts).astype(np.int32)


class Objects:
    """The numbered parts of a mask (H, W), their areas and radii, and the box of each."""

    def __init__(self, mask: np.ndarray) -> None:
        from scipy.ndimage import find_objects

        self.mask = mask
        self.parts = split_parts(mask)
        self.areas = np.bincount(self.parts.reshape(-1))
        self.boxes = find_objects(self.parts)

    def typical_area(self) -> float:
        """The median area of what is no speck; NaN without any."""
        areas = self.areas[1:][self.areas[1:] >= MIN_AREA]
        return float(np.median(areas)) if areas.size else float("nan")

    def covered(self, other: np.ndarray) -> np.ndarray:
        """The share of each part that lies in a mask; 1 for number 0."""
        inside = np.bincount(self.parts[other], minlength=len(self.areas))
        shares = inside / np.maximum(self.areas, 1)
        shares[0] = 1
        return shares


def find_regions(given: np.ndarray, evidence: np.ndarray, valid: np.ndarray, outlines: bool = True) -> list[Region]:
    """The label issues of an image, none of which overlap, the surest first.

    Args:
        given: the objects of the label, bool (H, W).
        evidence: how sure it is that an object is there, 0…1, above one half where one is expected, (H, W).
        valid: pixels that count, bool (H, W).
        outlines: whether labels are drawn so that their outlines mean something; else objects alone are looked for.
    """
    label, expected = Objects(given & valid), Objects(_without_specks((evidence > 0.5) & valid))
    areas = [area for area in (label.typical_area(), expected.typical_area()) if np.isfinite(area)]
    least = max(MIN_AREA, MIN_SHARE * float(np.mean(areas))) if areas else MIN_AREA
    taken = ~valid
    if not outlines:
        return _free(lone_objects(label, expected, evidence, least), taken)
    found = _free(moved_label(label, expected, evidence, least), taken)
    found += _free(lone_objects(label, expected, evidence, least), taken)
    bridges = _free(gaps(label, expected, evidence, least), taken)
    given = given.copy()
    for bridge in bridges:  # without them objects are compared as they are drawn
        given[bridge.window][bridge.mask] = bridge.kind == "split"
    label = Objects(given & valid) if bridges else label
    found += [*bridges, *_free(differing_objects(label, expected, evidence, least), taken)]
    return sorted(found, key=lambda region: -region.confidence)


def _free(found: Iterable[Region], taken: np.ndarray) -> list[Region]:
    """Regions that are sure enough, the surest first, cut to pixels that are not ``taken`` and mostly free, then taken.

    Args:
        taken: bool (H, W), changed in place.
    """
    kept = []
    for region in sorted(found, key=lambda region: -region.confidence):
        free = region.mask & ~taken[region.window]
        if region.confidence >= MIN_CONFIDENCE[region.kind] and 2 * free.sum() > region.mask.sum():
            taken[region.window] |= free
            kept.append(Region(region.kind, region.top, region.left, free, region.confidence))
    return kept


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """A mask without components of fewer than MIN_AREA pixels."""
    _, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return mask & (stats[:, cv2.CC_STAT_AREA] >= MIN_AREA)[np.asarray(components, np.intp)]


def _wrongness(given: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """How sure it is that each pixel's label is wrong, 0…1, (H, W)."""
    return np.where(given, 1 - evidence, evidence)


def _region(kind: str, mask: np.ndarray, corner: tuple[int, int], wrongness: np.ndarray) -> Region:
    """A region of the pixels of ``mask`` (h, w), whose corner lies at ``corner``; as sure as ``wrongness`` is there."""
    return Region(kind, *corner, mask, float(wrongness[mask].mean()))


def _components(mask: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """The corner and the mask of each component of a mask."""
    from scipy.ndimage import find_objects

    _, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    for number, box in enumerate(find_objects(components), start=1):
        yield (box[0].start, box[1].start), components[box] == number


def lone_objects(label: Objects, expected: Objects, evidence: np.ndarray, least: float) -> Iterator[Region]:
    """Objects that the other side has nothing of: missing and invented ones; beside each other, moved ones.

    Args:
        least: pixels of an object that counts.
    """
    wrongness = _wrongness(label.mask, evidence)
    lacking = (expected.covered(label.mask) < UNCOVERED) & (expected.areas >= least)
    excess = (label.covered(expected.mask) < UNCOVERED) & (label.areas >= least)
    missing, invented = lacking[expected.parts] & ~label.mask, excess[label.parts] & ~expected.mask
    for corner, mask in _components(missing | invented):
        window = _window(corner, mask)
        sides = [mask & missing[window], mask & invented[window]]
        small, large = sorted(int(side.sum()) for side in sides)
        if 2 * small >= large:
            yield _region("moved", mask, corner, wrongness[window])
            continue
        for kind, side in zip(("missing", "invented"), sides, strict=True):
            if side.sum() >= least / 2:
                yield _region(kind, side, corner, wrongness[window])


def shifted(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    """A mask (H, W) moved by whole pixels; what comes in is empty."""
    return move(mask.view(np.uint8), down, right).view(bool)


def best_move(given: np.ndarray, expected: np.ndarray, reach: int = REACH) -> tuple[int, int]:
    """By how many pixels, down and right, a label must be moved to share most pixels with what is expected."""
    height, width = given.shape
    reach = min(reach, height // 4, width // 4)
    canvas = np.pad(expected.astype(np.float32), reach)
    overlap = cv2.matchTemplate(canvas, given.astype(np.float32), cv2.TM_CCORR)
    down, right = np.unravel_index(int(overlap.argmax()), overlap.shape)
    return int(down) - reach, int(right) - reach


def moved_label(label: Objects, expected: Objects, evidence: np.ndarray, least: float) -> Iterator[Region]:
    """All objects of a label that was moved as a whole: undoing that removes much of what differs."""
    if not label.mask.any() or not expected.mask.any():
        return
    down, right = best_move(label.mask, expected.mask)
    if np.hypot(down, right) < MIN_MOVE:
        return
    back = shifted(label.mask, down, right)
    before, after = (int((mask != expected.mask).sum()) for mask in (label.mask, back))
    if after > (1 - WHOLE_GAIN) * before:
        return
    wrongness = _wrongness(label.mask, evidence)
    for number in np.flatnonzero(label.areas[1:] >= least) + 1:
        part = label.parts == number
        place = shifted(part, down, right)
        here, there = int((part & expected.mask).sum()), int((place & expected.mask).sum())
        if there <= here or 2 * there < part.sum():
            continue
        both = part | place  # connected or not
        confidence = float(wrongness[both & (label.mask != expected.mask)].mean())
        rows, columns = np.flatnonzero(both.any(1)), np.flatnonzero(both.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        yield Region("moved", int(rows[0]), int(columns[0]), both[box], confidence)


def differing_objects(label: Objects, expected: Objects, evidence: np.ndarray, least: float) -> Iterator[Region]:
    """Objects that both sides have, but moved, too wide or too narrow."""
    wrongness = _wrongness(label.mask, evidence)
    for owns, others in partners(label, expected):
        if label.areas[owns].sum() < least or expected.areas[others].sum() < least:
            continue
        boxes = [*(label.boxes[own - 1] for own in owns), *(expected.boxes[other - 1] for other in others)]
        window = _joined(boxes, label.mask.shape)
        drawn, right = np.isin(label.parts[window], owns), np.isin(expected.parts[window], others)
        kind = compare_shapes(drawn, right)
        if kind is None:
            continue
        # What belongs to a neighbour is no fault of this object.
        differs = (drawn & ~expected.mask[window]) | (right & ~label.mask[window])
        if differs.any():
            confidence = float(wrongness[window][differs].mean())
            yield Region(kind, window[0].start, window[1].start, drawn | right, confidence)


def partners(label: Objects, expected: Objects) -> Iterator[tuple[list[int], list[int]]]:
    """Numbers of parts of the label and of what is expected that are each other's: each shares most with one of these.

    Groups, since what is one part on one side may be cut on the other.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    shared = label.mask & expected.mask
    pairs, counts = np.unique(np.stack([label.parts[shared], expected.parts[shared]]), axis=1, return_counts=True)
    if not counts.size:
        return
    chosen = np.zeros(len(counts), bool)
    for side in pairs:
        order = np.lexsort((-counts, side))
        chosen[order[np.unique(side[order], return_index=True)[1]]] = True
    own, other = pairs[0][chosen], pairs[1][chosen] + len(label.areas)
    nodes = len(label.areas) + len(expected.areas)
    _, group = connected_components(coo_array((np.ones(len(own)), (own, other)), (nodes, nodes)), directed=False)
    for number in np.unique(group[own]).tolist():
        members = group[own] == number
        yield np.unique(own[members]).tolist(), np.unique(other[members] - len(label.areas)).tolist()


def _joined(boxes: Sequence[tuple[slice, slice]], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The box around boxes, with a margin for moves."""
    rows, columns = (
        slice(max(min(each.start for each in ends) - REACH, 0), min(max(each.stop for each in ends) + REACH, side))
        for ends, side in zip(zip(*boxes, strict=True), shape, strict=True)
    )
    return rows, columns


def compare_shapes(drawn: np.ndarray, right: np.ndarray) -> str | None:
    """``moved``, ``too wide``, ``too narrow`` or, where an object is drawn about right, None.

    Args:
        drawn, right: the object as it is labelled and as it is expected, bool (h, w).
    """
    areas = float(drawn.sum()), float(right.sum())
    radius = float(np.sqrt(areas[1] / np.pi))
    places = [np.argwhere(mask).mean(0) for mask in (drawn, right)]
    down, across = np.rint(places[1] - places[0]).astype(int).tolist()
    distance = float(np.hypot(*(places[1] - places[0])))
    before, after = _iou(drawn, right), _iou(shifted(drawn, down, across), right)
    if distance >= max(MIN_MOVE, MOVED_BY * radius) and after >= max(before + MOVE_GAIN, MIN_IOU):
        return "moved"
    excess, lacking = float((drawn & ~right).sum()), float((right & ~drawn).sum())
    contours, _ = cv2.findContours(right.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    offset = (excess - lacking) / max(sum(len(contour) for contour in contours), 1)
    if abs(offset) < max(MIN_OFFSET, OFFSET_SHARE * radius):
        return None
    if max(excess, lacking) < ONE_SIDED * min(excess, lacking):
        return None
    return "too wide" if offset > 0 else "too narrow"


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def gaps(label: Objects, expected: Objects, evidence: np.ndarray, least: float) -> Iterator[Region]:
    """Bridges of the label between several expected objects (merged), and gaps within one (split).

    Small ones lie between neighbours that nearly touch, of which networks blur many.
    """
    wrongness = _wrongness(label.mask, evidence)
    for kind, whole, pieces in (("merged", label.mask, expected.mask), ("split", expected.mask, label.mask)):
        _, numbered, stats, _ = cv2.connectedComponentsWithStats(pieces.astype(np.uint8), connectivity=8)
        numbered = np.where((stats[:, cv2.CC_STAT_AREA] >= MIN_AREA)[np.asarray(numbered, np.intp)], numbered, 0)
        inside = cv2.erode(pieces.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        rims = np.where(inside, 0, numbered)
        perimeters = np.bincount(rims.reshape(-1), minlength=len(stats))
        bridge = cv2.morphologyEx((whole & ~pieces).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        for corner, mask in _components(bridge > 0):
            if mask.sum() < least:
                continue
            margin = np.pad(mask, NEAR).astype(np.uint8)
            near = cv2.dilate(margin, np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)) > 0
            touched = np.pad(rims, NEAR)[_window(corner, mask, NEAR)][near]
            contact = np.bincount(touched, minlength=len(stats)) / np.maximum(perimeters, 1)
            if ((contact[1:] > 0) & (contact[1:] < SURROUNDED)).sum() >= 2:
                yield _region(kind, mask, corner, wrongness[_window(corner, mask)])


def is_borne_out(region: Region, image: np.ndarray, given: np.ndarray) -> bool:
    """Whether an image lets a gap in a label be an error (split), or a bridge of it (merged); other kinds always.

    Networks blur, so that a gap that they close may be there. Where it looks like background, between what objects and
    background nearby look like, its label is right; so is that of a bridge which looks like the objects.

    Args:
        image: (H, W) or (H, W, C), of any range.
        given: the objects of the label, bool (H, W).
    """
    if region.kind not in ("split", "merged"):
        return True
    share = likeness_to_background(image, given, region)
    return not (share > SHOWN_GAP if region.kind == "split" else share < SHOWN_GAP)


def likeness_to_background(image: np.ndarray, objects: np.ndarray, region: Region) -> float:
    """Where the mean pixel of a region lies between objects (0) and background (1) near it.

    Returns: NaN where either is not near, or where the image does not tell them apart.
    """
    rows, columns = (slice(max(side.start - GROUND_REACH, 0), side.stop + GROUND_REACH) for side in region.window)
    pixels = image[rows, columns].reshape(*objects[rows, columns].shape, -1).astype(np.float64)
    inside = np.zeros(objects.shape, np.uint8)
    inside[region.window] = region.mask
    inside, owned = inside[rows, columns], objects[rows, columns].astype(np.uint8) & ~inside[rows, columns]
    distance = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    margin = np.ones((2 * GROUND_MARGIN + 1, 2 * GROUND_MARGIN + 1), np.uint8)
    core = (cv2.erode(owned, np.ones((3, 3), np.uint8)) > 0) & (distance <= OBJECT_REACH)
    ground = (cv2.dilate(owned | inside, margin) == 0) & (distance <= GROUND_REACH)
    if min(core.sum(), ground.sum()) < MIN_AREA:
        return float("nan")
    middle = pixels[core].mean(0)
    direction = pixels[ground].mean(0) - middle
    length = float(direction @ direction)
    spread = np.mean([(pixels[place] @ direction).var() for place in (core, ground)])
    if length <= TOLD_APART * np.sqrt(spread):
        return float("nan")
    return float((pixels[inside > 0].mean(0) - middle) @ direction / length)


def _window(corner: tuple[int, int], mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """The box of a mask at a corner; with a margin, as an index of an image padded by so much."""
    top, left = corner
    return slice(top, top + mask.shape[0] + 2 * margin), slice(left, left + mask.shape[1] + 2 * margin)
