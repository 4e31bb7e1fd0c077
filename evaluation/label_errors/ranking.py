"""From a list and folders of predictions to its labels in order of quality, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import read_label
from datasets.lists import Sample, find_list, read_list
from evaluation.label_errors.kinds import Others, coarse_pair, guess_kind, speckle
from evaluation.label_errors.quality import Calibration, LabelQuality, image_quality, judge, outliers
from evaluation.scores import confusion_matrix, score_histogram
from evaluation.scores.images import integer_scale, read_map
from evaluation.scores.map_folder import MapFolder, match_maps
from utils.background import read_ahead
from utils.cli import Progress, UserError
from utils.files import read_json
from utils.run_folder import REPO_ROOT, display_path

# Which map belongs to which label, and whether its network knew the label


@dataclass(frozen=True)
class Prediction:
    """A label and the map that judges it; ``in_sample`` is None where nobody knows."""

    sample: Sample
    map_path: Path
    folder: int
    in_sample: bool | None


def trained_pairs(record: dict[str, Any]) -> set[tuple[Path, Path | None]] | None:
    """The images and labels that the network of a prediction was trained on; None where its run is not known.

    Args:
        record: the content of predictions.json.
    """
    run = REPO_ROOT / record["run"] if "run" in record else None
    if run is None or not (run / "config.json").is_file():
        return None
    config = read_json(run / "config.json")
    if config.get("igtt"):
        return set()  # label-free: it saw the images alone
    try:
        samples = read_list(
            find_list(config["train_list"], config["dataset"]), config.get("data_root"), labels="optional"
        )
        left_out = read_list(run / "held_out.txt") if config.get("fold") else []
    except UserError:
        return None
    known = {(sample.image, sample.label) for sample in left_out}
    return {(sample.image, sample.label) for sample in samples} - known


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
            found = Prediction(sample, path, number, known)
            if sample.image not in chosen or (chosen[sample.image].in_sample and known is False):
                chosen[sample.image] = found
    return [chosen[image] for image in dict.fromkeys(sample.image for sample in samples) if image in chosen]


# Judging


@dataclass(frozen=True)
class Verdict:
    """What is known of a label after it was judged; ``kind`` is empty unless it stands out."""

    prediction: Prediction
    quality: float
    suspect_share: float
    missing_share: float
    invented_share: float
    speckle: float
    stands_out: bool = False
    kind: str = ""


@dataclass(frozen=True)
class LabelJudge:
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
        label = read_label(prediction.sample.label, self.num_classes, self.ignore_index)
        values = read_map(prediction.map_path, self.num_classes, self.scales[prediction.folder])
        if label.shape != values.shape:
            raise UserError(
                f"the map {display_path(prediction.map_path)} is {values.shape[0]}×{values.shape[1]}, "
                f"the label {display_path(prediction.sample.label)} {label.shape[0]}×{label.shape[1]}"
            )
        return label, values

    def count(self, prediction: Prediction) -> np.ndarray:
        """How map and label meet: the score histogram (2, BINS), or the confusion matrix (K, K), rows = label."""
        label, values = self.read(prediction)
        if self.num_classes == 1:
            return score_histogram(values, label)
        return confusion_matrix(values, label, self.num_classes)

    def judge(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray, LabelQuality, Calibration]:
        """Label, posterior, how they agree, and the calibration of the folder."""
        label, values = self.read(prediction)
        calibration = self.calibrations[prediction.folder]
        posterior = calibration.posterior(values)
        return label, posterior, judge(label, posterior), calibration

    def verdict(self, prediction: Prediction) -> tuple[Verdict, np.ndarray, np.ndarray]:
        """The verdict on a label, and its rows of `label_kinds.Others`."""
        label, posterior, judgement, calibration = self.judge(prediction)
        suspects = judgement.suspects(calibration.confidence)
        stated, predicted = judgement.stated(calibration.confidence), judgement.predicted(calibration.confidence)
        pixels = max(int(judgement.valid.sum()), 1)
        shares = (suspects, suspects & (stated == 0), suspects & (predicted == 0))
        found = Verdict(
            prediction, image_quality(judgement), *(float(mask.sum()) / pixels for mask in shares), speckle(label)
        )
        return found, *coarse_pair(label, posterior)


def calibrate(judge: LabelJudge, predictions: Sequence[Prediction]) -> LabelJudge:
    """Calibrate each folder's maps against the labels to be judged, those it was not trained on where there are any."""
    calibrations = []
    for number in range(len(judge.scales)):
        own = [prediction for prediction in predictions if prediction.folder == number]
        own = [prediction for prediction in own if not prediction.in_sample] or own or list(predictions)
        counts = sum(read_ahead(judge.count, own, ahead=4, workers=2))
        calibrations.append(
            Calibration.of_histogram(counts) if judge.num_classes == 1 else Calibration.of_confusion(counts)
        )
    return replace(judge, calibrations=calibrations)


def rank_labels(
    predictions: Sequence[Prediction],
    folders: Sequence[MapFolder],
    num_classes: int = 1,
    ignore_index: int | None = None,
) -> tuple[list[Verdict], LabelJudge]:
    """Judge every label that has a prediction; the command's whole computation, for other tools.

    Returns: the verdicts, the worst label first, and what can judge single labels again.
    """
    paths = [[item.map_path for item in predictions if item.folder == number] for number in range(len(folders))]
    scales = [integer_scale(maps) if num_classes == 1 and maps else 0.0 for maps in paths]
    judge = calibrate(LabelJudge(num_classes, ignore_index, scales), predictions)
    found = []
    with Progress(len(predictions), "judging") as progress:
        for verdict in read_ahead(judge.verdict, predictions, ahead=4, workers=2):
            found.append(verdict)
            progress.update()
    verdicts = [verdict for verdict, *_ in found]
    names = [display_path(prediction.sample.image) for prediction in predictions]
    others = Others(*(np.stack([item[side] for item in found]) for side in (1, 2)), names)
    worst = outliers(np.array([verdict.quality for verdict in verdicts]))
    usual_speckle = float(np.median([verdict.speckle for verdict in verdicts]))
    for place in np.flatnonzero(worst):
        label, posterior, judgement, calibration = judge.judge(predictions[place])
        kind = guess_kind(label, posterior, judgement, calibration.confidence, others, place, usual_speckle)
        verdicts[place] = replace(verdicts[place], stands_out=True, kind=kind)
    return sorted(verdicts, key=lambda verdict: verdict.quality), judge
