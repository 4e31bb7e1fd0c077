"""What a pilot adds to the IoU that the audit predicts: a tenth of the training before it, on the labels of people.

The trials of ``human_labels.py`` once more, of which the audit and the IoU that training reached are taken: the labels
are written, half of the known clean images left out, and the pilot of ``audit_labels.py --pilot`` trained. The
constants of the fitted curve were fixed on the simulated sets.

    python benchmarks/audit/human_labels.py
    python benchmarks/audit/pilots.py
    python benchmarks/audit/pilots.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.audit import human_labels
from benchmarks.audit.human_labels import BATCH, CROP, SEED, TRAIN_IMAGES, WIDTH, known_clean, make_labels
from benchmarks.grid import Record, Study, Tables, finished, markdown, run_study
from benchmarks.trials import chosen_samples
from datasets.catalog import prepare_dataset
from datasets.image_io import write_label
from utils.cli import run_command


def run_trial(dataset: str, kind: str, steps: int) -> dict[str, Any]:
    """(Steps, IoU on the images left out) during the pilot of a training of ``steps`` steps."""
    from evaluation.label_audit.pilot import SHARE, split_for_pilot
    from training.budget.pilot import run_pilot

    prepare_dataset(dataset)
    clean = chosen_samples(dataset, "train_gt", TRAIN_IMAGES)
    given = {"dataset": dataset, "width": WIDTH, "crop": CROP, "batch_size": BATCH, "seed": SEED, "workers": 0}
    with tempfile.TemporaryDirectory() as folder:
        samples = [replace(sample, label=Path(folder) / f"{place}.png") for place, sample in enumerate(clean)]
        for sample, label in zip(samples, make_labels(kind, clean)[2], strict=True):
            write_label(sample.require_label(), label)
        references = [sample if place in known_clean(len(clean)) else None for place, sample in enumerate(clean)]
        train, held_out = split_for_pilot(samples, references, SEED)
        points = run_pilot(train, held_out, round(SHARE * steps), False, given=given)
    return {"points": points}


def tables(records: list[Record]) -> Tables:
    """Predicted IoU before and after the pilot beside the reached one, and how far they lie off, by group of sets."""
    from evaluation.label_audit.pilot import sharpened
    from evaluation.label_audit.predicted_iou import PredictedIoU

    rows, groups = [], {"simulated": [], "real": []}
    for record in records:
        cell = record["cell"]
        (trained,) = finished([cell], human_labels.STUDY.results)
        said, reached = trained["audit"], max(trained["measured"]["iou"])
        if (said["offset"] or 0) < 0:  # labels too narrow, of which audit_labels.py makes no pilot
            continue
        value, share = said["predicted_iou"], said["relative_iou"]
        alone = PredictedIoU(value, said["predicted_iou_low"], said["predicted_iou_high"], share, value / share)
        after = sharpened(alone, record["points"], cell["steps"])
        groups["simulated" if cell["dataset"].endswith("_sim") else "real"].append(
            [[each.value - reached, each.low <= reached <= each.high, each.high - each.low] for each in (alone, after)]
        )
        shown = [f"{each.value:.2f} ({each.low:.2f}–{each.high:.2f})" for each in (alone, after)]
        reached_by_pilot = f"{record['points'][-1][1]:.2f}"
        rows.append([f"{cell['dataset']} {cell['kind']}", shown[0], reached_by_pilot, shown[1], f"{reached:.3f}"])
    summary = []
    for group, found in groups.items():
        for place, name in enumerate(("audit", "with pilot") if found else ()):
            error, inside, width = np.array([both[place] for both in found], float).T
            figures = [f"{np.sqrt(np.mean(error**2)):.3f}", f"{inside.mean():.0%}", f"{width.mean():.2f}"]
            summary.append([group, name, str(len(found)), *figures])
    header = ["labels", "predicted", "pilot's IoU", "with pilot", "reached"]
    columns = ["sets", "prediction", "cells", "RMS", "in 90 % interval", "width of the interval"]
    return {"pilots": markdown(header, rows), "pilots summary": markdown(columns, summary)}


STUDY = Study(
    name="pilots",
    cells=human_labels.STUDY.cells,
    trial=run_trial,
    seconds=15,
    tables=tables,
    page="docs/results/audit.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
