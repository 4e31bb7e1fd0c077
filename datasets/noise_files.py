"""Noisy labels on disk: the files, their manifest and their list, made from the labels of another list."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import IGNORE_IN_BINARY_FILES, read_label, stored_channels, write_label
from datasets.label_noise import noisy_stages, parse_repair, parse_spec, spec_folder_name, spec_transition_matrix
from datasets.label_values import LabelReading
from datasets.labels import IGNORE, label_classes
from datasets.list_checks import Expectation, decide_labels
from datasets.list_files import NOISY_LIST, find_list, list_folder, read_list, write_list
from datasets.list_parser import Sample, raise_faults
from datasets.transition_matrix import count_transitions, joint_counts, normalize_rows
from utils.cli import UserError, map_with_progress, shortened
from utils.files import LIST, atomic_write, check_places, read_record, unique_stems, write_json
from utils.output_folder import new_folder
from utils.run_folder import REPO_ROOT, display_path, quoted

SOURCE_LIST = "train_gt"
NAMED_FILES = 5
MAX_TABLE = 1000  # images; above, the manifest has sums only


@dataclass(frozen=True)
class NoiseSettings:
    """What noisy labels are a function of, besides the clean ones; see `datasets.label_noise.make_noisy_label`."""

    spec: str
    seed: int = 0
    num_classes: int = 1
    unlabelled: str = "background"


@dataclass(frozen=True)
class Tally:
    """What noise did to labels, counted.

    Attributes:
        transitions: clean → noisy, int64 (K, K).
        reached, kept: pixels of each class that reached each step, and that kept their class in it, int64 (steps, K).
        pixels, ignored: all pixels, and those that count nowhere in the end.
    """

    transitions: np.ndarray
    reached: np.ndarray
    kept: np.ndarray
    pixels: int
    ignored: int


def write_noisy_labels(
    dataset: str,
    spec: str,
    *,
    seed: int = 0,
    num_classes: int = 1,
    unlabelled: str = "background",
    source_list: str | Path = SOURCE_LIST,
    root: Path = REPO_ROOT,
    ignore_index: int | None = None,
    label_map: str | None = None,
    data_root: Path | str | None = None,
    make_default: bool = False,
    repair: bool = False,
    say: Callable[[str], object] = print,
) -> Path:
    """Write the labels of a list with noise, and the lists that name them.

    ``datasets/<dataset>/train/labels_<NAME>`` gets a PNG for each image and ``manifest.json``; it appears as a whole or
    not at all. Then comes ``txt/<dataset>/train/train_<NAME>.txt``. The labels equal those that ``make_noisy_label``
    makes on the fly with the same seed and image ids, bit for bit.

    Args:
        dataset: name of the data set.
        spec: see ``datasets.label_noise``; NAME is `spec_folder_name` of it.
        seed: ≥ 0.
        num_classes: 1 (binary) or K.
        unlabelled: what ``sample`` does not keep becomes ``background`` or is ``ignore``-d.
        source_list: the list of clean labels, a path or a bare name.
        root: the folder that holds ``datasets`` and ``txt``.
        ignore_index: the value of the clean labels' files that is ignored.
        label_map: what the values of the clean labels' files mean.
        data_root: the folder that the list's relative paths are tried from first; image ids are relative to it.
        repair: the spec corrects the labels, as `datasets.label_noise.parse_repair` allows: NAME is
            ``repaired_<source list>_<spec>``, and the manifest says ``repair`` in place of ``spec``.
        make_default: make ``train_noisyLabel.txt``, which training reads by default, equal to the new list.
        say: takes the lines meant for the user.
    Returns: the new list's path.
    Raises:
        UserError: a wrong spec, no such list, every unreadable or wrong label of the list at once, a folder that
            must not be replaced, files that cannot be written.
    """
    settings = NoiseSettings(spec, seed, num_classes, unlabelled=unlabelled)
    (parse_repair if repair else parse_spec)(spec, num_classes)
    source = find_list(source_list, dataset, root)
    samples = read_list(source, data_root, root, say=say)
    files = name_files(samples, source)
    before = f"repaired_{source.stem.removeprefix('train_')}_" if repair else ""
    name = before + spec_folder_name(spec)
    folder = root / "datasets" / dataset / "train" / f"labels_{name}"
    new_list = list_folder(dataset, root) / "train" / f"train_{name}.txt"
    check_replaceable(folder, samples, settings, say=say)
    check_places([folder, new_list])
    reading = decide_labels(samples, source, Expectation.of(num_classes, ignore_index, label_map), say)
    try:
        with new_folder(folder) as into:
            jobs = dict(zip(files, samples, strict=True))  # an image that the list repeats has one label
            tallies = make_labels(jobs, into, settings, reading=reading, source=source)
            content = manifest(settings, _path_in(root, source), jobs, tallies=tallies)
            if repair:
                content["repair"] = content.pop("spec")
            write_json(into / "manifest.json", content)
        write_list(new_list, [(sample.image, folder / file) for file, sample in zip(files, samples, strict=True)], root)
        if make_default:
            point_noisy_list_to(new_list, say)
    except OSError as error:
        raise UserError(f"the noisy labels could not be written to {display_path(folder)}: {error}") from None
    return new_list


def channels_of_list(list_path: Path, data_root: Path | str | None = None, root: Path = REPO_ROOT) -> int:
    """How many channels the images of a list have on an axis of their own, by the first."""
    return stored_channels(read_list(list_path, data_root, root, say=lambda line: None)[0].image)


def training_command(
    dataset: str,
    train_list: str | Path,
    *,
    num_classes: int = 1,
    ignore_index: int | None = None,
    label_map: str | None = None,
    data_root: Path | str | None = None,
    clean_list: Path | str | None = None,
    in_channels: int = 1,
    channels: Sequence[str] = (),
) -> str:
    """What to type to train on a list, a path or a bare name, beside other lists read as those it was made from."""
    given = {
        "num_classes": num_classes if num_classes > 1 else None,
        "in_channels": in_channels if in_channels > 1 and not channels else None,
        "channels": ",".join(channels) or None,
        "ignore_index": ignore_index,
        "label_map": label_map,
        "data_root": data_root,
        "clean_list": clean_list,
        "train_list": train_list,
    }
    options = [f"--{name} {quoted(str(value))}" for name, value in given.items() if value is not None]
    return " ".join(["python main.py --dataset", quoted(dataset), *options])


def name_files(samples: Sequence[Sample], source: Path) -> list[str]:
    """The file of each sample's label, named after its image; lines that repeat image and label share a file.

    Raises:
        UserError: images with several labels; all such lines are named.
    """
    labels = {sample.image: sample.label for sample in reversed(samples)}  # of the first line that has the image
    faults = [
        (sample.line, f"{display_path(sample.image)} appears more than once, with different labels: split the list")
        for sample in samples
        if sample.label != labels[sample.image]
    ]
    raise_faults(source, faults)
    stems = dict(zip(labels, unique_stems(list(labels)), strict=True))
    return [f"{stems[sample.image]}.png" for sample in samples]


def check_replaceable(
    folder: Path, samples: Sequence[Sample], settings: NoiseSettings, say: Callable[[str], object]
) -> None:
    """Refuse to replace labels that are the source, or that this module did not make; tell what else is replaced."""
    shown = display_path(folder)
    if any(sample.require_label().parent == Path(os.path.abspath(folder)) for sample in samples):
        raise UserError(f"{shown} holds the labels to start from; noise on them would replace them: copy them first")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "manifest.json").is_file():
        raise UserError(f"{shown} exists and has no manifest.json, so it was made by other means: rename or remove it")
    before = read_record(folder / "manifest.json", {}, {"labels": LIST}, remedy="rename or remove the folder")
    foreign = foreign_files(folder, before)
    if foreign:
        raise UserError(
            f"{shown} is made anew as a whole, and holds files that are no labels of its own: "
            f"{shortened(foreign, NAMED_FILES)}; move these first"
        )
    for name in ("seed", "num_classes", "unlabelled"):
        if before.get(name) != getattr(settings, name):
            say(f"{shown} is made anew: it was made with {name} {before.get(name)}, now {getattr(settings, name)}")


def foreign_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What lies in a folder of labels that its manifest does not name; of many it names none: PNG count then."""
    rows = manifest.get("labels", [])
    named = {str(row.get("label")) for row in rows if isinstance(row, dict)}
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [
        name
        for name in files
        if name != "manifest.json" and (name not in named if named else not name.endswith(".png"))
    ]


