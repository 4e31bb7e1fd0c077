"""From the folders that people have to the lists of a data set: found, paired, divided, written, told.

The work of the command ``datasets/make_lists.py``.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.catalog import check_name, is_simulated
from datasets.image_files import split_plane
from datasets.list_advice import Advice, advise, next_command
from datasets.list_doubts import doubtful_tiles
from datasets.list_files import NOISY_LIST, SPLITS, list_text
from datasets.list_films import film_groups, film_rows
from datasets.list_foreign import tell_foreign
from datasets.list_guess import guess_labels
from datasets.list_layouts import Say, read_tree
from datasets.list_pairing import Row
from datasets.list_parts import LISTS, RECORD, ListsBefore, divide, image_marks, read_lists_record, tell_changes
from datasets.list_preview import Tile, legend_of, read_tile, spread, write_sheet
from datasets.list_rows import Parts, find_noisy, find_rows
from datasets.list_stacks import expand_stacks
from datasets.list_tasks import task_rows
from utils.cli import UserError, counted, shortened
from utils.files import atomic_write, check_places, same_content, write_json
from utils.run_folder import REPO_ROOT, display_path

PREVIEW = "preview.jpg"
STREETS = ["--num_classes 19", "--in_channels 3"]  # of the layout cityscapes, whatever classes its files happen to show

Lists = dict[str, list[Row]]
"""The rows of every list, by its path below ``txt/<dataset>``."""


def make_lists(
    dataset: str,
    folders: Sequence[Path] = (),
    *,
    labels: Sequence[str] = (),
    noisy_labels: str | None = None,
    label_suffix: Sequence[str] = (),
    split: str | None = None,
    group_by: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    layout: str = "folders",
    label_map: str | None = None,
    channels: Sequence[str] = (),
    root: Path = REPO_ROOT,
    say: Say = print,
) -> Lists:
    """Pair the images and labels below folders, divide them, and write the lists below ``txt/<dataset>``.

    Beside them goes ``preview.jpg``. The last line that is said is the command to type next.

    Args:
        dataset: the name that the lists get.
        folders: where images and labels lie, in any usual layout (default: ``datasets/<dataset>``).
        labels: the folders of labels; of several, each gives a column: the labels of several annotators.
        noisy_labels: the folder of a second, noisy set of training labels, for ``train_noisyLabel.txt``.
        label_suffix: what the names of labels end with; of several, each gives a column.
        split: parts of train, val and test such as ``70/15/15``, for images that no folder divides.
        group_by: a regular expression; images in whose path it finds the same text stay together.
        seed: of the split.
        overwrite: replace lists that were changed by hand, which are kept as ``….bak``.
        layout: ``folders``, or ``cityscapes``, whose labels are written anew, see `datasets.cityscapes`.
        label_map: what values of labels mean, for the checks, the sheet and the command to type next.
        channels: of the images, for the same.
        root: the folder that has ``txt`` and ``datasets``.
        say: takes the lines meant for the user.
    Returns: what each list holds.
    Raises:
        UserError: no images; labels of several kinds and none named; equal names; images and labels of which no two
            agree; no image or no label that can be read; a list that was changed by hand.
    """
    check_name(dataset)
    target, list_folder = root / "datasets" / dataset, root / "txt" / dataset
    check_places(list_folder / name for name in (*LISTS.values(), RECORD, PREVIEW))
    folders = [Path(folder) for folder in folders] or [target]
    if is_simulated(dataset) and any(not folder.resolve().is_relative_to(target.resolve()) for folder in folders):
        raise UserError(
            f"--dataset {dataset} is the name of a set that is simulated with its lists: choose another name"
        )
    asked = {"split": split, "group_by": group_by, "seed": seed}
    if layout == "cityscapes":
        parts, noisy = _cityscapes(folders, target, labels, noisy_labels, say)
    else:
        parts, noisy = _folders(folders, target, labels, noisy_labels, label_suffix, say)
    before = ListsBefore.read(list_folder)
    marks = image_marks((row for rows in parts.values() for row in rows), root)
    known = before.parts_of(marks)
    group_by = group_by or film_groups(parts)
    settled = known if before.is_for(asked) else {}
    divided = divide(parts, split, group_by, seed, settled=settled, root=root, say=say)
    tell_changes(known, divided, gone=before.gone(marks), root=root, say=say)
    contents = {LISTS[part]: divided[part] for part in SPLITS if divided.get(part)}
    if noisy is not None:
        train = {row[0] for row in divided.get("train", [])}
        contents[f"train/{NOISY_LIST}"] = [row for row in noisy if row[0] in train]
    tell_repeats(contents, say)
    advice = advise(contents, label_map, channels)
    marks |= {name: mark for name, mark in before.marks.items() if LISTS[before.part_of[name]] not in contents}
    write_lists(list_folder, contents, root=root, asked=asked, marks=marks, overwrite=overwrite, say=say)
    for name in (*LISTS.values(), f"train/{NOISY_LIST}"):
        if name not in contents:
            _tell_missing(name, contents, list_folder, say)
    tiles = write_preview(list_folder / PREVIEW, dataset, contents, advice)
    say(f"look at {display_path(list_folder / PREVIEW)}: do the outlines fit?")
    doubts = [] if len(advice.classes) > 2 else doubtful_tiles(tiles, is_objects=advice.reading.objects)
    for note in (*advice.notes, *doubts):
        say(note)
    options = STREETS if layout == "cityscapes" else advice.options
    say(next_command(dataset, contents, options, LISTS["train"]))
    return contents


def write_preview(path: Path, dataset: str, contents: Lists, advice: Advice) -> list[Tile]:
    """Write the contact sheet of a dozen samples, spread over all lists, and return what it shows."""
    list_of = {row: Path(name).stem for name, rows in contents.items() for row in rows}
    rows = list(list_of)
    shown = [rows[index] for index in spread(len(rows))]
    how = {name: getattr(advice, name) for name in ("reading", "classes", "void", "in_channels", "channels")}
    tiles = [read_tile(row, list_of[row], **how) for row in shown]
    annotators = max(shown, key=len)[1:]
    legend = legend_of([label.parent.name for label in annotators], advice.classes)
    title = f"{dataset}: {len(shown)} of {counted(rows, 'image')}; on the right with the outlines of labels"
    write_sheet(path, tiles, title, legend)
    return tiles


def _folders(
    folders: Sequence[Path],
    target: Path,
    labels: Sequence[str],
    noisy_labels: str | None,
    label_suffix: Sequence[str],
    say: Say,
) -> tuple[Parts, list[Row] | None]:
    named = [name for name in (*labels, noisy_labels) if name is not None]
    folders = [*folders, *_folders_elsewhere(named)]
    tree = read_tree(folders, named, label_suffix)
    merged = target / "labels_merged"
    noisy = None
    if parts := {} if label_suffix else film_rows(tree, labels, noisy_labels, say):
        if noisy_labels is not None:
            noisy = [row for rows in film_rows(tree, [noisy_labels], None, lambda line: None).values() for row in rows]
    else:
        parts = task_rows(tree, labels, merged, say)
    tell_foreign(tree.foreign, say)
    if not parts:
        has_labels = named or label_suffix or any(found.role == "label" for found in tree.files)
        if not has_labels and (guess := guess_labels(tree)) is not None:
            say(guess.said)
            labels, label_suffix = guess.labels, guess.label_suffix
            tree = read_tree(folders, labels, label_suffix)
        parts = find_rows(tree, labels, label_suffix, noisy_labels=noisy_labels, merged_folder=merged, say=say)
        noisy = None if noisy_labels is None else find_noisy(tree, noisy_labels, say)
    parts = {part: expanded for part, rows in parts.items() if (expanded := expand_stacks(rows, say))}
    return parts, None if noisy is None else expand_stacks(noisy, say)


def _folders_elsewhere(names: Sequence[str]) -> list[Path]:
    """The labels' folders that are given by their paths, not by their names beside the images."""
    return [Path(name) for name in names if Path(name).name != name and Path(name).is_dir()]


