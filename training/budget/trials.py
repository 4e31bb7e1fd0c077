"""The trainings of an annotation budget: each goes through ``training.fit``, is scored, recorded and tidied away."""

from __future__ import annotations

import contextlib
import hashlib
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.catalog import prepare_dataset
from datasets.image_files import split_plane
from datasets.label_values import LabelReading
from datasets.list_checks import Expectation
from datasets.lists import CLEAN_LIST, Sample, find_list, list_folder, read_list, survey_samples, write_list
from datasets.segmentation import OrderedBatches, SegmentationDataset, make_loader
from datasets.transition_matrix import ScoreDecoder
from evaluation.prediction import load_network
from evaluation.scores import Counts, auc, counts_at, f1, invert_histogram, iou, mean_iou
from evaluation.scores.label_meaning import read_as_recorded
from evaluation.scores.validation import OFFSETS
from training.budget.plan import Length, Trial, choose_images, full_length, trial_length
from training.data import validation_batch_size
from training.engine import validate
from training.fit import configure, fit
from training.options import TrainingOptions
from training.selection import KeptScores
from training.step_guard import NonFiniteLoss
from utils.checkpoint import load_checkpoint
from utils.cli import RunFailed, UserError
from utils.device import choose_device
from utils.files import read_jsonl
from utils.fingerprint import combined_digest, take_fingerprint
from utils.run_folder import display_path

MIN_STEPS, MAX_STEPS = 100, 300
# Options that leave a finished training as it is, or that the trials set.
NO_SETTINGS = ("device", "workers", "cache", "config", "epochs", "stop_after", "run_name", "resume", "train_list")
NO_SETTINGS += ("val_list",)


@dataclass(frozen=True)
class Experiment:
    """What all trials have in common.

    Args:
        given: options of main.py, for every training.
        options: those, resolved.
        samples: the whole training list; subsets of it are drawn.
        scored_on: the list that scores are measured on; ``data_list`` is None where that is the validation list.
        full: how long the whole list trains.
    """

    given: dict[str, Any]
    options: TrainingOptions
    train_list: Path
    samples: list[Sample]
    scored_on: Path
    data_list: Path | None
    full: Length
    folder: Path
    root: Path

    @property
    def score(self) -> str:
        """The figure that trials are compared by: pooled F1, or mean IoU of several classes."""
        return "f1" if self.options.data.num_classes == 1 else "miou"

    def settings(self) -> dict[str, Any]:
        """What a trial's score depends on besides the trial itself."""
        options = {name: value for name, value in self.options.to_dict().items() if name not in NO_SETTINGS}
        return {
            **options,
            "train_list": display_path(self.train_list),
            "list_content": self._content(),
            "scored_on": display_path(self.scored_on),
            "steps": self.full.steps,
        }

    def _content(self) -> str:
        """A digest of all images and labels, whose files may have been changed since trials were trained on them."""
        scored = read_list(self.scored_on, self.options.data.data_root, self.root, say=str)
        pairs = ((sample.image, sample.label) for sample in (*self.samples, *scored))
        files = (split_plane(file)[0] for pair in pairs for file in pair if file is not None)
        return combined_digest(take_fingerprint(files))

    def length(self, trial: Trial) -> Length:
        """Epochs and draws of a trial."""
        if trial.images == len(self.samples):
            return self.full
        return trial_length(trial.images, self.options.optimization.batch_size, self.full)

    def run_folder(self, trial: Trial) -> Path:
        """Where ``fit`` writes the trial's run; the name tells experiments in different folders apart."""
        return self.root / "train_log" / self.options.data.dataset / f"{self.prefix}{trial.name}"

    @property
    def prefix(self) -> str:
        """What the names of its runs begin with."""
        return f"budget-{hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:6]}_"

    def unfinished_runs(self) -> list[Path]:
        """The folders of trainings that were begun and are not finished."""
        return list((self.root / "train_log" / self.options.data.dataset).glob(f"{self.prefix}*"))


