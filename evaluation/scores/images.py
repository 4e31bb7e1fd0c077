"""Score maps against labels: the metrics of each image, and their summary."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import read_label, read_stored_label
from datasets.image_scale import read_scale
from datasets.labels import IGNORE
from datasets.lists import Sample
from evaluation import scores as s
from evaluation.objects.matching import NO_OBJECTS, THRESHOLDS, ObjectCounts, count_objects
from evaluation.objects.networks import network_metrics
from evaluation.objects.splitting import label_objects
from evaluation.scores.maps import read_map
from evaluation.scores.mask_offset import offset_mask
from evaluation.scores.surface import skeletons_of, surface_metrics
from utils.background import read_ahead
from utils.cli import UserError
from utils.run_folder import display_path

CURVE_METRICS: dict[str, Callable[[np.ndarray], float]] = {"auc": s.auc, "average_precision": s.average_precision}
OBJECT_METRICS = ("object_f1", "object_f1_mean")
OPTIONAL = ("hd95_um",)  # told only where at least one image defines it
TITLES = {
    "iou": "IoU",
    "f1": "F1 (Dice)",
    "accuracy": "accuracy",
    "precision": "precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "auc": "AUC",
    "average_precision": "average precision",
    "cldice": "clDice",
    "boundary_iou": "boundary IoU",
    "nsd": "surface Dice (2 px)",
    "hd95": "HD95 (px)",
    "hd95_um": "HD95 (µm)",
    "object_f1": "object F1 (IoU 0.5)",
    "object_f1_mean": "object F1 (0.5…0.95)",
    "betti0_error": "β0 error (pieces)",
    "betti1_error": "β1 error (holes)",
    "skeleton_length_error": "skeleton length error",
}


def title_of(name: str, num_classes: int) -> str:
    """What a metric is called; of several classes all but the accuracy are means over the classes."""
    return f"mean {TITLES[name]}" if num_classes > 1 and name != "accuracy" else TITLES[name]


def show(value: float | None, digits: int = 3) -> str:
    """A metric for people, by its first significant digits; undefined ones as a dash.

    >>> [show(value) for value in (0.81249, 1, 0, -0.0123, 15.2, 1234.5, None)]
    ['0.812', '1.00', '0.00', '-0.0123', '15.2', '1234', '–']
    """
    if value is None or np.isnan(value):
        return "–"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:#.{digits}g}"


@dataclass(frozen=True)
class ImageResult:
    """One image: its metrics by name, and what is added up over images: a score histogram or a confusion matrix.

    ``details`` are further numbers of per_image.csv; a name that ends in ``_label`` is the label's. ``largest`` is what
    metrics cannot exceed, where that is not 1.
    """

    sample: Sample
    map_path: Path
    counts: s.Counts | None
    totals: np.ndarray
    metrics: dict[str, float]
    both_empty: bool
    objects: ObjectCounts = NO_OBJECTS
    details: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scorer:
    """How a map is held against its label.

    Args:
        scale: what whole numbers in binary maps are divided by; 0 stands for their type's maximum.
        offset: pixels by which the outlines of masks are moved outwards.
        instances: how objects of masks are told apart where labels number theirs; elsewhere those of both are connected
            components.
        min_area: pixels of an object of a mask, at least.
    """

    num_classes: int = 1
    ignore_index: int | None = None
    threshold: float = 0.5
    scale: float = 0.0
    offset: float = 0.0
    instances: str = "components"
    min_area: int = 1

    def __call__(self, pair: tuple[Sample, Path]) -> ImageResult:
        """Read and score one image.

        Raises:
            UserError: unreadable files or sizes that differ.
        """
        sample, map_path = pair
        if sample.label is None:
            raise UserError(f"{display_path(sample.image)} has no label")
        values = read_map(map_path, self.num_classes, self.scale)
        label, numbers = self.read_label(sample)
        if values.shape != label.shape:
            raise UserError(
                f"the map {display_path(map_path)} is {values.shape[0]}×{values.shape[1]}, "
                f"the label {display_path(sample.label)} {label.shape[0]}×{label.shape[1]}"
            )
        if self.num_classes > 1:
            return self._classes(pair, values, label)
        return self._binary(pair, values, label, numbers=numbers)

    def read_label(self, sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
        """The classes of a label, uint8 (H, W), and the numbers of its objects where it numbers them."""
        path, reading = sample.require_label(), sample.reading
        if reading is None or not reading.objects:
            return read_label(path, self.num_classes, self.ignore_index, reading), None
        stored = read_stored_label(path, reading)
        return stored.classes(reading, path), None if stored.is_written else stored.values

    def mask(self, scores: np.ndarray) -> np.ndarray:
        """What is foreground of scores (H, W), uint8."""
        return offset_mask(scores >= self.threshold, self.offset)

    def _binary(
        self, pair: tuple[Sample, Path], scores: np.ndarray, label: np.ndarray, numbers: np.ndarray | None
    ) -> ImageResult:
        mask, valid = self.mask(scores).astype(bool), label != IGNORE
        counts = s.confusion_counts(mask, label)
        histogram = s.score_histogram(scores, label)
        found, truth = mask & valid, label == 1
        skeletons = skeletons_of(found, truth)
        objects = self._count_objects(found, truth, numbers)
        topology, lengths = network_metrics(found, truth, skeletons)
        pixel_size = known_pixel_size(pair[0].image)
        metrics = {
            **{name: metric(counts) for name, metric in s.COUNT_METRICS.items()},
            **{name: metric(histogram) for name, metric in CURVE_METRICS.items()},
            **surface_metrics(found, truth, skeletons, pixel_size),
            **objects.metrics(),
            **topology,
        }
        details = {"objects": objects.predicted, "objects_label": objects.labelled, **lengths}
        both_empty = counts.tp + counts.fp + counts.fn == 0
        largest = largest_values(truth.shape, pixel_size)
        return ImageResult(*pair, counts, histogram, metrics, both_empty, objects, details, largest)

    def _count_objects(self, found: np.ndarray, truth: np.ndarray, numbers: np.ndarray | None) -> ObjectCounts:
        """Objects of a mask and of its label, bool (H, W), whose pixels have ``numbers`` where they are known."""
        if numbers is None:
            return count_objects(label_objects(found, min_area=self.min_area), label_objects(truth))
        known = np.unique(np.where(truth, numbers, 0), return_inverse=True)[1].reshape(truth.shape)
        predicted = label_objects(found, self.instances, self.min_area)
        return count_objects(predicted, np.where(truth, known + 1, 0))

    def _classes(self, pair: tuple[Sample, Path], classes: np.ndarray, label: np.ndarray) -> ImageResult:
        matrix = s.confusion_matrix(classes, label, self.num_classes)
        return ImageResult(*pair, None, matrix, class_means(matrix), bool(matrix[0, 0] == matrix.sum()))


def known_pixel_size(image: Path) -> tuple[float, float] | None:
    """Height and width of a pixel in µm; None where the image does not say, or cannot be read: scoring needs it not."""
    try:
        return read_scale(image).pixel_size
    except UserError:
        return None


def class_means(matrix: np.ndarray) -> dict[str, float]:
    """The metrics of `scores.COUNT_METRICS`: accuracy over pixels, the others as means over the classes defined."""
    counts = s.class_counts(matrix)
    metrics = {name: s.defined_mean(metric(counts)) for name, metric in s.COUNT_METRICS.items()}
    total = matrix.sum()
    overall = float(matrix.trace() / total) if total else float("nan")
    return {**metrics, "iou": s.mean_iou(matrix), "f1": s.defined_mean(s.class_f1(matrix)), "accuracy": overall}


@dataclass
class Totals:
    """Results of all images: one sum of histograms or matrices, and the metrics of each image."""

    results: list[ImageResult] = field(default_factory=list)
    sum: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))
    objects: ObjectCounts = NO_OBJECTS

    def add(self, result: ImageResult) -> None:
        """Take in an image; its own histogram is let go."""
        self.sum = self.sum + result.totals
        self.objects = self.objects + result.objects
        self.results.append(replace(result, totals=np.zeros(())))


def score_maps(
    pairs: Sequence[tuple[Sample, Path]],
    scorer: Scorer,
    workers: int | None = None,
    tick: Callable[[], None] | None = None,
) -> Totals:
    """Score every image, in threads; ``tick`` is called after each."""
    totals = Totals()
    workers = workers or min(8, os.cpu_count() or 1)
    for result in read_ahead(scorer, pairs, ahead=2 * workers, workers=workers):
        totals.add(result)
        if tick is not None:
            tick()
    return totals


OVERLAPS = ("iou", "f1")


def summarize(totals: Totals, scorer: Scorer) -> dict[str, Any]:
    """The content of metrics.json: pooled over pixels, at the oracle's threshold, and as means over images."""
    results = totals.results
    shared = {
        "n_images": len(results),
        "n_both_empty": sum(result.both_empty for result in results),
        "num_classes": scorer.num_classes,
    }
    undefined = undefined_metrics(totals) if scorer.num_classes == 1 else ()
    means = {
        name: _mean_record(
            [math.nan if name in undefined else result.metrics[name] for result in results],
            [result.largest.get(name, 1.0) for result in results],
        )
        for name in results[0].metrics
    }
    means = {name: mean for name, mean in means.items() if name not in OPTIONAL or mean["undefined"] < len(results)}
    if scorer.num_classes == 1:
        binary = {**_summarize_binary(totals, scorer.threshold, scorer.offset), **summarize_objects(totals, scorer)}
        return {**binary, **shared, "per_image_mean": means}
    return {**_summarize_classes(totals.sum), **shared, "per_image_mean": means}


