"""One run from options to run folder. ``main.py``, the annotation budget and the benchmarks all call ``fit``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.catalog import check_name, check_no_lists, prepare_dataset
from datasets.segmentation import SegmentationDataset, steps_before
from models import check_network
from models.blocks import FEW_STEPS, re_estimate_statistics
from training.data import AUTO_REPAIR, TrainingData, groups_of, is_validated, load_data, method_name
from training.engine import EpochMetrics, train_one_epoch, validate
from training.losses import parse_loss
from training.methods import METHODS
from training.methods.supervised import Supervised
from training.options import TrainingOptions
from training.run import reports
from training.run.build import make_state
from training.run.checkpoints import (
    Run,
    how_to_go_on,
    is_out_of_memory,
    keep_own_images,
    note_divergence,
    out_of_memory,
    resume_command,
    save_epoch,
    show_pictures,
)
from training.run.config import begin_run, check_folder, label_facts, make_config, open_folder, own_run, previous_run
from training.run.config import configure as configure
from training.run.label_facts import audit_dataset, examine_labels
from training.run.lists import read_lists
from training.run.logger import RunLogger
from training.run.state import TrainingState, seed_everything
from training.selection import KeptScores, Selection, with_offset
from training.step_guard import NonFiniteLoss
from utils.background import BackgroundWriter
from utils.cli import Progress, UserError
from utils.device import choose_device
from utils.distributed import (
    barrier,
    copy_buffers_from_main,
    from_main,
    is_main,
    local_device,
    local_world_size,
    process_group,
    say_once,
)
from utils.files import plain
from utils.fingerprint import keep_fingerprint
from utils.processors import choose_threads
from utils.run_folder import REPO_ROOT, display_path
from utils.run_lock import check_owned


def fit(options: TrainingOptions, root: Path = REPO_ROOT, method: type[Supervised] | None = None) -> Path:
    """Train as ``options`` say and return the run folder.

    Args:
        options: from ``configure`` or ``resolve_options``.
        root: the folder with datasets/, txt/ and train_log/.
        method: how networks learn; by default what the options name, of ``training.methods.METHODS``.
    Raises:
        UserError: bad input, found before the first step.
        NonFiniteLoss: training diverged; finished epochs are kept.
    """
    threads = choose_threads(options.machine.threads, local_world_size())
    torch.set_num_threads(threads)
    device = local_device(choose_device(options.machine.device))
    with process_group(device):
        return _fit(options, threads, root, device, method or METHODS[method_name(options)])


def fit_images(
    images: Sequence[np.ndarray | str | Path],
    labels: Sequence[np.ndarray | str | Path] | None = None,
    *,
    validation: tuple[Sequence[np.ndarray | str | Path], Sequence[np.ndarray | str | Path]] | None = None,
    name: str = "arrays",
    root: Path = REPO_ROOT,
    **options: Any,
) -> Path:
    """Train on arrays or files and return the run folder, which ``evaluation.prediction.Segmenter`` loads.

    Args:
        images: (H, W), or (H, W, C) with as many channels as the first one has but an alpha that is full everywhere, of
            any type; or files.
        labels: as files of labels hold them, 0 and one other value or class indices; None: train from images alone.
        validation: images and labels to choose threshold and checkpoint by; default: the last one, at the implied one.
        name: of the data set that arrays are kept as, below datasets/ and txt/; none with images of its own.
        options: those of ``main.py``, such as ``preset="quick"``, ``steps=200``.
    Raises:
        UserError: as `fit`; also not as many labels as images.
    """
    from datasets.array_sets import channels_of, numbering_arrays, write_array_list

    root = Path(root)
    said = {"dataset": name, "train_list": "images", **({} if validation is None else {"val_list": "validation"})}
    for option, instead in said.items():
        if options.get(option) is not None:
            raise UserError(f"{option}={options[option]!r} contradicts {instead}: leave one of the two out")
    if labels is None:
        options.setdefault("igtt", "best")
    check_name(name)
    check_no_lists(name, root)
    lists = {"": write_array_list(images, labels, name, root)}
    channels = channels_of(images[0])
    if channels is not None and options.get("channels") is None:
        options.setdefault("in_channels", channels)
    given = {**options, "dataset": name, "train_list": str(lists[""])}
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2 or validation[1] is None:
            raise UserError("validation: a pair of images and labels is expected, (images, labels)")
        lists["validation "] = write_array_list(*validation, name, root, of="validation ")
        given["val_list"] = str(lists["validation "])
    with numbering_arrays(lists, root):
        return fit(configure(given, root), root)


def _fit(
    options: TrainingOptions, threads: int, root: Path, device: torch.device, make_method: type[Supervised]
) -> Path:
    """``fit`` within a process group, which must outlive all that is made here."""
    started = time.monotonic()
    with ExitStack() as held:
        options, previous = from_main(lambda: (options, previous_run(options, root)))  # may be seen later elsewhere
        if previous is not None:
            from_main(lambda: own_run(previous, held))
        parse_loss(options.loss.spec, options.data.num_classes)  # contradictions are told before the data are read
        check_network(options.network.name, options.network.options)
        asked, options = options, name_dataset(options.replace(threads=threads), root)
        from_main(lambda: check_folder(options, previous, root))
        lists = from_main(lambda: read_lists(options, root, say_once, previous))
        validated = is_validated(options, lists)
        decisions, report = [], None
        if previous is not None or options.run.recipe == "auto" or options.noise.label_repair == AUTO_REPAIR:
            from training.run.recipe import decide

            audit = partial(audit_dataset, validated=validated)
            options, decisions, report = from_main(lambda: decide(options, lists.train.samples, root, audit, previous))
        data = load_data(options, lists, device)
        labels = from_main(lambda: examine_labels(options, data.train, root, report, validated=validated))
        method = make_method(options, data, **options.loss.method_options)
        state = make_state(options, data, device, label_facts(previous, labels.noise), method, previous)
        config = make_config(options, asked, data, state) | {"decisions": plain([vars(each) for each in decisions])}

        def begin() -> tuple[Path, list[str]]:
            folder = previous or own_run(open_folder(options, root), held)
            config["data_fingerprint"], changed = keep_fingerprint(folder, data.files())
            return begin_run(folder, config, labels.audit, data.held_out, root), changed

        folder, changed = from_main(begin)
        told = [each.line() for each in decisions]
        lines = [*reports.describe(options, asked, data, state, folder), *changed, *told, *labels.lines]
        _train_in(folder, options, data, state=state, method=method, config=config, lines=lines, started=started)
    barrier()
    return folder


def _train_in(
    folder: Path,
    options: TrainingOptions,
    data: TrainingData,
    *,
    state: TrainingState,
    method: Supervised,
    config: dict[str, Any],
    lines: Sequence[str],
    started: float,
) -> None:
    """Train into a folder that this process owns; an error says what is kept and how to go on."""
    logger = RunLogger(folder, options.run.tensorboard, state.epoch)
    try:
        for line in lines:
            logger.log(line)
        if options.optimization.compile:
            from training.run.compilation import compile_network

            state.network = compile_network(state.network, state.device, options.optimization.accumulate, logger.log)
        with BackgroundWriter() as writer:
            train(options, data, state, method, Run(folder, logger, config, writer, started))
    except NonFiniteLoss as error:
        if is_main():
            note_divergence(folder, state.saved + 1)
        error.add_note(how_to_go_on(folder, state.saved, lr=options.optimization.lr / 10))
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, options, how_to_go_on(folder, state.saved)) from error
        if isinstance(error, KeyboardInterrupt) and state.saved < options.optimization.epochs:
            error.add_note(f"epoch {state.saved + 1} was given up; it is repeated on --resume")
        error.add_note(how_to_go_on(folder, state.saved))
        raise
    finally:
        logger.close()


def name_dataset(options: TrainingOptions, root: Path) -> TrainingOptions:
    """Settle which data set is meant (``er`` may become ``er_sim``); the main process makes what is missing."""
    name = from_main(
        lambda: prepare_dataset(options.data.dataset, options.data.train_list, options.data.real_only, root)
    )
    return options.replace(dataset=name)


def train(options: TrainingOptions, data: TrainingData, state: TrainingState, method: Supervised, run: Run) -> None:
    """Train, validate, refresh, decide, report and save, epoch by epoch."""
    epochs, begun = options.optimization.epochs, state.epoch
    last, selection = options.run.stop_after or epochs, None
    usual_loss = reports.lowest_loss(run.logger.records()) if begun and is_main() else 0.0
    for line in method.begin(state, run.folder):
        run.logger.log(line)
    for epoch in range(begun + 1, last + 1):
        seed_everything(options.run.seed, epoch)
        is_traced = options.machine.profile and epoch == begun + 1
        metrics = train_epoch(options, data, state, method, epoch, run if is_traced else None)
        state.epoch = epoch
        kept = KeptScores() if options.data.val_labels == "clean" and not options.label_free.igtt else None
        counts = count_scores(data.val, data.val_loader, state, kept)
        method.refresh(state)
        known = count_scores(data.known, data.known_loader, state)
        selection = with_offset(method.decide(state, counts, known), kept, data.val_groups())
        state.rank(selection, data.error_of_choice if kept is not None else 0.0)
        if epoch == begun + 1:
            usual_loss = max(usual_loss, metrics.first_loss)
        warnings = reports.warnings_of_epoch(metrics.loss, usual_loss, counts)
        if is_main():
            check_owned(run.folder)
        reports.report_epoch(run.logger, epoch, epochs, metrics, selection, warnings)
        if is_main():
            every, first = options.run.checkpoint_every, options.run.checkpoint_from
            due = (epoch >= first and epoch % every == 0) or epoch == last
            save(run, data, state, method, selection, numbered=due)
        state.saved = epoch
    if last < epochs:
        run.logger.log(f"stopped after epoch {last} of {epochs}; go on with: {resume_command(run.folder)}")
    if is_main():
        keep_own_images(run, data, state)
        run.logger.log_hparams(run.config, {"best/epoch": state.best["epoch"], "best/figure": state.best["figure"]})
        decided = selection if options.data.val_labels == "clean" and last == epochs else None
        records = run.logger.records()
        lines = reports.closing_lines(state.best, state.epoch, options, data)
        lines += reports.last_epoch_line(state.best, decided, epochs)
        lines += reports.closing_warnings(records, options.optimization.lr) + reports.threshold_warning(records, data)
        for line in lines:
            run.logger.log(line)
        if last == epochs:
            from evaluation.prediction.model_card import write_run_card

            write_run_card(run.folder, run.config, state.best)
    took, place = reports.duration(time.monotonic() - run.started), display_path(run.folder)
    run.logger.log(f"took {took}; checkpoints, log and metrics: {place}; predict and score with:")
    run.logger.log(reports.next_commands(run.folder, state.best["epoch"], data))


def train_epoch(
    options: TrainingOptions,
    data: TrainingData,
    state: TrainingState,
    method: Supervised,
    epoch: int,
    traced: Run | None,
) -> EpochMetrics:
    """Train on every batch of one epoch, and let batch norm's running statistics fit the weights.

    Args:
        traced: the run whose folder gets a trace of a few steps.
    """
    data.train_batches.set_epoch(epoch)
    batches = data.train_loader
    if traced is not None:
        from training.run.profiling import traced_steps

        batches = traced_steps(batches, len(data.train_batches), state.device, traced.folder, traced.logger.log)
    with Progress(data.train_batches.draws, f"epoch {epoch}/{options.optimization.epochs}") as progress:
        metrics = train_one_epoch(
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
            backward=method.backward,
            progress=progress if is_main() else None,
        )
    networks = [state.unwrapped_network, state.predictor]
    if steps_before(epoch, data.train_batches.steps_per_epoch) <= FEW_STEPS:
        re_estimate_statistics(
            networks,
            data.train_loader,
            device=state.device,
            precision=state.precision,
            channels_last=state.channels_last,
        )
    for network in networks:
        copy_buffers_from_main(network)
    return metrics


def count_scores(
    images: SegmentationDataset | None,
    batches: Iterable[dict[str, Any]] | None,
    state: TrainingState,
    kept: KeptScores | None = None,
) -> np.ndarray | None:
    """Score histograms or confusion matrices of images, one for every image, or group of them; see ``engine.validate``.

    Args:
        batches: of the images.
        kept: takes in the scores themselves.
    Returns: None where there are no images.
    """
    if images is None or batches is None:
        return None
    return validate(
        state.predictor,
        batches,
        num_classes=images.num_classes,
        device=state.device,
        precision=state.precision,
        channels_last=state.channels_last,
        decoder=state.scores.decoder(images.num_classes, state.loss.class_weights),
        groups=groups_of(images),
        keep=None if kept is None else kept.keep,
    )


def save(
    run: Run, data: TrainingData, state: TrainingState, method: Supervised, selection: Selection, numbered: bool
) -> None:
    """Have the epoch's checkpoints written, and pictures beside numbered ones."""
    save_epoch(run, state, selection, numbered)
    if numbered:
        show_pictures(run, data, state, selection)
    if method.needs_saved_epochs:
        method.keep({*run.saved_epochs(), state.epoch, state.best["epoch"]})
