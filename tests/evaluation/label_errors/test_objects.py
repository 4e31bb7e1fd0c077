"""Label issues by object: every fault drawn into a label is told by its name and place, and nothing else is."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from evaluation.label_errors.object_issues import judge_label
from evaluation.label_errors.objects import best_move, compare_shapes, find_regions, is_borne_out, split_parts
from evaluation.label_errors.quality import Calibration, assess
from evaluation.scores import score_histogram

SIZE = 128
CENTERS = [(30, 30), (30, 90), (90, 30), (90, 90)]
RADIUS = 11


def disks(centers: list[tuple[int, int]], radius: float = RADIUS) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.any([(y - down) ** 2 + (x - right) ** 2 <= radius**2 for down, right in centers], axis=0)


def find(label: np.ndarray, truth: np.ndarray, **settings) -> list:
    evidence = cv2.GaussianBlur(truth.astype(np.float32), (0, 0), 1.0)
    return find_regions(label, evidence, np.ones(label.shape, bool), **settings)


def bridged(mask: np.ndarray) -> np.ndarray:
    return mask | (cv2.rectangle(np.zeros(mask.shape, np.uint8), (30, 26), (90, 34), 1, -1) > 0)


TRUTH = disks(CENTERS)
CUT = TRUTH & (np.abs(np.arange(SIZE) - 30) > 2)[:, None]
FAULTS = {
    "missing": (disks(CENTERS[1:]), TRUTH, [CENTERS[0]]),
    "invented": (TRUTH, disks(CENTERS[1:]), [CENTERS[0]]),
    "too wide": (TRUTH | disks(CENTERS[:1], RADIUS + 4), TRUTH, [CENTERS[0]]),
    "too narrow": (disks(CENTERS[1:]) | disks(CENTERS[:1], RADIUS - 4), TRUTH, [CENTERS[0]]),
    "moved": (disks([(35, 35), *CENTERS[1:]]), TRUTH, [(32, 32)]),
    "merged": (bridged(TRUTH), TRUTH, [(30, 60)]),
    "split": (CUT, TRUTH, [(30, 30), (30, 90)]),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_is_told_by_name_and_place(kind):
    label, truth, places = FAULTS[kind]
    found = find(label, truth)
    assert [region.kind for region in found] == [kind] * len(places)
    for region, place in zip(sorted(found, key=lambda region: region.center), places, strict=True):
        np.testing.assert_allclose(region.center, place, atol=1)
        assert region.confidence > 0.6
        mended = label.copy()  # what is expected takes the place of the label in the region
        mended[region.window] = np.where(region.mask, truth[region.window], mended[region.window])
        assert (mended != truth).sum() < (label != truth).sum()


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_gap_is_a_fault_only_where_the_image_does_not_show_it(kind, channels):
    """Networks blur: where they close a gap that is in the image, and in its label, the label is right."""
    label, truth, _ = FAULTS[kind]
    rng = np.random.default_rng(0)

    def image_of(mask: np.ndarray) -> np.ndarray:
        blurred = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)
        return np.stack([100 - 30 * blurred + rng.normal(0, 3, mask.shape) for _ in range(channels)], -1)

    bare = rng.normal(0, 3, (*label.shape, channels))  # tells nothing
    for region in find(label, truth):
        assert is_borne_out(region, image_of(truth), label)
        assert is_borne_out(region, image_of(label), label) == (kind not in ("split", "merged"))
        assert is_borne_out(region, bare, label)


def test_right_labels_and_soft_outlines_have_no_issues():
    assert find(TRUTH, TRUTH) == []
    assert find(disks(CENTERS, RADIUS + 1), TRUTH) == []
    assert find(np.zeros_like(TRUTH), np.zeros_like(TRUTH)) == []


def test_of_two_touching_objects_one_may_be_missing():
    truth = disks([(60, 50), (60, 70)])  # one component
    (region,) = find(disks([(60, 50)]), truth)
    assert region.kind == "missing" and region.center[1] > 65
    assert region.mask.sum() == pytest.approx((truth & ~disks([(60, 50)])).sum(), rel=0.2)


def test_a_label_moved_as_a_whole_is_told_object_by_object():
    label = disks([(down + 4, right - 5) for down, right in CENTERS])
    assert best_move(label, TRUTH) == (-4, 5)
    found = find(label, TRUTH)
    assert [region.kind for region in found] == ["moved"] * len(CENTERS)


def test_an_object_moved_beside_its_place_is_one_issue():
    (region,) = find(disks([(30, 52), *CENTERS[1:]]), TRUTH)
    assert region.kind == "moved"


def test_without_outlines_only_objects_are_told():
    wide = TRUTH | disks(CENTERS[:1], RADIUS + 4)
    assert find(wide, TRUTH, outlines=False) == []
    assert [region.kind for region in find(disks(CENTERS[1:]), TRUTH, outlines=False)] == ["missing"]


def test_ignored_pixels_are_no_issue():
    label, valid = disks(CENTERS[1:]), ~disks(CENTERS[:1], RADIUS + 3)
    assert find_regions(label, TRUTH.astype(np.float32), valid) == []


def test_regions_do_not_overlap(rng):
    label = disks([tuple(rng.integers(10, SIZE - 10, 2)) for _ in range(12)])
    truth = disks([tuple(rng.integers(10, SIZE - 10, 2)) for _ in range(12)])
    count = np.zeros(label.shape, int)
    found = find(label, truth)
    for region in found:
        count[region.window] += region.mask
    assert found and count.max() == 1


def test_parts_of_a_mask_are_cut_at_necks():
    assert split_parts(disks([(60, 50), (60, 68)])).max() == 2
    assert split_parts(disks([(60, 60)])).max() == 1
    assert split_parts(np.zeros((20, 20), bool)).max() == 0


def test_shapes_that_agree_have_no_name():
    assert compare_shapes(disks([(60, 60)]), disks([(61, 60)])) is None


@pytest.mark.parametrize("seed", range(4))
def test_clumps_of_flipped_pixels_are_no_objects_but_a_missing_one_is(seed):
    flipped = np.random.default_rng(seed).random(TRUTH.shape) < 0.3
    scores = np.where(TRUTH, 0.9, 0.1).astype(np.float32)
    calibration = Calibration.of_histogram(score_histogram(scores, (TRUTH ^ flipped).astype(np.uint8)))
    posterior = calibration.posterior(scores)

    def issues(mask: np.ndarray) -> list:
        label = (mask ^ flipped).astype(np.uint8)
        judging = SimpleNamespace(assess=lambda _: (label, posterior, assess(label, posterior), calibration))
        return judge_label(judging, None, outlines=False).regions  # without outlines no image is read

    assert issues(TRUTH) == []
    (found,) = issues(disks(CENTERS[1:]))
    assert found.kind in ("missing", "moved")  # beside a clump it looks moved
    np.testing.assert_allclose(found.center, CENTERS[0], atol=RADIUS)
