"""Cross-fitting: a run for each part of the training list, which is left out of it, and what these runs say together.

Every image is then predicted by a network that never saw its label. That gives figures of the whole list, the label
issues, and an ensemble. The folder of the runs is described in docs/TRAINING.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from datasets.catalog import prepare_dataset
from evaluation.prediction.model_card import CARD
from training.configuration.resolve import check_values, with_tuples
from training.data import HELD_OUT
from training.options import OPTIONS, TrainingOptions
from training.run.state import AUTO, has_checkpoint, is_finished, load_last
from utils.cli import UserError
from utils.files import OBJECT, POSITIVE, TEXT, plain, read_json_if_whole, read_record, write_json
from utils.fingerprint import FINGERPRINT, changes, read_fingerprint
from utils.registry import Registry
from utils.run_folder import CROSS_FIT, REPO_ROOT, display_path, environment_record, plain_name, quoted

NOT_WITH = ("fold", "stop_after", "igtt", "init_from")  # options that say something else about parts of the list
# What follows training, imported when the runs are finished.
STAGES = Registry(
    {
        "predict": "evaluation.prediction.runs:predict_run",
        "join": "evaluation.prediction.out_of_fold:write_out_of_fold",
        "score": "evaluation.pages.evaluate:evaluate_maps",
        "find issues": "evaluation.label_errors.issues:find_label_issues",
    }
)
Configure = Callable[..., TrainingOptions]


def cross_fit(given: Mapping[str, Any], configure: Configure, fit: Callable[..., Path], root: Path = REPO_ROOT) -> Path:
    """Train ``folds`` runs, predict the part that each left out, and write maps, metrics and label issues of all.

    The same options with the same ``run_name``, or ``resume``, go on: finished runs are kept.

    Args:
        given: options by flat name, as for ``configure``; with ``folds``, or with ``resume`` of such a folder.
        configure, fit: of ``training.fit``.
    Returns: ``train_log/<dataset>/<run_name>``.
    Raises:
        UserError: options that do not go with folds, and what ``fit`` raises.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "--folds trains in one process: leave torchrun out, or start the parts one by one by --fold k/K"
        )
    folder, given = open_cross_fit(given, configure, root)
    folds = given["folds"]
    runs = [folder / f"fold_{number}" for number in range(1, folds + 1)]
    _refuse_changed_list(runs)
    try:
        for number, run in enumerate(runs, start=1):
            train_fold({**given, "fold": f"{number}/{folds}"}, run, configure, fit, root)
    except UserError:
        if not any(run.exists() for run in runs):  # such as a fault of the list: nothing was begun
            (folder / CROSS_FIT).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
        raise
    device = given.get("device", "auto")
    predicted = [
        STAGES["predict"](run, "best", data_list=run / HELD_OUT, device=device, data_root=given.get("data_root"))
        for run in runs
    ]
    joined = STAGES["join"](folder, runs, predicted)
    STAGES["score"](joined, out=folder)
    record = read_record(joined / "predictions.json", {"list": TEXT, "dataset": TEXT})
    STAGES["find issues"](
        record["dataset"],
        predicted,  # apart, since scores of different networks mean different things
        train_list=str(root / record["list"]),
        data_root=given.get("data_root"),
        out=folder / "issues",
    )
    print(f"{folds} runs, their maps, metrics and label issues: {display_path(folder)}; predict with all of them:")
    print(f"python evaluation/inference.py --train_dir {quoted(display_path(folder))}", flush=True)
    return folder


