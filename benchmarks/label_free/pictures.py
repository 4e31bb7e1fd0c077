"""Curves and errors of the methods of ``benchmarks/label_free/methods.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.grid import Record
from benchmarks.label_free.tables import best_classic
from utils.files import read_json
from utils.run_folder import REPO_ROOT, display_path

SHOWN = ("ours", "published", "no_ems", "supervised")
UNLICENSED = ("er_ernet",)  # no licence lets these images be published


def draw_curves(records: Sequence[Record]) -> None:
    """Dice on the validation list by fraction of the run, every seed a line; labels are for this picture alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colors = dict(zip(SHOWN, ("tab:green", "tab:orange", "tab:red", "tab:gray"), strict=True))
    datasets = list(dict.fromkeys(record["cell"]["dataset"] for record in records))
    figure, axes = pyplot.subplots(1, len(datasets), figsize=(2.9 * len(datasets), 3.1), squeeze=False, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for record in records:
            method = record["cell"]["method"]
            if record["cell"]["dataset"] == dataset and method in SHOWN:
                dice = [epoch.get("f1", np.nan) for epoch in record["curve"]]
                axis.plot(np.arange(1, len(dice) + 1) / len(dice), dice, color=colors[method], lw=1.2, marker=".")
        axis.axhline(best_classic(records, dataset)[1], color="black", lw=0.8, ls=":")
        axis.set(title=dataset, xlabel="share of the run", ylim=(0, 1))
    axes[0][0].set_ylabel("Dice, validation list")
    handles = [pyplot.Line2D([], [], color=color, label=name.replace("_", " ")) for name, color in colors.items()]
    handles.append(pyplot.Line2D([], [], color="black", ls=":", label="best classic (test)"))
    figure.legend(handles=handles, fontsize=8, loc="lower center", ncol=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(REPO_ROOT / "docs" / "images" / "label_free_curves.png", dpi=100)


def draw_overlays(folder: Path) -> None:
    """A test image of each set that may be shown: image, truth, errors of each method: missed red, too much blue.

    Args:
        folder: test list and maps of every method, by data set; nothing is drawn where none are.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from datasets.image_io import read_image, read_label, read_scores
    from datasets.lists import read_list

    test_lists = {path.parent.name: path for path in sorted(folder.glob("*/test.txt"))}
    test_lists = {name: path for name, path in test_lists.items() if name not in UNLICENSED}
    if not test_lists:
        print(f"{display_path(folder)} has no maps: the picture of errors stays as it is")
        return
    columns = ("vote", "dfc", "no_ems", "published", "ours", "supervised")
    titles = ("image", "truth", *(name.replace("_", " ") for name in columns))
    figure, axes = pyplot.subplots(
        len(test_lists), len(titles), figsize=(1.7 * len(titles), 1.75 * len(test_lists)), squeeze=False
    )
    for row, (dataset, test_list) in zip(axes, test_lists.items(), strict=True):
        samples = read_list(test_list)
        sample = samples[len(samples) // 2]
        image, truth = read_image(sample.image).astype(np.float32), read_label(sample.require_label()) == 1
        row[0].imshow(image, cmap="gray", vmin=np.percentile(image, 1), vmax=np.percentile(image, 99.7))
        row[1].imshow(truth, cmap="gray")
        row[0].set_ylabel(dataset, fontsize=8)
        for axis, method in zip(row[2:], columns, strict=True):
            maps = folder / dataset / method
            if (maps / "predictions.json").exists():
                record = read_json(maps / "predictions.json")
                found = read_scores(maps / record["maps"][sample.image_id]) >= record["threshold"]
                axis.imshow(errors_in_color(found, truth))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.3)
    figure.savefig(REPO_ROOT / "docs" / "images" / "label_free_overlays.jpg", dpi=100, pil_kwargs={"quality": 85})


def errors_in_color(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """White where both are foreground, red what is missed, blue what is too much; float32 (H, W, 3)."""
    return np.stack([truth, found & truth, found], -1).astype(np.float32)
