"""Predictions compared in pairs: known answers, groups, labels that must agree."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from scipy.stats import permutation_test

from evaluation.metrics import main
from evaluation.scores.paired import EXACT, paired_difference, sign_flip_p
from utils.cli import UserError
from utils.files import read_json

SIDE = 20


def write_data(root: Path, count: int = 6) -> Path:
    """Labels whose upper half is foreground, and two folders of maps that miss one row and more rows of it."""
    lines = []
    for folder in ("labels", "good", "bad", "images"):
        (root / folder).mkdir()
    for number in range(count):
        label = np.zeros((SIDE, SIDE), np.uint8)
        label[:10] = 255
        cv2.imwrite(str(root / f"labels/cell{number // 2}_{number}.png"), label)
        for folder, rows in (("good", 1), ("bad", 2 + number)):
            scores = (label > 0).astype(np.float32)
            scores[:rows] = 0
            tifffile.imwrite(root / folder / f"cell{number // 2}_{number}.tif", scores)
        image = root / f"images/cell{number // 2}_{number}.tif"
        tifffile.imwrite(image, label, imagej=True, resolution=(2, 2), metadata={"unit": "um"})
        lines.append(f"{image}\t{root}/labels/cell{number // 2}_{number}.png\n")
    (root / "list.txt").write_text("".join(lines))
    return root


def compare(root: Path, *arguments: str, folders: tuple[str, ...] = ("good", "bad")) -> dict:
    paths = [str(root / name) for name in folders]
    how = ["--test_data_dir", str(root / "list.txt"), "--threshold", "0.5", "--out", str(root / "out")]
    main(["--compare", *paths, *how, *arguments])
    return read_json(root / "out/comparison.json")


def test_differences_are_those_of_the_images(tmp_path, capsys):
    content = compare(write_data(tmp_path))
    ious = np.array([0.9 - (8 - number) / 10 for number in range(6)])  # of the first folder 0.9 everywhere
    row = content["differences"][0]["iou"]
    assert row["first"] == pytest.approx(0.9) and row["difference"] == pytest.approx(-ious.mean())
    assert row["low"] < row["difference"] < row["high"] < 0
    assert row["p"] == 2 / 2**6 and row["pairs"] == 6
    assert content["values"]["iou"][1] == pytest.approx(0.9 - ious)
    assert content["differences"][0]["hd95_um"]["first"] == pytest.approx(4.0)  # 8 pixels of half a µm
    said = capsys.readouterr().out
    assert f"A: {tmp_path / 'good'}" in said and "smallest possible is 0.0312" in said
    assert any(line.startswith("IoU ") and "-0.350" in line for line in said.splitlines())


def test_groups_count_once(tmp_path, capsys):
    content = compare(write_data(tmp_path), "--group_by", "(cell[0-9])_")
    assert content["units"] == ["cell0", "cell1", "cell2"]
    row = content["differences"][0]["iou"]
    assert row["pairs"] == 3 and row["p"] == 2 / 2**3 and row["difference"] == pytest.approx(-0.35)
    assert content["values"]["iou"][1] == pytest.approx([0.75, 0.55, 0.35])
    assert "6 images in 3 groups of '(cell[0-9])_'" in capsys.readouterr().out


def test_a_prediction_does_not_differ_from_itself(tmp_path):
    content = compare(write_data(tmp_path), folders=("bad", "bad", "good"))
    assert content["differences"][0]["iou"]["p"] == 1 and content["differences"][0]["iou"]["difference"] == 0
    assert content["differences"][1]["iou"]["difference"] == pytest.approx(0.35)


def test_only_images_that_all_have_count_and_wrong_use_is_named(tmp_path, capsys):
    root = write_data(tmp_path)
    (root / "bad/cell0_0.tif").unlink()
    content = compare(root)
    assert content["n_images"] == 5 and "left out (1)" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs two or more folders"):
        compare(root, folders=("good",))
    with pytest.raises(UserError, match="matches no image"):
        compare(root, "--group_by", "patient")
    for path in (root / "bad").iterdir():
        if path.stem != "cell0_1":
            path.unlink()
    (root / "good/cell0_1.tif").unlink()
    with pytest.raises(UserError, match="no image has a map in every folder"):
        compare(root)
    with pytest.raises(SystemExit):
        main(["--prd_dir", str(root / "good"), "--group_by", "cell"])


@pytest.mark.parametrize("count", [2, 5, EXACT])
def test_p_is_that_of_scipy_where_all_signs_are_tried(count, rng):
    differences = rng.normal(0.3, 1, count)
    expected = permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert sign_flip_p(differences) == pytest.approx(expected.pvalue)


def test_p_of_many_pairs_is_uniform_without_and_small_with_a_difference(rng):
    draws = [sign_flip_p(rng.normal(0, 1, 20), seed) for seed in range(200)]
    assert 0.01 <= np.mean(np.array(draws) < 0.05) <= 0.1
    assert sign_flip_p(rng.normal(2, 1, 40)) == 1 / 10000


def test_a_difference_of_shares_stays_between_minus_one_and_one():
    first, second = np.zeros(6), np.array([0.01, 0.012, 0.011, 0.013, 0.012, 0.9])
    assert paired_difference(first, second, largest=1.0).high == 1
    assert paired_difference(second, first, largest=1.0).low == -1
    assert paired_difference(first, 10 * second).high > 1


def test_undefined_pairs_are_left_out():
    found = paired_difference(np.array([1.0, np.nan, 3.0]), np.array([2.0, 1.0, 5.0]))
    assert found.pairs == 2 and (found.first, found.second, found.difference) == (2.0, 3.5, 1.5)
    assert math.isnan(paired_difference(np.array([np.nan]), np.array([1.0])).difference)
