"""Figures of the study, each from the trials that are finished; one without trials is left as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.protocol.tables import Records, audited, each_once, of_usual_width, ranking
from utils.plots import BLUE, COLORS, GREY, INK, ORANGE, style_axes, write_figure

MARKERS = "o^sD"  # one for each round of the colours


def draw(records: Records, folder: Path) -> None:
    """Write ``study.png``, the headline: scatter and ranking; and ``study_curves.png``."""
    records = of_usual_width(records)
    every = each_once(records)
    if audited(every):
        ranked = compared(records["real"])
        figure = Figure(figsize=(11 if ranked else 5, 4.6), layout="constrained")
        panels = figure.subplots(1, 2 if ranked else 1, squeeze=False)[0]
        draw_scatter(panels[0], every)
        if ranked:
            draw_ranking(panels[1], ranked)
        write_figure(folder / "study.png", figure)
    if records["curves"]:
        write_figure(folder / "study_curves.png", curves(records["curves"]))


def draw_scatter(axes: Axes, records: list) -> None:
    """What the audit predicted before training against what plain training reached, a colour a data set."""
    pairs = audited(records)
    names = sorted({record["cell"]["dataset"] for _, _, record in pairs})
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    for place, name in enumerate(names):
        own = [(said, reached) for said, reached, record in pairs if record["cell"]["dataset"] == name]
        marker = MARKERS[place // len(COLORS)]
        color = COLORS[place % len(COLORS)]
        axes.scatter(*np.array(own).T, color=color, marker=marker, label=name, s=26, alpha=0.85, linewidths=0)
    style_axes(axes, "IoU predicted by the audit, before training", "IoU reached by plain training")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left")


def compared(records: list) -> list[tuple[str, float, float, float, int, float]]:
    """The rows of the ranking that have an interval, the worst first."""
    return [row for row in ranking(records) if np.isfinite(row[2])][::-1]


def draw_ranking(axes: Axes, rows: list[tuple[str, float, float, float, int, float]]) -> None:
    """Mean advantage of each method over plain training on real labels, with its interval."""
    for place, (method, mean, low, high, _, _) in enumerate(rows):
        color = ORANGE if method == "ours" else BLUE
        axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.5)
        axes.plot([mean], [place], "o", color=color)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row[0]} ({row[4]})" for row in rows])
    style_axes(axes, "IoU over plain BCE on real labels, mean over kinds and 95 % interval", "")


def curves(records: list) -> Figure:
    """Score against the truth and fit to the labels by step, a panel for each kind of labels."""
    kinds = list(dict.fromkeys(record["cell"]["labels"] for record in records))
    figure = Figure(figsize=(2.9 * len(kinds), 3), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
        for record in (each for each in records if each["cell"]["labels"] == kind):
            steps = [point["step"] for point in record["curve"]]
            style = "-" if record["cell"]["dataset"] == records[0]["cell"]["dataset"] else "--"
            axes.plot(steps, [point["truth"] for point in record["curve"]], style, color=BLUE)
            axes.plot(steps, [point["labels"] for point in record["curve"]], style, color=ORANGE)
        style_axes(axes, "step", "IoU" if kind == kinds[0] else "")
        axes.set_title(kind, color=INK, fontsize=10)
    figure.axes[0].plot([], [], color=BLUE, label="truth, test images")
    figure.axes[0].plot([], [], color=ORANGE, label="labels, training images")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure
