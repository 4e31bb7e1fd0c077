"""The txt lists that say which images and labels belong to a data set: found, parsed, checked and written.

A line is a sample: ``image<TAB>label``, or the image alone. ``txt/README.md`` explains lists to users.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.image_io import IGNORE, read_label, read_shape
from utils.cli import Progress, UserError, one_of
from utils.run_folder import REPO_ROOT, atomic_write, display_path

DATA_ROOT_VARIABLE = "SEG_ROOT"
MIN_SIDE = 16  # pixels; the networks halve the image four times
LISTED_FAULTS = 20
TAB_REMEDY = "where a path has spaces, put a tab between image and label"


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a list.

    ``image_id`` names the image in random streams and records: its POSIX path relative to the data root if it lies
    below it, else to the repository, else to the list's folder, else the absolute path.
    """

    image: Path
    label: Path | None
    image_id: str
    line: int


def list_folder(dataset: str, root: Path = REPO_ROOT) -> Path:
    """The folder of a data set's lists: ``txt/<dataset>``, else ``datasets/txt/<dataset>``, as in older trees."""
    folder, older = root / "txt" / dataset, root / "datasets" / "txt" / dataset
    return older if older.is_dir() and not folder.is_dir() else folder


def find_list(name: str | Path, dataset: str, root: Path = REPO_ROOT) -> Path:
    """Find a list given as a bare name below ``txt/<dataset>/train`` or ``txt/<dataset>``, or as a path.

    ``.txt`` may be left out.

    Raises:
        UserError: there is no such list; the message names those that exist.
    """
    folder = list_folder(dataset, root)
    for place in (folder / "train", folder, Path(), root):
        for candidate in (place / name, place / f"{name}.txt"):
            if candidate.is_file():
                return candidate
    known = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.txt"))
    where = display_path(folder)
    raise UserError(
        f"there is no list {str(name)!r}, neither as a path nor below {where}/train or {where}; "
        + (f"{where} has: {', '.join(known)}" if known else f"{where} has no lists")
    )


def read_list(
    path: Path | str,
    data_root: Path | str | None = None,
    root: Path = REPO_ROOT,
    labels: str = "required",
    say: Callable[[str], object] = print,
) -> list[Sample]:
    """Read a list; image and label files must exist, but are not opened (see `check_samples`).

    Args:
        path: the list, UTF-8, with or without byte-order mark, any line ends.
        data_root: the folder that relative paths are tried from first (default: ``$SEG_ROOT``); then come the list's
            own folder and ``root``.
        labels: ``required``, or ``optional`` where lines may name an image alone.
        say: told of images that stand more than once.
    Returns: the samples in the order of the list.
    Raises:
        UserError: no such list, an empty one, or every fault of its lines at once, with line numbers.
    """
    one_of(labels, ("required", "optional"), "labels")
    path = Path(path)
    text = _read_text(path)
    places = _search_places(path, data_root, root)
    samples, faults = [], []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), start=1):
        line = line.strip(" \t")
        if not line or line.startswith("#"):
            continue
        try:
            image, label = _parse_line(line, places, labels == "required")
        except UserError as fault:
            faults.append((number, str(fault)))
            continue
        samples.append(Sample(image, label, _image_id(image, places), number))
    raise_faults(path, faults, _tried_note(faults, places))
    if not samples:
        raise UserError(f"the list {display_path(path)} is empty: it names no images, one a line as image<TAB>label")
    _tell_repeats(samples, path, say)
    return samples


def write_list(path: Path | str, pairs: Iterable[tuple[Path, Path | None]], root: Path = REPO_ROOT) -> None:
    """Write image/label pairs as a list, tab-separated, relative to ``root`` where below it; atomic.

    Raises:
        UserError: a path that a list cannot hold: with a tab, a line break, or spaces at its ends.
    """
    lines = ["\t".join(_list_entry(file, root) for file in pair if file is not None) + "\n" for pair in pairs]
    with atomic_write(Path(path)) as file:
        file.write("".join(lines).encode("utf-8"))


def check_samples(
    samples: Sequence[Sample],
    list_path: Path | str,
    num_classes: int = 1,
    ignore_index: int | None = None,
    in_channels: int = 1,
    workers: int | None = None,
) -> list[tuple[int, int]]:
    """Read every image's header and every label whole, in parallel, so that a run fails before its first epoch.

    Args:
        samples: what `read_list` returned for ``list_path``.
        workers: threads (default: four for each CPU).
    Returns: the size (H, W) of every image, in order.
    Raises:
        UserError: every fault at once, with list and line: files that cannot be read, sizes that differ, images
            below 16×16, label values that are no class.
    """

    def check(sample: Sample) -> _Check:
        return _check_sample(sample, num_classes, ignore_index, in_channels)

    workers = workers or 4 * (os.cpu_count() or 1)
    checks = []
    with ThreadPoolExecutor(workers) as pool, Progress(len(samples), f"checking {display_path(list_path)}") as progress:
        for checked in pool.map(check, samples):
            checks.append(checked)
            progress.update()
    faults = [(sample.line, fault) for sample, each in zip(samples, checks, strict=True) for fault in each.faults]
    raise_faults(Path(list_path), faults)
    _refuse_ignored_masks(checks, Path(list_path), num_classes, ignore_index)
    return [each.size for each in checks]


