"""The grammar of the txt lists: from a file's text to samples and faults, for `datasets.lists`."""

from __future__ import annotations

import codecs
import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from datasets.image_files import split_plane
from datasets.label_values import LabelReading
from utils.errors import UserError
from utils.paths import display_path

DATA_ROOT_VARIABLE = "SEG_ROOT"
LISTED_FAULTS = 20
TAB_REMEDY = "where a path has spaces, put a tab between image and label"


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a list.

    ``image_id`` names the image in random streams and records: its POSIX path relative to the data root if it lies
    below it, else to the repository, else to the list's folder, else the absolute path. ``label`` is that of the first
    annotator, ``more_labels`` those of the others, and ``fusion`` makes one of them all. ``clean_label`` is known to be
    right, and takes the label's place.
    """

    image: Path
    label: Path | None
    image_id: str
    line: int
    more_labels: tuple[Path, ...] = field(default=(), kw_only=True)
    clean_label: Path | None = field(default=None, kw_only=True)
    reading: LabelReading | None = field(default=None, compare=False)  # what was decided for all labels of the run
    fusion: Any = field(default=None, compare=False, kw_only=True)

    def require_label(self) -> Path:
        """The label's file, of samples from lists that must have labels.

        Raises:
            UserError: there is none.
        """
        if self.label is None:
            raise UserError(f"{display_path(self.image)} has no label")
        return self.label


class ParsedList(NamedTuple):
    """The samples of the lines that are whole, ``(line, message)`` for the others, and what to say below them."""

    samples: list[Sample]
    faults: list[tuple[int, str]]
    note: str


def parse_list(path: Path, data_root: Path | str | None, root: Path, label_required: bool) -> ParsedList:
    """Parse a list and find the files it names.

    Raises:
        UserError: the list is missing or no UTF-8 text, or names nothing.
    """
    text = _read_text(path)
    places = _search_places(path, data_root, root)
    samples, faults = [], []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        line = line.strip(" \t")
        if not line or line.startswith("#"):
            continue
        try:
            image, *labels = _parse_line(line, places, label_required)
            label = labels[0] if labels else None
            samples.append(Sample(image, label, _image_id(image, places), number, more_labels=tuple(labels[1:])))
        except UserError as fault:
            faults.append((number, str(fault)))
    if not samples and not faults:
        raise UserError(
            f"the list {display_path(path)} is empty: it lists no images; expected one a line as image<TAB>label"
        )
    return ParsedList(samples, faults, _tried_note(faults, places))


def raise_faults(path: Path, faults: Sequence[tuple[int, str]], note: str = "") -> None:
    """Raise one UserError for all ``(line, message)`` faults of a list; return if there are none."""
    if not faults:
        return
    lines = [f"{display_path(path)}:{line}: {message}" for line, message in faults[:LISTED_FAULTS]]
    if len(faults) > LISTED_FAULTS:
        lines.append(f"… and {len(faults) - LISTED_FAULTS} more")
    head = "" if len(faults) == 1 else f"{display_path(path)} has {len(faults)} faults:\n"
    raise UserError(head + "\n".join(lines) + note)


HEADER = re.compile(
    r"\W*(images?|img|file[ _]?(name|path)?s?|path)([ _]?(path|name|file|id))?\W+"
    r"(labels?|masks?|annotations?|segmentations?|targets?|gt)(?![^\W_]).*",
    re.IGNORECASE,
)
WHOLE_PATH = re.compile(r"^(image|label) (/|[A-Za-z]:[\\/])[^;]* does not exist")
DRIVE = re.compile(r"\W*[A-Za-z]:\\")
SEPARATORS = {",": "comma", ";": "semicolon", "|": "vertical bar"}
QUOTES = "\"'“”„‘’"
INVISIBLE = "\u00a0\u200b\u2060\ufeff"
AROUND_PATHS = f" {QUOTES}{INVISIBLE}"


class _Places(NamedTuple):
    """The folders that relative paths are tried from."""

    data_root: Path | None
    list_folder: Path
    root: Path

    @property
    def in_order(self) -> list[Path]:
        return [place for place in self if place is not None]


def _search_places(path: Path, data_root: Path | str | None, root: Path) -> _Places:
    if data_root is not None and not Path(data_root).is_dir():
        raise UserError(
            f"--data_root {data_root} is not a directory; if a run brought it from another computer, give --data_root "
            "DIR, the folder that holds the images here"
        )
    data_root = data_root or os.environ.get(DATA_ROOT_VARIABLE) or None
    absolute = None if data_root is None else Path(os.path.abspath(data_root))
    return _Places(absolute, Path(os.path.abspath(path)).parent, Path(os.path.abspath(root)))


def _read_text(path: Path) -> str:
    shown = display_path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        folder = path.parent
        known = sorted(file.name for file in folder.glob("*.txt")) if folder.is_dir() else []
        there = f"{display_path(folder)} has: {', '.join(known)}" if known else "there are no lists in that folder"
        raise UserError(f"the list {shown} does not exist; {there}") from None
    except OSError as error:
        raise UserError(f"the list {shown} cannot be read: {error.strerror}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"the list {shown} is UTF-16 text (PowerShell's '>' writes it): save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{shown}:{line}: not UTF-8 text (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise UserError(f"the list {shown} is no text file: it has null bytes")
    return text


def _parse_line(line: str, places: _Places, label_required: bool) -> list[Path]:
    """Image and labels of a line; every fault of the line in one UserError."""
    image = _find(line, places)
    if image is not None:
        parts = [line]
    elif "\t" in line:
        parts = [part.strip(" ") for part in line.split("\t") if part.strip(" ")]
    else:
        parts = [part for part in line.split(" ") if part]
        if len(parts) > 2:
            cause = _likely_cause(line, places) or TAB_REMEDY
            raise UserError(f"'{line}' is not a file and has {len(parts)} parts between spaces; {cause}")
    found = [_find(part, places) for part in parts]
    faults = [
        f"{kind} {part} {_why_missing(part, places)}"
        for kind, part, file in zip(("image", *["label"] * len(parts)), parts, found, strict=False)
        if file is None
    ]
    cause = _likely_cause(line, places) if faults else ""
    if cause:
        faults.append(cause)
    elif faults and len(parts) == 2 and "\t" not in line:
        faults.append(f"separated at the space; {TAB_REMEDY}")
    if label_required and len(parts) == 1 and not cause:
        faults.append("has no label; expected image<TAB>label")
    if faults or found[0] is None:
        raise UserError("; ".join(faults))
    return [file for file in found if file is not None]


def _likely_cause(line: str, places: _Places) -> str:
    """Why the files of a line are not found, where a small change finds them: backslashes, commas, quotes."""

    def has_file(parts: Sequence[str]) -> bool:
        return any(_find(part.strip(AROUND_PATHS), places) for part in parts)

    slashed = line.replace("\\", "/")
    if slashed != line and (DRIVE.match(line) or has_file(re.split(r"[\t,;]", slashed))):
        return "it is written with backslashes, as on Windows: write paths with /"
    for mark, name in SEPARATORS.items():
        if has_file([part.split(mark)[0] for part in slashed.split("\t") if mark in part]):
            return f"its columns are separated by a {name}, as in a CSV file: put a tab between image and label"
    if any(mark in line for mark in QUOTES) and has_file(line.split("\t")):
        return "it has quotation marks around paths: leave them out"
    if any(mark in line for mark in INVISIBLE) and has_file(re.split(f"[\t{INVISIBLE}]", line)):
        return "it has a space that is no plain one, or an invisible character: put a tab between image and label"
    before = re.split(r"[ \t]#", line)[0]
    if before != line and has_file([*before.split("\t"), *before.split(" ")]):
        return "a comment has a line of its own"
    if any(_is_plane_misspelt(part, places) for part in re.split(r"[\t ]", line)):
        return "a plane of a stack is written stack.tif::N, N one number from 0 on"
    if HEADER.fullmatch(line):
        return "it seems to be a header: leave it out, or begin it with #"
    found = next(
        filter(None, (_find_in_other_case(part, places) for part in (*slashed.split("\t"), *slashed.split(" ")))), None
    )
    return f"upper and lower case differ: there is {display_path(found)}" if found else ""


def _is_plane_misspelt(text: str, places: _Places) -> bool:
    match = re.fullmatch(r"(.+?):+[-\d.,]+", text)
    return match is not None and _find(match[1], places) is not None


def _tried_note(faults: Sequence[tuple[int, str]], places: _Places) -> str:
    if not any("does not exist" in message or "file not found" in message for _, message in faults):
        return ""
    if all(WHOLE_PATH.search(message) for _, message in faults):
        return (
            "\nWhole paths hold on one computer only: make the lists anew where the files lie now "
            "(datasets/make_lists.py), or replace the beginning of the paths"
        )
    tried = ", ".join(dict.fromkeys(display_path(place) for place in places.in_order))
    return f"\nRelative paths were tried from: {tried} (--data_root names one to try first)"


def _find(text: str, places: _Places) -> Path | None:
    """The file of a path, whichever form its accents have: systems write them differently."""
    forms = dict.fromkeys((text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))))
    for form, place in itertools.product(forms, places.in_order):
        candidate = os.path.join(place, form)  # an absolute path replaces the place
        if os.path.isfile(candidate):  # unlike Path.is_file, also False for names that no file can have
            return Path(os.path.abspath(candidate))
        file, plane = split_plane(Path(candidate))
        if plane is not None and os.path.isfile(file):
            return Path(f"{os.path.abspath(file)}::{plane}")
    return None


def _find_in_other_case(text: str, places: _Places) -> Path | None:
    """The file whose name differs from a path by upper and lower case alone, which is one on Windows."""
    for place in places.in_order:
        here = Path(os.path.abspath(os.path.join(place, split_plane(Path(text))[0])))
        found: Path | None = Path(here.anchor)
        for name in here.parts[1:]:
            if found is not None:
                found = found / name if os.path.exists(found / name) else _names_in(found).get(name.casefold())
        if found is not None and found != here and os.path.isfile(found):
            return found
    return None


@lru_cache(maxsize=8)
def _names_in(folder: Path) -> dict[str, Path]:
    """The files and folders in a folder by their names without regard to case."""
    try:
        return {path.name.casefold(): path for path in folder.iterdir()}
    except OSError:
        return {}


def _why_missing(text: str, places: _Places) -> str:
    candidates = [Path(place, text) for place in places.in_order]
    if any(map(os.path.isdir, candidates)):
        return "is a folder"
    folders = [next(filter(os.path.isdir, candidate.parents), candidate) for candidate in candidates]
    closed = [folder for folder in folders if os.path.isdir(folder) and not os.access(folder, os.X_OK)]
    return f"may not be read: {display_path(closed[0])} is closed" if closed else "does not exist"


def _image_id(image: Path, places: _Places) -> str:
    for place in (places.data_root, places.root, places.list_folder):
        if place is not None and image.is_relative_to(place):
            return image.relative_to(place).as_posix()
    return image.as_posix()
