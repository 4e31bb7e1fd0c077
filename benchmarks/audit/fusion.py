"""Seven workers' labels made into one, held against the expert's labels, which no fusion sees unless it says so.

``clean`` says which images' clean labels the repairs of annotators are chosen by: none, or those of the training list,
scored on the others. ``rank`` is the correlation over annotators of their IoU with the consensus of the others and
with the clean labels.

    python benchmarks/audit/fusion.py
    python benchmarks/audit/fusion.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

from typing import Any

import numpy as np

from benchmarks.audit.annotators import WORKERS
from benchmarks.grid import Record, Study, Tables, markdown, run_study
from datasets.image_io import read_label
from datasets.label_fusion import Fusion, label_overlap
from datasets.lists import find_list, read_list
from evaluation.label_audit.annotators import judge_annotators
from evaluation.scores.bootstrap import bootstrap_mean
from utils.cli import run_command

Rows = list[dict[str, np.ndarray]]


def read_workers(dataset: str, name: str) -> tuple[Rows, list[np.ndarray]]:
    """The workers' labels of every image of a list, by folder, and the clean labels."""
    paths = [sample.require_label() for sample in read_list(find_list(name, dataset), say=lambda line: None)]
    rows = [{worker: read_label(path.parents[1] / worker / path.name) for worker in WORKERS} for path in paths]
    return rows, [read_label(path) for path in paths]


def run_trial(dataset: str, fusion: str, clean: str) -> dict[str, Any]:
    """IoU of the fused labels with the clean ones, image by image."""
    parts = {name: read_workers(dataset, name) for name in ("train_gt", "val", "test")}
    scored = [part for name, part in parts.items() if clean == "none" or name == "test"]
    rows, truths = ([item for part in scored for item in part[side]] for side in (0, 1))
    if fusion == "rank":
        found = [{one.name: one.iou for one in judge_annotators(rows, known)} for known in (truths, None)]
        return {"rank": float(np.corrcoef([[each[name] for name in WORKERS] for each in found])[0, 1])}
    if fusion == "single":
        return {
            "iou": [np.mean([label_overlap(row[w], t) for w in WORKERS]) for row, t in zip(rows, truths, strict=True)]
        }
    repairs: dict[str, str | None] = {}
    if fusion == "repaired":
        judged = judge_annotators(*parts["train_gt"]) if clean == "train_gt" else judge_annotators(rows)
        repairs = {one.name: one.repair for one in judged}
    fuse = Fusion(fusion, tuple(repairs.get(worker) for worker in WORKERS))
    fused = [fuse.majority(list(row.values())) for row in rows]
    return {"iou": [label_overlap(*pair) for pair in zip(fused, truths, strict=True)], "repairs": repairs}


def tables(records: list[Record]) -> Tables:
    """A row for each fusion, with its paired difference to the vote on the same images."""
    ious = {(r["cell"]["fusion"], r["cell"]["clean"]): np.array(r["iou"]) for r in records if "iou" in r}
    rows = []
    for (fusion, clean), own in ious.items():
        vote = ious.get(("vote", clean))
        difference = "–"
        if vote is not None and fusion != "vote":
            mean, low, high = bootstrap_mean(own - vote, limits=(-1.0, 1.0))
            difference = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
        images = f"{len(own)}" if clean == "none" else f"{len(own)} of the test list, clean labels of the training list"
        rows.append([NAMES.get(fusion, f"`{fusion}`"), images, f"{own.mean():.4f}", difference])
    ranks = [f"{r['rank']:.3f}" for r in records if "rank" in r]
    said = "Correlation over the workers of their IoU with the consensus of the others and with the clean labels"
    note = f"\n\n{said}: r = {ranks[0]}." if ranks else ""
    return {"fusion": markdown(("seven workers", "images", "IoU", "less the vote's"), rows) + note}


NAMES = {"single": "one worker, mean of all"}
CELLS = [("single", "none"), ("vote", "none"), ("weighted", "none"), ("repaired", "none"), ("staple", "none")]
CELLS += [("vote", "train_gt"), ("repaired", "train_gt"), ("rank", "none")]
STUDY = Study(
    name="fusion",
    cells=[{"dataset": "bubil_cells", "fusion": fusion, "clean": clean} for fusion, clean in CELLS],
    trial=run_trial,
    seconds=30,
    tables=tables,
    page="docs/results/annotators.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
