"""Structures without whole labels: left out as small, large, or at the border, or marked by outlines or dots alone."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from datasets.label_summary import enclosed_areas
from datasets.labels import IGNORE
from datasets.noise_steps import offset
from evaluation.label_audit.moves import NEAR, Labels
from evaluation.scores import ratio
from evaluation.scores.bootstrap import MIN_IMAGES, bootstrap_counts, counts_interval, small_sample_reach

LEAST_DRAWN = 0.25  # of what other structures are labelled: a structure with less was left out
CERTAIN = 5  # standard errors that what others are labelled must measure, for a structure to be judged
USUAL = 0.9  # quantile of the labelled shares, by area, that is what others are labelled
LEAST_MISSED = 0.1  # of the structures, that must be left out for their kind to be told
FILLING_GAIN = 0.2  # of the IoU with the truth, that filling outlines must win
WIDENINGS = (1, 2, 3, 4)  # pixels; where one wins more than filling does, lines are middles and no outlines
DOT = 0.35  # of its structure, that a dot covers at most
ALIKE, UNLIKE = 1.3, 1.5  # quotient of quartiles of the areas: of dots at most, of what they lie in at least
MIN_DOTS, LEAST_DOT, DOTS_EACH = 10, 4, 1.5  # in all; pixels; at most, in the structures that have some
LEVELS = 64  # of sizes told apart
CLEAR_AUC = 0.65  # what the lower bound of the AUC must exceed
BEYOND_CHANCE = 3.0  # standard errors of an AUC by chance that it must exceed: three kinds are tried on few structures
AT_BORDER, SMALL, LARGE = "structures at the image border", "small structures", "large structures"


@dataclass(frozen=True)
class LeftOut:
    """Structures that were left out.

    Args:
        zones: of each image, where they lie and up to NEAR beside them, bool (H, W).
        area: their part of all foreground.
        kind: AT_BORDER, SMALL or LARGE; None where nothing tells them from the others.
        what: the same in words, with their number.
        size, low, high: AUC by which border or area tells them from the others, and its 95 % bounds.
    """

    zones: list[np.ndarray]
    area: float
    kind: str | None = None
    what: str = ""
    size: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")

    @property
    def by_size(self) -> bool:
        """Whether their size tells them from the others."""
        return self.kind in (SMALL, LARGE)


@dataclass(frozen=True)
class _Structures:
    """Pixels, also with those beside it, labelled share, and whether it touches the border, of each; zones (H, W)."""

    area: np.ndarray
    whole: np.ndarray
    share: np.ndarray
    touches: np.ndarray
    zones: np.ndarray


def find_left_out(truths: Labels, labels: Labels) -> LeftOut:
    """Look for structures that have no labels, and for what they have in common.

    Args:
        truths, labels: binary with 255 ignored, (H, W) each; labels that lie where the truth does.
    """
    level = _background_rate(truths, labels)
    found = [_structures(*pair, level) for pair in zip(truths, labels, strict=True)]
    names = ("area", "whole", "share", "touches")
    area, whole, share, touches = (np.concatenate([getattr(item, name) for item in found]) for name in names)
    image = np.repeat(np.arange(len(found)), [len(item.area) for item in found])
    usual = _usual_share(area, share)
    error = np.sqrt(usual * (1 - usual) * area + level * (1 - level) * (whole - area))
    judged = (area > 0) & (usual > 0) & (CERTAIN * error <= usual * area)
    drawn = share >= LEAST_DRAWN * usual
    marked = float(np.median((share * area)[judged & drawn])) if (judged & drawn).any() else 0.0
    missed = judged & ~drawn & (share * area <= LEAST_DRAWN * marked)  # a dot in a large one is as good as in others
    zones = [
        np.isin(item.zones, np.flatnonzero(missed[image == place]) + 1) & (truth != IGNORE)
        for place, (item, truth) in enumerate(zip(found, truths, strict=True))
    ]
    plain = LeftOut(zones, float(area[missed].sum() / max(area.sum(), 1)))
    if min(missed.sum(), len(found)) < MIN_IMAGES or missed.sum() < LEAST_MISSED * judged.sum():
        return plain
    ranks = {AT_BORDER: touches.astype(float), SMALL: -area, LARGE: area}
    aucs = {kind: _separation(rank[judged], missed[judged], image[judged], len(found)) for kind, rank in ranks.items()}
    kind, (size, low, high) = max(aucs.items(), key=lambda item: item[1][0])
    chance = np.sqrt((judged.sum() + 1) / (12 * missed.sum() * max((judged & ~missed).sum(), 1)))  # Mann-Whitney
    if not (low > CLEAR_AUC and size - 0.5 > BEYOND_CHANCE * chance):
        return plain
    return LeftOut(zones, plain.area, kind, f"{kind} missed, {missed.sum()} of {judged.sum()}", size, low, high)


def find_outlines(truths: Labels, labels: Labels) -> tuple[float, float] | None:
    """Whether labels are outlines that nobody filled.

    Args:
        truths, labels: binary with 255 ignored, (H, W) each.
    Returns: (IoU of labels with the truth, the same of filled ones) where filling wins much, beyond its error, and more
        than drawing the lines wider does.
    """
    if len(labels) < MIN_IMAGES:
        return None
    pairs = list(zip(truths, labels, strict=True))
    counts = np.array(
        [[_overlap(truth, label), _overlap(truth, np.where(enclosed_areas(label), 1, label))] for truth, label in pairs]
    )
    before, after = ratio(counts[..., 0].sum(0), counts[..., 1].sum(0), 0.0)
    resampled = bootstrap_counts(counts, 0, 400)
    error = float(np.diff(ratio(resampled[..., 0], resampled[..., 1], 0.0)).std())
    if after - before < max(FILLING_GAIN, small_sample_reach(len(labels)) * error):
        return None
    wider = np.array([[_overlap(truth, offset(label, by)) for by in WIDENINGS] for truth, label in pairs]).sum(0)
    if after <= ratio(*wider.T, 0.0).max():
        return None
    return float(before), float(after)


def find_dots(truths: Labels, labels: Labels) -> float | None:
    """Whether labels are dots, of one size whatever they lie in, as of structures that were counted.

    Args:
        truths, labels: binary with 255 ignored, (H, W) each.
    Returns: their diameter, pixels.
    """
    found = [_marks(*pair) for pair in zip(truths, labels, strict=True)]
    dots, whole = (np.concatenate([image[at] for image in found]) for at in (0, 1))
    structures = sum(image[2] for image in found)
    if len(dots) < MIN_DOTS or len(dots) > DOTS_EACH * structures or np.median(dots) < LEAST_DOT:
        return None
    if np.median(np.divide(dots, whole)) > DOT:
        return None
    spread = [ratio(*np.quantile(areas, (0.75, 0.25))) for areas in (dots, whole)]
    if spread[0] > ALIKE or spread[1] < UNLIKE:
        return None
    return float(2 * np.sqrt(np.median(dots) / np.pi))


def _marks(truth: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Areas of marks and of the structures that they lie in, of each pair, (P,); how many structures have marks."""
    _, parts, sizes, _ = cv2.connectedComponentsWithStats((truth == 1).astype(np.uint8), connectivity=8)
    _, own, own_sizes, _ = cv2.connectedComponentsWithStats((label == 1).astype(np.uint8), connectivity=8)
    both = (own > 0) & (parts > 0)
    mark, structure = np.unique(np.stack([own[both], parts[both]]), axis=1)
    areas = own_sizes[mark, cv2.CC_STAT_AREA], sizes[structure, cv2.CC_STAT_AREA]
    return *areas, len(np.unique(structure))


