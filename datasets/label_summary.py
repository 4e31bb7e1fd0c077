"""What values the files of labels hold, and what sets of them look like: numbered objects, smeared edges, outlines.

Nothing is decided here; see `datasets.label_values`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np

MAX_VALUES = 4096  # distinct values of a file that are kept; more are no label
COMPONENTS_LOOKED_AT = 200  # files of a set whose connected objects are counted
USUAL_FOREGROUNDS = (1.0, 255.0, 65535.0)
NUMBERED_FROM = 30  # more classes than this nobody draws
ONE_PIECE, WITH_INSIDE = 0.9, 0.5  # least share of numbered objects that are connected, and that have an inside
FLAT_SHARE = 0.3  # most of smeared pixels that may lie within a flat patch
EDGE_SHARE = 0.8  # least share of smeared pixels that lie at an edge between low and high
STRAY_SHARE = 0.01  # of the foreground: so many pixels of other values are strays
MANY_VALUES = 10  # more than these, none of which fills an area, are no classes
BLOCK_PIXELS = 2**20
EDGE_REACH, LINE_REACH = 4, 2  # pixels: from a smeared one to both sides of an edge, to what is beside a thin line
END_SHARE = 0.1  # of the range, at each end: there lie most pixels of a smeared mask
TOP, TOP_SHARE = (
    0.25,
    0.15,
)  # so many of the pixels above the lower end, at least, lie in the upper quarter of a smeared
# mask; of maps of distances up to 0.12. JPEG overshoots: at the upper end itself lie few of masks below 255.
NEARLY_HIGHEST = 0.9  # of the highest value: what is above is foreground as well
HOLE = 2.0  # pixels from the middle of a hole to what is drawn around it, at least
# Fixed on outlines of nuclei, cells and mitochondria, 1 to 3 pixels wide, inner and outer, against networks, vessels
# and membranes as they were drawn: those are wider, or enclose little.
THIN = 4.0  # pixels from the middle of a line to its edge, where it is thickest: lines of up to 7 pixels
NEARLY_ALL = 0.95  # of the pixels, that are thin
BESIDE_HOLES = 0.5  # of the pixels, at least, that lie up to NEAR pixels beside an enclosed area
NEAR = 3
ENCLOSED = 0.4  # area of holes for each pixel that is drawn, at least
MOST = 0.5  # of the labels that mark anything, of which more than this are outlines


class FileValues(NamedTuple):
    """The values of one label, without those of ignored pixels.

    Args:
        values: distinct values, ascending; colours as 0xRRGGBB.
        counts: pixels of each.
        flat: of these, pixels whose eight neighbours have the same value.
        pieces: connected parts of each value (by edge or corner); None where they were not counted.
        middle, at_edge: pixels in the middle half of the file's range, and how many of them lie at an edge between
            its lower and its upper quarter, or in a thin line.
        span: range of the file's type, 1 for real numbers.
        is_color: whether the channels differ.
        is_cut_short: whether there were more values than are kept.
    """

    values: np.ndarray
    counts: np.ndarray
    flat: np.ndarray
    pieces: np.ndarray | None
    middle: int
    at_edge: int
    span: float
    is_color: bool = False
    is_cut_short: bool = False

    @property
    def foreground(self) -> np.ndarray:
        """The values that are not 0."""
        return self.values[self.values != 0]

    def without(self, values: Sequence[float] | np.ndarray) -> FileValues:
        """The same as if the pixels of some values were ignored, but for ``middle`` and ``at_edge``."""
        kept = ~np.isin(self.values, values)
        pieces = None if self.pieces is None else self.pieces[kept]
        return self._replace(values=self.values[kept], counts=self.counts[kept], flat=self.flat[kept], pieces=pieces)


def summarize(values: np.ndarray, ignored: np.ndarray, is_color: bool = False, count_pieces: bool = True) -> FileValues:
    """Summarize the values (H, W) of one label.

    Args:
        ignored: pixels that count nowhere.
        is_color: whether values are colours, 0xRRGGBB.
        count_pieces: whether to look for connected objects, which takes the longest.
    """
    import cv2

    span = float(np.iinfo(values.dtype).max) if values.dtype.kind in "iu" else 1.0
    found, codes = _encode(values)
    counts = _count(codes, ~ignored, len(found))
    if len(found) > MAX_VALUES:
        ends, nothing = found[[0, -1]].astype(np.float64), np.zeros(2, np.int64)
        return FileValues(ends, counts[[0, -1]], nothing, None, values.size, 0, span, is_color, is_cut_short=True)
    present = counts > 0
    if set(found[present]) <= {0, span}:  # by far the commonest, and plain
        kept = found[present].astype(np.float64)
        return FileValues(kept, counts[present], np.zeros(len(kept), np.int64), None, 0, 0, span, is_color)
    codes = codes.astype(np.uint16)
    square = np.ones((3, 3), np.uint8)
    is_flat = (cv2.erode(codes, square) == cv2.dilate(codes, square)) & ~ignored
    flat = _count(codes, is_flat, len(found))
    is_plain = present.sum() <= 2 and set(found[present]) <= {0, *USUAL_FOREGROUNDS}
    pieces = _count_pieces(codes, ignored, len(found))[present] if count_pieces and not is_plain else None
    middle, at_edge = _edges(values, ignored, found[present]) if present.sum() > 2 else (0, 0)
    kept = found[present].astype(np.int64 if is_color else np.float64)
    return FileValues(kept, counts[present], flat[present], pieces, middle, at_edge, span, is_color)


def _count(codes: np.ndarray, chosen: np.ndarray, length: int) -> np.ndarray:
    """Chosen pixels of every code, int64 (length,), a block of rows at a time: counting widens what it counts."""
    rows = max(1, BLOCK_PIXELS // codes.shape[1])
    counts = np.zeros(length, np.int64)
    for top in range(0, len(codes), rows):
        block, wanted = codes[top : top + rows], chosen[top : top + rows]
        counts += np.bincount(block.ravel() if wanted.all() else block[wanted], minlength=length)
    return counts


def _encode(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, ascending, and for every pixel (H, W) the place of its value among them."""
    if values.dtype.kind in "iu" and values.size:
        lowest, highest = int(values.min()), int(values.max())
        if highest - lowest < 2**16:
            shifted = (values.astype(np.int64) - lowest).astype(np.uint16) if lowest or values.itemsize > 2 else values
            seen = _count(shifted, np.ones(shifted.shape, bool), highest - lowest + 1) > 0
            places = np.cumsum(seen) - 1
            return np.flatnonzero(seen) + lowest, places.astype(np.uint16)[shifted]
    found, codes = np.unique(values, return_inverse=True)
    return found, codes.reshape(values.shape)


