"""Tables, curves and overlays of ``benchmarks/label_free/methods.py``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.files import read_json, write_json
from utils.run_folder import LOG_ROOT

Cell = tuple[str, str, int]  # method, data set, seed
NAMES = {
    "ours": "**ours** (`--igtt`)",
    "published": "iGTT as published",
    "no_ems": "iGTT without EMS",
    "dfc": "DFC",
    "vote": "vote (ours, untrained)",
}
TRAINED = ("supervised", "ours", "published", "no_ems", "dfc")
FIRST_LABELS = "vote"  # what ours starts from, so no rival of it
FIGURES = {"dice": "Dice", "oracle_dice": "*oracle* Dice", "iou": "IoU", "oracle_iou": "*oracle* IoU", "auc": "AUC"}
SHOWN = ("ours", "published", "no_ems", "supervised")  # in figures
UNLICENSED = ("er_ernet",)  # no licence lets these images be published


def mean_and_deviation(values: Sequence[float]) -> str:
    """``0.912 ± 0.004``; of a single value the value."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"


def values_of(cells: dict[Cell, dict[str, Any]], method: str, dataset: str, figure: str) -> list[float]:
    """A figure of a method on a data set, seed by seed, as far as cells are finished."""
    return [cell[figure] for (name, data, _), cell in cells.items() if (name, data) == (method, dataset)]


def best_classic(cells: dict[Cell, dict[str, Any]], dataset: str, figure: str = "dice") -> tuple[str, float]:
    """The classic method that is best on the test labels of a data set, and its figure; the vote is not one."""
    others = (*TRAINED, FIRST_LABELS)
    found = [(cell[figure], name) for (name, data, _), cell in cells.items() if data == dataset and name not in others]
    value, name = max(found, default=(float("nan"), "–"))
    return name, value


def table(cells: dict[Cell, dict[str, Any]], datasets: Sequence[str], methods: Sequence[str], figure: str) -> list[str]:
    """Methods by data sets."""
    lines = ["| | " + " | ".join(f"`{name}`" for name in datasets) + " |", "|---" * (len(datasets) + 1) + "|"]
    for method in methods:
        row = [values_of(cells, method, dataset, figure) for dataset in datasets]
        entries = [mean_and_deviation(values) if values else "missing" for values in row]
        lines.append(f"| {NAMES.get(method, method.replace('_', ' '))} | " + " | ".join(entries) + " |")
    return lines


