"""Simulated micrographs: exact masks, stated ranges, streams of their own, complete or made again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets import simulation as simulate
from datasets.image_io import read_image, read_label
from datasets.lists import read_checked_list, read_list
from datasets.simulation import SIMULATED, detect, expected_electrons, image_rng, make_dataset, simulate_image
from datasets.simulation_geometry import Curve, draw_tubes, smooth_field
from utils.cli import UserError
from utils.files import read_json

NAMES = list(SIMULATED)
FOREGROUND = {"er_sim": (0.2, 0.35), "mito_sim": (0.1, 0.22), "nuc_sim": (0.09, 0.21)}  # mean of a split
OTSU_OF_REAL_IMAGES = {"er_sim": 0.58, "nuc_sim": 0.79}  # pooled IoU on the real test images


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a simulated set, cut to a few images."""
    monkeypatch.setitem(SIMULATED, "nuc_sim", replace(SIMULATED["nuc_sim"], counts=(3, 1, 2)))
    return "nuc_sim"


@pytest.mark.parametrize("name", NAMES)
def test_image_is_16_bit_and_mask_binary(name: str) -> None:
    image, mask = simulate_image(name, image_rng(name, "train", 0))
    assert image.shape == mask.shape == (256, 256)
    assert image.dtype == np.uint16 and mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert image.min() > 50 and image.max() < 65535  # above the camera's zero, below saturation


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_on_its_own_place_alone(name: str) -> None:
    first = [simulate_image(name, image_rng(name, "val", index), size=128) for index in (0, 1)]
    second = [simulate_image(name, image_rng(name, "val", index), size=128) for index in (1, 0)][::-1]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (first[0][0] != first[1][0]).any()
    assert (first[0][0] != simulate_image(name, image_rng(name, "test", 0), size=128)[0]).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_mask_knows_nothing_of_the_microscope(name: str) -> None:
    recipe = SIMULATED[name]
    blurred = replace(recipe, microscope=replace(recipe.microscope, blur=(4.0, 5.0), glow=(2.0, 3.0), snr=(0.5, 1.0)))
    sharp, light = expected_electrons(recipe, image_rng(name, "val", 2), 128)
    soft, other_light = expected_electrons(blurred, image_rng(name, "val", 2), 128)
    np.testing.assert_array_equal(sharp.mask, soft.mask)
    assert not np.allclose(light, other_light)


@pytest.mark.parametrize("name", NAMES)
def test_signal_to_noise_ratio_is_in_the_stated_range(name: str) -> None:
    recipe, microscope = SIMULATED[name], SIMULATED[name].microscope
    for index in range(4):
        rng = image_rng(name, "train", index)
        specimen, electrons = expected_electrons(recipe, rng, 256)
        inside = specimen.mask > 0
        beside = cv2.dilate(specimen.mask, np.ones((13, 13), np.uint8)) > specimen.mask
        signal = electrons[inside].mean() - electrons[beside].mean()
        noise = (detect(electrons, microscope, rng).astype(float) - microscope.offset) / microscope.gain - electrons
        low, high = microscope.snr
        assert 0.95 * low <= signal / np.sqrt((noise[inside] ** 2).mean()) <= 1.05 * high
        assert abs(noise.mean()) < 0.05 * np.sqrt((noise**2).mean())


@pytest.mark.parametrize("name", NAMES)
def test_foreground_share_and_otsu_resemble_real_images(name: str) -> None:
    from skimage.filters import threshold_otsu

    pairs = [simulate_image(name, image_rng(name, "test", index)) for index in range(10)]
    shares = [mask.mean() for _, mask in pairs]
    low, high = FOREGROUND[name]
    assert low <= np.mean(shares) <= high
    assert min(shares) >= SIMULATED[name].least_foreground
    if name not in OTSU_OF_REAL_IMAGES:
        return
    masks = [(image > threshold_otsu(image), mask > 0) for image, mask in pairs]
    iou = sum((found & true).sum() for found, true in masks) / sum((found | true).sum() for found, true in masks)
    assert iou == pytest.approx(OTSU_OF_REAL_IMAGES[name], abs=0.1)


