"""Training on seven paid workers' labels beside training on one expert's, tested on the expert's.

The arms share images, validation labels (the expert's, which choose threshold and outline alike for all), steps and
seeds, and differ by the training labels alone. IoU is paired image by image, averaged over seeds first.

    python benchmarks/audit/annotators.py
    python benchmarks/audit/annotators.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import csv
import shutil
from typing import Any

import numpy as np

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import RECORDED, predict, train
from datasets.lists import find_list, read_list, write_list
from evaluation.scores.bootstrap import bootstrap_mean
from utils.cli import run_command
from utils.run_folder import LOG_ROOT

DATASET = "bubil_cells"
WORKERS = [f"labels_crowd{number}" for number in range(1, 8)]
ARMS = {  # folders of the training labels, and how they become one
    "gold": (["labels"], "first"),
    "experts' majority": (["labels_experts_majority"], "first"),
    "workers, vote": (WORKERS, "vote"),
    "workers, repaired": (WORKERS, "repaired"),
}
BATCH, EPOCHS, CROP = 8, 4, 128


def training_list(folders: list[str], name: str) -> Path:
    """A list of the training images with labels of these folders beside the clean ones."""
    samples = read_list(find_list("train_gt", DATASET), say=lambda line: None)
    paths = [sample.require_label() for sample in samples]
    rows = [
        (sample.image, *(path.parents[1] / folder / path.name for folder in folders))
        for sample, path in zip(samples, paths, strict=True)
    ]
    target = LOG_ROOT / "annotators" / f"{name}.txt"
    write_list(target, rows)
    return target


def run_trial(arm: str, width: int, steps: int, seed: int) -> dict[str, Any]:
    """Train on the labels of an arm, predict and score the test images."""
    from evaluation.pages.evaluate import evaluate_maps

    folders, fusion = ARMS[arm]
    name = "".join(letter if letter.isalnum() else "_" for letter in arm)
    run = train(
        DATASET,
        f"annotators_{name}_{seed}",
        **RECORDED,
        train_list=str(training_list(folders, f"{name}_{seed}")),
        fusion=fusion,
        width=width,
        steps=steps,
        crop=CROP,
        epochs=EPOCHS,
        batch_size=BATCH,
        checkpoint_every=EPOCHS,
        seed=seed,
    )
    results = predict(run)
    metrics = evaluate_maps(results, report=False)
    with open(results / "per_image.csv", encoding="utf-8", newline="") as file:
        ious = [float(row["iou"]) for row in csv.DictReader(file)]
    shutil.rmtree(run)
    return {"iou": ious, "pooled": metrics["pooled"]["iou"], "threshold": metrics["threshold"]}


def tables(records: list[Record]) -> Tables:
    """A row for each arm: mean IoU over images, and its paired differences to both experts' arms."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for record in records:
        found.setdefault(record["cell"]["arm"], {})[record["cell"]["seed"]] = np.array(record["iou"])
    rows = []
    for arm, own in found.items():
        others = [found.get(name, {}) if name != arm else {} for name in ("gold", "experts' majority")]
        mean = np.mean([runs.mean() for runs in own.values()])
        rows.append([arm, str(len(own)), f"{mean:.3f}", *(_difference(own, other) for other in others)])
    header = ("training labels", "seeds", "IoU", "less gold's", "less the experts' majority's")
    return {"annotators": markdown(header, rows)}


def _difference(own: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> str:
    """Mean difference over images, each averaged over the seeds that both arms have."""
    seeds = own.keys() & other.keys()
    if not seeds:
        return "–"
    mean, low, high = bootstrap_mean(np.mean([own[seed] - other[seed] for seed in seeds], axis=0), limits=(-1.0, 1.0))
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


STUDY = Study(
    name="annotators",
    cells=[{"arm": arm, "width": 8, "steps": 150, "seed": seed} for seed in range(3) for arm in ARMS],
    trial=run_trial,
    seconds=150,
    tables=tables,
    page="docs/results/annotators.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
