"""Scores against the truth as metrics.py states them from noisy test labels, beside the true ones.

A trial makes labels of a kind for training and test images, fits a stand-in for a network (see
``evaluation/label_audit/pixel_classifier.py``) to the training labels, or to the clean ones, audits the labels by ten
images, and hides the clean test labels: IoU and interval are stated from the noisy ones and held against the truth. The
constants were fixed on the simulated sets before a real set was looked at.

    python benchmarks/audit/true_scores.py
    python benchmarks/audit/true_scores.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

from typing import Any

import numpy as np

from benchmarks.audit.human_labels import SIMULATED_SPECS, make_labels
from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import chosen_samples, pooled_iou
from datasets.catalog import prepare_dataset
from datasets.labels import IGNORE
from evaluation.label_audit import audit_labels
from evaluation.label_audit.error_table import LabelErrors, count_by_distance
from evaluation.label_audit.pixel_classifier import PixelLearner, image_features, sample_positions
from evaluation.label_audit.true_scores import estimate_true_scores, refusal
from utils.cli import run_command
from utils.files import plain

TRAIN_IMAGES, TEST_IMAGES, AUDITED, SIDE, PIXELS = 30, 12, 10, 128, 1500
SIMULATED = ("er_sim", "mito_sim", "nuc_sim")
REAL = [
    *(("bubil_cells", f"labels_{name}") for name in ("crowd", "crowd_majority", "expert", "experts_union")),
    *((name, "labels_2nd_observer") for name in ("stare", "vessel")),
]


def stand_in(kind: str, taught: str, dataset: str) -> tuple[list[np.ndarray], ...]:
    """What a network would make of test images.

    Args:
        taught: ``same``: it learned labels of the kind; ``clean``: clean ones.
    Returns: (scores, clean labels, labels of test images, images, clean labels, labels of training images).
    """
    train, test = (make_labels(kind, chosen_samples(dataset, *part)) for part in SPLITS)
    train, test = ([[item[:SIDE, :SIDE] for item in part] for part in split] for split in (train, test))
    rng = np.random.default_rng(0)
    places = [sample_positions(image.shape[:2], PIXELS, rng) for image in train[0]]
    everywhere = [np.divmod(np.arange(image.shape[0] * image.shape[1]), image.shape[1]) for image in test[0]]
    learner = PixelLearner([*image_features(train[0], places), *image_features(test[0], everywhere)])
    labels = np.concatenate([label[at] for label, at in zip(train[2 if taught == "same" else 1], places, strict=True)])
    unknown = np.zeros(sum(len(rows) for rows, _ in everywhere))
    weights = np.concatenate([labels != IGNORE, unknown])
    scores = learner.scores(np.concatenate([labels == 1, unknown]).astype(np.float32), weights)[len(labels) :]
    ends = np.cumsum([label.size for label in test[1]])[:-1]
    maps = [part.reshape(truth.shape) for part, truth in zip(np.split(scores, ends), test[1], strict=True)]
    return maps, test[1], test[2], *train


SPLITS = (("train_gt", TRAIN_IMAGES), ("test", TEST_IMAGES))


def run_trial(dataset: str, kind: str, taught: str) -> dict[str, Any]:
    """State the IoU of two thresholds, the best one and one that marks 8 % of the pixels more; hold it to the truth."""
    prepare_dataset(dataset)
    maps, truths, labels, images, clean, noisy = stand_in(kind, taught, dataset)
    step = len(clean) // AUDITED
    audit = audit_labels(noisy[::step][:AUDITED], clean[::step][:AUDITED], images[::step][:AUDITED]).record()
    every = np.concatenate([item.ravel() for item in maps])
    levels = np.quantile(every, np.linspace(0.05, 0.98, 40))
    best = max(levels, key=lambda level: pooled_iou([(item >= level).astype(np.uint8) for item in maps], truths))
    more = np.quantile(every, max(0.0, (every < best).mean() - 0.08))
    stated = []
    for threshold in (best, more):
        masks = [(item >= threshold).astype(np.uint8) for item in maps]
        found = {"true": pooled_iou(masks, truths), "noisy": pooled_iou(masks, labels), "refused": refusal(audit)}
        if not found["refused"]:
            errors = LabelErrors.from_json(plain(audit["errors_by_distance"]))
            pairs = zip(masks, labels, strict=True)
            table = np.stack([count_by_distance(mask, errors.repaired(label)) for mask, label in pairs])
            scores = estimate_true_scores(errors, table)
            found |= {"refused": scores.reason, "iou": scores.iou, "low": scores.iou_bounds[0]}
            found |= {"high": scores.iou_bounds[1]}
        stated.append(found)
    return {"verdict": audit["verdict"], "repair": audit["repair"], "stated": stated}


def tables(records: list[Record]) -> Tables:
    """A row a set and kind with the scores at the best threshold, and how far they lie apart, a row a group."""
    rows, groups = [], {"simulated": [], "real": []}
    for record in records:
        cell = record["cell"]
        groups["simulated" if cell["dataset"] in SIMULATED else "real"] += record["stated"]
        first = record["stated"][0]
        said = f"{first['iou']:.3f} ({first['low']:.3f} to {first['high']:.3f})" if not first["refused"] else "–"
        names = [cell["dataset"], cell["kind"], cell["taught"], record["verdict"]]
        rows.append([*names, f"{first['noisy']:.3f}", said, f"{first['true']:.3f}"])
    header = ("set", "labels", "taught", "verdict", "IoU with the labels", "stated (90 %)", "true")
    summary = [[name, *_agreement(found)] for name, found in groups.items() if found]
    return {
        "true_scores": markdown(header, rows),
        "true_scores summary": markdown(
            (
                "sets",
                "stated",
                "refused",
                "mean difference to the truth",
                "within .03",
                "in the interval",
                "labels' own",
            ),
            summary,
        ),
    }


def _agreement(found: list[dict[str, Any]]) -> list[str]:
    told = [each for each in found if not each["refused"]]
    if not told:
        return ["0", str(len(found)), "–", "–", "–", "–"]
    apart = np.array([abs(each["iou"] - each["true"]) for each in told])
    held = np.mean([each["low"] <= each["true"] <= each["high"] for each in told])
    own = np.mean([abs(each["noisy"] - each["true"]) for each in told])
    shares = [f"{np.mean(apart <= 0.03):.0%}", f"{held:.0%}"]
    return [str(len(told)), str(len(found) - len(told)), f"{apart.mean():.3f}", *shares, f"{own:.3f}"]


# Windows lie in the left half, where labels of the kind ``half`` are clean.
CELLS = [(name, kind) for kind in SIMULATED_SPECS if kind != "half" for name in SIMULATED] + REAL
STUDY = Study(
    name="true_scores",
    cells=[{"dataset": name, "kind": kind, "taught": "clean" if kind == "clean" else "same"} for name, kind in CELLS],
    trial=run_trial,
    seconds=20,
    tables=tables,
    page="docs/results/true_scores.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
