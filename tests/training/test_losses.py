"""Every loss: known answers, exact gradients, ignored pixels, extreme inputs, and batches that may be divided."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.transition_matrix import TransitionMatrix
from training.losses import (
    LOSSES,
    SegmentationLoss,
    frequency_weights,
    needs_transition_matrix,
    parse_loss,
    refuse_shares,
)
from training.losses.information import dmi_loss
from training.losses.pixel import boundary_cross_entropy, boundary_nearness, cross_entropy, focal_loss
from training.losses.region import soft_cl_dice_loss, soft_dice_loss, soft_iou_loss, soft_skeleton, tversky_loss
from utils.cli import UserError

Q2 = TransitionMatrix([[0.9, 0.1], [0.3, 0.7]])
Q3 = TransitionMatrix([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.2, 0.8]])
SEVERAL = [name for name in LOSSES if not LOSSES[name].binary_only]
CASES = [(name, 1) for name in LOSSES] + [(name, 3) for name in SEVERAL]
NON_SPATIAL = [case for case in CASES if not LOSSES[case[0]].spatial]
MIXED = "bce+0.5*dice+2*mae+tversky(alpha=0.4)+dmi"


def make_loss(spec: str, channels: int, **options: object) -> SegmentationLoss:
    return SegmentationLoss(spec, channels, transition_matrix=Q2 if channels == 1 else Q3, **options)


def draw(channels: int, size: int = 6, batch: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 logits and uint8 labels with some pixels ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, channels, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, max(channels, 2), (batch, size, size), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return logits, labels


def logits_of(scores: list[list[float]]) -> torch.Tensor:
    """Binary float64 logits (1, 1, H, W) of the given scores."""
    return torch.tensor(scores, dtype=torch.float64).logit()[None, None]


SCORES = logits_of([[0.8, 0.4], [0.2, 0.5]])
LABELS = torch.tensor([[[1, 1], [0, 255]]], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("function", "params", "expected"),
    [
        (cross_entropy, {}, (0.223144 + 0.916291 + 0.223144) / 3),
        (focal_loss, {"gamma": 2.0}, (0.04 * 0.223144 + 0.36 * 0.916291 + 0.04 * 0.223144) / 3),
        (soft_dice_loss, {"smooth": 0.0}, 1 - 2.4 / 3.4),
        (soft_dice_loss, {"smooth": 1.0}, 1 - 3.4 / 4.4),
        (soft_iou_loss, {"smooth": 0.0}, 1 - 1.2 / 2.2),
        (tversky_loss, {"alpha": 0.3, "beta": 0.7, "smooth": 0.0}, 1 - 1.2 / (1.2 + 0.3 * 0.2 + 0.7 * 0.8)),
        (dmi_loss, {}, -math.log(1.2 / 3 - 1.4 / 3 * 2 / 3)),
    ],
)
def test_hand_computed(function, params, expected):
    assert function(SCORES, LABELS, **params).item() == pytest.approx(expected, abs=5e-6)


def test_boundary_weights_by_hand():
    labels = torch.tensor([[[0, 0, 0, 1, 1, 255]]])
    nearness = boundary_nearness(labels, sigma=1.0)
    near = [math.exp(-2), math.exp(-0.5), 1, 1, math.exp(-0.5)]
    assert nearness[0, 0, :5].tolist() == pytest.approx(near)
    scores = logits_of([[0.1, 0.2, 0.3, 0.6, 0.7, 0.9]])
    weights = [1 + 2 * value for value in near]
    losses = [-math.log(value) for value in (0.9, 0.8, 0.7, 0.6, 0.7)]
    expected = np.average(losses, weights=weights)
    assert boundary_cross_entropy(scores, labels, weight=2.0, sigma=1.0).item() == pytest.approx(expected)


def test_cl_dice_by_hand():
    labels = torch.zeros(1, 5, 5, dtype=torch.uint8)
    labels[0, 2] = 1  # a line of five pixels, of which the prediction holds four and nothing else
    logits = torch.where(labels == 1, 100.0, -100.0)[:, None].double()
    logits[0, 0, 2, 4] = -100.0
    loss = soft_cl_dice_loss(logits, labels, iterations=3, smooth=0.0)
    assert loss.item() == pytest.approx(1 - 2 * 1 * 0.8 / 1.8)


def test_cl_dice_ignores_width():
    labels = torch.zeros(1, 15, 15, dtype=torch.uint8)
    labels[0, 5:10] = 1
    thin = torch.full((1, 1, 15, 15), -100.0)
    thin[0, 0, 7] = 100.0
    assert soft_cl_dice_loss(thin, labels, iterations=3).item() < 0.01
    assert soft_dice_loss(thin, labels).item() > 0.5


def test_soft_skeleton_keeps_the_middle_of_a_bar():
    bar = torch.zeros(1, 1, 11, 11)
    bar[..., 4:7, :] = 1
    skeleton = soft_skeleton(bar, 3)
    assert skeleton[0, 0, 5].eq(1).all() and skeleton.sum() == 11


def test_cross_entropy_agrees_with_torch():
    logits, labels = draw(1)
    counted = labels != 255
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][counted], labels[counted].double())
    assert SegmentationLoss("bce")(logits, labels).item() == pytest.approx(expected.item())
    logits, labels = draw(3)
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    for given in (None, weights):
        expected = F.cross_entropy(logits, labels.long(), weight=given, ignore_index=255)
        assert SegmentationLoss("ce", 3, class_weights=given)(logits, labels).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", [name for name in SEVERAL if LOSSES[name].weighting == "pixels"] + ["dmi"])
def test_one_logit_equals_two_classes(name):
    logits, labels = draw(1)
    one = SegmentationLoss(name, 1, transition_matrix=Q2)
    two = SegmentationLoss(name, 2, transition_matrix=Q2)
    both = torch.cat([torch.zeros_like(logits), logits], 1)
    assert one(logits, labels).item() == pytest.approx(two(both, labels).item())


@pytest.mark.parametrize("name", ["dice", "iou", "tversky", "nr_dice", "cldice"])
def test_region_losses_average_the_classes_present(name):
    logits, labels = draw(4, batch=1)
    labels[labels == 2] = 255
    ignored = labels == 255
    function = LOSSES[name].function
    values = []
    for label in (1, 3) if name == "cldice" else (0, 1, 3):
        one_against_rest = (labels == label).to(torch.uint8).masked_fill(ignored, 255)
        values.append(function(logits.softmax(1)[:, [label]].logit(), one_against_rest).item())
    assert function(logits, labels).item() == pytest.approx(np.mean(values))


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_gradients_are_exact(name, channels):
    logits, labels = draw(channels, size=5, batch=2)
    loss = make_loss(name, channels).double()
    assert torch.autograd.gradcheck(lambda values: loss(values, labels), logits.requires_grad_())
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in loss.parameters())


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_ignored_pixels_count_nowhere(name, channels):
    logits, labels = draw(channels)
    loss = make_loss(name, channels)
    logits.requires_grad_()
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    ignored = (labels == 255)[:, None].expand_as(logits)
    assert gradient[ignored].eq(0).all() and gradient[~ignored].ne(0).any()
    other = torch.where(ignored, torch.full_like(logits, 7.0), logits)
    assert loss(other, labels).item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize(("name", "channels"), CASES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("kind", ["mixed", "background", "ignored"])
def test_finite_whatever_comes(name, channels, scale, kind):
    logits, labels = draw(channels)
    logits = (logits.sign() * scale).float().requires_grad_()
    labels = {"mixed": labels, "background": labels * 0, "ignored": labels * 0 + 255}[kind]
    loss = make_loss(name, channels)
    value = loss(logits, labels)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    if kind == "ignored":
        assert value == 0 and loss.weights(labels).eq(0).all() and logits.grad.eq(0).all()


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_half_precision_is_raised(name, channels):
    logits, labels = draw(channels)
    loss = make_loss(name, channels)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(logits.bfloat16(), labels)
    assert value.dtype == torch.float32
    assert value.item() == loss(logits.bfloat16().float(), labels).item()


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "channels"), CASES)
def test_a_gpu_gives_the_same_values_and_gradients(name, channels):
    logits, labels = draw(channels, size=32)
    results = []
    for device in ("cpu", "cuda"):
        moved = logits.detach().to(device).requires_grad_()
        value = make_loss(name, channels).double().to(device)(moved, labels.to(device))
        value.backward()
        results.append((value.detach().cpu(), moved.grad.cpu()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)
    with torch.autocast("cuda", torch.float16):
        value = make_loss(name, channels).cuda()(logits.cuda().half(), labels.cuda())
    assert value.dtype == torch.float32 and value.isfinite()


@pytest.mark.parametrize(("name", "channels"), NON_SPATIAL)
def test_places_do_not_matter(name, channels):
    logits, labels = draw(channels)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(1))
    moved = logits.flatten(2)[..., order].view_as(logits), labels.flatten(1)[:, order].view_as(labels)
    loss = make_loss(name, channels)
    assert loss(*moved).item() == pytest.approx(loss(logits, labels).item())


@pytest.mark.parametrize(("name", "channels"), CASES)
def test_flips_and_transposition_do_not_matter(name, channels):
    logits, labels = draw(channels)
    loss = make_loss(name, channels)
    expected = pytest.approx(loss(logits, labels).item())
    assert loss(logits.flip(-1), labels.flip(-1)).item() == expected
    assert loss(logits.transpose(-1, -2), labels.transpose(-1, -2)).item() == expected


@pytest.mark.parametrize("name", ["bce", "dice", "iou", "tversky", "focal", "boundary", "cldice", "mae", "gce", "rce"])
def test_perfect_scores_cost_nothing(name):
    _, labels = draw(1, size=12)
    logits = torch.where(labels == 1, 50.0, -50.0)[:, None]
    assert make_loss(name, 1)(logits, labels).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("spec", "channels"), [*CASES, (MIXED, 1), ("ce+dice+dmi", 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_parts_of_a_batch_add_up(spec, channels, weighted):
    logits, labels = draw(channels, batch=4)
    labels[1] = 255
    class_weights = np.linspace(0.5, 2, max(channels, 2)) if weighted else None
    loss = make_loss(spec, channels, class_weights=class_weights).double()
    whole_logits, part_logits = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    whole = loss(whole_logits, labels)
    weights = loss.weights(labels[:1]) + loss.weights(labels[1:])
    parts = loss(part_logits[:1], labels[:1], weights) + loss(part_logits[1:], labels[1:], weights)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)
    whole.backward()
    parts.backward()
    torch.testing.assert_close(part_logits.grad, whole_logits.grad, rtol=1e-12, atol=1e-14)


def test_weights_are_pixels_or_images():
    labels = torch.full((3, 4, 4), 255, dtype=torch.uint8)
    labels[0], labels[1, 0] = 0, 1
    assert SegmentationLoss("bce+dice").weights(labels).tolist() == [20, 2]
    assert SegmentationLoss("bce+dice", class_weights=[0.5, 3]).weights(labels).tolist() == [8 + 12, 2]


def test_frequency_weights_balance_the_classes():
    counts = [900, 90, 0, 10]
    weights = frequency_weights(counts)
    totals = weights * counts
    assert totals[[0, 1, 3]] == pytest.approx(1000 / 3) and weights[2] == 1
    assert SegmentationLoss("ce", 4, class_weights=weights).weight_of_label[255] == 0


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_dmi_does_not_change_when_classes_swap(classes, rng):
    logits, labels = draw(classes)
    order = torch.as_tensor(rng.permutation(classes))
    expected = dmi_loss(logits, labels)
    torch.testing.assert_close(dmi_loss(logits[:, order], labels), expected)
    swapped = order[labels.long().clamp(max=classes - 1)].masked_fill(labels == 255, 255)
    torch.testing.assert_close(dmi_loss(logits, swapped), expected)


def test_dmi_is_the_determinant_and_for_two_classes_the_covariance():
    for classes in (2, 3, 4):
        logits, labels = draw(classes, batch=1)
        counted = (labels != 255)[0]
        scores = logits.softmax(1)[0][:, counted].numpy()
        one_hot = np.eye(classes)[labels[0][counted].numpy()].T
        pixels = scores.shape[1]
        determinant = abs(np.linalg.det(scores @ one_hot.T)) / pixels**classes
        assert dmi_loss(logits, labels).item() == pytest.approx(-np.log(determinant + 1e-6 / classes**classes))
        if classes == 2:
            covariance = np.cov(scores[1], one_hot[1], bias=True)[0, 1]
            assert determinant == pytest.approx(abs(covariance))
            binary = dmi_loss((logits[:, 1] - logits[:, 0])[:, None], labels)
            assert binary.item() == pytest.approx(-np.log(abs(covariance) + 0.25e-6))


def test_dmi_of_labels_of_one_class_has_no_gradient():
    logits = draw(1)[0].requires_grad_()
    value = dmi_loss(logits, torch.zeros(3, 6, 6, dtype=torch.uint8)).sum()
    value.backward()
    assert value.isfinite() and logits.grad.eq(0).all()


def test_dmi_is_precise_for_faint_foreground():
    logits, labels = draw(1, size=256, batch=1)
    labels = (torch.rand(1, 256, 256, generator=torch.Generator().manual_seed(3)) < 0.001).to(torch.uint8)
    exact = dmi_loss(logits * 0.01, labels).item()
    assert dmi_loss((logits * 0.01).float(), labels).item() == pytest.approx(exact, rel=1e-3)


def test_dice_and_iou_are_tversky_losses():
    logits, labels = draw(1)
    dice = tversky_loss(logits, labels, alpha=0.5, beta=0.5, smooth=0.5)
    torch.testing.assert_close(dice, soft_dice_loss(logits, labels, smooth=1.0))
    torch.testing.assert_close(tversky_loss(logits, labels, alpha=1.0, beta=1.0), soft_iou_loss(logits, labels))


def test_focal_without_gamma_is_cross_entropy():
    logits, labels = draw(3)
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0), cross_entropy(logits, labels))


def test_specs_are_sums():
    logits, labels = draw(1)
    parts = [SegmentationLoss(spec)(logits, labels) for spec in ("bce", "dice", "focal(gamma=1)")]
    whole = SegmentationLoss("BCE + 0.5*dice+ 1e-1 * focal( gamma = 1 )")(logits, labels)
    torch.testing.assert_close(whole, parts[0] + 0.5 * parts[1] + 0.1 * parts[2])
    assert parse_loss("tversky(alpha=0.3,beta=7e-1)")[0].params == {"alpha": 0.3, "beta": 0.7}
    assert needs_transition_matrix("0.5*forward+dice") and not needs_transition_matrix("nce+rce")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "bce+0.5*dice"),
        ("bce+", "joined by"),
        ("+bce", "joined by"),
        ("bce-dice", "-dice"),
        ("2**dice", "joined by"),
        ("lovasz", "choose from: bce, ce, dice"),
        ("focal(gama=2)", "gamma=2"),
        ("bce(x=1)", "parameters are: none"),
        ("focal(gamma=-1)", "from 0 to 10"),
        ("focal(gamma=nan)", "from 0 to 10"),
        ("focal(gamma)", "not of the form key=value"),
        ("cldice(iterations=2.5)", "whole number"),
        ("forward", "--transition_matrix"),
    ],
)
def test_faulty_specs_are_named(spec, message):
    with pytest.raises(UserError) as error:
        SegmentationLoss(spec)
    assert message in str(error.value)


def test_contradictions_are_named():
    with pytest.raises(UserError, match="use ce"):
        SegmentationLoss("bce+dice", num_classes=3)
    with pytest.raises(UserError, match="use ce"):
        SegmentationLoss("bce")(*draw(3))
    with pytest.raises(UserError, match="3 class weights were given for 2 classes"):
        SegmentationLoss("bce", 1, class_weights=[1, 2, 3])
    with pytest.raises(UserError, match="above 0"):
        SegmentationLoss("ce", 3, class_weights=[0, 0, 0])


@pytest.mark.parametrize("name", [name for name in LOSSES if not LOSSES[name].spatial])
@pytest.mark.parametrize("class_weights", [None, (1.0, 3.0)])
def test_shares_of_zero_and_one_are_labels(name, class_weights):
    logits, labels = draw(1)
    loss = make_loss(name, 1, class_weights=class_weights)
    pairs = [(found(labels), found(labels.float())) for found in (lambda own: loss(logits, own), loss.weights)]
    for hard, soft in pairs:
        torch.testing.assert_close(soft.double(), hard.double(), rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_shares_is_least_at_the_shares():
    _, labels = draw(1)
    shares = torch.rand(labels.shape).clamp(0.05, 0.95).masked_fill(labels == 255, 255)
    known = shares != 255
    logits = torch.logit(shares.masked_fill(~known, 0.5))[:, None].requires_grad_()
    make_loss("bce", 1)(logits, shares).backward()
    assert logits.grad.abs().max() < 1e-7
    expected = F.binary_cross_entropy_with_logits(logits[:, 0][known], shares[known])
    torch.testing.assert_close(make_loss("bce", 1)(logits, shares), expected)


def test_losses_of_outlines_refuse_shares_by_name():
    with pytest.raises(UserError, match="boundary looks at the outlines"):
        refuse_shares("bce+boundary(weight=2)")
    refuse_shares(MIXED)
