"""What an annotation budget leaves behind: a table, a plot, and the curve as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.budget.curve import Curve, Scores, percent, show_score
from utils.plots import COLORS, GREY, style_axes, write_figure

MODEL = "score = plateau - drop * (full / x)^power, x = images * share^pixel_worth, full = x of the most annotation"
COLUMNS = ("share", "images", "repeats", "mean", "low", "high", "of_full", "of_full_low", "of_full_high", "curve")
COLUMNS += ("lowest", "highest")


def complete_rows(rows: list[dict[str, Any]], data: Scores, curve: Curve | None) -> list[dict[str, Any]]:
    """Add to the records of `budget_curve.cell_means` the extremes of the repeats and the fitted score."""
    completed = []
    for row in rows:
        own = data.scores[(data.shares == row["share"]) & (data.images == row["images"])]
        fitted = float("nan") if curve is None else float(curve.predict(row["share"], row["images"])[0])
        completed.append({**row, "curve": fitted, "lowest": float(own.min()), "highest": float(own.max())})
    return completed


def table(rows: Sequence[dict[str, Any]], score: str) -> str:
    """Scores by share of pixels (rows) and number of images (columns), and what they are of the most annotation."""
    shares = sorted({row["share"] for row in rows}, reverse=True)
    counts = sorted({row["images"] for row in rows}, reverse=True)
    cells = {(row["share"], row["images"]): row for row in rows}
    lines = [f"{score} (of the full labels')" + "".join(f"{f'{count} images':>18}" for count in counts)]
    for share in shares:
        texts = []
        for count in counts:
            row = cells.get((share, count))
            texts.append("–" if row is None else f"{row['mean']:.3f} ({100 * row['of_full']:.0f} %)")
        lines.append(
            f"{percent(share) + ' of the pixels':<{len(lines[0]) - 18 * len(counts)}}"
            + "".join(f"{text:>18}" for text in texts)
        )
    return "\n".join(lines)


def draw_curve(path: Path, data: Scores, curve: Curve | None, target: float, score: str) -> None:
    """Plot scores over the number of images, a colour for each share, with the curve and its 95 % band; PNG."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, share in enumerate(sorted(set(data.shares.tolist()), reverse=True)):
        color, own = COLORS[number % len(COLORS)], data.shares == share
        axes.plot(data.images[own], data.scores[own], "o", color=color, markersize=4, alpha=0.7)
        label = "all pixels" if share == 1 else f"{percent(share)} of the pixels"
        if curve is None:
            axes.plot([], [], "o", color=color, label=label)
            continue
        images = np.geomspace(data.images.min(), 2 * data.images.max(), 100)
        fitted = curve.predict(share, images)
        axes.plot(images, fitted[0], color=color, label=label)
        if len(fitted) > 1:
            axes.fill_between(images, *np.quantile(fitted[1:], (0.025, 0.975), axis=0), color=color, alpha=0.15, lw=0)
    full = data.scores[(data.images == data.images.max()) & (data.shares == data.shares.max())]
    if full.size:
        level = target * full.mean()
        axes.axhline(
            level,
            color=GREY,
            linestyle=":",
            label=f"{percent(target)} of the full labels' {score} ({show_score(level)})",
        )
    axes.set_xscale("log")
    counts = sorted(set(data.images.tolist()))
    axes.set_xticks(counts, [f"{count:g}" for count in counts], minor=False)
    axes.minorticks_off()
    style_axes(axes, "annotated images", score)
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    write_figure(path, figure, dpi=150)
