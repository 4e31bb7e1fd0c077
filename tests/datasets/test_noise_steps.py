"""Each step of label noise against its definition: exact shares, brute-force operators, known answers."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.morphology import skeletonize

from datasets import noise_steps as steps
from datasets.labels import IGNORE

CLASSES = 4
EXAMPLES = settings(max_examples=40, deadline=None)
SHARES = st.floats(0, 1)
SEEDS = st.integers(0, 2**32)
SIDES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
BINARY = hnp.arrays(np.uint8, SIDES, elements=st.sampled_from([0, 1, 1, IGNORE]))
SEVERAL = hnp.arrays(np.uint8, SIDES, elements=st.sampled_from([0, 1, 2, 3, IGNORE]))

EVERY_STEP = {
    "clean": lambda label, rng: steps.clean(label),
    "sample": lambda label, rng: steps.sample(label, 0.4, rng=rng),
    "sample, rest ignored": lambda label, rng: steps.sample(label, 0.4, unlabelled="ignore", rng=rng),
    "flip": lambda label, rng: steps.flip(label, 0.3, 0.2, num_classes=CLASSES, rng=rng),
    "random": lambda label, rng: steps.random_label(label, 0.3, num_classes=CLASSES, rng=rng),
    "apply_matrix": lambda label, rng: steps.apply_matrix(label, np.full((CLASSES, CLASSES), 1 / CLASSES), rng=rng),
    "dilate": lambda label, rng: steps.dilate(label, 3),
    "erode": lambda label, rng: steps.erode(label, 3),
    "skeleton": lambda label, rng: steps.skeleton(label),
    "shift": lambda label, rng: steps.shift(label, 2, rng=rng),
    "wobble": lambda label, rng: steps.wobble(label, 2.0, 4.0, rng=rng),
    "missing": lambda label, rng: steps.missing(label, 0.5, rng=rng),
    "merge": lambda label, rng: steps.merge(label, 2),
    "polygon": lambda label, rng: steps.polygon(label, 2.0),
    "offset": lambda label, rng: steps.offset(label, 1.5),
    "offset, narrower": lambda label, rng: steps.offset(label, -1.5),
}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def disk(size: int = 64, radius: float = 20) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (y**2 + x**2 <= radius**2).astype(np.uint8)


def painted(label: np.ndarray, operator) -> np.ndarray:
    """The definition of steps on shapes: class by class in index order, ignored pixels restored."""
    noisy = np.zeros_like(label)
    for value in range(1, CLASSES):
        noisy[operator(label == value)] = value
    noisy[label == IGNORE] = IGNORE
    return noisy


# What holds for every step


@pytest.mark.parametrize("step", EVERY_STEP.values(), ids=EVERY_STEP)
@given(label=SEVERAL, seed=SEEDS)
@EXAMPLES
def test_ignored_pixels_stay_and_the_given_label_is_left_alone(step, label, seed):
    before = label.copy()
    noisy = step(label, generator(seed))
    assert np.array_equal(label, before) and not np.shares_memory(noisy, label)
    assert noisy.shape == label.shape and noisy.dtype == np.uint8
    assert (noisy[label == IGNORE] == IGNORE).all()
    assert set(np.unique(noisy)) <= {0, 1, 2, 3, IGNORE}


@pytest.mark.parametrize("step", EVERY_STEP.values(), ids=EVERY_STEP)
def test_a_label_that_is_ignored_throughout_stays_so(step):
    label = np.full((9, 7), IGNORE, np.uint8)
    assert np.array_equal(step(label, generator()), label)


@pytest.mark.parametrize("name", [name for name in EVERY_STEP if name != "sample, rest ignored"])
def test_only_sampling_may_ignore_what_was_known(name):
    label = generator(1).integers(0, CLASSES, (20, 20)).astype(np.uint8)
    assert (EVERY_STEP[name](label, generator()) != IGNORE).all()


# Shares of pixels


@given(label=SEVERAL, share=SHARES, seed=SEEDS)
@EXAMPLES
def test_sampling_keeps_an_exact_share_of_each_foreground_class(label, share, seed):
    noisy = steps.sample(label, share, rng=generator(seed))
    for value in (1, 2, 3):
        count = (label == value).sum()
        assert (noisy == value).sum() == np.floor(share * count + 0.5)
        assert set(np.unique(noisy[label == value])) <= {0, value}
    assert (noisy[label == 0] == 0).all()


@given(label=SEVERAL, share=SHARES, seed=SEEDS)
@EXAMPLES
def test_sampling_with_the_rest_ignored_keeps_the_share_of_every_class(label, share, seed):
    noisy = steps.sample(label, share, unlabelled="ignore", rng=generator(seed))
    for value in range(CLASSES):
        assert (noisy == value).sum() == np.floor(share * (label == value).sum() + 0.5)
    known = noisy != IGNORE
    assert np.array_equal(noisy[known], label[known])


@given(label=BINARY, foreground=SHARES, background=SHARES, seed=SEEDS)
@EXAMPLES
def test_binary_flips_are_exact_in_both_directions(label, foreground, background, seed):
    noisy = steps.flip(label, foreground, background, rng=generator(seed))
    lost, gained = ((label == 1) & (noisy == 0)).sum(), ((label == 0) & (noisy == 1)).sum()
    assert lost == np.floor(foreground * (label == 1).sum() + 0.5)
    assert gained == np.floor(background * (label == 0).sum() + 0.5)


@given(label=SEVERAL, share=SHARES, seed=SEEDS)
@EXAMPLES
def test_flips_of_several_classes_move_evenly(label, share, seed):
    noisy = steps.flip(label, share, num_classes=CLASSES, rng=generator(seed))
    for value in range(CLASSES):
        now = noisy[label == value]
        moved = [int((now == other).sum()) for other in range(CLASSES) if other != value]
        assert sum(moved) == np.floor(share * now.size + 0.5)
        assert max(moved) - min(moved) <= 1


def test_what_an_even_split_leaves_over_prefers_no_class():
    label = np.zeros((1, 2), np.uint8)  # half of two pixels: one pixel for one of three classes
    seen = Counter(int(steps.flip(label, 0.5, num_classes=CLASSES, rng=generator(seed)).max()) for seed in range(300))
    assert set(seen) == {1, 2, 3} and min(seen.values()) > 60


@given(label=SEVERAL, weights=hnp.arrays(float, (CLASSES, CLASSES), elements=st.floats(0.01, 1)), seed=SEEDS)
@EXAMPLES
def test_a_matrix_is_realised_as_exactly_as_pixels_allow(label, weights, seed):
    matrix = weights / weights.sum(axis=1, keepdims=True)
    noisy = steps.apply_matrix(label, matrix, rng=generator(seed))
    for value in range(CLASSES):
        now = noisy[label == value]
        counts = np.bincount(now, minlength=CLASSES)
        assert np.abs(counts - matrix[value] * now.size).max() < 1


@pytest.mark.parametrize(
    ("shares", "total", "counts"),
    [([0.5, 0.5], 3, [2, 1]), ([0.3, 0.7], 10, [3, 7]), ([0.1, 0.2, 0.7], 5, [1, 1, 3]), ([0, 1], 7, [0, 7])],
)
def test_largest_remainder(shares, total, counts):
    assert steps.largest_remainder(shares, total).tolist() == counts


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_random_pixels_have_the_stated_probability_whatever_the_truth(classes, share):
    label = np.repeat([0, 1], 20000).astype(np.uint8).reshape(200, 200)
    noisy = steps.random_label(label, share, num_classes=classes, rng=generator())
    foreground = max(classes, 2) - 1
    for truth in (0, 1):
        seen = np.bincount(noisy[label == truth], minlength=foreground + 1) / 20000
        expected = np.array([1 - share] + [share / foreground] * foreground)
        assert (np.abs(seen - expected) <= 5 * np.sqrt(expected * (1 - expected) / 20000)).all()


# Morphology


@given(label=SEVERAL, side=st.sampled_from([1, 3, 5, 9, 101]))
@EXAMPLES
def test_dilation_equals_brute_force(label, side):
    kernel = np.ones((min(side, 61),) * 2)
    expected = painted(label, lambda mask: ndimage.binary_dilation(mask, kernel))
    assert np.array_equal(steps.dilate(label, side), expected)


@given(label=SEVERAL, side=st.sampled_from([1, 3, 5, 9, 101]))
@EXAMPLES
def test_erosion_equals_brute_force_and_neither_outside_nor_ignored_pixels_erode(label, side):
    kernel = np.ones((min(side, 61),) * 2)
    ignored = label == IGNORE
    expected = painted(label, lambda mask: ndimage.binary_erosion(mask | ignored, kernel, border_value=1))
    assert np.array_equal(steps.erode(label, side), expected)


def test_an_image_full_of_foreground_does_not_erode():
    full = np.ones((16, 16), np.uint8)
    assert np.array_equal(steps.erode(full, 7), full)


@EXAMPLES
@given(label=SEVERAL)
def test_skeleton_equals_scikit_image(label):
    assert np.array_equal(steps.skeleton(label), painted(label, skeletonize))


def test_objects_thinned_one_by_one_equal_the_whole_image_thinned():
    mask = np.zeros((96, 96), np.uint8)
    for row, column, size in ((2, 3, 20), (30, 5, 17), (40, 50, 25), (0, 90, 6)):
        mask[row : row + size, column : column + size] = disk(size, size / 2)[:, : 96 - column]
    assert np.array_equal(steps.skeleton(mask), skeletonize(mask > 0))


def test_the_higher_class_lies_on_top():
    label = np.array([[1, 0, 0, 2, 0, 0, 3]], np.uint8)
    assert steps.dilate(label, 5).tolist() == [[1, 2, 2, 2, 3, 3, 3]]


# Shapes moved


@given(label=SEVERAL, reach=st.integers(0, 30), seed=SEEDS)
@EXAMPLES
def test_shifted_pixels_stay_within_reach_and_never_multiply(label, reach, seed):
    noisy = steps.shift(label, reach, rng=generator(seed))
    for value in range(1, CLASSES):
        within = ndimage.maximum_filter(label == value, 2 * reach + 1, mode="constant")
        assert not ((noisy == value) & ~within).any()
        assert (noisy == value).sum() <= (label == value).sum()


@given(label=SEVERAL, seed=SEEDS)
@EXAMPLES
def test_steps_of_no_strength_change_nothing(label, seed):
    rng = generator(seed)
    assert np.array_equal(steps.shift(label, 0, rng=rng), label)
    assert np.array_equal(steps.wobble(label, 0, 3, rng=rng), label)
    assert np.array_equal(steps.missing(label, 0, rng=rng), label)
    assert np.array_equal(steps.merge(label, 0), label)
    assert np.array_equal(steps.polygon(label, 0), label)


def test_shift_reaches_every_place_equally_and_clamps_at_the_border():
    middle, corner = np.zeros((2, 7, 7), np.uint8)
    middle[3, 3] = corner[0, 0] = 1
    seen, clamped = np.zeros((2, 7, 7))
    for seed in range(900):
        seen += steps.shift(middle, 1, rng=generator(seed))
        clamped += steps.shift(corner, 1, rng=generator(seed))
    assert np.abs(seen[2:5, 2:5] - 100).max() < 50 and seen.sum() == 900
    assert clamped.sum() == 900 and np.abs(clamped[0, 0] - 400) < 80  # 4 of 9 draws


def test_smooth_displacement_has_the_stated_deviation_and_correlation_length():
    length = 6.0
    fields = np.stack([steps.smooth_displacement((80, 72), length, generator(seed)) for seed in range(60)])
    assert abs(fields.mean()) < 0.05
    assert abs((fields**2).mean() - 1) < 0.05
    for distance in (3, 6, 12):
        expected = np.exp(-(distance**2) / (2 * length**2))
        assert abs((fields[:, distance:] * fields[:, :-distance]).mean() - expected) < 0.05
        assert abs((fields[..., distance:] * fields[..., :-distance]).mean() - expected) < 0.05


@pytest.mark.parametrize("length", [0.1, 1.0, 40.0, 1000.0])
def test_the_deviation_holds_for_any_correlation_length(length):
    corner = [steps.smooth_displacement((5, 4), length, generator(seed))[0, 0] for seed in range(800)]
    assert abs(np.std(corner) - 1) < 0.1


def test_a_larger_wobble_lowers_the_overlap():
    mask = disk()

    def overlap(amplitude: float) -> float:
        noisy = [steps.wobble(mask, amplitude, 8, rng=generator(seed)) for seed in range(20)]
        return float(np.mean([(mask & each).sum() / (mask | each).sum() for each in noisy]))

    overlaps = [overlap(amplitude) for amplitude in (0, 0.5, 1, 2, 4, 8)]
    assert overlaps[0] == 1 and all(left > right for left, right in zip(overlaps, overlaps[1:], strict=False))


# Objects


@given(label=SEVERAL, share=SHARES, seed=SEEDS)
@EXAMPLES
def test_an_exact_share_of_objects_goes_missing(label, share, seed):
    noisy = steps.missing(label, share, rng=generator(seed))
    for value in range(1, CLASSES):
        objects, count = ndimage.label(label == value, np.ones((3, 3)))
        kept = [bool((noisy[objects == number] == value).all()) for number in range(1, count + 1)]
        gone = [bool((noisy[objects == number] == 0).all()) for number in range(1, count + 1)]
        assert sum(gone) == np.floor(share * count + 0.5) and sum(kept) + sum(gone) == count


@pytest.mark.parametrize("gap", [1, 2, 3, 6])
def test_gaps_close_up_to_the_stated_width(gap):
    mask = np.ones((20, 40), np.uint8)
    mask[:, 10 : 10 + gap] = 0
    wider = mask.copy()
    wider[:, 25 : 25 + gap + 1] = 0
    assert steps.merge(mask, gap).all()
    assert np.array_equal(steps.merge(wider, gap) == 0, np.repeat([(np.arange(40) - 25) // (gap + 1) == 0], 20, 0))


@given(label=SEVERAL, gap=st.integers(0, 40))
@EXAMPLES
def test_merging_equals_a_closing_on_the_endless_plane(label, gap):
    border = 50

    def close(mask: np.ndarray) -> np.ndarray:
        grown = ndimage.maximum_filter(np.pad(mask, border), gap + 1, mode="constant")
        closed = ndimage.minimum_filter(grown, gap + 1, mode="constant", origin=-(gap % 2))
        return closed[border:-border, border:-border]

    noisy = steps.merge(label, gap)
    assert np.array_equal(noisy, painted(label, close))


def test_a_gap_to_the_border_stays():
    mask = np.zeros((12, 12), np.uint8)
    mask[2:8, 2:8] = 1
    assert np.array_equal(steps.merge(mask, 5), mask)


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 4.0])
def test_polygons_stay_within_tolerance_and_keep_holes(tolerance):
    ring = disk(96, 40) - disk(96, 20)
    noisy = steps.polygon(ring, tolerance)
    distance = ndimage.distance_transform_edt(ring) + ndimage.distance_transform_edt(ring == 0)
    assert (noisy != ring).sum() > 0 and distance[noisy != ring].max() <= tolerance + 1
    assert ndimage.label(noisy == 0)[1] == 2  # outside and hole


def test_polygons_of_neighbours_never_cancel():
    mask = np.zeros((60, 60), np.uint8)
    mask[5:55, 5:29] = mask[5:55, 31:55] = 1
    mask[::3, 5:30] = 1
    coarse = steps.polygon(mask, 6)
    assert (coarse & mask).sum() > 0.9 * mask.sum()


def test_a_simplified_outline_has_few_corners():
    def corners(mask: np.ndarray) -> int:
        outline = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0]
        return len(cv2.approxPolyDP(outline, 1, True))

    assert corners(steps.polygon(disk(128, 50), 5)) <= 10 < corners(disk(128, 50))


# offset and move


@given(label=BINARY, reach=st.floats(0.01, 0.49))
@EXAMPLES
def test_an_offset_below_half_a_pixel_changes_nothing(label, reach):
    assert np.array_equal(steps.offset(label, reach), label)
    assert np.array_equal(steps.offset(label, -reach), label)


@given(label=SEVERAL, reach=st.floats(-6, 6))
@EXAMPLES
def test_offset_is_the_level_set_of_the_distance_to_pixels_of_the_other_kind(label, reach):
    def level_set(mask: np.ndarray) -> np.ndarray:
        other = ~mask & (label != IGNORE)
        places = np.indices(mask.shape).reshape(2, -1).T

        def distance(to: np.ndarray) -> np.ndarray:
            if not to.any():
                return np.full(mask.shape, np.inf)
            nearest = np.linalg.norm(places[:, None] - np.argwhere(to)[None], axis=2).min(axis=1)
            return nearest.reshape(mask.shape)

        return np.where(mask, 0.5 - distance(other), distance(mask) - 0.5) <= reach + 1e-6

    expected = painted(label, level_set)
    assert np.array_equal(steps.offset(label, reach + 1e-6), expected)


@pytest.mark.parametrize("reach", [-6.3, -2.5, 1.0, 3.7])
def test_offset_moves_the_edge_of_a_disk_by_so_many_pixels(reach):
    before, after = disk(radius=20), steps.offset(disk(radius=20), reach)
    radius = [np.sqrt(mask.sum() / np.pi) for mask in (before, after)]
    assert radius[1] - radius[0] == pytest.approx(reach, abs=0.4)  # pixel centres, not their edges


def test_a_straight_edge_moves_by_whole_pixels():
    label = np.zeros((9, 12), np.uint8)
    label[:, :6] = 1
    assert steps.offset(label, 2)[4].sum() == 8 and steps.offset(label, -2)[4].sum() == 4


@given(label=SEVERAL, down=st.integers(-30, 30), right=st.integers(-30, 30))
@EXAMPLES
def test_move_is_a_translation_and_what_comes_in_is_not_known(label, down, right):
    for num_classes in (1, CLASSES):
        moved = steps.move(label, down, right, num_classes=num_classes)
        comes_in = IGNORE if num_classes > 1 or (label == IGNORE).any() else 0
        for (y, x), value in np.ndenumerate(moved):
            source = y - down, x - right
            inside = 0 <= source[0] < label.shape[0] and 0 <= source[1] < label.shape[1]
            assert value == (label[source] if inside else comes_in)
