"""Classic methods find what is drawn, whatever its brightness, offset or scale; their maps are those of inference."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest

from datasets.image_io import read_image, read_label, read_scores, write_label
from datasets.simulation import simulate_image
from evaluation.classical import BASELINES
from evaluation.classical.methods import (
    local_skewness,
    orient,
    otsu_mask,
    resolve_foreground,
    scores_from_mask,
    standardized,
)
from evaluation.classical.runner import run_methods
from evaluation.scores import Counts, confusion_counts, counts_at, iou, score_histogram, sensitivity
from utils.cli import UserError
from utils.files import read_json

MIN_IOU = {"ridge": 0.75, "difference_of_gaussians": 0.6}  # of lines; the others find disks


def draw_disks(rng: np.random.Generator, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A noisy float32 image of three bright disks and its mask."""
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), bool)
    for cy, cx, radius in ((25, 25, 9), (30, 68, 11), (70, 45, 10)):
        mask |= (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
    return (100 + 400 * mask + rng.normal(0, 15, mask.shape)).astype(np.float32), mask


def draw_lines(rng: np.random.Generator, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A noisy float32 image of bright lines 5 pixels wide and its mask."""
    y, x = np.mgrid[:size, :size]
    mask = (np.abs(y - 30) <= 2) | (np.abs(x - 60) <= 2) | (np.abs(y - x - 20) <= 3)
    return (100 + 400 * mask + rng.normal(0, 15, mask.shape)).astype(np.float32), mask


@pytest.mark.parametrize("name", BASELINES)
def test_every_method_finds_its_structures(name, rng):
    image, mask = (draw_lines if name == "ridge" else draw_disks)(rng)
    scores = BASELINES[name](image)
    assert scores.dtype == np.float32 and scores.shape == image.shape
    assert scores.min() >= 0 and scores.max() <= 1
    assert iou(confusion_counts(scores >= 0.5, mask.astype(np.uint8))) > MIN_IOU.get(name, 0.85)


@pytest.mark.parametrize("name", BASELINES)
def test_offset_and_scale_change_nothing(name, rng):
    image, _ = draw_disks(rng, 64)
    scores = BASELINES[name](image)
    moved = BASELINES[name](33000 + 7 * image.astype(np.float64))
    assert np.mean((scores >= 0.5) != (moved >= 0.5)) < 1e-3
    assert np.array_equal(scores, BASELINES[name](image)), "the same image gives the same scores"


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("value", [0, 1, 65535])
def test_a_constant_image_has_no_foreground(name, value):
    assert not BASELINES[name](np.full((32, 40), value, np.uint16)).any()


@pytest.mark.parametrize("name", BASELINES)
def test_two_levels_and_one_pixel_are_no_special_case(name):
    image = np.zeros((32, 32), np.uint8)
    image[16, 16] = 9
    assert np.isfinite(BASELINES[name](image)).all()
    image[8:20, 8:20] = 9
    assert np.isfinite(BASELINES[name](image)).all()


def test_otsu_parts_two_levels_exactly_in_any_type():
    mask = np.zeros((20, 30), bool)
    mask[3:9, 4:20] = True
    for image in (mask.astype(np.uint8), mask * np.uint16(40000), mask * np.float32(0.1) - 5, mask):
        assert np.array_equal(otsu_mask(image), mask)


@pytest.mark.parametrize("split, expected, images", [("er_ernet", 0.58, 31), ("nuc", 0.79, 203)])
def test_otsu_reaches_the_known_figures_on_real_images(split, expected, images, real_data):
    total, count = Counts(0, 0, 0, 0), 0
    for path in (real_data / split / "test" / "images").iterdir():
        label = read_label(path.parents[1] / "labels" / path.name)
        total, count = total + confusion_counts(otsu_mask(read_image(path)), label), count + 1
    assert count == images and iou(total) == pytest.approx(expected, abs=0.01)


def test_the_vote_is_what_two_of_three_say(rng):
    image, _ = draw_disks(rng)
    ballots = sum((BASELINES[name](image) >= 0.5).astype(int) for name in ("local_contrast", "random_walker", "ridge"))
    assert np.array_equal(BASELINES["vote"](image) >= 0.5, ballots >= 2)


def test_local_contrast_stands_a_background_brighter_than_the_structures(rng):
    image, mask = draw_disks(rng)
    image += np.linspace(0, 1500, 96, dtype=np.float32)
    reached = {name: confusion_counts(BASELINES[name](image) >= 0.5, mask) for name in ("local_contrast", "otsu")}
    assert sensitivity(reached["local_contrast"]) > 0.95 > sensitivity(reached["otsu"])
    assert iou(reached["local_contrast"]) > iou(reached["otsu"])


def test_scores_from_mask_scores_keep_the_mask_and_the_order(rng):
    values, mask = rng.normal(size=(9, 11)), rng.random((9, 11)) < 0.4
    scores = scores_from_mask(values, mask)
    assert np.array_equal(scores >= 0.5, mask)
    for part in (mask, ~mask):
        assert np.array_equal(np.argsort(scores[part], kind="stable"), np.argsort(values[part], kind="stable"))
    histogram = score_histogram(scores, mask.astype(np.uint8))
    assert iou(counts_at(histogram, 0.5)) == 1, "a histogram's bins keep them apart too"


@pytest.mark.parametrize("full", [False, True])
def test_scores_from_mask_scores_of_one_class(full):
    scores = scores_from_mask(np.zeros((4, 5)), np.full((4, 5), full))
    assert (scores == full).all()


def test_brightness_of_structures_is_told_by_skewness(rng):
    images = [draw_lines(rng)[0] for _ in range(3)]
    negatives = [-image for image in images]
    assert resolve_foreground("auto", images) == "bright" and resolve_foreground("auto", negatives) == "dark"
    assert local_skewness(images[0]) == pytest.approx(-local_skewness(negatives[0]))
    assert local_skewness(np.full((20, 20), 7, np.uint8)) == 0
    assert resolve_foreground("auto", [*images, negatives[0]]) == "bright", "one odd image does not turn the set"
    assert resolve_foreground("minority", []) == "minority", "only auto looks at images"


@pytest.mark.parametrize(
    "center, radius, added",
    [((0, 0), 60, -6), ((100, 150), 30, 6), ((60, 60), 2.5, 12)],
    ids=["corner", "disc", "speck"],
)
def test_black_corners_and_bright_discs_do_not_turn_the_direction(center, radius, added, rng):
    y, x = np.mgrid[:256, :256]
    odd = np.hypot(y - center[0], x - center[1]) < radius
    image = np.where(odd, added, -standardized(simulate_image("er_sim", rng)[0]))
    assert resolve_foreground("auto", [image]) == "dark"
    assert resolve_foreground("auto", [-image]) == "bright"


@pytest.mark.parametrize("foreground, turned", [("bright", False), ("dark", True)])
def test_orient_makes_structures_bright(foreground, turned, rng):
    image, mask = draw_disks(rng)
    image = -image if turned else image
    assert np.array_equal(orient(image, foreground), -image if turned else image)
    oriented = orient(image.astype(np.int32), "minority")
    assert oriented[mask].mean() > oriented[~mask].mean()
    assert orient(np.array([[0, 255]], np.uint8), "dark").tolist() == [[0, -255]], "no wrap-around"


def test_the_command_writes_what_metrics_scores(run_tool, workspace, tmp_path):
    methods = ("otsu", "kmeans")
    done = run_tool("evaluation/baselines.py", "--dataset", "disks", "--methods", *methods, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith(methods)}
    assert "foreground: bright" in done.stdout and set(lines) == set(methods)
    record = json.loads((tmp_path / "otsu" / "predictions.json").read_text())
    image = workspace / "datasets" / "disks" / "test" / "images" / "0.png"
    scores = read_scores(tmp_path / "otsu" / record["maps"]["datasets/disks/test/images/0.png"])
    assert np.array_equal(scores >= 0.5, otsu_mask(read_image(image)))
    scored = run_tool("evaluation/metrics.py", "--prd_dir", tmp_path / "otsu" / "pred", "--no_report")
    assert scored.returncode == 0, scored.stderr
    figures = json.loads((tmp_path / "otsu" / "metrics.json").read_text())
    shown = [float(value) for value in lines["otsu"][1:5]]
    pooled = figures["pooled"]
    assert shown == pytest.approx([pooled["f1"], pooled["iou"], pooled["auc"], figures["oracle"]["iou"]], abs=6e-5)
    with open(tmp_path / "otsu" / "per_image.csv") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_classes_are_joined_to_a_foreground_and_not_asked_for(disks, rng):
    for number in range(3):
        write_label(
            disks / f"datasets/disks/test/labels/{number}.png", rng.integers(0, 3, (64, 64), np.uint8), num_classes=3
        )
    how = {"data_list": str(disks / "txt/disks/test.txt"), "data_root": str(disks), "out": disks / "out"}
    with pytest.raises(UserError, match="--label_map") as refused:
        run_methods("disks", ["otsu"], **how)
    assert "--num_classes" not in str(refused.value)
    advised = re.search('--label_map "(.*?)"', str(refused.value))[1]
    run_methods("disks", ["otsu"], label_map=advised, **how)
    assert read_json(disks / "out/otsu/predictions.json")["label_reading"]["label_map"] == "0:0,1:1,2:1"


def test_the_command_names_bad_input(run_tool):
    for arguments, named in (
        (("--dataset", "nowhere"), "nowhere"),
        (("--dataset", "disks", "--methods", "magic"), "magic"),
        (("--dataset", "disks", "--data_list", "absent"), "absent"),
    ):
        done = run_tool("evaluation/baselines.py", *arguments)
        assert done.returncode == 2 and named in done.stderr and "Traceback" not in done.stderr
