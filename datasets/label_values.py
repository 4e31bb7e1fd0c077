"""What the values of labels mean: decided once for all labels of a run, from what their files hold.

A file's values are summarized (`summarize`), the summaries of all files are judged together (`decide_reading`), and
what comes out, a `LabelReading`, turns the values of each file into classes (`LabelReading.classes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from datasets.label_maps import LabelMap, background_first, color_name, listed
from datasets.label_summary import (
    MAX_VALUES,
    FileValues,
    are_gradual,
    are_single_objects,
    are_smeared,
    are_usual,
    color_objects,
    has_flat_patches,
    has_strays_only,
    number_objects,
    summarize,
    union_of_values,
)
from datasets.labels import IGNORE
from utils.errors import UserError
from utils.paths import display_path

FEW_VALUES = 32  # up to which values may be classes
READING_FIELDS = {"num_classes": int, "ignore_index": int | None, "label_map": str | None, "cut": float | int | None}
READING_FIELDS |= {"objects": bool}  # as JSON keeps them
LOWEST_CUT = 0.1  # of a type's range: a file alone is never cut below
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif")
VOIDS = (IGNORE, 65535)  # the highest values of their types, as marks of what does not count
FAR_BELOW = 8  # all others lie below this part of them
VOID_BETWEEN = 128  # such a mark between 0 and 255


@dataclass(frozen=True)
class LabelReading:
    """How values become classes.

    Args:
        num_classes: 1 is binary, K: values 0…K−1 are classes and 255 is ignored.
        ignore_index: the value that is ignored.
        label_map: what values or colours mean, where it is said; of some, perhaps, see `is_told`.
        cut: binary: values from here on are foreground; None: all but 0.
        objects: whether values number objects, all of them foreground.
    """

    num_classes: int = 1
    ignore_index: int | None = None
    label_map: LabelMap | None = None
    cut: float | None = None
    objects: bool = False

    @property
    def is_told(self) -> bool:
        """Whether all is said of the values; else what is not named is decided on: objects, smeared edges."""
        return self.label_map is not None and (self.num_classes > 1 or self.label_map.names_foreground)

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
        """The reading that `to_json` wrote; None stays None.

        Raises:
            UserError: it is none that could have been written.
        """
        if content is None:
            return None
        for name, kind in READING_FIELDS.items():
            if name not in content or not isinstance(content[name], kind):
                raise UserError(f"label_reading: {name!r} is {content.get(name)!r}, which no run can have written")
        label_map = content["label_map"] and LabelMap.parse(content["label_map"], content["num_classes"])
        return LabelReading(**{name: content[name] for name in READING_FIELDS} | {"label_map": label_map or None})

    def presence(self, file: FileValues) -> tuple[bool, bool]:
        """Whether the values of a binary label are foreground somewhere, and whether any are background."""
        if file.is_color and self.label_map is not None:
            meaning = {self.label_map.colors.get(int(value), 0) for value in file.values}
            return 1 in meaning, 0 in meaning
        is_foreground = self._is_foreground(file)
        return bool(is_foreground.any()), bool((~is_foreground).any())

    def foreground_share(self, file: FileValues) -> float:
        """The part of a binary label's pixels that are foreground, where no label map says what is."""
        return float(file.counts[self._is_foreground(file)].sum() / max(int(file.counts.sum()), 1))

    def _is_foreground(self, file: FileValues) -> np.ndarray:
        is_foreground = file.values != 0 if self.cut is None else file.values >= self.cut
        if self.label_map is not None:
            named = [value for value, meaning in self.label_map.values.items() if meaning == 0]
            is_foreground &= ~np.isin(file.values, named)
        return is_foreground

    def classes(self, values: np.ndarray, ignored: np.ndarray, path: Path, is_color: bool = False) -> np.ndarray:
        """Values (H, W) of one label → uint8 class indices with `IGNORE`.

        Args:
            ignored: pixels that count nowhere, whatever their value.
            path: the file, for messages.
        Raises:
            UserError: values that mean nothing in this reading.
        """
        if self.label_map is not None and self.is_told:
            return self.label_map.classes(values, ignored, path, is_color, self.num_classes)
        if is_color and not self.objects:
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


