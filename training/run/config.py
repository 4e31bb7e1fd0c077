"""The folder of a run and its config: who owns it; resolved from given options, written, read back on resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.label_values import LabelReading
from datasets.lists import Sample, find_list, write_list
from training.configuration.resolve import ASKED, NAMED_DATA, check_values, resolve_options, resume_options
from training.data import HELD_OUT, TrainingData, simulated_noise
from training.options import DEFAULTS, TrainingOptions
from training.run.logger import METRICS
from training.run.state import AUTO, TrainingState, has_checkpoint
from training.selection import LabelNoiseFacts
from utils.cli import UserError
from utils.device import choose_device
from utils.distributed import world_size
from utils.files import (
    COUNT,
    LIST,
    OBJECT,
    POSITIVE,
    TEXT,
    Kind,
    check_places,
    check_record,
    check_writable,
    plain,
    read_json,
    read_record,
    write_json,
)
from utils.run_folder import (
    CROSS_FIT,
    REPO_ROOT,
    check_place,
    create_run_folder,
    display_path,
    environment_record,
    find_run,
    plain_name,
)
from utils.run_lock import LOCK, remove_temporary_files, run_lock

if TYPE_CHECKING:
    from evaluation.label_audit.verdict import Audit

CONFIG = "config.json"
CONFIG_FIELDS = {"dataset": TEXT, "network": TEXT, "epochs": POSITIVE, "seed": COUNT, "labels": OBJECT}
CONFIG_FIELDS |= {"asked": OBJECT, "environment": OBJECT, "loss": TEXT}
DECISIONS = Kind(
    "a list of decisions, each with name, value and reason",
    lambda value: LIST.accepts(value) and all(isinstance(each, dict) and set(each) == DECISION for each in value),
)
DECISION = {"name", "value", "reason"}
CONFIG_OPTIONAL = {"resumed": LIST, "network_options": OBJECT, "restart": OBJECT.or_null(), "decisions": DECISIONS}
CONFIG_OPTIONAL |= {"label_reading": OBJECT.or_null(), "method_options": OBJECT}


def configure(given: dict[str, Any], root: Path = REPO_ROOT) -> TrainingOptions:
    """Resolve given options on this machine; with ``resume``, against the config of that run.

    ``resume="auto"`` goes on with the run of ``run_name`` from its first checkpoint on, and starts it before. With
    ``config``, another run's config.json, its options count where none are given.
    """
    if given.get("resume") == AUTO:
        run = named_run(given.get("dataset", DEFAULTS["dataset"]), given.get("run_name"), root)
        if run is not None and has_checkpoint(run):
            config = _named(read_config(run), run, given)
            return resume_options(_as_recorded(given, config, root), config)
    elif "resume" in given:
        run = find_run(given["resume"], root / "train_log")
        config = _named(read_config(run), run, given)
        return resume_options({**_as_recorded(given, config, root), "resume": str(run)}, config)
    if given.get("init_from") is not None:
        given = {**given, "init_from": str(find_run(given["init_from"], root / "train_log"))}
    data_root = given.get("data_root") or os.environ.get("SEG_ROOT")
    if data_root:  # image ids, and with them all random draws, are relative to it
        given = {**given, "data_root": os.path.abspath(data_root)}
    if given.get("config") is not None and (Path(given["config"]) / CROSS_FIT).is_file():
        raise UserError(f"--config {given['config']} is a cross-fit of several runs: name one of them, such as fold_1")
    if given.get("config") is not None and Path(given["config"]).is_dir():  # that of a run
        given = {**given, "config": str(Path(given["config"]) / CONFIG)}
    config = None if given.get("config") is None else read_json(given["config"])
    if isinstance(config, dict) and {"preset", "network"} <= config.keys():
        check_values(check_record(config, given["config"], {}, {"asked": OBJECT, **CONFIG_OPTIONAL}), given["config"])
    return resolve_options(given, choose_device(given.get("device", "auto")) != "cpu", config)


def _named(config: dict[str, Any], run: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The config of a run, which goes by the name of its folder too."""
    return {**config, "run_name": run.name} if given.get("run_name") == run.name else config


def _as_recorded(given: dict[str, Any], config: dict[str, Any], root: Path) -> dict[str, Any]:
    """Given options of a run that goes on, with paths written as its config has them where they mean the same."""
    same = dict(given)
    if given.get("data_root"):
        same["data_root"] = os.path.abspath(given["data_root"])
    for name in ("init_from", *NAMED_DATA[1:]):
        if given.get(name) is None or config.get(name) is None:
            continue
        with suppress(UserError):  # of a run or a list that is gone the name is compared
            if name == "init_from":
                same[name] = str(find_run(given[name], root / "train_log"))
            elif len({find_list(each[name], config["dataset"], root).resolve() for each in (given, config)}) == 1:
                same[name] = config[name]
    return same


def read_config(run: Path) -> dict[str, Any]:
    """The config of a run that goes on.

    Raises:
        UserError: it is missing or broken, or an option in it has a value that it cannot have.
    """
    path = run / CONFIG
    config = read_record(path, CONFIG_FIELDS, CONFIG_OPTIONAL, remedy="put back a copy, or start the run anew")
    check_values(config, display_path(path))
    try:
        LabelReading.from_json(config.get("label_reading"))
    except UserError as fault:
        raise UserError(f"{display_path(path)}: {fault}") from None
    return config