def goals(cells: dict[Cell, dict[str, Any]], datasets: Sequence[str]) -> list[str]:
    """Ours beside what it is to reach, set by set; means over the seeds."""
    lines = [
        "| set | ours | supervised | ratio | best classic | ours, untrained | published | without EMS |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for dataset in datasets:
        mean = {
            name: np.mean(found) if (found := values_of(cells, name, dataset, "dice")) else float("nan")
            for name in (*SHOWN, FIRST_LABELS)
        }
        name, classic = best_classic(cells, dataset)
        lines.append(
            f"| `{dataset}` | {mean['ours']:.3f} | {mean['supervised']:.3f} | {mean['ours'] / mean['supervised']:.1%} "
            f"| {classic:.3f} ({name.replace('_', ' ')}) | {mean[FIRST_LABELS]:.3f} | {mean['published']:.3f} "
            f"| {mean['no_ems']:.3f} |"
        )
    return lines


def summarize(
    cells: dict[Cell, dict[str, Any]], wanted: Iterable[Cell], test_lists: dict[str, Path], out: Path
) -> None:
    """Print and write the tables of finished cells, name those that are missing, draw curves and overlays.

    Args:
        test_lists: data set → the list that was scored.
    """
    wanted = list(wanted)
    datasets = list(dict.fromkeys(dataset for _, dataset, _ in wanted))
    methods = list(dict.fromkeys(method for method, _, _ in wanted))
    methods = [name for name in TRAINED if name in methods] + [name for name in methods if name not in TRAINED]
    lines: list[str] = []
    if "ours" in methods:
        lines += ["### Dice at the label-free threshold, means", "", *goals(cells, datasets), ""]
    for figure, title in FIGURES.items():
        lines += [f"### {title}", "", *table(cells, datasets, methods, figure), ""]
    missing = [" ".join(map(str, cell)) for cell in wanted if cell not in cells]
    lines += [f"Missing cells: {', '.join(missing) if missing else 'none'}.", ""]
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.md").write_text("\n".join(lines), encoding="utf-8")
    write_json(out / "summary.json", {"missing": missing, "cells": len(cells)})
    print("\n".join(lines))
    if "ours" in methods:
        draw_curves(cells, datasets, out / "label_free_curves.png")
        draw_overlays(test_lists, out / "label_free_overlays.jpg")


def draw_curves(cells: dict[Cell, dict[str, Any]], datasets: Sequence[str], path: Path) -> None:
    """Dice on the validation list by share of the run, every seed a line; labels are for this figure alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colors = dict(zip(SHOWN, ("tab:green", "tab:orange", "tab:red", "tab:gray"), strict=True))
    figure, axes = pyplot.subplots(1, len(datasets), figsize=(2.9 * len(datasets), 3.1), squeeze=False, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for (method, data, _), cell in cells.items():
            if data == dataset and method in SHOWN:
                dice = [epoch.get("f1", np.nan) for epoch in cell["curve"]]
                axis.plot(np.arange(1, len(dice) + 1) / len(dice), dice, color=colors[method], lw=1.2, marker=".")
        axis.axhline(best_classic(cells, dataset)[1], color="black", lw=0.8, ls=":")
        axis.set(title=dataset, xlabel="share of the run", ylim=(0, 1))
    axes[0][0].set_ylabel("Dice, validation list")
    handles = [pyplot.Line2D([], [], color=color, label=name.replace("_", " ")) for name, color in colors.items()]
    handles.append(pyplot.Line2D([], [], color="black", ls=":", label="best classic (test)"))
    figure.legend(handles=handles, fontsize=8, loc="lower center", ncol=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=100)


def draw_overlays(test_lists: dict[str, Path], path: Path) -> None:
    """A test image of each set that may be shown: image, truth, errors of each method: missed red, too much blue."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from datasets.image_io import read_image, read_label, read_scores
    from datasets.lists import read_list

    test_lists = {name: path for name, path in test_lists.items() if name not in UNLICENSED}
    columns = ("vote", "dfc", "no_ems", "published", "ours", "supervised")
    titles = ("image", "truth", *(name.replace("_", " ") for name in columns))
    figure, axes = pyplot.subplots(
        len(test_lists), len(titles), figsize=(1.7 * len(titles), 1.75 * len(test_lists)), squeeze=False
    )
    for row, (dataset, test_list) in zip(axes, test_lists.items(), strict=True):
        samples = read_list(test_list)
        sample = samples[len(samples) // 2]
        image, truth = read_image(sample.image).astype(np.float32), read_label(sample.label) == 1
        row[0].imshow(image, cmap="gray", vmin=np.percentile(image, 1), vmax=np.percentile(image, 99.7))
        row[1].imshow(truth, cmap="gray")
        row[0].set_ylabel(dataset, fontsize=8)
        for axis, method in zip(row[2:], columns, strict=True):
            folder = LOG_ROOT / "label_free" / dataset / method
            if (folder / "predictions.json").exists():
                record = read_json(folder / "predictions.json")
                found = read_scores(folder / record["maps"][sample.image_id]) >= record["threshold"]
                axis.imshow(errors_in_color(found, truth))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 85})


def errors_in_color(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """White where both are foreground, red what is missed, blue what is too much; float32 (H, W, 3)."""
    return np.stack([truth, found & truth, found], -1).astype(np.float32)
