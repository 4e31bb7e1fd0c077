"""From a list and folders of predictions to its labels in order of quality, the worst first."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.image_io import read_label
from datasets.lists import Sample
from evaluation.label_errors.kinds import Others, coarse_pair, guess_kind, speckle
from evaluation.label_errors.quality import Calibration, LabelQuality, assess, image_quality, outliers
from evaluation.scores import confusion_matrix, score_histogram
from evaluation.scores.map_folder import MapFolder, match_maps, trained_pairs
from evaluation.scores.maps import read_map, whole_numbers
from utils.background import read_ahead
from utils.cli import UserError, map_with_progress
from utils.run_folder import display_path

# Which map belongs to which label, and whether its network knew the label


@dataclass(frozen=True)
class Prediction:
    """A label and the map that judges it; ``in_sample`` is None where nobody knows."""

    sample: Sample
    map_path: Path
    folder: int
    in_sample: bool | None


def choose_predictions(samples: Sequence[Sample], folders: Sequence[MapFolder]) -> list[Prediction]:
    """A prediction for every label that has one: the first out-of-sample one, else the first.

    Raises:
        UserError: a folder with maps of none of the images.
    """
    chosen: dict[Path, Prediction] = {}
    for number, folder in enumerate(folders):
        trained = trained_pairs(folder.record)
        for sample, path in match_maps(samples, folder).pairs:
            known = None if trained is None else (sample.image, sample.label) in trained
            found = Prediction(sample, path, number, in_sample=known)
            if sample.image not in chosen or (chosen[sample.image].in_sample and known is False):
                chosen[sample.image] = found
    return [chosen[image] for image in dict.fromkeys(sample.image for sample in samples) if image in chosen]


# Assessing


@dataclass(frozen=True)
class RankedLabel:
    """What is known of a label after it was judged; ``kind`` is empty unless it stands out."""

    prediction: Prediction
    quality: float
    issue_fraction: float
    missing_fraction: float
    invented_fraction: float
    speckle: float
    stands_out: bool = False
    kind: str = ""


@dataclass(frozen=True)
class LabelAssessor:
    """Reads labels and maps, and holds them against each other.

    Args:
        num_classes: 1 for binary labels.
        scales: what whole-number maps of each folder are divided by.
        calibrations: of each folder.
    """

    num_classes: int
    ignore_index: int | None
    scales: Sequence[float]
    calibrations: Sequence[Calibration] = ()

    def read(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        """The label, class indices (H, W), and its map, scores or class indices (H, W).

        Raises:
            UserError: unreadable files, or sizes that differ.
        """
        sample = prediction.sample
        label = read_label(sample.require_label(), self.num_classes, self.ignore_index, sample.reading)
        values = read_map(prediction.map_path, self.num_classes, self.scales[prediction.folder])
        if label.shape != values.shape:
            raise UserError(
                f"the map {display_path(prediction.map_path)} is {values.shape[0]}×{values.shape[1]}, "
                f"the label {display_path(prediction.sample.require_label())} {label.shape[0]}×{label.shape[1]}"
            )
        return label, values

    def count(self, prediction: Prediction) -> np.ndarray:
        """How map and label meet: the score histogram (2, BINS), or the confusion matrix (K, K), rows = label."""
        label, values = self.read(prediction)
        if self.num_classes == 1:
            return score_histogram(values, label)
        return confusion_matrix(values, label, self.num_classes)

    def assess(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray, LabelQuality, Calibration]:
        """Label, posterior, how they agree, and the calibration of the folder."""
        label, values = self.read(prediction)
        calibration = self.calibrations[prediction.folder]
        posterior = calibration.posterior(values)
        return label, posterior, assess(label, posterior), calibration

    def score(self, prediction: Prediction) -> tuple[RankedLabel, np.ndarray, np.ndarray]:
        """What is known of a label, and its rows of `kinds.Others`."""
        label, posterior, assessed, calibration = self.assess(prediction)
        issues = assessed.issues(calibration.confidence)
        stated, predicted = assessed.stated(calibration.confidence), assessed.predicted(calibration.confidence)
        pixels = max(int(assessed.valid.sum()), 1)
        masks = (issues, issues & (stated == 0), issues & (predicted == 0))
        every, missing, invented = (float(mask.sum()) / pixels for mask in masks)
        found = RankedLabel(
            prediction,
            quality=image_quality(assessed, calibration.confidence, calibration.sureness(posterior, predicted)),
            issue_fraction=every,
            missing_fraction=missing,
            invented_fraction=invented,
            speckle=speckle(label),
        )
        return found, *coarse_pair(label, posterior)


def calibrate(assessor: LabelAssessor, predictions: Sequence[Prediction]) -> LabelAssessor:
    """Calibrate each folder's maps against the labels to be judged, those it was not trained on where there are any."""
    calibrations = []
    for number in range(len(assessor.scales)):
        own = [prediction for prediction in predictions if prediction.folder == number]
        own = [prediction for prediction in own if not prediction.in_sample] or own or list(predictions)
        counts = functools.reduce(np.add, read_ahead(assessor.count, own, ahead=4, workers=2))
        calibrations.append(
            Calibration.of_histogram(counts) if assessor.num_classes == 1 else Calibration.of_confusion(counts)
        )
    return replace(assessor, calibrations=calibrations)


def rank_labels(
    predictions: Sequence[Prediction],
    folders: Sequence[MapFolder],
    num_classes: int = 1,
    ignore_index: int | None = None,
) -> tuple[list[RankedLabel], LabelAssessor]:
    """Assess every label that has a prediction.

    Returns: the labels, the worst first, and what can assess single ones again.
    """
    paths = [[item.map_path for item in predictions if item.folder == number] for number in range(len(folders))]
    scales = [whole_numbers(maps).scale if num_classes == 1 and maps else 0.0 for maps in paths]
    assessor = calibrate(LabelAssessor(num_classes, ignore_index, scales), predictions)
    found = map_with_progress(assessor.score, predictions, "judging", workers=2)
    ranked = [entry for entry, *_ in found]
    names = [display_path(prediction.sample.image) for prediction in predictions]
    others = Others(np.stack([given for _, given, _ in found]), np.stack([expected for *_, expected in found]), names)
    worst = outliers(np.array([entry.quality for entry in ranked]))
    usual_speckle = float(np.median([entry.speckle for entry in ranked]))
    for place in np.flatnonzero(worst).tolist():
        label, posterior, assessed, calibration = assessor.assess(predictions[place])
        kind = guess_kind(
            label,
            posterior,
            assessed,
            confidence=calibration.confidence,
            others=others,
            place=place,
            usual_speckle=usual_speckle,
        )
        ranked[place] = replace(ranked[place], stands_out=True, kind=kind)
    return sorted(ranked, key=lambda entry: entry.quality), assessor
