"""Segmentation without labels beside supervision and classic methods: Dice, IoU and AUC on test lists.

Every trained method is given the same short training; the classic methods have no seed. Four of them are also trained
for 100 epochs on two data sets.

    python benchmarks/label_free/methods.py
    python benchmarks/label_free/methods.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import shutil
from typing import Any

from benchmarks.grid import Record, Study, run_study
from benchmarks.label_free.pictures import draw_curves, draw_overlays
from benchmarks.label_free.tables import tables
from benchmarks.trials import RECORDED, part_of_list, predict, train
from utils.cli import run_command
from utils.files import read_jsonl
from utils.run_folder import LOG_ROOT

DATASETS = ("er_sim", "er_ernet", "mito_sim", "nuc_sim", "nuc", "nuc16")
SEEDS = (0, 1, 2)
IMAGES = {"train_gt": 120, "val": 20, "test": 40}  # at most, spread evenly over each list
# What every trained method is given: 150 steps of 5 epochs where there are 120 images.
TRAINING = {"width": 8, "crop": 128, "batch_size": 8}
REPEAT = {5: 2, 100: 1}  # epochs → draws of an image in each
METHODS: dict[str, dict[str, Any]] = {
    "ours": {"igtt": "best"},
    "supervised": RECORDED,
    "published": {"igtt": "published"},
    "no_ems": {"igtt": "published", "igtt_ems": "clean"},
}
CLASSIC = (
    *("otsu", "local_threshold", "local_contrast", "kmeans", "gaussian_mixture"),
    *("chan_vese", "ridge", "random_walker", "vote"),
)


def make_cells() -> list[dict[str, Any]]:
    """All methods with the first seed, those that have one with the others, then the long trainings."""
    seeded = (*METHODS, "dfc")
    short = [
        {"method": method, "dataset": dataset, "seed": seed, "epochs": 5}
        for seed in SEEDS
        for method in ((*seeded, *CLASSIC) if seed == SEEDS[0] else seeded)
        for dataset in DATASETS
    ]
    long = [
        {"method": method, "dataset": dataset, "seed": 0, "epochs": 100}
        for method in METHODS
        for dataset in ("er_sim", "nuc_sim")
    ]
    return short + long


def test_list(dataset: str) -> Path:
    """The images that are scored."""
    return part_of_list(dataset, "test", IMAGES["test"], "label_free")


def run_trial(method: str, dataset: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train or segment, and score the test list."""
    settings = {"images": IMAGES, "preset": "quick", **TRAINING, "repeat": REPEAT[epochs]}
    if method in METHODS:
        return {**train_method(method, dataset, seed, epochs), "settings": settings}
    return {**score(segment(method, dataset, seed)), "settings": settings}


def train_method(method: str, dataset: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train a network, predict the test list with its best checkpoint, score it; keep the maps of the first seed."""
    lists = {name: part_of_list(dataset, name, count, "label_free") for name, count in IMAGES.items()}
    run = train(
        dataset,
        f"label_free_{method}",
        train_list=str(lists["train_gt"]),
        val_list=str(lists["val"]),
        seed=seed,
        epochs=epochs,
        repeat=REPEAT[epochs],
        **TRAINING,
        **METHODS[method],
    )
    curve = [
        {name: line[f"val/{name}"] for name in ("f1", "iou", "auc", "agreement") if f"val/{name}" in line}
        for line in read_jsonl(run / "metrics.jsonl")
    ]
    folder = predict(run, "--data_list", str(lists["test"]))
    found = score(folder)
    if seed == SEEDS[0] and epochs == 5:
        kept = LOG_ROOT / "label_free" / dataset / method
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.html", "overlays"))
    shutil.rmtree(run)
    return {**found, "curve": curve}


def segment(method: str, dataset: str, seed: int) -> Path:
    """Segment the test list by a classic method or by feature clustering; the folder of its maps."""
    from evaluation.classical.runner import run_methods

    out, data_list = LOG_ROOT / "label_free" / dataset, str(test_list(dataset))
    run_methods(dataset, [method], data_list=data_list, dfc_settings=[f"seed={seed}"], out=out)
    return out / method


def score(folder: Path) -> dict[str, float]:
    """Metrics of a folder of maps, at its threshold and at the best on the labels."""
    from evaluation.pages.evaluate import evaluate_maps

    summary = evaluate_maps(folder, report=False)
    pooled, oracle = summary["pooled"], summary["oracle"]
    return {
        "dice": pooled["f1"],
        "iou": pooled["iou"],
        "auc": pooled["auc"],
        "oracle_dice": oracle["f1"],
        "oracle_iou": oracle["iou"],
        "threshold": summary["threshold"],
        "mean_image_iou": summary["per_image_mean"]["iou"]["mean"],
    }


def draw(records: list[Record]) -> None:
    """Curves of the short trainings, and errors on a test image of each set whose maps are still there."""
    draw_curves([record for record in records if record["cell"]["epochs"] == 5])
    draw_overlays(LOG_ROOT / "label_free")


STUDY = Study(
    name="label_free",
    cells=make_cells(),
    trial=run_trial,
    seconds=40,
    tables=tables,
    page="docs/results/label_free.md",
    draw=draw,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
