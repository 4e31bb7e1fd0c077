"""One run from options to run folder. ``main.py``, the annotation budget and the benchmarks all call ``fit``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from datasets.catalog import prepare_dataset
from datasets.lists import write_list
from datasets.segmentation import SegmentationDataset, steps_before
from models import check_network
from training.batch_norm import FEW_STEPS, re_estimate_statistics
from training.data import TrainingData, class_counts, load_data
from training.engine import EpochMetrics, train_one_epoch, validate
from training.few_images import MAX_GROUPS
from training.label_free import PseudoLabels
from training.losses import parse_loss
from training.options import TrainingOptions
from training.run.checkpoints import checkpointed_epochs, save_epoch, show_pictures
from training.run.compilation import compile_network
from training.run.config import AUTO, label_facts, make_config, open_folder, previous_run, write_config
from training.run.config import configure as configure
from training.run.label_facts import LabelKnowledge, examine_labels, simulated_noise, write_audit
from training.run.logger import RunLogger
from training.run.profiling import TRACE, traced_steps
from training.run.state import (
    TrainingState,
    add_schedule,
    build_state,
    check_epochs_left,
    has_checkpoint,
    load_last,
    restore,
    seed_everything,
)
from training.run.summary import classic_line, duration, figure_text, missed_classes, missed_line
from training.selection import (
    LabelNoiseFacts,
    Selection,
    select_binary,
    select_classes,
    with_logged_figures,
    without_validation,
)
from utils.background import BackgroundWriter
from utils.cli import Progress
from utils.device import choose_device
from utils.distributed import (
    barrier,
    copy_buffers_from_main,
    from_main,
    is_main,
    launcher,
    local_device,
    local_world_size,
    process_group,
    world_size,
)
from utils.processors import limit_threads
from utils.run_folder import REPO_ROOT, display_path, quoted

COUNTED_LABELS = 500  # from which class shares are estimated
HELD_OUT = "held_out.txt"  # the samples that --fold left out, in the run folder


def fit(options: TrainingOptions, root: Path = REPO_ROOT) -> Path:
    """Train as ``options`` say and return the run folder.

    Args:
        options: from ``configure`` or ``resolve_options``.
        root: the folder with datasets/, txt/ and train_log/.
    Raises:
        UserError: bad input, found before the first step.
        NonFiniteLoss: training diverged; finished epochs are kept.
    """
    limit_threads(local_world_size())
    device = local_device(choose_device(options.machine.device))
    with process_group(device):
        return _fit(options, root, device)


def _fit(options: TrainingOptions, root: Path, device: torch.device) -> Path:
    """``fit`` within a process group, which must outlive all that is made here."""
    options, previous = from_main(lambda: (options, previous_run(options, root)))  # files may be seen later elsewhere
    parse_loss(options.loss.spec, options.data.num_classes)  # contradictions are told before the data are read
    check_network(options.network.name, options.network.options)
    asked, options = options, name_dataset(options, root)
    data = load_data(options, root, device, _say, resumes=previous is not None)
    labels = from_main(lambda: examine_labels(options, data.train, root))
    facts = label_facts(previous, labels.noise)
    state = make_state(options, data, device, facts, previous)
    config = make_config(options, asked, data, state)
    run = from_main(lambda: open_run(previous or open_folder(options, root), data, config, labels, root))
    logger = RunLogger(run, options.run.tensorboard, state.epoch)
    try:
        if previous is not None and options.run.resume == AUTO:
            logger.say(f"--resume auto: going on after epoch {state.epoch}")
        describe(logger, options, data, state, run)
        for line in labels.lines:
            logger.say(line)
        if options.optimization.compile:
            state.network = compile_network(state.network, device, options.optimization.accumulate, logger.say)
        with BackgroundWriter() as writer:
            train(options, data, state, run, logger, config, writer)
    except BaseException as error:
        if has_checkpoint(run) or state.epoch > 1:  # the main process may still be writing the first
            error.add_note(f"finished epochs are kept; go on with: {resume_command(run)}")
        raise
    finally:
        logger.close()
    barrier()
    return run


def _say(line: str) -> None:
    if is_main():
        print(line, flush=True)


def resume_command(run: Path) -> str:
    """What to type to go on with a run."""
    return f"{launcher()} main.py --resume {quoted(display_path(run))}"


def name_dataset(options: TrainingOptions, root: Path) -> TrainingOptions:
    """Settle which data set is meant (``er`` may become ``er_sim``); the main process makes what is missing."""
    name = from_main(
        lambda: prepare_dataset(options.data.dataset, options.data.train_list, options.data.real_only, root)
    )
    return options.replace(dataset=name)


def make_state(
    options: TrainingOptions,
    data: TrainingData,
    device: torch.device,
    labels: LabelNoiseFacts,
    previous: Path | None = None,
) -> TrainingState:
    """Build what is trained, or bring it back from the last checkpoint of the run that is resumed.

    Args:
        previous: the folder of that run.
    """
    counts = class_counts(data.train, COUNTED_LABELS)
    state = build_state(options, device, counts, labels)
    if previous is not None:
        checkpoint = load_last(previous)
        if options.run.resume != AUTO:  # a job may be queued again, or a process be lost, after the last epoch
            check_epochs_left(options, checkpoint["epoch"])
        restore(options, state, checkpoint, data.train_batches.steps_per_epoch)
    else:
        add_schedule(options, state, data.train_batches.steps_per_epoch)
    if torch.distributed.is_initialized():
        state.network = DistributedDataParallel(
            state.network,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,  # once an epoch is enough: only the main process's are used
        )
    return state


def open_run(run: Path, data: TrainingData, config: dict[str, Any], labels: LabelKnowledge, root: Path) -> Path:
    """Write what a run begins with into its folder."""
    write_config(run, config)
    write_audit(labels.audit, run)
    if data.held_out:
        write_list(run / HELD_OUT, [(sample.image, sample.label) for sample in data.held_out], root)
    return run


def describe(logger: RunLogger, options: TrainingOptions, data: TrainingData, state: TrainingState, run: Path) -> None:
    """Say what is about to be trained on what."""
    again = f"python main.py --dataset {quoted(options.data.dataset)}"
    other = {"quick": "paper", "paper": "quick"}[options.run.preset]
    parameters = sum(parameter.numel() for parameter in state.network.parameters()) / 1e6
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    logger.say(f"run {display_path(run)} on {state.device} ({state.precision}{processes})")
    if state.epoch == 0:
        logger.say(f"preset {options.run.preset}; for the other: {again} --preset {other}")
    noise = f" with label noise {options.noise.label_noise}" if options.noise.label_noise else ""
    if (listed := simulated_noise(data.train)) is not None:
        noise = f", whose labels carry simulated noise, {listed}{noise}"
    if options.label_free.igtt:
        noise = f", no labels are read (initial labels: {options.label_free.igtt_init})"
    logger.say(f"{len(data.train)} training images of {display_path(data.train_list)}{noise}")
    if data.val is None:
        threshold = "" if options.data.num_classes > 1 else "the threshold is the implied one, else 0.5, and "
        logger.say(f"no validation list: {threshold}best is last")
    else:
        taken = "taken as clean; if not: --val_labels noisy" if options.data.val_labels == "clean" else "noisy labels"
        logger.say(f"{len(data.val)} validation images of {display_path(data.val_list)} ({taken})")
    logger.say(
        f"{options.network.name}: {parameters:.2f} M parameters, loss {options.loss.spec}, "
        f"{options.optimization.optimizer}"
    )
    logger.say(plan(data, options.optimization.epochs, options.augmentation.crop))
    if state.restart is not None:
        logger.say(
            f"{options.optimization.epochs} epochs instead of the run's former number: the learning rate goes on from "
            f"{state.restart.lr:.3g}, rises to {state.restart.peak:.3g} and anneals until epoch "
            f"{options.optimization.epochs}"
        )


def plan(data: TrainingData, epochs: int, crop: int) -> str:
    """The length of a run in a line: epochs, steps, and how often an image is seen."""
    batches, images = data.train_batches, len(data.train)
    steps = steps_before(epochs, batches.steps_per_epoch)
    draws = steps * batches.batch_size if batches.steps else epochs * batches.draws
    return (
        f"plan: {steps} steps in {epochs} epochs, {min(batches.batch_size, batches.draws)} windows of {crop}×{crop} "
        f"a step; each image is drawn {draws / images:.3g} times"
    )


def train(
    options: TrainingOptions,
    data: TrainingData,
    state: TrainingState,
    run: Path,
    logger: RunLogger,
    config: dict[str, Any],
    writer: BackgroundWriter,
) -> None:
    """Train, validate, record and save, epoch by epoch."""
    begun, last = state.epoch, options.run.stop_after or options.optimization.epochs
    started = time.monotonic()
    pseudo_labels = PseudoLabels(options, data.train, run) if options.label_free.igtt else None
    if pseudo_labels is not None:
        pseudo_labels.begin(state)
        logger.say(pseudo_labels.description())
    while state.epoch < last:
        epoch = state.epoch + 1
        seed_everything(options.run.seed, epoch)
        trace = run if options.machine.profile and state.epoch == begun else None
        figures = run_epoch(options, data, state, epoch, trace)
        if trace is not None:
            logger.say(f"profile of a few steps: {display_path(run / TRACE)}, for ui.perfetto.dev or chrome://tracing")
        state.epoch = epoch
        counts = None if data.val_loader is None else count_validation(options, data, state)
        if pseudo_labels is not None:
            pseudo_labels.refresh(state)
        selection = decide(options, state, counts, pseudo_labels)
        # An undefined figure (nothing to choose by) compares false, so that the last epoch is the best then.
        if state.best is None or not selection.metric <= state.best["figure"]:
            tables = None if selection.tables is None else torch.from_numpy(selection.tables)
            state.best = {
                "epoch": epoch,
                "figure": selection.metric,
                "threshold": selection.threshold,
                "tables": tables,
            }
        report_epoch(logger, options, epoch, figures, selection)
        if is_main():
            due = is_numbered(epoch, options.run.checkpoint_every, options.run.checkpoint_from) or epoch == last
            save_epoch(writer, state, run, config, selection, numbered=due)
            if due:
                show_pictures(writer, logger, data, state, selection)
            if pseudo_labels is not None:
                writer.wait()  # the checkpoints on disk name the masks that are kept
                pseudo_labels.forget_all_but({*checkpointed_epochs(run), epoch, state.best["epoch"]})
    if last < options.optimization.epochs:
        logger.say(f"stopped after epoch {last} of {options.optimization.epochs}; go on with: {resume_command(run)}")
    if is_main():
        for line in closing_lines(state.best, state.epoch, options, data.val):
            logger.say(line)
    took = duration(time.monotonic() - started)
    logger.say(f"took {took}; checkpoints, log and metrics: {display_path(run)}; predict and score with:")
    logger.say(next_commands(run, state.best["epoch"], data))


def closing_lines(
    best: dict[str, Any], epochs: int, options: TrainingOptions, validation: SegmentationDataset | None
) -> list[str]:
    """What a run ends with: its best epoch and figure, and what to compare it with.

    Args:
        best: that of the training state; a run of before has no tables in it.
    """
    line = f"best epoch {best['epoch']} of {epochs}"
    if validation is None:
        return [f"{line}, the last one: there are no validation labels to choose by"]
    if best.get("tables") is None or options.data.val_labels == "noisy":
        noisy = " (by noisy labels)" if options.data.val_labels == "noisy" else ""
        return [f"{line}: val figure {best['figure']:.4f}{noisy}"]
    tables = best["tables"].numpy()
    lines = [f"{line}{figure_text(tables, best['threshold'], len(validation))}"]
    if options.data.num_classes > 1:
        missed = missed_classes(tables.sum(0))
        return lines + ([missed_line(missed, bool(options.loss.class_weights))] if missed else [])
    return [*lines, classic_line(tables, validation)] if tables[:, 1].any() else lines


def next_commands(run: Path, best_epoch: int, data: TrainingData) -> str:
    """The commands that predict and score with a run's best checkpoint, ready to paste."""
    images, suffix = ("", "") if data.test_list else (" --input FOLDER_OR_FILES", "_FOLDER")
    if data.held_out:
        images, suffix = f" --data_list {quoted(display_path(run / HELD_OUT))}", f"_{Path(HELD_OUT).stem}"
    results = f"epoch_{best_epoch}{suffix}"
    return (
        f"python evaluation/inference.py --train_dir {quoted(display_path(run))} --test_ckpt_epoch best{images}\n"
        f"python evaluation/metrics.py --prd_dir {quoted(display_path(run / 'results' / results / 'pred'))}"
    )


