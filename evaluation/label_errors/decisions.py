"""Decisions on label issues, as the review page gives them, and the labels that follow from them."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_files import split_plane
from datasets.image_io import IGNORE_IN_BINARY_FILES, read_label, write_label
from datasets.label_values import LabelReading
from datasets.labels import IGNORE
from datasets.list_checks import Expectation
from datasets.lists import Sample, decide_labels, find_list, list_folder, raise_faults, read_list, write_list
from datasets.noise_files import MAX_TABLE, name_files, training_command
from evaluation.label_errors.issue_files import IssueFolder, LabelIssue, is_issue_folder, read_issues
from utils.cli import UserError, counted, map_with_progress
from utils.files import LIST, POSITIVE, TEXT, check_places, check_record, read_record, write_json
from utils.fingerprint import digest
from utils.output_folder import new_folder
from utils.paths import absolute_path
from utils.run_folder import LOG_ROOT, REPO_ROOT, display_path

ACTIONS = ("keep", "take", "ignore", "drop")
MENDED = "mended"
Decided = Mapping[Path, list[tuple[LabelIssue, str]]]  # the decisions of each image


def read_decisions(path: Path) -> dict[str, Any]:
    """The content of a decisions.json.

    Raises:
        UserError: it is missing or broken, or a decision is none; the message names it.
    """
    remedy = "download it again from the review page"
    record = read_record(path, {"list": TEXT, "issues": LIST}, remedy=remedy)
    actions: dict[int, str] = {}
    for place, row in enumerate(record["issues"], start=1):
        where = f"{path}, decision {place}"
        check_record(row, where, {"image": TEXT, "id": POSITIVE, "action": TEXT}, remedy=remedy)
        if row["action"] not in ACTIONS:
            raise UserError(f"{where}: action {row['action']!r} is none of {', '.join(ACTIONS)}")
        before = actions.setdefault(row["id"], row["action"])
        if before != row["action"]:
            raise UserError(f"{where}: issue {row['id']} was decided as {before!r} before: keep one of them")
    return record


def match_decisions(record: dict[str, Any], found: IssueFolder, path: Path) -> Decided:
    """The issues that decisions are about.

    Raises:
        UserError: the decisions are about another list, or about issues that the folder does not have.
    """
    if absolute_path(record["list"]) != found.list_path:
        raise UserError(
            f"{path} is about {record['list']}, the issues in {display_path(found.folder)} about "
            f"{display_path(found.list_path)}"
        )
    known = {issue.id: issue for issue in found.issues}
    decided: dict[Path, list[tuple[LabelIssue, str]]] = defaultdict(list)
    for row in record["issues"]:
        issue = known.get(row["id"])
        if issue is None or absolute_path(row["image"]) != issue.image:
            raise UserError(
                f"{path}: issue {row['id']} of {row['image']} is none of those in {display_path(found.folder)}, whose "
                "numbers are good for this folder only: give the folder of the review page by --prd_dir"
            )
        decided[issue.image].append((issue, row["action"]))
    return decided


def find_issue_folder(record: dict[str, Any], path: Path, dataset: str) -> IssueFolder:
    """The folder of issues that decisions belong to: beside them, else the only fitting one of the data set's.

    Raises:
        UserError: none fits, or several do.
    """
    runs = LOG_ROOT / dataset
    places = [path.parent, *sorted(runs.glob("suspects_*")), *sorted(runs.glob("*/issues"))]
    fitting, damaged = [], ""
    for place in places:
        try:
            found = read_issues(place)
        except UserError as fault:
            damaged = damaged or (f" ({fault})" if is_issue_folder(place) else "")
            continue
        try:
            match_decisions(record, found, path)
        except UserError:
            continue
        fitting.append(found)
        if place == path.parent:
            break
    if len(fitting) != 1:
        names = ", ".join(display_path(found.folder) for found in fitting)
        fault = (
            f"fit several folders: {names}"
            if fitting
            else f"are in no folder of issues of {display_path(runs)}{damaged}"
        )
        raise UserError(f"the issues that {path} decides on {fault}; name the folder by --prd_dir DIR")
    return fitting[0]


def mend_label(
    label: np.ndarray, decisions: list[tuple[LabelIssue, str]], regions: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """A label with decisions carried out, each in the pixels of its issue alone.

    Args:
        label, predicted: class indices with IGNORE, (H, W).
        regions: for every pixel the number of its issue, (H, W).
    """
    mended = label.copy()
    for issue, action in decisions:
        region = regions == issue.id
        if action == "take":
            mended[region] = predicted[region]
        elif action == "ignore":
            mended[region] = IGNORE
    return mended


def apply_decisions(
    dataset: str,
    decisions: Path,
    *,
    train_list: str | None = None,
    prd_dir: Path | None = None,
    data_root: str | None = None,
    root: Path = REPO_ROOT,
    say: Callable[[str], object] = print,
) -> Path:
    """Write the labels of a list anew as decided, and a list of them; nothing that exists is replaced.

    ``datasets/<dataset>/train/labels_mended`` gets a PNG for every image that is not dropped, and ``manifest.json``;
    ``txt/<dataset>/train/train_mended.txt`` names them. Where these exist, ``…mended-2`` is written, and so on.

    Args:
        train_list: the list that the decisions are about; default: what they say.
        prd_dir: the folder of the issues; default: see `find_issue_folder`.
        root: the folder that holds ``datasets`` and ``txt``.
    Returns: the new list's path.
    Raises:
        UserError: decisions that are damaged or about something else, labels that changed since, nothing to mend.
    """
    record = read_decisions(decisions)
    found = find_issue_folder(record, decisions, dataset) if prd_dir is None else read_issues(prd_dir)
    decided = match_decisions(record, found, decisions)
    source = find_list(train_list, dataset, root) if train_list else found.list_path
    if absolute_path(source) != found.list_path:
        raise UserError(f"--train_list {display_path(source)}: {decisions} is about {display_path(found.list_path)}")
    counts = Counter(action for row in decided.values() for _, action in row)
    if not counts.keys() - {"keep"}:
        raise UserError(
            f"{decisions}: nothing to mend, {'every decision is keep' if counts else 'there is no decision'}"
        )
    samples = read_list(source, data_root, root, say=say)
    check_unchanged(samples, found, decided, source)
    dropped = {image for image, row in decided.items() if any(action == "drop" for _, action in row)}
    kept = [sample for sample in samples if absolute_path(sample.image) not in dropped]
    if not kept:
        raise UserError(f"{decisions}: every image of {display_path(source)} is dropped")
    reading = found.reading
    if reading is None:
        reading = decide_labels(samples, source, Expectation.of(found.num_classes, found.ignore_index, None), say)
    new_list, rows = write_mended(dataset, kept, found, decided, reading=reading, dropped=dropped, root=root)
    say(f"{told(counts, rows)}, {counted(dropped, 'image')} left out")
    say(f"wrote {display_path(new_list)}{'; its labels do not number objects any more' * reading.objects}")
    command = training_command(
        dataset,
        new_list.stem,
        num_classes=found.num_classes,
        ignore_index=reading.ignore_index,
        label_map=reading.label_map and reading.label_map.text,
        data_root=data_root,
        in_channels=found.in_channels,
        channels=found.channels,
    )
    say(f"train on it with: {command}")
    return new_list


def write_mended(
    dataset: str,
    kept: Sequence[Sample],
    found: IssueFolder,
    decided: Decided,
    *,
    reading: LabelReading,
    dropped: Collection[Path],
    root: Path,
) -> tuple[Path, list[dict[str, Any]]]:
    """Write the labels of the images that are kept into a new folder, and their list.

    Returns: the list, and what its manifest says of every label.
    """
    jobs = dict(zip(name_files(kept, found.list_path), kept, strict=True))
    counts = Counter(action for row in decided.values() for _, action in row)
    folder, new_list = claim_names(dataset, root)
    try:
        with new_folder(folder) as into:
            rows = mend_labels(jobs, into, found, decided, reading=reading)
            content = {
                "decisions": {action: counts[action] for action in ACTIONS},
                "source_list": display_path(found.list_path),
                "issues": display_path(found.folder),
                **describe_labels(rows, found.num_classes),
                "dropped": sorted(display_path(image) for image in dropped),
            }
            write_json(into / "manifest.json", content)
        write_list(new_list, [(sample.image, folder / file) for file, sample in jobs.items()], root)
    except OSError as error:
        raise UserError(f"the mended labels could not be written to {display_path(folder)}: {error}") from None
    finally:
        with contextlib.suppress(OSError):  # it holds labels, or it failed
            folder.rmdir()
    return new_list, rows


def told(counts: Mapping[str, int], rows: Sequence[Mapping[str, Any]]) -> str:
    """The decisions, and how much they changed, in words."""
    actions = ", ".join(f"{counts[action]} {action}" for action in ACTIONS if counts[action])
    pixels, touched = sum(row["changed"] for row in rows), sum(row["changed"] > 0 for row in rows)
    return f"{actions}: {pixels} pixels changed in {touched} of {len(rows)} labels"


def mend_labels(
    jobs: Mapping[str, Sample], into: Path, found: IssueFolder, decided: Decided, reading: LabelReading
) -> list[dict[str, Any]]:
    """Write the labels as decided, each under its name; returns a row of the manifest for each."""

    def make(job: tuple[str, Sample]) -> dict[str, Any]:
        file, sample = job
        decisions = decided.get(absolute_path(sample.image), [])
        label = mended = read_label(sample.require_label(), reading=reading)
        if decisions:
            image = decisions[0][0].image
            regions, predicted = found.read_regions(image), found.read_predicted(image)
            if not label.shape == regions.shape == predicted.shape:
                raise UserError(f"{display_path(sample.require_label())} has another size than what was judged")
            mended = mend_label(label, decisions, regions, predicted)
        write_label(into / file, mended, found.num_classes)
        numbers = {action: [issue.id for issue, chosen in decisions if chosen == action] for action in ACTIONS}
        counts = {"changed": int((mended != label).sum()), "ignored": int((mended == IGNORE).sum())}
        return {
            "label": file,
            "image": sample.image_id,
            **{key: each for key, each in numbers.items() if each},
            **counts,
        }

    return map_with_progress(make, list(jobs.items()), "mended labels", unit="label")


def describe_labels(rows: list[dict[str, Any]], num_classes: int) -> dict[str, Any]:
    """What the manifest says of all labels together, and of each."""
    ignore_value = IGNORE_IN_BINARY_FILES if num_classes == 1 else IGNORE
    content = {
        "num_classes": num_classes,
        "ignore_value": ignore_value if any(row["ignored"] for row in rows) else None,
        "images": len(rows),
        "changed_pixels": sum(row["changed"] for row in rows),
    }
    return content | ({"labels": rows} if len(rows) <= MAX_TABLE else {})


def check_unchanged(samples: list[Sample], found: IssueFolder, decided: Decided, source: Path) -> None:
    """Refuse a list that no longer names the labels that were judged.

    Raises:
        UserError: naming every such line.
    """
    listed = {absolute_path(sample.image): sample for sample in samples}
    faults = [
        (sample.line, f"{display_path(sample.require_label())} is not the label that was judged")
        for image, sample in listed.items()
        if image in decided and absolute_path(sample.require_label()) != found.images[image].label
    ]
    for image, row in decided.items():
        judged = found.images[image]
        path = split_plane(judged.label)[0]
        is_mended = image in listed and any(action in ("take", "ignore") for _, action in row)
        if is_mended and judged.digest is not None and path.is_file() and digest(path) != judged.digest:
            fault = f"{display_path(path)} has changed since it was judged: put it back, or find the issues anew"
            faults.append((listed[image].line, fault))
    gone = [image for image in decided if image not in listed]
    faults += [(0, f"{display_path(image)}, which was decided on, is missing") for image in gone]
    raise_faults(source, faults)


def claim_names(dataset: str, root: Path) -> tuple[Path, Path]:
    """A folder of labels, which is made, and a list that did not exist: ``labels_mended``, ``labels_mended-2``, …."""
    number = 1
    while True:
        name = MENDED if number == 1 else f"{MENDED}-{number}"
        folder = root / "datasets" / dataset / "train" / f"labels_{name}"
        new_list = list_folder(dataset, root) / "train" / f"train_{name}.txt"
        check_places([folder, new_list])
        with contextlib.suppress(FileExistsError):  # another process may be taking the same name
            if not new_list.exists():
                folder.mkdir(parents=True)
                return folder, new_list
        number += 1