def open_experiment(
    given: dict[str, Any], *, steps: int | None, data_list: str | None, folder: Path | None, root: Path
) -> Experiment:
    """Find the lists and settle the number of steps.

    Args:
        given: options of main.py.
        steps: of every training; None takes the preset's, within bounds.
        data_list: the list to score on, instead of the validation list.
    Raises:
        UserError: no clean list to train or score on.
    """
    dataset = prepare_dataset(
        given.get("dataset", "er"), given.get("train_list"), given.get("real_only", False), root=root
    )
    options = configure({**given, "dataset": dataset}, root)
    train_list = find_list(options.data.train_list or CLEAN_LIST, dataset, root)
    samples = read_list(train_list, options.data.data_root, root)
    if given.get("fusion", "first") != "first" and any(sample.more_labels for sample in samples):
        raise UserError(
            f"--fusion {given['fusion']}: pixels are drawn of single labels here: leave it out to take the first of "
            "each line, or make one label of all by datasets/repair_labels.py --fusion"
        )
    scored_on = find_list(data_list, dataset, root) if data_list else validation_list(options, root)
    full = full_length(
        len(samples),
        options.optimization.batch_size,
        options.optimization.epochs,
        min_steps=steps or MIN_STEPS,
        max_steps=steps or MAX_STEPS,
    )
    folder = folder or root / "train_log" / dataset / "annotation_budget"
    return Experiment(
        {**given, "dataset": dataset},
        options,
        train_list,
        samples=samples,
        scored_on=scored_on,
        data_list=scored_on if data_list else None,
        full=full,
        folder=folder,
        root=root,
    )


def validation_list(options: TrainingOptions, root: Path) -> Path:
    """The clean validation list that scores are measured on.

    Raises:
        UserError: there is none, or its labels are noisy.
    """
    default = list_folder(options.data.dataset, root) / "val.txt"
    if options.data.val_labels == "noisy" or (options.data.val_list is None and not default.exists()):
        reason = "its labels are noisy" if options.data.val_labels == "noisy" else f"{display_path(default)} is absent"
        raise UserError(
            f"scores need a list with clean labels, and the validation list is none ({reason}): name one by "
            "--data_list LIST, or by --val_list LIST"
        )
    return default if options.data.val_list is None else find_list(options.data.val_list, options.data.dataset, root)


def epochs_done(run: Path) -> int:
    """Completed epochs of a run folder; 0 where there is none or nothing in it."""
    last = run / "checkpoints" / "last.pth"
    return int(load_checkpoint(last)["epoch"]) if last.exists() else 0


def train_trial(experiment: Experiment, trial: Trial, stop_after: int | None = None) -> Path:
    """Train a trial, or go on with it where an interruption left it; returns its run folder.

    Args:
        stop_after: end after this epoch, to be gone on with.
    """
    run, length = experiment.run_folder(trial), experiment.length(trial)
    done = epochs_done(run)
    if done >= length.epochs:
        return run
    stop = {} if stop_after is None else {"stop_after": stop_after}
    with quietly(experiment.folder / "log.txt"):
        if done:
            device = {
                name: experiment.given[name] for name in ("device", "workers", "cache") if name in experiment.given
            }
            return fit(configure({"resume": str(run), **device, **stop}, experiment.root), experiment.root)
        shutil.rmtree(run, ignore_errors=True)  # ours by its name, and interrupted before its first epoch
        return fit(configure({**trial_options(experiment, trial), **stop}, experiment.root), experiment.root)


def trial_options(experiment: Experiment, trial: Trial) -> dict[str, Any]:
    """The options of a trial's training; its images are written as a list."""
    length = experiment.length(trial)
    chosen = choose_images(len(experiment.samples), trial.images, trial.repeat, experiment.options.run.seed)
    path = experiment.folder / "lists" / f"n{trial.images}_r{trial.repeat}.txt"
    write_list(
        path, [(experiment.samples[index].image, experiment.samples[index].label) for index in chosen], experiment.root
    )
    seed = experiment.options.run.seed + trial.repeat - 1
    return {
        **experiment.given,
        "train_list": str(path),
        "label_noise": f"sample:{trial.share:g}" if trial.share < 1 else "clean",
        "seed": seed,
        "noise_seed": seed,
        "epochs": length.epochs,
        "repeat": length.repeat,
        "checkpoint_every": length.epochs,
        "checkpoint_from": length.epochs + 1,
        "tensorboard": False,
        "run_name": experiment.run_folder(trial).name,
    }