def run_epoch(
    options: TrainingOptions, data: TrainingData, state: TrainingState, epoch: int, trace: Path | None = None
) -> EpochMetrics:
    """Train on every batch of one epoch; trace a few steps into the folder ``trace``."""
    data.train_batches.set_epoch(epoch)
    draws, batches = data.train_batches.draws, data.train_loader
    if trace is not None and is_main():
        batches = traced_steps(batches, len(data.train_batches), state.device, trace)
    with Progress(draws, f"epoch {epoch}/{options.optimization.epochs}") as progress:
        figures = train_one_epoch(
            state.network,
            batches,
            state.loss,
            state.optimizer,
            state.schedule,
            state.scaler,
            device=state.device,
            precision=state.precision,
            channels_last=state.channels_last,
            accumulate=options.optimization.accumulate,
            clip_grad=options.optimization.clip_grad,
            teacher=state.teacher,
            progress=progress if is_main() else None,
        )
    if steps_before(epoch, data.train_batches.steps_per_epoch) <= FEW_STEPS:
        re_estimate_statistics(
            [state.unwrapped_network, state.predictor],
            data.train_loader,
            device=state.device,
            precision=state.precision,
            channels_last=state.channels_last,
        )
    copy_buffers_from_main(state.unwrapped_network)
    copy_buffers_from_main(state.predictor)
    return figures


