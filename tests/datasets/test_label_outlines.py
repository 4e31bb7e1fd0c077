"""Labels that are outlines alone are told from filled ones, networks, and lines that enclose little."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.image_io import write_image, write_label
from datasets.label_summary import ask_outlines, is_outlined
from datasets.list_building import make_lists
from evaluation.label_audit import audit_labels

SQUARE, CROSS = (cv2.getStructuringElement(shape, (3, 3)) for shape in (cv2.MORPH_RECT, cv2.MORPH_CROSS))


def cells(seed: int = 0, touching: bool = False) -> np.ndarray:
    """Numbered cells, uint8 (128, 128): discs apart from each other, or all of the image but its edge."""
    rng = np.random.default_rng(seed)
    centres = np.stack(np.meshgrid(*[np.arange(20, 128, 30)] * 2), -1).reshape(-1, 2) + rng.integers(-3, 4, (16, 2))
    distance = np.hypot(*(np.indices((128, 128))[:, None] - centres.T[:, :, None, None]))
    near = distance.min(0) < (14 if touching else 10)
    return np.where(near, distance.argmin(0) + 1, 0).astype(np.uint8)


def outlined(numbers: np.ndarray, side: str, width: int) -> np.ndarray:
    """The outline of every object, which neighbours may share."""
    drawn = np.zeros_like(numbers)
    for number in range(1, numbers.max() + 1):
        mask = (numbers == number).astype(np.uint8)
        if side == "inner":
            drawn |= mask - cv2.erode(mask, CROSS, iterations=width)
        else:
            drawn |= cv2.dilate(mask, CROSS, iterations=width) - mask
    return drawn


def mesh(width: int) -> np.ndarray:
    lines = np.arange(128) % 24 < width
    return np.add.outer(lines, lines).astype(bool).astype(np.uint8)


@pytest.mark.parametrize("touching", [False, True])
@pytest.mark.parametrize("side", ["inner", "outer"])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_outlines_are_told_from_what_they_surround(width: int, side: str, touching: bool):
    numbers = cells(touching=touching)
    assert is_outlined(outlined(numbers, side, width))
    assert is_outlined(1 - outlined(numbers, side, width)) or touching  # black on white
    assert not is_outlined((numbers > 0).astype(np.uint8)) and not is_outlined((numbers == 0).astype(np.uint8))


def test_outlines_that_were_smoothed_and_cut():
    label = np.zeros((128, 128), np.uint8)
    for place in range(20, 128, 40):
        cv2.ellipse(label, ((place, place), (30, 19), 35.0), 255, 1, cv2.LINE_AA)
    assert is_outlined((label >= 128).astype(np.uint8))


def test_lines_that_are_no_outlines():
    branches = np.zeros((128, 128), np.uint8)
    for place in range(8, 128, 16):
        cv2.line(branches, (0, 64), (127, place), 1, 3)
    dots = cv2.dilate(np.pad(np.ones((1, 1), np.uint8), (60, 67)), SQUARE)
    empty, full = np.zeros_like(dots), np.ones_like(dots)
    assert [is_outlined(label) for label in (branches, mesh(9), dots, empty, full)] == [False] * 5


def test_a_question_is_asked_where_most_labels_that_mark_anything_are_outlines():
    filled, lines = ([make(cells(seed)) for seed in range(4)] for make in (lambda numbers: numbers > 0, np.asarray))
    filled = [label.astype(np.uint8) for label in filled]
    lines = [outlined(numbers, "outer", 1) for numbers in lines]
    assert ask_outlines([*lines, filled[0], np.zeros_like(filled[0])]).startswith("4 of the 5 labels")
    assert ask_outlines([*lines[:2], *filled]) == ask_outlines(filled) == ask_outlines([]) == ""


def test_it_is_asked_with_the_lists_and_before_training(tmp_path: Path):
    images, labels, said = [], [], []
    for number in range(6):
        numbers = cells(number)
        noise = np.random.default_rng(number).normal(0, 9, numbers.shape)
        images.append((60 + 120 * (numbers > 0) + noise).astype(np.uint8))
        labels.append(outlined(numbers, "inner", 1))
        write_image(tmp_path / "datasets/own/images" / f"{number}.tif", images[-1])
        write_label(tmp_path / "datasets/own/labels" / f"{number}.png", labels[-1])
    make_lists("own", root=tmp_path, say=said.append)
    [line] = [line for line in said if line.startswith("warning")]
    assert line.startswith("warning: 6 of the 6 labels that were looked at are thin lines") and "Fill Holes" in line
    (warning,) = audit_labels(labels, None, images).warnings()
    assert f"warning: {warning}" == line


@pytest.mark.parametrize("name", ["er_ernet", "vessel", "stare", "em_vnc", "nuc", "nuc16", "bubil_cells"])
def test_no_question_is_asked_of_real_labels(name: str, real_data: Path):
    folders = [folder for folder in (real_data / name / "train").glob("labels*") if folder.name != "labels_3class"]
    for folder in folders:
        files = sorted(file for file in folder.iterdir() if file.suffix != ".json")
        labels = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) != 0 for file in files[:: len(files) // 12]]
        assert max(label.mean() for label in labels) > 0
        assert ask_outlines([label.astype(np.uint8) for label in labels]) == ""
