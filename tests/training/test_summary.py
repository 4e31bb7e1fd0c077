"""What a run ends with: figures with intervals, the classic method that may win, classes that are never predicted."""

from __future__ import annotations

import math
import shutil
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets.lists import Sample
from datasets.segmentation import SegmentationDataset
from evaluation.scores.validation import group_numbers
from training.fit import configure, fit
from training.options import TrainingOptions
from training.run.lists import read_lists
from training.run.reports import (
    classic_line,
    closing_lines,
    duration,
    last_epoch_line,
    metric_text,
    missed_classes,
    missed_line,
    threshold_warning,
)
from training.run.state import TrainingState
from training.selection import Selection
from utils.checkpoint import load_checkpoint
from utils.files import read_json, read_jsonl


def table(tp: int, fp: int, fn: int, tn: int = 100) -> np.ndarray:
    return np.array([[tn, fp], [fn, tp]])


def test_the_interval_holds_the_figure_and_narrows_with_images():
    some = np.array([table(80, 10 + image, 10) for image in (0, 5, 9, 3, 7)])
    text = metric_text(some, 0.5, 5)
    assert text.startswith(f": val iou {400 / (400 + 74 + 50):.4f} [") and text.endswith("over 5 images, threshold 0.5")
    low, high = map(float, text.split("[")[1].split("]")[0].split(", "))
    many = metric_text(np.concatenate([some] * 6), 0.5, 30)
    narrow_low, narrow_high = map(float, many.split("[")[1].split("]")[0].split(", "))
    assert low < narrow_low < 400 / 524 < narrow_high < high
    assert "no interval from so few images" in metric_text(some[:3], 0.5, 3)


def test_a_figure_without_meaning_is_not_told():
    assert "single class" in metric_text(np.array([table(0, 3, 0)] * 5), 0.5, 5)


def test_validation_labels_that_say_nothing_are_not_told_as_a_figure():
    best = {"epoch": 2, "figure": math.nan, "tables": None}
    for labels in ("clean", "noisy"):
        options = TrainingOptions().replace(val_labels=labels)
        (line,) = closing_lines(best, 2, options, SimpleNamespace(val=[1]))  # type: ignore[arg-type]
        assert line.startswith("best epoch 2 of 2, the last one: there is nothing to choose by")


@pytest.mark.parametrize(("reached", "wins"), [(table(10, 90, 90), True), (table(100, 0, 0), False)])
def test_a_classic_method_that_wins_is_a_warning(disks, reached, wins):
    folder = disks / "datasets" / "disks" / "val"
    samples = [Sample(folder / "images" / f"{n}.png", folder / "labels" / f"{n}.png", str(n), n) for n in range(3)]
    line = classic_line(np.array([reached] * 3), SegmentationDataset(samples), range(3))
    assert line.startswith("warning: ") == wins and "the same 3 images" in line


def test_classes_that_are_never_predicted_are_named():
    confusion = np.array([[50, 0, 2, 0], [9, 0, 1, 0], [1, 0, 30, 0], [0, 0, 0, 0]])
    assert missed_classes(confusion) == [1]  # class 3 does not occur
    assert "class 1; --class_weights frequency" in missed_line([1], is_weighted=False)
    assert "class 1, 5; more --steps" in missed_line([1, 5], is_weighted=True)


def test_a_run_ends_with_best_epoch_comparison_time_and_place(disks, capsys, monkeypatch):
    begun = []

    def read(*given):
        begun.append(time.monotonic())
        return read_lists(*given)

    def told(seconds):
        begun.append(time.monotonic() - seconds)
        return duration(seconds)

    monkeypatch.setattr(sys.modules["training.fit"], "read_lists", read)
    monkeypatch.setattr(sys.modules["training.run.reports"], "duration", told)
    folder = fit(
        configure(
            {
                "dataset": "disks",
                "preset": "quick",
                "width": 4,
                "crop": 32,
                "epochs": 1,
                "augment": (),
                "device": "cpu",
                "tensorboard": False,
            },
            disks,
        ),
        disks,
    )
    said = capsys.readouterr().out
    *_, best, classic, place, inference, metrics = said.splitlines()
    assert "plan: 1 step in 1 epoch, 8 windows of 32×32 a step" in said
    assert best.startswith("best epoch ") and " of 1: val iou " in best and "over 3 images, threshold " in best
    assert begun[1] <= begun[0], "the checks of the lists are part of what it took"
    assert "the same 3 images" in classic
    assert place.startswith("took ") and str(folder) in place
    assert inference.startswith("python evaluation/inference.py") and metrics.startswith("python evaluation/metrics.py")


