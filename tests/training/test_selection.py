"""Clean validation labels choose by IoU, noisy ones by Youden's J, none by the noise alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.scores import BINS
from training.selection import decoding_matrix, select_binary, select_classes, threshold_by_noise, without_validation


def histogram(background: dict[float, int], foreground: dict[float, int]) -> np.ndarray:
    """A (2, BINS) histogram with the given numbers of pixels at the given scores."""
    counts = np.zeros((2, BINS), np.int64)
    for row, pixels in enumerate((background, foreground)):
        for score, number in pixels.items():
            counts[row, min(int(score * BINS), BINS - 1)] += number
    return counts


def test_clean_labels_choose_threshold_and_figure_by_iou():
    counts = histogram({0.1: 90, 0.4: 10}, {0.3: 2, 0.6: 18})
    selection = select_binary(counts, labels_are_clean=True, pred_invert=None, implied=0.05)
    assert 0.4 < selection.threshold <= 0.6 and not selection.invert
    assert selection.figure == pytest.approx(18 / 20) == selection.figures["iou"]


def test_clean_labels_find_the_inverse():
    counts = histogram({0.9: 80, 0.7: 5}, {0.2: 20})
    selection = select_binary(counts, labels_are_clean=True, pred_invert=None, implied=None)
    assert selection.invert and selection.figure == 1 and selection.figures["auc"] == 1
    assert 0.3 < selection.threshold <= 0.8
    forced = select_binary(counts, labels_are_clean=True, pred_invert=False, implied=None)
    assert not forced.invert and forced.figures["auc"] == 0


def test_noisy_labels_choose_by_youden_and_never_by_iou():
    # Labels flipped by 45 %: the best IoU is the all-foreground mask's, Youden's J keeps the true threshold.
    counts = histogram({0.2: 550, 0.8: 45}, {0.2: 450, 0.8: 55})
    noisy = select_binary(counts, labels_are_clean=False, pred_invert=None, implied=None)
    clean = select_binary(counts, labels_are_clean=True, pred_invert=None, implied=None)
    assert 0.2 < noisy.threshold <= 0.8 and clean.threshold <= 0.2
    assert noisy.figure == pytest.approx(550 / 595 - 450 / 505)


def test_noisy_labels_use_the_threshold_that_the_noise_implies():
    counts = histogram({0.2: 10}, {0.8: 10})
    selection = select_binary(counts, labels_are_clean=False, pred_invert=None, implied=0.35)
    assert selection.threshold == 0.35 and selection.figure == 1


@pytest.mark.parametrize(
    ("matrix", "threshold"),
    [
        ([[1, 0], [0, 1]], 0.5),
        ([[1, 0], [0.9, 0.1]], 0.05),  # sample:0.1
        ([[0.7, 0.3], [0.3, 0.7]], 0.5),  # flip:0.3
        ([[0.8, 0.2], [0.45, 0.55]], 0.375),  # flip:0.45,0.2
        ([[0.1, 0.9], [0.5, 0.5]], 0.3),  # inverted: applied after inversion
        ([[0.7, 0.3], [0.7, 0.3]], None),  # random:0.3 implies nothing
        (None, None),
    ],
)
def test_the_implied_threshold_lies_between_the_two_noisy_posteriors(matrix, threshold):
    answer = threshold_by_noise(None if matrix is None else np.array(matrix))
    assert answer == (None if threshold is None else pytest.approx(threshold))


def test_classes_are_chosen_by_mean_iou_or_mean_youden():
    confusion = np.array([[50, 10, 0], [5, 20, 5], [0, 0, 10]])
    clean = select_classes(confusion, labels_are_clean=True)
    assert clean.threshold is None and clean.figure == pytest.approx(np.mean([50 / 65, 20 / 40, 10 / 15]))
    noisy = select_classes(confusion, labels_are_clean=False)
    expected = np.mean([50 / 60 - 5 / 40, 20 / 30 - 10 / 70, 1 - 5 / 90])
    assert noisy.figure == pytest.approx(expected)


@pytest.mark.parametrize(("implied", "threshold"), [(None, 0.5), (0.05, 0.05)])
def test_without_validation_there_is_nothing_to_choose_by(implied, threshold):
    selection = without_validation(pred_invert=None, implied=implied)
    assert selection.threshold == threshold and not selection.invert and math.isnan(selection.figure)


def test_several_classes_have_no_threshold_without_validation_either():
    selection = without_validation(pred_invert=None, implied=None, num_classes=3)
    assert selection.threshold is None and not selection.invert and math.isnan(selection.figure)


def uniform_flip(share: float, classes: int) -> np.ndarray:
    return np.where(np.eye(classes, dtype=bool), 1 - share, share / (classes - 1))


@pytest.mark.parametrize(
    ("matrix", "num_classes", "needed"),
    [
        (uniform_flip(0.3, 3), 3, False),
        (np.array([[1, 0, 0], [0.9, 0.1, 0], [0.9, 0, 0.1]]), 3, True),  # sample:0.1: the argmax would be background
        (uniform_flip(0.8, 3), 3, True),  # past (K - 1)/K: the argmax would pick a wrong class
        (uniform_flip(2 / 3, 3), 3, False),  # singular: nothing can be undone
        (uniform_flip(0.8, 2), 1, False),  # binary: inversion and threshold do it
        (uniform_flip(0.8, 2), 2, True),  # two classes are decided by argmax, as more are
        (np.array([[1, 0], [0.9, 0.1]]), 2, True),
        (uniform_flip(0.3, 2), 2, False),
        (np.array([[0.7, 0.3], [0.7, 0.3]]), 2, False),
        (None, 3, False),
    ],
)
def test_classes_are_decoded_only_where_the_argmax_would_be_wrong(matrix, num_classes, needed):
    assert (decoding_matrix(matrix, num_classes) is not None) is needed


def test_noisy_validation_that_shows_the_inverse_prefers_the_network_that_learned_more():
    # Labels flipped by 90 %: a good network scores low in the true foreground, which the labels call background.
    good = histogram({0.1: 900, 0.9: 100}, {0.1: 100, 0.9: 900})
    blank = histogram({0.5: 1000}, {0.5: 1000})
    arguments = {"labels_are_clean": False, "pred_invert": True, "implied": None, "labels_inverted": True}
    figures = [select_binary(counts, **arguments).figure for counts in (good, blank)]
    assert figures[0] > figures[1] and figures[1] == pytest.approx(0)


def test_class_weights_move_the_threshold():
    matrix = np.array([[1, 0], [0.9, 0.1]])
    assert threshold_by_noise(matrix) == pytest.approx(0.05)
    assert threshold_by_noise(matrix, [0.5, 9.5]) == pytest.approx(0.5)


def test_a_nearly_singular_matrix_is_not_inverted():
    assert decoding_matrix(np.array([[0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0.1, 0.449, 0.451]]), 3) is None


@pytest.mark.parametrize("matrix", [uniform_flip(0.8, 3), np.array([[1, 0, 0], [0.9, 0.1, 0], [0.9, 0, 0.1]])])
def test_decoding_gives_the_truth_back_whatever_the_class_weights(matrix, rng):
    truth, weights = rng.dirichlet(np.ones(3), size=50), np.array([0.5, 4.0, 9.0])
    learned = weights * (truth @ matrix)
    learned /= learned.sum(1, keepdims=True)
    decoded = learned @ np.linalg.inv(decoding_matrix(matrix, 3, weights))
    np.testing.assert_allclose(decoded / decoded.sum(1, keepdims=True), truth, atol=1e-9)
    assert decoding_matrix(matrix, 3, [0.0, 1.0, 1.0]) is None  # a class that the loss does not see
