"""Several classes through the commands: lists, noise that leaves few labels right, training, class maps, figures.

Nine tenths of the labels are flipped, past the (K − 1)/K = 2/3 beyond which the plain argmax names a wrong class:
what follows holds only if the noise is handed on from the labels' manifest to validation, checkpoint and inference.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.image_io import read_image, read_label, read_scores, write_image, write_label
from datasets.labels import IGNORE
from evaluation.scores import class_iou, confusion_matrix
from utils.files import read_json, read_jsonl
from utils.overlays import class_colors, show_classes

CLASSES, SIZE, SHARE = 3, 48, 0.9
NOISE = f"flip:{SHARE}"
COUNTS = {"train": 12, "val": 3, "test": 4}
FLIPPED = np.where(np.eye(CLASSES) > 0, 1 - SHARE, SHARE / (CLASSES - 1))


def draw_shapes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of grey disks (1) and bright squares (2) and its label, whose first rows count nowhere."""
    y, x = np.mgrid[:SIZE, :SIZE]
    label = np.zeros((SIZE, SIZE), np.uint8)
    for number in range(4):
        cy, cx = rng.uniform(8, SIZE - 8, 2)
        if number % 2:
            label[(y - cy) ** 2 + (x - cx) ** 2 < 64] = 1
        else:
            label[np.maximum(abs(y - cy), abs(x - cx)) < 7] = 2
    image = np.clip(np.array([50, 120, 190])[label] + rng.normal(0, 10, label.shape), 0, 255).astype(np.uint8)
    label[:3] = IGNORE
    return image, label


