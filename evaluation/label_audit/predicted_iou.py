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
stay where the labels put them. A further blur of E by the (2b+1)² window stands for the network's blur at boundaries.

Ignored pixels teach nothing: a window counts by the share of it that is labelled, one without labels not at all; no
more pixels are fitted than are labelled; a bin with few labels leans on the share of its class. Labels of a part of
the images stand for all that will be trained on: independent errors of n times as many images weigh √n times less, so
the second term is multiplied by :math:`\sqrt{n_\text{audited} / n_\text{trained on}}`.

``BANDWIDTH``, ``BLUR`` and ``PIXELS`` are the only constants of the prediction, fixed here and never fitted to real
images. ``benchmarks/audit/calibrate.py`` checks them on the simulated sets: windows of h = 1 on 1,500 pixels each do
what 12,000 single pixels do (22 specs on each set: Kendall's τ-b 0.97, rms difference 0.009), any blur takes the
prediction further away, and without windows flips and erasures look far too harmful (τ-b 0.79). h = 2 makes 37,500
labels an image count, about half of the 65,536 of a 256² image that a network sees in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.labels import IGNORE, label_classes
from evaluation.label_audit.by_distance import window_mean
from evaluation.label_audit.estimate import Transitions
from evaluation.label_audit.pixel_classifier import PixelLearner, image_features, sample_positions
from evaluation.scores import best_threshold, confusion_matrix, mean_iou, ratio, score_histogram

BANDWIDTH = 2  # h: independent label errors are averaged over (2h + 1)² pixels
BLUR = 0  # b: what the labels teach systematically is blurred over (2b + 1)² pixels
PIXELS = 1500  # pixels of every image that the stand-in is fitted to
SHRINKAGE = 20  # labels that the share of its class weighs in the share of a bin
ERROR_SCALES = 0.1, 3.0  # bounds of the factor that accounts for another number of images


def regression_target(
    noisy: np.ndarray,
    bins: np.ndarray,
    shares: np.ndarray,
    bandwidth: int = BANDWIDTH,
    blur: int = BLUR,
    error_scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The target t of the module's docstring for one class.

    Args:
        noisy: whether a pixel carries the label, float (H, W), NaN where it is ignored.
        bins: location bin of every pixel, −1 where the truth is ignored, (H, W).
        shares: E per bin, (B,).
        error_scale: factor of the labels' errors, see `error_scale`.
    Returns: (t, NaN where the truth is ignored or the window holds no label; the labelled share of the window), float32
        (H, W) each.
    """
    expected = np.where(bins >= 0, shares[bins], np.nan).astype(np.float32)
    known = np.isfinite(noisy) & (bins >= 0)
    error = window_mean(np.where(known, noisy - expected, 0), bandwidth)
    weight = window_mean(known, bandwidth)
    error_mean = np.divide(error, weight, out=np.full_like(error, np.nan), where=weight > 1e-4)
    target = expected + np.float32(error_scale) * error_mean
    weight = np.clip(weight / window_mean(np.ones(bins.shape), bandwidth), 0, 1)
    if not blur:
        return target, weight
    inside = bins >= 0
    blurred = window_mean(np.where(inside, expected, 0), blur) / np.maximum(window_mean(inside, blur), 1e-4)
    return target - expected + np.where(inside, blurred, np.nan), weight


def thinned(weight: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (P,) of which at most so many, drawn at random, are above 0: one label makes no more than one example."""
    used = np.flatnonzero(weight > 0)
    kept = np.zeros(len(weight), bool)
    kept[rng.permutation(used)[:most]] = True
    return np.where(kept, weight, 0)


def error_scale(audited: int, trained_on: int) -> float:
    """How much label errors weigh in a training on another number of images than were audited."""
    return float(np.clip(np.sqrt(audited / trained_on), *ERROR_SCALES))


def bin_shares(table: np.ndarray) -> np.ndarray:
    """E[label | location bin], drawn towards the share of the true class where labels are few.

    Args:
        table: of ``label_density.location_table``, (n, K, D, R, K).
    Returns: (K · D · R, K); 0 for classes without any label.
    """
    classes = table.shape[1]
    pooled = table.sum(0).reshape(classes, -1, classes)
    whole = pooled.sum(1, keepdims=True)
    prior = np.nan_to_num(ratio(whole, whole.sum(-1, keepdims=True)))
    shares = (pooled + SHRINKAGE * prior) / (pooled.sum(-1, keepdims=True) + SHRINKAGE)
    return shares.reshape(-1, classes)


class IoUPredictor:
    """Images whose pixels were sampled once, to predict what any label set of them teaches.

    Args:
        images: any dtype, (H, W) or (H, W, C) each.
        truths: clean labels with 255 ignored, (H, W) each.
        bins: of ``label_density.location_bins``, (H, W) each.
        num_classes: 1 for binary labels.
        pixels: sampled pixels per image.
        training_images: images that the network will be trained on; None: these.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        truths: Sequence[np.ndarray],
        bins: Sequence[np.ndarray],
        num_classes: int = 1,
        seed: int = 0,
        pixels: int = PIXELS,
        training_images: int | None = None,
    ) -> None:
        self.seed, rng = seed, np.random.default_rng(seed)
        self.positions = [sample_positions(truth.shape, pixels, rng) for truth in truths]
        self.learner = PixelLearner(image_features(images, self.positions), seed)
        self.truth = np.concatenate([truth[place] for truth, place in zip(truths, self.positions, strict=True)])
        self.error_scale = error_scale(len(truths), training_images or len(truths))
        self.bins, self.num_classes, self.classes = bins, num_classes, label_classes(num_classes)

    def scores(
        self, noisy: Sequence[np.ndarray], table: np.ndarray, bandwidth: int = BANDWIDTH, blur: int = BLUR
    ) -> np.ndarray:
        """What the stand-in makes of labels: scores of the sampled pixels on the images it was not fitted to.

        Args:
            noisy: labels with 255 ignored, (H, W) each.
            table: of ``label_density.location_table`` for these labels, (n, K, D, R, K).
        Returns: (P, K), columns of label classes; NaN-free.
        """
        shares, columns, weights = bin_shares(table), [], []
        for label_class in range(1 if self.classes == 2 else 0, self.classes):
            taught = []
            for label, place, bins in zip(noisy, self.positions, self.bins, strict=True):
                marked = np.where(label == IGNORE, np.nan, label == label_class)
                maps = regression_target(marked, bins, shares[:, label_class], bandwidth, blur, self.error_scale)
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
        scores = self.learner.scores(np.nan_to_num(target), weight)
        return np.concatenate([1 - scores, scores], 1) if self.classes == 2 else scores

    def iou(self, scores: np.ndarray, transitions: Transitions, invert: bool = False) -> float:
        """IoU of scores against the truth: binary at the best threshold, K classes the mean IoU of the argmax.

        Args:
            scores: of ``scores``, (P, K).
            invert: whether training would invert binary scores.
        """
        if self.num_classes == 1:
            score = -scores[:, 1] if invert else scores[:, 1]
            spread = np.ptp(score)
            score = (score - score.min()) / spread if spread > 0 else np.zeros_like(score)
            return best_threshold(score_histogram(score, self.truth))[1]
        if transitions.matrix.needs_decoding and transitions.invertible:
            scores = transitions.matrix.decode(scores)
        return mean_iou(confusion_matrix(scores.argmax(-1), self.truth, self.classes))
