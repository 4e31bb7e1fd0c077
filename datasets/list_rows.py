"""The rows of a data set's lists: every image with the labels that belong to it, of the kinds that were meant."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.list_files import SPLITS
from datasets.list_layouts import Found, Say, Tree, by_split, folder_name, is_drawn_folder, is_mask_folder
from datasets.list_objects import merge_object_masks, objects_by_image
from datasets.list_pairing import (
    IMAGE_SUFFIXES,
    LABEL_BEGINNINGS,
    LABEL_ENDINGS,
    SEPARATORS,
    Pairing,
    Row,
    pair_by_name,
    stem,
    without_affix,
)
from utils.cli import UserError, counted, shortened
from utils.run_folder import display_path

OTHERS_LOOKED_AT = 5  # files whose names those of several may continue
MOST_SHIFTED = 1  # by which the numbers of labels may be off those of images: counted from 0 or from 1

Parts = dict[str | None, list[Row]]
"""The rows of train, val and test, and below None those that no folder divides."""


def find_rows(
    tree: Tree,
    labels: Sequence[str] = (),
    label_suffix: Sequence[str] = (),
    *,
    noisy_labels: str | None = None,
    merged_folder: Path,
    say: Say = print,
) -> Parts:
    """Pair the images of a tree with their labels.

    Args:
        labels, label_suffix: the kinds of labels, in the order of their columns; without them the kind that is there.
        noisy_labels: a kind that is not to be taken for the labels.
        merged_folder: where labels go that are merged from a file an object.
        say: told of files without partner, of names that are not simply equal, of other kinds of labels.
    Returns: the rows of every part that has images, in natural order.
    Raises:
        UserError: no images; several kinds of labels and none named; a kind that is not there; no two names agree.
    """
    images = by_split(found for found in tree.files if found.role == "image")
    if not images:
        raise UserError(_no_images(tree))
    all_labels = by_split(found for found in tree.files if found.role == "label")
    by_suffix = label_suffix and (not labels or len(label_suffix) > 1)
    given = list(label_suffix if by_suffix else labels)
    _check_given(given, [found for group in all_labels.values() for found in group], tree)
    parts: Parts = {}
    unlabelled: list[str | None] = []
    told: set[str] = set()
    for split in sorted(images, key=lambda name: (*SPLITS, None).index(name)):
        kinds = given or _only_kind(images[split], all_labels.get(split, []), noisy_labels, told, say)
        of_kind = {kind: [found for found in all_labels.get(split, []) if found.kind == kind] for kind in kinds}
        if any(of_kind.values()):
            folder = merged_folder if split is None else merged_folder.parent / split / merged_folder.name
            parts[split] = _pair_part(images[split], of_kind, label_suffix, folder, say)
            continue
        others = sorted({found.kind for found in all_labels.get(split, [])})
        if given and others:
            where = _common_folder([found.path for found in images[split]])
            lack = f"{where} has no labels of {' and '.join(given)}; it has: {', '.join(others)}"
            if split != "test":
                raise UserError(lack)
            say(lack)
        parts[split] = [(found.path,) for found in images[split]]
        unlabelled.append(split)
    stray = [found.path for split in all_labels.keys() - images.keys() for found in all_labels[split]]
    if stray:
        names = shortened([path.name for path in stray], 3)
        say(f"left out: {counted(stray, 'label')} without image in {_common_folder(stray)}: {names}")
    others = [found.path for found in tree.files if found.role is None]
    if others:
        names = shortened([path.name for path in others], 3)
        folders = " or ".join(sorted({path.parent.name for path in others})[:3])
        hint = "" if any(all_labels.values()) else f"; if {folders} holds the labels, name it with --labels"
        say(f"left out: {counted(others, 'file')} beside images and labels: {names}{hint}")
    if any(_is_first_channel(row) for rows in parts.values() for row in rows):
        parts = {split: _first_channels(rows) for split, rows in parts.items()}
        say("files _0001, _0002, … beside _0000 are channels in files of their own and are not read: join them")
    without_validation = "val" in unlabelled and "train" in parts and "train" not in unlabelled
    for split in unlabelled:
        left_out = split == "val" and without_validation
        use = "left out, validation needs them" if left_out else _use_without_labels(split)
        say(_without_labels(parts[split], split, tree.top, use))
    if without_validation:
        del parts["val"]
    _leave_out_undivided(parts, say)
    return parts


def find_noisy(tree: Tree, kind: str, say: Say) -> list[Row]:
    """The training images with their noisy labels of a kind.

    Raises:
        UserError: there are none.
    """
    labels = [found for found in tree.files if found.role == "label" and found.kind == kind]
    splits = {found.split for found in labels}
    split = "train" if "train" in splits else None
    images = [found for found in tree.files if found.role == "image" and found.split == split]
    labels = [found for found in labels if found.split == split]
    if not images or not labels:
        raise UserError(f"--noisy_labels {kind}: there is no folder of that name with labels of training images")
    return _pair_part(images, {kind: labels}, (), Path(), say)


# Which kind of labels


def _check_given(given: Sequence[str], labels: Sequence[Found], tree: Tree) -> None:
    there = sorted({found.kind for found in labels})
    missing = [kind for kind in given if kind not in there]
    if missing:
        others = f"it has labels of: {', '.join(there)}" if there else "it has no labels"
        where = _common_folder([found.path for found in tree.files])
        raise UserError(f"{where} has no labels of {' and '.join(missing)}; {others}")


def _only_kind(
    images: Sequence[Found], labels: Sequence[Found], noisy_labels: str | None, told: set[str], say: Say
) -> list[str]:
    """The kind of labels to take where none is named: the only one, or ``labels`` among others, said once."""
    kinds = sorted({found.kind for found in labels} - {noisy_labels})
    if len(kinds) <= 1:
        return kinds
    plain = [kind for kind in kinds if folder_name(kind).role == "label" and not folder_name(kind).rest]
    if any(is_mask_folder(kind) for kind in plain) and any(is_drawn_folder(kind) for kind in kinds):
        plain = []  # the mask may be that of the field of view, as of retinal images
    named = next((kind for kind in kinds if kind.lower() in ("labels", "label")), None)
    taken = named or (plain[0] if len(plain) == 1 else None)
    is_mark = any(kind[0] in SEPARATORS or kind[-1] in SEPARATORS for kind in kinds)  # of files, not of folders
    option = "--label_suffix" if is_mark else "--labels"
    if taken is None:
        raise UserError(
            f"{_common_folder([found.path for found in images])} has labels of {len(kinds)} kinds: {', '.join(kinds)}; "
            f"name the one that is meant, or those of several annotators, with {option}"
        )
    line = f"labels are those of {taken}, not of {shortened([kind for kind in kinds if kind != taken])} ({option})"
    if line not in told:
        told.add(line)
        say(line)
    return [taken]


# Pairing


def _pair_part(
    images: Sequence[Found],
    labels: Mapping[str, Sequence[Found]],
    label_suffix: Sequence[str],
    merged_folder: Path,
    say: Say,
) -> list[Row]:
    """The rows of one part, an image with a label of every kind that has one."""
    place_of = _telling_places(images, [found for group in labels.values() for found in group])
    paths = [found.path for found in images]
    columns: list[dict[Path, Path]] = []
    for kind, group in labels.items():
        suffix = kind if kind in label_suffix else next(iter(label_suffix), None)
        pairing = pair_by_name(paths, [found.path for found in group], place_of.__getitem__, suffix)
        masks = objects_by_image(images, group) if not pairing.pairs or _met_by_chance(pairing) else {}
        if masks and max(map(len, masks.values())) == 1:  # img.png and label.png in a folder of every sample
            pairing, masks = Pairing([(image, label) for image, (label,) in masks.items()], [], []), {}
        if masks:
            merged = merge_object_masks(masks, merged_folder, say)
            used = {mask for each in masks.values() for mask in each}
            labels_alone = [found.path for found in group if found.path not in used]
            pairing = Pairing(list(merged.items()), [path for path in paths if path not in merged], labels_alone)
        if not pairing.pairs:
            raise UserError(_no_pair(pairing, kind))
        columns.append(_tell_pairing(pairing, kind, say, is_only=len(labels) == 1))
    rows = [(path, *(column[path] for column in columns if path in column)) for path in paths]
    partial = [row for row in rows if 1 < len(row) <= len(columns)]
    if partial:
        say(f"{counted(partial, 'image')} with labels of some of the {len(columns)} annotators only")
    lost = [row[0].name for row in rows if len(row) == 1]
    if lost and len(columns) > 1:
        say(f"left out: {counted(lost, 'image')} without any label: {shortened(lost)}")
    return [row for row in rows if len(row) > 1]


def _telling_places(images: Sequence[Found], labels: Sequence[Found]) -> dict[Path, tuple[str, ...]]:
    """The place of every file; of several folders without those that all images have and no label: ``mri``.

    And without those that all labels have and no image.
    """
    ours, theirs = ([set(found.place) for found in group] for group in (images, labels))
    places = {}
    for group, own, other in ((images, ours, theirs), (labels, theirs, ours)):
        idle = set.intersection(*own) - set().union(*other) if own else set()
        idle = idle if any(place - idle for place in own) else set()
        places |= {found.path: tuple(name for name in found.place if name not in idle) for found in group}
    return places


def _met_by_chance(pairing: Pairing) -> bool:
    """Whether numbers of objects were taken for those of images: ``7/masks/7.png`` beside eight others of 7.png."""
    alone = {re.sub(r"\d+", "", label.stem) for label in pairing.labels_alone}
    is_loose = bool(pairing.images_alone or pairing.note) or len(alone) == 1
    return is_loose and len(pairing.labels_alone) > len(pairing.pairs)


def _tell_pairing(pairing: Pairing, kind: str, say: Say, *, is_only: bool) -> dict[Path, Path]:
    """Say what has no partner, and which names are not simply equal.

    Args:
        is_only: whether there are no other labels, so that images without one of this kind are left out.
    Returns: image → label, without the images that have labels in several files, as ``7_mask.png``, ``7_mask_1.png``.
    """
    if pairing.note:
        say(pairing.note)
    label_of = dict(pairing.pairs)
    image_of = {(label.parent, label.stem): image for image, label in pairing.pairs}
    alone = (*pairing.images_alone, *pairing.labels_alone)
    further = {file: image_of.get((file.parent, re.sub(r"[_-]?\d+$", "", file.stem))) for file in alone}
    several = [image for image in label_of if image in further.values()]
    if several:
        names = shortened([image.name for image in several])
        say(f"left out: {counted(several, 'image')} with labels in several files, to be joined into one: {names}")
    channels = {image for image in pairing.images_alone if _channel(image)}
    channels = channels if any(_is_first_channel(pair) for pair in pairing.pairs) else set()
    for noun, alone in (("image", pairing.images_alone), ("label", pairing.labels_alone)):
        alone = [file for file in alone if further[file] is None and file not in channels]
        if alone:
            lack = f"without label of {kind}" if noun == "image" else "without image"
            names = shortened([file.name for file in alone])
            head = "left out: " if is_only or noun == "label" else ""
            say(f"{head}{counted(alone, noun)} {lack} in {_common_folder(alone)}: {names}")
    if warning := _shifted_numbers(pairing):
        say(warning)
    return {image: label for image, label in label_of.items() if image not in several}


def _shifted_numbers(pairing: Pairing) -> str:
    """A warning where labels are numbered from 0 and images from 1, or otherwise shifted, and meet the wrong ones."""
    of_pairs = [_last_number(image) for image, _ in pairing.pairs]
    of_images, of_labels = (list(map(_last_number, alone)) for alone in (pairing.images_alone, pairing.labels_alone))
    by = len(of_images)
    if not by or by != len(of_labels) or by > MOST_SHIFTED:
        return ""
    images, labels = sorted(of_pairs + of_images), sorted(of_pairs + of_labels)
    shift = images[0] - labels[0]
    is_row = images == list(range(images[0], images[0] + len(images)))
    if -1 in (*images, *labels) or not is_row or abs(shift) != by or labels != [number - shift for number in images]:
        return ""
    return (
        f"warning: images are numbered from {images[0]} to {images[-1]}, labels from {labels[0]} to {labels[-1]}: if "
        f"label {labels[0]} is that of image {images[0]}, all are paired wrongly; rename them with equal numbers"
    )


def _last_number(path: Path) -> int:
    """The last number in a file's name, −1 without one."""
    numbers = re.findall(r"\d+", stem(path))
    return int(numbers[-1]) if numbers else -1


