"""What is lost by thresholds that few images choose: never, once they gain a standard error, or always the best one.

A trial trains on simulated labels of a kind and draws few images again and again, which choose a threshold by each
rule; the loss is that against the best threshold on all other images. A training begins with the threshold that the
audit implies where labels were audited, else with 0.5. The rule was chosen by the simulated sets, before the real ones
were looked at.

    python benchmarks/audit/thresholds.py
    python benchmarks/audit/thresholds.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import itertools
import shutil
import tempfile
from typing import Any

import numpy as np

from benchmarks.audit import human_labels
from benchmarks.audit.human_labels import STEPS
from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import chosen_samples
from datasets.catalog import prepare_dataset
from datasets.image_io import read_image, read_label
from utils.cli import run_command

SETS = ("er_sim", "mito_sim", "nuc_sim")
KINDS = ("clean", "sample:0.1", "dilate:5", "polygon:3", "bright")
REAL = [("nuc", kind) for kind in KINDS]
REAL += [("bubil_cells", kind) for kind in ("clean", "labels_experts_union", "labels_crowd")]
COUNTS = (4, 6, 10)  # images that choose
DRAWS, IMAGES = 20, 60  # at most, of validation and test list each


def run_trial(dataset: str, kind: str, steps: int) -> dict[str, Any]:
    """The mean and the largest loss in IoU by prior threshold, number of images and rule."""
    prepare_dataset(dataset)
    implied = human_labels.audit(dataset, kind, steps)["threshold"]
    samples = [*chosen_samples(dataset, "val", IMAGES), *chosen_samples(dataset, "test", IMAGES)]
    with tempfile.TemporaryDirectory() as folder:
        run = human_labels.train_kind(Path(folder), dataset, kind, f"thresholds_{kind.replace(':', '-')}", steps)
    pairs = ((read_image(sample.image), read_label(sample.require_label())) for sample in samples)
    histograms = np.stack(list(human_labels.test_histograms(run, pairs)))
    shutil.rmtree(run)
    priors = {"0.5": 0.5, "implied": 0.5 if implied is None else implied}
    return {"losses": {name: losses(histograms, prior) for name, prior in priors.items()}, "implied": implied}


def losses(histograms: np.ndarray, prior: float) -> dict[str, dict[str, list[float]]]:
    """Number of images → rule → the mean and the largest loss in IoU.

    Args:
        histograms: of scores of images, (n, 2, BINS).
    """
    from evaluation.scores import best_threshold, counts_at, iou
    from evaluation.scores.validation import choose_threshold

    rng = np.random.default_rng(0)
    found = {str(count): {"prior": [], "chosen": [], "best": []} for count in COUNTS}
    for count in COUNTS:
        for _ in range(DRAWS):
            order = rng.permutation(len(histograms))
            few, rest = histograms[order[:count]], histograms[order[count:]].sum(0)
            highest = iou(counts_at(rest, best_threshold(rest)[0]))
            rules = {"prior": prior, "chosen": choose_threshold(few, prior)[0], "best": best_threshold(few.sum(0))[0]}
            for rule, threshold in rules.items():
                found[str(count)][rule].append(float(highest - iou(counts_at(rest, threshold))))
    return {
        count: {rule: [float(np.mean(lost)), max(lost)] for rule, lost in rules.items()}
        for count, rules in found.items()
    }


def tables(records: list[Record]) -> Tables:
    """A row for each group of sets and labels, prior and number of images: what each rule loses, mean and most."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        cell = record["cell"]
        sets = "simulated" if cell["dataset"].endswith("_sim") else "real"
        groups.setdefault(f"{sets}, {'clean' if cell['kind'] == 'clean' else 'wrong'}", []).append(record)
    rows = []
    for (name, found), prior, count in itertools.product(groups.items(), ("0.5", "implied"), map(str, COUNTS)):
        figures = np.array([list(record["losses"][prior][count].values()) for record in found])  # (cells, rules, 2)
        mean, worst = figures[..., 0].mean(0), figures[..., 1].max(0)
        shown = [f"{a:.4f} ({b:.3f})" for a, b in zip(mean, worst, strict=True)]
        rows.append([name, str(len(found)), prior, count, *shown])
    header = ["labels", "cells", "prior", "images", "prior kept", "chosen by the rule", "always the best of these"]
    return {"thresholds": markdown(header, rows)}


STUDY = Study(
    name="thresholds",
    cells=[
        {"dataset": name, "kind": kind, "steps": STEPS}
        for name, kind in [*((name, kind) for kind in KINDS for name in SETS), *REAL]
    ],
    trial=run_trial,
    seconds=120,
    tables=tables,
    page="docs/results/audit.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
