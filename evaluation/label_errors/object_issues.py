"""The label issues of a whole list: found in every image, numbered by confidence, drawn and written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from datasets.image_files import split_plane
from datasets.image_io import read_image, write_image, write_label
from datasets.label_values import LabelReading
from datasets.labels import IGNORE
from evaluation.label_errors.issue_files import KINDS, IssueFolder, JudgedImage, LabelIssue, write_issue_files
from evaluation.label_errors.objects import Region, find_regions, is_borne_out
from evaluation.label_errors.ranking import LabelAssessor, Prediction, RankedLabel
from evaluation.label_errors.sheet import show_posterior
from utils.background import WriterPool, read_ahead
from utils.cli import map_with_progress
from utils.files import unique_stems
from utils.fingerprint import digest
from utils.overlays import INVENTED, beside, show_classes, show_image

SPECKLED = 0.02  # median share of lone pixels from which labels are noisy by pixels and have no outlines
EVIDENCE_IN_IMAGE = 12.8  # nats: half the quantile of χ² at 0.1 % over the 2500 windows of 7×7 that an image may have
OUTLINE_BINS = 256
OUTLINE_LIMITS = (0.2, 0.8)  # of the evidence at outlines
UNDECIDED = 0.03  # evidence from which on, and from 1, there is an outline
MAX_ISSUES = 2**16 - 1  # numbers that a map of regions can hold
CROP_MARGIN = 16  # pixels around a region
MIN_CROP, SHOWN_SIDE = 64, 160  # pixels of an image's part that a crop shows, and of its picture


@dataclass(frozen=True)
class JudgedLabel:
    """A label with its issues, the surest first."""

    prediction: Prediction
    regions: list[Region]


def have_outlines(ranked: Sequence[RankedLabel]) -> bool:
    """Whether labels are drawn as objects; not so where pixels were left out or flipped one by one."""
    return float(np.median([entry.speckle for entry in ranked])) < SPECKLED


def judge_label(
    assessor: LabelAssessor, prediction: Prediction, outlines: bool, read: Callable[[Path], np.ndarray] = read_image
) -> JudgedLabel:
    """Find the issues of a label, class by class.

    Args:
        read: of the image, where gaps or bridges must be seen in it.
        outlines: see `have_outlines`; without, the local density of labels stands for the objects, and an issue has
            a density that chance does not make anywhere in an image: lone wrong pixels clump.
    """
    label, posterior, assessed, calibration = assessor.assess(prediction)
    stated = label if outlines else assessed.stated(calibration.confidence)
    surprising = assessed.divergence * assessed.pixels > EVIDENCE_IN_IMAGE
    regions = []
    for index in sorted({*range(1, len(posterior))} - {*calibration.untold}):
        evidence = calibration.evidence(posterior, index)
        given = stated == index
        if outlines:
            found = find_regions(given, evidence, assessed.valid)
            if any(region.kind in ("split", "merged") for region in found):
                image = read(prediction.sample.image)
                found = [region for region in found if is_borne_out(region, image, given)]
            regions += found
            continue
        given = _with_pixels_of(given, surprising | (evidence > 0.5))
        found = find_regions(given, evidence, assessed.valid, outlines=False)
        regions += [region for region in found if surprising[region.window][region.mask].any()]
    return JudgedLabel(prediction, sorted(regions, key=lambda region: -region.confidence))


def _with_pixels_of(mask: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The components of a mask that have pixels of another one."""
    _, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return np.isin(components, np.unique(components[mask & marks])) & mask


def outline_counts(label: np.ndarray, relative: np.ndarray) -> np.ndarray:
    """How often how much evidence lies along the outlines of a binary label, from both sides, (OUTLINE_BINS,).

    What is drawn where nothing is expected, or deep inside what is, tells nothing and is left out.

    Args:
        label: class indices, (H, W).
        relative: see `Calibration.relative`, (H, W).
    """
    mask, kernel = (label == 1).astype(np.uint8), np.ones((3, 3), np.uint8)
    values = relative[(cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)) & (label != IGNORE)]
    return np.histogram(values[(values > UNDECIDED) & (values < 1 - UNDECIDED)], OUTLINE_BINS, (0, 1))[0]


def with_outlines(assessor: LabelAssessor, predictions: Sequence[Prediction]) -> LabelAssessor:
    """Learn where outlines are usually drawn: networks that blur would else find every object too narrow.

    A habit of drawing that all labels share is part of what networks learn, and cannot be told from their predictions.
    """

    def count(prediction: Prediction) -> np.ndarray:
        label, posterior, _, calibration = assessor.assess(prediction)
        return outline_counts(label, calibration.relative(posterior, 1))

    counts = np.zeros((len(assessor.calibrations), OUTLINE_BINS))
    for prediction, found in zip(predictions, read_ahead(count, predictions, ahead=4, workers=2), strict=True):
        counts[prediction.folder] += found
    middles = (np.arange(OUTLINE_BINS) + 0.5) / OUTLINE_BINS
    levels = [middles[np.searchsorted(row.cumsum(), row.sum() / 2)] if row.any() else 0.5 for row in counts]
    calibrations = [
        replace(calibration, outline=float(np.clip(level, *OUTLINE_LIMITS)))
        for calibration, level in zip(assessor.calibrations, levels, strict=True)
    ]
    return replace(assessor, calibrations=calibrations)


