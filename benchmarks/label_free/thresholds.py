"""Rules for the threshold of a label-free run, on validation images: Dice at each beside the best on their labels.

Sets with an SNR are simulated ones made dimmer; a supervised run of equal steps is put beside those.

    python benchmarks/label_free/thresholds.py
    python benchmarks/label_free/thresholds.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import shutil
from typing import Any

import numpy as np

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.label_free.first_labels import simulated_pairs, write_pairs
from benchmarks.trials import RECORDED, part_of_list, predict, train
from utils.cli import run_command
from utils.run_folder import LOG_ROOT

DATASETS = ("er_sim", "mito_sim", "nuc_sim", "er_ernet")
SEEDS = (0, 1, 2)
DIM = ("er_sim", "mito_sim", "nuc_sim")
IMAGES = {"train_gt": 60, "val": 20}  # at most
TRAINING = {"width": 8, "crop": 128, "batch_size": 8, "epochs": 5, "steps": 150}
RULES = ("own masks", "first labels", "0.5", "oracle")


def make_cells() -> list[dict[str, Any]]:
    """All sets seed by seed, then the dim ones with and without labels."""
    plain = [{"dataset": name, "snr": None, "method": "igtt", "seed": seed} for seed in SEEDS for name in DATASETS]
    dim = [
        {"dataset": name, "snr": snr, "method": method, "seed": 0}
        for snr in (2, 4)
        for name in DIM
        for method in ("igtt", "supervised")
    ]
    return plain + dim


def make_list(dataset: str, snr: int | None, name: str) -> Path:
    """A list of evenly spread images of a set, or of as many that are simulated at an SNR."""
    if snr is None:
        return part_of_list(dataset, name, IMAGES[name], "thresholds")
    first = 0 if name == "train_gt" else IMAGES["train_gt"]
    pairs = simulated_pairs(dataset, snr, first=first, count=IMAGES[name])
    return write_pairs(pairs, LOG_ROOT / "thresholds" / f"{dataset}_snr{snr}", name)


def run_trial(dataset: str, snr: int | None, method: str, seed: int) -> dict[str, Any]:
    """Train, and score the validation images at every rule's threshold."""
    from evaluation.pages.evaluate import evaluate_maps

    lists = {name: make_list(dataset, snr, name) for name in IMAGES}
    given = {"train_list": str(lists["train_gt"]), "val_list": str(lists["val"]), "seed": seed, **TRAINING}
    run = train(dataset, f"thresholds_{method}", **given, **({"igtt": "best"} if method == "igtt" else RECORDED))
    folder = predict(run, "--data_list", str(lists["val"]))
    own = evaluate_maps(folder, report=False)
    thresholds = {"run": own["threshold"], "0.5": 0.5, "oracle": own["oracle_threshold"]}
    if method == "igtt":
        thresholds |= agreeing_thresholds(run, lists["train_gt"])
    dice = {
        rule: float(evaluate_maps(folder, report=False, threshold=threshold)["pooled"]["f1"])
        for rule, threshold in thresholds.items()
    }
    shutil.rmtree(run)
    return {"dice": dice, "thresholds": thresholds}


def agreeing_thresholds(run: Path, train_list: Path) -> dict[str, float]:
    """Where scores of training images agree best with the masks chosen from them, and with those of the beginning."""
    import torch

    from datasets.image_io import read_image, read_scores
    from datasets.lists import read_list
    from evaluation.classical.choice import choose_vote
    from evaluation.classical.methods import orient, resolve_foreground
    from evaluation.scores import best_threshold, score_histogram
    from training.label_free.masks import bce_mask
    from utils.files import read_json

    folder = predict(run, "--data_list", str(train_list))
    maps = read_json(folder / "predictions.json")["maps"]
    samples = read_list(train_list)
    images = [read_image(sample.image) for sample in samples]
    chosen, direction = choose_vote(images), resolve_foreground("auto", images)
    histograms = {"own masks": 0, "first labels": 0}
    for sample, image in zip(samples, images, strict=True):
        scores = read_scores(folder / maps[sample.image_id])
        masks = {
            "own masks": bce_mask(torch.from_numpy(scores)[None, None])[0, 0].numpy(),
            "first labels": chosen(orient(image, direction)) >= 0.5,
        }
        for rule, mask in masks.items():
            histograms[rule] += score_histogram(scores, np.uint8(mask))
    return {rule: best_threshold(histogram)[0] for rule, histogram in histograms.items()}


def tables(records: list[Record]) -> Tables:
    """Dice and threshold of every rule, run by run; Dice of dim sets beside supervision."""
    plain = [record for record in records if record["cell"]["snr"] is None]
    rows = [
        [
            f"`{record['cell']['dataset']}`",
            str(record["cell"]["seed"]),
            *(f"{record['dice'][rule]:.3f} (at {record['thresholds'][rule]:.2f})" for rule in RULES),
        ]
        for record in plain
    ]
    names = dict.fromkeys(record["cell"]["dataset"] for record in plain)
    of_set = {name: [record["dice"] for record in plain if record["cell"]["dataset"] == name] for name in names}
    means = [np.mean([np.mean([dice[rule] for dice in found]) for found in of_set.values()]) for rule in RULES]
    rows.append(["mean of the sets", "", *(f"{value:.3f}" for value in means)])
    made = {"label-free thresholds": markdown(["set", "seed", *RULES], rows)}
    dim = {
        (record["cell"]["dataset"], record["cell"]["snr"], record["cell"]["method"]): record["dice"]
        for record in records
        if record["cell"]["snr"] is not None
    }
    pairs = [key[:2] for key in dim if key[2] == "igtt" and (*key[:2], "supervised") in dim]
    compared = []
    for name, snr in pairs:
        free, taught = dim[name, snr, "igtt"]["run"], dim[name, snr, "supervised"]["run"]
        compared.append([f"`{name}`", str(snr), f"{free:.3f}", f"{taught:.3f}", f"{free / taught:.0%}"])
    header = ["set", "SNR", "`--igtt`", "supervised", "share"]
    return {**made, "label-free, dim sets": markdown(header, compared)} if compared else made


STUDY = Study(
    name="label_free_thresholds",
    cells=make_cells(),
    trial=run_trial,
    seconds=60,
    tables=tables,
    page="docs/results/label_free.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
