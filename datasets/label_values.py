"""What the values of labels mean: decided once for all labels of a run, from what their files hold.

A file's values are summarized (`summarize`), the summaries of all files are judged together (`decide_reading`), and
what comes out, a `LabelReading`, turns the values of each file into classes (`LabelReading.classes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.label_maps import LabelMap, color_name
from datasets.labels import IGNORE
from utils.errors import UserError
from utils.paths import display_path

LISTED_VALUES = 10
MAX_VALUES = 4096  # distinct values of a file that are kept; more are no label
COMPONENTS_LOOKED_AT = 200  # files of a set whose connected objects are counted
USUAL_FOREGROUNDS = (1.0, 255.0, 65535.0)
FEW_VALUES = 32  # up to which values may be classes
NUMBERED_FROM = 30  # more classes than this nobody draws
ONE_PIECE, WITH_INSIDE = 0.9, 0.5  # least share of numbered objects that are connected, and that have an inside
FLAT_SHARE = 0.3  # most of smeared pixels that may lie within a flat patch
EDGE_SHARE = 0.8  # least share of smeared pixels that lie at an edge between low and high
STRAY_SHARE = 0.01  # of the foreground: so many pixels of other values are strays
BLOCK_PIXELS = 2**20
EDGE_REACH, LINE_REACH = 4, 2  # pixels: from a smeared one to both sides of an edge, to what is beside a thin line
END_SHARE = 0.1  # of the range, at each end: there lie most pixels of a smeared mask
NEARLY_HIGHEST = 0.9  # of the highest value: what is above is foreground as well
LOWEST_CUT = 0.1  # of a type's range: a file alone is never cut below


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


@dataclass(frozen=True)
class LabelReading:
    """How values become classes.

    Args:
        num_classes: 1 is binary, K: values 0…K−1 are classes and 255 is ignored.
        ignore_index: the value that is ignored.
        label_map: what values or colours mean, where it is said.
        cut: binary: values from here on are foreground; None: all but 0.
        objects: whether values number objects, all of them foreground.
    """

    num_classes: int = 1
    ignore_index: int | None = None
    label_map: LabelMap | None = None
    cut: float | None = None
    objects: bool = False

    def to_json(self) -> dict[str, Any]:
        """What ``config.json`` and ``predictions.json`` keep."""
        label_map = None if self.label_map is None else self.label_map.text
        return {
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "label_map": label_map,
            "cut": self.cut,
            "objects": self.objects,
        }

    @staticmethod
    def from_json(content: dict[str, Any] | None) -> LabelReading | None:
        """The reading that `to_json` wrote; None stays None."""
        if content is None:
            return None
        label_map = content["label_map"] and LabelMap.parse(content["label_map"], content["num_classes"])
        return LabelReading(**{**content, "label_map": label_map or None})

    def classes(self, values: np.ndarray, ignored: np.ndarray, path: Path, is_color: bool = False) -> np.ndarray:
        """Values (H, W) of one label → uint8 class indices with `IGNORE`.

        Args:
            ignored: pixels that count nowhere, whatever their value.
            path: the file, for messages.
        Raises:
            UserError: values that mean nothing in this reading.
        """
        if self.label_map is not None:
            return self.label_map.classes(values, ignored, path, is_color, self.num_classes)
        if is_color:
            raise UserError(_color_message(path, values))
        if self.num_classes > 1:
            ignored = ignored | (values == IGNORE)
            check_classes(values, ignored, self.num_classes, path)
            label = np.where(ignored, 0, values).astype(np.uint8)
        elif self.cut is None:
            label = (values != 0).astype(np.uint8)
        else:
            label = (values >= self.cut).astype(np.uint8)
            if not label.any():
                _check_below_cut(values[~ignored], self.cut, path)
        label[ignored] = IGNORE
        return label


def _check_below_cut(values: np.ndarray, cut: float, path: Path) -> None:
    """Refuse 0 and 1 among labels of 0 to 255: cut at half, all would be background."""
    found = np.unique(values)
    if found.size == 2 and found[0] == 0 and found[1] == 1:
        raise UserError(
            f"label {display_path(path)} holds 0 and 1, the other labels values of up to {2 * cut:g}, which are cut at "
            f"{cut:g}: save all labels with the same two values"
        )


def check_classes(values: np.ndarray, ignored: np.ndarray, num_classes: int, path: Path) -> None:
    """Raise a UserError if a value that is not ignored is none of 0…K−1."""
    is_class = (values >= 0) & (values < num_classes)
    if values.dtype.kind == "f":
        is_class &= values == np.rint(values)
    wrong = values[~(is_class | ignored)]
    if wrong.size:
        raise UserError(
            f"{display_path(path)} holds values that are no class: {listed(np.unique(wrong))}, in {wrong.size} pixels; "
            f"expected 0…{num_classes - 1} for {num_classes} classes, 255 for ignored"
        )


def listed(values: np.ndarray, is_color: bool = False) -> str:
    """Values for people, the first few and the number of the rest."""
    names = [color_name(int(value)) if is_color else f"{value:g}" for value in values[:LISTED_VALUES]]
    return ", ".join(names) + (f" and {len(values) - LISTED_VALUES} more" if len(values) > LISTED_VALUES else "")


# One file


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


def read_alone(values: np.ndarray, ignored: np.ndarray, path: Path) -> LabelReading:
    """How a single binary label is read when nothing is known of the others of its set.

    Numbered objects are foreground; else values are cut half way between the file's lowest and highest, but never
    below a tenth of the type's range, so that a mask with nothing but traces of JPEG is empty.

    Raises:
        UserError: flat areas of several values: classes, or no background.
    """
    file = summarize(values, ignored)
    _refuse_impossible([file], [path])
    if len(file.foreground) <= 1:
        return LabelReading()
    if file.values[0] == 0 and _numbered_pairs([file]) and not _is_stray(file):
        return LabelReading(objects=True)
    if not _is_smeared([file]) and _flat_share(file) > FLAT_SHARE:
        raise UserError(_other_values(file.values, [file], [path]))
    cut = (file.values[0] + file.values[-1]) / 2
    return LabelReading(cut=float(max(cut, LOWEST_CUT * file.span)))


# All files of a set


def decide_reading(
    files: Sequence[FileValues], paths: Sequence[Path], ignore_index: int | None = None
) -> tuple[LabelReading, list[str]]:
    """Decide how the binary labels of a run are read.

    Args:
        files: their values.
        paths: the files, for messages.
    Returns: the reading, and lines for the user: what is not plain 0 and one other value.
    Raises:
        UserError: values that do not say what is foreground; the message names them, a file and the remedy.
    """
    known = [(file, path) for file, path in zip(files, paths, strict=True) if len(file.values)]
    if not known:
        return LabelReading(ignore_index=ignore_index), []
    files, paths = [file for file, _ in known], [path for _, path in known]
    plain = LabelReading(ignore_index=ignore_index)
    if any(file.is_color for file in files):
        return _decide_colors(files, paths, plain)
    found = _union(files)
    if len(found) <= 2 and (len(found) == 1 or found[0] == 0) or _is_usual(files):
        _refuse_impossible(files, paths)
        return plain, []
    _refuse_impossible(files, paths)
    several = [file for file in files if len(file.values) > 2]
    has_strays = bool(several) and all(map(_is_stray, several))
    if found[0] == 0 and not has_strays and _are_numbered(files):
        most = max(len(file.foreground) for file in files)
        return replace(plain, objects=True), [f"labels number objects, up to {most} in an image: all are foreground"]
    if _is_smeared(files):
        cut = float((found[0] + found[-1]) / 2)
        _refuse_mixed(files, paths, cut)
        return replace(plain, cut=cut), [_smeared_line(files, found, cut)]
    raise UserError(_other_values(found, files, paths))


def _union(files: Sequence[FileValues]) -> np.ndarray:
    return reduce(np.union1d, (file.values for file in files))


def _is_usual(files: Sequence[FileValues]) -> bool:
    """Whether every file holds 0 and one other value, of those in use: labels of several makers, 0/1 beside 0/255."""
    return all(len(file.foreground) <= 1 and set(file.foreground) <= set(USUAL_FOREGROUNDS) for file in files)


def _refuse_impossible(files: Sequence[FileValues], paths: Sequence[Path]) -> None:
    """Negative values, probabilities, and too many values for a label."""
    for file, path in zip(files, paths, strict=True):
        shown = display_path(path)
        if file.is_cut_short:
            raise UserError(
                f"label {shown} holds more than {MAX_VALUES} different values, from {file.values[0]:g} to "
                f"{file.values[-1]:g}: it seems to be an image or a map of probabilities; are image and label "
                "exchanged? A binary label has two values"
            )
        if file.values[0] < 0:
            raise UserError(
                f"label {shown} holds negative values: {listed(file.values)}; say what they mean, for example "
                f'--label_map "{file.values[0]:g}:ignore,0:0,1:1"'
            )
        if len(file.values) > 2 and (file.values != np.rint(file.values)).any():
            raise UserError(
                f"label {shown} holds {len(file.values)} values that are not whole, {listed(file.values)}: it seems to "
                "be a map of probabilities; cut it (at 0.5, say) and save two values"
            )
    found = _union(files)
    if found[0] > 0 and 2 <= len(found) <= FEW_VALUES:
        meaning = ",".join(f"{value:g}:{min(place, 1)}" for place, value in enumerate(found))
        raise UserError(
            f"the labels hold no background (0) but the values {listed(found)} ({_named(paths)}); say what they mean, "
            f'for example --label_map "{meaning}"'
        )


def _named(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 1} other labels" if len(paths) > 1 else ""
    return f"{display_path(paths[0])}{more}"


def _numbered_pairs(files: Sequence[FileValues]) -> bool:
    """Whether almost every value of these files is one connected object."""
    looked_at = [file for file in files if file.pieces is not None]
    if not looked_at:
        return False
    pieces = np.concatenate([file.pieces[file.values != 0] for file in looked_at if file.pieces is not None])
    inside = np.concatenate([file.flat[file.values != 0] > 0 for file in looked_at])
    return bool((pieces == 1).mean() >= ONE_PIECE and inside.mean() >= WITH_INSIDE)


def _are_numbered(files: Sequence[FileValues]) -> bool:
    """Whether values number objects: each one connected, and the largest differs between images or exceeds 30."""
    highest = {float(file.values[-1]) for file in files if len(file.foreground)}
    return (len(highest) > 1 or max(highest) > NUMBERED_FROM) and _numbered_pairs(files)


def _is_stray(file: FileValues) -> bool:
    """Whether nearly all foreground pixels have the highest value, and the others lie singly."""
    between = (file.values != 0) & (file.values != file.values[-1])
    strays = file.counts[between].sum()
    return bool(strays <= STRAY_SHARE * file.counts[-1] and not file.flat[between].any())


def _flat_share(file: FileValues) -> float:
    between = slice(1, -1)
    return float(file.flat[between].sum() / max(file.counts[between].sum(), 1))


def _is_smeared(files: Sequence[FileValues]) -> bool:
    """Whether values between the lowest and the highest are what compression and interpolation leave at edges."""
    found = _union(files)
    lowest, highest = found[0], found[-1]
    several = [file for file in files if len(file.values) > 2]
    if not several:
        return bool(found[1] >= NEARLY_HIGHEST * highest)
    if all(map(_is_stray, several)):
        return True
    if len(found) <= 4:
        return False
    between = [(file.values > lowest) & (file.values < highest) for file in several]
    pixels, flat = (
        sum(int(counts[chosen].sum()) for counts, chosen in zip(counted, between, strict=True))
        for counted in ([file.counts for file in several], [file.flat for file in several])
    )
    middle, at_edge = sum(file.middle for file in several), sum(file.at_edge for file in several)
    margin = END_SHARE * (highest - lowest)
    at_ends = [(file.values <= lowest + margin) | (file.values >= highest - margin) for file in several]
    ends = sum(int(file.counts[chosen].sum()) for file, chosen in zip(several, at_ends, strict=True))
    total = sum(int(file.counts.sum()) for file in several)
    return flat <= FLAT_SHARE * pixels and at_edge >= EDGE_SHARE * middle and 2 * ends >= total


def _refuse_mixed(files: Sequence[FileValues], paths: Sequence[Path], cut: float) -> None:
    """Refuse whole objects below the cut of the others: 0/1 masks among JPEGs of 0 to 255."""
    for file, path in zip(files, paths, strict=True):
        if len(file.foreground) == 1 and file.foreground[0] < cut and file.flat[-1] > 0 and file.values[0] == 0:
            other = next(path for each, path in zip(files, paths, strict=True) if each.values[-1] >= cut)
            raise UserError(
                f"label {display_path(path)} holds {listed(file.values)}, label {display_path(other)} values of up to "
                f"{2 * cut:g}: save all labels with the same two values"
            )


def _smeared_line(files: Sequence[FileValues], found: np.ndarray, cut: float) -> str:
    pixels, holding = 0, 0
    for file in files:
        count = int(file.counts[(file.values > found[0]) & (file.values < found[-1])].sum())
        pixels, holding = pixels + count, holding + (count > 0)
    return (
        f"labels hold values between {found[0]:g} and {found[-1]:g} in {pixels} pixels of {holding} files, as JPEG "
        f"or anti-aliasing leaves them: from {cut:g} on they are foreground"
    )


def _other_values(found: np.ndarray, files: Sequence[FileValues], paths: Sequence[Path]) -> str:
    """The message for values that are neither two, nor smeared, nor numbers of objects."""
    order = sorted(range(len(files)), key=lambda place: -len(files[place].values))
    where = _named([paths[place] for place in order])
    if len(found) > FEW_VALUES:
        return (
            f"the labels hold {len(found)} values from {found[0]:g} to {found[-1]:g} ({where}), which are neither two "
            "values, nor classes, nor numbered objects: are image and label exchanged, or is it a map of "
            "probabilities? A binary label has two values"
        )
    proper = found[found != IGNORE]
    has_void = IGNORE in found and proper[-1] <= FEW_VALUES
    classes = proper if has_void else found
    meaning = ",".join(f"{value:g}:{min(int(value), 1)}" for value in classes) + (",255:ignore" if has_void else "")
    remedies = [f"if 255 marks what does not count, --ignore_index {IGNORE}"] if has_void and len(classes) == 2 else []
    if len(classes) > 2 and classes[-1] <= FEW_VALUES:
        remedies.append(f"if they are classes, --num_classes {int(classes[-1]) + 1}")
    said = "; ".join([*remedies, f'say what they mean, for example --label_map "{meaning}"'])
    return f"the labels hold the values {listed(found)} ({where}), more than background and foreground: {said}"


def _decide_colors(
    files: Sequence[FileValues], paths: Sequence[Path], plain: LabelReading
) -> tuple[LabelReading, list[str]]:
    """Black and one colour are background and foreground; more colours must be named."""
    found = reduce(np.union1d, (file.values.astype(np.int64) for file in files if file.is_color))
    greys = [file.values for file in files if not file.is_color]
    found = np.union1d(found, np.concatenate([np.rint(grey).astype(np.int64) * 0x010101 for grey in greys] or [[]]))
    found = found.astype(np.int64)
    if len(found) == 2 and found[0] == 0:
        text = f"#000000:0,{color_name(int(found[1]))}:1"
        line = f"labels are in colours: black is background, {color_name(int(found[1]))} foreground"
        return replace(plain, label_map=LabelMap.parse(text)), [line]
    path = next(path for file, path in zip(files, paths, strict=True) if file.is_color)
    raise UserError(_color_message(path, found, len(paths) - 1))


def _color_message(path: Path, colors: np.ndarray, others: int = 0) -> str:
    """The message for labels in colours that are not named.

    Args:
        colors: 0xRRGGBB of every pixel (H, W), or the distinct ones (N,).
    """
    found = np.unique(colors).astype(np.int64)
    where = f"{display_path(path)} is a label in colours" + (f", like {others} others" if others else "")
    if colors.ndim == 2:
        where += f": its 3 channels differ in {int((colors % 0x010101 != 0).sum())} pixels"
    if len(found) > FEW_VALUES:
        return f"{where}, {len(found)} different ones: it seems to be an image; are image and label exchanged?"
    meaning = ",".join(f"{color_name(int(color))}:{min(place, 1)}" for place, color in enumerate(found))
    names = listed(found, is_color=True)
    return f'{where} ({names}); say what they mean, for example --label_map "{meaning}"'