PLAIN = LabelReading()


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
        found = np.unique(wrong)
        void = f"; if {found[0]:g} is void and counts nowhere: --ignore_index {found[0]:g}" if len(found) == 1 else ""
        raise UserError(
            f"{display_path(path)} holds values that are no class: {listed(found)}, in {wrong.size} pixels; "
            f"expected 0…{num_classes - 1} for {num_classes} classes, 255 for ignored{void if found[0] >= 0 else ''}"
        )


def read_alone(values: np.ndarray, ignored: np.ndarray, path: Path) -> LabelReading:
    """How a single binary label is read when nothing is known of the others of its set.

    Numbered objects are foreground; else values are cut half way between the file's lowest and highest, but never
    below a tenth of the type's range, so that a mask with nothing but traces of JPEG is empty.

    Raises:
        UserError: flat areas of several values: classes, or no background.
    """
    file = summarize(values, ignored)
    if not len(file.values):
        return LabelReading()
    _refuse_impossible([file], [path])
    if len(file.foreground) <= 1:
        return LabelReading()
    if file.values[0] == 0 and are_single_objects([file]) and not has_strays_only(file):
        return LabelReading(objects=True)
    if not are_smeared([file]) and has_flat_patches(file):
        raise UserError(_other_values(file.values, [file], [path]))
    cut = (file.values[0] + file.values[-1]) / 2
    return LabelReading(cut=float(max(cut, LOWEST_CUT * file.span)))


def decide_reading(
    files: Sequence[FileValues], paths: Sequence[Path], plain: LabelReading = PLAIN, *, only_binary: bool = False
) -> tuple[LabelReading, list[str]]:
    """Decide how the binary labels of a run are read.

    Args:
        files: their values, without those that ``plain`` ignores.
        paths: the files, for messages.
        plain: what is known before: values that are ignored, or named background.
        only_binary: whether there are no classes: then values that are one connected object each are objects.
    Returns: the reading, and lines for the user: what is not plain 0 and one other value.
    Raises:
        UserError: values that do not say what is foreground; the message names them, a file and the remedy.
    """
    known = [(file, path) for file, path in zip(files, paths, strict=True) if len(file.values)]
    if not known:
        return plain, []
    files, paths = [file for file, _ in known], [path for _, path in known]
    voids = _named_voids(plain)
    if any(file.is_color for file in files):
        return _decide_colors(files, paths, plain, only_binary=only_binary)
    found = union_of_values(files)
    if len(found) <= 2 and (len(found) == 1 or found[0] == 0) or are_usual(files):
        _refuse_impossible(files, paths, voids)
        return plain, []
    _refuse_impossible(files, paths, voids)
    _refuse_small_jpeg(files, paths, found)
    several = [file for file in files if len(file.values) > 2]
    has_strays = bool(several) and all(map(has_strays_only, several))
    are_objects = number_objects(files) or (only_binary and are_single_objects(files))
    if found[0] == 0 and not has_strays and are_objects and not any(void_value(file.values) for file in files):
        return _as_objects(files, plain)
    if are_smeared(files):
        cut = float((found[0] + found[-1]) / 2)
        _refuse_mixed(files, paths, cut)
        return replace(plain, cut=cut), [_smeared_line(files, found, cut)]
    raise UserError(_other_values(found, files, paths, voids, only_binary=only_binary))


def void_value(found: np.ndarray) -> float | None:
    """The value that seems to mark what does not count: the type's highest beside small ones, 128 before 255.

    Args:
        found: the values of a file or a set, ascending.
    """
    if found.tolist() == [0, VOID_BETWEEN, IGNORE]:
        return VOID_BETWEEN
    return found[-1] if len(found) > 2 and found[-1] in VOIDS and found[-2] <= found[-1] / FAR_BELOW else None