def judge_objects(
    assessor: LabelAssessor, ranked: Sequence[RankedLabel], in_channels: int = 1, channels: Sequence[str] = ()
) -> tuple[list[JudgedLabel], LabelAssessor]:
    """The issues of every label, in the order of the list, and what assesses labels as they were found by."""
    read = partial(read_image, channels=in_channels, selected=channels)
    outlines = have_outlines(ranked)
    untold = sorted({index for calibration in assessor.calibrations for index in calibration.untold})
    if untold:
        classes = ", ".join(map(str, untold))
        print(f"labels of class {classes} are not judged: the predictions do not tell them from other classes")
    if not outlines:
        print("labels are noisy by single pixels: missing and invented objects are told, outlines are not judged")
    elif assessor.num_classes == 1:
        assessor = with_outlines(assessor, [entry.prediction for entry in ranked])
    predictions = sorted((entry.prediction for entry in ranked), key=lambda item: item.sample.line)
    found = map_with_progress(
        lambda item: judge_label(assessor, item, outlines, read), predictions, "looking for issues", workers=2
    )
    return found, assessor


def number_issues(judged: Sequence[JudgedLabel]) -> list[list[tuple[int, Region]]]:
    """The regions of each label with their numbers: 1 for the surest of all, and so on, up to MAX_ISSUES."""
    order = [
        (-region.confidence, -region.area, place, own)
        for place, entry in enumerate(judged)
        for own, region in enumerate(entry.regions)
    ]
    numbered: list[list[tuple[int, Region]]] = [[] for _ in judged]
    for number, (*_, place, own) in enumerate(sorted(order)[:MAX_ISSUES], start=1):
        numbered[place].append((number, judged[place].regions[own]))
    if len(order) > MAX_ISSUES:
        print(f"of {len(order)} label issues the surest {MAX_ISSUES} are written")
    return numbered


def draw_crop(image: np.ndarray, label: np.ndarray, posterior: np.ndarray, region: Region) -> np.ndarray:
    """Image, label and prediction around a region, whose outline is drawn, uint8 (h, w, 3).

    Args:
        image: as a picture, uint8 (H, W, 3).
        label: class indices, (H, W).
        posterior: P(label = k), (K, H, W).
    """
    (y, x), (height, width) = region.center, label.shape
    side = max(MIN_CROP, max(region.mask.shape) + 2 * CROP_MARGIN)
    rows, columns = (
        slice(start := int(np.clip(round(middle - side / 2), 0, max(0, length - side))), min(start + side, length))
        for middle, length in ((y, height), (x, width))
    )
    inside = np.zeros(label.shape, np.uint8)
    inside[region.window] = region.mask
    window, classes = (rows, columns), len(posterior)
    views = [image, show_classes(label, 1 if classes == 2 else classes), show_posterior(posterior)]
    scale = SHOWN_SIDE / side
    size = (round((columns.stop - columns.start) * scale), round((rows.stop - rows.start) * scale))
    shown = [cv2.resize(view[window], size, interpolation=cv2.INTER_NEAREST) for view in views]
    large = cv2.resize(inside[window], size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return beside([cv2.drawContours(view, contours, -1, INVENTED, 1) for view in shown])


def write_object_issues(
    folder: Path,
    judged: Sequence[JudgedLabel],
    assessor: LabelAssessor,
    *,
    list_path: Path,
    reading: LabelReading | None,
    in_channels: int,
    channels: Sequence[str],
) -> list[LabelIssue]:
    """Write issues.csv, issues.json, regions/, predicted/ and crops/ into ``folder``; the issues, the surest first."""
    names = unique_stems([entry.prediction.sample.image for entry in judged])
    issues: list[LabelIssue] = []
    images: dict[Path, JudgedImage] = {}
    with WriterPool(2, ahead=4) as writer:
        for entry, name, numbered in zip(judged, names, number_issues(judged), strict=True):
            sample = entry.prediction.sample
            label, files = sample.require_label(), (None, None, None)
            if numbered:
                files = (f"regions/{name}.tif", f"predicted/{name}.png", digest(split_plane(label)[0]))
            images[sample.image] = JudgedImage(label, *files)
            for number, region in numbered:
                box = (region.top, region.left, *region.mask.shape)
                place = (*region.center, region.area, region.confidence)
                issues.append(LabelIssue(number, sample.image, region.kind, *place, f"crops/{number}.png", box))
            if numbered:
                writer.submit(_write_image_issues, folder, entry, name, numbered, assessor, in_channels, channels)
    issues.sort(key=lambda issue: issue.id)
    classes, ignored = assessor.num_classes, assessor.ignore_index
    how = (in_channels, tuple(channels))
    write_issue_files(IssueFolder(folder, list_path, classes, ignored, reading, images, issues, *how))
    return issues


def _write_image_issues(
    folder: Path,
    entry: JudgedLabel,
    name: str,
    numbered: Sequence[tuple[int, Region]],
    assessor: LabelAssessor,
    in_channels: int,
    channels: Sequence[str],
) -> None:
    """Write the regions of an image, what is expected of it, and the crops of its issues."""
    label, posterior, _, calibration = assessor.assess(entry.prediction)
    regions = np.zeros(label.shape, np.uint16)
    picture = show_image(read_image(entry.prediction.sample.image, in_channels, channels))
    for number, region in reversed(numbered):  # of several classes the surer region counts
        regions[region.window][region.mask] = number
        write_image(folder / f"crops/{number}.png", draw_crop(picture, label, posterior, region))
    write_image(folder / f"regions/{name}.tif", regions)
    write_label(folder / f"predicted/{name}.png", calibration.expected(posterior), assessor.num_classes)


def describe_issues(issues: Sequence[LabelIssue], images: int) -> str:
    """How many issues of what kinds there are, in words."""
    if not issues:
        return f"no label issue in {images} images"
    counts = Counter(issue.kind for issue in issues)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    affected = len({issue.image for issue in issues})
    return f"{len(issues)} label issue{'s' * (len(issues) > 1)} in {affected} of {images} images: {kinds}"
