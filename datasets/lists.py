"""The txt lists that say which images and labels belong to a data set: found, parsed, checked and written.

A line is a sample: ``image<TAB>label``, or the image alone. ``txt/README.md`` explains lists to users.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.image_io import read_label, read_shape
from datasets.labels import IGNORE
from datasets.list_parser import Sample, parse_list
from utils.cli import UserError, map_with_progress, one_of
from utils.files import atomic_write
from utils.run_folder import REPO_ROOT, display_path

SPLITS = ("train", "val", "test")
CLEAN_LIST, NOISY_LIST = "train_gt.txt", "train_noisyLabel.txt"  # in the folder ``train`` of a data set's lists
MIN_SIDE = 16  # pixels; the networks halve the image four times
LISTED_FAULTS = 20


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


def default_training_list(dataset: str, clean: bool = False, root: Path = REPO_ROOT) -> Path:
    """The list that training reads unless told otherwise: ``train_noisyLabel.txt``, else ``train_gt.txt``.

    Args:
        clean: take the clean list even where there is a noisy one, to put noise on it.
    Raises:
        UserError: there is neither; the message names the lists that exist.
    """
    noisy, clean_list = (list_folder(dataset, root) / "train" / name for name in (NOISY_LIST, CLEAN_LIST))
    return noisy if noisy.is_file() and not clean else find_list(clean_list, dataset, root)


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
        say: told of images that appear more than once.
    Returns: the samples in the order of the list.
    Raises:
        UserError: no such list, an empty one, or every fault of its lines at once, with line numbers.
    """
    path = Path(path)
    samples, faults, note = parse_list(path, data_root, root, _label_required(labels))
    raise_faults(path, faults, note)
    _tell_repeats(samples, path, say)
    return samples


def read_checked_list(
    path: Path | str,
    data_root: Path | str | None = None,
    root: Path = REPO_ROOT,
    labels: str = "required",
    num_classes: int = 1,
    ignore_index: int | None = None,
    in_channels: int = 1,
    say: Callable[[str], object] = print,
) -> tuple[list[Sample], list[tuple[int, int]]]:
    """`read_list` and `check_samples` in one: the faults of the lines and of the files are reported together.

    Returns: the samples and their sizes (H, W), in the order of the list.
    Raises:
        UserError: as the two.
    """
    path = Path(path)
    samples, faults, note = parse_list(path, data_root, root, _label_required(labels))
    checks = _check_all(samples, path, num_classes, ignore_index, in_channels)
    raise_faults(path, sorted(faults + _file_faults(samples, checks)), note)
    _refuse_ignored_masks(checks, path, num_classes, ignore_index)
    _tell_repeats(samples, path, say)
    return samples, [check.size for check in checks]


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
    list_path = Path(list_path)
    checks = _check_all(samples, list_path, num_classes, ignore_index, in_channels, workers)
    raise_faults(list_path, _file_faults(samples, checks))
    _refuse_ignored_masks(checks, list_path, num_classes, ignore_index)
    return [check.size for check in checks]


def raise_faults(path: Path, faults: Sequence[tuple[int, str]], note: str = "") -> None:
    """Raise one UserError for all ``(line, message)`` faults of a list; return if there are none."""
    if not faults:
        return
    lines = [f"{display_path(path)}:{line}: {message}" for line, message in faults[:LISTED_FAULTS]]
    if len(faults) > LISTED_FAULTS:
        lines.append(f"… and {len(faults) - LISTED_FAULTS} more")
    head = "" if len(faults) == 1 else f"{display_path(path)} has {len(faults)} faults:\n"
    raise UserError(head + "\n".join(lines) + note)


def _label_required(labels: str) -> bool:
    return one_of(labels, ("required", "optional"), "labels") == "required"


def _tell_repeats(samples: Sequence[Sample], path: Path, say: Callable[[str], object]) -> None:
    first_lines: dict[Path, int] = {}
    for sample in samples:
        first_lines.setdefault(sample.image, sample.line)
    repeats = [sample for sample in samples if first_lines[sample.image] != sample.line]
    if repeats:
        image, line = repeats[0].image, repeats[0].line
        say(
            f"{display_path(path)}: an image appears more than once, and is used as often, in {len(repeats)} lines; "
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


def _check_all(
    samples: Sequence[Sample],
    path: Path,
    num_classes: int,
    ignore_index: int | None,
    in_channels: int,
    workers: int | None = None,
) -> list[_Check]:
    def check(sample: Sample) -> _Check:
        return _check_sample(sample, num_classes, ignore_index, in_channels)

    workers = workers or 4 * (os.cpu_count() or 1)
    return map_with_progress(check, samples, f"checking {display_path(path)}", workers=workers)


def _file_faults(samples: Sequence[Sample], checks: Sequence[_Check]) -> list[tuple[int, str]]:
    return [(sample.line, fault) for sample, each in zip(samples, checks, strict=True) for fault in each.faults]


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
    return _Check(size, faults, bool(np.any((label != 0) & (label != IGNORE))), bool(np.any(label == IGNORE)))


def _refuse_ignored_masks(checks: Sequence[_Check], path: Path, num_classes: int, ignore_index: int | None) -> None:
    """Masks of 0 and 255 read with 255 as ignored would silently teach that all is background."""
    if num_classes == 1 and ignore_index != IGNORE:
        return
    if any(check.has_ignored for check in checks) and not any(check.has_foreground for check in checks):
        remedy = "leave out --ignore_index 255" if num_classes == 1 else "use --num_classes 1"
        raise UserError(
            f"{display_path(path)}: no label has any foreground, only background and ignored pixels (255); "
            f"if these are masks of 0 and 255, {remedy}"
        )
