"""Masks are the best of all or of 30 by brute force; directions, labels and rules are functions of their arguments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.label_noise import EMS_SPEC
from datasets.labels import IGNORE
from evaluation.classical.methods import BASELINES
from training.label_free.masks import (
    CANDIDATES,
    CRITERIA,
    INITIAL_LABELS,
    anneal_sampling,
    extract_structure,
    has_settled,
    initial_mask,
    mask_agreement,
    orient_masks,
    search_masks,
    select_masks,
    separation,
    stretch,
)
from training.losses.density import density_cross_entropy, density_target
from training.losses.functions import cross_entropy
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


def soft_iou(scores: torch.Tensor, mask: torch.Tensor) -> float:
    p, s = scores.double().flatten(), mask.double().flatten()
    return float((p * s).sum() / (p + s - p * s).sum())


def negative_bce(scores: torch.Tensor, mask: torch.Tensor) -> float:
    p = scores.double().flatten().clamp(1e-7, 1 - 1e-7)
    return -float(F.binary_cross_entropy(p, mask.double().flatten()))


def candidates(values: torch.Tensor) -> list[torch.Tensor]:
    """The masks of one stretched image at the 30 thresholds, from the highest down."""
    return [values * (CANDIDATES + 1) > place for place in range(CANDIDATES, 0, -1)]


@pytest.mark.parametrize("hesitant", [False, True])
@pytest.mark.parametrize("name, figure", [("dmi", determinant), ("iou", soft_iou), ("bce", negative_bce)])
def test_the_search_finds_the_best_of_all_candidates(name, figure, hesitant, rng):
    scores = make_scores(rng, hesitant=hesitant).float()
    found = search_masks(scores, name)
    for image, mask, values in zip(scores, found, stretch(scores), strict=True):
        values = values.view_as(image)
        best = max(figure(values, candidate) for candidate in candidates(values))
        assert figure(values, mask) == pytest.approx(best, rel=1e-4)
        assert any(torch.equal(mask, candidate) for candidate in candidates(values))
        assert mask.any() and not mask.all(), "neither nothing nor all, even where the network is undecided"


@pytest.mark.parametrize("hesitant", [False, True])
def test_the_closed_form_beats_every_candidate_and_lies_between_two(hesitant, rng):
    scores = make_scores(rng, hesitant=hesitant).float()
    for image, closed, searched in zip(scores, select_masks(scores), search_masks(scores, "dmi"), strict=True):
        masks = [image > threshold for threshold in torch.linspace(float(image.min()), float(image.max()), 30)]
        assert determinant(image, closed) >= max(determinant(image, mask) for mask in masks) - 1e-9
        assert determinant(image, closed) >= determinant(image, searched) >= 0.97 * determinant(image, closed)
        assert (closed & ~searched).sum() * (searched & ~closed).sum() == 0, "thresholds of one map are nested"


def test_separation_is_the_determinant_of_the_best_mask(rng):
    scores = torch.cat([make_scores(rng), make_scores(rng, hesitant=True)])
    best = [determinant(image, mask) for image, mask in zip(scores, select_masks(scores.float()), strict=True)]
    assert separation(scores).tolist() == pytest.approx(best, rel=1e-4)
    assert separation(torch.full((1, 1, 4, 4), 0.7)).item() == pytest.approx(0, abs=1e-6)


def test_swapping_classes_swaps_the_dmi_mask(rng):
    scores = make_scores(rng).double()
    assert torch.equal(select_masks(1 - scores), ~select_masks(scores))


def test_bce_selects_what_is_more_likely_than_not(rng):
    scores = make_scores(rng, size=32).float()
    scores = torch.cat([scores.flatten(1), torch.tensor([[0.0, 1.0]] * 4)], 1)[:, None, None]  # spans [0, 1] already
    unsure = (scores - 0.5).abs() < 1 / (CANDIDATES + 1)
    assert torch.equal(search_masks(scores, "bce")[~unsure], (scores > 0.5)[~unsure])


def test_each_image_is_selected_on_its_own(rng):
    scores = make_scores(rng)
    scores[1] = 0.01 * scores[1]
    for name in CRITERIA:
        guide = scores.sqrt()
        together = select_masks(scores, name, guide)
        alone = torch.cat([select_masks(scores[i : i + 1], name, guide[i : i + 1]) for i in range(4)])
        assert torch.equal(together, alone)


@pytest.mark.parametrize("name", CRITERIA)
def test_constant_scores_give_an_empty_mask(name):
    scores = torch.full((2, 1, 8, 8), 0.3)
    assert not select_masks(scores, name, torch.rand(2, 1, 8, 8)).any()


def test_contrast_finds_the_width_that_the_image_shows():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    distance = (y - 32).hypot(x - 32)
    truth = distance <= 10
    scores = torch.exp(-(distance**2) / 200)[None, None]  # right place, no width
    found = search_masks(scores, "contrast", 5 + 40000 * truth[None, None])
    assert (found[0, 0] ^ truth).sum() <= 0.25 * truth.sum()
    assert (select_masks(scores)[0, 0] ^ truth).sum() > truth.sum(), "which the scores alone do not tell"
    with pytest.raises(ValueError, match="guide"):
        search_masks(scores, "contrast")


def test_an_unknown_criterion_names_those_that_exist(rng):
    with pytest.raises(UserError, match="dmi, iou, bce, contrast"):
        search_masks(make_scores(rng), "best")


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
    mask = np.zeros((64, 64), np.uint8)
    mask[10:21, 8:56] = mask[40:45, 8:56] = 1
    label = extract_structure(mask, seed=3, epoch=2, image_id="a.tif")
    shifted = extract_structure(mask, seed=3, epoch=2, image_id="a.tif", spec="skeleton+shift:1")
    assert label.sum() == np.floor(0.1 * shifted.sum() + 0.5)
    assert not label[(shifted == 0)].any(), "a prefix of a spec draws the same"
    rows = np.unique(np.nonzero(shifted)[0])
    assert set(rows) <= {14, 15, 16, 41, 42, 43}, "within a pixel of the center lines"
    assert np.array_equal(label, extract_structure(mask, 3, 2, "a.tif")), "deterministic"
    for seed, epoch, image_id in ((4, 2, "a.tif"), (3, 1, "a.tif"), (3, 2, "b.tif")):
        assert not np.array_equal(label, extract_structure(mask, seed, epoch, image_id))
    assert np.array_equal(extract_structure(mask, 3, 2, "a.tif", spec="clean"), mask)


def test_sampling_anneals_from_the_spec_to_the_final_share():
    shares = [anneal_sampling(EMS_SPEC, progress, 0.8) for progress in (0, 1 / 3, 2 / 3, 1)]
    assert shares == [f"skeleton+shift:1+sample:{share}" for share in ("0.1", "0.2", "0.4", "0.8")]
    assert anneal_sampling("skeleton+shift:1", 0.5, 0.8) == "skeleton+shift:1"
    assert anneal_sampling("sample:0", 0.5, 0.8) == "sample:0"


@pytest.mark.parametrize("name", INITIAL_LABELS)
def test_initial_labels_are_what_they_say(name, rng):
    image = rng.normal(100, 5, (48, 48))
    image[10:15, 4:44] += 80
    image[30:35, 4:44] += 80
    image = image.astype(np.uint16)
    mask = initial_mask(name, image, "bright", 0, "a.tif")
    assert mask.dtype == np.uint8 and mask.shape == image.shape and set(np.unique(mask)) <= {0, 1}
    if name in BASELINES:
        assert np.array_equal(mask, BASELINES[name](image) >= 0.5)
        dark = initial_mask(name, 500 - image.astype(np.float32), "dark", 0, "a.tif")
        assert np.mean(mask != dark) < 0.01
    else:
        assert mask.mean() == pytest.approx({"black": 0, "random": 0.5}[name], abs=0.05)
    with pytest.raises(UserError, match="black, random, otsu"):
        initial_mask("white", image, "bright", 0, "a.tif")


def test_density_is_the_expectation_of_shifting():
    line = np.zeros((40, 40), np.uint8)
    line[20, 5:35] = 1
    draws = np.mean([extract_structure(line, 0, epoch, "a", "shift:2") for epoch in range(100)], 0)
    target = density_target(torch.from_numpy(line)[None], 2)[0].numpy()
    hit = 1 - (1 - 1 / 25) ** 5  # chance that any of the five line pixels in reach lands on a pixel
    assert target.max() == 1
    assert np.allclose(draws[:, 10:30].mean(1), hit * target[:, 20], atol=0.03)


def test_density_target_of_bandwidth_zero_is_the_label(rng):
    labels = torch.from_numpy((rng.random((3, 12, 14)) < 0.3).astype(np.uint8))
    labels[2] = 0
    assert torch.equal(density_target(labels, 0), labels.float())
    assert not density_target(labels, 3)[2].any(), "no foreground, no density"


def test_density_target_leaves_out_what_is_ignored_or_outside():
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, :, :4] = 1
    labels[:, :, 4:] = IGNORE
    assert torch.equal(density_target(labels, 2)[0, :, :6], torch.ones(8, 6)), "all that is known is foreground"
    assert not density_target(labels, 2)[0, :, 6:].any()


def test_density_cross_entropy_is_a_loss_like_the_others(rng):
    logits = torch.from_numpy(rng.normal(size=(3, 1, 10, 12))).requires_grad_()
    labels = torch.from_numpy((rng.random((3, 10, 12)) < 0.3).astype(np.uint8))
    labels[:, 0] = IGNORE
    labels[2] = IGNORE
    assert torch.allclose(density_cross_entropy(logits, labels, bandwidth=0), cross_entropy(logits, labels))
    loss = density_cross_entropy(logits, labels, bandwidth=1)
    assert loss.shape == (3,) and loss[2] == 0
    loss.sum().backward()
    assert not logits.grad[2].any() and not logits.grad[:, :, 0].any() and logits.grad[0].any()
    target = density_target(labels, 1).clamp(1e-6, 1 - 1e-6)[:, None]
    at_best = density_cross_entropy(target.logit(), labels, bandwidth=1)[:2]
    assert (at_best <= loss[:2]).all(), "least where scores equal the density"


def test_agreement_is_the_dice_of_two_masks():
    before = torch.zeros(4, 1, 4, 4, dtype=torch.bool)
    before[0, 0, :2], before[1, 0, :2], before[2, 0, :2] = True, True, True
    after = torch.zeros_like(before)
    after[0, 0, :2], after[1, 0, 1:3] = True, True
    assert mask_agreement(before, after).tolist() == [1, 0.5, 0, 1]
    assert torch.equal(mask_agreement(before, after), mask_agreement(after, before))


@pytest.mark.parametrize(
    "agreements, settled",
    [([], False), ([1.0, 1.0], False), ([0.2, 0.995, 0.99, 1.0], True), ([0.995, 0.98, 0.995], False)],
)
def test_training_has_settled_after_three_quiet_refreshes(agreements, settled):
    assert has_settled(agreements) is settled