def decide(
    options: TrainingOptions, state: TrainingState, counts: np.ndarray | None, pseudo_labels: PseudoLabels | None
) -> Selection:
    """Settle threshold, direction and the figure of ``best``.

    Args:
        counts: of the validation set, see :func:`count_validation`; None without one.
    """
    if pseudo_labels is not None:
        return with_logged_figures(pseudo_labels.decide(), counts)
    clean = counts is not None and options.data.val_labels == "clean"
    direction = {"auto": None if clean else state.scores.invert, "on": True, "off": False}
    invert = direction[options.loss.pred_invert]
    implied = state.scores.threshold(state.loss.class_weights) if state.loss.is_proper else None
    if counts is None:
        return without_validation(pred_invert=invert, implied=implied, num_classes=options.data.num_classes)
    if options.data.num_classes > 1:
        return select_classes(counts, labels_are_clean=clean, noise=state.labels)
    return select_binary(
        counts, labels_are_clean=clean, pred_invert=invert, implied=implied, labels_inverted=bool(state.labels.invert)
    )


def count_validation(options: TrainingOptions, data: TrainingData, state: TrainingState) -> np.ndarray:
    """Score histograms or confusion matrices of the validation set, one for every image, or group of images."""
    return validate(
        state.predictor,
        data.val_loader,
        num_classes=options.data.num_classes,
        device=state.device,
        precision=state.precision,
        channels_last=state.channels_last,
        decoder=state.scores.decoder(options.data.num_classes, state.loss.class_weights),
        groups=min(len(data.val), MAX_GROUPS),
    )