def _cityscapes(
    folders: Sequence[Path], target: Path, labels: Sequence[str], noisy_labels: str | None, say: Say
) -> tuple[Parts, list[Row] | None]:
    from datasets.cityscapes import cityscapes_pairs

    if len(folders) > 1 or len(labels) > 1:
        raise UserError("--layout cityscapes takes one folder and one name of --labels")
    splits, noisy = cityscapes_pairs(folders[0], target, next(iter(labels), None), noisy_labels, say)
    parts: Parts = {split: list(map(_row, pairs)) for split, pairs in splits.items()}
    return parts, None if noisy is None else list(map(_row, noisy))


def _row(pair: Sequence[Path | None]) -> Row:
    return tuple(path for path in pair if path is not None)


# Writing


def write_lists(
    list_folder: Path,
    contents: Lists,
    *,
    root: Path,
    asked: Mapping[str, Any],
    marks: Mapping[str, str],
    overwrite: bool,
    say: Say,
) -> None:
    """Write lists, and a record of them that tells a later call whether they were changed by hand.

    Raises:
        UserError: a list differs from what was written here, and not ``overwrite``; then nothing is written.
    """
    record = read_lists_record(list_folder).get("lists", {})
    texts = {name: list_text(rows, root) for name, rows in contents.items()}
    there = {name: (list_folder / name).read_bytes() for name in texts if (list_folder / name).is_file()}
    others = [
        name for name in there if _checksum(there[name]) not in (record.get(name), _checksum(texts[name].encode()))
    ]
    if others and not overwrite:
        raise UserError(
            f"{display_path(list_folder)}: {', '.join(others)} would be replaced, but was not written by this command "
            "or was changed since. Nothing was written; rename it, or give --overwrite, which keeps it as .bak"
        )
    for name, text in texts.items():
        path = list_folder / name
        note = ""
        if name in others:
            note = f" (the one before is kept as {_set_aside(path).name})"
        elif name in there:
            note = " (as it was)" if there[name] == text.encode() else " (in place of the one written before)"
        with atomic_write(path) as file:
            file.write(text.encode())
        say(f"wrote {display_path(path)}: {counted(contents[name], 'image')}{_label_note(contents[name])}{note}")
    written = {name: _checksum(text.encode()) for name, text in texts.items()}
    write_json(list_folder / RECORD, {"asked": asked, "lists": {**record, **written}, "images": marks})