def _named_voids(reading: LabelReading) -> str:
    """What a label map says of values that count nowhere, to be kept in one that says more."""
    named = {} if reading.label_map is None else reading.label_map.values
    return "".join(f",{value:g}:ignore" for value, meaning in named.items() if meaning == IGNORE)


def _as_objects(
    files: Sequence[FileValues], plain: LabelReading, said: str = "labels number objects"
) -> tuple[LabelReading, list[str]]:
    most = max(len(file.foreground) for file in files)
    return replace(plain, objects=True), [f"{said}, up to {most} in an image: all are foreground"]


def _refuse_impossible(files: Sequence[FileValues], paths: Sequence[Path], voids: str = "") -> None:
    """Negative values, probabilities, and too many values for a label.

    Args:
        voids: what is added to the label map that a message proposes.
    """
    found = union_of_values(files)
    for file, path in zip(files, paths, strict=True):
        shown = display_path(path)
        if file.is_cut_short:
            raise UserError(
                f"label {shown} holds more than {MAX_VALUES} different values, from {file.values[0]:g} to "
                f"{file.values[-1]:g}: it seems to be an image or a map of probabilities; are image and label "
                "exchanged? A binary label has two values"
            )
        if file.values[0] < 0:
            named = ",".join(f"{value:g}:ignore" for value in found[found < 0][:FEW_VALUES])
            other = "" if found[-1] > 0 else f', or "{file.values[0]:g}:1" if it is foreground'
            raise UserError(
                f"label {shown} holds negative values: {listed(file.values)}; say what they mean, for example "
                f'--label_map "{named}{voids}"{other}'
            )
        if len(file.values) > 2 and (file.values != np.rint(file.values)).any():
            raise UserError(
                f"label {shown} holds {len(file.values)} values that are not whole, {listed(file.values)}: it seems to "
                "be a map of probabilities or distances; cut it (at 0.5, say) and save two values"
            )
    is_background = found[0] > 0 and len(found) > 1 and number_objects([file.without(found[:1]) for file in files])
    if found[0] > 0 and (is_background or 2 <= len(found) <= FEW_VALUES):
        meaning = ",".join(f"{value:g}:{min(place, 1)}" for place, value in enumerate(found))
        meaning = f"{found[0]:g}:0" if is_background else meaning
        raise UserError(
            f"the labels hold no background (0) but the values {listed(found)} ({_named(paths)}); say what they mean, "
            f'for example --label_map "{meaning}{voids}"'
        )


def _refuse_small_jpeg(files: Sequence[FileValues], paths: Sequence[Path], found: np.ndarray) -> None:
    """Refuse small numbers in JPEG, which changes them: they may have been objects, classes, or 0 and 1."""
    for file, path in zip(files, paths, strict=True):
        if path.suffix.lower() in JPEG_SUFFIXES and len(file.values) > 2 and found[-1] <= FEW_VALUES:
            raise UserError(
                f"label {display_path(path)} holds the values {listed(file.values)} in JPEG, which changes numbers of "
                "objects or classes, and masks of 0 and 1, at their edges: save the labels as PNG where they were drawn"
            )


def _named(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 1} other labels" if len(paths) > 1 else ""
    return f"{display_path(paths[0])}{more}"


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


