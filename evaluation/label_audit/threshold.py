r"""The score threshold that labels imply: what the noise as such does to it, and how labels differ at the boundary.

Where errors are the same everywhere, the threshold is the middle of the classes' label rates, :math:`\tau_Q`. Biased
labels need another. A network learns about the mean of the labels around a pixel, :math:`G_\sigma * E`, with E =
E[label | truth, distance, depth] and G_σ its blur: its own, wider in thin structures, and that of outlines which the
images leave uncertain (an IoU of u with clean labels means outlines that lie off by about (1 − u) half widths). The
threshold is the one at which this draws the truth best, by IoU: high for labels drawn too wide, low for narrow ones.
A network may be sharper than that, and at too extreme a threshold it draws nothing: so it is the best threshold for the
mean of what it reaches with each blur of SHARPNESS. These were fixed on simulated sets, WIDE_SHARPNESS after a look at
real ones, whose outlines are less certain (docs/results/audit.md).

A training with flips and turns sees labels that lie off by (dy, dx) lie off in every direction. What it learns is the
truth blurred once more, by the standard deviation of a ring along one axis: :math:`\sqrt{(dy^2 + dx^2) / 2}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.labels import IGNORE
from evaluation.scores import BINS, counts_at_all, iou, score_histogram

AT_BOUNDARY = 1.0  # pixels: the pixels on either side of the boundary lie 0.5 off it
BLUR, THIN_BLUR, THIN = 1.5, 2.0, 2.5  # pixels: σ in wide structures, in thin ones, and the half width of thin ones
SHARPNESS = 0.55, 0.9  # parts of that σ with which a network may draw outlines
WIDE_SHARPNESS = 0.55, 1.5  # the same where labels are too wide: a threshold that is too high draws nothing


def network_blur(distances: Sequence[np.ndarray], clean_iou: float = 1.0) -> float:
    """σ of the network's blur, pixels, from the structures' half width: foreground area over boundary length.

    Args:
        distances: signed, to the true boundary, positive inside, (H, W) each.
        clean_iou: that the network would reach with clean labels.
    """
    area = sum(int((distance > 0).sum()) for distance in distances)
    length = sum(int(((distance > 0) & (distance < AT_BOUNDARY)).sum()) for distance in distances)
    half_width = area / max(length, 1)
    own = np.interp(half_width, (THIN, 2 * THIN), (THIN_BLUR, BLUR))
    return float(np.hypot(own, (1 - clean_iou) * half_width))


@dataclass(frozen=True)
class BlurredOutline:
    """What a blurred network makes of outlines.

    Args:
        threshold: that draws the true outline best after training on the labels, in (0, 1).
        overlap: the share of IoU that is left where labels lie off as far as these do.
        curve: share of the IoU of clean labels that those in place lead to, at the thresholds k / BINS, (BINS,).
    """

    threshold: float
    overlap: float
    curve: np.ndarray

    def cost(self, threshold: float) -> float:
        """The share of IoU that outlines and moves cost at a threshold."""
        return float(max(1 - self.overlap * self.curve[min(int(threshold * BINS), BINS - 1)], 0.0))


def blurred_outline(
    distances: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    blur: float,
    moved: float = 0.0,
    *,
    wide: bool = False,
) -> BlurredOutline:
    """What a network of a blur makes of labels.

    Args:
        distances: signed, to the true boundary, positive inside; expected: E[label | truth, distance, depth], NaN where
            it is not known; (H, W) each.
        blur: σ of the network, pixels.
        moved: by how many pixels the labels lie off; ``expected`` is theirs when they are moved back.
        wide: whether they are drawn too wide.
    """
    pairs = zip(distances, expected, strict=True)
    truths = [np.where(np.isfinite(rate), distance > 0, IGNORE).astype(np.uint8) for distance, rate in pairs]
    clean = [truth == 1 for truth in truths]

    def reached(maps: Sequence[np.ndarray], sigma: float) -> np.ndarray:
        histograms = (score_histogram(_blurred(rate, sigma), truth) for rate, truth in zip(maps, truths, strict=True))
        return np.nan_to_num(iou(counts_at_all(sum(histograms))))

    def shares(spread: float) -> np.ndarray:
        found = []
        for part in WIDE_SHARPNESS if wide else SHARPNESS:
            best = reached(clean, part * blur)[BINS // 2]
            found.append(reached(expected, float(np.hypot(part * blur, spread))) / max(best, 1 / BINS))
        return np.mean(found, axis=0)

    curve = moved_curve = shares(0)
    overlap = 1.0
    if moved:
        spread = moved / np.sqrt(2)
        moved_curve = shares(spread)
        kept = reached(clean, float(np.hypot(blur, spread))).max()  # the whole blur says best what trainings kept
        overlap = min(float(kept / max(reached(clean, blur)[BINS // 2], 1 / BINS)), 1.0)
    best = np.flatnonzero(moved_curve == moved_curve.max()).mean() / BINS
    return BlurredOutline(float(np.clip(best, 0.001, 0.999)), overlap, curve)


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(cv2.GaussianBlur(np.nan_to_num(values.astype(np.float32)), (0, 0), sigma), 0, 1)
