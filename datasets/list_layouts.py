"""What lies in the folders that a user has: which files are images, which are labels, and of which split.

Folders say so by their names (``train``, ``images``, ``masks``, ``imagesTr``, ``trainannot``, …), in any order and
depth; where they do not, file names do (``7.png`` beside ``7_mask.png``).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from datasets.list_foreign import FOREIGN, foreign_kind, is_read
from datasets.list_marks import label_marks
from datasets.list_pairing import (
    IMAGE_BEGINNINGS,
    IMAGE_ENDINGS,
    LABEL_BEGINNINGS,
    LABEL_ENDINGS,
    has_mark,
    is_entered,
    natural_key,
    pair_by_name,
    refuse_closed,
    stem,
    without_affix,
)
from utils.cli import UserError
from utils.run_folder import display_path

LAYOUTS = ("folders", "cityscapes")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}
IMAGE_WORDS = {"images", "image", "imgs", "img", "raw", "inputs", "input", "originals", "original", "frames"}
LABEL_WORDS = {
    "labels", "label", "masks", "mask", "annotations", "annotation", "annots", "annot", "gt", "gts", "ground", "truth",
    "groundtruth", "segmentations", "segmentation", "seg", "segs", "targets", "target", "manual", "msk", "msks", "lbl",
    "lbls",
}  # fmt: off
MASK_WORDS = {"mask", "masks", "msk", "msks"}
DRAWN_WORDS = {"manual", "manuals", "annotation", "annotations", "annots", "annot", "groundtruth", "gt", "gts"}
FILLERS = {"set", "data", "dataset", "split", "jpeg", "png", "tif", "tiff", "class"}
NUMBERED = re.compile(r"stage[\s_-]?\d+|\d(?:st|nd|rd|th)\b|\d(?:st|nd|rd|th)(?=_)")  # "stage1_train", "1st_manual"
ONE_LETTER = re.compile(r"^[a-z][_-]|[_-][a-z]$")  # of "x_train" and "train_y"
MERGED = "merged.json"  # in a folder of labels that were merged from a file an object
WRITTEN_HERE = {"manifest.json", MERGED}  # in folders of labels that this project wrote
SYSTEM_FILES = {"thumbs.db", "desktop.ini", *WRITTEN_HERE}

Say = Callable[[str], object]


class FolderName(NamedTuple):
    """What a folder's name says of the files in it."""

    split: str | None
    role: str | None  # "image" or "label"
    rest: str  # what else there is: ``crowd_1`` of ``labels_crowd1``


@dataclass(frozen=True, slots=True)
class Found:
    """An image file, or a file with a label, and what its folders say.

    Attributes:
        path: as reached from the folder given, links not resolved.
        split: ``train``, ``val``, ``test``, or None where no folder says so.
        role: ``image``, ``label``, or None.
        kind: of labels, the folder's name as ``--labels`` names it, or the ending of their file names.
        place: the folders that say nothing of split and role: they tell ``day1/7.tif`` from ``day2/7.tif``.
    """

    path: Path
    split: str | None
    role: str | None
    kind: str
    place: tuple[str, ...]


@dataclass(slots=True)
class Tree:
    """What was found below the folders given (``top`` is what they have in common): images, and others by suffix."""

    top: Path
    files: list[Found] = field(default_factory=list)
    foreign: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))


def read_tree(folders: Sequence[Path], labels: Sequence[str] = (), label_suffix: Sequence[str] = ()) -> Tree:
    """Walk folders and say of every image file what it is.

    Args:
        folders: with several, their own names count as well (``train`` and ``test``, ``images`` and ``masks``).
        labels: the folders' names or paths that ``--labels`` and ``--noisy_labels`` give: labels, whatever they are
            called.
        label_suffix: the endings of labels' names in folders that hold images and labels.
    Raises:
        UserError: a folder that does not exist; PermissionError: one that may not be read.
    """
    folders = [Path(os.path.abspath(folder)) for folder in folders]
    for folder in folders:
        if folder.is_file():
            raise UserError(f"{display_path(folder)} is a file: name the folder that has the images and labels")
        if not folder.is_dir():
            raise UserError(f"folder not found: {display_path(folder)}; name the one that has the images and labels")
    tree = Tree(Path(os.path.commonpath(folders)))
    paths = dict.fromkeys(path for folder in folders for path in _walk(folder, labels))
    images = {path: stem(path) for path in paths if is_read(path)}
    roles_in = _roles_by_folder(images, tree.top)
    tree.files = [_interpret(path, tree.top, labels, roles_in) for path in images]
    for path in (path for path in paths if path not in images):
        tree.foreign[foreign_kind(path, {*images.values()}, _names_part)].append(path)
    if tree.files and all(found.role == "label" for found in tree.files):  # a folder above all is called so
        tree.files = [replace(found, role=None, kind="") for found in tree.files]
    tree.files = _settle_variants(_split_by_names(tree.files))
    tree.files = [found for group in by_split(tree.files).values() for found in _sort_out(group, labels, label_suffix)]
    tree.files = _share_splits(tree.files)
    tree.files.sort(key=lambda found: natural_key(found.path))
    return tree