def raise_faults(path: Path, faults: Sequence[tuple[int, str]], note: str = "") -> None:
    """Raise one UserError for all ``(line, message)`` faults of a list; return if there are none."""
    if not faults:
        return
    lines = [f"{display_path(path)}:{line}: {message}" for line, message in faults[:LISTED_FAULTS]]
    if len(faults) > LISTED_FAULTS:
        lines.append(f"… and {len(faults) - LISTED_FAULTS} more")
    head = "" if len(faults) == 1 else f"{display_path(path)} has {len(faults)} faults:\n"
    raise UserError(head + "\n".join(lines) + note)


# Parsing


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
        raise UserError(f"--data_root {data_root} is no folder")
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


def _parse_line(line: str, places: _Places, label_required: bool) -> tuple[Path, Path | None]:
    """Image and label of a line; every fault of the line in one UserError."""
    image = _find(line, places)
    if image is not None:
        parts = [line]
    elif "\t" in line:
        parts = [part.strip(" ") for part in line.split("\t") if part.strip(" ")]
        if len(parts) > 2:
            raise UserError(f"{len(parts)} columns between tabs; expected image<TAB>label")
    else:
        parts = [part for part in line.split(" ") if part]
        if len(parts) > 2:
            raise UserError(f"'{line}' names no file and has {len(parts)} parts between spaces; {TAB_REMEDY}")
    found = [_find(part, places) for part in parts]
    faults = [
        f"{kind} {part} {'is a folder' if _is_folder(part, places) else 'does not exist'}"
        for kind, part, file in zip(("image", "label"), parts, found, strict=False)
        if file is None
    ]
    if faults and len(parts) == 2 and "\t" not in line:
        faults.append(f"separated at the space; {TAB_REMEDY}")
    if label_required and len(parts) == 1:
        faults.append("no label stands beside the image; expected image<TAB>label")
    if faults:
        raise UserError("; ".join(faults))
    return found[0], found[1] if len(found) == 2 else None


def _tried_note(faults: Sequence[tuple[int, str]], places: _Places) -> str:
    if not any("does not exist" in message or "names no file" in message for _, message in faults):
        return ""
    tried = ", ".join(dict.fromkeys(display_path(place) for place in places.in_order))
    return f"\nRelative paths were tried from: {tried} (--data_root names one to try first)"


def _find(text: str, places: _Places) -> Path | None:
    for place in places.in_order:
        candidate = os.path.join(place, text)  # an absolute ``text`` replaces the place
        if os.path.isfile(candidate):  # unlike Path.is_file, also False for names that no file can have
            return Path(os.path.abspath(candidate))
    return None


def _is_folder(text: str, places: _Places) -> bool:
    return any(os.path.isdir(os.path.join(place, text)) for place in places.in_order)


def _image_id(image: Path, places: _Places) -> str:
    for place in (places.data_root, places.root, places.list_folder):
        if place is not None and image.is_relative_to(place):
            return image.relative_to(place).as_posix()
    return image.as_posix()


def _tell_repeats(samples: Sequence[Sample], path: Path, say: Callable[[str], object]) -> None:
    first_lines: dict[Path, int] = {}
    for sample in samples:
        first_lines.setdefault(sample.image, sample.line)
    repeats = [sample for sample in samples if first_lines[sample.image] != sample.line]
    if repeats:
        image, line = repeats[0].image, repeats[0].line
        say(
            f"{display_path(path)}: an image stands more than once, and counts as often, in {len(repeats)} lines; "
            f"the first: {display_path(image)} in lines {first_lines[image]} and {line}"
        )


def _list_entry(file: Path, root: Path) -> str:
    file = Path(os.path.abspath(file))
    root = Path(os.path.abspath(root))
    text = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
    if text.strip(" \t") != text or any(mark in text for mark in "\t\n\r\0"):
        raise UserError(f"a list cannot hold the path {text!r}: rename the file without tabs, line breaks, end spaces")
    return f"./{text}" if text.startswith(("#", "\ufeff")) else text


# Checking


class _Check(NamedTuple):
    """What the check of one sample found."""

    size: tuple[int, int]
    faults: list[str]
    has_foreground: bool
    has_ignored: bool


def _check_sample(sample: Sample, num_classes: int, ignore_index: int | None, in_channels: int) -> _Check:
    size, label, faults = (0, 0), None, []
    try:
        size = read_shape(sample.image, in_channels)
        if min(size) < MIN_SIDE:
            faults.append(
                f"image {display_path(sample.image)} is {size[0]}×{size[1]}, at least {MIN_SIDE}×{MIN_SIDE} is needed"
            )
    except UserError as fault:
        faults.append(f"image {fault}")
    try:
        if sample.label is not None:
            label = read_label(sample.label, num_classes, ignore_index)
    except UserError as fault:
        faults.append(f"label {fault}")
    if label is None:
        return _Check(size, faults, False, False)
    if size != (0, 0) and label.shape != size:
        faults.append(
            f"label {display_path(sample.label)} is {label.shape[0]}×{label.shape[1]}, its image {size[0]}×{size[1]}"
        )
    return _Check(size, faults, bool(np.any(label == 1)), bool(np.any(label == IGNORE)))


def _refuse_ignored_masks(checks: Sequence[_Check], path: Path, num_classes: int, ignore_index: int | None) -> None:
    """Masks of 0 and 255 read with 255 as ignored would silently teach that all is background."""
    if num_classes > 2 or (num_classes == 1 and ignore_index != IGNORE):
        return
    if any(check.has_ignored for check in checks) and not any(check.has_foreground for check in checks):
        remedy = "use --num_classes 1" if num_classes == 2 else "leave out --ignore_index 255"
        raise UserError(
            f"{display_path(path)}: no label has any foreground, only background and ignored pixels (255); "
            f"if these are masks of 0 and 255, {remedy}"
        )
