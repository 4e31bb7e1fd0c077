r"""Predicted IoU: what a network trained on these labels will reach against the truth, said before training.

A quick stand-in (``label_audit.pixel_classifier``) is taught what a network would take from the labels, on half of the
images, and is scored against the truth on the other half, at the best threshold (K classes: by argmax, decoded by Q⁻¹
where training would), not inverted. It sees the images, so it knows how hard they are; it fits conditional means, so
flips, erasures, dilations and skeletons act on it as on a network trained with a proper loss.

A network sees every pixel many times, which averages out independent errors that a few thousand sampled pixels would
not. So the target at pixel x is no single label but

.. math:: t(x) = E(x) + \frac1{|W_h|} \sum_{y \in W_h(x)} \bigl(\text{label}(y) - E(y)\bigr),

with E = E[label | class, distance, relative depth] and W_h the (2h+1)² window of the local density: independent errors
shrink by 2h + 1, errors that hang together (missing objects, closed gaps, wobbling contours) survive, and boundaries
stay where the labels put them.

Ignored pixels teach nothing: a window counts by the share of it that is labelled, one without labels not at all; no
more pixels are fitted than are labelled; a bin with few labels leans on the share of its class. Labels of a part of
the images stand for all that will be trained on: independent errors of n times as many images weigh √n times less, so
the second term is multiplied by :math:`\sqrt{n_\text{audited} / n_\text{trained on}}`.

A training of few steps ends before neighbouring errors have cancelled; then a part of the pixel's own error is left in
(`single_weight`). Cross entropy trusts labels of a class the more, the closer to 0 or 1 their rate is, so where errors
do not depend on the place pixels weigh as the inverse of their class's label variance: that is why 2 % of sampled
foreground teach more than flips of the same φ.

A network is sharper than the stand-in where labels depend on the image. There the stand-in is also shown the blurred
true outline, so that it learns *which* structures are labelled rather than where they end, and the share is taken half
way between its own and that of a perfect imitator of what the image predicts of the labels.

The result is the share of clean labels' IoU, times the IoU that clean labels lead to. The latter is the stand-in's own,
whose gap to 1 a network closes by a part. All constants were fixed on simulated sets, by quick networks of width 8,
240 steps long (``benchmarks/audit/human_labels.py``, ``clean_labels.py``); real images had no part.

That is what masks of the trained network reach at the best threshold. Clean validation images do more against labels
that are wrong at boundaries: they move the outlines of masks, and they choose an epoch before the network knows how
thin the labels are. The first reaches what the labels would if their own outlines were moved; what the second reaches
the stand-in shows when it is fitted more cautiously (CAUTIOUS), as a network is in its first steps. The best counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from datasets.labels import IGNORE, label_classes
from evaluation.label_audit.by_distance import BANDWIDTH, bin_shares, location_counts, window_mean
from evaluation.label_audit.estimate import Transitions
from evaluation.label_audit.pixel_classifier import PIXELS, RIDGE, PixelLearner, image_features, sample_positions
from evaluation.scores import best_threshold, confusion_matrix, counts_at, iou, mean_iou, ratio, score_histogram

SHORT = 80  # steps up to which independent errors are not averaged at all
ERROR_SCALES = 0.1, 3.0  # bounds of the factor that accounts for another number of images
LEAST_VARIANCE = 0.1  # of the largest class's label variance: no class is trusted more than that
GAP_LEFT = 0.72  # of the stand-in's gap to an IoU of 1 that a network leaves with clean labels
# Exponents of the stand-in's share of the clean IoU. A network suffers less from biased outlines, least where they are
# too wide, since the image's edge remains inside; where they are too narrow, it knows their middle alone.
WIDER, NARROWER, SHARPER = 0.7, 1.1, 0.9
OUTLINE_BLURS = 1.5, 3.0, 6.0  # pixels, of the outline that the stand-in is shown
CAUTIOUS = 1.0, 3.0, 10.0, 30.0, 100.0  # ridges, of fits that stand for ever earlier epochs
CLEAN_ERROR, SHARE_ERROR, LEAST_ERROR = 0.4, 0.25, 0.025  # half widths of 90 % intervals: of both gaps, and the least


@dataclass(frozen=True)
class PredictedIoU:
    """What a network will reach.

    Args:
        value, low, high: IoU (K classes: mean IoU) and its 90 % interval.
        relative: share of what clean labels would lead to.
        clean: what clean labels would lead to.
    """

    value: float
    low: float
    high: float
    relative: float
    clean: float

    @classmethod
    def of(cls, expected: float, relative: float) -> PredictedIoU:
        """From what clean labels lead to and the share of it that these do."""
        relative = float(np.clip(relative, 0, 1))
        value = expected * relative
        error = np.hypot(CLEAN_ERROR * (1 - expected) * relative, SHARE_ERROR * (1 - relative) * expected)
        half = float(np.hypot(error, LEAST_ERROR))
        return cls(value, max(value - half, 0.0), min(value + half, 1.0), relative, expected)

    def scaled(self, factor: float) -> PredictedIoU:
        """The same, IoU and share times a factor; the interval is as wide."""
        value, relative = min(self.value * factor, 1.0), min(self.relative * factor, 1.0)
        shift = value - self.value
        return replace(
            self, value=value, low=max(self.low + shift, 0.0), high=min(self.high + shift, 1.0), relative=relative
        )


def regression_target(
    noisy: np.ndarray, bins: np.ndarray, shares: np.ndarray, *, single: float = 0.0, error_scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The target t of the module's docstring for one class.

    Args:
        noisy: whether a pixel carries the label, float (H, W), NaN where it is ignored.
        bins: location bin of every pixel, −1 where the truth is ignored, (H, W).
        shares: E per bin, (B,).
        single: weight of the pixel's own error against that of its window, see `single_weight`.
        error_scale: factor of the labels' errors, see `error_scale`.
    Returns: (t, NaN where the truth is ignored or the window holds no label; the labelled share of the window), float32
        (H, W) each.
    """
    expected = np.where(bins >= 0, shares[bins], np.nan).astype(np.float32)
    known = np.isfinite(noisy) & (bins >= 0)
    own = np.where(known, noisy - expected, 0).astype(np.float32)
    weight = window_mean(known, BANDWIDTH)
    error = np.divide(window_mean(own, BANDWIDTH), weight, out=np.full_like(own, np.nan), where=weight > 1e-4)
    error += np.float32(single) * np.where(known, own - error, 0)
    target = expected + np.float32(error_scale) * error
    return target, np.clip(weight / window_mean(np.ones(bins.shape), BANDWIDTH), 0, 1)


