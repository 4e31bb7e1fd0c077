"""What an audit says: audit.json, advice, figures."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from evaluation.label_audit import audit_labels
from evaluation.label_audit.text import audit_lines
from evaluation.label_audit.verdict import VERDICTS, read_audit
from utils.files import plain, write_json

KEYS = {
    "verdict",
    "iou_ceiling",
    "predicted_iou",
    "phi",
    "contrast",
    "Q",
    "Q_low",
    "Q_high",
    "rank",
    "det",
    "invert",
    "threshold",
    "profile",
    "predicted_iou_low",
    "predicted_iou_high",
    "relative_iou",
    "steps",
    "bias",
    "offset",
    "repair",
}


def test_decoding_is_not_advised_where_classes_merge(draw):
    masks = [draw(np.random.default_rng(i), classes=3)[1] for i in range(8)]
    rng = np.random.default_rng(0)
    noisy = [np.where(mask > 0, 2 * rng.integers(0, 2, mask.shape), 0).astype(np.uint8) for mask in masks]
    report = audit_labels(noisy, masks, num_classes=3)
    assert report.transitions.rank == 2
    assert not any("transition_matrix" in line or "decoded" in line for line in report.advice("Q.json"))


def test_advice_names_the_matrix_file_only_where_there_is_one(blobs, noisy_labels):
    _, masks = blobs
    for spec, classes in (("flip:0.3", 1), ("sample:0.2", 2)):
        report = audit_labels(noisy_labels(masks, spec, classes), masks, num_classes=classes)
        assert any("--transition_matrix out/Q.json" in line for line in report.advice("out/Q.json"))
        assert not any("--transition_matrix" in line for line in report.advice())


def test_figures_are_told_with_their_intervals(blobs, noisy_labels):
    images, masks = blobs
    lines = "\n".join(audit_lines(audit_labels(noisy_labels(masks, "flip:0.3"), masks)))
    assert "truth 1: 0.300 (" in lines and "det Q = 0.4" in lines and "singular values" in lines
    assert re.search(r"signed distance .* below -16: 0\.30, .* -1 to 0: 0\.(29|30), 0 to 1: 0\.(69|70)", lines)
    assert "local densities of labels and clean labels (5×5 windows): correlation 0." in lines
    alone = audit_labels(masks, None, images)
    assert audit_lines(alone) == alone.notes()


def test_density_agreement_is_averaged_over_the_classes(draw):
    masks = [draw(np.random.default_rng(i), classes=4)[1] for i in range(6)]
    report = audit_labels(masks, masks, num_classes=5)
    assert report.agreement.correlation == pytest.approx(1)
    assert report.agreement.mean_first == pytest.approx(0.25, abs=0.01)  # four of five classes occur
    lines = "\n".join(audit_lines(report))
    assert "averaged over the classes" in lines and "truth 4: not in the reference labels" in lines
    assert "labelled right by distance" in lines


def test_json_has_the_contracts_keys_and_is_strict(blobs, noisy_labels, tmp_path):
    images, masks = blobs
    for report in (
        audit_labels(noisy_labels(masks, "flip:0.2"), masks, images),
        audit_labels(masks, None, images),
        audit_labels(masks, [np.zeros_like(mask) for mask in masks]),
    ):
        assert set(report.to_json()) == KEYS
        write_json(tmp_path / "audit.json", report.to_json())
        assert read_audit(tmp_path / "audit.json") == json.loads(json.dumps(plain(report.to_json()), allow_nan=False))
        json.dumps(plain(report.details()), allow_nan=False)
        figure = r"(\d\.\d\d|unknown)"
        pattern = rf"verdict: ({'|'.join(VERDICTS)})[^(]* \(predicted IoU {figure}, IoU ceiling {figure}\)"
        assert re.fullmatch(pattern, report.line())
