r"""In which ways labels err systematically: moved, off the boundary, by what the image shows, by place.

Labels are held against the reference in nested steps, :math:`E[\text{label} \mid \text{truth}, \text{outline}, \text{
image}, \text{place}]`: first the whole label is moved back if it lies off by some pixels; then the share of labels is
read by signed distance to the true boundary, where a step beside 0 is an outline drawn too wide or too narrow; then the
curvature of the true outline, the image's features and the place in the image may predict what is left. Each of these
is fitted on one half of the images, read on the other, and believed only where it explains a part of the errors that
is both material and beyond the spread between images, which pixels of one image would feign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from datasets.labels import IGNORE
from datasets.transition_matrix import count_transitions
from evaluation.label_audit.by_distance import bin_shares, inward_distance, location_table
from evaluation.label_audit.geometry import (
    FARTHEST,
    MIN_EXPLAINED,
    NEAR,
    SURE,
    Labels,
    Moved,
    as_maps,
    find_move,
    find_offset,
    outline_map,
    uneven_outlines,
)
from evaluation.label_audit.pixel_classifier import BRIGHTNESS, PixelLearner, image_features
from evaluation.label_audit.threshold import blurred_outline, network_blur
from evaluation.scores.bootstrap import MIN_IMAGES, counts_interval, student_reach
from evaluation.scores.confusion import ratio

AT_BOUNDARIES, BY_IMAGE, BY_PLACE, MOVED = "at boundaries", "by image", "by place", "moved"
OF_LABELS, OF_ERRORS = "of label rate", "of error rate"
# what a difference of rates is of
RATES = {
    OF_LABELS: "where outlines are hollow {} more labels are set than where they bulge",
    OF_ERRORS: "{} more labels are wrong than elsewhere",
}

# Fixed on simulated sets: no kind is found there under flips, sampling and dilation with ten images.
CURVATURE_SIGMA = 3.0  # pixels, of the outline's surroundings
MIN_CURVED = 0.1  # difference of label rates between concave and convex boundary that counts
MIN_AUC = 0.6  # what the lower bound of the AUC must exceed
PIXELS = 1500  # of every image
RESIDUAL_RIDGE = 3e-2  # errors are fitted more cautiously than labels: most sets have none to be predicted


@dataclass(frozen=True)
class Bias:
    """One systematic error.

    Args:
        kind: AT_BOUNDARIES, BY_IMAGE, BY_PLACE or ``moved by (dy, dx)``.
        what: in words: ``wider``, ``dim structures missed`` …
        size: pixels (outline, move), or how well image or place tell wrong labels from right ones, as an AUC.
        low, high: 95 % bounds of the size; NaN with too few images.
        unit: of the size: ``px``, ``AUC``, or of label rates what RATES says.
    """

    kind: str
    what: str
    size: float
    low: float
    high: float
    unit: str = "px"

    def text(self) -> str:
        """``wider by 2.0 px (1.5 to 2.5)``."""
        if self.unit == "px":
            more = " or more" if self.high >= FARTHEST else ""
            bounds = "" if np.isnan(self.low) else f" ({self.low:.1f} to {self.high:.1f}{more})"
            return f"{self.what} by {self.size:.1f} px{bounds}"
        if self.unit in RATES:
            return f"{self.what}: {RATES[self.unit].format(f'{self.size:.0%} ({self.low:.0%} to {self.high:.0%})')}"
        bounds = "" if np.isnan(self.low) else f", {self.low:.2f} to {self.high:.2f}"
        return f"{self.what} ({self.unit} {self.size:.2f}{bounds})"


class ResidualAnalysis:
    """Errors of labels at sampled pixels, and what of them outline, image and place predict.

    Args:
        truths, labels: binary with 255 ignored, (H, W) each; images: (H, W) or (H, W, C) each, or None.
        distances: signed, to the true boundary, positive inside.
        expected: E[label | truth, distance, depth] of every pixel, (H, W) each.
    """

    def __init__(
        self,
        truths: Labels,
        labels: Labels,
        images: Labels | None,
        *,
        distances: Labels,
        expected: Labels,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.places = [_stratified(truth, rng) for truth in truths]
        self.truth = self._at(truths) == 1
        self.areas = [sum(int((truth == side).sum()) for truth in truths) for side in (0, 1)]
        label = self._at(labels)
        self.used = label != IGNORE
        self.label = (label == 1).astype(np.float32)
        self.distance = self._at(distances)
        self.image = np.repeat(np.arange(len(truths)), [len(place[0]) for place in self.places])
        blurred = [cv2.GaussianBlur((truth == 1).astype(np.float32), (0, 0), CURVATURE_SIGMA) for truth in truths]
        self.density = self._at(blurred)
        self.rest = np.where(self.used, self.label - self._at(expected), 0).astype(np.float32)
        rate = [self.label[self.used & (self.truth == side)].mean() for side in (False, True)]
        self.variance = float(((self.label - np.where(self.truth, rate[1], rate[0]))[self.used] ** 2).sum())
        outline = image_features([(truth == 1).astype(np.float32) for truth in truths], self.places)
        outlined = self._fit([np.c_[own, t] for own, t in zip(outline, self._split(self.truth), strict=True)], seed)
        if self._part(outlined) > 0:
            self.rest = self.rest - outlined
        self.image_bias = self.place_bias = None
        self.imitation = 1.0
        if images is not None:
            shown = image_features(images, self.places)
            self.brightness = np.concatenate([item[:, BRIGHTNESS] for item in shown])
            joined = [np.c_[own, own * t[:, None], t] for own, t in zip(shown, self._split(self.truth), strict=True)]
            predicted = self._fit(joined, seed + 1)
            self.image_bias = self._bias(BY_IMAGE, predicted, seed)
            if self.image_bias is not None:
                self.imitation = self._imitation(predicted)
                self.rest = self.rest - predicted
        where = [
            np.stack([rows / truth.shape[0], columns / truth.shape[1]], 1)
            for (rows, columns), truth in zip(self.places, truths, strict=True)
        ]
        placed = [np.c_[own, own * t[:, None], t] for own, t in zip(where, self._split(self.truth), strict=True)]
        self.place_bias = self._bias(BY_PLACE, self._fit(placed, seed + 2), seed)

    def _at(self, maps: Labels) -> np.ndarray:
        return np.concatenate([item[place] for item, place in zip(maps, self.places, strict=True)])

    def _split(self, values: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([len(place[0]) for place in self.places])[:-1]
        return np.split(values, ends)

    def _fit(self, features: Sequence[np.ndarray], seed: int) -> np.ndarray:
        """What the features predict of the rest, fitted to the other half of the images, (P,)."""
        return PixelLearner([item.astype(np.float32) for item in features], seed).scores(
            self.rest, self.used.astype(np.float32), ridge=RESIDUAL_RIDGE
        )

    def _part(self, predicted: np.ndarray) -> float:
        """The part of the label errors' variance that a prediction of the rest explains; < 0: it does harm."""
        won = self.rest**2 - (self.rest - predicted) ** 2
        return float(won[self.used].sum() / max(self.variance, 1e-6))

    def _bias(self, kind: str, predicted: np.ndarray, seed: int) -> Bias | None:
        """The bias that a prediction of the rest shows, where it is material and tells wrong labels from right ones."""
        if len(self.places) < MIN_IMAGES or self._part(predicted) < MIN_EXPLAINED:
            return None
        auc, low, high = self.auc(predicted, seed)
        if not low > MIN_AUC:
            return None
        what = self._structures(predicted) if kind == BY_IMAGE else "a part of the image left out or added"
        return Bias(kind, what, auc, low, high, "AUC")

    def _imitation(self, predicted: np.ndarray) -> float:
        """IoU with the truth of labels as outline and image predict them: what a perfect imitator would draw."""
        drawn = self.label - self.rest + predicted >= 0.5
        sampled = [max(int((self.truth == side).sum()), 1) for side in (False, True)]
        weight = np.where(self.truth, self.areas[1] / sampled[1], self.areas[0] / sampled[0]) * self.used
        return float(weight[drawn & self.truth].sum() / max(weight[drawn | self.truth].sum(), 1e-6))

    def auc(self, predicted: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
        """How well a prediction tells labels above their expectation from those below, of one true class.

        Of the classes, the one in which it explains more. Returns: (AUC, low, high).
        """
        won = np.where(self.used, self.rest**2 - (self.rest - predicted) ** 2, 0)
        inside = self.truth if won[self.truth].sum() > won[~self.truth].sum() else ~self.truth
        use = self.used & inside
        cuts = np.quantile(predicted[use], np.linspace(0, 1, 65)[1:-1])
        level = np.searchsorted(cuts, predicted)
        index = self.image * 64 + level
        sides = [np.clip(sign * self.rest, 0, None) * use for sign in (-1, 1)]
        table = np.stack([np.bincount(index, side, len(self.places) * 64).reshape(-1, 64) for side in sides], 1)
        return float(_auc(table.sum(0))), *counts_interval(_auc, table, seed, 400)

    def _structures(self, predicted: np.ndarray) -> str:
        """Which structures the image-dependent errors concern, in words."""
        use = self.used
        missed = float(np.clip(-predicted, 0, None)[use & self.truth].sum())
        added = float(np.clip(predicted, 0, None)[use & ~self.truth].sum())
        inside = use & (self.truth if missed >= added else ~self.truth)
        toward = np.corrcoef(self.brightness[inside], predicted[inside])[0, 1]
        if missed >= added:
            return f"{'dim' if toward > 0 else 'bright'} structures missed"
        return f"{'bright' if toward > 0 else 'dim'} background marked"

    def smoothing(self) -> Bias | None:
        """Outlines drawn smoother than the truth: labels are set more often where the outline is concave than convex.

        The size is the difference of label rates, at equal distance, between the upper and the lower third of the
        foreground's local density near the boundary.
        """
        near = self.used & (np.abs(self.distance) <= NEAR)
        step = np.floor(self.distance).astype(int)
        rest, upper, lower = np.zeros_like(self.label), np.zeros_like(near), np.zeros_like(near)
        for value in np.unique(step[near]):
            here = near & (step == value)
            rest[here] = self.label[here] - self.label[here].mean()
            cut = np.quantile(self.density[here], (1 / 3, 2 / 3))
            lower |= here & (self.density <= cut[0])
            upper |= here & (self.density >= cut[1])
        gaps = []
        for image in range(len(self.places)):
            sides = [rest[(self.image == image) & side] for side in (lower, upper)]
            if all(len(side) for side in sides):
                gaps.append(float(sides[1].mean() - sides[0].mean()))
        if len(gaps) < MIN_IMAGES:
            return None
        mean, error = float(np.mean(gaps)), float(np.std(gaps, ddof=1) / np.sqrt(len(gaps)))
        reach = student_reach(len(gaps)) * error
        if mean < MIN_CURVED or mean < SURE * reach:
            return None
        return Bias(AT_BOUNDARIES, "smoother", mean, mean - reach, mean + reach, OF_LABELS)


def _auc(table: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of weights (…, 2, B) of negatives and positives by level."""
    negative, positive = table[..., 0, :], table[..., 1, :]
    below = negative.cumsum(-1) - negative / 2
    return ratio((positive * below).sum(-1), positive.sum(-1) * negative.sum(-1), 0.5)


def _stratified(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of PIXELS pixels, half of each true class where there are so many."""
    chosen = []
    for value in (0, 1):
        flat = np.flatnonzero(truth == value)
        chosen.append(rng.choice(flat, min(len(flat), PIXELS // 2), replace=False))
    rows, columns = np.divmod(np.concatenate(chosen), truth.shape[1])
    return rows, columns


@dataclass(frozen=True)
class Biases:
    """What was found of a label set.

    Args:
        found: every bias, the largest cause first: moved, at boundaries, by image, by place.
        moved: by how many pixels whole labels lie off.
        offset: by how many pixels outlines are wider (> 0) or narrower; 0 where it is within its error.
        labels: the labels, moved back.
        cost: share of the IoU that outlines and moves cost whoever takes the threshold that noise alone would imply.
        threshold: that draws the true outline after training on the labels, see ``threshold.py``.
        overlap: the share of IoU that is left where labels lie off as far as these do.
        imitation: IoU with the truth of labels as the image predicts them; 1 where it predicts no errors.
    """

    found: tuple[Bias, ...]
    moved: Moved
    offset: float
    labels: list[np.ndarray]
    cost: float
    threshold: float
    overlap: float
    imitation: float

    def has(self, kind: str) -> bool:
        """Whether a bias of a kind was found."""
        return any(bias.kind == kind for bias in self.found)


def find_biases(
    truths: Labels,
    labels: Labels,
    images: Labels | None,
    seed: int = 0,
    clean_iou: float = 1.0,
    *,
    refine: Callable[[Labels, Labels, tuple[int, int]], tuple[int, int]] | None = None,
) -> Biases:
    """Hold binary labels, right way up, against the truth.

    Args:
        truths, labels: binary with 255 ignored, (H, W) each; images: (H, W) or (H, W, C) each, or None.
        clean_iou: that a network would reach with clean labels.
        refine: the move to take back, of labels, truths and a first guess; see ``repair.find_move_back``.
    """
    distances = [inward_distance(truth) for truth in truths]
    moved = find_move([outline_map(distance) for distance in distances], as_maps(labels), seed)
    back = list(labels)
    if refine is not None:
        down, right = refine(labels, truths, (-moved.down, -moved.right))
        moved = replace(moved, down=-down, right=-right)
    if moved:
        back = [moved.undo(label) for label in labels]
    offset, low, high = find_offset(distances, back, seed)
    found = []
    if moved:
        what = f"moved by ({moved.down}, {moved.right})"
        found.append(Bias(what, "moved", moved.length, moved.low, moved.high))
    if offset:
        least, most = sorted((abs(low), abs(high)))
        found.append(Bias(AT_BOUNDARIES, "wider" if offset > 0 else "narrower", abs(offset), least, most))
    bins, table = location_table(truths, back)
    shares = bin_shares(table)[:, 1]
    expected = [np.where(item >= 0, shares[item], np.nan).astype(np.float32) for item in bins]
    errors = ResidualAnalysis(truths, back, images, distances=distances, expected=expected, seed=seed)
    if not offset and errors.image_bias is None:
        bias = errors.smoothing()
        if bias is None and (uneven := uneven_outlines(table)) is not None:
            bias = Bias(AT_BOUNDARIES, *uneven, OF_ERRORS)
        found += [bias] if bias is not None else []
    found += [bias for bias in (errors.image_bias, errors.place_bias) if bias is not None]
    counts = np.sum([count_transitions(*pair) for pair in zip(truths, labels, strict=True)], axis=0)
    background, foreground = np.nan_to_num(ratio(counts[:, 1], counts.sum(1))).tolist()
    blur = network_blur(distances, clean_iou)
    outline = blurred_outline(distances, expected, blur, moved.length, wide=offset > 0)
    prior = (background + foreground) / 2
    return Biases(
        found=tuple(found),
        moved=moved,
        offset=offset,
        labels=back,
        threshold=outline.threshold if found else prior,
        cost=outline.cost(prior) if found else 0.0,
        overlap=outline.overlap,
        imitation=errors.imitation,
    )