@pytest.mark.parametrize(
    ("names", "highest", "warns"), [("abc", 0.9, True), ("abc", 0.15, False), ("abcd", 0.9, False)]
)
def test_few_images_that_speak_for_another_threshold_are_told_of(names, highest, warns):
    data = SimpleNamespace(val_groups=lambda: list(range(len(names))))
    record = {"epoch": 4, "val/iou": 0.1, "val/threshold": 0.5, "val/highest_iou": highest, "val/best_threshold": 0.05}
    lines = threshold_warning([{}, record], data)  # pyright: ignore[reportArgumentType]
    assert len(lines) == warns and all("the IoU is 0.90 at 0.05, 0.10 at 0.5" in line for line in lines)
    assert threshold_warning([{"epoch": 1}], data) == []  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("epoch", "gain", "says"), [(1, 1, True), (1, 30, False), (9, 1, False)])
def test_an_early_best_epoch_that_the_error_hardly_tells_from_the_last_is_told(epoch, gain, says):
    tables = np.array([[[90, 5 + place], [10 - place, 60]] for place in range(4)])
    better = tables + np.array([[0, 0], [0, 1]]) * np.array([5, -3, 4, -2])[:, None, None]
    better[:, 1, 1] += gain
    best = {"epoch": epoch, "tables": torch.from_numpy(better)}
    last = Selection(0.5, False, 0.7, tables=tables)
    lines = last_epoch_line(best, last, 10)
    assert len(lines) == says and all("--test_ckpt_epoch last" in line for line in lines)
    assert last_epoch_line(best, None, 10) == last_epoch_line({"epoch": 1}, last, 10) == []


@pytest.mark.parametrize(
    ("metrics", "error", "best"),
    [
        ([0.2, 0.6, 0.5, 0.6], 0.0, 2),
        ([0.2, 0.6, 0.5, 0.4], 0.25, 4),
        ([0.2, 0.6, 0.5, 0.3], 0.25, 3),  # the last that the error does not tell from the highest
        ([0.2, 0.6, 0.4, 0.3, 0.36, 0.3], 0.25, 5),  # from the highest, not from the best so far
        ([0.2, float("nan"), 0.5, 0.3], 0.25, 4),
        ([0.5, float("nan"), 0.1], 0.25, 2),
        ([0.5, 0.7, float("nan")], 0.0, 3),
    ],
)
def test_an_epoch_is_the_best_up_to_the_error_of_the_choice(metrics, error, best):
    state = SimpleNamespace(best=None, epoch=0)
    for state.epoch, metric in enumerate(metrics, start=1):
        TrainingState.rank(state, Selection(0.5, False, metric), error)  # pyright: ignore[reportArgumentType]
    assert state.best["epoch"] == best
    np.testing.assert_equal(state.best["figure"], metrics[best - 1])


def test_crops_of_one_field_choose_neither_epoch_nor_threshold(disks, capsys):
    """They err together: what fits them best may fit no other field."""
    images = disks / "datasets/disks/train/images"
    rows = [line.split("\t") for line in (disks / "txt/disks/train/train_gt.txt").read_text().splitlines()]
    crops = []
    for number, (image, label) in enumerate(rows[:5]):
        crop = images / f"field_h0_w{64 * number}.png"
        shutil.copy(disks / image, crop)
        crops.append(f"{crop}\t{disks / label}\n")
    (disks / "txt/disks/val.txt").write_text("".join(crops))
    given = {"dataset": "disks", "preset": "quick", "width": 4, "crop": 32, "device": "cpu", "tensorboard": False}
    folder = fit(configure({**given, "epochs": 3, "lr": 1e-8, "run_name": "one"}, disks), disks)
    said = capsys.readouterr().out
    assert "these 5 images are crops of one field, which tells little of others: best is the last epoch" in said
    best = load_checkpoint(folder / "checkpoints/best.pth")
    assert (best["epoch"], best["threshold"], best.get("mask_offset", 0)) == (3, 0.5, 0)
    assert read_json(folder / "config.json")["train_fields"] == 8
    records = read_jsonl(folder / "metrics.jsonl")
    assert all(np.isfinite(record["val/iou"]) and record["val/highest_iou"] >= record["val/iou"] for record in records)


@pytest.mark.parametrize(
    ("ids", "groups"),
    [
        (["a_h0_w0.png", "a_h0_w64.png", "b_h0_w0.png", "c.png"], [0, 0, 1, 2]),
        (["x/a_y1_x2.tif", "x/a_y1_x3.tif", "y/a_y1_x3.tif", "y/a_r1_c3.tif"], [0, 0, 1, 2]),
        (["a_3.png", "a_4.png", "h2_w3.png", "a_w1.png"], [0, 1, 2, 3]),  # numbers alone are no place
        (["stack.tif::0", "stack.tif::1"], [0, 1]),  # a single stack
        ([f"{stack}.tif::{plane}" for stack in "abcd" for plane in (0, 1)], [0, 0, 1, 1, 2, 2, 3, 3]),
        ([f"{stack}.tif::{plane}" for stack in "ab" for plane in range(8)], [n // 2 for n in range(16)]),
        ([f"{n}.png" for n in range(40)], [n % 32 for n in range(40)]),
    ],
)
def test_crops_of_a_field_are_counted_together(ids, groups):
    assert group_numbers(ids) == groups
