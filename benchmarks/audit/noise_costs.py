"""How much of what noise costs the audit's advice wins back: plain BCE, its thresholds, a corrected loss, more steps.

python benchmarks/audit/noise_costs.py
python benchmarks/audit/noise_costs.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import shutil
from typing import Any

from benchmarks.audit.noise_grid import train_on
from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import predict
from utils.cli import run_command

DATASETS = ("nuc", "er_ernet")
SPECS = ("sample:0.1", "flip:0.45")
STEPS, MORE = 160, 480
# name → (loss, steps)
RECIPES = {
    "plain": ("bce", STEPS),
    "plain, more steps": ("bce", MORE),
    "forward": ("forward", STEPS),
    "forward, more steps": ("forward", MORE),
}
COLUMNS = (
    "set",
    "labels",
    "recipe",
    "IoU at 0.5",
    "IoU at implied",
    "at validation's",
    "best IoU",
    "AUC",
    "gap closed",
)


def make_cells() -> list[dict[str, Any]]:
    """Data set, noise and recipe of every trial; clean labels are the reference, with both numbers of steps."""
    clean = [("clean", recipe) for recipe, (loss, _) in RECIPES.items() if loss == "bce"]
    noisy = [(spec, recipe) for spec in SPECS for recipe in RECIPES]
    return [
        {"dataset": dataset, "spec": spec, "recipe": recipe, "width": 8, "steps": RECIPES[recipe][1]}
        for spec, recipe in clean + noisy
        for dataset in DATASETS
    ]


def run_trial(dataset: str, spec: str, recipe: str, width: int, steps: int) -> dict[str, Any]:
    """Train, predict, and score at three thresholds: validation's, one half, the one that the noise implies."""
    from datasets.label_noise import spec_transition_matrix
    from evaluation.pages.evaluate import evaluate_maps

    loss, _ = RECIPES[recipe]
    run = train_on(dataset, spec, name="noise_costs", width=width, steps=steps, loss=loss)
    folder = predict(run)
    implied = 0.5 if loss == "forward" else spec_transition_matrix(spec).threshold()
    thresholds = {"validation": None, "half": 0.5, "implied": implied}
    metrics = {name: evaluate_maps(folder, threshold=value, report=False) for name, value in thresholds.items()}
    shutil.rmtree(run)
    return {
        "iou": {name: value["pooled"]["iou"] for name, value in metrics.items()},
        "oracle_iou": metrics["validation"]["oracle"]["iou"],
        "auc": metrics["validation"]["pooled"]["auc"],
    }


def gap_closed(record: Record, records: dict[tuple[str, ...], Record]) -> str:
    """The fraction of the gap between plain training and clean labels, at the trial's steps, that a trial closes."""
    dataset, spec, recipe = (record["cell"][name] for name in ("dataset", "spec", "recipe"))
    same_steps = next(name for name in ("plain", "plain, more steps") if RECIPES[name][1] == RECIPES[recipe][1])
    clean, plain = records.get((dataset, "clean", same_steps)), records.get((dataset, spec, "plain"))
    if spec == "clean" or recipe == "plain" or clean is None or plain is None:
        return "–"
    reached, low, high = (each["iou"]["implied"] for each in (record, plain, clean))
    return "–" if high - low < 0.005 else f"{(reached - low) / (high - low):.0%}"


def tables(records: list[Record]) -> Tables:
    """All trials in one table."""
    known = {tuple(record["cell"][name] for name in ("dataset", "spec", "recipe")): record for record in records}
    rows = [
        [
            *cell,
            *(f"{record['iou'][name]:.3f}" for name in ("half", "implied", "validation")),
            f"{record['oracle_iou']:.3f}",
            f"{record['auc']:.3f}",
            gap_closed(record, known),
        ]
        for cell, record in known.items()
    ]
    return {"noise_costs": markdown(COLUMNS, rows)}


STUDY = Study(
    name="noise_costs", cells=make_cells(), trial=run_trial, seconds=30, tables=tables, page="docs/results/noise.md"
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
