"""Platt scaling: the scaling that made scores wrong is found again, and order and masks stay."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.scores import BINS, auc, calibration_error, score_histogram
from evaluation.scores.platt import PlattScaling, fit_platt
from utils.cli import UserError


def drawn(rng: np.random.Generator, scaling: PlattScaling) -> np.ndarray:
    """The histogram of scores that were right before ``scaling``."""
    right = rng.beta(0.4, 1.2, (400, 400)).astype(np.float32)
    return score_histogram(scaling(right), (rng.random(right.shape) < right).astype(np.uint8))


@pytest.mark.parametrize("scale, bias", [(2.5, 0.0), (0.4, -1.0), (1.0, 1.5)])
def test_what_made_scores_wrong_is_undone(rng, scale, bias):
    histogram = drawn(rng, PlattScaling(scale, bias))
    found = fit_platt(histogram)
    assert found.scale == pytest.approx(1 / scale, rel=0.05) and found.bias == pytest.approx(-bias / scale, abs=0.1)
    better = found.histogram(histogram)
    assert calibration_error(better) < 0.01 < calibration_error(histogram)
    assert better.sum() == histogram.sum() and auc(better) == pytest.approx(auc(histogram), abs=1e-3)
    assert calibration_error(found.undone().histogram(better)) == pytest.approx(calibration_error(histogram), abs=2e-3)


def test_masks_stay(rng):
    scores = rng.random((64, 64)).astype(np.float32)
    scaling = PlattScaling(2.0, -0.7)
    np.testing.assert_array_equal(scores >= 0.37, scaling(scores) >= scaling(np.float32(0.37)))


def test_one_class_alone_calibrates_nothing():
    with pytest.raises(UserError, match="all background"):
        fit_platt(score_histogram(np.full((4, 4), 0.3, np.float32), np.zeros((4, 4), np.uint8)))


@pytest.mark.parametrize(("fields", "is_told"), [(1, True), (3, True), (4, False)])
def test_calibration_on_few_fields_is_told(monkeypatch, capsys, tmp_path, fields, is_told):
    from evaluation.prediction import calibration

    histograms = np.random.default_rng(0).integers(1, 9, (fields, 2, BINS))
    monkeypatch.setattr(calibration, "grouped_histograms", lambda folder: histograms)
    calibration.fit_calibration(tmp_path)
    assert (f"show {fields} field" in capsys.readouterr().out) == is_told