def _other_values(
    found: np.ndarray, files: Sequence[FileValues], paths: Sequence[Path], voids: str = "", *, only_binary: bool = False
) -> str:
    """The message for values that are neither two, nor smeared, nor numbers of objects."""
    order = sorted(range(len(files)), key=lambda place: -len(files[place].values))
    where = _named([paths[place] for place in order])
    void = next((value for file in files if (value := void_value(file.values))), None)
    classes = found[found != void]
    if void is not None and number_objects([file.without([void]) for file in files]):
        return (
            f"the labels hold the values {listed(found)} ({where}): numbered objects and {void:g}, which seems to mark "
            f"what does not count; --ignore_index {void:g} says so"
        )
    if len(found) > FEW_VALUES or are_gradual(files):
        return (
            f"the labels hold {len(found)} values from {found[0]:g} to {found[-1]:g} ({where}), which are neither two "
            "values, nor classes, nor numbered objects: are image and label exchanged, or is it a map of "
            "probabilities or distances? A binary label has two values"
        )
    meaning = ",".join(f"{value:g}:{min(int(value), 1)}" for value in classes)
    meaning += f",{void:g}:ignore" if void else ""
    is_binary = void is not None and len(classes) == 2
    remedies = [f"if {void:g} marks what does not count, --ignore_index {void:g}"] if is_binary else []
    if only_binary:
        remedies.append("no classes are told apart here, so take them together as foreground")
    elif len(classes) > 2 and classes[-1] <= FEW_VALUES:
        remedies.append(f"if they are classes, --num_classes {int(classes[-1]) + 1}")
    said = "; ".join([*remedies, f'say what they mean, for example --label_map "{meaning}{voids}"'])
    return f"the labels hold the values {listed(found)} ({where}), more than background and foreground: {said}"


def _decide_colors(
    files: Sequence[FileValues], paths: Sequence[Path], plain: LabelReading, *, only_binary: bool
) -> tuple[LabelReading, list[str]]:
    """Black and one colour are background and foreground, colours of single objects too; others must be named."""
    found = reduce(np.union1d, (file.values.astype(np.int64) for file in files if file.is_color))
    greys = [file.values for file in files if not file.is_color]
    found = np.union1d(found, np.concatenate([np.rint(grey).astype(np.int64) * 0x010101 for grey in greys] or [[]]))
    found = found.astype(np.int64)
    if len(found) == 2 and found[0] == 0:
        text = f"#000000:0,{color_name(int(found[1]))}:1{_named_voids(plain)}"
        line = f"labels are in colours: black is background, {color_name(int(found[1]))} foreground"
        return replace(plain, label_map=LabelMap.parse(text)), [line]
    if found[0] == 0 and (color_objects(files) or (only_binary and are_single_objects(files))):
        return _as_objects(files, plain, "labels give every object a colour of its own")
    path = next(path for file, path in zip(files, paths, strict=True) if file.is_color)
    raise UserError(_color_message(path, found, len(paths) - 1))


def refuse_differing_palettes(palettes: Sequence[tuple[Mapping[int, int] | None, Path]], num_classes: int) -> None:
    """Refuse indices into palettes that a program made for each file anew, as GIMP and Photoshop do.

    Args:
        palettes: index → colour of every label, None without a palette, and its file.
    Raises:
        UserError: a colour of two files has indices of different classes.
    """
    first: dict[int, tuple[int, Path]] = {}
    for palette, path in palettes:
        colors = list((palette or {}).values())
        for index, color in (palette or {}).items():
            known, where = first.setdefault(color, (index, path)) if colors.count(color) == 1 else (index, path)
            if known != index and (num_classes > 1 or 0 in (known, index)):
                ordered = background_first(sorted(first.keys() | set(colors)), is_color=True)
                highest = max(num_classes, 2) - 1
                meaning = ",".join(f"{color_name(one)}:{min(place, highest)}" for place, one in enumerate(ordered))
                raise UserError(
                    f"labels have palettes of their own: {color_name(color)} is number {known} in "
                    f"{display_path(where)} and {index} in {display_path(path)}; say what colours mean, for example "
                    f'--label_map "{meaning}"'
                )


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
        return (
            f"{where}, {len(found)} different ones: it seems to be an image; are image and label exchanged? "
            "(In JPEG colours run into each other: save labels as PNG)"
        )
    ordered = background_first(found.tolist(), is_color=True)
    meaning = ",".join(f"{color_name(color)}:{min(place, 1)}" for place, color in enumerate(ordered))
    names = listed(found, is_color=True)
    return f'{where} ({names}); say what they mean, for example --label_map "{meaning}"'
