"""Boundary figures: brute force, known distances, empty masks."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.scores import surface as s


def random_mask(rng: np.random.Generator, size: int = 40) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    centers = rng.uniform(0, size, (4, 2))
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(9, 60) for cy, cx in centers], axis=0)


def brute_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    outside = np.argwhere(~mask)
    result = np.zeros_like(mask)
    for pixel in np.argwhere(mask):
        result[tuple(pixel)] = len(outside) > 0 and np.abs(outside - pixel).max(1).min() <= width
    return result


def rectangle(top: int, left: int, height: int, width: int, size: int = 48) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    return mask


@pytest.mark.parametrize("width", [1, 3])
def test_the_boundary_equals_brute_force(rng, width):
    mask = random_mask(rng)
    assert (s.boundary(mask, width) == brute_boundary(mask, width)).all()


@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    mask, label = random_mask(rng), random_mask(rng)
    edge, label_edge = np.argwhere(s.boundary(mask)), np.argwhere(s.boundary(label))
    distances = np.sqrt(((edge[:, None] - label_edge[None]) ** 2).sum(-1))
    forth, back = s.boundary_distances(mask, label)
    assert forth == pytest.approx(distances.min(1), abs=1e-4) and back == pytest.approx(distances.min(0), abs=1e-4)
    expected = max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))
    assert s.hd95(mask, label) == pytest.approx(expected, abs=1e-4) == s.hd95(label, mask)


def test_a_shifted_square_by_hand():
    label, mask = rectangle(10, 10, 20, 20), rectangle(10, 13, 20, 20)
    assert s.hd95(mask, label) == pytest.approx(3)
    assert s.surface_dice(mask, label, tolerance=3) == 1
    assert 0 < s.surface_dice(mask, label, tolerance=2) < 1
    # The bands share two rows of 17 pixels at top and bottom; the sides miss each other.
    each, common = 20 * 20 - 16 * 16, 2 * 2 * 17
    assert s.boundary_iou(mask, label, width=2) == common / (2 * each - common)


def test_the_centreline_of_a_thick_line_lies_in_a_thin_one():
    thick, thin = rectangle(20, 5, 7, 38), rectangle(23, 5, 1, 38)
    assert s.cl_dice(thick, thin) > 0.95  # the width does not matter, but for the forked ends of the skeleton
    half = rectangle(23, 5, 1, 19)
    assert s.cl_dice(half, thin) == pytest.approx(2 / 3)  # all of it right, half of the line found
    assert s.cl_dice(rectangle(40, 5, 3, 30), thin) == 0.0


def test_the_edge_of_the_image_is_no_boundary():
    assert s.boundary(rectangle(0, 0, 48, 20)).sum() == 48
    full = np.ones((20, 20), bool)
    assert not s.boundary(full).any()
    assert s.boundary_iou(full, full) == s.surface_dice(full, full) == s.cl_dice(full, full) == 1.0
    assert np.isnan(s.hd95(full, full))


@pytest.mark.parametrize("name", ["cldice", "boundary_iou", "nsd"])
def test_overlaps_of_empty_masks_follow_iou(name):
    empty, some = np.zeros((20, 20), bool), rectangle(5, 5, 6, 6, 20)
    pairs = [(empty, empty), (empty, some), (some, empty), (some, some)]
    assert [s.surface_metrics(*pair)[name] for pair in pairs] == [1, 0, 0, 1]
    assert np.isnan([s.hd95(empty, empty), s.hd95(empty, some), s.hd95(some, empty)]).all()
    assert s.hd95(some, some) == 0