def check_folder(options: TrainingOptions, previous: Path | None, root: Path) -> None:
    """Refuse, before the data are read, a place where the run's folder cannot be made or written to.

    Raises:
        OSError: as the system says it; UserError: the name.
    """
    parent = root / "train_log" / options.data.dataset
    check_place(previous or parent, plain_name(options.run.run_name) or "")
    if previous is not None:
        check_writable(previous / "log.txt")
        check_writable(previous / LOCK)
        names = ("best.pth", "last.pth", *(path.name for path in (previous / "checkpoints").glob("epoch_*.pth")))
        check_places([previous / CONFIG, previous / METRICS, *(previous / "checkpoints" / name for name in names)])


def named_run(dataset: str, run_name: str | None, root: Path) -> Path | None:
    """The folder of the run that ``--resume auto`` is about; None where there is none yet.

    Raises:
        UserError: no ``--run_name``, or that of a cross-fit.
    """
    if run_name is None:
        raise UserError(f"--resume {AUTO} goes on with the run of --run_name: give one")
    folders = (root / "train_log" / name / run_name for name in (dataset, f"{dataset}_sim"))
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is not None and (found / CROSS_FIT).exists():
        raise UserError(f"{display_path(found)} is a cross-fit: give --folds to go on with it, or another --run_name")
    return found


def previous_run(options: TrainingOptions, root: Path) -> Path | None:
    """The folder of the run that goes on; None where one starts."""
    if options.run.resume != AUTO:
        return Path(options.run.resume) if options.run.resume else None
    run = named_run(options.data.dataset, options.run.run_name, root)
    return run if run is not None and has_checkpoint(run) else None


def own_run(folder: Path, until: ExitStack) -> Path:
    """Hold the lock of a run until ``until`` ends, and remove temporary files of processes that died.

    Raises:
        UserError: another process owns the run; the message names it.
    """
    until.enter_context(run_lock(folder))
    for written in (folder, folder / "checkpoints"):
        remove_temporary_files(written)
    return folder


def open_folder(options: TrainingOptions, root: Path) -> Path:
    """Make the folder of a run that starts; ``--resume auto`` takes the one whose first epoch was not finished."""
    if options.run.resume == AUTO and (run := named_run(options.data.dataset, options.run.run_name, root)):
        return run
    if options.run.within is not None:  # the name is settled, and what has no checkpoint begins anew
        run = root / "train_log" / options.data.dataset / options.run.within / str(options.run.run_name)
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        return run
    return create_run_folder(
        options.data.dataset,
        options.network.name,
        options.loss.spec,
        options.optimization.optimizer,
        options.run.run_name,
        root / "train_log",
    )


def label_facts(previous: Path | None, found: LabelNoiseFacts) -> LabelNoiseFacts:
    """What this run decides by: what has just been found, or on resume what it found when it began."""
    if previous is None:
        return found
    try:
        return LabelNoiseFacts.from_json(read_config(previous)["labels"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{display_path(previous / CONFIG)}: labels: {error}; put back a copy, or start the run anew"
        ) from None


def make_config(
    options: TrainingOptions, asked: TrainingOptions, data: TrainingData, state: TrainingState
) -> dict[str, Any]:
    """Every resolved option, what inference needs to rebuild the network, and where the run happened.

    Args:
        asked: the options before data set and lists were settled.
    """
    decoder = state.scores.decoder(options.data.num_classes, state.loss.class_weights)
    are_probabilities = state.loss.is_proper and options.loss.method == "supervised"
    learned = state.scores.matrix if are_probabilities else None
    return {
        **options.to_dict(),
        "asked": {name: asked.flat()[name] for name in ASKED},
        "train_list": display_path(data.train_list),
        "val_list": None if data.val_list is None else display_path(data.val_list),
        "test_list": None if data.test_list is None else display_path(data.test_list),
        "train_images": len(data.train),
        "train_fields": data.train_fields,
        "annotators": max(1 + len(sample.more_labels) for sample in data.train.samples),
        "listed_label_noise": simulated_noise(data.train),
        "val_images": 0 if data.val is None else len(data.val),
        "val_is_one_field": data.val_is_one_field,
        "network_options": options.network.options,
        "used_precision": state.precision,
        "label_reading": data.reading.to_json(),
        "restart": None if state.restart is None else asdict(state.restart),
        "labels": plain(state.labels.to_json()),
        "decode_matrix": None if decoder is None else plain(decoder.matrix),
        # of the labels whose probabilities scores are
        "score_matrix": None if learned is None else plain(learned.rows),
        "environment": environment_record(str(state.device)) | {"processes": world_size()},
        "resumed": [],
    }


def begin_run(run: Path, config: dict[str, Any], audit: Audit | None, held_out: Sequence[Sample], root: Path) -> Path:
    """Write what a run begins with into its folder."""
    write_config(run, config)
    if audit is not None:
        write_json(run / "audit.json", audit.record())
    if held_out:
        write_list(run / HELD_OUT, [(sample.image, sample.label) for sample in held_out], root)
    return run


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Write config.json; a resumed run keeps where it began and adds where it went on."""
    path = run / CONFIG
    if path.exists():
        before = read_config(run)
        places = [*before.get("resumed", []), config["environment"]]
        config = {**config, "asked": before["asked"], "environment": before["environment"], "resumed": places}
    write_json(path, config)
