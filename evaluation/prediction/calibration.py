"""Calibrating scores on the validation images of a run, when it predicts others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evaluation.prediction.out_of_fold import grouped_histograms
from evaluation.prediction.settings import MapSettings
from evaluation.scores import calibration_error
from evaluation.scores.platt import PlattScaling, fit_platt
from evaluation.scores.validation import MIN_IMAGES
from utils.cli import UserError, counted


def validation_list(val_list: str | None, num_classes: int) -> str:
    """The list that scores are calibrated on.

    Raises:
        UserError: the run has none, or gives no scores of two classes.
    """
    if num_classes > 1:
        raise UserError("--calibrate is for the scores of two classes; this run has several")
    if val_list is None:
        raise UserError("--calibrate needs validation images: the run was trained without a validation list")
    return val_list


def fit_calibration(predictions: Path, labels_are_noisy: bool = False) -> PlattScaling:
    """Fit the scaling on a folder with the maps of the validation images, and say what it does there."""
    by_field = grouped_histograms(predictions)
    histogram = by_field.sum(0)
    if len(by_field) < MIN_IMAGES:
        print(
            f"warning: the validation images show {counted(by_field, 'field')} of view: scores calibrated on so few "
            f"may be off on others; {MIN_IMAGES} or more tell"
        )
    if labels_are_noisy:
        print(
            "warning: the validation labels are noisy (--val_labels noisy): calibrated scores are those of such labels"
        )
    scaling = fit_platt(histogram)
    before, after = calibration_error(histogram), calibration_error(scaling.histogram(histogram))
    print(
        f"scores calibrated on validation: calibration error {before:.4f} before, {after:.4f} after there", flush=True
    )
    return scaling


def calibrated(settings: MapSettings, scaling: PlattScaling) -> MapSettings:
    """Settings that write calibrated scores, with the threshold where it gives the same masks."""
    return replace(settings, calibration=scaling, threshold=float(scaling(settings.threshold)))
