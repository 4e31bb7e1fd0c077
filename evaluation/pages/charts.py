"""The charts of a report, as matplotlib figures, one run or several in each; no window, no global state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.pages.results import RunResults
from evaluation.scores import Counts, auc, average_precision, counts_at, counts_at_all, precision, sensitivity
from evaluation.scores.images import show
from evaluation.scores.summary import is_one_sided
from utils.files import NUMBER
from utils.plots import BLUE, GREY, INK, ORANGE, line_style, style_axes

SIZE = (4.8, 3.3)  # inches
POINTS = 400  # of a curve
GROUPS = 16  # of scores, in the reliability diagram
FEW_PIXELS = 20  # a group of fewer says nothing
METHODS = {
    "otsu": "Otsu's threshold",
    "local_threshold": "local threshold",
    "local_contrast": "local contrast",
    "kmeans": "k-means",
    "gaussian_mixture": "Gaussian mixture",
}


def draw_charts(runs: Sequence[RunResults]) -> Iterator[tuple[str, Figure]]:
    """The charts of a report with their captions: of all runs together, and of a single one what only it can show."""
    yield from training(runs)
    single = runs[0] if len(runs) == 1 else None
    if single is not None and single.summary.get("classic"):
        foretold = " and what the audit foretold" if "predicted_iou" in told_of_truth(single) else ""
        yield f"The network beside classic methods{foretold}", beside_classic(single)
    yield "IoU of the images", iou_distribution(runs)
    if single is not None and not single.binary:
        yield "Confusion, as shares of the true class", confusion(single.totals.sum)
    two_sided = [run for run in runs if run.binary and not is_one_sided(run.totals.sum)]
    if two_sided:
        yield "Calibration: how often a score is right", reliability(two_sided)
        yield "Precision and recall at every threshold", precision_recall(two_sided)
        yield "Receiver operating characteristic", roc(two_sided)
    if single is not None and single.binary:
        yield "Scores of background and foreground pixels", score_distribution(single)


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, x, y)
    return figure, axes


def whole_numbers() -> MaxNLocator:
    """Ticks as matplotlib chooses them, whole numbers alone."""
    return MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True)


def _curve(counts: Counts) -> Counts:
    """The thresholds at which the curve turns; of more than POINTS those that lie evenly along it."""
    turns = np.flatnonzero(np.diff(counts.tp, append=-1) | np.diff(counts.fp, append=-1))
    if len(turns) > POINTS:
        way = sum(1 - np.asarray(count)[turns] / max(np.asarray(count)[0], 1) for count in (counts.tp, counts.fp))
        turns = turns[np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS)))]
    return Counts(*(np.asarray(count)[turns] for count in (counts.tp, counts.fp, counts.fn, counts.tn)))


def _false_positive_rate(counts: Counts) -> Any:
    return counts.fp / (counts.fp + counts.tn)


def _thresholds(run: RunResults, alone: bool) -> list[tuple[float, str, str]]:
    """The thresholds to mark: value, marker, name."""
    marked = [(run.summary["threshold"], "o", "threshold")]
    return [*marked, (run.summary["oracle_threshold"], "X", "*oracle*")] if alone else marked


def roc(runs: Sequence[RunResults]) -> Figure:
    """The ROC curves, and the points of the thresholds."""
    figure, axes = _axes("false positive rate", "true positive rate")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (1, 3)), linewidth=1)
    for number, run in enumerate(runs):
        counts = _curve(counts_at_all(run.totals.sum))
        rates = np.append(_false_positive_rate(counts), 0), np.append(sensitivity(counts), 0)
        name = f"AUC {show(auc(run.totals.sum))}"
        axes.plot(*rates, **line_style(number), label=name if len(runs) == 1 else f"{run.name}, {name}")
        for value, marker, name in _thresholds(run, len(runs) == 1):
            at = counts_at(run.totals.sum, value)
            label = f"{name} {value:.3f}" if len(runs) == 1 else None
            _mark(axes, _false_positive_rate(at), sensitivity(at), marker=marker, label=label)
    axes.legend(loc="lower right", frameon=False, fontsize="small")
    return figure


def precision_recall(runs: Sequence[RunResults]) -> Figure:
    """The precision–recall curves, and the points of the thresholds."""
    figure, axes = _axes("recall (sensitivity)", "precision")
    for number, run in enumerate(runs):
        counts = _curve(counts_at_all(run.totals.sum))
        name = f"AP {show(average_precision(run.totals.sum))}"
        label = name if len(runs) == 1 else f"{run.name}, {name}"
        axes.plot(sensitivity(counts), precision(counts), **line_style(number), label=label)
        for value, marker, name in _thresholds(run, len(runs) == 1):
            at = counts_at(run.totals.sum, value)
            label = f"{name} {value:.3f}" if len(runs) == 1 else None
            _mark(axes, sensitivity(at), precision(at), marker=marker, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
    axes.legend(loc="lower left", frameon=False, fontsize="small")
    return figure


def _mark(axes: Axes, x: float, y: float, marker: str, label: str | None) -> None:
    axes.plot(x, y, marker, color=ORANGE, markeredgecolor="white", markersize=8, label=label, zorder=5)


def reliability(runs: Sequence[RunResults]) -> Figure:
    """The share of foreground among the pixels of each score; on the diagonal a score is a probability."""
    figure, axes = _axes("score", "share of foreground")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (2, 2)), linewidth=1.4, label="calibrated")
    for number, run in enumerate(runs):
        background, foreground = run.totals.sum.reshape(2, GROUPS, -1).sum(2)
        total = background + foreground
        known = total >= FEW_PIXELS
        scores = run.totals.sum.sum(0).reshape(GROUPS, -1)
        places = np.arange(scores.size).reshape(GROUPS, -1) + 0.5
        mean = (scores * places).sum(1) / np.maximum(total, 1) / scores.size
        error = f"calibration error {show(run.summary['calibration_error'])}"
        style = line_style(number) | {"markevery": 1}
        label = error if len(runs) == 1 else f"{run.name}, {error}"
        axes.plot(mean[known], foreground[known] / total[known], **style, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.legend(loc="upper left", frameon=False, fontsize="small")
    return figure


def score_distribution(run: RunResults) -> Figure:
    """How many background and foreground pixels got which score, on a logarithmic scale."""
    figure, axes = _axes("score", "pixels")
    groups = run.totals.sum.reshape(2, 64, -1).sum(2)
    edges = np.linspace(0, 1, 65)
    axes.stairs(groups[0], edges, fill=True, color=GREY, alpha=0.55, label="background")
    axes.stairs(groups[1], edges, color=BLUE, linewidth=1.8, label="foreground")
    axes.axvline(run.summary["threshold"], color=ORANGE, label="threshold")
    axes.axvline(run.summary["oracle_threshold"], color=ORANGE, linestyle=":", label="*oracle*")
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(bottom=0.8)
    axes.legend(frameon=False, fontsize="small")
    return figure


def iou_distribution(runs: Sequence[RunResults]) -> Figure:
    """How many images have which IoU; undefined ones are left out."""
    figure, axes = _axes("IoU", "images")
    edges = np.linspace(0, 1, 26)
    for number, run in enumerate(runs):
        values = np.array([result.metrics["iou"] for result in run.totals.results])
        defined = values[~np.isnan(values)]
        style = {name: line_style(number)[name] for name in ("color", "linestyle", "linewidth")}
        alone = len(runs) == 1
        axes.stairs(np.histogram(defined, edges)[0], edges, fill=alone, **style, label=None if alone else run.name)
        if defined.size and alone:
            axes.axvline(defined.mean(), color=ORANGE, label=f"mean {defined.mean():.3f}")
            axes.axvline(np.median(defined), color=ORANGE, linestyle=":", label=f"median {np.median(defined):.3f}")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", frameon=False, fontsize="small")
    axes.yaxis.set_major_locator(whole_numbers())
    return figure


def told_of_truth(run: RunResults) -> dict[str, float]:
    """What audits foretold; empty for a cross-fit, whose own figures are of the labels that it learns from."""
    return {} if run.parts else run.foretold


def beside_classic(run: RunResults) -> Figure:
    """A row for the network, each classic method, and the audit's prediction and ceiling: IoU with interval."""
    classic, foretold = run.summary["classic"], told_of_truth(run)
    some = f"on {classic['images']} of the images" if classic["images"] < run.summary["n_images"] else ""
    rows = [("network", classic["network_iou"], None, "o", BLUE)]
    ranked = sorted(classic["iou"].items(), key=lambda item: -item[1])
    rows += [(METHODS.get(name, name), value, None, "s", GREY) for name, value in ranked]
    if "predicted_iou" in foretold:
        interval = foretold.get("predicted_iou_low"), foretold.get("predicted_iou_high")
        rows.append(("predicted by the audit", foretold["predicted_iou"], interval, "D", ORANGE))
    if "iou_ceiling" in foretold:
        rows.append(("ceiling of these labels", foretold["iou_ceiling"], None, "^", ORANGE))
    figure, axes = _axes(f"IoU {some}".strip(), "")
    for place, (_, value, interval, marker, color) in enumerate(rows):
        axes.hlines(place, 0, value, color="#e6eaee", linewidth=5, zorder=1)
        if interval is not None and None not in interval:
            axes.plot(interval, [place, place], color=color, linewidth=2)
        axes.plot(value, place, marker, color=color, markersize=7, zorder=3)
        axes.annotate(f"{value:.2f}", (value, place), (7, 0), textcoords="offset points", va="center", color=INK)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set(xlim=(0, 1.08), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(False, axis="y")
    return figure


def confusion(matrix: np.ndarray) -> Figure:
    """A confusion matrix (K, K), each row divided by its true pixels."""
    figure, axes = _axes("predicted class", "true class")
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.grid(False)
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.5)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    places = np.arange(len(matrix))
    axes.set_xticks(places + 0.5, [str(place) for place in places])
    axes.set_yticks(places + 0.5, [str(place) for place in places])
    if len(matrix) <= 10:
        for (row, column), share in np.ndenumerate(shares):
            color = "white" if share > 0.5 else INK
            axes.text(column + 0.5, row + 0.5, f"{share:.2f}", ha="center", va="center", color=color)
    return figure


def training(runs: Sequence[RunResults]) -> Iterator[tuple[str, Figure]]:
    """The curves of training: the loss, and the metrics of validation between 0 and 1; none without records."""
    loss, validation = {"train/loss": "loss"}, {"val/iou": "IoU", "val/miou": "mean IoU"}
    if len(runs) == 1:
        validation |= {"val/f1": "F1", "val/auc": "AUC", "val/threshold": "threshold"}
    for caption, y, names in (
        ("Training: the loss", "training loss", loss),
        ("Training: validation", "validation", validation),
    ):
        figure, axes = _axes("epoch", y)
        for run in runs:
            for name, shown in names.items():
                points = [(record["epoch"], record[name]) for record in run.epochs if NUMBER.accepts(record.get(name))]
                if points:
                    style = line_style(len(axes.lines))
                    axes.plot(*zip(*points, strict=True), **style, label=shown if len(runs) == 1 else run.name)
        if axes.lines:
            axes.xaxis.set_major_locator(whole_numbers())
            axes.legend(frameon=False, fontsize="small")
            yield caption, figure
