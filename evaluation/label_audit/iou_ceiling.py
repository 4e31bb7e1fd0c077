r"""The IoU ceiling: what a perfect learner of the labels scores against the truth.

A perfect learner outputs :math:`E[\text{label} \mid \text{class}, \text{distance}, \text{relative depth}]`, read off
one half of the images, and is scored on the other half at its best threshold (K classes: by argmax). It sees the true
class of every pixel, so only what the labels do *systematically* can hold it back: labels dilated by two pixels teach
a mask dilated by two pixels, while flips at one rate everywhere teach the truth.

A real network is blurred and may get past the ceiling: a low threshold turns a blurred skeleton into a ribbon. What a
network will reach is the matter of ``evaluation.label_audit.predicted_iou``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from datasets.transition_matrix import TransitionMatrix, normalize_rows
from evaluation.label_audit.estimate import Transitions, association, astray_places
from evaluation.scores import ratio
from evaluation.scores.bootstrap import counts_interval

DIFFERENT = 2.5  # standard errors by which two bins must differ to count as two
FALSE_ALARMS = 0.005  # chance that any of many looks at K classes finds equal shares different
MANY = 60  # images from which on half of them tell enough by every distance
MIN_PIXELS = 20  # bins with fewer pixels in the fitted half take the share of their class


@dataclass(frozen=True)
class Ceiling:
    """What a perfect learner reaches.

    Args:
        value: pooled IoU (K classes: mean IoU) on the halves that were not fitted; low, high: its 95 % interval from
            resampling images, reaching up to the value without merging bins; NaN with too few images.
        distance_free: the same for a learner that is told the class alone; 1 wherever the classes differ.
        nothing_differs: whether no bin differs from another: both values are then those of a constant mask.
    """

    value: float
    low: float
    high: float
    distance_free: float
    nothing_differs: bool


class Share(NamedTuple):
    """A pooled label share and the counts per image behind it: labels found and pixels, (n,) each."""

    found: np.ndarray
    total: np.ndarray

    @property
    def pixels(self) -> float:
        """All pixels behind the share."""
        return float(self.total.sum())

    @property
    def value(self) -> float:
        """The share itself."""
        return float(self.found.sum() / self.total.sum())

    @property
    def influence(self) -> np.ndarray:
        """What each image adds to the error of the share (ratio estimator), (n,)."""
        return (self.found - self.value * self.total) / self.pixels

    def __add__(self, other: Share) -> Share:
        return Share(self.found + other.found, self.total + other.total)


def difference(first: Share, second: Share) -> float:
    """By how many standard errors two shares of the same images differ.

    The variance is the larger of that between images, where what an image does to both shares cancels, and that of
    independent pixels with one common share, which is what would be true if they did not differ: a small bin without
    a single label is no proof of a share of 0.
    """
    common = (first + second).value
    variance = common * (1 - common) * (1 / first.pixels + 1 / second.pixels)
    images = np.count_nonzero(first.total + second.total)
    if images > 1:
        between = ((first.influence - second.influence) ** 2).sum() * images / (images - 1)
        variance = max(variance, float(between))
    gap = abs(first.value - second.value)
    return gap / np.sqrt(variance) if variance > 0 else (np.inf if gap > 0 else 0.0)


def critical_difference(tests: int) -> float:
    """By how many standard errors two label shares must differ to count as two, when so many pairs are looked at."""
    from scipy.special import ndtri

    return float(-ndtri(FALSE_ALARMS / (2 * max(tests, 1))))


def merged_shares(
    found: np.ndarray, total: np.ndarray, classes: np.ndarray, limit: float = DIFFERENT, *, differ: bool = False
) -> np.ndarray:
    """Label share of every bin after merging bins that do not differ.

    Bins that do not differ from their class as a whole are pooled first, class by class; then the two neighbours, in
    the order of their shares, that differ least in standard errors, until all differ. Bins with too few pixels take
    the share of their class.

    Args:
        found, total: foreground labels and pixels per image and bin, (n, B).
        classes: true class of every bin, (B,).
        limit: standard errors by which bins must differ; 0 merges none.
        differ: keep the classes apart: the largest bins of two classes are never merged.
    Returns: (B,), equal values for merged bins.
    """

    def share_of(members: np.ndarray) -> Share:
        return Share(found[:, members].sum(1), total[:, members].sum(1))

    result = np.zeros(len(classes))
    usable = total.sum(0) >= MIN_PIXELS
    groups = []
    for true_class in np.unique(classes):
        members = np.flatnonzero(classes == true_class)
        if not total[:, members].any():
            continue
        whole = share_of(members)
        result[members] = whole.value
        members = members[usable[members]]
        own = np.array([difference(share_of(members[[place]]), whole) >= limit for place in range(len(members))], bool)
        groups += [np.array([index]) for index in members[own]] + ([members[~own]] if not own.all() else [])
    shares = [share_of(members) for members in groups]
    order = sorted(range(len(groups)), key=lambda place: shares[place].value)
    groups, shares = [groups[place] for place in order], [shares[place] for place in order]
    pixels = total.sum(0)
    largest = {int(np.where(classes == one, pixels, -1).argmax()) for one in np.unique(classes)} if differ else set()
    while len(groups) > 1:
        gaps = [difference(*pair) for pair in pairwise(shares)]
        for place, pair in enumerate(pairwise(groups)):
            if len(largest.intersection(np.concatenate(pair).tolist())) > 1:
                gaps[place] = np.inf
        place = int(np.argmin(gaps))
        if gaps[place] >= limit:
            break
        groups[place : place + 2] = [np.concatenate(groups[place : place + 2])]
        shares[place : place + 2] = [shares[place] + shares[place + 1]]
    for members, share in zip(groups, shares, strict=True):
        result[members] = share.value
    return result


def _best_cut(shares: np.ndarray, background: np.ndarray, foreground: np.ndarray) -> float:
    """The threshold on bin shares with the highest IoU for pixel counts per bin."""
    levels = np.unique(shares)
    metrics = [
        foreground[shares >= level].sum() / max(foreground.sum() + background[shares >= level].sum(), 1)
        for level in levels
    ]
    return float(levels[int(np.argmax(metrics))])


def _confusions(prediction: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Confusion matrix of every image where each location bin is given one class.

    Args:
        prediction: class per bin, (K · D · R,); table: (n, K, D, R, K).
    Returns: int64 (n, K, K), rows = truth.
    """
    images, classes = table.shape[:2]
    pixels = table.sum(-1).reshape(images, classes, -1)
    given = np.eye(classes, dtype=np.int64)[prediction].reshape(classes, -1, classes)
    return np.einsum("njb,jbm->njm", pixels, given)