def open_cross_fit(given: Mapping[str, Any], configure: Configure, root: Path) -> tuple[Path, dict[str, Any]]:
    """The folder to train in and the options of its runs; a folder that was begun with the same options goes on."""
    given = dict(given)
    resumed = given.pop("resume", None)
    wrong = [name for name in NOT_WITH if given.get(name) is not None]
    if wrong:
        raise UserError(f"--folds trains on parts of the list, whole runs from scratch: leave out --{wrong[0]}")
    if given.get("data_root"):
        given["data_root"] = os.path.abspath(given["data_root"])
    if resumed not in (None, AUTO):
        return _go_on(Path(resumed), given, configure, root)
    if given["folds"] < 2:
        raise UserError(f"--folds {given['folds']}: at least two parts are needed")
    name = plain_name(given.pop("run_name", None))
    own = {name: value for name, value in given.items() if name != "folds"}
    options = configure({**own, "fold": f"1/{given['folds']}"}, root)  # contradictions are told at once
    data = options.data
    dataset = prepare_dataset(data.dataset, data.train_list, data.real_only, root)
    name = name or f"{options.network.name}_{given['folds']}_folds"
    fixed = plain({key: value for key, value in given.items() if not OPTIONS[key].may_change})
    for number in count(1):
        folder = root / "train_log" / dataset / (name if number == 1 else f"{name}-{number}")
        known = read_json_if_whole(folder / CROSS_FIT)
        if isinstance(known, dict) and (known.get("fixed") == fixed or resumed == AUTO):
            print(f"going on with {display_path(folder)}", flush=True)
            return _go_on(folder, given, configure, root)
        if not folder.exists():
            break
    folder.mkdir(parents=True, exist_ok=True)
    record = {"folds": given["folds"], "dataset": dataset, "given": given, "fixed": fixed}
    write_json(folder / CROSS_FIT, {**record, "environment": environment_record()})
    return folder, given


def _go_on(folder: Path, given: dict[str, Any], configure: Configure, root: Path) -> tuple[Path, dict[str, Any]]:
    """A folder that was begun and the options of its runs, those that may change as they are given now.

    Raises:
        UserError: no such folder, or options that differ from those that it was begun with.
    """
    path = folder / CROSS_FIT
    if not path.is_file():
        raise UserError(f"--folds {given['folds']}: {folder} is no cross-fit that could go on; leave out --folds")
    record = read_record(path, {"given": OBJECT, "folds": POSITIVE})
    known = record["given"]
    check_values(known, display_path(path))
    if unknown := [name for name in known if name not in OPTIONS]:
        raise UserError(f"{display_path(path)}: there is no option {unknown[0]!r}; put back a copy")
    name = given.pop("run_name", folder.name)
    if folder.name != name and not folder.name.startswith(f"{name}-"):
        raise UserError(f"--run_name {name} differs from {display_path(folder)}, which --resume names: leave it out")
    if given.get("folds", record["folds"]) != record["folds"]:
        raise UserError(
            f"--folds {given['folds']} differs from the {record['folds']} that {display_path(folder)} was begun with: "
            "start another one by --run_name"
        )
    runs = [run for run in sorted(folder.glob("fold_*")) if has_checkpoint(run)]
    for run in runs if "epochs" in given else ():
        if (completed := load_last(run)["epoch"]) > given["epochs"]:
            raise UserError(f"--epochs {given['epochs']}: {display_path(run)} has completed {completed} epochs already")
    if runs:
        configure({**{key: given[key] for key in given if key != "folds"}, "resume": str(runs[0])}, root)
    options = {**with_tuples(known), **given}
    write_json(path, {**record, "given": plain(options)})
    return folder, options


def _refuse_changed_list(runs: Sequence[Path]) -> None:
    """Refuse to train the parts that are left of another list than others: an image might be left out twice, or never.

    Raises:
        UserError: naming the list.
    """
    if all((run / CARD).exists() for run in runs):
        return
    for run in filter(has_checkpoint, runs):
        config = read_json_if_whole(run / "config.json")
        name = config.get("train_list") if isinstance(config, dict) else None
        before = (read_fingerprint(run / FINGERPRINT) or {}).get(name)
        if before is not None and any(changes({name: before})):
            raise UserError(
                f"{name} has changed since {display_path(run)} was trained, and the parts that are left would not fit: "
                "put it back, or start others by --run_name"
            )


def train_fold(given: Mapping[str, Any], run: Path, configure: Configure, fit: Callable[..., Path], root: Path) -> None:
    """Train the run of one part, go on with it, or leave it as it is where it is finished."""
    given = {name: value for name, value in given.items() if name != "folds"}
    if not has_checkpoint(run):
        print(f"part {given['fold']}: {display_path(run)}", flush=True)
        fit(configure({**given, "run_name": run.name, "within": run.parent.name}, root), root)
        return
    options = configure({"resume": str(run), **{name: given[name] for name in given if OPTIONS[name].may_change}}, root)
    if is_finished(run, options.optimization.epochs, load_last(run)["epoch"]):
        print(f"part {given['fold']}: {display_path(run)} is finished", flush=True)
        return
    print(f"part {given['fold']}: going on with {display_path(run)}", flush=True)
    fit(options, root)