def make_labels(
    jobs: dict[str, Sample], into: Path, settings: NoiseSettings, reading: LabelReading, source: Path
) -> list[Tally]:
    """Make and write all labels, in parallel; all unreadable or wrong labels are reported at once."""
    steps = parse_spec(settings.spec, settings.num_classes)

    def make(job: tuple[str, Sample]) -> Tally | tuple[int, str]:
        file, sample = job
        try:
            label = read_label(sample.require_label(), reading=reading)
        except UserError as fault:
            return sample.line, str(fault)
        noise = noisy_stages(
            label,
            steps,
            settings.seed,
            image_id=sample.image_id,
            num_classes=settings.num_classes,
            unlabelled=settings.unlabelled,
        )
        stages = [label, *noise]
        write_label(into / file, stages[-1], settings.num_classes)
        return count_stages(stages, settings.num_classes)

    results = map_with_progress(make, list(jobs.items()), "noisy labels", unit="label")
    raise_faults(source, [result for result in results if not isinstance(result, Tally)])
    tallies = [result for result in results if isinstance(result, Tally)]
    _refuse_masks_as_classes(tallies, settings.num_classes, source)
    return tallies


def _refuse_masks_as_classes(tallies: Sequence[Tally], num_classes: int, source: Path) -> None:
    clean = np.sum([tally.reached[0] for tally in tallies], axis=0)
    if num_classes > 1 and not clean[1:].any() and clean.sum() < sum(tally.pixels for tally in tallies):
        raise UserError(
            f"{display_path(source)}: no label has any class but 0; the other pixels are ignored. If these are masks "
            "of 0 and 255, use --num_classes 1"
        )


