"""Which label belongs to which image, by their names: pure functions from files to pairs of files."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets.list_names import match_within, without_codes, without_zeros
from utils.cli import UserError, shortened
from utils.paths import display_path

IMAGE_SUFFIXES = (
    ".tif", ".tiff", ".btf", ".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".jp2",
    ".pbm", ".pgm", ".ppm", ".pnm", ".npy",
)  # fmt: off
LABEL_ENDINGS = (
    "_cp_masks",
    "_segmentation",
    "_groundtruth",
    "_annotation",
    "_manual",
    "_labels",
    "_label",
    "_masks",
    "_mask",
    "_seg",
    "_gt",
)  # the longer before those that end alike
LABEL_BEGINNINGS = (
    "labels_",
    "label_",
    "masks_",
    "mask_",
    "seg_",
    "gt_",
    "y_",
    "mask of ",
    "count masks of ",
    "classified image of ",
)  # the last three are ImageJ's
IMAGE_ENDINGS = (
    *("_images", "_image", "_imgs", "_img", "_inputs", "_input", "_raw", "_volume", "_im", "_x"),
    "_0000",  # nnU-Net's first channel
)
IMAGE_BEGINNINGS = ("images_", "image_", "img_", "raw_", "im_", "x_")
SEPARATORS = "_-. "
SYSTEM_FOLDERS = {"__macosx", "__pycache__", "@eadir", "lost+found", "system volume information", "$recycle.bin"}
# "@eadir" holds the thumbnails of network drives; the last three are closed, at the top of a disk

Row = tuple[Path, ...]
"""An image and its labels: none, one, or those of several annotators."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Images with their labels, and the files that found no partner; all in natural order."""

    pairs: list[tuple[Path, Path]]
    images_alone: list[Path]
    labels_alone: list[Path]
    note: str = ""  # how names were taken to belong together, if not simply by being equal


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """A sort key that puts ``2.tif`` before ``10.tif``, and any number before any letter."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def is_image_file(path: Path) -> bool:
    """Whether a file's name is that of an image: a suffix of any case, not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """The image files directly inside a folder, in natural order; none if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted((file for file in folder.iterdir() if is_image_file(file) and file.is_file()), key=natural_key)


def is_entered(parent: Path, name: str) -> bool:
    """Whether to look into a folder for images: not hidden, none that systems leave behind, no link to above."""
    if name.startswith(".") or name.lower() in SYSTEM_FOLDERS:
        return False
    return not Path(os.path.realpath(parent)).is_relative_to(os.path.realpath(parent / name))


def refuse_closed(error: OSError) -> None:
    """Raise what `os.walk` would pass over: a folder that may not be read, whose files would be missed in silence."""
    raise error


def list_image_tree(folder: Path, is_wanted: Callable[[Path], bool] = is_image_file) -> list[Path]:
    """The image files inside a folder and the folders below it, or others, links followed, in natural order.

    Folders below it are left out as `is_entered` says, and results of this project wherever they lie. Links to what is
    gone are there: whoever opens them says so.

    Raises:
        PermissionError: a folder that may not be read.
    """
    from utils.output_folder import WRITTEN, written_names

    found: list[Path] = []
    if not folder.is_dir():
        return []
    for place, folders, files in os.walk(folder, onerror=refuse_closed, followlinks=True):
        here = Path(place)
        results = written_names(here) if WRITTEN in files else set()
        tops = {name.partition("/")[0] for name in results}
        folders[:] = [name for name in folders if name not in tops and is_entered(here, name)]
        found += [file for name in files if name not in tops and is_wanted(file := here / name) and is_there(file)]
    return sorted(found, key=natural_key)


def is_there(file: Path) -> bool:
    """Whether a name is that of a file, or of a link that leads nowhere."""
    return file.is_file() or (file.is_symlink() and not file.exists())


def stem(path: Path) -> str:
    """What an image and its label have in common: ``7`` of ``7.tif``, ``7.tif.png`` and ``7.ome.tif``.

    Accents have one form (NFC), whichever of several the file system keeps.
    """
    name = path.stem
    while Path(name).suffix.lower() in IMAGE_SUFFIXES:
        name = Path(name).stem
    return unicodedata.normalize("NFC", name.removesuffix(".ome"))


