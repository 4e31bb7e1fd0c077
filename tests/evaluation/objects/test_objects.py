"""Objects and networks of masks: known answers, and agreement with scikit-image and torchmetrics."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, gaussian_filter
from skimage.measure import euler_number, label
from skimage.morphology import skeletonize

from evaluation.objects import INSTANCES
from evaluation.objects.matching import NO_OBJECTS, count_objects
from evaluation.objects.measuring import measure_objects, trace_outlines
from evaluation.objects.networks import betti_numbers, measure_network
from evaluation.objects.splitting import label_objects


def disks(*places: tuple[int, int, int], size: int = 80) -> np.ndarray:
    """A mask of disks (y, x, radius)."""
    mask = np.zeros((size, size), np.uint8)
    for y, x, radius in places:
        cv2.circle(mask, (x, y), radius, 1, -1)
    return mask.astype(bool)


def random_mask(seed: int, size: int = 60) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 0.6 + seed % 3) > 0.03


def drawn(*lines: str) -> np.ndarray:
    return np.array([[mark == "#" for mark in line] for line in lines])


def test_components_are_those_of_scikit_image():
    for seed in range(6):
        np.testing.assert_array_equal(label_objects(random_mask(seed)), label(random_mask(seed), connectivity=2))


def test_watershed_parts_touching_disks_and_nothing_else():
    touching = disks((30, 25, 14), (30, 49, 14))
    assert label_objects(touching).max() == 1
    numbers = label_objects(touching, "watershed")
    assert numbers.max() == 2 and (numbers > 0).sum() == touching.sum()
    assert numbers[30, 20] != numbers[30, 54]
    assert (numbers[:, :37] != numbers[30, 54]).all() and (numbers[:, 38:] != numbers[30, 20]).all()
    for alone in (disks((40, 40, 20)), disks((0, 40, 20)), disks((40, 40, 1)), np.ones((30, 30), bool)):
        assert label_objects(alone, "watershed").max() == 1
    ellipse = np.zeros((80, 80), np.uint8)
    cv2.ellipse(ellipse, (40, 40), (30, 10), 20, 0, 360, 1, -1)
    assert label_objects(ellipse, "watershed").max() == 1


@pytest.mark.parametrize("method", INSTANCES)
def test_every_method_numbers_all_foreground_without_gaps_and_none_across_components(method):
    for seed in range(4):
        mask = random_mask(seed)
        numbers, whole = label_objects(mask, method), label_objects(mask)
        np.testing.assert_array_equal(numbers > 0, mask)
        assert np.unique(numbers).tolist() == list(range(numbers.max() + 1))
        for number in range(1, numbers.max() + 1):
            assert len(np.unique(whole[numbers == number])) == 1
            assert label(numbers == number, connectivity=2).max() == 1
        large = label_objects(mask, method, min_area=9)
        areas = np.bincount(numbers.ravel())[1:]
        assert large.max() == (areas >= 9).sum() and np.bincount(large.ravel())[1:].min() >= 9
    assert not label_objects(np.zeros((5, 6), bool), method).any()


def test_objects_are_matched_by_known_overlaps():
    truth, found = np.zeros((20, 40), int), np.zeros((20, 40), int)
    truth[0:10, 0:10], truth[0:10, 20:30], truth[15:20, 30:40] = 7, 3, 9
    found[0:10, 0:10] = 1  # IoU 1
    found[2:10, 20:30] = 2  # IoU 0.8
    found[12:14, 0:2] = 4  # invented; number 9 of the label is missing
    counts = count_objects(found, truth)
    assert (counts.predicted, counts.labelled) == (3, 3)
    assert counts.matched.tolist() == [2] * 7 + [1] * 3  # 0.5 … 0.8, then 0.85 … 0.95
    assert counts.metrics() == pytest.approx({"object_f1": 2 / 3, "object_f1_mean": (7 * 2 / 3 + 3 / 3) / 10})
    assert (counts + counts).metrics() == pytest.approx(counts.metrics())
    nothing = np.zeros_like(truth)
    assert count_objects(nothing, nothing).metrics()["object_f1"] == 1 == NO_OBJECTS.f1[0]
    assert count_objects(nothing, truth).metrics()["object_f1"] == 0


def test_halves_of_an_object_match_it_once():
    truth, found = np.ones((4, 10), int), np.repeat([[1] * 5 + [2] * 5], 4, axis=0)
    for first, second in ((truth, found), (found, truth)):  # both halves have an IoU of exactly 0.5
        assert count_objects(first, second).matched.tolist() == [1] + [0] * 9


def test_f1_at_one_half_is_the_recognition_quality_of_torchmetrics():
    detection = pytest.importorskip("torchmetrics.detection")
    torch = pytest.importorskip("torch")
    for seed in (0, 2, 3):  # without an IoU of exactly one half, which only here is a match
        blobs = gaussian_filter(np.random.default_rng(seed).normal(size=(64, 64)), 2)
        truth, found = label_objects(blobs > 0.03), label_objects(blobs > 0.06)
        metric = detection.PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
        as_pairs = [torch.tensor(np.stack([numbers > 0, numbers], -1).astype(int))[None] for numbers in (found, truth)]
        expected = metric(*as_pairs)[0][2].item()
        assert 0.05 < expected < 1
        assert count_objects(found, truth).metrics()["object_f1"] == pytest.approx(expected, abs=1e-6)


def test_betti_numbers_have_the_euler_number_of_scikit_image():
    for seed in range(12):
        mask = random_mask(seed)
        pieces, holes = betti_numbers(mask)
        assert pieces == label(mask, connectivity=2).max()
        assert pieces - holes == euler_number(mask, connectivity=2)
    assert betti_numbers(np.zeros((5, 5), bool)) == (0, 0)
    assert betti_numbers(np.ones((5, 5), bool)) == (1, 0)
    assert betti_numbers(drawn("###", "#.#", "#.#")) == (1, 0)  # the image's edge cuts the opening


def test_networks_of_known_shape():
    line = np.zeros((20, 30), bool)
    line[5, 3:24] = True
    assert measure_network(line) == (20.0, 0, 2, 0, 1)
    assert measure_network(line, (0.5, 0.1)).length == pytest.approx(2.0)
    assert measure_network(np.eye(11, dtype=bool), (3.0, 4.0)).length == pytest.approx(50.0)
    cross = line.copy()
    cross[1:16, 12] = True
    assert measure_network(cross) == (34.0, 1, 4, 0, 1)
    stairs = drawn("##...", ".##..", "..##.", "...##")
    assert measure_network(stairs) == (7.0, 0, 2, 0, 1)
    ring = drawn(".....", ".###.", ".#.#.", ".###.", ".....")
    assert measure_network(ring) == (8.0, 0, 0, 1, 1)
    two = np.zeros((30, 60), bool)  # rings joined by a bar
    for left in (2, 36):
        two[5:20, [left, left + 20]] = two[[5, 19], left : left + 21] = True
    two[12, 22:37] = True
    assert measure_network(two)[1:] == (2, 0, 2, 1)
    assert measure_network(np.zeros((9, 9), bool)) == (0, 0, 0, 0, 0)


def test_skeletons_of_tubes_have_the_length_and_loops_that_were_drawn():
    mask = np.zeros((120, 120), np.uint8)
    cv2.rectangle(mask, (20, 20), (100, 90), 1, 5)
    cv2.line(mask, (60, 20), (60, 90), 1, 5)
    network = measure_network(skeletonize(mask > 0))
    assert (network.junctions, network.end_points, network.loops, network.pieces) == (2, 0, 2, 1)
    assert network.length == pytest.approx(2 * (80 + 70) + 70, rel=0.03)


def test_measurements_in_micrometres_follow_the_pixel_size():
    mask = disks((30, 30, 12), (60, 60, 9))
    numbers = label_objects(mask)
    table = measure_objects(numbers, pixel_size=(0.2, 0.1))
    assert table["area_um2"] == pytest.approx(table["area_px2"] * 0.02)
    assert table["centroid_y_um"] == pytest.approx(table["centroid_y_px"] * 0.2)
    assert table["axis_major_um"] == pytest.approx(2 * table["axis_minor_um"], rel=1e-3)  # a disk on flat pixels
    assert np.isnan(table["perimeter_um"]).all()
    square = measure_objects(numbers, pixel_size=(0.1, 0.1))
    assert square["perimeter_um"] == pytest.approx(square["perimeter_px"] / 10)


def test_outlines_enclose_exactly_the_pixels_of_their_object():
    for seed in range(8):
        numbers = label_objects(random_mask(seed))
        for number, corners in trace_outlines(numbers):
            x, y = corners.T.astype(float)
            area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
            assert area == binary_fill_holes(np.pad(numbers == number, 1)).sum()
            steps = np.roll(corners, -1, axis=0) - corners
            assert ((steps == 0).sum(1) == 1).all() and (steps * np.roll(steps, 1, axis=0) == 0).all()
