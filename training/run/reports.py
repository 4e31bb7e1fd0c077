"""What a run tells: what it is about to do, a line an epoch, what it reached and how surely, what to type next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.segmentation import SegmentationDataset, steps_before
from evaluation.scores import foreground_iou, mean_iou
from evaluation.scores.validation import MIN_IMAGES, error_of_few, table_interval, with_error
from training.configuration import RECIPES
from training.configuration.resolve import as_typed, with_tuples
from training.data import HELD_OUT, TrainingData, labels_change, simulated_noise
from training.engine import EpochMetrics
from training.options import DEFAULTS, TrainingOptions
from training.run.logger import RunLogger
from training.run.state import AUTO, TrainingState
from training.selection import Selection
from utils.background import LazySequence
from utils.cli import counted
from utils.distributed import world_size
from utils.files import read_json_if_whole
from utils.run_folder import display_path, quoted

EXPLODED = 3.0  # times the loss that is usual, see `warnings_of_epoch`
UNMOVED = 1e-4  # of the loss, over all epochs
COLLAPSED = 0.999  # of the pixels in one bin of scores, or in one class
COMPARED_IMAGES = 64  # on which classic methods are tried
SAME_DATA = (
    *("dataset", "train_list", "val_list", "clean_list", "fusion", "val_labels", "data_root", "num_classes"),
    *("in_channels", "channels", "ignore_index", "label_map", "label_repair", "label_noise", "label_noise_refresh"),
    *("unlabelled", "igtt", "igtt_init", "foreground", "fold", "group_by"),
)  # options that say what is trained on


def same_data_command(options: TrainingOptions) -> str:
    """What to type to train on the same images and labels."""
    defaults = DEFAULTS | RECIPES.get(str(options.label_free.igtt), {})
    given = {name: value for name, value in options.flat().items() if name in SAME_DATA and value != defaults[name]}
    typed = (as_typed(name, value).partition(" ") for name, value in given.items())
    others = [f"{flag} {quoted(value)}" if value else flag for flag, _, value in typed if flag != "--dataset"]
    if options.data.clean_list is not None and options.run.recipe == "plain" and options.noise.label_noise is None:
        others.append("--recipe plain")  # which would repair the labels
    return " ".join(["python main.py --dataset", quoted(options.data.dataset), *others])


def describe(
    options: TrainingOptions, asked: TrainingOptions, data: TrainingData, state: TrainingState, folder: Path
) -> list[str]:
    """What is about to be trained on what, in lines.

    Args:
        asked: the options before data set, lists and recipe were settled.
    """
    optimization = options.optimization
    other = {"quick": "paper", "paper": "quick"}[options.run.preset]
    parameters = sum(parameter.numel() for parameter in state.network.parameters()) / 1e6
    processes = f", {world_size()} processes" if world_size() > 1 else ""
    threads = f", --threads {options.machine.threads}" if state.device.type == "cpu" else ""
    lines = [f"run {display_path(folder)} on {state.device} ({state.precision}{processes}{threads})"]
    if options.run.init_from is not None and state.epoch == 0:
        lines.append(_start(Path(options.run.init_from), options))
    if state.epoch > 0 and options.run.resume == AUTO:
        lines.append(f"--resume {AUTO}: going on after epoch {state.epoch}")
    if state.epoch == 0:
        lines.append(f"preset {options.run.preset}; for the other: {same_data_command(asked)} --preset {other}")
    noise = f" with label noise {options.noise.label_noise}" if options.noise.label_noise else ""
    if (listed := simulated_noise(data.train)) is not None:
        noise = f", whose labels carry simulated noise, {listed}{noise}"
    if options.label_free.igtt:
        noise = f", no labels are read (initial labels: {options.label_free.igtt_init})"
    repaired = f", repaired by {options.noise.label_repair}" if options.noise.label_repair else ""
    lines.append(f"{len(data.train)} training images of {display_path(data.train_list)}{repaired}{noise}")
    if data.val is None:
        threshold = "" if options.data.num_classes > 1 else "the threshold is the implied one, else 0.5, and "
        lines.append(f"no validation list: {threshold}best is last")
    else:
        taken = "taken as clean; if not: --val_labels noisy" if options.data.val_labels == "clean" else "noisy labels"
        taken = "their labels, where there are any, decide nothing" if options.label_free.igtt else taken
        lines.append(f"{len(data.val)} validation images of {display_path(data.val_list)} ({taken})")
        lines += few_fields(data, options.data.val_labels == "clean" and not options.label_free.igtt)
    if data.known is not None:
        lines.append(f"{len(data.known)} images of the clean list, which are trained on, may move the threshold")
    lines.append(
        f"{options.network.name}: {parameters:.2f} M parameters, loss {options.loss.spec}, {optimization.optimizer}"
        + _method(options)
    )
    lines.append(_plan(data, optimization.epochs, options.augmentation.crop))
    if options.machine.workers and labels_change(options):
        lines.append(f"--workers {options.machine.workers}: images are read without them, since labels change")
    if state.restart is not None and state.epoch < optimization.epochs:
        lines.append(
            f"{optimization.epochs} epochs instead of the run's former number: the learning rate goes on from "
            f"{state.restart.lr:.3g}, rises to {state.restart.peak:.3g} and anneals until epoch "
            f"{optimization.epochs}"
        )
    return lines


def _start(run: Path, options: TrainingOptions) -> str:
    """Which weights a run starts from, and what its input was like where it was unlike that of this run."""
    line, before = f"starting from the best weights of {display_path(run)}", read_json_if_whole(run / "config.json")
    if not isinstance(before, dict):
        return line
    theirs = {name: with_tuples(before).get(name, DEFAULTS[name]) for name in ("normalization", "channels")}
    other = [as_typed(name, value) for name, value in theirs.items() if value != options.flat()[name]]
    return line + (f", which saw images by {', '.join(other)}, other than here" if other else "")


def _method(options: TrainingOptions) -> str:
    """The method of a run, where it is not plain training or label-free, which has a line of its own."""
    if options.loss.method == "supervised":
        return ""
    params = ",".join(f"{name}={value:g}" for name, value in options.loss.method_options.items())
    return f", method {options.loss.method}({params})"


def few_fields(data: TrainingData, decides: bool) -> list[str]:
    """A line where validation images are crops of so few fields of view that they decide less.

    Args:
        decides: whether validation labels decide anything.
    """
    fields, images = len(set(data.val_groups())), len(data.val_groups())
    if not decides or fields == images or fields >= MIN_IMAGES:
        return []
    if data.val_is_one_field:
        line = (
            f"these {images} images are crops of one field, which tells little of others: best is the last epoch that "
        )
        line += f"loses no {data.error_of_choice:.2f} of IoU to the highest"
    else:
        line = f"these {images} images are crops of {fields} fields, which tell little of others"
    if images < MIN_IMAGES:
        return [f"{line}, and the threshold stays"]
    return [f"{line}, and the threshold moves only where that wins {error_of_few(fields):.2f} of IoU"]


def _plan(data: TrainingData, epochs: int, crop: int) -> str:
    """The length of a run in a line: epochs, steps, and how often an image is seen."""
    batches, images = data.train_batches, len(data.train)
    steps = steps_before(epochs, batches.steps_per_epoch)
    draws = steps * batches.batch_size if batches.steps else epochs * batches.draws
    windows = min(batches.batch_size, batches.draws)
    return (
        f"plan: {counted(steps, 'step')} in {counted(epochs, 'epoch')}, "
        f"{counted(windows, 'window')} of {crop}×{crop} a step; each image is drawn {draws / images:.3g} times"
    )


def report_epoch(
    logger: RunLogger,
    epoch: int,
    epochs: int,
    metrics: EpochMetrics,
    selection: Selection,
    warnings: Sequence[str] = (),
) -> None:
    """One line for people, one record for programs."""
    record = {
        "train/loss": metrics.loss,
        "train/images_per_second": metrics.images_per_second,
        "train/learning_rate": metrics.learning_rate,
        **{f"train/{name}": value for name, value in metrics.memory.items()},
        **{f"val/{name}": value for name, value in selection.metrics.items()},
    }
    if selection.threshold is not None:
        record["val/threshold"] = selection.threshold
        record["val/inverted"] = selection.invert
        record["val/mask_offset"] = selection.offset
    logger.log_metrics(epoch, record | ({"warnings": list(warnings)} if warnings else {}))
    shown = {name: selection.metrics[name] for name in ("iou", "f1", "auc", "miou") if name in selection.metrics}
    validation = "".join(f"  val {name} {value:.4f}" for name, value in shown.items())
    inverted = "  inverted" if selection.invert else ""
    inverted += f"  mask offset {selection.offset:+g}" if selection.offset else ""
    logger.log(
        f"epoch {epoch}/{epochs}  loss {metrics.loss:.4f}{validation}{inverted}"
        f"  lr {metrics.learning_rate:.2e}  {metrics.images_per_second:.1f} images/s"
    )


def is_collapsed(counts: np.ndarray | None) -> bool:
    """Whether nearly all scores of the validation images are equal, or of several classes one is predicted.

    Args:
        counts: score histograms (n, 2, BINS) or confusion matrices (n, K, K), rows = truth; None without validation.
    """
    if counts is None:
        return False
    table = counts.sum(0)
    predicted, truth = table.sum(0), table.sum(1)
    return bool((truth > 0).sum() > 1 and predicted.max() > COLLAPSED * predicted.sum())


def lowest_loss(records: Sequence[dict[str, Any]]) -> float:
    """The lowest mean loss of epochs, by their records in metrics.jsonl; 0 without any."""
    losses = [record["train/loss"] for record in records if isinstance(record.get("train/loss"), float)]
    return min(filter(math.isfinite, losses), default=0.0)


def warnings_of_epoch(loss: float, usual_loss: float, counts: np.ndarray | None) -> list[str]:
    """What is wrong with an epoch, in words for metrics.jsonl.

    Args:
        loss: mean loss of the epoch.
        usual_loss: that of the run's first step; of a resumed run the lowest of an epoch before, where that is more.
        counts: see `is_collapsed`.
    """
    exploded = not math.isfinite(loss) or (usual_loss > 0 and loss > EXPLODED * usual_loss)
    return [*(["the loss explodes"] if exploded else []), *(["scores collapse"] if is_collapsed(counts) else [])]


def closing_warnings(records: Sequence[dict[str, Any]], lr: float) -> list[str]:
    """What to say at the end of a run that has not learned.

    Args:
        records: those of metrics.jsonl.
        lr: the highest learning rate.
    """
    if not records:
        return []
    last = records[-1].get("warnings") or []
    losses = [record["train/loss"] for record in records if isinstance(record.get("train/loss"), float)]
    lines = []
    if any("the loss explodes" in (each.get("warnings") or []) for each in records):
        lines.append(f"warning: the loss explodes (up to {max(losses):.4g}): lower --lr, which was {lr:g}")
    if "scores collapse" in last:
        lines.append(
            f"warning: scores collapse: all pixels get nearly the same score. Lower --lr (it was {lr:g}), take more "
            "--steps, or look at the labels"
        )
    if len(losses) > 1 and max(losses) - min(losses) <= UNMOVED * max(map(abs, losses)):
        lines.append(f"warning: the loss does not move ({losses[-1]:.4g} in every epoch): raise --lr, which was {lr:g}")
    return lines


def threshold_warning(records: Sequence[dict[str, Any]], data: TrainingData) -> list[str]:
    """That so few validation images move no threshold, where much of their IoU speaks for another one.

    Args:
        records: those of metrics.jsonl.
    """
    groups, record = data.val_groups(), records[-1] if records else {}
    reached, highest = (record.get(f"val/{name}") for name in ("iou", "highest_iou"))
    if len(groups) >= MIN_IMAGES or reached is None or highest is None:
        return []
    if highest - reached <= error_of_few(len(set(groups))):
        return []
    threshold = f"{record['val/best_threshold']:.2g}"
    return [
        f"warning: {counted(groups, 'validation image')} cannot move the threshold, {MIN_IMAGES} can; but in epoch "
        f"{record['epoch']} the IoU is {highest:.2f} at {threshold}, {reached:.2f} at {record['val/threshold']:.2g}. "
        "Labels that mark a part of what is there make all scores low: name clean labels of some training images "
        f"(--clean_list), or predict with --test_ckpt_epoch last and score with metrics.py --threshold {threshold}"
    ]


def closing_lines(best: dict[str, Any], epochs: int, options: TrainingOptions, data: TrainingData) -> list[str]:
    """What a run ends with: its best epoch and metric, and what to compare it with.

    Args:
        best: that of the training state; a run of before has no tables in it.
    """
    line = f"best epoch {best['epoch']} of {epochs}"
    if data.val is None:
        by = "" if data.known is None else f"; threshold {best['threshold']:.3g}, by images of the clean list"
        return [f"{line}, the last one: there are no validation labels to choose by{by}"]
    if best.get("tables") is None or options.data.val_labels == "noisy":
        if math.isnan(best["figure"]):
            return [f"{line}, the last one: there is nothing to choose by in the validation labels"]
        if options.data.val_labels == "noisy":
            return [f"{line}, by Youden's J of noisy validation labels: {best['figure']:.4f}"]
        return [f"{line}: val figure {best['figure']:.4f}"]
    tables = best["tables"].numpy()
    lines = [f"{line}{metric_text(tables, best['threshold'], len(data.val), best.get('mask_offset', 0.0))}"]
    if options.data.num_classes > 1:
        missed = missed_classes(tables.sum(0))
        return lines + ([missed_line(missed, bool(options.loss.class_weights))] if missed else [])
    return [*lines, classic_line(tables, data.val, data.val_groups())] if tables[:, 1].any() else lines


def last_epoch_line(best: dict[str, Any], last: Selection | None, epochs: int) -> list[str]:
    """That validation images hardly tell an early best epoch from the last one.

    Args:
        best: that of the training state.
        last: the decision by clean labels after the last epoch; None where there is none.
    """
    tables = best.get("tables")
    if last is None or last.tables is None or tables is None or tables.shape[-1] > 2 or 2 * best["epoch"] > epochs:
        return []
    both = np.stack([last.tables, tables.numpy()], 1)  # (n, 2, 2, 2)
    told = both[both.any((1, 2, 3))]
    if not told[..., 1, :].any():
        return []
    hit = told[..., 1, 1]
    counts = np.stack([hit, np.maximum(told.sum((-2, -1)) - told[..., 0, 0], 1)], -1)
    (at_last, at_best), error = with_error(counts)
    if at_best - at_last > error:
        return []
    return [
        f"the last epoch, with val iou {at_last:.4f}, is as good within the error of so few images: "
        "--test_ckpt_epoch last predicts with it"
    ]


def next_commands(folder: Path, best_epoch: int, data: TrainingData) -> str:
    """The commands that predict and score with a run's best checkpoint, ready to paste."""
    images, suffix = ("", "") if data.test_list else (" --input FOLDER_OR_FILES", "_FOLDER")
    if data.held_out:
        images, suffix = f" --data_list {quoted(display_path(folder / HELD_OUT))}", f"_{Path(HELD_OUT).stem}"
    results = f"epoch_{best_epoch}{suffix}"
    return (
        f"python evaluation/inference.py --train_dir {quoted(display_path(folder))} --test_ckpt_epoch best{images}\n"
        f"python evaluation/metrics.py --prd_dir {quoted(display_path(folder / 'results' / results / 'pred'))}"
    )


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(47.3), duration(185), duration(7620)
    ('47 s', '3 min 5 s', '2 h 7 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def metric_text(tables: np.ndarray, threshold: float | None, images: int, offset: float = 0.0) -> str:
    """The metric of the best epoch with its interval, to go on a line.

    Args:
        tables: confusion matrices of the validation images, or of groups of them, (n, K, K); rows = truth.
        threshold: that of binary labels; None for several classes.
        images: how many validation images there are.
        offset: pixels by which the outlines of masks are moved outwards.
    """
    if (tables.sum((0, 2)) > 0).sum() < 2:
        return ", the last one: the validation labels have a single class, which is nothing to choose by"
    if threshold is None:
        return f": val miou {mean_iou(tables.sum(0)):.4f} {interval(tables, mean_iou)} over {images} images"
    reached = foreground_iou(tables.sum(0))
    within = interval(tables, foreground_iou)
    moved = f", outlines moved by {offset:+g} px" if offset else ""
    return f": val iou {reached:.4f} {within} over {images} images, threshold {threshold:.3g}{moved}"


def interval(tables: np.ndarray, metric: Callable[[np.ndarray], float]) -> str:
    """The 95 % interval of a metric of the pooled table, from resampling images (n, K, K)."""
    bounds = table_interval(metric, tables)
    return "(no interval from so few images)" if bounds is None else f"[{bounds[0]:.4f}, {bounds[1]:.4f}]"


def classic_line(tables: np.ndarray, validation: SegmentationDataset, groups: Sequence[int]) -> str:
    """The best cheap classic method on the validation images, as a warning where it wins.

    Args:
        tables: of the best epoch, (n, 2, 2).
        groups: the number of the table that each image of ``validation`` was counted into.
    """
    from evaluation.classical.methods import best_cheap_method

    n = len(tables)
    compared = max(1, n * COMPARED_IMAGES // len(validation)) if len(validation) > COMPARED_IMAGES else n
    indices = [index for index, group in enumerate(groups) if group < compared]
    reached = foreground_iou(tables[:compared].sum(0))
    method, classic = best_cheap_method(
        LazySequence(lambda place: validation.image(indices[place]), len(indices)),
        LazySequence(lambda place: validation.label(indices[place]), len(indices)),
    )
    where = f"{len(indices)} of these" if len(indices) < len(validation) else f"the same {len(indices)} images"
    if not classic > reached:
        return f"best quick classic method on {where}: {method}, iou {classic:.4f}; this run {reached:.4f}"
    return (
        f"warning: {method}, a classic method without training, wins on {where}: iou {classic:.4f}, this run "
        f"{reached:.4f}. More --steps or more images may help; or look at the labels"
    )


def missed_classes(table: np.ndarray) -> list[int]:
    """Classes that occur in the labels and are never predicted, from a confusion matrix (K, K)."""
    return np.flatnonzero((table.sum(1) > 0) & (table.sum(0) == 0)).tolist()


def missed_line(missed: Sequence[int], is_weighted: bool) -> str:
    """A warning that names classes which are never predicted, and what to do."""
    advice = "more --steps" if is_weighted else "--class_weights frequency, or more --steps,"
    return f"warning: never predicted: class {', '.join(map(str, missed))}; {advice} may help"