def pair_files(
    images: Sequence[Path],
    labels: Sequence[Path],
    image_key: Callable[[Path], Hashable] = stem,
    label_key: Callable[[Path], Hashable] = stem,
) -> Pairing:
    """Pair the images and labels whose keys are equal, in the order of the images.

    Raises:
        UserError: several images or several labels have one key; all of them are named.
    """
    label_of = _by_key(labels, label_key)
    keys = _by_key(images, image_key)
    return Pairing(
        pairs=[(image, label_of[key]) for key, image in keys.items() if key in label_of],
        images_alone=[image for key, image in keys.items() if key not in label_of],
        labels_alone=[label for key, label in label_of.items() if key not in keys],
    )


def pair_by_name(
    images: Sequence[Path],
    labels: Sequence[Path],
    place_of: Callable[[Path], tuple[str, ...]] = lambda path: (),
    label_suffix: str | None = None,
) -> Pairing:
    """Pair images and labels by stem; what stays alone then by ever looser readings of the names.

    The readings, in order: known beginnings and endings left away (``7_mask``, ``img_7``, nnU-Net's ``7_0000``);
    where nothing has been paired so far, whatever all names share (``7_ahl``); folders not compared, where one side
    has none or nothing has been paired; letter case not compared. Where none of these pairs anything, the same without
    random codes (``0a1b2c3d-7_mask``), one name within the other (``cell7`` and ``t3_cell7_x9``), and the same without
    leading zeros, if it pairs all. Looser readings pair only names that are unique on both sides.

    Args:
        images, labels: files in natural order.
        place_of: the folders that must agree as well.
        label_suffix: the ending (or beginning, if it ends in a separator) of the labels' names, not to be compared.
    Returns: the pairs, with a note where names were not simply equal.
    Raises:
        UserError: several images or several labels have one name in one place; all of them are named.
    """

    def label_name(label: Path) -> str:
        return stem(label) if label_suffix is None else without_mark(label, label_suffix)

    strict = pair_files(
        images, labels, lambda path: (place_of(path), stem(path)), lambda path: (place_of(path), label_name(path))
    )
    alone, label_alone = strict.images_alone, strict.labels_alone
    readings = _readings(alone, label_alone, place_of, stem, label_name, nothing_paired=not strict.pairs)
    found, note = _match(alone, label_alone, readings)
    if not found and not strict.pairs:
        found, note = _match_loosely(alone, label_alone, place_of, label_name)
    pairs, taken = dict(strict.pairs) | found, set(found.values())
    return Pairing(
        [(image, pairs[image]) for image in images if image in pairs],
        [image for image in alone if image not in found],
        [label for label in label_alone if label not in taken],
        note,
    )


class _Reading(NamedTuple):
    """One way to read names: what must agree, and the words for it."""

    image_key: Callable[[Path], Hashable]
    label_key: Callable[[Path], Hashable]
    said: str


def _readings(
    images: Sequence[Path],
    labels: Sequence[Path],
    place_of: Callable[[Path], tuple[str, ...]],
    image_name: Callable[[Path], str],
    label_name: Callable[[Path], str],
    nothing_paired: bool,
) -> Iterable[_Reading]:
    def placed(name_of: Callable[[Path], str]) -> Callable[[Path], Hashable]:
        return lambda path: (place_of(path), name_of(path))

    def bare_image(path: Path) -> str:
        return without_affix(image_name(path), IMAGE_BEGINNINGS, IMAGE_ENDINGS)

    def bare_label(path: Path) -> str:
        return without_affix(label_name(path), LABEL_BEGINNINGS, LABEL_ENDINGS)

    for one_name, other_name in ((image_name, bare_label), (bare_image, bare_label), (bare_image, label_name)):
        yield _Reading(placed(one_name), placed(other_name), "the names are equal but for a known ending or beginning")
    by_shared: list[tuple[Callable[[Path], str], Callable[[Path], str]]] = []
    if nothing_paired:
        of_images, of_labels = (
            shared_affix([name_of(path) for path in paths])
            for paths, name_of in ((images, image_name), (labels, label_name))
        )
        nothing = ("", "")
        for one, other in ((nothing, of_labels), (of_images, nothing), (of_images, of_labels)):
            if not _differ_by_number(of_images, of_labels):
                by_shared.append((_stripped(image_name, one), _stripped(label_name, other)))
    said = "the names are equal but for what all of them share"
    for one_name, other_name in by_shared:
        yield _Reading(placed(one_name), placed(other_name), said)
    only_one_has_folders = not any(map(place_of, labels)) or not any(map(place_of, images))
    if only_one_has_folders or nothing_paired:
        yield _Reading(bare_image, bare_label, "the names are equal, the folders are not")
    for one_name, other_name in by_shared if only_one_has_folders else []:
        yield _Reading(one_name, other_name, f"{said}, the folders are not")
    yield _Reading(
        placed(lambda path: bare_image(path).casefold()),
        placed(lambda path: bare_label(path).casefold()),
        "the names are equal but for upper and lower case",
    )