def _overlap(truth: np.ndarray, label: np.ndarray) -> tuple[int, int]:
    """Pixels in intersection and union."""
    known = (truth != IGNORE) & (label != IGNORE)
    return int(((truth == 1) & (label == 1) & known).sum()), int((((truth == 1) | (label == 1)) & known).sum())


def _background_rate(truths: Labels, labels: Labels) -> float:
    """The label rate outside the truth."""
    outside = [label[(truth == 0) & (label != IGNORE)] for truth, label in zip(truths, labels, strict=True)]
    return float(sum((own == 1).sum() for own in outside) / max(sum(map(len, outside)), 1))


def _structures(truth: np.ndarray, label: np.ndarray, level: float) -> _Structures:
    """The connected parts of a truth, and the share of each that is labelled, in it or up to NEAR beside it.

    Args:
        level: label rate of the background, which is taken off.
    """
    outside = (truth != 1).astype(np.uint8)
    if outside.all():
        return _Structures(*(np.zeros(0),) * 3, np.zeros(0, bool), np.zeros(truth.shape, np.int32))
    distance, zones = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, cv2.DIST_MASK_5)
    zones = np.where(distance <= NEAR, zones, 0)
    known = (label != IGNORE) & (truth != IGNORE)
    count = int(zones.max()) + 1

    def pixels(where: np.ndarray) -> np.ndarray:
        return np.bincount(zones[where & known], minlength=count)[1:].astype(float)

    area, whole = pixels(truth == 1), pixels(zones > 0)
    share = ratio(pixels(label == 1) - level * whole, area, 0.0).clip(0, 1)
    edges = np.concatenate([own[at == 1] for own, at in zip(_edges(zones), _edges(truth), strict=True)])
    return _Structures(area, whole, share, np.isin(np.arange(1, count), edges), zones)


def _edges(values: np.ndarray) -> tuple[np.ndarray, ...]:
    return values[0], values[-1], values[:, 0], values[:, -1]


def _usual_share(area: np.ndarray, share: np.ndarray) -> float:
    """The share that the best labelled structures of a part 1 − USUAL of the area have at least."""
    order = np.argsort(share)
    weight = area[order].cumsum()
    return float(share[order][np.searchsorted(weight, USUAL * weight[-1])]) if len(area) and weight[-1] > 0 else 0.0


def _separation(rank: np.ndarray, missed: np.ndarray, image: np.ndarray, images: int) -> tuple[float, float, float]:
    """How well a rank tells missed structures from others, as an AUC with 95 % bounds."""
    cuts = np.unique(np.quantile(rank, np.linspace(0, 1, LEVELS)[1:-1]))
    place = image * LEVELS + np.searchsorted(cuts, rank)
    table = [np.bincount(place[own], minlength=images * LEVELS).reshape(images, LEVELS) for own in (~missed, missed)]
    return float(level_auc(np.sum(table, axis=1))), *counts_interval(level_auc, np.stack(table, 1), 0, 400)


def level_auc(table: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of weights (…, 2, B) of negatives and positives by level."""
    negative, positive = table[..., 0, :], table[..., 1, :]
    below = negative.cumsum(-1) - negative / 2
    return ratio((positive * below).sum(-1), positive.sum(-1) * negative.sum(-1), 0.5)
