"""The correction of labels: what is moved or off its boundary is put right, all else is left as it is."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.label_noise import make_noisy_label
from evaluation.label_audit.repair import choose_repair
from evaluation.scores import confusion_matrix


def draw_truths(count: int = 8, size: int = 96, num_classes: int = 1) -> list[np.ndarray]:
    """Disks of radius 6 to 11, of K classes one behind the other."""
    rng, y, x = np.random.default_rng(3), *np.mgrid[:size, :size]
    truths = []
    for _ in range(count):
        truth = np.zeros((size, size), np.uint8)
        for number in range(8):
            cy, cx, radius = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(6, 11)
            truth[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = 1 + number % max(1, num_classes - 1)
        truths.append(truth)
    return truths


def with_noise(truths: list[np.ndarray], spec: str, num_classes: int = 1) -> list[np.ndarray]:
    return [make_noisy_label(truth, spec, 0, str(place), num_classes) for place, truth in enumerate(truths)]


@pytest.mark.parametrize(
    "spec",
    [
        "clean",
        "flip:0.1",
        "flip:0.3",
        "sample:0.1",
        "sample:0.5",
        "missing:0.3",
        "random:0.3",
        "flip:0.7",
        "wobble:2,8",
    ],
)
def test_labels_without_an_offset_are_left_alone(spec):
    truths = draw_truths()
    found = choose_repair(with_noise(truths, spec), truths)
    assert found.spec is None and found.gain == 0
    assert found.after == found.before


@pytest.mark.parametrize(
    ("spec", "repair", "least"),
    [
        ("move:3,-2", "move:-3,2", 0.96),
        ("dilate:5", "offset:-2.5", 0.95),
        ("erode:5", "offset:2", 0.9),
        ("offset:1.5", "offset:-2", 0.9),
        ("dilate:5+move:3,3", "move:-3,-3+offset:-2.5", 0.9),
    ],
)
def test_a_move_and_an_offset_are_undone(spec, repair, least):
    truths = draw_truths()
    labels = with_noise(truths, spec)
    found = choose_repair(labels, truths)
    repaired = [make_noisy_label(label, found.spec, 0, "") for label in labels]
    counts = sum(confusion_matrix(label, truth, 2) for label, truth in zip(repaired, truths, strict=True))
    iou = counts[1, 1] / (counts.sum() - counts[0, 0])
    assert iou == pytest.approx(found.after, abs=0.02) and iou > max(least, found.before)
    values = [float(step.partition("offset:")[2]) for step in found.spec.split("+") if "offset" in step]
    wanted = [float(step.partition("offset:")[2]) for step in repair.split("+") if "offset" in step]
    assert values == pytest.approx(wanted, abs=0.5)
    assert [step for step in found.spec.split("+") if "move" in step] == [
        step for step in repair.split("+") if "move" in step
    ]


@pytest.mark.parametrize(
    ("spec", "said"),
    [("wobble:6,10+offset:2", "labels with clean ones: too little"), ("flip:0.2+offset:1", "its error")],
)
def test_a_correction_that_is_not_taken_has_its_reason(spec, said):
    truths = draw_truths()
    found = choose_repair(with_noise(truths, spec), truths)
    assert found.spec is None and found.reason.endswith(said)


def test_skeletons_are_widened():
    truths = draw_truths()
    found = choose_repair(with_noise(truths, "skeleton"), truths)
    assert found.spec.startswith("offset:") and float(found.spec[7:]) >= 3 and found.after > found.before + 0.2


def test_several_classes_share_an_offset():
    truths = draw_truths(num_classes=3)
    found = choose_repair(with_noise(truths, "dilate:5", 3), truths, 3)
    assert float(found.spec[7:]) == pytest.approx(-2, abs=0.5) and found.after > found.before + 0.1
    assert choose_repair(with_noise(truths, "flip:0.3", 3), truths, 3).spec is None


def test_ignored_pixels_count_nowhere():
    truths = draw_truths()
    labels = with_noise(truths, "dilate:5")
    known = choose_repair(labels, truths)
    for label, truth in zip(labels, truths, strict=True):
        label[:20], truth[-20:] = 255, 255
    found = choose_repair(labels, truths)
    assert found.spec == known.spec and found.after > 0.9


def test_only_images_with_a_clean_label_count():
    truths = draw_truths()
    labels = with_noise(truths, "dilate:5")
    some = choose_repair(labels, [*truths[:4], None, None, None, None])
    assert some == choose_repair(labels[:4], truths[:4]) and some.images == 4 and some.spec is not None
    few = choose_repair(labels[:2], truths[:2])
    assert few.spec is None and "3 images" in few.reason


def test_empty_labels_teach_no_correction():
    truths = draw_truths()
    assert choose_repair([np.zeros_like(truth) for truth in truths], truths).spec is None
    assert choose_repair(truths, [np.zeros_like(truth) for truth in truths]).spec is None


def test_images_that_nobody_annotated_hide_no_offset():
    truths = draw_truths()
    labels = [np.zeros_like(label) if i % 2 else label for i, label in enumerate(with_noise(truths, "dilate:5"))]
    found = choose_repair(labels, truths)
    assert found.spec == "offset:-2.5" and found.images == 4


def test_an_offset_of_half_of_the_labels_is_no_common_one():
    truths = draw_truths()
    labels = [label if place % 2 else truths[place] for place, label in enumerate(with_noise(truths, "dilate:5"))]
    found = choose_repair(labels, truths)
    assert found.spec is None and found.after == found.before


def test_a_move_by_one_pixel_is_undone():
    truths = draw_truths()
    assert choose_repair(with_noise(truths, "move:0,1"), truths).spec == "move:0,-1"


def test_labels_that_follow_nothing_are_not_widened():
    """Of many structures, what is wide enough covers a part, whatever was labelled."""
    truths, rng = draw_truths(count=10), np.random.default_rng(2)
    labels = []
    for truth in truths:
        anywhere, inside = (np.kron(rng.random((12, 12)) < share, np.ones((8, 8), bool)) for share in (0.12, 0.05))
        labels.append((anywhere | (inside & (truth == 1))).astype(np.uint8))
    found = choose_repair(labels, truths)
    assert found.spec is None and found.reason == "the labels do not follow the clean ones"