@cache
def folder_name(name: str) -> FolderName:
    """Read a folder's name.

    >>> folder_name("imagesTr"), folder_name("trainannot").role, folder_name("labels_crowd1").rest
    (FolderName(split='train', role='image', rest=''), 'label', 'crowd_1')
    """
    words = list(_words(NUMBERED.sub("", name)))
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    has_label, has_image = (any(word in known for word in words) for known in (LABEL_WORDS, IMAGE_WORDS))
    role = "label" if has_label else "image" if has_image else None
    if splits and role is None and sorted({*words} - {*SPLIT_WORDS}) in (["x"], ["y"]):
        role = "image" if "x" in words else "label"
        words = [word for word in words if word in SPLIT_WORDS]
    if has_label and has_image and "and" in words:
        role = None
    known = {*SPLIT_WORDS, *LABEL_WORDS, *IMAGE_WORDS}
    others = [word for word in words if word not in known and word not in FILLERS and not _is_year(word)]
    is_split = len(splits) == 1 and (role is not None or not others)
    return FolderName(splits.pop() if is_split else None, role, "_".join(others))


def is_mask_folder(name: str) -> bool:
    """Whether a folder of labels is called after masks, which may be those of a field of view."""
    return not MASK_WORDS.isdisjoint(_words(name))


def is_drawn_folder(name: str) -> bool:
    """Whether a folder of labels is called after those who drew them, and after masks as well or not."""
    return not DRAWN_WORDS.isdisjoint(_words(name)) and not is_mask_folder(name)


def _walk(folder: Path, labels: Sequence[str]) -> Iterator[Path]:
    """Every file below a folder, links followed, but none that systems leave behind; folders such as .zarr as files."""
    for parent, folders, files in os.walk(folder, onerror=refuse_closed, followlinks=True):
        here = Path(parent)
        if WRITTEN_HERE.intersection(files) and not any(_is_named(label, here) for label in labels):
            folders.clear()  # noisy, repaired or merged labels, taken where they are asked for
            continue
        packed = [name for name in folders if Path(name).suffix.lower() in FOREIGN]
        folders[:] = [name for name in folders if name not in packed and is_entered(here, name)]
        yield from (
            here / name for name in (*files, *packed) if not name.startswith(".") and name.lower() not in SYSTEM_FILES
        )


def _words(name: str) -> Iterator[str]:
    """The words of a folder's name, in small letters: ``imagesTr`` is two, and so is ``trainannot``."""
    name = unicodedata.normalize("NFC", name)
    for word in re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)):
        word = word.lower()
        split = next((key for key in SPLIT_WORDS if len(key) > 2 and word.startswith(key) and word != key), "")
        if split and word.removeprefix(split) in LABEL_WORDS | IMAGE_WORDS:
            yield split
            word = word.removeprefix(split)
        yield word


def _names_part(name: str) -> bool:
    return any(word in SPLIT_WORDS for word in _words(name))


def _is_year(word: str) -> bool:
    return word.isdecimal() and len(word) == 4


def _roles_by_folder(files: Iterable[Path], top: Path) -> dict[Path, set[str | None]]:
    """What the names of the folders in every folder below ``top`` say of their files."""
    roles_in: dict[Path, set[str | None]] = defaultdict(set)
    for folder in {folder for file in files for folder in file.relative_to(top).parents[:-1]}:
        roles_in[folder.parent].add(folder_name(folder.name).role)
    return roles_in


