"""Masks are the best of all or of 30 by brute force; directions, labels and rules are functions of their arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.label_noise import EMS_SPEC, make_noisy_label
from evaluation.classical import BASELINES
from evaluation.classical.choice import choose_vote
from training.label_free.masks import (
    CANDIDATES,
    CRITERIA,
    INITIAL_LABELS,
    bce_mask,
    dmi_mask,
    initial_mask,
    mask_agreement,
    orient_masks,
    select_masks,
    stretch,
)
from utils.cli import UserError


def make_scores(rng: np.random.Generator, batch: int = 4, size: int = 24, hesitant: bool = False) -> torch.Tensor:
    """Smooth random scores (B, 1, H, W); hesitant ones lie in 0.45 … 0.55 as those of a fresh network."""
    noise = torch.from_numpy(rng.normal(size=(batch, 1, size, size)))
    smooth = F.avg_pool2d(noise, 5, 1, 2) * 5
    return 0.5 + 0.05 * smooth.tanh() if hesitant else torch.sigmoid(3 * smooth - 2)


def determinant(scores: torch.Tensor, mask: torch.Tensor) -> float:
    """|det(P Sᵀ)| / N² of one image, from the two stacks as they are defined."""
    p, s = scores.double().flatten(), mask.double().flatten()
    return float(torch.linalg.det(torch.stack([p, 1 - p]) @ torch.stack([s, 1 - s]).T).abs()) / len(p) ** 2


def negative_bce(scores: torch.Tensor, mask: torch.Tensor) -> float:
    p = scores.double().flatten().clamp(1e-7, 1 - 1e-7)
    return -float(F.binary_cross_entropy(p, mask.double().flatten()))


def candidates(values: torch.Tensor) -> list[torch.Tensor]:
    """The masks of one stretched image at the 30 thresholds, from the highest down."""
    return [values * (CANDIDATES + 1) > place for place in range(CANDIDATES, 0, -1)]


@pytest.mark.parametrize("hesitant", [False, True])
def test_the_bce_mask_is_the_best_of_all_candidates(hesitant, rng):
    scores = make_scores(rng, hesitant=hesitant).float()
    found = bce_mask(scores)
    for image, mask, values in zip(scores, found, stretch(scores), strict=True):
        values = values.view_as(image)
        best = max(negative_bce(values, candidate) for candidate in candidates(values))
        assert negative_bce(values, mask) == pytest.approx(best, rel=1e-4)
        assert any(torch.equal(mask, candidate) for candidate in candidates(values))
        assert mask.any() and not mask.all(), "neither nothing nor all, even where the network is undecided"


@pytest.mark.parametrize("hesitant", [False, True])
def test_the_closed_form_of_dmi_beats_every_threshold(hesitant, rng):
    for image in make_scores(rng, hesitant=hesitant).float():
        masks = [image > threshold for threshold in torch.linspace(float(image.min()), float(image.max()), 30)]
        assert determinant(image, dmi_mask(image[None])[0]) >= max(determinant(image, mask) for mask in masks) - 1e-9


def test_swapping_classes_swaps_the_dmi_mask(rng):
    scores = make_scores(rng).double()
    assert torch.equal(dmi_mask(1 - scores), ~dmi_mask(scores))


def test_bce_selects_what_is_more_likely_than_not(rng):
    scores = make_scores(rng, size=32).float()
    scores = torch.cat([scores.flatten(1), torch.tensor([[0.0, 1.0]] * 4)], 1)[:, None, None]  # spans [0, 1] already
    unsure = (scores - 0.5).abs() < 1 / (CANDIDATES + 1)
    assert torch.equal(bce_mask(scores)[~unsure], (scores > 0.5)[~unsure])


def test_each_image_is_selected_on_its_own(rng):
    scores = make_scores(rng)
    scores[1] = 0.01 * scores[1]
    for name in CRITERIA:
        together = select_masks(scores, name)
        alone = torch.cat([select_masks(scores[i : i + 1], name) for i in range(4)])
        assert torch.equal(together, alone)


@pytest.mark.parametrize("name", CRITERIA)
def test_constant_scores_give_an_empty_mask(name):
    scores = torch.full((2, 1, 8, 8), 0.3)
    assert not select_masks(scores, name).any()


def test_an_unknown_criterion_names_those_that_exist(rng):
    with pytest.raises(UserError, match="dmi, bce"):
        select_masks(make_scores(rng), "best")


@pytest.mark.parametrize("foreground, sign", [("bright", 1), ("dark", -1)])
def test_masks_are_oriented_by_brightness(foreground, sign, rng):
    truth = make_scores(rng) > 0.3
    images = sign * (truth + 0.1 * torch.from_numpy(rng.normal(size=truth.shape))).expand(-1, 3, -1, -1)
    for masks in (truth, ~truth):
        assert torch.equal(orient_masks(masks, images, foreground), truth)


@pytest.mark.parametrize("size", [16, 24, 60])
def test_the_minority_is_the_structure_at_any_size(size, rng):
    masks = make_scores(rng, size=size) > 0.3
    oriented = orient_masks(masks, torch.zeros_like(masks), "minority")
    assert torch.equal(oriented, orient_masks(~masks, torch.zeros_like(masks), "minority"))
    assert (oriented.float().mean((1, 2, 3)) <= 0.5).all()
    half = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    half[..., :2] = True
    assert torch.equal(orient_masks(half, half, "minority"), half), "exactly half stays"


def test_auto_must_be_resolved_before_masks_are_oriented():
    with pytest.raises(UserError, match="bright, dark, minority"):
        orient_masks(torch.zeros(1, 1, 4, 4, dtype=torch.bool), torch.zeros(1, 1, 4, 4), "auto")


def test_structures_are_a_tenth_of_the_shifted_skeleton():
    def extract_structure(mask: np.ndarray, seed: int, epoch: int, image_id: str, spec: str = EMS_SPEC) -> np.ndarray:
        return make_noisy_label(mask, spec, seed, image_id, epoch=epoch)

    mask = np.zeros((64, 64), np.uint8)
    mask[10:21, 8:56] = mask[40:45, 8:56] = 1
    label = extract_structure(mask, 3, 2, "a.tif")
    shifted = extract_structure(mask, 3, 2, "a.tif", "skeleton+shift:1")
    assert label.sum() == np.floor(0.1 * shifted.sum() + 0.5)
    assert not label[(shifted == 0)].any(), "a prefix of a spec draws the same"
    rows = np.unique(np.nonzero(shifted)[0])
    assert set(rows) <= {14, 15, 16, 41, 42, 43}, "within a pixel of the center lines"
    assert np.array_equal(label, extract_structure(mask, 3, 2, "a.tif")), "deterministic"
    for seed, epoch, image_id in ((4, 2, "a.tif"), (3, 1, "a.tif"), (3, 2, "b.tif")):
        assert not np.array_equal(label, extract_structure(mask, seed, epoch, image_id))
    assert np.array_equal(extract_structure(mask, 3, 2, "a.tif", "clean"), mask)


@pytest.mark.parametrize("name", INITIAL_LABELS)
def test_initial_labels_are_what_they_say(name, rng):
    image = rng.normal(100, 5, (48, 48))
    image[10:15, 4:44] += 80
    image[30:35, 4:44] += 80
    image = image.astype(np.uint16)
    mask = initial_mask(name, image, "bright", seed=0, image_id="a.tif")
    assert mask.dtype == np.uint8 and mask.shape == image.shape and set(np.unique(mask)) <= {0, 1}
    if name in (*BASELINES, "auto"):
        segment = choose_vote([image]) if name == "auto" else BASELINES[name]
        assert np.array_equal(mask, segment(image) >= 0.5)
        dark = initial_mask(name, 500 - image.astype(np.float32), "dark", seed=0, image_id="a.tif")
        assert np.mean(mask != dark) < 0.01
    else:
        assert mask.mean() == pytest.approx({"black": 0, "random": 0.5}[name], abs=0.05)
    with pytest.raises(UserError, match="black, random, auto, otsu"):
        initial_mask("white", image, "bright", seed=0, image_id="a.tif")


def test_agreement_is_the_dice_of_two_masks():
    before = torch.zeros(4, 1, 4, 4, dtype=torch.bool)
    before[0, 0, :2], before[1, 0, :2], before[2, 0, :2] = True, True, True
    after = torch.zeros_like(before)
    after[0, 0, :2], after[1, 0, 1:3] = True, True
    assert mask_agreement(before, after).tolist() == [1, 0.5, 0, 1]
    assert torch.equal(mask_agreement(before, after), mask_agreement(after, before))