def _count_pieces(codes: np.ndarray, ignored: np.ndarray, count: int) -> np.ndarray:
    from skimage.measure import label as connected

    pieces, highest = connected(np.where(ignored, 0, codes.astype(np.int32) + 1), connectivity=2, return_num=True)
    value_of = np.zeros(highest + 1, np.int64)
    value_of[pieces.ravel()] = codes.ravel()
    return np.bincount(value_of[1:], minlength=count)


def _edges(values: np.ndarray, ignored: np.ndarray, found: np.ndarray) -> tuple[int, int]:
    """Pixels in the middle half of the range, and those of them that lie at an edge or in a thin line.

    At an edge both the lower and the upper quarter of the range are near; in a thin line the lower is, on both sides.
    """
    import cv2

    lowest, highest = float(found[0]), float(found[-1])
    quarter = (highest - lowest) / 4
    low = ((values <= lowest + quarter) & ~ignored).astype(np.uint8)
    high = ((values >= highest - quarter) & ~ignored).astype(np.uint8)
    middle = (low + high == 0) & ~ignored
    wide, narrow = (np.ones((2 * reach + 1,) * 2, np.uint8) for reach in (EDGE_REACH, LINE_REACH))
    is_edge = (cv2.dilate(low, wide) > 0) & (cv2.dilate(high, wide) > 0) | (cv2.dilate(low, narrow) > 0)
    return int(middle.sum()), int((middle & is_edge).sum())


