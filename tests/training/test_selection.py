"""Clean validation labels choose by IoU, noisy ones by Youden's J, none by the noise alone."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from datasets.transition_matrix import TransitionMatrix, flip_matrix
from evaluation.scores import BINS, auc, best_threshold
from training.methods.supervised import Supervised
from training.selection import LabelNoiseFacts, select_binary, select_classes, without_validation
from utils.files import plain


def histogram(background: dict[float, int], foreground: dict[float, int]) -> np.ndarray:
    """A (2, BINS) histogram with the given numbers of pixels at the given scores."""
    counts = np.zeros((2, BINS), np.int64)
    for row, pixels in enumerate((background, foreground)):
        for score, number in pixels.items():
            counts[row, min(int(score * BINS), BINS - 1)] += number
    return counts


def alike(counts: np.ndarray, images: int = 5) -> np.ndarray:
    """The histograms of so many images that do not differ."""
    return np.repeat(counts[None], images, 0)


def test_clean_labels_choose_threshold_and_figure_by_iou():
    counts = alike(histogram({0.1: 90, 0.4: 10}, {0.3: 2, 0.6: 18}))
    selection = select_binary(counts, labels_are_clean=True, pred_invert=None, implied=0.05)
    assert 0.4 < selection.threshold <= 0.6 and not selection.invert
    assert selection.metric == pytest.approx(18 / 20) == selection.metrics["iou"]


@pytest.mark.parametrize(("implied", "prior"), [(None, 0.5), (0.3, 0.3)])
def test_fewer_than_four_images_move_no_threshold(implied, prior):
    counts = histogram({0.1: 90, 0.55: 10}, {0.4: 2, 0.6: 18})
    arguments = {"labels_are_clean": True, "pred_invert": None, "implied": implied}
    selection = select_binary(alike(counts, 3), **arguments)
    assert selection.threshold == prior and selection.metric == selection.metrics["iou"] < 0.7
    assert select_binary(alike(counts, 4), **arguments).metric == pytest.approx(18 / 20)


def test_crops_of_few_fields_move_the_threshold_for_a_large_gain_alone():
    """Resampling crops would find any of these gains beyond its error: all crops of a field agree."""
    arguments = {"labels_are_clean": True, "pred_invert": None, "implied": None}
    small = histogram({0.1: 90, 0.55: 4}, {0.4: 1, 0.6: 19})  # 0.79 at 0.5, 0.95 at the best
    sampled = histogram({0.01: 90, 0.05: 10}, {0.08: 20})  # a tenth of the foreground was labelled: nothing at 0.5
    assert select_binary(alike(small, 1), images=8, **arguments).threshold == 0.5
    assert select_binary(alike(small, 4), images=8, **arguments).metric == pytest.approx(0.95)
    for fields in (1, 2, 3):
        assert select_binary(alike(sampled, fields), images=8, **arguments).metric == 1
    assert select_binary(alike(small, 3), images=8, **arguments).metric == pytest.approx(0.95)
    assert select_binary(alike(sampled, 3), images=3, **arguments).threshold == 0.5


def test_a_gain_within_its_error_moves_no_threshold():
    for_lower = histogram({0.1: 90}, {0.3: 10, 0.8: 10})
    for_higher = histogram({0.1: 81, 0.3: 9}, {0.8: 20})
    arguments = {"labels_are_clean": True, "pred_invert": None, "implied": None}
    mixed = np.stack([for_lower, for_higher, for_higher, for_higher, for_lower, for_lower])
    assert best_threshold(mixed.sum(0))[0] < 0.3
    assert select_binary(mixed, **arguments).threshold == 0.5
    assert select_binary(alike(for_lower, 6), **arguments).threshold < 0.3


def test_a_gain_beyond_its_error_takes_the_best_threshold_and_no_half_way():
    images = np.stack(
        [histogram({0.05: 90}, {0.1: number, 0.2: 4, 0.3: 4, 0.4: 4, 0.8: 10}) for number in (1, 2, 9, 2, 12, 1)]
    )
    selection = select_binary(images, labels_are_clean=True, pred_invert=None, implied=None)
    assert selection.threshold == best_threshold(images.sum(0))[0] <= 0.1


def test_clean_labels_find_the_inverse():
    counts = alike(histogram({0.9: 80, 0.7: 5}, {0.2: 20}))
    selection = select_binary(counts, labels_are_clean=True, pred_invert=None, implied=None)
    assert selection.invert and selection.metric == 1 and selection.metrics["auc"] == 1
    assert 0.3 < selection.threshold <= 0.8
    forced = select_binary(counts, labels_are_clean=True, pred_invert=False, implied=None)
    assert not forced.invert and forced.metrics["auc"] == 0


def test_chance_inverts_nothing():
    right, wrong = histogram({0.2: 50}, {0.6: 50}), histogram({0.6: 50}, {0.2: 50})
    for images in (np.stack([wrong, right, wrong, right, wrong]), np.stack([wrong, wrong, right])):
        assert auc(images.sum(0)) < 0.5
        assert not select_binary(images, labels_are_clean=True, pred_invert=None, implied=None).invert
    for count in (1, 2, 5):
        assert select_binary(alike(wrong, count), labels_are_clean=True, pred_invert=None, implied=None).invert


def test_noisy_labels_choose_by_youden_and_never_by_iou():
    # Labels flipped by 45 %: the best IoU is the all-foreground mask's, Youden's J keeps the true threshold.
    counts = alike(histogram({0.2: 550, 0.8: 45}, {0.2: 450, 0.8: 55}))
    noisy = select_binary(counts, labels_are_clean=False, pred_invert=None, implied=None)
    clean = select_binary(counts, labels_are_clean=True, pred_invert=None, implied=None)
    assert 0.2 < noisy.threshold <= 0.8 and clean.threshold <= 0.2
    assert noisy.metric == pytest.approx(550 / 595 - 450 / 505)


def test_noisy_labels_use_the_threshold_that_the_noise_implies():
    counts = alike(histogram({0.2: 10}, {0.8: 10}))
    selection = select_binary(counts, labels_are_clean=False, pred_invert=None, implied=0.35)
    assert selection.threshold == 0.35 and selection.metric == 1


def test_classes_are_chosen_by_mean_iou_or_mean_youden():
    confusion = np.array([[50, 10, 0], [5, 20, 5], [0, 0, 10]])
    clean = select_classes(confusion[None], labels_are_clean=True)
    assert clean.threshold is None and clean.metric == pytest.approx(np.mean([50 / 65, 20 / 40, 10 / 15]))
    noisy = select_classes(confusion[None], labels_are_clean=False)
    expected = np.mean([50 / 60 - 5 / 40, 20 / 30 - 10 / 70, 1 - 5 / 90])
    assert noisy.metric == pytest.approx(expected)


@pytest.mark.parametrize(("implied", "threshold"), [(None, 0.5), (0.05, 0.05)])
def test_without_validation_there_is_nothing_to_choose_by(implied, threshold):
    selection = without_validation(pred_invert=None, implied=implied)
    assert selection.threshold == threshold and not selection.invert and math.isnan(selection.metric)


@pytest.mark.parametrize("inverted", [False, True])
def test_training_images_with_clean_labels_move_a_threshold_and_nothing_else(inverted):
    options = SimpleNamespace(
        data=SimpleNamespace(num_classes=1, val_labels="clean"), loss=SimpleNamespace(pred_invert="auto")
    )
    scores = SimpleNamespace(invert=inverted, threshold=lambda weights: None)
    state = SimpleNamespace(scores=scores, loss=SimpleNamespace(class_weights=None, is_proper=True))
    data = SimpleNamespace(known=None, val=None)
    method = Supervised(options, data)  # pyright: ignore[reportArgumentType]
    counts = histogram({0.1: 90, 0.6: 10}, {0.7: 20})
    counts = counts[..., ::-1] if inverted else counts
    decided, moved = (method.decide(state, None, known) for known in (None, alike(counts, 10)))  # pyright: ignore
    assert decided.threshold == 0.5 and 0.6 < moved.threshold <= 0.7
    assert moved == replace(decided, threshold=moved.threshold)
    assert method.decide(state, None, alike(counts, 3)) == decided  # pyright: ignore[reportArgumentType]


def test_several_classes_have_no_threshold_without_validation_either():
    selection = without_validation(pred_invert=None, implied=None, num_classes=3)
    assert selection.threshold is None and not selection.invert and math.isnan(selection.metric)


def test_noisy_validation_that_shows_the_inverse_prefers_the_network_that_learned_more():
    # Labels flipped by 90 %: a good network scores low in the true foreground, which the labels call background.
    good = histogram({0.1: 900, 0.9: 100}, {0.1: 100, 0.9: 900})
    blank = histogram({0.5: 1000}, {0.5: 1000})
    arguments = {"labels_are_clean": False, "pred_invert": True, "implied": None, "labels_inverted": True}
    figures = [select_binary(alike(counts), **arguments).metric for counts in (good, blank)]
    assert figures[0] > figures[1] and figures[1] == pytest.approx(0)


def test_confusion_with_noisy_labels_is_turned_back_where_that_is_possible():
    confusion, flips = np.array([[50.0, 10, 0], [5, 20, 5], [0, 0, 10]]), TransitionMatrix(flip_matrix(0.3, classes=3))
    seen = flips.rows.T @ confusion
    known = select_classes(seen[None], labels_are_clean=False, noise=LabelNoiseFacts(flips))
    assert known.metric == pytest.approx(select_classes(confusion[None], labels_are_clean=False).metric)
    singular = LabelNoiseFacts(TransitionMatrix(flip_matrix(2 / 3, classes=3)))
    plain = select_classes(seen[None], labels_are_clean=False).metric
    for noise in (LabelNoiseFacts(), singular):
        assert select_classes(seen[None], labels_are_clean=False, noise=noise).metric == plain


def test_unknown_noise_implies_nothing():
    facts = LabelNoiseFacts()
    assert facts.threshold() is None and facts.decoder(3) is None
    assert facts.true_shares(np.array([0.3, 0.7])).tolist() == [0.3, 0.7]


@pytest.mark.parametrize(
    "facts", [LabelNoiseFacts(), LabelNoiseFacts(TransitionMatrix(flip_matrix(0.9, classes=2)), True)]
)
def test_facts_come_back_from_the_config(facts):
    back = LabelNoiseFacts.from_json(plain(facts.to_json()))
    assert back.invert == facts.invert and back.threshold() == facts.threshold()
    assert (back.matrix is None) == (facts.matrix is None)


def test_validation_without_foreground_chooses_nothing():
    counts = alike(histogram({0.1: 90, 0.6: 10}, {}))
    selection = select_binary(counts, labels_are_clean=True, pred_invert=None, implied=None)
    assert selection.threshold == 0.5 and not selection.invert
    assert math.isnan(selection.metric) and math.isnan(selection.metrics["iou"])