def count_stages(stages: Sequence[np.ndarray], num_classes: int) -> Tally:
    """Count what happened from the clean label, the first of ``stages``, through every step to the noisy one."""
    classes = label_classes(num_classes)
    joints = [joint_counts(before, after) for before, after in zip(stages, stages[1:], strict=False)]
    return Tally(
        count_transitions(stages[0], stages[-1], num_classes),
        np.stack([joint.sum(axis=1)[:classes] for joint in joints]),
        np.stack([joint.diagonal()[:classes] for joint in joints]),
        pixels=stages[-1].size,
        ignored=int((stages[-1] == IGNORE).sum()),
    )


def manifest(settings: NoiseSettings, source: str, jobs: dict[str, Sample], tallies: Sequence[Tally]) -> dict[str, Any]:
    """What a folder of noisy labels says about itself.

    ``ignore_value`` is the value on disk that is ignored, null if there is no such pixel. Shares of a class without
    pixels are null. ``transition_matrix`` has the form of a matrix file, with the counts and the matrix in theory.
    """
    steps = parse_spec(settings.spec, settings.num_classes)
    theory = spec_transition_matrix(steps, settings.num_classes, settings.unlabelled)
    transitions = np.sum([tally.transitions for tally in tallies], axis=0)
    reached = np.sum([tally.reached for tally in tallies], axis=0)
    kept = np.sum([tally.kept for tally in tallies], axis=0)
    ignored = sum(tally.ignored for tally in tallies)
    ignore_value = IGNORE_IN_BINARY_FILES if settings.num_classes == 1 else IGNORE
    content = {
        "spec": "+".join(step.text for step in steps),
        "seed": settings.seed,
        "num_classes": settings.num_classes,
        "unlabelled": settings.unlabelled,
        "ignore_value": ignore_value if ignored else None,
        "source_list": source,
        "numpy": np.__version__,  # other versions may draw other pixels
        "images": len(tallies),
        "pixels": sum(tally.pixels for tally in tallies),
        "ignored_pixels": ignored,
        "class_shares": {"clean": _shares(transitions.sum(axis=1)), "noisy": _shares(transitions.sum(axis=0))},
        "realised_shares": [
            {"step": step.text, "kept": np.where(total > 0, kept_now / np.maximum(total, 1), np.nan)}
            for step, total, kept_now in zip(steps, reached, kept, strict=True)
        ],
        "transition_matrix": {
            "classes": len(transitions),
            "matrix": normalize_rows(transitions),
            "counts": transitions,
            "theory": None if theory is None else theory.rows,
        },
    }
    if len(tallies) <= MAX_TABLE:
        content["labels"] = [_table_row(*row) for row in zip(jobs.items(), tallies, strict=True)]
    return content


def _path_in(root: Path, path: Path) -> str:
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / max(counts.sum(), 1)


def _table_row(job: tuple[str, Sample], tally: Tally) -> dict[str, Any]:
    counts = tally.transitions
    return {
        "label": job[0],
        "image": job[1].image_id,
        "foreground_before": counts[1:].sum(),
        "foreground_after": counts[:, 1:].sum(),
        "changed": counts.sum() - counts.trace(),
        "ignored": tally.ignored,
    }


def point_noisy_list_to(new_list: Path, say: Callable[[str], object]) -> None:
    """Make ``train_noisyLabel.txt`` equal to ``new_list``; a hand-made one, equal to no other list, is kept aside."""
    noisy_list, content = new_list.with_name(NOISY_LIST), new_list.read_bytes()
    if noisy_list.is_file():
        before = noisy_list.read_bytes()
        others = [path for path in noisy_list.parent.glob("*.txt") if path != noisy_list]
        if before != content and all(path.read_bytes() != before for path in others):
            kept = _free_name(noisy_list.with_name("train_noisyLabel_before.txt"))
            with atomic_write(kept) as file:
                file.write(before)
            say(f"{display_path(noisy_list)} was equal to no other list: kept as {display_path(kept)}")
    with atomic_write(noisy_list) as file:
        file.write(content)


def _free_name(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