def _interpret(path: Path, top: Path, labels: Sequence[str], roles_in: Mapping[Path, Set[str | None]]) -> Found:
    """What the folders of a file below ``top`` say of it; of several that name a role or a split, the innermost.

    But ``masks/day1_images`` beside ``images/day1_images`` holds labels, as does all that ``--labels`` names.
    """
    split = role = None
    kind, place = "", []
    for folder in reversed(path.relative_to(top).parents[:-1]):
        said = folder_name(folder.name)
        given = next((label for label in labels if _is_named(label, top / folder)), None)
        split = said.split or split
        outer = folder.parent
        is_one_side = "label" not in roles_in[outer] and "image" in roles_in[outer.parent]
        if given is not None:
            role, kind = "label", given
        elif said.role == "label" and not said.rest and kind in labels:
            continue  # ``masks`` in the folder of an annotator that was named
        elif said.role is not None:
            if said.role == "image" and said.rest:
                place.append(said.rest)
            if said.role == "label" or role != "label" or not (kind in labels or is_one_side):
                role, kind = said.role, _without_split(folder.name) if said.role == "label" else ""
        elif said.split is None:
            place.append(unicodedata.normalize("NFC", folder.name))
    return Found(path, split, role, kind, tuple(place))


def _split_by_names(files: Sequence[Found]) -> list[Found]:
    """Files that no folder divides, each named after a part: ``train_images.npy``, ``x_test.npy``, ``testA_1.bmp``.

    A part without labels is none: the images that have some are divided.
    """
    affixes = (*IMAGE_BEGINNINGS, *LABEL_BEGINNINGS), (*IMAGE_ENDINGS, *LABEL_ENDINGS)
    names = [without_affix(stem(found.path).lower(), *affixes) for found in files]
    splits = [SPLIT_WORDS.get(ONE_LETTER.sub("", name)) for name in names]
    if not any(splits):
        bare = [without_affix(stem(found.path), *affixes) for found in files]
        splits = [SPLIT_WORDS.get(next(_words(name), "")) for name in bare]
    counts = Counter(splits)
    if None in counts or len(counts) < 2 or min(counts.values()) < 2 or any(found.split for found in files):
        return list(files)
    return [replace(found, split=split) for found, split in zip(files, splits, strict=True)]


def _settle_variants(files: Sequence[Found]) -> list[Found]:
    """``labels_plate1`` beside ``images_plate1`` are the labels of that plate, not another kind of labels.

    Beside ``plate1`` or ``Slide_1`` as well, where all kinds of labels name such a folder, each another one.
    """
    places = {found.place[-1]: found.role for found in files if found.role != "label" and found.place}
    kinds = {found.kind for found in files if found.role == "label"}
    nearest = {kind: _places_named(folder_name(kind).rest, places) for kind in kinds}
    taken = [name for names in nearest.values() for name in names]
    if not len(kinds) == len(taken) == len({*taken}) > 1:
        nearest = {kind: [name for name in names if places[name] == "image"] for kind, names in nearest.items()}
    settled = []
    for found in files:
        name = next(iter(nearest.get(found.kind, [])), "") if found.role == "label" else ""
        if name and found.place[-1:] != (name,):
            found = replace(found, kind="labels", place=(*found.place, name))
        settled.append(found)
    return settled


def _places_named(rest: str, places: Iterable[str]) -> list[str]:
    """The folders of images that are called as what else the name of a folder of labels says, or else end so."""
    words = {place: folder_name(place).rest for place in places} if rest else {}
    same = [place for place, said in words.items() if said == rest]
    return same or [place for place, said in words.items() if said.endswith(f"_{rest}")]


def _sort_out(files: Sequence[Found], labels: Sequence[str], label_suffix: Sequence[str]) -> list[Found]:
    """The files of one split with their roles: where no folder holds labels, file names tell them from images."""
    taken = {_beside_images(found.path) for found in files if found.role == "image"}
    if any(found.role == "label" for found in files):
        return [_with_role(found, taken, labels, label_suffix) for found in files]
    copies = {found: None for found in files if _is_copy(found, taken)}
    by_folder: dict[Path, list[Found]] = defaultdict(list)
    for found in files:
        by_folder[found.path.parent] += [] if found in copies else [found]
    return [*copies, *(found for group in by_folder.values() for found in _sort_folder(group, label_suffix))]


def _beside_images(path: Path) -> tuple[Path, str]:
    """The folder in which the folder of images lies that holds an image, and the image's name."""
    return next(folder for folder in path.parents if folder_name(folder.name).role == "image").parent, stem(path)


