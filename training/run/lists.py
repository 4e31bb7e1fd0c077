"""The lists of a run: which ones, read, checked, with clean labels and with how several annotators' become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from datasets.label_values import LabelReading
from datasets.list_checks import Expectation, ListSurvey
from datasets.lists import (
    CLEAN_LIST,
    NOISY_LIST,
    Sample,
    default_training_list,
    find_list,
    list_folder,
    read_checked_lists,
    refuse_trained_on,
    tell_clean,
    with_clean_labels,
)
from training.data import AUTO_REPAIR, RunLists, hold_out, method_name, training_noise, training_transform
from training.losses import refuse_shares
from training.options import DEFAULTS, TrainingOptions
from utils.cli import UserError
from utils.files import read_json
from utils.run_folder import display_path


def read_lists(
    options: TrainingOptions, root: Path, say: Callable[[str], None], previous: Path | None = None
) -> RunLists:
    """Read and check the lists of a run.

    Args:
        previous: the folder of the run that goes on: without a validation list, if it had none, and its labels read
            as they were.

    Raises:
        UserError: naming every fault of the lists at once.
    """
    training_noise(options), training_transform(options)  # slips are told before files are looked at
    if options.noise.label_repair not in (None, AUTO_REPAIR):
        from datasets.label_noise import parse_repair

        parse_repair(options.noise.label_repair, options.data.num_classes)
    train_list, val_list, test_list = choose_lists(options, root, say, previous is not None)
    paths = [train_list] if val_list is None else [train_list, val_list]
    named = options.data.clean_list
    clean_list = None if named is None else find_list(named, options.data.dataset, root)
    lists, reading = _read_lists(options, paths, clean_list, root, say, previous)
    train, val = lists[0], None if val_list is None else lists[1]
    if clean_list is not None:
        clean = lists[-1].samples
        if val is not None:
            refuse_trained_on(val.samples, val.path, clean, clean_list)
        train = replace(train, samples=with_clean_labels(train.samples, train.path, clean, clean_list))
        say(tell_clean(train.samples, clean, clean_list))
    has_several = any(sample.more_labels for sample in train.samples)
    train, held_out = _part_of(train, options, reading, previous, root)
    if options.data.fusion != "first" and any(sample.more_labels for sample in train.samples):
        train = replace(train, samples=_fused(options, train.samples, say))
    elif options.data.fusion not in ("first", DEFAULTS["fusion"]) and not has_several and previous is None:
        raise UserError(
            f"--fusion {options.data.fusion}: no line of {display_path(train_list)} has labels of several annotators; "
            f"name another --train_list, or leave --fusion {DEFAULTS['fusion']}"
        )
    return RunLists(train, val, test_list, reading, clean_list, held_out)


def _part_of(
    train: ListSurvey, options: TrainingOptions, reading: LabelReading, previous: Path | None, root: Path
) -> tuple[ListSurvey, list[Sample]]:
    """The training list without the part that ``--fold`` leaves out, and that part.

    Raises:
        UserError: what is left has no foreground, or no background.
    """
    kept, left_out = hold_out(train.samples, options.data, previous, root)
    part = replace(train, samples=[train.samples[i] for i in kept], checks=[train.checks[i] for i in kept])
    if left_out and previous is None and options.data.num_classes == 1 and not all(part.presence(reading)):
        missing = "background" if part.presence(reading)[0] else "foreground"
        raise UserError(
            f"--fold {options.data.fold} leaves out every image of {display_path(train.path)} with {missing}, so that "
            "there is nothing to learn: divide the list into other parts, or add images"
        )
    return part, [train.samples[i] for i in left_out]


def choose_lists(
    options: TrainingOptions, root: Path, say: Callable[[str], None], resumes: bool
) -> tuple[Path, Path | None, Path | None]:
    """The training, validation and test list of a run, the last two None where they do not exist."""
    folder = list_folder(options.data.dataset, root)
    if options.data.train_list is not None:
        train = find_list(options.data.train_list, options.data.dataset, root)
    else:
        clean = folder / "train" / CLEAN_LIST
        for_images = options.label_free.igtt and clean.is_file()
        train = default_training_list(
            options.data.dataset, clean=bool(options.noise.label_noise) or for_images, root=root
        )
        if train == clean and not (options.noise.label_noise or for_images):
            say(f"{NOISY_LIST} is absent: training on {clean.name}")
    if options.data.val_list is not None:
        val = find_list(options.data.val_list, options.data.dataset, root)
    elif resumes:
        val = None  # the run had none, whatever has come since
    else:
        val = folder / "val.txt" if (folder / "val.txt").exists() else None
    test = folder / "test.txt"
    return train, val, test if test.exists() else None


def _read_lists(
    options: TrainingOptions,
    paths: Sequence[Path],
    clean_list: Path | None,
    root: Path,
    say: Callable[[str], None],
    previous: Path | None,
) -> tuple[list[ListSurvey], LabelReading]:
    """Training, validation and clean list, checked, and how their labels are read; every fault at once."""
    igtt, data = options.label_free.igtt, options.data
    expected = Expectation.of(data.num_classes, data.ignore_index, data.label_map, data.in_channels, data.channels)
    labels = ("unread", "optional") if igtt else ("required", "required")
    earlier = {} if previous is None else read_json(previous / "config.json")
    reading = LabelReading.from_json(earlier.get("label_reading"))
    return read_checked_lists(
        paths,
        expected,
        data.data_root,
        root,
        labels[: len(paths)],
        reading,
        say,
        clean_list,
        fusion="first" if igtt else data.fusion,
    )


def _fused(options: TrainingOptions, samples: list[Sample], say: Callable[[str], None]) -> list[Sample]:
    """The samples, which know how the labels of several annotators become one.

    Raises:
        UserError: a loss without a form for shares, noise, which is put on single labels, or a fusion that cannot be.
    """
    from datasets.label_fusion import with_fusion

    how = options.data.fusion
    if options.data.num_classes == 1 and options.loss.spec is not None:
        refuse_shares(options.loss.spec)
    if options.data.num_classes == 1 and method_name(options) != "supervised":
        raise UserError(
            f"--method {method_name(options)} takes labels of one annotator, no shares of several: --fusion first "
            "takes the first of each line; repair_labels.py --fusion writes one label of all"
        )
    if options.noise.label_noise is not None:
        raise UserError(
            "--label_noise is put on single labels, and the training list has labels of several annotators: "
            "--fusion first takes the first of each line"
        )
    repairs = None
    if how == "repaired":
        from evaluation.label_audit.annotators import repairs_of_samples

        repairs, lines = repairs_of_samples(samples, options.data.num_classes)
        for line in lines:
            say(line)
    return with_fusion(samples, how, repairs)
