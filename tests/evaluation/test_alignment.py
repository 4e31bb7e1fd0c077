"""Labels that lie off one by one, or belong to other images: told where they do, and not where labels err otherwise."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from datasets.label_noise import make_noisy_label
from evaluation.label_audit import audit_labels
from evaluation.label_audit.alignment import find_alignment, place_label
from evaluation.label_audit.bias_search import find_biases
from evaluation.label_audit.moves import find_move
from evaluation.label_audit.other_images import find_other_images
from evaluation.label_audit.repair import choose_repair

SIDE = 128


@pytest.fixture(scope="module")
def plates():
    """Masks of many cells."""
    rng, masks = np.random.default_rng(2), []
    for _ in range(8):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for y, x in rng.integers(0, SIDE, (16, 2)).tolist():
            cv2.circle(mask, (x, y), int(rng.integers(4, 8)), 1, -1)
        masks.append(mask)
    return masks


def warped(mask, angle=0.0, scale=1.0):
    matrix = cv2.getRotationMatrix2D((SIDE / 2 - 0.5, SIDE / 2 - 0.5), angle, scale)
    return cv2.warpAffine(mask, matrix, (SIDE, SIDE), flags=cv2.INTER_NEAREST)


def each(change, values):
    return lambda masks: [change(mask, value) for mask, value in zip(masks, values, strict=True)]


def some(change):
    return lambda masks: [change(mask) if place % 2 else mask for place, mask in enumerate(masks)]


def moved(mask, move):
    return make_noisy_label(mask, "move:{},{}".format(*move), 0, "")


ANGLES = (8, -12, 10, 6, -9, -14, 11, -10)
MOVES = [(-16, 5), (12, 12), (0, -20), (18, 0), (-11, -13), (14, -9), (-20, 3), (5, 17)]
SCALES = (0.8, 1.2, 0.85, 1.15, 0.8, 1.2, 0.9, 1.2)


@pytest.mark.parametrize(
    ("displace", "text", "size"),
    [
        (each(warped, ANGLES), "turned differently in every image, on average by {}°", 10),
        (each(warped, (20,) * 8), "turned counterclockwise by {}°", 20),
        (some(lambda mask: warped(mask, -15)), "4 of 8 labels turned clockwise by {}°", 15),
        (each(moved, MOVES), "moved differently in every image, by {} px on average", 17.6),
        (each(lambda mask, scale: warped(mask, scale=scale), SCALES), "enlarged or shrunk differently in every", 17.5),
        (some(lambda mask: mask[:, ::-1].copy()), "4 of 8 labels mirrored left to right (taken back, a", 1),
    ],
)
def test_labels_that_lie_off_one_by_one(plates, displace, text, size):
    labels = displace(plates)
    (bias,) = find_biases(plates, labels, None).found
    before, after = text.split("{}") if "{}" in text else (text, "")
    assert bias.text().startswith(before) and after in bias.text()
    assert bias.size == pytest.approx(size, rel=0.15)
    assert choose_repair(labels, plates).spec is None


@pytest.mark.parametrize(
    "spec", ["clean", "flip:0.4", "erode:3", "dilate:5", "missing:0.5", "sample:0.1", "random:0.3"]
)
def test_labels_that_err_where_they_lie_are_not_displaced(plates, spec):
    labels = [make_noisy_label(mask, spec, 0, str(place)) for place, mask in enumerate(plates)]
    assert find_alignment(plates, labels) is None


def test_one_class_alone_lies_nowhere(plates):
    assert place_label(plates[0], np.zeros_like(plates[0])) is None


def test_labels_turned_by_far_are_said_to_be_so(plates):
    audit = audit_labels(each(warped, (80, -50, 60, -70, 50, 90, -60, 70))(plates), plates)
    assert audit.verdict == "not learnable" and "turned differently in every image" in audit.reason()
    assert any("Look for what turned them" in line for line in audit.advice()) and not audit.warnings()


def test_far_moves_are_undone(plates):
    audit = audit_labels([moved(mask, (20, 15)) for mask in plates], plates)
    assert audit.verdict == "biased moved by (20, 15)" and audit.to_json()["repair"] == "move:-20,-15"


def test_labels_of_other_images_are_told(plates):
    noisy = [make_noisy_label(mask, "flip:0.2", 0, str(place)) for place, mask in enumerate(plates)]
    audit = audit_labels(noisy[1:] + noisy[:1], plates)
    assert audit.verdict == "not learnable" and "8 of the 8 labels that were looked into fit clean" in audit.reason()
    mixed = audit_labels([noisy[1], noisy[2], noisy[0], *noisy[3:]], plates)
    assert mixed.verdict == "learnable"
    assert any(line.startswith("3 of the 8 labels that were looked into fit clean") for line in mixed.warnings())
    assert find_other_images(plates, noisy).places == ()


@pytest.fixture(scope="module")
def fields():
    """Masks of dots, which lie in the upper half of all images alike: those of twice as many images."""
    rng = np.random.default_rng(0)
    density = np.linspace(1, 0, SIDE)[:, None] ** 2
    cells = [np.kron(rng.random((32, 32)) < 0.6 * density[::4], np.ones((4, 4))) for _ in range(16)]
    return [item.astype(np.uint8) for item in cells]


def test_images_that_are_alike_do_not_make_labels_of_others_learnable(fields):
    truths, others = fields[:8], fields[8:]
    audit = audit_labels(others, truths)
    assert audit.to_json()["phi"] > 0.1
    assert audit.verdict == "not learnable" and "more than with those of other images" in audit.reason()
    weak = audit_labels([make_noisy_label(mask, "flip:0.45", 0, str(at)) for at, mask in enumerate(truths)], truths)
    assert weak.verdict == "learnable"


def test_what_other_images_choose_is_no_move():
    rng = np.random.default_rng(1)
    maps = [cv2.GaussianBlur(rng.normal(size=(SIDE, SIDE)), (0, 0), 12).astype(np.float32) for _ in range(10)]
    for shift in range(1, 10):
        assert not find_move(maps, maps[shift:] + maps[:shift])


def test_each_error_of_a_mixed_list_is_counted(plates):
    wide = [make_noisy_label(mask, "dilate:5", 0, "") for mask in plates]
    narrow = [make_noisy_label(mask, "erode:5", 0, "") for mask in plates]
    mixed = [*wide[:3], *narrow[3:6], *plates[6:]]
    found = find_biases(plates, mixed, None)
    assert [bias.what for bias in found.found] == [f"outlines of 3 of 8 labels {how}" for how in ("wider", "narrower")]
    assert found.offset == 0 and choose_repair(mixed, plates).spec is None