def _is_copy(found: Found, taken: Set[tuple[Path, str]]) -> bool:
    """Whether a file of no role is named as an image beside whose folder it lies: an overlay, or a label of images."""
    return found.role is None and any((folder, stem(found.path)) in taken for folder in found.path.parents)


def _with_role(found: Found, taken: Set[tuple[Path, str]], labels: Sequence[str], label_suffix: Sequence[str]) -> Found:
    """A file where folders hold labels: a label of its kind, an image, or neither: an overlay beside ``images``.

    Args:
        taken: what `_beside_images` says of the images in folders that are called so.
    """
    if found.role is None:
        return found if _is_copy(found, taken) else replace(found, role="image")
    mark = next((mark for mark in label_suffix if has_mark(found.path, mark)), None)
    is_of_folder = found.role == "image" or mark is None or (found.kind in labels and len(label_suffix) == 1)
    return found if is_of_folder else replace(found, kind=mark)


def _share_splits(files: Sequence[Found]) -> list[Found]:
    """Where folders divide the images alone, or the labels alone, the others follow their partners.

    Raises:
        UserError: images of one name in several parts, whose labels no folder divides, or the other way round.
    """
    images, labels = ([found for found in files if found.role == role] for role in ("image", "label"))
    is_divided = [any(found.split for found in group) for group in (images, labels)]
    if not images or not labels or all(is_divided) or not any(is_divided):
        return list(files)
    place_of = {found.path: found.place for found in files}
    split_of = {found.path: found.split for found in files}
    for kind in {found.kind for found in labels}:
        of_kind = [found.path for found in labels if found.kind == kind]
        for image, label in pair_by_name([found.path for found in images], of_kind, place_of.__getitem__).pairs:
            split_of[image] = split_of[label] = split_of[image] or split_of[label]
    return [replace(found, split=split_of[found.path]) for found in files]


def _sort_folder(files: Sequence[Found], label_suffix: Sequence[str]) -> list[Found]:
    """The files of one folder, those with a label's ending or beginning marked as labels of that kind."""
    sample = [] if label_suffix else _one_sample(files)
    if sample:
        return sample
    paths = [found.path for found in files]
    marks = list(label_suffix) or label_marks(paths)
    sorted_out = []
    for found in files:
        mark = next((mark for mark in marks if has_mark(found.path, mark)), None)
        sorted_out.append(replace(found, role="image") if mark is None else replace(found, role="label", kind=mark))
    return sorted_out


def _one_sample(files: Sequence[Found]) -> list[Found]:
    """The files of a folder that holds one sample, ``img.png`` and ``label.png``, as labelme exports; else nothing.

    Of two files the other is the image, whatever it is called: ``dapi.tif`` and ``mask.tif``.
    """
    labels = [found for found in files if stem(found.path).lower() in LABEL_WORDS]
    images = [found for found in files if stem(found.path).lower() in IMAGE_WORDS or len(files) == 2]
    images = [found for found in images if found not in labels]
    if len(images) != 1 or len(labels) != 1:
        return []
    others = [replace(found, role=None) for found in files if found not in (*images, *labels)]
    return [replace(images[0], role="image"), replace(labels[0], role="label", kind=stem(labels[0].path)), *others]


def by_split(files: Iterable[Found]) -> dict[str | None, list[Found]]:
    """Files by the split that their folder names; None where it names none."""
    groups: dict[str | None, list[Found]] = defaultdict(list)
    for found in files:
        groups[found.split].append(found)
    return groups


def _without_split(name: str) -> str:
    """The name of a folder without the split in it: ``masks`` of ``train_masks``, ``labels`` of ``labelsTr``."""
    if folder_name(name).split is None:
        return name
    return "_".join(word for word in _words(name) if word not in SPLIT_WORDS)


def _is_named(given: str, folder: Path) -> bool:
    """Whether ``--labels`` means a folder: by its name, by the end of its path, or by its path from here."""
    named = Path(given)
    if len(named.parts) > 1 and named.is_dir():
        return os.path.abspath(named) == str(folder)
    above = named.parts[:-1]
    return _same_name(named.name, folder.name) and folder.parts[len(folder.parts) - len(above) - 1 : -1] == above


def _same_name(given: str, name: str) -> bool:
    one, other = (unicodedata.normalize("NFC", text).casefold() for text in (given, name))
    return one in (other, unicodedata.normalize("NFC", _without_split(name)).casefold())