def is_one_sided(histogram: np.ndarray) -> bool:
    """Whether labels are all background or all foreground: an overlap with them means nothing, be it 1."""
    return not histogram.sum(1).all()


def undefined_metrics(totals: Totals) -> tuple[str, ...]:
    """The metrics that mean nothing with these labels."""
    return (*OVERLAPS, *OBJECT_METRICS) if is_one_sided(totals.sum) else ()


def summarize_objects(totals: Totals, scorer: Scorer) -> dict[str, Any]:
    """What metrics.json says of all objects and networks together."""
    numbered = any(result.sample.reading is not None and result.sample.reading.objects for result in totals.results)
    lengths = [sum(result.details[name] for result in totals.results) for name in ("skeleton_px", "skeleton_px_label")]
    return {
        "objects": {
            "label": "numbered" if numbered else "components",
            "mask": scorer.instances if numbered else "components",
            "min_area": scorer.min_area,
            **(dict.fromkeys(OBJECT_METRICS, math.nan) if is_one_sided(totals.sum) else totals.objects.metrics()),
            "labelled": totals.objects.labelled,
            "predicted": totals.objects.predicted,
            "f1_by_iou": {f"{iou:.2f}": f1 for iou, f1 in zip(THRESHOLDS, totals.objects.f1, strict=True)},
        },
        "networks": {"skeleton_px": lengths[0], "skeleton_px_label": lengths[1]},
    }


