"""Scores stated from noisy test labels, held against the truth, which the estimate does not see."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from datasets.image_io import write_label, write_scores
from datasets.label_noise import make_noisy_label
from datasets.labels import IGNORE
from datasets.lists import write_list
from evaluation.label_audit import audit_labels
from evaluation.label_audit.error_table import LabelErrors, count_by_distance
from evaluation.label_audit.stand_in import stand_in_masks
from evaluation.label_audit.true_scores import estimate_true_scores, refusal
from evaluation.metrics import main
from utils.cli import UserError
from utils.files import plain

PREDICTED = "wobble:2,8+missing:0.15"  # what makes predictions of the truth


def iou(masks, labels) -> float:
    both = sum(int(((mask == 1) & (label == 1)).sum()) for mask, label in zip(masks, labels, strict=True))
    return both / sum(int(((mask == 1) | (label == 1)).sum()) for mask, label in zip(masks, labels, strict=True))


@pytest.fixture(scope="module")
def shapes(draw_many):
    """Truths of audited and of test images, and predictions of the latter."""
    truths = draw_many(30)
    predicted = [make_noisy_label(truth, PREDICTED, 5, str(i)) for i, truth in enumerate(truths[10:])]
    return truths[:10], truths[10:], predicted


@pytest.fixture(scope="module")
def draw_many():
    def draw(count: int) -> list[np.ndarray]:
        rng, found = np.random.default_rng(0), []
        y, x = np.mgrid[:96, :96]
        for _ in range(count):
            mask = np.zeros((96, 96), np.uint8)
            for _ in range(4):
                cy, cx, radius = *rng.uniform(10, 86, 2), rng.uniform(6, 12)
                mask[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = 1
            found.append(mask)
        return found

    return draw


def noisy(truths, spec: str, seed: int) -> list[np.ndarray]:
    return [make_noisy_label(truth, spec, seed, str(i)) for i, truth in enumerate(truths)]


@pytest.mark.parametrize(
    ("spec", "repair", "apart"),
    [
        ("clean", None, 0.005),
        ("flip:0.3", None, 0.03),
        pytest.param("sample:0.2", None, 0.03, marks=pytest.mark.slow),
        ("dilate:5", "offset:-2.5", 0.03),
        pytest.param("erode:3", "offset:1", 0.03, marks=pytest.mark.slow),
        pytest.param("move:3,3", "move:-3,-3", 0.03, marks=pytest.mark.slow),
        pytest.param("polygon:2", None, 0.03, marks=pytest.mark.slow),
        ("flip:0.7", None, 0.05),
    ],
)
def test_the_stated_iou_is_that_with_the_hidden_truth(shapes, spec, repair, apart):
    audited, truths, predicted = shapes
    errors = LabelErrors.of(audited, noisy(audited, spec, 1), repair)
    labels = noisy(truths, spec, 2)
    table = np.stack([count_by_distance(*pair) for pair in zip(predicted, map(errors.repaired, labels), strict=True)])
    found, true = estimate_true_scores(errors, table), iou(predicted, truths)
    assert found.reason == "" and abs(found.iou - true) <= apart
    assert found.iou_bounds[0] <= true <= found.iou_bounds[1] and found.iou_bounds[1] - found.iou_bounds[0] < 0.35
    assert found.f1 == pytest.approx(2 * found.iou / (1 + found.iou))
    if spec not in ("clean", "polygon:2"):
        assert abs(iou(predicted, labels) - true) > 2 * abs(found.iou - true)


def test_what_labels_and_predictions_fail_at_alike_is_seen_on_the_audited_images():
    """Neither annotators nor networks see faint structures; the distance to outlines shows nothing of them."""
    rng = np.random.default_rng(0)
    images, truths, labels = [], [], []
    for _ in range(30):
        bright, faint = np.zeros((96, 96), np.uint8), np.zeros((96, 96), np.uint8)
        for mask, count in ((bright, 5), (faint, 2)):
            for row, column in rng.integers(10, 86, (count, 2)).tolist():
                cv2.circle(mask, (column, row), int(rng.integers(5, 9)), 1, -1)
        shown = cv2.GaussianBlur(100.0 * bright + 12.0 * (faint & ~bright & 1), (0, 0), 1.0)
        images.append((shown + rng.normal(0, 8, shown.shape)).astype(np.float32))
        truths.append(bright | faint)
        labels.append(bright)
    plain_errors = LabelErrors.of(truths[:12], labels[:12], None)
    errors = replace(plain_errors, stand_in=stand_in_masks(images[:12], truths[:12], labels[:12]))
    predicted = [(cv2.GaussianBlur(image, (0, 0), 1.0) > 50).astype(np.uint8) for image in images[12:]]
    table = np.stack([count_by_distance(*pair) for pair in zip(predicted, labels[12:], strict=True)])
    true = iou(predicted, truths[12:])
    off, corrected = (abs(estimate_true_scores(each, table).iou - true) for each in (plain_errors, errors))
    assert corrected < 0.05 and off > 0.2


def test_a_stand_in_marks_whole_windows_of_large_images():
    rng = np.random.default_rng(0)
    truths = [(rng.random((300, 210)) < 0.3).astype(np.uint8) for _ in range(20)]
    images = [np.stack([truth * 50.0 + rng.normal(0, 9, truth.shape)] * 3, -1) for truth in truths]
    masks = stand_in_masks(images, truths, truths)
    thresholds, used = masks.outcomes.shape[:2]
    assert masks.pixels.shape[:2] == (thresholds, used) and used == 16
    assert (masks.pixels.sum(-1) == 192 * 192).all()
    hit, invented, missed = masks.outcomes[3].sum(0)  # at as much foreground as labelled
    assert hit > 0.9 * (hit + invented + missed)


def test_counts_lie_at_their_distance():
    mask = np.zeros((20, 20), np.uint8)
    mask[:, 10:] = 1
    label = np.zeros_like(mask)
    label[:, 8:] = 1
    label[0] = IGNORE
    table = count_by_distance(mask, label)
    assert table[:, 0].sum() == 19 * 20 and (table[7:27, 0] == 19).all()
    assert (table[15:27, 1] == 19).all() and not table[:15, 1].any()


def test_what_tells_nothing_is_refused(shapes):
    audited, truths, predicted = shapes
    random = [np.random.default_rng(i).integers(0, 2, truth.shape).astype(np.uint8) for i, truth in enumerate(truths)]
    errors = LabelErrors.of(audited, random[:10], None)
    table = np.stack([count_by_distance(*pair) for pair in zip(predicted, random, strict=True)])
    assert "too little" in estimate_true_scores(errors, table).reason


@pytest.mark.parametrize("spec", ["clean", "flip:0.15", "sample:0.3"])
def test_labels_that_err_otherwise_than_the_audited_ones_are_refused(shapes, spec):
    audited, truths, predicted = shapes
    errors = LabelErrors.of(audited, noisy(audited, "flip:0.3", 1), None)
    table = np.stack([count_by_distance(*pair) for pair in zip(predicted, noisy(truths, spec, 2), strict=True)])
    assert "do not err as the audited ones" in estimate_true_scores(errors, table).reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "biased by image"}, "by image"),
        ({"bias": [{"kind": "by place"}]}, "by place"),
        ({"verdict": "not learnable"}, "not learnable"),
        ({"errors_by_distance": None}, "clean_list"),
        ({"errors_by_distance": {"pixels": [[1]] * 4}}, "4 audited images, at least 5"),
    ],
)
def test_an_audit_that_cannot_correct_says_why(change, said):
    audit = {"verdict": "learnable", "bias": [], "errors_by_distance": {"pixels": [[1]] * 9}}
    assert refusal(audit) == "" and said in refusal(audit | change)


def test_an_audit_keeps_what_scores_need(shapes):
    audited, _, _ = shapes
    labels = noisy(audited, "dilate:5", 1)
    content = json.loads(json.dumps(plain(audit_labels(labels, audited).record())))
    errors = LabelErrors.from_json(content["errors_by_distance"])
    assert errors.stand_in is None  # without images
    assert content["repair"] == errors.repair == "offset:-2.5" and errors.pixels.shape == (10, 34)
    assert errors.pixels.sum() == 10 * 96 * 96 and 0.9 < errors.shares().inner <= 1


def test_metrics_states_them(shapes, tmp_path, capsys):
    audited, truths, predicted = shapes
    audit = audit_labels(noisy(audited, "flip:0.3", 1), audited).record()
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/audit.json").write_text(json.dumps(plain(audit)))
    rows = []
    for place, (mask, label) in enumerate(zip(predicted, noisy(truths, "flip:0.3", 2), strict=True)):
        write_scores(tmp_path / f"pred/{place}.tif", mask.astype(np.float32))
        write_label(tmp_path / f"labels/{place}.png", label)
        write_label(tmp_path / f"images/{place}.png", mask)
        rows.append((tmp_path / f"images/{place}.png", tmp_path / f"labels/{place}.png"))
    write_list(tmp_path / "test.txt", rows)
    given = ["--prd_dir", str(tmp_path / "pred"), "--test_data_dir", str(tmp_path / "test.txt"), "--no_report"]
    main([*given, "--label_audit", str(tmp_path / "audit"), "--threshold", "0.5"])
    assert "against the truth, estimated (90 % interval): IoU 0." in capsys.readouterr().out
    stated = json.loads((tmp_path / "metrics.json").read_text())
    assert (
        abs(stated["against_truth"]["iou"] - iou(predicted, truths))
        < 0.03
        < abs(stated["pooled"]["iou"] - iou(predicted, truths))
    )
    write_list(tmp_path / "test.txt", rows[:1])
    main([*given, "--label_audit", str(tmp_path / "audit"), "--threshold", "0.5"])
    assert "cannot be told: there is one test image" in capsys.readouterr().out
    with pytest.raises(UserError, match="no audit.json"):
        main([*given, "--label_audit", str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="binary labels"):
        main([*given, "--label_audit", str(tmp_path / "audit"), "--num_classes", "2"])
