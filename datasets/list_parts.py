"""The part of every image, train, val or test: that of its folder, that of the lists before, or one that is drawn."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.image_files import CROP, field_names, split_plane
from datasets.list_files import CLEAN_LIST, SPLITS, list_text
from datasets.list_films import FILMS
from datasets.list_layouts import Say
from datasets.list_pairing import SEPARATORS, Row
from datasets.list_rows import Parts
from datasets.list_splits import DEFAULT_SPLIT, group_names, parse_shares, split_groups, split_in_order
from utils.cli import UserError, counted
from utils.files import OBJECT, content_mark, read_record, same_content
from utils.run_folder import quoted

LISTS = {"train": f"train/{CLEAN_LIST}", "val": "val.txt", "test": "test.txt"}
RECORD = "make_lists.json"  # beside the lists: what was asked for, a checksum of every list, marks of the images

MOST_SHAPES = 6  # of what follows an image's name in those of its copies, that are written into a pattern
MIN_FIELDS = 6  # of crops, from which on whole fields give parts of about the sizes wanted


def divide(
    parts: Parts,
    split: str | None,
    group_by: str | None,
    seed: int,
    *,
    settled: Mapping[str, str],
    root: Path,
    say: Say,
) -> dict[str, list[Row]]:
    """Give every row its part: that of its folder, else one that is drawn.

    Where folders divide the images, ``split`` draws the parts that are missing out of the training images.

    Args:
        settled: list entries of images without suffix → the part in which they stay.
    Raises:
        UserError: a split of images that folders divide into all three parts.
    """
    if None not in parts and split is None:
        if group_by is not None:
            raise UserError("--group_by: folders divide the images already; with --split, the parts missing are drawn")
        return {part: parts[part] for part in SPLITS if part in parts}
    shares = parse_shares(split or DEFAULT_SPLIT)
    fixed = {part: parts[part] for part in SPLITS if part in parts and part != "train"}
    if None not in parts and (len(fixed) == 2 or "train" not in parts):
        raise UserError(f"--split {split}: folders divide the images into {', '.join(filter(None, parts))} already")
    shares = [0.0 if part in fixed else share for part, share in zip(SPLITS, shares, strict=True)]
    shares = [share / sum(shares) for share in shares]
    rows = parts[None] if None in parts else parts["train"]
    files = [split_plane(row[0])[0] for row in rows]
    ids = [list_text([[file]], root).strip() for file in files]
    names = list(map(_without_suffix, ids))
    fields = field_names(ids) if group_by is None else ids
    by_field = MIN_FIELDS <= len({*fields}) < len({*ids}) and not _tears(settled, names, fields)
    groups = _with_equal_content(files, fields if by_field else group_names(ids, group_by))
    one_film = group_by == FILMS and len(set(groups)) == 1
    if len(set(files)) < len(SPLITS) < len(rows) or one_film:
        drawn, what = split_in_order(len(rows), shares), "frames of a film" if one_film else "planes of a stack"
        say(f"{what} are divided in blocks, in their order: {what.split()[0]} at the cuts resemble each other")
    else:
        known = {group: settled[name] for group, name in zip(groups, names, strict=True) if name in settled}
        drawn = split_groups(groups, shares, seed, known)
        how = group_by and f"groups of --group_by {group_by}"
        how = "fields of view, by the names of their crops" if by_field else how
        _tell_split(f"{len(set(groups))} {how}" if how else "image by image", seed, len(known), say)
        if not how:
            labelled = [name for name, row in zip(ids, rows, strict=True) if len(row) > 1]
            say(_warn_of_copies(labelled) or _advise_groups(ids, fields))
    divided = {part: [row for row, one in zip(rows, drawn, strict=True) if one == part] for part in SPLITS}
    return {part: fixed.get(part, divided[part]) for part in SPLITS}


def _with_equal_content(images: Sequence[Path], groups: Sequence[str]) -> list[str]:
    """Groups with those joined that hold an image of the same content: a copy in the test part would be a leak."""
    group_of = dict(zip(images, groups, strict=True))
    parent: dict[str, str] = {}
    for copies in same_content(images):
        for image in copies[1:]:
            one, other = (_root_of(group_of[each], parent) for each in (copies[0], image))
            if one != other:
                parent[other] = one
    return [_root_of(group, parent) for group in groups]


def _root_of(group: str, parent: Mapping[str, str]) -> str:
    while group in parent:
        group = parent[group]
    return group


def _tears(settled: Mapping[str, str], names: Sequence[str], fields: Sequence[str]) -> bool:
    """Whether lists of before have crops of one field in several parts."""
    known = {(field, settled[name]) for field, name in zip(fields, names, strict=True) if name in settled}
    return len(known) > len({field for field, _ in known})


def _tell_split(how: str, seed: int, kept: int, say: Say) -> None:
    kept_note = f"; {kept} stay in the part in which the lists had them" if kept else ""
    say(f"divided at random, {how}, seed {seed}{kept_note}")


def _advise_groups(ids: Sequence[str], fields: Sequence[str]) -> str:
    count = len(set(fields))
    if count == len({*ids}):
        return "(images of one cell, field or patient should stay in one part: --group_by REGEX, see --help)"
    if count == 1:
        return "(names are those of crops of one field of view, whose parts tell nothing of other fields)"
    end = next(end for name in ids if (end := CROP.search(_without_suffix(name))))
    pattern = quoted(f"(.*){re.sub(r'[0-9]+', '[0-9]+', re.escape(end[0]))}")
    return (
        f"(names are those of crops of {counted({*fields}, 'field')} of view, which resemble each other: "
        f"--group_by {pattern} keeps those of a field in one part)"
    )


def _warn_of_copies(ids: Sequence[str]) -> str:
    """A warning where names of images continue those of others, with the pattern that keeps them together."""
    rests = _continued(list(map(_without_suffix, ids)))
    if not rests:
        return ""
    name, rest = next(iter(rests.items()))
    shapes = sorted({re.sub("[0-9]+", "[0-9]+", re.escape(each)) for each in rests.values()})[:MOST_SHAPES]
    pattern = quoted(f"(.*?)({'|'.join(shapes)})?[.][^.]*$")
    names = f"{os.path.basename(name)} that of {os.path.basename(name[: -len(rest)])}"
    return (
        f"warning: names of {counted(rests, 'image')} continue those of others, {names}: altered copies, crops or "
        f"frames of one image belong in one part: --group_by {pattern}"
    )


def _continued(names: Sequence[str]) -> dict[str, str]:
    """What follows in names after that of another image and a separator: ``_aug1`` of ``7_aug1`` beside ``7``."""
    known, rests = {*names}, {}
    for name in names:
        ends = [place for place in range(1, len(name)) if name[place] in SEPARATORS and name[:place] in known]
        if ends:
            rests[name] = name[ends[-1] :]
    return rests


# The lists before


@dataclass(frozen=True)
class ListsBefore:
    """The lists that an earlier call wrote.

    Args:
        asked: the options by which they were divided.
        part_of: the part of every image in them, by its entry without suffix.
        marks: `content_mark` of these images, so that renamed ones are known again.
    """

    asked: Mapping[str, Any]
    part_of: Mapping[str, str]
    marks: Mapping[str, str]

    @staticmethod
    def read(list_folder: Path) -> ListsBefore:
        """Those below ``txt/<dataset>``; empty where there are none."""
        record = read_lists_record(list_folder)
        part_of: dict[str, str] = {}
        for part, name in LISTS.items():
            path = list_folder / name
            if path.is_file():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                images = (line.split("\t")[0] for line in lines if line and not line.startswith("#"))
                known = {_without_suffix(split_plane(Path(image))[0].as_posix()): part for image in images}
                part_of = known | part_of  # a stack whose planes were divided has been trained on
        marks = {name: mark for name, mark in record.get("images", {}).items() if isinstance(mark, str)}
        return ListsBefore(record.get("asked", {}), part_of, {name: marks[name] for name in part_of if name in marks})

    def is_for(self, asked: Mapping[str, Any]) -> bool:
        """Whether they answer the same question, so that a rerun moves no image."""
        return all(self.asked.get(key) == value for key, value in asked.items())

    def parts_of(self, marks: Mapping[str, str]) -> dict[str, str]:
        """The parts in which images of today were: by content, else by name, else by place in a folder that moved.

        Args:
            marks: of today's images, by their names, see `image_marks`.
        """
        names_of: dict[str, list[str]] = defaultdict(list)
        for name, mark in self.marks.items():
            names_of[mark].append(name)
        found = {}
        for name, mark in marks.items():
            same = [name] if name in names_of[mark] else names_of[mark]
            if same:
                found[name] = min((self.part_of[one] for one in same), key=SPLITS.index)
        there = set(marks.values())
        others = {name: part for name, part in self.part_of.items() if self.marks.get(name) not in there}
        rest = [name for name in marks if name not in found]
        by_place = _where_they_are_now(others, rest)
        return found | {name: by_place[name] for name in rest if name in by_place}

    def gone(self, marks: Mapping[str, str]) -> int:
        """How many images are there neither by name nor by content, where ``marks`` are those of today's."""
        there = set(marks.values())
        return sum(name not in marks and self.marks.get(name) not in there for name in self.part_of)