@contextlib.contextmanager
def quietly(log: Path) -> Iterator[None]:
    """Send what trainings print to a file; errors still come out."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield


def measure_seconds(experiment: Experiment, trial: Trial) -> float:
    """Train one epoch of a trial, which is kept, and tell from it how long a whole trial takes, in seconds."""
    done = epochs_done(experiment.run_folder(trial))
    length = experiment.length(trial)
    if done >= length.epochs:
        return 0.0
    started, started_at = time.monotonic(), time.time()
    run = train_trial(experiment, trial, stop_after=done + 1)
    took = time.monotonic() - started
    before = (run / "config.json").stat().st_mtime - started_at  # until everything is read and checked
    before = before if 0 <= before <= took else 0.0  # clocks of the disk and of this machine differ, or one was set
    return before + length.epochs * (took - before)


def finish_trial(experiment: Experiment, trial: Trial) -> dict[str, Any]:
    """Train what is left of a trial and score it; a diverging training is recorded as failed."""
    started = time.monotonic()
    length = experiment.length(trial)
    try:
        run = train_trial(experiment, trial)
    except NonFiniteLoss as error:
        return {"score": None, "failed": str(error), "steps": length.steps, "seconds": time.monotonic() - started}
    figures = score_run(experiment, run)
    return {**figures, "score": figures[experiment.score], "steps": length.steps, "seconds": time.monotonic() - started}


def score_run(experiment: Experiment, run: Path) -> dict[str, Any]:
    """The figures of a run's best checkpoint, at the threshold that validation chose.

    On the validation list they are those of the training's own record; another list is predicted.
    """
    if experiment.data_list is not None:
        return score_on_list(experiment, run, experiment.data_list)
    best = load_checkpoint(run / "checkpoints" / "last.pth")["best"]["epoch"]
    record = next((record for record in read_jsonl(run / "metrics.jsonl") if record.get("epoch") == best), None)
    if record is None:
        raise UserError(f"{display_path(run / 'metrics.jsonl')} has no record of epoch {best}: remove that folder")
    names = ("f1", "iou", "auc", "miou", "threshold")
    return {"epoch": best, **{name: record[f"val/{name}"] for name in names if f"val/{name}" in record}}


def score_on_list(experiment: Experiment, run: Path, data_list: Path) -> dict[str, Any]:
    """Predict a list with a run's best checkpoint and score it at the checkpoint's threshold."""
    options, device = experiment.options, torch.device(choose_device(experiment.options.machine.device))
    network, checkpoint, epoch = load_network(run, "best", device)
    data = options.data
    samples = read_as_recorded(
        read_list(data_list, data.data_root, experiment.root),
        data_list,
        checkpoint["config"],
        num_classes=data.num_classes,
        ignore_index=data.ignore_index,
        label_map=data.label_map,
    )
    reading = samples[0].reading or LabelReading(data.num_classes, data.ignore_index)
    expected = Expectation(reading, is_decided=True, channels=data.in_channels, selected=data.channels)
    sizes = survey_samples(samples, data_list, expected).sizes
    dataset = SegmentationDataset(
        samples,
        channels=data.channels,
        num_classes=options.data.num_classes,
        in_channels=options.data.in_channels,
        ignore_index=options.data.ignore_index,
        normalization=options.data.normalization,
        cache=False,
    )
    loader = make_loader(dataset, OrderedBatches(sizes, validation_batch_size(options.optimization.batch_size)))
    kept = KeptScores(most=math.inf) if checkpoint.get("mask_offset") else None
    counts = validate(
        network,
        loader,
        num_classes=options.data.num_classes,
        device=device,
        channels_last=device.type != "mps",
        decoder=ScoreDecoder.of_config(checkpoint["config"]),
        keep=None if kept is None else kept.keep,
    )
    if options.data.num_classes > 1:
        return {"epoch": epoch, "miou": float(mean_iou(counts))}
    counts = invert_histogram(counts) if checkpoint["pred_invert"] else counts
    at = counts_at(counts, checkpoint["threshold"])
    if kept is not None:
        tables = kept.tables([checkpoint["threshold"]], None, bool(checkpoint["pred_invert"]))
        (tn, fp), (fn, tp) = tables[0, 0, OFFSETS.tolist().index(checkpoint["mask_offset"])].tolist()
        at = Counts(tp=tp, fp=fp, fn=fn, tn=tn)
    figures = {"f1": float(f1(at)), "iou": float(iou(at)), "auc": float(auc(counts))}
    return {"epoch": epoch, **figures, "threshold": float(checkpoint["threshold"])}


def tidy_away(experiment: Experiment, trial: Trial, keep_checkpoints: bool) -> None:
    """Move a finished trial's run into the experiment's folder; its weights go unless they are to be kept."""
    run, place = experiment.run_folder(trial), experiment.folder / "runs" / trial.name
    if not run.exists():
        return
    if not keep_checkpoints:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.move(run, place)
    except shutil.Error as error:  # of many files, on another disk
        reason = error.args[0][0][2] if isinstance(error.args[0], list) else error.args[0]
        raise RunFailed(
            f"{display_path(run)} could not be moved to {display_path(place)}: {reason}; the same command tries again"
        ) from None