@pytest.mark.parametrize("radius", [2.0, 3.0])
def test_a_straight_tubule_has_the_width_it_was_given(radius: float) -> None:
    line = Curve(np.array([[10.0, 32.0], [54.0, 32.0]]), radius, brightness=1.0)
    mask, emission = draw_tubes([line], [], 64, depth=3.0)
    assert mask[:, 20:44].sum(axis=0) == pytest.approx(2 * radius, abs=1)
    assert emission[32, 32] == emission[:, 32].max()
    assert emission[mask == 0].max() < 0.5 * emission.max()


def test_a_sheet_is_flat_and_has_the_area_of_its_polygon() -> None:
    square = np.array([[15.5, 15.5], [47.5, 15.5], [47.5, 47.5], [15.5, 47.5]])
    mask, emission = draw_tubes([], [(square, 0.7)], 64, depth=3.0)
    assert mask.sum() == pytest.approx(32**2, rel=0.03)
    np.testing.assert_allclose(emission[22:42, 22:42], 0.7, rtol=1e-5)


def test_a_smooth_field_has_unit_deviation(rng: np.random.Generator) -> None:
    field = smooth_field(rng, 400, 8.0)
    assert field.mean() == pytest.approx(0, abs=0.1)
    assert field.std() == pytest.approx(1, abs=0.15)


def test_the_papers_counts() -> None:
    assert SIMULATED["er_sim"].counts == (157, 28, 38)
    assert SIMULATED["mito_sim"].counts == (165, 8, 10)
    assert SIMULATED["nuc_sim"].counts == (160, 20, 40)


def test_a_set_is_complete_with_both_lists(few_images: str, tmp_path: Path) -> None:
    make_dataset(few_images, tmp_path, say=lambda line: None)
    lists = tmp_path / "txt" / few_images
    counts = {"train/train_gt": 3, "train/train_noisyLabel": 3, "val": 1, "test": 2}
    for name, count in counts.items():
        assert read_checked_list(lists / f"{name}.txt", root=tmp_path)[1] == [(256, 256)] * count
    clean, noisy = (
        read_list(lists / f"train/{name}.txt", root=tmp_path)[0] for name in ("train_gt", "train_noisyLabel")
    )
    assert clean.image == noisy.image
    image, mask = simulate_image(few_images, image_rng(few_images, "train", 0))
    np.testing.assert_array_equal(read_image(clean.image), image)
    np.testing.assert_array_equal(read_label(clean.label), mask)
    flipped = read_label(noisy.label) != mask
    assert flipped[mask == 1].sum() == np.floor(0.3 * mask.sum() + 0.5)
    assert flipped[mask == 0].sum() == np.floor(0.3 * (1 - mask).sum() + 0.5)


def test_an_interrupted_generation_is_made_again_a_finished_one_is_not(few_images: str, tmp_path: Path) -> None:
    lines: list[str] = []
    make_dataset(few_images, tmp_path, say=lines.append)
    folder = tmp_path / "datasets" / few_images
    image = folder / "val" / "images" / "000.tif"
    content, written = image.read_bytes(), image.stat().st_mtime_ns
    assert len(lines) == 1

    make_dataset(few_images, tmp_path, say=lines.append)
    assert len(lines) == 1 and image.stat().st_mtime_ns == written

    image.write_bytes(content[: len(content) // 2])  # as a kill would leave it: cut, and no marker yet
    (folder / simulate.MARKER).unlink()
    make_dataset(few_images, tmp_path, say=lines.append)
    assert len(lines) == 2 and image.read_bytes() == content

    image.unlink()  # finished, but a file is gone
    make_dataset(few_images, tmp_path, say=lines.append)
    assert len(lines) == 3 and image.read_bytes() == content


def test_a_set_of_another_version_is_kept_and_told(
    few_images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset(few_images, tmp_path, say=lambda line: None)
    marker = tmp_path / "datasets" / few_images / simulate.MARKER
    assert read_json(marker)["version"] == simulate.VERSION
    monkeypatch.setattr(simulate, "VERSION", simulate.VERSION + 1)
    lines: list[str] = []
    make_dataset(few_images, tmp_path, say=lines.append)
    assert len(lines) == 1 and few_images in lines[0] and "another version" in lines[0]
    assert read_json(marker)["version"] == simulate.VERSION - 1


@pytest.mark.parametrize("make", [make_dataset, lambda name: simulate_image(name, np.random.default_rng(0))])
def test_an_unknown_name_lists_the_known_ones(make) -> None:
    with pytest.raises(UserError, match="'golgi_sim' is unknown.*er_sim, mito_sim, nuc_sim"):
        make("golgi_sim")