def report_epoch(
    logger: RunLogger, options: TrainingOptions, epoch: int, figures: EpochMetrics, selection: Selection
) -> None:
    """One line for people, one record for programs."""
    record = {
        "train/loss": figures.loss,
        "train/images_per_second": figures.images_per_second,
        "train/learning_rate": figures.learning_rate,
        **{f"train/{name}": value for name, value in figures.memory.items()},
        **{f"val/{name}": value for name, value in selection.metrics.items()},
    }
    if selection.threshold is not None:
        record["val/threshold"] = selection.threshold
        record["val/inverted"] = selection.invert
    logger.record(epoch, record)
    shown = {name: selection.metrics[name] for name in ("iou", "f1", "auc", "miou") if name in selection.metrics}
    validation = "".join(f"  val {name} {value:.4f}" for name, value in shown.items())
    inverted = "  inverted" if selection.invert else ""
    logger.say(
        f"epoch {epoch}/{options.optimization.epochs}  loss {figures.loss:.4f}{validation}{inverted}"
        f"  lr {figures.learning_rate:.2e}  {figures.images_per_second:.1f} images/s"
    )


def is_numbered(epoch: int, every: int, first: int) -> bool:
    """Whether an epoch gets a checkpoint of its own."""
    return epoch >= first and epoch % every == 0
