"""Losses for wrong labels: known answers, and what correction by the transition matrix promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from datasets.transition_matrix import TransitionMatrix
from training.losses import SegmentationLoss
from training.losses import robust as rl
from training.losses.pixel import cross_entropy
from utils.cli import UserError

Q2 = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
Q2_INVERSE = torch.tensor([[0.7, -0.1], [-0.3, 0.9]], dtype=torch.float64) / 0.6
Q3 = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.2, 0.8]], dtype=torch.float64)
SCORES = torch.tensor([[0.8, 0.4], [0.2, 0.5]], dtype=torch.float64).logit()[None, None]
LABELS = torch.tensor([[[1, 1], [0, 255]]], dtype=torch.uint8)
HIT, MISS = 0.223144, 0.916291  # -log 0.8 and -log 0.4, the scores of the labels; 0.2 is labeled 0
HIT_OTHER, MISS_OTHER = 1.609438, 0.510826  # -log of what remains


@pytest.mark.parametrize(
    ("function", "params", "expected"),
    [
        (rl.mean_absolute_error, {}, 2 * (0.2 + 0.6 + 0.2) / 3),
        (rl.generalized_cross_entropy, {"q": 0.5}, 2 * (3 - 0.894427 - 0.632456 - 0.894427) / 3),
        (rl.reverse_cross_entropy, {}, 4 * (0.2 + 0.6 + 0.2) / 3),
        (rl.symmetric_cross_entropy, {"alpha": 0.5, "beta": 2.0}, 0.5 * (2 * HIT + MISS) / 3 + 2 * 4 / 3),
        (rl.normalized_cross_entropy, {}, (2 * HIT / (HIT + HIT_OTHER) + MISS / (MISS + MISS_OTHER)) / 3),
        (rl.noise_robust_dice_loss, {"smooth": 0.0}, (2 * 0.2**1.5 + 0.6**1.5) / (0.64 + 0.16 + 0.04 + 2)),
        (
            rl.t_loss,
            {"nu": 1.0},
            (math.lgamma(0.5) - math.lgamma(2) + 1.5 * math.log(math.pi) + 2 * math.log(1.44)) / 3,
        ),
        (rl.forward_corrected_loss, {"matrix": Q2}, -(math.log(0.58) + math.log(0.34) + math.log(1 - 0.22)) / 3),
        (
            rl.backward_corrected_loss,
            {"inverse": Q2_INVERSE},
            (0.9 * (HIT + MISS) - 0.3 * (HIT_OTHER + MISS_OTHER) + 0.7 * HIT - 0.1 * HIT_OTHER) / 0.6 / 3,
        ),
    ],
)
def test_hand_computed(function, params, expected):
    assert function(SCORES, LABELS, **params).item() == pytest.approx(expected, abs=5e-6)


def all_labels(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same random logits for every class as the label: (K, C, 4, 4) and (K, 4, 4)."""
    channels = 1 if classes == 2 else classes
    logits = torch.randn(1, channels, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return logits.expand(classes, -1, -1, -1), torch.arange(classes)[:, None, None].expand(-1, 4, 4)


@pytest.mark.parametrize("matrix", [Q2, Q3])
def test_backward_correction_is_unbiased(matrix):
    logits, labels = all_labels(len(matrix))
    clean = cross_entropy(logits, labels)
    noisy = rl.backward_corrected_loss(logits, labels, inverse=torch.linalg.inv(matrix))
    torch.testing.assert_close(matrix @ noisy, clean)


@pytest.mark.parametrize("matrix", [Q2, Q3])
def test_forward_correction_scores_the_noisy_labels(matrix):
    logits, labels = all_labels(len(matrix))
    true = torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1) if len(matrix) == 2 else logits.softmax(1)
    noisy = torch.einsum("jm,bjhw->bmhw", matrix, true)
    expected = torch.stack([-noisy[label, label].log().mean() for label in range(len(matrix))])
    torch.testing.assert_close(rl.forward_corrected_loss(logits, labels, matrix=matrix), expected)