def _is_first_channel(row: Sequence[Path]) -> bool:
    """Whether an image is nnU-Net's first channel of several: ``7_0000.tif`` with a label ``7.tif``."""
    image = row[0]
    return (
        len(row) > 1
        and image.stem.endswith("_0000")
        and not row[1].stem.endswith("_0000")
        and image.with_name(image.name.replace("_0000.", "_0001.")).exists()
    )


def _channel(image: Path) -> int:
    """The number of nnU-Net's channel that a file is, 0 where its name says none."""
    match = re.search(r"_(000\d)$", image.stem)
    return int(match[1]) if match else 0


def _first_channels(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if _channel(row[0]) == 0]


def _leave_out_undivided(parts: Parts, say: Say) -> None:
    if None in parts and len(parts) > 1:
        rows = parts.pop(None)
        names = shortened([row[0].name for row in rows])
        say(f"left out: {counted(rows, 'image')} in no folder of {', '.join(parts)}: {names}")


# Messages


def _common_folder(paths: Sequence[Path]) -> str:
    return display_path(Path(os.path.commonpath([path.parent for path in paths])))


def _use_without_labels(split: str | None) -> str:
    return "they can be predicted, not scored" if split == "test" else "only label-free training (--igtt) can use them"


def _without_labels(rows: Sequence[Row], split: str | None, top: Path, use: str) -> str:
    places: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        places[row[0].parent.name].add(row[0].stem)
    twins = [name for name in places if any(places[name] & places[other] for other in places if other != name)]
    hint = f"; if {' or '.join(twins[:3])} holds the labels, name it with --labels" if twins else ""
    folder = Path(os.path.commonpath([row[0].parent for row in rows]))
    beside = sorted(other.name for other in folder.parent.glob("*/") if folder_name(other.name).role == "label")
    is_beyond = not folder.parent.is_relative_to(top)  # what lies below was looked at
    if split is None and beside and is_beyond and folder_name(folder.name).role == "image":
        hint = f"; {beside[0]} beside it may have them: name {display_path(folder.parent)}"
    return f"{display_path(folder)} has images without labels: {use}{hint}"