def image_marks(rows: Iterable[Row], root: Path) -> dict[str, str]:
    """The `content_mark` of every image, by its entry in lists without suffix; a stack's planes have one."""
    files = dict.fromkeys(split_plane(row[0])[0] for row in rows)
    return {_entry_name(file, root): content_mark(file) for file in files}


def tell_changes(
    known: Mapping[str, str], divided: Mapping[str, Sequence[Row]], *, gone: int, root: Path, say: Say
) -> None:
    """Say how many images change sides, and that some may not have been known again.

    Args:
        known: the parts in which images of today were in the lists before.
        divided: the rows of today's parts.
        gone: images of the lists before that are not there any more.
    """
    part_of: dict[str, str] = {}
    for part in SPLITS:  # of a stack whose planes are divided, the first
        for row in divided.get(part, ()):
            part_of.setdefault(_entry_name(split_plane(row[0])[0], root), part)
    moves = Counter((known[name], part) for name, part in part_of.items() if known.get(name, part) != part)
    if moves:
        ways = ", ".join(f"{count} from {before} to {now}" for (before, now), count in sorted(moves.items()))
        say(
            f"warning: {sum(moves.values())} images change sides ({ways}): train anew, networks of before have seen "
            "others, and their figures do not compare"
        )
    if gone and (new := len(part_of.keys() - known.keys())):
        say(
            f"of the images in the lists before {gone} are gone, and {new} are new: any that were both renamed and "
            "changed may have changed sides"
        )


def _entry_name(file: Path, root: Path) -> str:
    return _without_suffix(list_text([[file]], root).strip())


def _without_suffix(entry: str) -> str:
    """A list's entry without its suffix: an image that was converted is the same."""
    return os.path.splitext(entry)[0]


def _where_they_are_now(settled: Mapping[str, str], names: Sequence[str]) -> Mapping[str, str]:
    """The parts of images under their names of today, where the folder that has them was moved or renamed."""
    if not settled or not names or any(name in settled for name in names):
        return settled
    before, now = (os.path.commonpath([os.path.dirname(f"/{name}") for name in each]) for each in (settled, names))
    tails = {os.path.relpath(f"/{name}", now): name for name in names}
    parts = {os.path.relpath(f"/{name}", before): part for name, part in settled.items()}
    return {tails[tail]: part for tail, part in parts.items() if tail in tails}


def read_lists_record(list_folder: Path) -> dict[str, Any]:
    """What an earlier call noted beside the lists of a data set; empty where there was none."""
    path = list_folder / RECORD
    fields = {"asked": OBJECT, "lists": OBJECT, "images": OBJECT}
    remedy = "remove it: then lists that differ count as changed by hand"
    return read_record(path, {}, fields, remedy) if path.is_file() else {}