@pytest.fixture(scope="module")
def said(workspace: Path) -> dict[str, str]:
    """What every command of the path printed, in their order; each must have succeeded."""
    rng = np.random.default_rng(3)
    for split, count in COUNTS.items():
        for number in range(count):
            image, label = draw_shapes(rng)
            write_image(workspace / f"datasets/shapes/{split}/images/{number}.png", image)
            write_label(workspace / f"datasets/shapes/{split}/labels/{number}.png", label, CLASSES)
    small = "--preset quick --device cpu --width 8 --crop 48 --batch_size 4 --epochs 8 --repeat 3 --seed 1"
    small += " --network lightunet"
    commands = {
        "lists": "datasets/make_lists.py --dataset shapes",
        "noise": f"datasets/make_noisy_labels.py --dataset shapes --num_classes 3 --make_default --label_noise {NOISE}",
        "training": f"main.py --dataset shapes --num_classes 3 --class_weights frequency --run_name path {small}",
        "inference": "evaluation/inference.py --train_dir shapes/path --overlays 1 --masks --save_scores",
        "metrics": "evaluation/metrics.py --prd_dir RESULTS/pred",
        "one class more": "evaluation/metrics.py --prd_dir RESULTS --num_classes 4 --out four --no_report",
    }
    answers = {}
    for name, command in commands.items():
        results = "".join(map(str, (workspace / "train_log/shapes/path/results").glob("*")))
        arguments = [sys.executable, *command.replace("RESULTS", results).split()]
        answer = subprocess.run(arguments, cwd=workspace, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        answers[name] = answer.stdout
    return answers


@pytest.fixture(scope="module")
def run(said, workspace: Path) -> Path:
    return workspace / "train_log/shapes/path"


@pytest.fixture(scope="module")
def results(run: Path) -> Path:
    (folder,) = (run / "results").iterdir()
    return folder


def confusion_of(results: Path, prediction_of) -> np.ndarray:
    """Confusion of the test images, counted here from the files."""
    return sum(confusion_matrix(prediction_of(path), label_of(path), CLASSES) for path in (results / "pred").iterdir())


def label_of(map_path: Path) -> np.ndarray:
    return read_label(map_path.parents[6] / f"datasets/shapes/test/labels/{map_path.stem}.png", CLASSES)


def test_every_command_names_the_next(said):
    assert "next: python main.py --dataset shapes --num_classes 3" in said["lists"]
    assert "python main.py --dataset shapes --num_classes 3 --train_list" in said["noise"]
    assert "evaluation/inference.py" in said["training"] and "evaluation/metrics.py" in said["inference"]


def test_noisy_labels_keep_what_counts_nowhere_and_state_their_matrix(said, workspace: Path):
    folder = workspace / f"datasets/shapes/train/labels_flip-{SHARE}"
    np.testing.assert_allclose(read_json(folder / "manifest.json")["transition_matrix"]["theory"], FLIPPED)
    clean, noisy = (read_label(path / "0.png", CLASSES) for path in (folder.parent / "labels", folder))
    assert np.array_equal(clean == IGNORE, noisy == IGNORE)
    counts = confusion_matrix(noisy, clean, CLASSES)
    assert np.array_equal(np.diag(counts), counts.sum(1) - np.floor(SHARE * counts.sum(1) + 0.5))


def test_training_says_what_its_labels_are(said):
    assert f"train_noisyLabel.txt, whose labels carry simulated noise, {NOISE}\n" in said["training"]
    assert "taken as clean; if not: --val_labels noisy" in said["training"]


def test_training_knows_the_noise_and_records_every_class(run: Path, said):
    config = read_json(run / "config.json")
    weights = np.array(config["decode_matrix"]) / FLIPPED  # those of the loss are taken out with the noise
    np.testing.assert_allclose(weights, np.tile(weights[0], (CLASSES, 1)))
    assert config["train_list"].endswith("train_noisyLabel.txt") and config["loss"] == "ce"
    assert config["class_weights"] == ["frequency"]
    assert "verdict: inverted" in said["training"]
    records = read_jsonl(run / "metrics.jsonl")
    for record in records:
        per_class = [record[f"val/iou_class_{index}"] for index in range(CLASSES)]
        assert record["val/miou"] == pytest.approx(np.mean([value for value in per_class if value is not None]))
    assert max(record["val/miou"] for record in records) > 0.6


def test_class_maps_are_the_argmax_of_scores_that_undo_the_noise(results: Path):
    inverse = np.linalg.inv(np.array(read_json(results.parents[1] / "config.json")["decode_matrix"]))
    for path in (results / "pred").iterdir():
        classes, scores = read_image(path), read_scores(results / "scores" / path.name)
        assert classes.dtype == np.uint8 and scores.shape == (CLASSES, SIZE, SIZE)
        decoded = np.einsum("jhw,jk->khw", scores, inverse).argmax(0)
        assert (classes == decoded).mean() > 0.999  # but for rounding
        assert np.array_equal(read_label(results / "masks" / f"{path.stem}.png", CLASSES), classes)
    plain = confusion_of(results, lambda path: read_scores(results / "scores" / path.name).argmax(0))
    assert class_iou(plain).mean() < 0.3 < 0.6 < class_iou(confusion_of(results, read_image)).mean()


def test_figures_are_those_of_the_confusion_matrix(results: Path, said):
    figures, matrix = read_json(results / "metrics.json"), confusion_of(results, read_image)
    assert np.array_equal(figures["confusion"], matrix)
    assert matrix.sum() == COUNTS["test"] * SIZE * (SIZE - 3)  # ignored rows count nowhere
    np.testing.assert_allclose([row["iou"] for row in figures["classes"]], class_iou(matrix))
    hits = np.diag(matrix)
    f1 = 2 * hits / (matrix.sum(0) + matrix.sum(1))
    np.testing.assert_allclose([row["f1"] for row in figures["classes"]], f1)
    assert figures["pooled"]["iou"] == pytest.approx(class_iou(matrix).mean())
    assert figures["pooled"]["f1"] == pytest.approx(f1.mean())
    assert figures["pooled"]["accuracy"] == pytest.approx(hits.sum() / matrix.sum())
    assert figures["threshold"] is None and figures["oracle"] is None
    table = said["metrics"]
    for row in figures["classes"]:
        assert f"class {row['class']}" in table and f"{row['iou']:.3f}" in table
    rows = list(csv.DictReader((results / "per_image.csv").read_text().splitlines()))
    assert np.mean([float(row["iou"]) for row in rows]) == pytest.approx(figures["per_image_mean"]["iou"]["mean"], 1e-4)


def test_a_class_that_is_nowhere_is_null_and_left_out_of_the_mean(results: Path, workspace: Path, said):
    three, four = read_json(results / "metrics.json"), read_json(workspace / "four" / "metrics.json")
    absent = four["classes"][3]
    assert absent["iou"] is None and absent["f1"] is None and absent["pixels"] == 0
    assert four["pooled"]["iou"] == three["pooled"]["iou"]
    assert "class 3   IoU –" in said["one class more"]


def test_overlays_show_the_palette(results: Path):
    (path,) = (results / "overlays").glob("[0-9]*.png")
    view = read_image(path, channels=3)
    left = 2 * (SIZE + 4)  # image | label | classes | error, 4 white pixels between
    assert np.array_equal(view[:, left : left + SIZE], show_classes(read_image(results / "pred/0.tif"), CLASSES))
    label = view[:, SIZE + 4 : 2 * SIZE + 4]
    assert set(map(tuple, label[3:].reshape(-1, 3))) <= set(map(tuple, class_colors(CLASSES)))
    assert (label[:3] == label[0, 0]).all() and tuple(label[0, 0]) not in set(map(tuple, class_colors(CLASSES)))
    report = (results / "report.html").read_text()
    assert report.count("<td>") > 0 and "mean IoU, pooled" in report and "Confusion" in report


def test_tensorboard_shows_the_decoded_classes(run: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"train/loss", "val/miou", *(f"val/iou_class_{index}" for index in range(CLASSES))} <= set(
        events.Tags()["scalars"]
    )
    assert set(events.Tags()["images"]) == {"train", "val"}