def _match(
    images: Sequence[Path], labels: Sequence[Path], readings: Iterable[_Reading], also: str = ""
) -> tuple[dict[Path, Path], str]:
    """Image → label by one reading after the other, and the note of the first that pairs any."""
    pairs: dict[Path, Path] = {}
    note = ""
    for reading in readings:
        found = _unique_matches(images, labels, reading)
        taken = set(found.values())
        images = [image for image in images if image not in found]
        labels = [label for label in labels if label not in taken]
        note = note or _note(found, f"{reading.said}{also}")
        pairs |= found
    return pairs, note


def _match_loosely(
    images: Sequence[Path],
    labels: Sequence[Path],
    place_of: Callable[[Path], tuple[str, ...]],
    label_name: Callable[[Path], str],
) -> tuple[dict[Path, Path], str]:
    """Image → label where nothing else pairs any: random codes left away, one name within the other, leading zeros."""

    def without(change: Callable[[str], str], what: str) -> tuple[dict[Path, Path], str]:
        names = [lambda path, name_of=name_of: change(name_of(path)) for name_of in (stem, label_name)]
        readings = _readings(images, labels, place_of, *names, nothing_paired=True)
        return _match(images, labels, readings, f", and {what} left away")

    found, note = without(without_codes, "random codes")
    if not found:
        image_names = {image: without_codes(stem(image)) for image in images}
        label_names = {label: without_codes(label_name(label)) for label in labels}
        bare = {label: without_affix(name, LABEL_BEGINNINGS, LABEL_ENDINGS) for label, name in label_names.items()}
        found = match_within(image_names, label_names, bare)
        note = _note(found, "one name holds the other")
    if not found:
        found, note = without(without_zeros, "leading zeros")
        if len(found) < max(2, min(len(images), len(labels))):
            return {}, ""
    return found, note


def _note(found: Mapping[Path, Path], said: str) -> str:
    return next((f"{label.name} is taken for the label of {image.name} ({said})" for image, label in found.items()), "")


def _unique_matches(images: Sequence[Path], labels: Sequence[Path], reading: _Reading) -> dict[Path, Path]:
    """Image → label where the key belongs to one image and one label only."""
    image_keys, label_keys = list(map(reading.image_key, images)), list(map(reading.label_key, labels))
    image_counts, label_counts = Counter(image_keys), Counter(label_keys)
    label_of = dict(zip(label_keys, labels, strict=True))
    return {
        image: label_of[key]
        for image, key in zip(images, image_keys, strict=True)
        if image_counts[key] == 1 and label_counts[key] == 1
    }


# Beginnings and endings of names


def without_affix(name: str, beginnings: Sequence[str], endings: Sequence[str]) -> str:
    """A name without the first known ending or, if it has none, beginning; of any letter case.

    >>> without_affix("7_cp_masks", LABEL_BEGINNINGS, LABEL_ENDINGS), without_affix("Mask_7", LABEL_BEGINNINGS, ())
    ('7', '7')
    """
    lower = name.lower()
    for ending in endings:
        for mark in spellings(ending):
            if lower.endswith(mark) and len(name) > len(mark):
                return name[: -len(mark)]
    for beginning in beginnings:
        for mark in spellings(beginning):
            if lower.startswith(mark) and len(name) > len(mark):
                return name[len(mark) :]
    return name


