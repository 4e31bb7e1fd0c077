r"""The score threshold that labels imply: what the noise as such does to it, and how labels differ at the boundary.

Where errors are the same everywhere, the threshold is the middle of the classes' label rates, :math:`\tau_Q`. But a
network is blurred: its score at a pixel is about the mean of the labels around it, and the true outline lies where it
scores as it does *at* the true boundary. So what labels have there beyond the rates of their classes moves it,

.. math:: \tau = \tau_Q + \operatorname{mean}_{|s(x)| < 1}
          \bigl(G_\sigma * (\text{label} - Q_{\text{truth}, 1})\bigr)(x),

with G_σ the network's blur: its own, which is wider in thin structures, and that of outlines which the images leave
uncertain. An IoU of u with clean labels means outlines that lie off by about (1 − u) half widths. Flips and
erasures leave :math:`\tau_Q` as it is; labels drawn too wide raise it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from datasets.labels import IGNORE
from evaluation.scores.confusion import DEFAULT_THRESHOLD

AT_BOUNDARY = 1.0  # pixels: the pixels on either side of the boundary lie 0.5 off it
BLUR, THIN_BLUR, THIN = 1.5, 2.0, 2.5  # pixels: σ in wide structures, in thin ones, and the half width of thin ones


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


def outline_cost(
    distances: Sequence[np.ndarray], expected: Sequence[np.ndarray], threshold: float, blur: float
) -> float:
    """The share of IoU that is lost where a blurred network learns ``expected`` and is cut at a threshold.

    Args:
        distances: signed, to the true boundary, positive inside; expected: E[label | truth, distance, depth], NaN where
            it is not known; (H, W) each.
        blur: σ of the network, pixels.
    Returns: 1 − IoU at the threshold / IoU of the blurred truth at 0.5.
    """
    counts = np.zeros((2, 2))
    for distance, rate in zip(distances, expected, strict=True):
        known, truth = np.isfinite(rate), distance > 0
        for row, (values, level) in enumerate(((np.nan_to_num(rate), threshold), (truth, DEFAULT_THRESHOLD))):
            drawn = cv2.GaussianBlur(values.astype(np.float32), (0, 0), blur) >= level
            counts[row] += (drawn & truth & known).sum(), ((drawn | truth) & known).sum()
    found, best = counts[:, 0] / np.maximum(counts[:, 1], 1)
    return float(max(1 - found / best, 0.0)) if best > 0 else 0.0


def boundary_threshold(
    distances: Sequence[np.ndarray], labels: Sequence[np.ndarray], rates: tuple[float, float], blur: float
) -> float:
    """The threshold τ of the module's docstring, in (0, 1).

    Args:
        distances: signed, to the true boundary, positive inside; labels: binary with 255 ignored; (H, W) each.
        rates: how often background and foreground are labelled foreground.
        blur: of `network_blur`.
    """
    total, count = 0.0, 0.0
    for distance, label in zip(distances, labels, strict=True):
        known = label != IGNORE
        weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), blur)
        beyond = np.where(known, (label == 1) - np.where(distance > 0, rates[1], rates[0]), 0).astype(np.float32)
        here = (np.abs(distance) < AT_BOUNDARY) & (weight > 0.01)
        total += float((cv2.GaussianBlur(beyond, (0, 0), blur)[here] / weight[here]).sum())
        count += float(here.sum())
    return float(np.clip(sum(rates) / 2 + total / max(count, 1), 0.001, 0.999))
