"""Clean labels of simulated sets changed in one thing at a time: the IoU that the audit predicts, and a network's.

A network leaves a part of the gap to an IoU of 1 that the audit's stand-in has. Which part, and how much it differs
from set to set, ``evaluation.label_audit.predicted_iou`` states as GAP_LEFT and its interval; both were fixed here.

    python benchmarks/audit/clean_labels.py
    python benchmarks/audit/clean_labels.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import shutil
from typing import Any

import numpy as np

from benchmarks.audit.human_labels import (
    TEST_IMAGES,
    TRAIN_IMAGES,
    VAL_IMAGES,
    audit_with_few_clean,
    test_curve,
    train_on,
)
from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.label_free.first_labels import CHANGED, simulated_pairs, write_pairs
from utils.cli import run_command
from utils.run_folder import LOG_ROOT

SNRS, STEPS = (1, 2, 4), 240


def run_trial(dataset: str, snr: int) -> dict[str, Any]:
    """The audit's figures for clean labels of a few images, and the test images' IoU after training on all."""
    counts = {"train": TRAIN_IMAGES, "val": VAL_IMAGES, "test": TEST_IMAGES}
    drawn = simulated_pairs(dataset, snr, count=sum(counts.values()))
    folder = LOG_ROOT / "clean_labels" / f"{dataset.replace(', ', '_')}_{snr}"
    parts, first = {}, 0
    for name, count in counts.items():
        parts[name], first = drawn[first : first + count], first + count
        write_pairs(parts[name], folder, name)
    images, truths = ([pair[column] for pair in parts["train"]] for column in (0, 1))
    truths = [np.asarray(truth, np.uint8) for truth in truths]
    said = audit_with_few_clean(truths, truths, images, STEPS)
    run = train_on(folder, CHANGED[dataset][0], "clean_labels", STEPS)
    reached = max(test_curve(run, [(image, np.asarray(mask, np.uint8)) for image, mask in parts["test"]]))
    shutil.rmtree(run)
    shutil.rmtree(folder)
    names = ("predicted_iou", "predicted_iou_low", "predicted_iou_high", "verdict")
    return {"audit": {name: said[name] for name in names}, "iou": reached}


def tables(records: list[Record]) -> Tables:
    """A line a set, and how far predictions lie off."""
    rows, errors, inside = [], [], []
    for record in records:
        said, reached = record["audit"], record["iou"]
        low, high = said["predicted_iou_low"], said["predicted_iou_high"]
        errors.append(said["predicted_iou"] - reached)
        inside.append(low <= reached <= high)
        name, _, changed = record["cell"]["dataset"].partition(",")
        what = f"`{name}`{',' if changed else ''}{changed}"
        shown = f"{said['predicted_iou']:.2f} ({low:.2f}–{high:.2f})"
        rows.append([what, str(record["cell"]["snr"]), shown, f"{reached:.3f}"])
    summary = [[str(len(rows)), f"{np.sqrt(np.mean(np.square(errors))):.3f}", f"{np.mean(inside):.0%}"]]
    header = ["sets", "RMS predicted IoU", "in 90 % interval"]
    return {
        "clean_labels": markdown(["images", "SNR", "predicted", "reached"], rows),
        "clean_labels summary": markdown(header, summary),
    }


STUDY = Study(
    name="clean_labels",
    cells=[{"dataset": name, "snr": snr} for snr in SNRS for name in CHANGED],
    trial=run_trial,
    seconds=60,
    tables=tables,
    page="docs/results/audit.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
