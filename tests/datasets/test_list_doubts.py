"""Labels that are well-formed and wrong are doubted in a line; right ones are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from datasets.image_io import write_label
from datasets.list_building import make_lists

NAMES = range(8)


def disks(number: int) -> np.ndarray:
    """A mask of three disks, uint8 (64, 64)."""
    rng, (y, x) = np.random.default_rng(number), np.mgrid[:64, :64]
    places = rng.integers(12, 52, (3, 2))
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 < 64 for cy, cx in places], axis=0).astype(np.uint8)


def boxes(number: int) -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    for place in (2, 22, 42):
        mask[place : place + 8 + number, place : place + 14] = 1
    return mask


def plain(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    return image.clip(0, 255).astype(np.uint8)


def warnings(
    root: Path,
    label: Callable[[int], np.ndarray],
    *,
    bright: bool = True,
    noise: float = 9,
    change: Callable[[np.ndarray, np.ndarray], np.ndarray] = plain,
) -> list[str]:
    """What make_lists warns of where disks are brighter, or darker, than what is around them."""
    for number in NAMES:
        shown = disks(number) if bright else 1 - disks(number)
        image = 60 + 90 * shown + np.random.default_rng(number).normal(0, noise, shown.shape)
        write_label(root / f"datasets/own/labels/{number}.png", label(number))
        (root / "datasets/own/images").mkdir(exist_ok=True)
        tifffile.imwrite(root / f"datasets/own/images/{number}.tif", change(image, label(number)))
    said: list[str] = []
    make_lists("own", root=root, say=said.append)
    return [line for line in said if line.startswith("warning")]


@pytest.mark.parametrize("bright", [True, False])
def test_right_labels_are_not_doubted(bright: bool, tmp_path: Path):
    assert warnings(tmp_path, disks, bright=bright) == []
    assert warnings(tmp_path, lambda number: 1 - disks(number), bright=bright) == []


@pytest.mark.parametrize(("bright", "side"), [(True, "dark"), (False, "bright")])
def test_some_inverted_labels_are_named(bright: bool, side: str, tmp_path: Path):
    [line] = warnings(tmp_path, lambda number: disks(number) if number != 3 else 1 - disks(number), bright=bright)
    assert f"1 of the 1 label looked at that mark more than half of an image mark what is {side}" in line
    assert line.endswith("(3.png): are they inverted?")


def test_large_foreground_is_no_sign_of_inversion_alone(tmp_path: Path):
    assert warnings(tmp_path, lambda number: 1 - disks(number) if number == 3 else disks(number), noise=900) == []


def test_labels_of_other_images_are_told_by_their_content(tmp_path: Path):
    [line] = warnings(tmp_path, lambda number: disks(5 if number == 2 else number))
    assert line.startswith("warning: 2 labels have the content of another") and "2.png" in line and "5.png" in line


def test_empty_labels_are_no_copies(tmp_path: Path):
    assert warnings(tmp_path, lambda number: disks(number) * np.uint8(number > 2)) == []


def test_boxes_are_asked_about(tmp_path: Path):
    [line] = warnings(tmp_path, boxes)
    assert line.startswith("warning: 24 of the 24 objects") and "boxes" in line


def test_dots_are_asked_about(tmp_path: Path):
    def dots(number: int) -> np.ndarray:
        label = np.zeros((64, 64), np.uint8)
        for place in range(8, 56, 12):
            cv2.circle(label, (place, 10 + 3 * number), 2, 1, -1)
        return label

    [line] = warnings(tmp_path, dots)
    assert line.startswith("warning: 32 of the 32 objects that were looked at have the same 13 pixels: are these dots")


@pytest.mark.parametrize(("painted", "where"), [(0, "background"), (1, "foreground")])
def test_labels_in_the_images_are_asked_about(painted: int, where: str, tmp_path: Path):
    [line] = warnings(tmp_path, disks, change=lambda image, label: plain(np.where(label == painted, 0, image), label))
    assert line.startswith(
        f"warning: 8 of the 8 images that were looked at have one value wherever their label is {where}"
    )


def test_values_of_nothing_recorded_are_told(tmp_path: Path):
    def framed(image: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.where(np.arange(64) < 4, -9999, image).astype(np.float32)

    [line] = warnings(tmp_path, disks, change=framed)
    assert line.startswith("warning: 8 of the 8 images that were looked at hold -9999, far from all other values")
