"""What losses are least at under label noise, against theory."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.transition_matrix import TransitionMatrix, flip_matrix, sample_matrix
from training.losses.optimum import degenerate_optimum, optimal_scores

FOREGROUND = 0.14


def flipped(foreground: float, background: float | None = None) -> TransitionMatrix:
    return TransitionMatrix(flip_matrix(foreground, background, classes=2))


def sampled(share: float) -> TransitionMatrix:
    return TransitionMatrix(sample_matrix(share, 2))


def best(spec: str, matrix: TransitionMatrix) -> list[float]:
    """The best foreground scores on background and foreground."""
    return optimal_scores(spec, matrix, [1 - FOREGROUND, FOREGROUND], binary=True)[:, 1].tolist()


@pytest.mark.parametrize("spec", ["bce", "tloss"])
@pytest.mark.parametrize("matrix", [flipped(0.9), flipped(0.45, 0.2), sampled(0.1)])
def test_proper_losses_give_the_noisy_shares(spec, matrix):
    assert best(spec, matrix) == pytest.approx(matrix.rows[:, 1].tolist(), abs=0.005)


@pytest.mark.parametrize("spec", ["forward", "backward"])
@pytest.mark.parametrize("matrix", [flipped(0.9), sampled(0.1)])
def test_corrected_losses_give_the_truth(spec, matrix):
    assert best(spec, matrix) == pytest.approx([0, 1], abs=0.01)


def test_generalized_cross_entropy_sharpens_the_odds():
    # (1 - q)-th root of the odds: a stationary point of 0.3 (1 - p^q) + 0.7 (1 - (1 - p)^q)
    odds = (0.7 / 0.3) ** (1 / (1 - 0.7))
    assert best("gce(q=0.7)", flipped(0.3))[1] == pytest.approx(odds / (1 + odds), abs=0.005)


@pytest.mark.parametrize("spec", ["dice", "iou", "tversky"])
def test_overlap_losses_take_everything_for_foreground_under_flips(spec):
    assert "foreground everywhere (scores of 1.00 on" in degenerate_optimum(spec, flipped(0.3), FOREGROUND)


@pytest.mark.parametrize("flip", [0.1, 0.2, 0.25, 0.3])
def test_dice_turns_where_theory_says(flip):
    """All-foreground beats the truth where its Dice, 2μ/(1 + μ) with μ labeled foreground, is the higher."""
    labeled = FOREGROUND * (1 - flip) + (1 - FOREGROUND) * flip
    of_everything = 2 * labeled / (1 + labeled)
    of_truth = 2 * FOREGROUND * (1 - flip) / (FOREGROUND + labeled)
    warning = degenerate_optimum("dice", flipped(flip), FOREGROUND)
    assert (warning is not None) == (of_everything > of_truth)


@pytest.mark.parametrize("spec", ["mae", "gce", "sce", "nce+rce"])
def test_symmetric_losses_take_everything_for_background_under_sampling(spec):
    assert "background everywhere" in degenerate_optimum(spec, sampled(0.1), FOREGROUND)
    assert degenerate_optimum(spec, flipped(0.3), FOREGROUND) is None


@pytest.mark.parametrize("spec", ["iou", "dmi+iou", "nr_dice", "bce+0.5*dice"])
def test_others_stand_sampling(spec):
    assert degenerate_optimum(spec, sampled(0.1), FOREGROUND) is None


@pytest.mark.parametrize("spec", ["dice", "mae"])
def test_no_warning_for_clean_labels_or_for_labels_that_tell_nothing(spec):
    assert degenerate_optimum(spec, TransitionMatrix.identity(1), FOREGROUND) is None
    assert degenerate_optimum(spec, flipped(0.5), FOREGROUND) is None


def test_shapes_are_beyond_the_matrix():
    assert degenerate_optimum("cldice+dice", flipped(0.3), FOREGROUND) is None


def test_several_classes():
    shares = [0.6, 0.3, 0.1]
    flips = TransitionMatrix(flip_matrix(0.5, classes=3))
    np.testing.assert_allclose(optimal_scores("ce", flips, shares, binary=False), flips.rows, atol=0.005)
    assert degenerate_optimum("mae", flips, shares) is None
    keep_little = TransitionMatrix(sample_matrix(0.1, 3))
    assert "highest for class 0" in degenerate_optimum("mae", keep_little, shares)
    with pytest.raises(ValueError, match="class shares"):
        degenerate_optimum("mae", flips, 0.3)