def _no_pair(pairing: Pairing, kind: str) -> str:
    image, label = pairing.images_alone[0], pairing.labels_alone[0]
    names = set(map(stem, pairing.images_alone))
    top = os.path.commonpath([label.parent for label in pairing.labels_alone])
    folders = sorted({os.path.relpath(label.parent, top) for label in pairing.labels_alone if stem(label) in names})
    if len(folders) > 1:
        return (
            f"the images of {_common_folder(pairing.images_alone)} have labels in several folders of {kind}: "
            f"{shortened(folders)}; name the one that is meant, or those of several annotators, with --labels"
        )
    if several := _several_for_one(pairing.images_alone, pairing.labels_alone):
        return (
            f"{several} are several images of one label: if they are channels in files of their own, join them into "
            "one file of several channels, or leave those of one channel"
        )
    if several := _several_for_one(pairing.labels_alone, pairing.images_alone):
        return (
            f"{several} are several labels of one image: those of several annotators or kinds are named by their "
            "endings (--label_suffix), objects by numbers (7_1.png, 7_2.png), and planes of a stack saved as a stack"
        )
    return (
        f"no image of {_common_folder(pairing.images_alone)} has a label of the same name in {kind}: {image.name}, "
        f"{label.name}, …; name what the labels' names end with (--label_suffix), or rename them after their images"
    )


def _several_for_one(files: Sequence[Path], others: Sequence[Path]) -> str:
    """Two files whose names continue that of one of the others, where each of the first few has such; else nothing."""
    found = []
    for other in others[:OTHERS_LOOKED_AT]:
        name = without_affix(stem(other), LABEL_BEGINNINGS, LABEL_ENDINGS)
        rests = {file.name: stem(file).removeprefix(name) for file in files if stem(file).startswith(name)}
        found.append([longer for longer, rest in rests.items() if rest[:1] in [*SEPARATORS]])
    return " and ".join(found[0][:2]) if min(map(len, found)) > 1 else ""


def _no_images(tree: Tree) -> str:
    where = display_path(tree.top)
    others = [f"{len(files)} {suffix or 'without suffix'}" for suffix, files in sorted(tree.foreign.items())]
    there = f"; there are other files: {', '.join(others)}" if others else ""
    return (
        f"no images found in {where}{there}. Name the folder that has them ({', '.join(IMAGE_SUFFIXES)}), with the "
        "labels under the same names in folders labels or masks beside images, or beside the images with an ending as "
        "_mask; folders train, val and test are kept"
    )
