"""The vote that suits noise and size: known noise and sizes, better masks on dim images, noise told from signal."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from datasets.simulation import SIMULATED, detect, expected_electrons
from evaluation.classical import BASELINES
from evaluation.classical.choice import MIN_AGREEMENT, choose_vote, noise_agreement, noise_level, structure_size
from evaluation.classical.methods import VOTERS, standardized, vote
from evaluation.scores import confusion_counts, f1


def disks(radius: float, size: int = 192) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    step = 4 * radius
    return np.hypot(y % step - step / 2, x % step - step / 2).__le__(radius).astype(np.float32)


def noisy(image: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    return (image + np.random.default_rng(seed).normal(0, deviation, image.shape)).astype(np.float32)


@pytest.mark.parametrize("deviation", [0.1, 0.5, 2.0])
def test_noise_is_measured_beside_structures_and_on_slopes(deviation):
    slope = np.linspace(0, 5, 192, dtype=np.float32)
    assert noise_level(noisy(disks(12) + slope, deviation)) == pytest.approx(deviation, rel=0.1)


def test_size_grows_with_the_structures_and_not_with_noise():
    sizes = [structure_size(standardized(noisy(disks(radius), 0.1))) for radius in (3, 6, 12, 20)]
    assert sizes == sorted(sizes) and len(set(sizes)) >= 3
    assert structure_size(standardized(noisy(disks(12), 0.7))) == pytest.approx(sizes[2], rel=0.5)


@pytest.mark.parametrize(
    ("radius", "deviation", "sigma", "last"),
    [(3, 0.05, 0, "ridge"), (3, 0.3, 1, "ridge"), (14, 0.3, 2, "ridge"), (14, 1.0, 2, "difference_of_gaussians")],
)
def test_the_vote_follows_noise_and_size(radius, deviation, sigma, last):
    chosen = choose_vote([noisy(disks(radius), deviation, seed) for seed in range(3)])
    assert (chosen.sigma, chosen.voters[-1]) == (sigma, last)
    assert ("smoothed" in str(chosen)) == (sigma > 0) and last in str(chosen)


def test_quiet_images_get_the_plain_vote():
    image = noisy(disks(6), 0.05)
    assert np.array_equal(choose_vote([image])(image), BASELINES["vote"](image))


@pytest.mark.parametrize("name", ["mito_sim", "nuc_sim"])
def test_dim_images_get_better_masks(name, rng):
    recipe = SIMULATED[name]
    recipe = replace(recipe, microscope=replace(recipe.microscope, snr=(1.0, 1.0)))
    specimen, electrons = expected_electrons(recipe, rng, 192)
    image = detect(electrons, recipe.microscope, rng)
    plain, chosen = (
        float(f1(confusion_counts(method(image) >= 0.5, specimen.mask))) for method in (vote, choose_vote([image]))
    )
    assert chosen > plain + 0.05


def test_noise_agrees_with_itself_by_chance_and_structures_do_not():
    alone = noisy(np.zeros((128, 128), np.float32), 1.0)
    assert noise_agreement(vote, alone) < MIN_AGREEMENT and noise_agreement(choose_vote([alone]), alone) < MIN_AGREEMENT
    assert noise_agreement(vote, noisy(disks(6, 128), 0.1)) > 0.9
    assert noise_agreement(vote, np.zeros((64, 64), np.float32)) == 0


def test_wide_structures_are_not_smoothed_away():
    image, truth = noisy(disks(20), 0.5), disks(20).astype(np.uint8)
    smooth = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 2)
    assert f1(confusion_counts(smooth >= 0.5, truth)) > 0.97
    assert f1(confusion_counts(vote(image, 2.0, VOTERS) >= 0.5, truth)) > 0.9