def pooled_iou(matrices: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """IoU of the foreground for binary labels, else mean IoU over the classes that occur, of (…, K, K) counts."""
    hits = np.diagonal(matrices, axis1=-2, axis2=-1)
    per_class = ratio(hits, matrices.sum(-1) + matrices.sum(-2) - hits)
    return per_class[..., 1] if num_classes == 1 else np.nanmean(per_class, -1)


def _binary_half(fitted: np.ndarray, scored: np.ndarray, differ: bool) -> tuple[np.ndarray, ...]:
    """Confusions per image of ``scored`` of three perfect learners of ``fitted``.

    Args:
        fitted, scored: tables (n, 2, D, R, 2), labels already turned so that foreground scores higher.
        differ: whether all images together show that labels differ between the classes: then half of them, which may
            be too unlike each other to show it, does not say that nothing differs.
    Returns: of the learner with merged bins, of one told the class alone, of one that takes every bin at its word.
    """
    flat = fitted.reshape(len(fitted), -1, 2)
    is_foreground = np.arange(flat.shape[1]) >= flat.shape[1] // 2
    pixels = flat.sum((0, 2))
    counts = np.where(is_foreground, 0, pixels), np.where(is_foreground, pixels, 0)
    merged, single = (
        merged_shares(flat[..., 1], flat.sum(-1), is_foreground.astype(int), limit, differ=differ)
        for limit in (DIFFERENT, 0.0)
    )
    alone = is_foreground if len(np.unique(merged[pixels > 0])) > 1 else np.ones_like(is_foreground)
    masks = [merged >= _best_cut(merged, *counts), alone, single >= _best_cut(single, *counts)]
    return tuple(_confusions(mask.astype(int), scored) for mask in masks)


def _class_half(
    fitted: np.ndarray, scored: np.ndarray, merged: list[list[int]], invertible: bool
) -> tuple[np.ndarray, ...]:
    """The same for K classes: argmax of E[label | bin], of E[label | class] alone, and the first again.

    A bin keeps its own label shares where one of them differs from its class's beyond chance; the other bins of the
    class are pooled without it. Classes that the labels cannot tell apart share one row of Q. Where Q is
    ``invertible``, E[label | class] is decoded by it, which gives back every class; E[label | bin] only where training
    would decode too.
    """
    classes, counts = fitted.shape[1], fitted.sum((0, 2, 3))
    for group in merged:
        counts[group] = counts[group].sum(0)
    matrix = TransitionMatrix.from_counts(counts)
    flat, rows = fitted.reshape(len(fitted), -1, classes), np.nan_to_num(matrix.rows)
    truth = np.repeat(np.arange(classes), flat.shape[1] // classes)
    total, shares = flat.sum(-1), rows[truth]
    usable = np.flatnonzero(total.sum(0) >= MIN_PIXELS)
    limit = critical_difference(len(usable) * classes)
    whole = np.stack([flat[:, truth == row].sum(1) for row in range(classes)], 1)  # (n, K, K)
    differing = np.zeros(len(truth), bool)
    for index in usable:
        row, own = truth[index], flat[:, index]
        pairs = [
            (Share(own[:, m], total[:, index]), Share(whole[:, row, m], whole[:, row].sum(-1))) for m in range(classes)
        ]
        differing[index] = any(difference(*pair) >= limit for pair in pairs)
    shares[differing] = normalize_rows(flat[:, differing].sum(0))
    for row in np.unique(truth[differing]):
        rest = (truth == row) & ~differing
        if total[:, rest].any():
            shares[rest] = normalize_rows(flat[:, rest].sum((0, 1)))
    scores = matrix.decode(shares) if invertible and matrix.needs_decoding else shares
    by_bin, by_class = scores.argmax(-1), (matrix.decode(rows) if invertible else rows)[truth].argmax(-1)
    return tuple(_confusions(prediction, scored) for prediction in (by_bin, by_class, by_bin))


def _folds(images: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images to fit and images to score: halves, of few images more parts, which leave more to be fitted."""
    order = np.random.default_rng(seed).permutation(images)
    if images < 2:
        return [(order, order)]
    parts = np.array_split(order, max(2, min(images, MANY // images)))
    return [(np.setdiff1d(order, part), part) for part in parts]


def iou_ceiling(
    table: np.ndarray, transitions: Transitions, invert: bool = False, seed: int = 0, num_classes: int = 1
) -> Ceiling:
    """Fit on one part of the images, score on the other, pool the counts.

    Labels that have nothing to do with their image, where most do, are not fitted: they average out, but of few images
    only by chance.

    Args:
        table: of ``by_distance.location_table``, (n, K, D, R, K).
        transitions: of the same label set: whether label and truth are associated, which classes merge.
        invert: binary labels that teach the inverse; scores are inverted as training would.
        num_classes: 1 for binary labels, which have a threshold; else K, with an argmax, for two logits too.
    """
    truth_and_label = table.sum((2, 3))
    truth = truth_and_label.sum((0, 2))
    binary = num_classes == 1
    if transitions.no_association:
        constant = np.full(table[0, ..., 0].size, 1 if binary else truth.argmax())
        results = [(_confusions(constant, table),) * 3]
    else:
        odd = astray_places(association(truth_and_label)) if binary and not transitions.too_few else ()
        halves = [(table[np.setdiff1d(fitted, odd)], table[scored]) for fitted, scored in _folds(len(table), seed)]
        if binary:
            turned = [tuple(side[..., ::-1] if invert else side for side in half) for half in halves]
            results = [_binary_half(*half, differ=not transitions.too_few) for half in turned]
        else:
            results = [_class_half(*half, transitions.merged, transitions.invertible) for half in halves]
    matrices, alone, unmerged = (np.concatenate(parts) for parts in zip(*results, strict=True))
    low, high = counts_interval(lambda sums: pooled_iou(sums, num_classes), matrices, seed, 400)
    high = float(np.maximum(high, pooled_iou(unmerged.sum(0), num_classes)))  # NaN stays
    value, distance_free = (float(pooled_iou(item.sum(0), num_classes)) for item in (matrices, alone))
    # A constant mask for the best-informed learner and for the class-only one: there is nothing to be learned.
    nothing = bool((matrices.sum((0, 1)) > 0).sum() == 1 and (alone.sum((0, 1)) > 0).sum() == 1)
    return Ceiling(value, low, high, distance_free, nothing)
