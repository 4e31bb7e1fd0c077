"""The transition matrix: what is one, its file, and what follows from it against closed forms."""

from __future__ import annotations

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datasets.transition_matrix import (
    MAX_CONDITION,
    ScoreDecoder,
    TransitionMatrix,
    flip_matrix,
    random_matrix,
    read_matrix,
    sample_matrix,
)
from utils.cli import UserError

NAN = math.nan
SWAP = np.array([[1.0, 0, 0], [0, 0.1, 0.9], [0, 0.9, 0.1]])
SAMPLED = np.array([[1, 0, 0], [0.9, 0.1, 0], [0.9, 0, 0.1]])


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([[0.9, 0.1]], "shape"),
        ([[1.0]], "shape"),
        ([0.9, 0.1], "shape"),
        ([[0.9, 0.2], [0.3, 0.7]], r"row 0 .* sums to 1\.1"),
        ([[1, 0], [0.5, 0.499]], "row 1 .* sums to 0.999"),
        ([[1.1, -0.1], [0.3, 0.7]], r"holds 1\.1"),
        ([[NAN, 1], [0.3, 0.7]], "holds nan"),
    ],
)
def test_what_is_no_transition_matrix_is_refused(rows, fault):
    with pytest.raises(ValueError, match=fault):
        TransitionMatrix(rows)


def test_a_matrix_cannot_be_changed():
    rows = flip_matrix(0.3, classes=2)
    matrix = TransitionMatrix(rows)
    rows[0] = 0
    assert matrix.rows[0, 0] == 0.7
    with pytest.raises(ValueError, match="read-only"):
        matrix.rows[0, 0] = 1
    assert np.array_equal(pickle.loads(pickle.dumps(matrix)).rows, matrix.rows)


@given(weights=hnp.arrays(float, st.integers(2, 6).map(lambda size: (size, size)), elements=st.floats(0.001, 1)))
def test_a_matrix_file_returns_the_same_numbers(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("matrix") / "q.json"
    matrix = TransitionMatrix(weights / weights.sum(axis=1, keepdims=True))
    matrix.write(path)
    assert np.array_equal(read_matrix(path), matrix.rows)
    assert json.loads(path.read_text())["classes"] == matrix.classes == len(weights)


def test_a_matrix_with_unseen_classes_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="cannot be written"):
        TransitionMatrix([[0.9, 0.1], [NAN, NAN]]).write(tmp_path / "q.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[[1, 0], [0, 1]]", "no transition matrix"),
        ('{"matrix": [[1, 0], [0, 1]]}', "no transition matrix"),
        ('{"classes": 2, "matrix": [[1, 0], [0]]}', "not square"),
        ('{"classes": 2, "matrix": [1, 0]}', "not square"),
        ('{"classes": 3, "matrix": [[1, 0], [0, 1]]}', '"classes" is 3 and the matrix 2×2'),
        ('{"classes": 1, "matrix": [[1]]}', "1×1"),
        ('{"classes": 2, "matrix": [[1, 0], [0.5, 0.4]]}', "row 1 (truth = class 1) sums to 0.9"),
        ('{"classes": 2, "matrix": [[1.1, -0.1], [0, 1]]}', "row 0 (truth = class 0) holds 1.1"),
        ('{"classes": 2, "matrix": [[null, 1], [0, 1]]}', "holds None"),
        ('{"classes": 2, "matrix": [["1", 0], [0, 1]]}', "holds '1'"),
        ('{"classes": 2, "matrix": [[NaN, NaN], [0, 1]]}', "holds nan"),
        ('{"classes": 3, "matrix": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}', "3×3, but --num_classes 1 means 2"),
    ],
)
def test_a_wrong_matrix_file_is_named_with_its_fault(content, said, tmp_path):
    path = tmp_path / "q.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        TransitionMatrix.read(path, 1)
    assert said in str(caught.value) and "q.json" in str(caught.value)


def test_absent_classes_are_left_out():
    matrix = TransitionMatrix.from_counts(np.array([[80, 20, 0], [0, 0, 0], [10, 0, 90]]))
    assert np.isnan(matrix.rows[1]).all() and matrix.present.tolist() == [0, 2]
    assert not matrix.is_complete and matrix.is_invertible
    assert matrix.contrast == pytest.approx(0.85 - 0.15 / 2)
    assert matrix.decoder(3) is None
    none = TransitionMatrix.from_counts(np.zeros((2, 2)))
    assert np.isnan(none.contrast) and not none.is_invertible and none.threshold() is None