def union_of_values(files: Sequence[FileValues]) -> np.ndarray:
    """The values of all files, ascending."""
    return reduce(np.union1d, (file.values for file in files))


def are_usual(files: Sequence[FileValues]) -> bool:
    """Whether every file holds 0 and one other value, of those in use: labels of several makers, 0/1 beside 0/255."""
    return all(len(file.foreground) <= 1 and set(file.foreground) <= set(USUAL_FOREGROUNDS) for file in files)


def are_single_objects(files: Sequence[FileValues]) -> bool:
    """Whether almost every value of these files is one connected object."""
    looked_at = [file for file in files if file.pieces is not None]
    if not looked_at:
        return False
    pieces = np.concatenate([file.pieces[file.values != 0] for file in looked_at if file.pieces is not None])
    inside = np.concatenate([file.flat[file.values != 0] > 0 for file in looked_at])
    return bool((pieces == 1).mean() >= ONE_PIECE and inside.mean() >= WITH_INSIDE)


def number_objects(files: Sequence[FileValues]) -> bool:
    """Whether values number objects: each one connected, and the largest differs between images or exceeds 30."""
    highest = {float(file.values[-1]) for file in files if len(file.foreground)}
    return (len(highest) > 1 or max(highest, default=0) > NUMBERED_FROM) and are_single_objects(files)


def color_objects(files: Sequence[FileValues]) -> bool:
    """Whether colours tell objects apart: each one connected, and their number differs between images or exceeds 30."""
    numbers = {len(file.foreground) for file in files if len(file.foreground)}
    return (len(numbers) > 1 or max(numbers) > NUMBERED_FROM) and are_single_objects(files)


def has_strays_only(file: FileValues) -> bool:
    """Whether nearly all foreground pixels have the highest value, and the others lie singly."""
    between = (file.values != 0) & (file.values != file.values[-1])
    strays = file.counts[between].sum()
    return bool(strays <= STRAY_SHARE * file.counts[-1] and not file.flat[between].any())


def has_flat_patches(file: FileValues) -> bool:
    """Whether values between the lowest and the highest fill whole patches, which compression does not leave."""
    between = slice(1, -1)
    return bool(file.flat[between].sum() > FLAT_SHARE * max(file.counts[between].sum(), 1))


def fill_areas(file: FileValues) -> bool:
    """Whether most pixels of all values but the commonest lie within areas of their value, as in labels of classes."""
    others = file.counts < file.counts.max()
    return bool(2 * file.flat[others].sum() > file.counts[others].sum())


def are_gradual(files: Sequence[FileValues]) -> bool:
    """Whether many values hardly fill areas, as in maps of distances or probabilities."""
    found = union_of_values(files)
    marked = [(file.flat, file.counts, file.values > found[0]) for file in files]
    flat, pixels = (sum(int(each[place][each[2]].sum()) for each in marked) for place in (0, 1))
    return len(found) > MANY_VALUES and flat <= FLAT_SHARE * pixels