@pytest.mark.parametrize("classes", [2, 3])
def test_without_noise_corrections_are_cross_entropy(classes):
    logits, labels = all_labels(classes)
    clean, identity = cross_entropy(logits, labels), torch.eye(classes)
    torch.testing.assert_close(rl.forward_corrected_loss(logits, labels, matrix=identity), clean)
    torch.testing.assert_close(rl.backward_corrected_loss(logits, labels, inverse=identity), clean)


def test_forward_correction_of_labels_that_the_matrix_rules_out_is_finite():
    never = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    logits = torch.tensor([[[[1e4, -1e4, 0.0]]]], requires_grad=True)
    value = rl.forward_corrected_loss(logits, torch.ones(1, 1, 3, dtype=torch.uint8), matrix=never)
    value.sum().backward()
    assert value.isfinite().all() and logits.grad.isfinite().all()


def test_generalized_cross_entropy_lies_between_its_limits():
    nearly = rl.generalized_cross_entropy(SCORES, LABELS, q=1e-7)
    torch.testing.assert_close(nearly, cross_entropy(SCORES, LABELS), rtol=1e-5, atol=0)
    half = rl.mean_absolute_error(SCORES, LABELS) / 2
    torch.testing.assert_close(rl.generalized_cross_entropy(SCORES, LABELS, q=1.0), half)


@pytest.mark.parametrize("function", [rl.mean_absolute_error, rl.reverse_cross_entropy, rl.normalized_cross_entropy])
@pytest.mark.parametrize("classes", [2, 3])
def test_symmetric_losses_sum_to_a_constant_over_the_labels(function, classes):
    logits, labels = all_labels(classes)
    total = function(logits, labels).sum()
    torch.testing.assert_close(function(3 * logits + 1, labels).sum(), total)


def test_noise_robust_dice_with_squares_is_a_dice_loss():
    scores, labels = SCORES.sigmoid()[0, 0][LABELS[0] != 255], torch.tensor([1.0, 1, 0], dtype=torch.float64)
    dice = 1 - 2 * (scores * labels).sum() / ((scores**2).sum() + labels.sum())
    squared = rl.noise_robust_dice_loss(SCORES, LABELS, gamma=2.0, smooth=0.0)
    assert squared.item() == pytest.approx(dice.item())


def test_t_loss_counts_an_image_full_of_errors_less_than_squares_do():
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    costs = [rl.t_loss(torch.full((1, 1, 16, 16), logit), labels, nu=1.0).item() for logit in (-3.0, 0.0, 3.0)]
    squares = [torch.tensor(logit).sigmoid().item() ** 2 for logit in (-3.0, 0.0, 3.0)]
    assert costs == sorted(costs)
    assert (costs[2] - costs[1]) / (costs[1] - costs[0]) < (squares[2] - squares[1]) / (squares[1] - squares[0])


def test_t_loss_is_the_likelihood_of_a_t_distribution():
    logits, labels = torch.randn(1, 1, 2, 2, dtype=torch.float64), torch.tensor([[[0, 1], [1, 0]]])
    errors = (logits[0, 0].sigmoid() - labels[0]).flatten().numpy()
    expected = -scipy.stats.multivariate_t.logpdf(errors, df=3, shape=np.eye(4)) / 4
    assert rl.t_loss(logits, labels, nu=3.0).item() == pytest.approx(expected)
    assert SegmentationLoss("0.1*tloss(nu=3)")(logits, labels).item() == pytest.approx(0.1 * expected)


def test_singular_matrices_point_to_the_forward_correction():
    singular = TransitionMatrix([[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(UserError, match="--loss forward"):
        SegmentationLoss("backward", transition_matrix=singular)
    SegmentationLoss("forward", transition_matrix=singular)


def test_a_matrix_of_another_number_of_classes_is_refused():
    with pytest.raises(UserError, match="of 3 classes, --num_classes 1 means 2"):
        SegmentationLoss("forward", num_classes=1, transition_matrix=TransitionMatrix.identity(3))