def single_weight(steps: int | None) -> float:
    r"""How far a training of so many steps is from averaging errors over windows: :math:`\sqrt{s_0 / \text{steps}}`.

    A short training ends before the independent errors of a pixel's neighbourhood have cancelled. At most 1, for up to
    SHORT steps; 0 where the number is not given.
    """
    return 0.0 if steps is None else float(min(1.0, np.sqrt(SHORT / steps)))


def thinned(weight: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (P,) of which at most so many, drawn at random, are above 0: one label makes no more than one example."""
    used = np.flatnonzero(weight > 0)
    kept = np.zeros(len(weight), bool)
    kept[rng.permutation(used)[:most]] = True
    return np.where(kept, weight, 0)


def error_scale(audited: int, trained_on: int) -> float:
    """How much label errors weigh in a training on another number of images than were audited."""
    return float(np.clip(np.sqrt(audited / trained_on), *ERROR_SCALES))


class IoUPredictor:
    """Images whose pixels were sampled once, to predict what any label set of them teaches.

    Args:
        images: any dtype, (H, W) or (H, W, C) each.
        truths: clean labels with 255 ignored, (H, W) each.
        bins: of ``by_distance.location_bins``, (H, W) each.
        num_classes: 1 for binary labels.
        training_images: images that the network will be trained on; None: these.
        steps: optimizer steps that it will be trained for; None: as many as it takes.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        truths: Sequence[np.ndarray],
        bins: Sequence[np.ndarray],
        num_classes: int = 1,
        seed: int = 0,
        training_images: int | None = None,
        steps: int | None = None,
    ) -> None:
        self.seed, rng = seed, np.random.default_rng(seed)
        self.positions = [sample_positions(truth.shape, PIXELS, rng) for truth in truths]
        self.truths, self.features = truths, image_features(images, self.positions)
        self.learner, self._outlined = PixelLearner(self.features, seed), None
        self.truth = np.concatenate([truth[place] for truth, place in zip(truths, self.positions, strict=True)])
        self.error_scale = error_scale(len(truths), training_images or len(truths))
        self.single = single_weight(steps)
        self.bins, self.num_classes, self.classes = bins, num_classes, label_classes(num_classes)
        self.clean_table = np.stack([location_counts(*pair, num_classes) for pair in zip(bins, truths, strict=True)])
        self.clean_stand_in = self.iou(self.scores(truths, self.clean_table, systematic=True), None)
        self.clean = 1 - GAP_LEFT * (1 - self.clean_stand_in)

    def scores(
        self,
        noisy: Sequence[np.ndarray],
        table: np.ndarray,
        *,
        systematic: bool = False,
        weighted: bool = False,
        outlined: bool = False,
        ridge: float = RIDGE,
    ) -> np.ndarray:
        """What the stand-in makes of labels: scores of the sampled pixels on the images it was not fitted to.

        Args:
            noisy: labels with 255 ignored, (H, W) each.
            table: of ``by_distance.location_table`` for these labels, (n, K, D, R, K).
            systematic: leave out the errors that do not follow from the place within the outline.
            weighted: pixels weigh as the inverse of their class's label variance (binary).
            outlined: show the stand-in the blurred true outline too (binary).
            ridge: how cautious the fit is.
        Returns: (P, K), columns of label classes; NaN-free.
        """
        shares, columns, weights = bin_shares(table), [], []
        scale = 0.0 if systematic else self.error_scale
        single = 0.0 if outlined else self.single
        for label_class in range(1 if self.classes == 2 else 0, self.classes):
            taught = []
            for label, place, bins in zip(noisy, self.positions, self.bins, strict=True):
                marked = np.where(label == IGNORE, np.nan, label == label_class)
                maps = regression_target(marked, bins, shares[:, label_class], single=single, error_scale=scale)
                taught.append([item[place] for item in maps])
            target, weight = (np.concatenate(parts) for parts in zip(*taught, strict=True))
            columns.append(target)
            weights.append(weight)
        target = np.stack(columns, 1)
        weight = np.where(np.isfinite(target).all(1), weights[0], 0)  # ignored pixels are so for every class
        rng = np.random.default_rng(self.seed)
        parts = np.split(weight, np.cumsum([len(place[0]) for place in self.positions])[:-1])
        labelled = [int((label != IGNORE).sum()) for label in noisy]
        weight = np.concatenate([thinned(*pair, rng) for pair in zip(parts, labelled, strict=True)])
        if weighted and self.num_classes == 1:
            weight = weight * self._class_weights(table)
        learner = self._outlined_learner() if outlined else self.learner
        scores = learner.scores(np.nan_to_num(target), weight, ridge)
        return np.concatenate([1 - scores, scores], 1) if self.classes == 2 else scores

    def _class_weights(self, table: np.ndarray) -> np.ndarray:
        """The inverse label variance of every pixel's true class, of mean 1, (P,)."""
        counts = table.sum((0, 2, 3)).astype(float)
        rate = np.nan_to_num(ratio(counts[:, 1], counts.sum(1)))
        variance = rate * (1 - rate)
        if variance.max() <= 0:
            return np.ones(len(self.truth))
        weights = 1 / (variance + LEAST_VARIANCE * variance.max())
        weights = weights[np.where(self.truth == 1, 1, 0)]
        return weights / weights.mean()

    def _outlined_learner(self) -> PixelLearner:
        if self._outlined is None:
            planes = [(truth == 1).astype(np.float32) for truth in self.truths]
            shown = []
            for own, plane, place in zip(self.features, planes, self.positions, strict=True):
                blurred = [cv2.GaussianBlur(plane, (0, 0), width)[place] for width in OUTLINE_BLURS]
                shown.append(np.concatenate([own, np.stack(blurred, 1)], 1))
            self._outlined = PixelLearner(shown, self.seed)
        return self._outlined

    def threshold(self, noisy: Sequence[np.ndarray], table: np.ndarray) -> float:
        """The best threshold for what the stand-in makes of binary labels: of errors that depend on image or place."""
        score = np.clip(self.scores(noisy, table)[:, 1], 0, 1)
        return float(np.clip(best_threshold(score_histogram(score, self.truth))[0], 0.001, 0.999))

    def iou_at(self, scores: np.ndarray, threshold: float | None, invert: bool = False) -> float:
        """Binary IoU of scores against the truth at a threshold of the label rate; None: at the best one."""
        score = np.clip(1 - scores[:, 1] if invert else scores[:, 1], 0, 1)
        histogram = score_histogram(score, self.truth)
        return best_threshold(histogram)[1] if threshold is None else float(iou(counts_at(histogram, threshold)))

    def prediction(
        self,
        noisy: Sequence[np.ndarray],
        table: np.ndarray,
        transitions: Transitions,
        *,
        invert: bool = False,
        biased: bool = False,
        imitation: float = 1.0,
        threshold: float | None = None,
        overlap: float = 1.0,
        offset: float = 0.0,
    ) -> PredictedIoU:
        """What a network trained on labels will reach.

        Args:
            table: of ``by_distance.location_table`` for these labels.
            invert: whether training would invert binary scores.
            biased: whether errors depend on the place, the image or the outline.
            imitation: IoU with the truth of labels as the image predicts them; 1 where it predicts no errors.
            threshold: that is advised where it does.
            overlap: the share of IoU that the labels' move leaves, for labels moved back.
            offset: by how many pixels outlines are wider (> 0) or narrower.
        """
        if imitation < 1 and threshold is not None:
            best = self.iou_at(self.scores(self.truths, self.clean_table, systematic=True, outlined=True), None)
            shown = self.iou_at(self.scores(noisy, table, outlined=True), threshold, invert)
            return PredictedIoU.of(self.clean, (imitation + min(shown / best, 1.0)) / 2 * overlap)
        taught = self.scores(noisy, table, weighted=not biased)
        share = min(self.iou(taught, transitions, invert) / self.clean_stand_in, 1.0)
        exponent = SHARPER if not offset else WIDER if offset > 0 else NARROWER
        return PredictedIoU.of(self.clean, share**exponent * overlap)

    def validated(
        self,
        found: PredictedIoU,
        noisy: Sequence[np.ndarray],
        table: np.ndarray,
        transitions: Transitions,
        *,
        moved_iou: float,
        overlap: float = 1.0,
    ) -> PredictedIoU:
        """What a network trained on labels that are wrong at boundaries reaches with clean validation images.

        Args:
            found: what it reaches at the best threshold.
            table: of ``by_distance.location_table`` for these labels.
            moved_iou: of the labels with the truth, where their outlines are moved by what fits best.
            overlap: see `prediction`.
        """
        fits = (self.scores(noisy, table, ridge=ridge) for ridge in CAUTIOUS)
        early = max(self.iou(scores, transitions) for scores in fits) / self.clean_stand_in
        return PredictedIoU.of(self.clean, max(found.relative, max(early, moved_iou) * overlap))

    def iou(self, scores: np.ndarray, transitions: Transitions | None, invert: bool = False) -> float:
        """IoU of scores against the truth: binary at the best threshold, K classes the mean IoU of the argmax.

        Args:
            scores: of ``scores``, (P, K).
            invert: whether training would invert binary scores.
            transitions: of the labels that taught the scores; None for the truth itself.
        """
        if self.num_classes == 1:
            score = -scores[:, 1] if invert else scores[:, 1]
            spread = np.ptp(score)
            score = (score - score.min()) / spread if spread > 0 else np.zeros_like(score)
            return best_threshold(score_histogram(score, self.truth))[1]
        if transitions is not None and transitions.matrix.needs_decoding and transitions.invertible:
            scores = transitions.matrix.decode(scores)
        return mean_iou(confusion_matrix(scores.argmax(-1), self.truth, self.classes))
