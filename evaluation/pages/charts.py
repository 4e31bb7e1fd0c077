"""The charts of a report, as matplotlib figures; no window and no global state is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from evaluation.scores import Counts, auc, average_precision, counts_at, counts_at_all, precision, sensitivity
from utils.plots import BLUE, GREY, INK, ORANGE, style_axes

SIZE = (4.8, 3.4)  # inches
POINTS = 2000  # of a curve


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, x, y)
    return figure, axes


def whole_numbers() -> MaxNLocator:
    """Ticks as matplotlib chooses them, whole numbers alone."""
    return MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True)


def _curve(counts: Counts) -> Counts:
    """The thresholds at which the curve turns, at most POINTS of them."""
    turns = np.flatnonzero(np.diff(counts.tp, append=-1) | np.diff(counts.fp, append=-1))
    kept = turns[np.linspace(0, len(turns) - 1, min(len(turns), POINTS)).astype(int)]
    return Counts(*(np.asarray(count)[kept] for count in (counts.tp, counts.fp, counts.fn, counts.tn)))


def _false_positive_rate(counts: Counts) -> Any:
    return counts.fp / (counts.fp + counts.tn)


def roc(histogram: np.ndarray, threshold: float, oracle: float) -> Figure:
    """The ROC curve of a score histogram (2, BINS) with both classes, and the points of two thresholds."""
    figure, axes = _axes("false positive rate", "true positive rate")
    counts = _curve(counts_at_all(histogram))
    rates = np.append(_false_positive_rate(counts), 0), np.append(sensitivity(counts), 0)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    axes.plot(*rates, color=BLUE, label=f"AUC {auc(histogram):.4f}")
    for value, style, name in ((threshold, "o", "threshold"), (oracle, "x", "*oracle*")):
        at = counts_at(histogram, value)
        axes.plot(_false_positive_rate(at), sensitivity(at), style, color=ORANGE, label=f"{name} {value:.3f}")
    axes.legend(loc="lower right", frameon=False)
    return figure


def precision_recall(histogram: np.ndarray, threshold: float, oracle: float) -> Figure:
    """The precision–recall curve of a score histogram (2, BINS) with both classes, and the points of two thresholds."""
    figure, axes = _axes("recall (sensitivity)", "precision")
    counts = _curve(counts_at_all(histogram))
    axes.plot(sensitivity(counts), precision(counts), color=BLUE, label=f"AP {average_precision(histogram):.4f}")
    for value, style, name in ((threshold, "o", "threshold"), (oracle, "x", "*oracle*")):
        at = counts_at(histogram, value)
        axes.plot(sensitivity(at), precision(at), style, color=ORANGE, label=f"{name} {value:.3f}")
    axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.02))
    axes.legend(loc="lower left", frameon=False)
    return figure


def score_distribution(histogram: np.ndarray, threshold: float, oracle: float) -> Figure:
    """How many background and foreground pixels got which score, on a logarithmic scale."""
    figure, axes = _axes("score", "pixels")
    groups = histogram.reshape(2, 64, -1).sum(2)
    edges = np.linspace(0, 1, 65)
    for values, color, name in zip(groups, (GREY, BLUE), ("background", "foreground"), strict=True):
        axes.stairs(values, edges, fill=True, color=color, alpha=0.55, label=name)
    axes.axvline(threshold, color=ORANGE, label="threshold")
    axes.axvline(oracle, color=ORANGE, linestyle=":", label="*oracle*")
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(bottom=0.8)
    axes.legend(frameon=False, fontsize="small")
    return figure


def iou_distribution(values: Sequence[float]) -> Figure:
    """How many images have which IoU; undefined ones are left out."""
    figure, axes = _axes("IoU", "images")
    defined = np.array([value for value in values if not np.isnan(value)])
    axes.hist(defined, bins=np.linspace(0, 1, 26).tolist(), color=BLUE, alpha=0.8)
    if defined.size:
        axes.axvline(defined.mean(), color=ORANGE, label=f"mean {defined.mean():.3f}")
        axes.axvline(np.median(defined), color=ORANGE, linestyle=":", label=f"median {np.median(defined):.3f}")
        axes.legend(loc="upper left", frameon=False)
    axes.yaxis.set_major_locator(whole_numbers())
    return figure


def confusion(matrix: np.ndarray) -> Figure:
    """A confusion matrix (K, K), each row divided by its true pixels."""
    figure, axes = _axes("predicted class", "true class")
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(matrix)))
    axes.set_yticks(range(len(matrix)))
    if len(matrix) <= 10:
        for (row, column), share in np.ndenumerate(shares):
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.5 else INK)
    return figure


def training(records: Sequence[dict[str, Any]]) -> list[Figure]:
    """The curves of metrics.jsonl: the loss, and the figures of validation between 0 and 1; none without records."""
    figures = []
    for y, names in (
        ("training loss", ("train/loss",)),
        ("validation", ("val/iou", "val/f1", "val/auc", "val/miou", "val/threshold")),
    ):
        figure, axes = _axes("epoch", y)
        for name in names:
            points = [(record["epoch"], record[name]) for record in records if record.get(name) is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    label=name.split("/")[1],
                    linewidth=1.6,
                    linestyle=":" if name == "val/threshold" else "-",
                )
        if axes.lines:
            axes.xaxis.set_major_locator(whole_numbers())
            axes.legend(frameon=False)
            figures.append(figure)
    return figures
