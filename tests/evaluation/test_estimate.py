"""Transition matrices as counts show them: association, error, rank, merging classes."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.transition_matrix import flip_matrix, random_matrix, sample_matrix
from evaluation.label_audit.estimate import MIN_IMAGES, association, estimate_transitions

SWAP = np.array([[1.0, 0, 0], [0, 0.1, 0.9], [0, 0.9, 0.1]])
HALFWAY = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0, 1.0, 0]])


def image_counts(matrix: np.ndarray, shares, images: int = 20, pixels: int = 4000, seed: int = 0) -> np.ndarray:
    """Counts per image of labels drawn independently from Q; (images, K, K)."""
    rng = np.random.default_rng(seed)
    truth = rng.multinomial(pixels, shares, images)
    return np.stack([[rng.multinomial(n, row) for n, row in zip(image, matrix, strict=True)] for image in truth])


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [(sample_matrix(0.1, 2), 0.30), (flip_matrix(0.45, classes=2), 0.07), (flip_matrix(0.9, classes=2), -0.68)],
)
def test_phi_at_14_percent_foreground(matrix, expected):
    assert association(np.diag([0.86, 0.14]) @ matrix) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("share", [0.05, 0.14, 0.6])
@pytest.mark.parametrize("flips", [(0.1, 0.3), (0.7, 0.6), (0.2, 0.0)])
def test_binary_phi_is_the_correlation(share, flips):
    matrix = flip_matrix(*flips, classes=2)
    labelled = (1 - share) * matrix[0, 1] + share * matrix[1, 1]
    c = 1 - sum(flips)
    phi = c * np.sqrt(share * (1 - share) / (labelled * (1 - labelled)))
    assert association(np.diag([1 - share, share]) @ matrix) == pytest.approx(phi)


@pytest.mark.parametrize(("classes", "flips"), [(3, 0.9), (5, 0.9), (19, 0.9), (19, 0.5)])
def test_even_flips_among_classes(classes, flips):
    c = 1 - flips * classes / (classes - 1)
    matrix = flip_matrix(flips, classes=classes)
    assert association(matrix) == pytest.approx(c)  # for classes of equal size


def test_even_flips_are_empty_at_one_minus_one_over_k():
    for classes in (2, 3, 19):
        assert association(flip_matrix((classes - 1) / classes, classes=classes)) == pytest.approx(0, abs=1e-9)


def test_phi_without_variation():
    assert association(np.array([[50, 0], [10, 0]])) == 0  # constant labels
    assert np.isnan(association(np.array([[50, 10], [0, 0]])))  # constant truth


def test_an_absent_class_is_left_out():
    counts = np.array([[80, 20, 0], [0, 0, 0], [10, 0, 90]])
    found = estimate_transitions(np.repeat(counts[None], 6, 0))
    assert found.rank == 2
    assert found.invertible and not found.matrix.is_complete
    assert found.determinant == pytest.approx(0.72)
    assert found.merged == []


@pytest.mark.parametrize(
    ("matrix", "rank", "merged"),
    [
        (np.eye(3), 3, []),
        (HALFWAY, 2, []),  # singular, but three distinct rows
        (np.array([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]]), 2, [[1, 2]]),
        (random_matrix(0.3, 3), 1, [[0, 1, 2]]),
        (flip_matrix(0.9, classes=3), 3, []),
        (SWAP, 3, []),
    ],
)
def test_rank_and_merging_classes_given_the_error(matrix, rank, merged):
    found = estimate_transitions(image_counts(matrix, [0.6, 0.3, 0.1]))
    assert found.rank == rank
    assert found.merged == merged


def test_exact_shares_without_spread_have_rank_one():
    counts = np.repeat([[[8000, 8001], [1000, 1000]]], 10, axis=0)
    found = estimate_transitions(counts)
    assert found.rank == 1
    assert found.no_association


def test_swapped_classes_stay_learnable_but_are_decoded():
    found = estimate_transitions(image_counts(SWAP, [0.8, 0.1, 0.1]))
    assert found.phi > 0.8
    assert not found.no_association
    assert found.matrix.needs_decoding


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_labels_without_signal_hold_nothing(classes):
    shares = np.full(classes, 1 / classes)
    for seed in range(5):
        found = estimate_transitions(image_counts(random_matrix(0.4, classes), shares, seed=seed))
        assert found.no_association


def test_too_few_images_give_no_interval():
    counts = image_counts(flip_matrix(0.2, classes=2), [0.7, 0.3], images=MIN_IMAGES - 1)
    found = estimate_transitions(counts)
    assert found.too_few
    assert found.matrix_low is None and np.isnan(found.phi_low)
    assert found.rank == 2
    enough = estimate_transitions(image_counts(flip_matrix(0.2, classes=2), [0.7, 0.3], images=MIN_IMAGES))
    assert (enough.matrix_low <= enough.matrix.rows).all() and (enough.matrix.rows <= enough.matrix_high).all()


@pytest.mark.parametrize("images", [8, 30])
def test_intervals_cover_the_truth(images):
    """Error rates differ from image to image, so intervals from pixels would be far too narrow."""
    rng = np.random.default_rng(1)
    trials, covered = 150, 0
    for trial in range(trials):
        flips = rng.beta(4, 12, images)  # mean 0.25
        counts = np.zeros((images, 2, 2), int)
        counts[:, 0, 0] = 3000
        counts[:, 1, 0] = rng.binomial(1000, flips)
        counts[:, 1, 1] = 1000 - counts[:, 1, 0]
        found = estimate_transitions(counts, seed=trial, replicates=400)
        covered += found.matrix_low[1, 0] <= 0.25 <= found.matrix_high[1, 0]
    assert 0.88 <= covered / trials <= 1


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="at least one image"):
        estimate_transitions([])