def largest_values(shape: tuple[int, ...], pixel_size: tuple[float, float] | None) -> dict[str, float]:
    """What the metrics that are no shares cannot exceed in an image of ``shape`` (H, W).

    Distances: the diagonal between the centres of corner pixels; β0: every other pixel of every other row; β1: the
    pixels of one colour of a chess-board.
    """
    height, width = shape
    size = pixel_size or (1.0, 1.0)
    return {
        "hd95": math.hypot(height - 1, width - 1),
        "hd95_um": math.hypot((height - 1) * size[0], (width - 1) * size[1]),
        "betti0_error": float(((height + 1) // 2) * ((width + 1) // 2)),
        "betti1_error": height * width / 2,
        "skeleton_length_error": math.inf,
    }


def _mean_record(values: Sequence[float], largest: Sequence[float]) -> dict[str, Any]:
    undefined = np.isnan(values)
    limit = float(np.mean(np.array(largest)[~undefined])) if not undefined.all() else math.inf
    mean, low, high = s.bootstrap_mean(np.array(values), limits=(0.0, limit))
    return {"mean": mean, "low": low, "high": high, "undefined": int(undefined.sum())}


def _summarize_binary(totals: Totals, threshold: float, offset: float) -> dict[str, Any]:
    histogram = totals.sum
    oracle, _ = s.best_threshold(histogram)
    curves = {name: metric(histogram) for name, metric in CURVE_METRICS.items()}

    def metrics(counts: s.Counts) -> dict[str, float]:
        found = {**{name: metric(counts) for name, metric in s.COUNT_METRICS.items()}, **curves}
        return {**found, **dict.fromkeys(OVERLAPS, math.nan)} if is_one_sided(histogram) else found

    return {
        "threshold": threshold,
        "mask_offset": offset,
        "oracle_threshold": oracle,
        "pooled": metrics(sum((result.counts for result in totals.results if result.counts), s.Counts(0, 0, 0, 0))),
        "oracle": metrics(s.counts_at(histogram, oracle)),
        "calibration_error": s.calibration_error(histogram),
    }


def _summarize_classes(matrix: np.ndarray) -> dict[str, Any]:
    counts = s.class_counts(matrix)
    per_class = {"iou": s.class_iou(matrix), "f1": s.class_f1(matrix)}
    per_class.update({name: metric(counts) for name, metric in s.COUNT_METRICS.items() if name not in per_class})
    return {
        "threshold": None,
        "oracle_threshold": None,
        "pooled": {**class_means(matrix), "auc": None, "average_precision": None},
        "oracle": None,
        "classes": [
            {
                "class": index,
                "pixels": int(matrix[index].sum()),
                **{name: row[index] for name, row in per_class.items()},
            }
            for index in range(len(matrix))
        ],
        "confusion": matrix,
    }
