"""``--recipe auto`` against plain training, at equal steps, where the clean labels of ten images are known.

The labels of a trial lie on disk without a manifest, in a data set of their own that has neither other clean labels nor
a validation list. Both recipes know the ten clean labels and train on them. ``noise`` is a kind of labels that
`benchmarks/audit/human_labels.py` makes: a spec, a way people err, or a folder of other people's labels.

    python benchmarks/audit/recipe.py
    python benchmarks/audit/recipe.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import math
import shutil
from typing import Any

from benchmarks.audit.human_labels import KINDS, make_labels
from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import part_of_list, predict, train
from utils.cli import run_command
from utils.files import read_json
from utils.run_folder import LOG_ROOT

SPECS = (
    "clean",
    "flip:0.3",
    "sample:0.1",
    "dilate:5",
    "erode:5",
    "offset:1.5",
    "move:3,3",
    "skeleton",
    "missing:0.3",
    "polygon:4",
    "shift:3",
    "wobble:3,8",
    "merge:6",
    *KINDS,
)
HUMAN = {"bubil_cells": ("clean", "labels_experts_union")}
RECIPES = ("auto", "plain")
TRAIN_IMAGES, TEST_IMAGES, CLEAN_IMAGES = 120, 40, 10
BATCH, EPOCHS = 8, 4
COLUMNS = ("labels", "repair", "loss", "auto", "plain", "clean", "auto / clean", "plain / clean")


def labels_on_disk(dataset: str, noise: str) -> dict[str, str]:
    """Write what a trial is trained and tested on, without a trace of how it was made.

    Returns: the training, clean and test list, by the names of the options.
    """
    from datasets.image_io import write_label
    from datasets.label_noise import spec_folder_name
    from datasets.lists import read_list, write_list

    samples = read_list(part_of_list(dataset, "train_gt", TRAIN_IMAGES, "recipe"), say=lambda line: None)
    folder = LOG_ROOT / "recipe" / dataset / noise.replace(":", "-")
    rows = [(sample.image, folder / "labels" / f"{sample.image.stem}.png") for sample in samples]
    for (_, path), label in zip(rows, make_labels(noise, samples)[-1], strict=True):
        write_label(path, label)
    step = len(samples) // CLEAN_IMAGES
    clean = [(sample.image, sample.label) for sample in samples[::step][:CLEAN_IMAGES]]
    lists = LOG_ROOT.parent / "txt" / f"recipe_{dataset}"
    name = spec_folder_name(noise) if ":" in noise else noise
    write_list(lists / "train" / f"{name}.txt", rows)
    write_list(lists / "train" / "clean_images.txt", clean)
    return {"train_list": name, "clean_list": "clean_images"}


def run_trial(dataset: str, noise: str, recipe: str, width: int, steps: int, seed: int) -> dict[str, Any]:
    """Train on labels as they lie on disk, test."""
    from evaluation.pages.evaluate import evaluate_maps

    given = labels_on_disk(dataset, noise)
    run = train(
        f"recipe_{dataset}",
        f"{given['train_list']}_{recipe}_{seed}",
        recipe=recipe,
        audit=True,
        width=width,
        steps=steps,
        epochs=EPOCHS,
        batch_size=BATCH,
        checkpoint_every=EPOCHS,
        seed=seed,
        **given,
    )
    test_list = part_of_list(dataset, "test", TEST_IMAGES, "recipe")
    metrics = evaluate_maps(predict(run, "--data_list", str(test_list)), report=False)
    config = read_json(run / "config.json")
    shutil.rmtree(run)
    return {
        "iou": metrics["pooled"]["iou"],
        "oracle_iou": metrics["oracle"]["iou"],
        "threshold": metrics["threshold"],
        "decisions": config["decisions"],
        "label_repair": config["label_repair"],
        "loss": config["loss"],
    }


def tables(records: list[Record]) -> Tables:
    """A row for each kind of labels, IoU of the test set averaged over seeds."""
    found: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for record in records:
        cell = record["cell"]
        found.setdefault((cell["dataset"], cell["noise"]), {}).setdefault(cell["recipe"], []).append(record)
    return {f"recipe {name}": _table(name, found) for name in dict.fromkeys(dataset for dataset, _ in found)}


def _mean(records: list[Record]) -> float:
    return sum(record["iou"] for record in records) / len(records) if records else float("nan")


def _table(dataset: str, found: dict[tuple[str, str], dict[str, list[Record]]]) -> str:
    clean = _mean(found.get((dataset, "clean"), {}).get("plain", []))
    rows = []
    for (name, noise), recipes in found.items():
        if name != dataset:
            continue
        auto, plain = (_mean(recipes.get(recipe, [])) for recipe in RECIPES)
        chosen = recipes.get("auto", [{"label_repair": None, "loss": "–"}])[0]
        values = [_shown(value, ".3f") for value in (auto, plain, clean)]
        values += [_shown(value / clean, ".0%") for value in (auto, plain)]
        rows.append([noise, chosen["label_repair"] or "none", chosen["loss"], *values])
    return f"### {dataset}\n\n{markdown(COLUMNS, rows)}"


def _shown(value: float, form: str) -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"


CELLS = [(dataset, noise) for noise in SPECS for dataset in ("er_sim", "nuc")]
CELLS += [(dataset, noise) for dataset, kinds in HUMAN.items() for noise in kinds]
STUDY = Study(
    name="recipe",
    cells=[
        {"dataset": dataset, "noise": noise, "recipe": recipe, "width": 8, "steps": 200, "seed": 0}
        for dataset, noise in CELLS
        for recipe in RECIPES
    ],
    trial=run_trial,
    seconds=100,
    tables=tables,
    page="docs/results/recipe.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
