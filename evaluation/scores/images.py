"""Score maps against labels: the metrics of each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from datasets.image_io import read_label, read_stored_label
from datasets.image_scale import read_scale
from datasets.labels import IGNORE
from datasets.lists import Sample
from evaluation import scores as s
from evaluation.objects.matching import NO_OBJECTS, ObjectCounts, class_metrics, count_class_objects, count_objects
from evaluation.objects.networks import network_metrics
from evaluation.objects.splitting import label_objects
from evaluation.scores.maps import read_map, read_numbers
from evaluation.scores.surface import skeletons_of, surface_metrics
from evaluation.scores.validation import offset_mask
from utils.background import read_ahead
from utils.cli import UserError
from utils.processors import usable_processors
from utils.run_folder import display_path

CURVE_METRICS: dict[str, Callable[[np.ndarray], float]] = {"auc": s.auc, "average_precision": s.average_precision}
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
NUMBERED = "numbered"  # objects of masks are those that their maps number
TITLE_WIDTH = 26  # letters and a space of the longest title, of means over classes


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
    metrics cannot exceed, where that is not 1. ``class_objects`` are those of each class where there are several.
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
    class_objects: Sequence[ObjectCounts] = ()


@dataclass(frozen=True)
class Scorer:
    """How a map is held against its label.

    Args:
        scale: what whole numbers in binary maps are divided by; 0 stands for their type's maximum.
        offset: pixels by which the outlines of masks are moved outwards.
        instances: how objects of masks are told apart where labels number theirs, NUMBERED where maps do so too;
            elsewhere those of both are connected components.
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
        objects = self._count_objects(found, truth, numbers, pair[1])
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

    def _count_objects(
        self, found: np.ndarray, truth: np.ndarray, numbers: np.ndarray | None, map_path: Path
    ) -> ObjectCounts:
        """Objects of a mask and of its label, bool (H, W), whose pixels have ``numbers`` where they are known."""
        if numbers is None:
            return count_objects(label_objects(found, min_area=self.min_area), label_objects(truth))
        if self.instances == NUMBERED:
            predicted = numbers_within(found, read_numbers(map_path))
        else:
            predicted = label_objects(found, self.instances, self.min_area)
        return count_objects(predicted, numbers_within(truth, numbers))

    def _classes(self, pair: tuple[Sample, Path], classes: np.ndarray, label: np.ndarray) -> ImageResult:
        matrix = s.confusion_matrix(classes, label, self.num_classes)
        valid = label != IGNORE
        by_class = count_class_objects(
            np.where(valid, classes, 0), np.where(valid, label, 0), self.num_classes, min_area=self.min_area
        )
        objects = sum(by_class, NO_OBJECTS)
        return ImageResult(
            *pair,
            None,
            matrix,
            {**class_means(matrix), **mean_object_metrics(by_class)},
            both_empty=bool(matrix[0, 0] == matrix.sum()),
            objects=objects,
            details={"objects": objects.predicted, "objects_label": objects.labelled},
            class_objects=by_class,
        )


def numbers_within(mask: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The numbers of objects, of any type, (H, W), counted from 1; 0 outside a mask, bool (H, W)."""
    known = np.unique(np.where(mask, numbers, 0), return_inverse=True)[1].reshape(mask.shape)
    return np.where(mask, known + 1, 0)


def known_pixel_size(image: Path) -> tuple[float, float] | None:
    """Height and width of a pixel in µm; None where the image does not say, or cannot be read: scoring needs it not."""
    try:
        return read_scale(image).pixel_size
    except UserError:
        return None


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


def class_means(matrix: np.ndarray) -> dict[str, float]:
    """The metrics of `scores.COUNT_METRICS`: accuracy over pixels, the others as means over the classes defined."""
    counts = s.class_counts(matrix)
    metrics = {name: s.defined_mean(metric(counts)) for name, metric in s.COUNT_METRICS.items()}
    total = matrix.sum()
    overall = float(matrix.trace() / total) if total else float("nan")
    return {**metrics, "iou": s.mean_iou(matrix), "f1": s.defined_mean(s.class_f1(matrix)), "accuracy": overall}


def mean_object_metrics(by_class: Sequence[ObjectCounts]) -> dict[str, float]:
    """The metrics of objects as means over the classes that have any."""
    rows = class_metrics(by_class)
    return {name: s.defined_mean(np.array([row[name] for row in rows])) for name in rows[0]}


@dataclass
class Totals:
    """Results of all images: one sum of histograms or matrices, and the metrics of each image."""

    results: list[ImageResult] = field(default_factory=list)
    sum: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))
    objects: ObjectCounts = NO_OBJECTS
    class_objects: Sequence[ObjectCounts] = ()

    def add(self, result: ImageResult) -> None:
        """Take in an image; its own histogram is let go."""
        self.sum = self.sum + result.totals
        self.objects = self.objects + result.objects
        before = self.class_objects or [NO_OBJECTS] * len(result.class_objects)
        self.class_objects = [one + other for one, other in zip(before, result.class_objects, strict=True)]
        self.results.append(replace(result, totals=np.zeros(())))


def score_maps(pairs: Sequence[tuple[Sample, Path]], scorer: Scorer, tick: Callable[[], None] | None = None) -> Totals:
    """Score every image, in threads; ``tick`` is called after each."""
    totals = Totals()
    workers = min(8, usable_processors())
    for result in read_ahead(scorer, pairs, ahead=2 * workers, workers=workers):
        totals.add(result)
        if tick is not None:
            tick()
    return totals
