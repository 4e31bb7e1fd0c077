"""Density maps and places: brute force, lemma 1, distances, relative depth, profiles."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.morphology import skeletonize

from datasets.label_noise import make_noisy_label
from datasets.transition_matrix import count_transitions, flip_matrix
from evaluation.label_audit.by_distance import (
    DEPTH_EDGES,
    DISTANCE_EDGES,
    boundary_coordinates,
    density_agreement,
    distance_profile,
    inward_distance,
    local_density,
    location_bins,
    location_counts,
    location_table,
)


def disk(size: int = 64, radius: float = 18) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (x**2 + y**2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("bandwidth", [0, 1, 3])
def test_local_density_counts_labelled_pixels_inside_the_image(rng, bandwidth):
    label = rng.choice([0, 1, 2, 255], (17, 23), p=[0.4, 0.3, 0.1, 0.2]).astype(np.uint8)
    found = local_density(label, bandwidth, label_class=2)
    for row, column in np.ndindex(label.shape):
        top, left = max(row - bandwidth, 0), max(column - bandwidth, 0)
        window = label[top : row + bandwidth + 1, left : column + bandwidth + 1]
        known = (window != 255).sum()
        expected = (window == 2).sum() / known if known else np.nan
        assert found[row, column] == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_noisy_densities_are_on_average_what_lemma_1_says(rng):
    truth, matrix = disk(), flip_matrix(0.3, 0.1, classes=2)
    inside = local_density(truth, 2)
    expected = matrix[1, 1] * inside + matrix[0, 1] * (1 - inside)  # ρ = Σ Q_j S_j / S
    draws = [local_density((rng.random(truth.shape) < matrix[truth, 1]).astype(np.uint8), 2) for _ in range(400)]
    assert np.abs(np.mean(draws, axis=0) - expected).max() < 5 * np.std(draws, axis=0).max() / np.sqrt(400)


def test_inward_distance_against_brute_force(rng):
    truth = (cv2.GaussianBlur(rng.normal(size=(24, 31)), (0, 0), 3) > 0).astype(np.uint8)
    points = np.argwhere(np.ones_like(truth))
    found = inward_distance(truth)
    for row, column in points[::7]:
        others = np.argwhere(truth != truth[row, column])
        nearest = np.sqrt(((others - (row, column)) ** 2).sum(1).min()) - 0.5
        assert found[row, column] == pytest.approx(nearest if truth[row, column] else -nearest, abs=1e-3)


def test_relative_depth_does_not_depend_on_width():
    for half in (2, 5, 9):
        truth = np.zeros((80, 80), np.uint8)
        truth[40 - half : 40 + half + 1] = 1
        _, depth = boundary_coordinates(truth)
        column = depth[40 - half : 41, 40]
        np.testing.assert_allclose(column, np.arange(1, half + 2) / (half + 1), atol=1e-6)


def test_relative_depth_is_one_exactly_on_the_skeleton():
    truth = disk()
    truth[10:14] = 1
    _, depth = boundary_coordinates(truth)
    np.testing.assert_array_equal(depth[truth == 1] == 1, skeletonize(truth > 0)[truth == 1])


@pytest.mark.parametrize("value", [0, 1])
def test_an_image_of_one_class_is_far_from_any_boundary(value):
    distance, depth = boundary_coordinates(np.full((40, 50), value, np.uint8))
    assert distance.min() >= 40
    assert (depth > 0).all() and (depth <= 1).all()


def test_location_counts_add_up_to_the_transition_counts(rng):
    truth = rng.choice([0, 1, 2, 255], (40, 40), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)
    noisy = make_noisy_label(np.where(truth == 255, 0, truth).astype(np.uint8), "flip:0.3", 0, "a", num_classes=3)
    noisy[:3] = 255
    table = location_counts(location_bins(truth, 3), noisy, 3)
    np.testing.assert_array_equal(table.sum((1, 2)), count_transitions(truth, noisy, 3))


def test_profile_of_dilated_labels():
    truths = [disk(radius=radius) for radius in (10, 12, 14, 16, 18, 20)]
    noisy = [make_noisy_label(truth, "dilate:5", 0, "a") for truth in truths]
    _, table = location_table(truths, noisy)
    profile = distance_profile(table)["by_distance"]
    share = dict(zip(profile["to"], profile["share"], strict=True))
    assert share[0] == share[-1] == 1  # two pixels beyond the boundary are labelled foreground
    assert share[-3] == 0
    assert (profile["share"][profile["from"] >= 0] == 1)[:5].all()
    assert profile["pixels"].sum() == sum(truth.size for truth in truths)
    assert len(profile["share"]) == 2 * (len(DISTANCE_EDGES) - 1)


def test_profile_of_skeletons_sits_on_the_centre_line():
    truths = [disk(radius=radius) for radius in (10, 12, 14, 16, 18)]
    noisy = [make_noisy_label(truth, "skeleton", 0, "a") for truth in truths]
    depth = distance_profile(location_table(truths, noisy)[1])["by_depth"]
    assert depth["share"][-1] == 1
    np.testing.assert_array_equal(depth["share"][:-1], np.zeros(len(DEPTH_EDGES) - 2))


def test_profile_of_several_classes_is_the_share_labelled_right():
    truths = [disk() + 2 * disk(radius=6) for _ in range(5)]
    truths = [np.minimum(truth, 2).astype(np.uint8) for truth in truths]
    noisy = [make_noisy_label(truth, "flip:0.2", 0, str(i), num_classes=3) for i, truth in enumerate(truths)]
    profile = distance_profile(location_table(truths, noisy, 3)[1])["by_distance"]
    share = profile["share"][profile["pixels"] > 500]
    np.testing.assert_allclose(share, 0.8, atol=0.05)


def test_agreement_of_equal_and_of_independent_labels():
    truths = [disk() for _ in range(6)]
    same = density_agreement(truths, truths)
    assert same.correlation == pytest.approx(1) and same.rms_difference == 0
    first, second = ([make_noisy_label(t, "flip:0.3", seed, str(i)) for i, t in enumerate(truths)] for seed in (0, 1))
    drawn = density_agreement(first, second)
    assert drawn.rms_difference == pytest.approx(drawn.sampling_error, rel=0.15)
    assert 0.3 < drawn.correlation < 0.95