@pytest.mark.parametrize("share", [0.1, 0.6])
@pytest.mark.parametrize("flips", [(0.1, 0.3), (0.7, 0.6), (0.2, 0.0)])
def test_the_contrast_of_two_classes_is_the_determinant_and_its_sign_the_direction(share, flips):
    matrix = TransitionMatrix(flip_matrix(*flips, classes=2))
    assert matrix.contrast == pytest.approx(1 - sum(flips)) == pytest.approx(np.linalg.det(matrix.rows))
    assert matrix.inverts == (sum(flips) > 1)


@pytest.mark.parametrize(("classes", "flips"), [(3, 0.9), (5, 0.9), (19, 0.9), (19, 0.5)])
def test_the_contrast_of_even_flips(classes, flips):
    matrix = TransitionMatrix(flip_matrix(flips, classes=classes))
    assert matrix.contrast == pytest.approx(1 - flips * classes / (classes - 1))


@pytest.mark.parametrize("share", np.linspace(0, 1, 41))
def test_labels_that_know_nothing_neither_invert_nor_have_a_threshold(share):
    matrix = TransitionMatrix(random_matrix(share, 2))
    assert not matrix.inverts and matrix.threshold() is None and not matrix.is_invertible


@pytest.mark.parametrize(
    ("rows", "threshold"),
    [
        (np.eye(2), 0.5),
        (sample_matrix(0.1, 2), 0.05),
        (flip_matrix(0.3, classes=2), 0.5),
        (flip_matrix(0.4, 0.1, classes=2), 0.35),
        (flip_matrix(0.45, 0.2, classes=2), 0.375),
        (flip_matrix(0.9, 0.7, classes=2), 0.6),  # inverted: 1 − (0.7 + 0.1) / 2
        (np.eye(3), None),
        ([[0.9, 0.1], [NAN, NAN]], None),
    ],
)
def test_the_threshold_lies_between_the_two_noisy_posteriors(rows, threshold):
    assert TransitionMatrix(rows).threshold() == (None if threshold is None else pytest.approx(threshold))


def test_class_weights_move_the_threshold():
    assert TransitionMatrix(sample_matrix(0.1, 2)).threshold([0.5, 9.5]) == pytest.approx(0.5)
    matrix, weights = TransitionMatrix(flip_matrix(0.9, 0.7, classes=2)), (2.0, 3.0)
    middle = matrix.rows[:, 1].mean()  # of the noisy posterior, which the weighted loss turns into odds
    assert matrix.threshold(weights) == pytest.approx(1 - 3 * middle / (3 * middle + 2 * (1 - middle)))


@pytest.mark.parametrize(
    ("rows", "needed"),
    [
        (np.eye(3), False),
        (flip_matrix(0.3, classes=3), False),
        (SAMPLED, True),
        (flip_matrix(0.9, classes=3), True),
        (flip_matrix(0.9, classes=2), True),
        (flip_matrix(0.3, classes=2), False),
        (SWAP, True),
        ([[1, 0, 0], [0.55, 0.45, 0], [0, 0, 1]], True),  # the columns are dominated, row 1 is not
        ([[1, 0, 0], [NAN] * 3, [0, 0.2, 0.8]], False),
        ([[1, 0, 0], [NAN] * 3, [0, 0.6, 0.4]], True),
    ],
)
def test_the_argmax_errs_where_the_diagonal_does_not_dominate(rows, needed):
    assert TransitionMatrix(rows).needs_decoding is needed


@pytest.mark.parametrize(
    ("rows", "num_classes", "needed"),
    [
        (flip_matrix(0.3, classes=3), 3, False),
        (SAMPLED, 3, True),  # the argmax would be background
        (flip_matrix(0.8, classes=3), 3, True),  # past (K − 1)/K: the argmax would pick a wrong class
        (flip_matrix(2 / 3, classes=3), 3, False),  # singular: nothing can be undone
        (flip_matrix(0.8, classes=2), 1, False),  # binary: inversion and threshold do it
        (flip_matrix(0.8, classes=2), 2, True),  # two classes are decided by argmax, as more are
        (sample_matrix(0.1, 2), 2, True),
        (flip_matrix(0.3, classes=2), 2, False),
        (random_matrix(0.3, 2), 2, False),
        ([[0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0.1, 0.449, 0.451]], 3, False),  # nearly singular
    ],
)
def test_classes_are_decoded_only_where_the_argmax_would_be_wrong(rows, num_classes, needed):
    assert (TransitionMatrix(rows).decoder(num_classes) is not None) is needed


