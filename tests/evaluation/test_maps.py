"""Maps of other programs: what their values mean is what a person sees, or an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.measure import label as connected

from evaluation.scores.maps import read_map, whole_numbers
from utils.cli import UserError

SIDE = 48


def mask_of(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE]
    centres = rng.integers(6, SIDE - 6, (3 + number, 2))
    return np.any([(y - row) ** 2 + (x - column) ** 2 < 25 for row, column in centres], axis=0)


def numbered(mask: np.ndarray) -> np.ndarray:
    return np.asarray(connected(mask))


def save_palette(mask: np.ndarray, path: Path, colors: list[int]) -> None:
    picture = Image.fromarray(mask.astype(np.uint8), "P")
    picture.putpalette(colors)
    picture.save(path.with_suffix(".png"))


Save = Callable[[np.ndarray, Path], object]
KINDS: dict[str, Save] = {
    "0 and 255": lambda mask, path: tifffile.imwrite(path, mask * np.uint8(255)),
    "0 and 1": lambda mask, path: tifffile.imwrite(path, mask.astype(np.uint8)),
    "0 and 7 of 16 bits": lambda mask, path: tifffile.imwrite(path, mask * np.uint16(7)),
    "objects of 16 bits": lambda mask, path: tifffile.imwrite(path, numbered(mask).astype(np.uint16)),
    "objects of 32 bits": lambda mask, path: tifffile.imwrite(path, numbered(mask).astype(np.int32)),
    "objects of 8 bits, above half of its range": lambda mask, path: tifffile.imwrite(
        path, (numbered(mask) * 40).clip(0, 255).astype(np.uint8)
    ),
    "objects as real numbers": lambda mask, path: tifffile.imwrite(path, numbered(mask).astype(np.float32)),
    "0 and 255 as real numbers": lambda mask, path: tifffile.imwrite(path, mask * np.float32(255)),
    "scores": lambda mask, path: tifffile.imwrite(path, mask.astype(np.float32)),
    "palette of red": lambda mask, path: save_palette(mask, path, [0, 0, 0, 255, 0, 0]),
    "palette from white": lambda mask, path: save_palette(~mask, path, [255, 255, 255, 0, 0, 0]),
}


def written(folder: Path, save: Save) -> list[Path]:
    for number in range(4):
        save(mask_of(number), folder / f"{number}.tif")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_any_program_are_read_as_they_look(kind: str, tmp_path: Path):
    paths = written(tmp_path, KINDS[kind])
    scale = whole_numbers(paths).scale
    for number, path in enumerate(paths):
        np.testing.assert_array_equal(read_map(path, scale=scale) >= 0.5, mask_of(number))


def test_scores_of_8_bits_stay_scores_however_low(tmp_path: Path):
    ramp = np.linspace(0, 100, SIDE).astype(np.uint8)
    paths = written(tmp_path, lambda mask, path: tifffile.imwrite(path, mask * ramp))
    assert 0.2 < read_map(paths[0], scale=whole_numbers(paths).scale).max() < 0.4


@pytest.mark.parametrize(
    "kinds", [("0 and 255", "0 and 1"), ("0 and 1", "0 and 255"), ("0 and 255", "objects of 16 bits")]
)
def test_masks_of_different_foregrounds_are_refused(kinds: tuple[str, str], tmp_path: Path):
    paths = written(tmp_path, KINDS[kinds[0]])
    KINDS[kinds[1]](mask_of(3), tmp_path / "3.tif")
    with pytest.raises(UserError, match=r"the map .*\.tif holds 0, 255, the map .*\.tif 0, 1.*same two values"):
        whole_numbers(paths)


def test_as_many_objects_in_every_map_are_no_scores(tmp_path: Path):
    y, x = np.mgrid[:SIDE, :SIDE]
    grid = np.where((y % 12 < 9) & (x % 12 < 9), y // 12 * 4 + x // 12 + 1, 0).astype(np.uint8)  # 16 of them
    tifffile.imwrite(tmp_path / "0.tif", grid)
    assert whole_numbers([tmp_path / "0.tif"]) == (1.0, True)


@pytest.mark.parametrize("kind", ["0 and 255", "0 and 1", "0 and 7 of 16 bits"])
def test_empty_masks_are_of_any_kind(kind: str, tmp_path: Path):
    paths = written(tmp_path, lambda mask, path: tifffile.imwrite(path, np.zeros(mask.shape, np.uint8)))
    assert read_map(paths[0], scale=whole_numbers(paths).scale).max() == 0
    KINDS[kind](mask_of(3), paths[3])
    np.testing.assert_array_equal(read_map(paths[3], scale=whole_numbers(paths).scale) >= 0.5, mask_of(3))


def test_masks_of_16_bits_with_different_foregrounds_are_refused(tmp_path: Path):
    paths = written(tmp_path, lambda mask, path: tifffile.imwrite(path, mask.astype(np.uint16)))
    tifffile.imwrite(paths[1], mask_of(1) * np.uint16(255) * ~mask_of(2))
    with pytest.raises(UserError, match=r"the map .*1\.tif holds 0, 255, the map .*3\.tif 0, 1"):
        whole_numbers(paths)


@pytest.mark.parametrize("place", [0, 2])
def test_a_dark_image_among_scores_stays_one(place: int, tmp_path: Path):
    """It alone holds only 0 and 1 of 255, and others are as sure as masks are."""
    paths = written(tmp_path, KINDS["0 and 255"])
    KINDS["0 and 1"](mask_of(place), paths[place])
    tifffile.imwrite(paths[1], mask_of(1) * np.linspace(0, 255, SIDE).astype(np.uint8))
    assert read_map(paths[place], scale=whole_numbers(paths).scale).max() == pytest.approx(1 / 255)
    tifffile.imwrite(paths[1], mask_of(1) * np.linspace(0, 100, SIDE).astype(np.uint8))
    assert read_map(paths[place], scale=whole_numbers(paths).scale).max() == pytest.approx(1 / 255)


def test_maps_that_are_neither_scores_nor_masks_are_refused(tmp_path: Path):
    paths = written(tmp_path, lambda mask, path: tifffile.imwrite(path, mask + np.uint8(1)))
    with pytest.raises(UserError, match=r"the maps hold 1, 2 \(.*0\.tif, …\), which are neither scores"):
        whole_numbers(paths)
    colors = np.zeros((SIDE, SIDE, 3), np.uint8)
    colors[..., 0] = mask_of(0) * 255
    Image.fromarray(colors).save(tmp_path / "red.png")
    for classes in (1, 3):
        with pytest.raises(UserError, match=r"the map .*red\.png is in colours"):
            read_map(tmp_path / "red.png", classes)


def test_class_maps_of_a_palette_are_its_indices(tmp_path: Path):
    save_palette(mask_of(0) * np.uint8(2), tmp_path / "7", [0, 0, 0, 128, 0, 0, 0, 0, 8])
    np.testing.assert_array_equal(read_map(tmp_path / "7.png", num_classes=3), mask_of(0) * 2)
