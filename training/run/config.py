"""The config of a run: resolved from given options, written into its folder, read back when it is resumed."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.data import TrainingData
from training.options import TrainingOptions
from training.resolve import CHANGEABLE_ON_RESUME, resolve_options, resume_options
from training.run.state import TrainingState, has_checkpoint, network_options
from training.selection import LabelNoiseFacts
from utils.device import choose_device
from utils.distributed import launch_id, world_size
from utils.files import plain, read_json, write_json
from utils.run_folder import REPO_ROOT, display_path, environment_record, find_run

CONFIG = "config.json"


def configure(given: dict[str, Any], root: Path = REPO_ROOT) -> TrainingOptions:
    """Resolve given options on this machine; with ``resume``, against the config of that run."""
    if "resume" in given:
        run = find_run(given["resume"], root / "train_log")
        return resume_options({**given, "resume": str(run)}, read_json(run / CONFIG))
    data_root = given.get("data_root") or os.environ.get("SEG_ROOT")
    if data_root:  # image ids, and with them all random draws, are relative to it
        given = {**given, "data_root": os.path.abspath(data_root)}
    return resolve_options(given, has_accelerator=choose_device(given.get("device", "auto")) != "cpu")


def take_up(options: TrainingOptions, root: Path) -> tuple[TrainingOptions, Path | None]:
    """The options to go on with, and the run folder that this launch made before ``torchrun`` restarted it, if any.

    From its first checkpoint on, such a run is resumed; before, it begins anew in its folder.
    """
    if options.run.resume:
        return options, None
    configs = ((path, read_json(path)) for path in (root / "train_log").glob(f"*/*/{CONFIG}"))
    made = [path for path, config in configs if config.get("launch") == launch_id() and _asks_for(config, options)]
    if not made:
        return options, None
    run = max(made, key=lambda path: path.stat().st_mtime).parent
    if not has_checkpoint(run):
        return options, run
    changeable = {name: options.flat()[name] for name in CHANGEABLE_ON_RESUME}
    return configure({**changeable, "resume": str(run)}, root), run


def _asks_for(config: dict[str, Any], options: TrainingOptions) -> bool:
    """Whether a run with this config is what the options ask for: a launch may make several runs."""
    asked = {**config, **config["asked"], **{name: options.flat()[name] for name in CHANGEABLE_ON_RESUME}}
    return all(asked[name] == value for name, value in options.to_dict().items())


def label_facts(options: TrainingOptions, found: LabelNoiseFacts) -> LabelNoiseFacts:
    """What this run decides by: what has just been found, or on resume what it found when it began."""
    if not options.run.resume:
        return found
    return LabelNoiseFacts.from_json(read_json(Path(options.run.resume) / CONFIG)["labels"])


def make_config(
    options: TrainingOptions, asked: TrainingOptions, data: TrainingData, state: TrainingState
) -> dict[str, Any]:
    """Every resolved option, what inference needs to rebuild the network, and where the run happened.

    Args:
        asked: the options before data set and lists were settled.
    """
    decoder = state.scores.decoder(options.data.num_classes, state.loss.class_weights)
    return {
        **options.to_dict(),
        "asked": {name: asked.flat()[name] for name in ("dataset", "train_list", "val_list")},
        "train_list": display_path(data.train_list),
        "val_list": None if data.val_list is None else display_path(data.val_list),
        "test_list": None if data.test_list is None else display_path(data.test_list),
        "network_options": network_options(options),
        "used_precision": state.precision,
        "restart": None if state.restart is None else asdict(state.restart),
        "labels": plain(state.labels.to_json()),
        "decode_matrix": None if decoder is None else plain(decoder.matrix),
        "environment": environment_record(str(state.device)) | {"processes": world_size()},
        "launch": launch_id(),
        "resumed": [],
    }


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Write config.json; a resumed run keeps where it began and adds where it went on."""
    path = run / CONFIG
    if path.exists():
        before = read_json(path)
        places = [*before.get("resumed", []), config["environment"]]
        config = {**config, "asked": before["asked"], "environment": before["environment"], "resumed": places}
    write_json(path, config)