def test_one_condition_decides_what_can_be_undone():
    nearly, hardly = (TransitionMatrix(flip_matrix(0.5 - gap / 2, classes=2)) for gap in (0.9, 1.1) / np.array(100))
    assert not nearly.is_invertible and hardly.is_invertible  # the condition of even flips is 1 / (1 − 2f)
    assert np.linalg.cond(nearly.rows) > MAX_CONDITION > np.linalg.cond(hardly.rows)


@pytest.mark.parametrize("rows", [flip_matrix(0.8, classes=3), SAMPLED, SWAP])
@pytest.mark.parametrize("weights", [None, [0.5, 4.0, 9.0]])
def test_decoding_gives_the_truth_back_whatever_the_class_weights(rows, weights, rng):
    truth, matrix = rng.dirichlet(np.ones(3), size=(5, 4)), TransitionMatrix(rows)
    learned = (truth @ rows) * (1 if weights is None else np.array(weights))
    learned = np.moveaxis(learned / learned.sum(-1, keepdims=True), -1, 0)  # (K, H, W)
    decoder = matrix.decoder(3, weights)
    decoded = decoder(learned)
    np.testing.assert_allclose(decoded / decoded.sum(0), np.moveaxis(truth, -1, 0), atol=1e-9)
    tensor = decoder(torch.from_numpy(learned)[None])[0]
    np.testing.assert_allclose(tensor.numpy(), decoded, atol=1e-12)
    assert decoder(learned.astype(np.float32)).dtype == np.float32
    stored = ScoreDecoder.of_config({"decode_matrix": decoder.matrix.tolist()})
    assert np.array_equal(stored(learned), decoded)
    assert matrix.decoder(3, [0.0, 1.0, 1.0]) is None  # a class that the loss does not see


def test_runs_without_a_decoder_have_none():
    assert ScoreDecoder.of_config({"decode_matrix": None}) is None
    assert ScoreDecoder.of_config({}) is None  # of runs before there was one


def test_pixel_scores_are_decoded_among_the_classes_that_occur(rng):
    truth, matrix = rng.dirichlet(np.ones(3), size=20), TransitionMatrix(SWAP)
    np.testing.assert_allclose(matrix.decode(truth @ SWAP), truth, atol=1e-12)
    partly = TransitionMatrix([[0.2, 0, 0.8], [NAN] * 3, [0.8, 0, 0.2]])
    shown = np.stack([truth[:, 0], np.zeros(20), 1 - truth[:, 0]], 1)
    np.testing.assert_allclose(partly.decode(shown @ np.nan_to_num(partly.rows)), shown, atol=1e-12)


@pytest.mark.parametrize("rows", [flip_matrix(0.3, classes=3), sample_matrix(0.1, classes=3), SWAP])
def test_true_fractions_and_counts_come_back_from_those_of_noisy_labels(rows):
    truth, matrix = np.array([0.7, 0.25, 0.05]), TransitionMatrix(rows)
    assert matrix.true_shares(rows.T @ truth) == pytest.approx(truth)
    confusion = np.array([[50, 3, 2], [4, 30, 1], [0, 2, 9]])  # truth × prediction
    np.testing.assert_allclose(matrix.true_counts(rows.T @ confusion), confusion, atol=1e-9)


def test_fractions_stay_within_limits():
    shares = TransitionMatrix(flip_matrix(0.3, classes=2)).true_shares([0.1, 0.9], lowest=0.01)
    assert shares.sum() == pytest.approx(1) and shares.min() > 0


def test_noise_on_noise_is_the_product():
    first, second = TransitionMatrix(sample_matrix(0.5, 2)), TransitionMatrix(flip_matrix(0.2, classes=2))
    assert np.array_equal((first @ second).rows, first.rows @ second.rows)
    assert np.array_equal((TransitionMatrix.identity(1) @ second).rows, second.rows)