def spellings(mark: str) -> tuple[str, ...]:
    """A known mark with each of the separators that people put there: ``_mask``, ``-mask``, `` mask``."""
    return (mark, mark.replace("_", "-"), mark.replace("_", " "))


def has_mark(path: Path, mark: str) -> bool:
    """Whether a file's stem, or its whole name, ends with ``mark``, or begins with it before a separator or number."""
    return without_mark(path, mark) != stem(path) or unicodedata.normalize("NFC", path.name).endswith(mark)


def without_mark(path: Path, mark: str) -> str:
    """A file's stem without ``mark``, see `has_mark`.

    >>> without_mark(Path("7_ahl.png"), "_ahl"), without_mark(Path("ahl_7.png"), "ahl_")
    ('7', '7')
    >>> without_mark(Path("mask7.png"), "mask")
    '7'
    """
    name, mark = stem(path), unicodedata.normalize("NFC", mark)
    if begins_with_mark(name, mark):
        return name[len(mark) :]
    whole = unicodedata.normalize("NFC", path.name)
    if mark and whole.endswith(mark) and not name.endswith(mark):
        return stem(Path(whole[: -len(mark)])) if Path(mark).suffix else whole[: -len(mark)]
    return name.removesuffix(mark)


def begins_with_mark(name: str, mark: str) -> bool:
    """Whether a mark that ends in a separator begins a name, or a word, before a number that is all the rest."""
    is_word = mark.isalpha() and name[len(mark) :].isdecimal()
    return bool(mark) and name.startswith(mark) and (mark[-1] in SEPARATORS or is_word)


def shared_affix(names: Sequence[str]) -> tuple[str, str]:
    """The beginning and the ending that all names share, cut back to a separator or a change between letter and digit.

    >>> shared_affix(["21_manual1", "22_manual1"]), shared_affix(["im001", "im002"]), shared_affix(["a10", "a11"])
    (('', '_manual1'), ('im', ''), ('a', ''))
    """
    if len(names) < 2:
        return "", ""
    beginning = os.path.commonprefix(names)
    while beginning and not all(_is_border(name, len(beginning)) for name in names):
        beginning = beginning[:-1]
    rests = [name[len(beginning) :] for name in names]
    ending = os.path.commonprefix([rest[::-1] for rest in rests])[::-1]
    while ending and not all(_is_border(rest, len(rest) - len(ending)) for rest in rests):
        ending = ending[1:]
    return beginning, ending


def agree_but_for_shared(some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether the same names are left where each side leaves away what all its names share: ``7_orig`` and ``7``."""
    one, other = ({_strip(name, shared_affix(names)) for name in names} for names in (some, others))
    return len(one) > 1 and one == other


def _is_border(name: str, index: int) -> bool:
    if not 0 < index < len(name):
        return False
    before, after = name[index - 1], name[index]
    return before in SEPARATORS or after in SEPARATORS or before.isdecimal() != after.isdecimal()


def _differ_by_number(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether what images share and what labels share differ by digits alone: those of another plate or field."""
    return one != other and [re.sub(r"\d", "", text) for text in one] == [re.sub(r"\d", "", text) for text in other]


def _stripped(name_of: Callable[[Path], str], affix: tuple[str, str]) -> Callable[[Path], str]:
    return lambda path: _strip(name_of(path), affix)


def _strip(name: str, affix: tuple[str, str]) -> str:
    return name.removeprefix(affix[0]).removesuffix(affix[1])


def _by_key(files: Sequence[Path], key_of: Callable[[Path], Hashable]) -> dict[Hashable, Path]:
    groups: dict[Hashable, list[Path]] = {}
    for file in files:
        groups.setdefault(key_of(file), []).append(file)
    clashes = [group for group in groups.values() if len(group) > 1]
    if clashes:
        folder = os.path.commonpath([file.parent for group in clashes for file in group])
        names = [" and ".join(os.path.relpath(file, folder) for file in group) for group in clashes]
        raise UserError(
            f"{display_path(Path(folder))} has files of one name, so that it is open which one is meant: "
            f"{shortened(names)}; keep one of each"
        )
    return {key: group[0] for key, group in groups.items()}
