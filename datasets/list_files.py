"""The txt lists as files: where they are, what their lines say, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from datasets.list_parser import Sample, parse_list, raise_faults
from utils.cli import UserError, counted, one_of
from utils.files import atomic_write, read_json_if_whole
from utils.run_folder import REPO_ROOT, display_path

SPLITS = ("train", "val", "test")
CLEAN_LIST, NOISY_LIST = "train_gt.txt", "train_noisyLabel.txt"  # in the folder ``train`` of a data set's lists


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
    if os.path.exists(name):
        raise UserError(f"{name} is a folder or a pipe: a list must be a file, which is read more than once")
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
    fusion: str = "first",
) -> list[Sample]:
    """Read a list; image and label files must exist, but are not opened (see `read_checked_list`).

    Args:
        path: the list, UTF-8, with or without byte-order mark, any line ends.
        data_root: the folder that relative paths are tried from first (default: ``$SEG_ROOT``); then come the list's
            own folder and ``root``.
        labels: ``required``, or ``optional`` where lines may name an image alone.
        say: told of images that appear more than once.
        fusion: how several labels of an image become one, to be said.
    Returns: the samples in the order of the list.
    Raises:
        UserError: no such list, an empty one, or every fault of its lines at once, with line numbers.
    """
    path = Path(path)
    samples, faults, note = parse_list(path, data_root, root, label_required(labels))
    raise_faults(path, faults, note)
    tell_unusual(samples, path, say, fusion)
    return samples


def corrected_samples(samples: Iterable[Sample], list_path: Path, root: Path = REPO_ROOT) -> set[str]:
    """The images whose labels were mended, repaired or fused from those of a list, which is then no truth of theirs.

    By the manifest in the labels' folder; also through other corrections, but not through noise that was put on a list.
    """
    labelled = [(sample.image_id, sample.require_label().parent) for sample in samples]
    corrected = {folder for folder in {own for _, own in labelled} if _is_corrected_from(folder, list_path, root)}
    return {name for name, folder in labelled if folder in corrected}


def _is_corrected_from(folder: Path, list_path: Path, root: Path, generations: int = 9) -> bool:
    stated = read_json_if_whole(folder / "manifest.json")
    source = stated.get("source_list") if isinstance(stated, dict) and "spec" not in stated else None
    if not isinstance(source, str) or not generations:
        return False
    if os.path.abspath(root / source) == os.path.abspath(list_path):
        return True
    try:
        before = read_list(root / source, root=root, labels="optional", say=lambda line: None)[0].label
    except UserError:  # it is gone
        return False
    return before is not None and _is_corrected_from(before.parent, list_path, root, generations - 1)


def write_list(path: Path | str, rows: Iterable[Sequence[Path | None]], root: Path = REPO_ROOT) -> None:
    """Write images with their labels as a list, see `list_text`; atomic."""
    with atomic_write(Path(path)) as file:
        file.write(list_text(rows, root).encode("utf-8"))


def list_text(rows: Iterable[Sequence[Path | None]], root: Path = REPO_ROOT) -> str:
    """The text of a list: a line an image and its labels, tab-separated, relative to ``root`` where below it.

    Raises:
        UserError: a path that a list cannot hold: with a tab, a line break, or spaces at its ends.
    """
    return "".join("\t".join(_list_entry(file, root) for file in row if file is not None) + "\n" for row in rows)


def label_required(labels: str) -> bool:
    """Whether every line must name a label, for ``required`` or ``optional``; anything else is a UserError."""
    return one_of(labels, ("required", "optional"), "labels") == "required"


def tell_unusual(samples: Sequence[Sample], path: Path, say: Callable[[str], object], fusion: str = "first") -> None:
    """Say which images and labels appear more than once, and which images have labels of several annotators."""
    several = [sample for sample in samples if sample.more_labels]
    if several:
        count = counted(several, "image")
        how = "those of the first are read" if fusion == "first" else f"they become one (--fusion {fusion})"
        say(f"{display_path(path)}: {count} with labels of several annotators: {how}")
    image_of: dict[Path, Sample] = {}
    shared = [one for one in samples if one.label and image_of.setdefault(one.label, one).image != one.image]
    if shared:
        label = shared[0].require_label()
        say(
            f"{display_path(path)}: a label belongs to several images in {counted(shared, 'line')}; the first: "
            f"{display_path(label)} in lines {image_of[label].line} and {shared[0].line}"
        )
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
    if text.encode(errors="replace").decode() != text:
        raise UserError(f"a list cannot hold the path {text!r}: its name is not UTF-8, rename the file")
    return f"./{text}" if text.startswith(("#", "\ufeff")) else text