def tell_repeats(contents: Lists, say: Say) -> None:
    """Say which images have the same content as others: in two lists they make figures look better than they are."""
    list_of = {split_plane(row[0])[0]: name for name, rows in contents.items() for row in rows}
    within, across = [], []
    for group in same_content(list_of):
        shown = " = ".join(display_path(image) for image in group[:3])
        (across if len({list_of[image] for image in group}) > 1 else within).append(shown)
    if across:
        say(f"warning: the same image lies in several lists, so that figures flatter: {shortened(across, 3)}")
    if within:
        say(f"the same image is there several times: {shortened(within, 3)}")


def _set_aside(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.bak{number if number > 1 else ''}")).exists():
        number += 1
    path.replace(kept)
    return kept


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _label_note(rows: Sequence[Row]) -> str:
    counts = defaultdict(int)
    for row in rows:
        counts[len(row) - 1] += 1
    if set(counts) == {0}:
        return " without labels"
    return "" if set(counts) == {1} else f" with labels of up to {max(counts)} annotators"


def _tell_missing(name: str, contents: Lists, list_folder: Path, say: Say) -> None:
    is_noisy, is_there = name.endswith(NOISY_LIST), (list_folder / name).is_file()
    if is_there:
        reads = ", and training reads it unless it is told --train_list train_gt" if is_noisy else ""
        say(f"{display_path(list_folder / name)} stays as it is{reads}")
    elif not is_noisy:
        remedy = "; --split 85/15 takes some of the training images" if name == LISTS["val"] else ""
        say(f"no {name}: there are no images for it{remedy if len(contents.get(LISTS['train'], ())) > 1 else ''}")