def are_smeared(files: Sequence[FileValues]) -> bool:
    """Whether values between the lowest and the highest are what compression and interpolation leave at edges."""
    found = union_of_values(files)
    lowest, highest = found[0], found[-1]
    several = [file for file in files if len(file.values) > 2]
    if found[1] >= NEARLY_HIGHEST * highest and (not several or highest in USUAL_FOREGROUNDS):
        return True
    if not several:
        return False
    if all(map(has_strays_only, several)):
        return True
    if len(found) <= 4:
        return False
    margin = END_SHARE * (highest - lowest)
    near = margin if len(found) > NUMBERED_FROM else 0  # so many values are no classes: JPEG leaves flat blocks there
    between = [(file.values > lowest + near) & (file.values < highest - near) for file in several]
    pixels, flat = (
        sum(int(counts[chosen].sum()) for counts, chosen in zip(counted, between, strict=True))
        for counted in ([file.counts for file in several], [file.flat for file in several])
    )
    middle, at_edge = sum(file.middle for file in several), sum(file.at_edge for file in several)
    low, end, top, total = (
        sum(int(file.counts[(file.values >= least) & (file.values <= most)].sum()) for file in several)
        for least, most in (
            (lowest, lowest + margin),
            (highest - margin, highest),
            (highest - TOP * (highest - lowest), highest),
            (lowest, highest),
        )
    )
    has_plateau = 2 * (low + end) >= total and top >= TOP_SHARE * (total - low)
    return flat <= FLAT_SHARE * pixels and at_edge >= EDGE_SHARE * middle and has_plateau


# Outlines alone


def enclosed_areas(label: np.ndarray) -> np.ndarray:
    """Where a binary label (H, W) has holes, bool; what the image border closes off is none, nor are narrow gaps."""
    import cv2
    from scipy.ndimage import binary_fill_holes

    holes = (binary_fill_holes(label == 1) & (label == 0)).astype(np.uint8)
    parts = cv2.connectedComponents(holes, connectivity=4)[1]
    deep = np.unique(parts[cv2.distanceTransform(holes, cv2.DIST_L2, cv2.DIST_MASK_5) >= HOLE])
    return np.isin(parts, deep[deep > 0])


def is_outlined(label: np.ndarray) -> bool:
    """Whether a binary label, uint8 (H, W), consists of thin lines that enclose areas, or leaves them on one ground.

    >>> import cv2
    >>> square = np.pad(np.ones((20, 20), np.uint8), 8)
    >>> is_outlined(square), is_outlined(square - cv2.erode(square, np.ones((3, 3), np.uint8)))
    (False, True)
    """
    return _are_closed_lines(label == 1) or (_is_one_ground(label == 1) and _are_closed_lines(label == 0))


def _is_one_ground(marked: np.ndarray) -> bool:
    """Whether one connected part is more than half of an image (H, W), as paper that lines were drawn on."""
    import cv2

    areas = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=4)[2][1:, cv2.CC_STAT_AREA]
    return bool(2 * areas.max(initial=0) > marked.size)


def _are_closed_lines(marked: np.ndarray) -> bool:
    """Whether what is marked, bool (H, W), is thin lines that enclose areas."""
    import cv2

    square = np.ones((3, 3), np.uint8)
    drawn = cv2.morphologyEx(marked.astype(np.uint8), cv2.MORPH_CLOSE, square)  # lines that cutting has broken
    inside = cv2.distanceTransform(drawn, cv2.DIST_L2, cv2.DIST_MASK_5)[drawn == 1]
    if not inside.size or np.quantile(inside, NEARLY_ALL) > THIN:
        return False
    holes = enclosed_areas(drawn).astype(np.uint8)
    beside = cv2.dilate(holes, np.ones((2 * NEAR + 1,) * 2, np.uint8)) & drawn
    return bool(holes.sum() >= ENCLOSED * inside.size and beside.sum() >= BESIDE_HOLES * inside.size)


def ask_outlines(labels: Iterable[np.ndarray]) -> str:
    """A question, in a line, where most labels that mark anything seem to be outlines; else nothing.

    Args:
        labels: binary, uint8 (H, W) each.
    """
    marked = [label for label in labels if (label == 1).any()]
    outlined = sum(map(is_outlined, marked))
    if outlined <= MOST * len(marked):
        return ""
    return (
        f"{outlined} of the {len(marked)} labels that were looked at are thin lines around empty areas: are these "
        "outlines of what is to be found? Fill them (in Fiji: Process > Binary > Fill Holes, after Edit > Invert where "
        "lines are black on white); go on if thin lines are what is to be found"
    )
