"""Labels that no name tells: a folder, or an ending of names, whose files hold what labels hold, beside images."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.image_io import read_stored_label
from datasets.label_summary import are_single_objects, fill_areas, summarize
from datasets.label_values import FEW_VALUES, LabelReading
from datasets.list_layouts import Tree
from datasets.list_pairing import has_mark, shared_affix, stem
from utils.cli import UserError

LOOKED_AT = 24  # files of a folder with images and labels
OF_FOLDER, FOLDERS = 4, 24  # files of a folder, and folders


class Guess(NamedTuple):
    """What ``--labels`` and ``--label_suffix`` would name, and the line that says so."""

    labels: list[str]
    label_suffix: list[str]
    said: str


def guess_labels(tree: Tree) -> Guess | None:
    """Find the labels of a tree of which names tell none, by what its files hold.

    They are the files below one folder, or those with one ending or beginning, if all of them that are looked at seem
    labels and none of the others does.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for found in tree.files:
        by_folder[found.path.parent.relative_to(tree.top)].append(found.path)
    looked = {folder: _look(by_folder[folder], OF_FOLDER) for folder in _some(list(by_folder), FOLDERS)}
    if len(looked) > 1 and (name := _telling_folder(looked)):
        why = next(why for folder, whys in looked.items() if name in folder.parts for why in whys.values() if why)
        return Guess([name], [], f"the files in {name} {why}: they are taken for the labels (--labels names others)")
    whys = _look([found.path for found in tree.files], LOOKED_AT)
    labels, images = ([path for path, why in whys.items() if bool(why) == wanted] for wanted in (True, False))
    if len(labels) < 2 or len(images) < 2:
        return None
    beginning, ending = shared_affix(list(map(stem, labels)))
    mark = next((mark for mark in (ending, beginning) if mark and not any(has_mark(path, mark) for path in images)), "")
    shown = f"…{mark}" if mark == ending else f"{mark}…"
    said = f"files named {shown} {whys[labels[0]]}: they are taken for the labels (--label_suffix names others)"
    return Guess([], [mark], said) if mark else None


def seems_label(path: Path) -> str | None:
    """Why a file seems to be a label, empty where it seems an image; None where it is blank or cannot be read."""
    try:
        stored = read_stored_label(path, LabelReading())
        file = summarize(stored.values, stored.ignored, stored.is_color)
    except UserError:
        return None
    if len(file.values) < 2:
        return None
    if len(file.values) == 2:
        return "hold two values, as masks do"
    if file.values[0] == 0 and are_single_objects([file]):
        return "number objects, as labels do"
    return (
        "hold a few values in whole areas, as labels do" if len(file.values) <= FEW_VALUES and fill_areas(file) else ""
    )


def _telling_folder(looked: Mapping[Path, Mapping[Path, str]]) -> str:
    """The one name that the folders with labels have and those with images have not; empty where there is none."""
    kinds = {folder: {bool(why) for why in whys.values()} for folder, whys in looked.items() if whys}
    of_images = {part for folder, kind in kinds.items() if kind == {False} for part in folder.parts}
    with_labels = [folder for folder, kind in kinds.items() if kind == {True}]
    names = {next((part for part in folder.parts if part not in of_images), "") for folder in with_labels}
    is_clear = with_labels and len(names) == 1 and len(with_labels) < len(kinds) and {True, False} not in kinds.values()
    return names.pop() if is_clear else ""


def _look(paths: Sequence[Path], most: int) -> dict[Path, str]:
    """Of some files why they seem labels, empty where they seem images."""
    return {path: why for path in _some(paths, most) if (why := seems_label(path)) is not None}


def _some(items: Sequence[Path], most: int) -> list[Path]:
    """At most so many, drawn with a fixed seed: in order, each second may be a label."""
    return sorted(random.Random(0).sample(items, min(most, len(items))))
