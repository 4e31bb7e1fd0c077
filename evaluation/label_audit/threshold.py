r"""The score threshold for biased labels: the labels' rate at the true boundary as the network shows it.

A network is blurred: its score at a pixel is about the mean of the labels around it. The threshold that draws the true
outline is therefore the score that the network gives *at* the true boundary, the mean over boundary pixels of the
labels blurred by the network's own blur,

.. math:: \tau = \operatorname{mean}_{|s(x)| < 1} (G_\sigma * \text{label})(x),

not what the global transition matrix implies: that is right where errors are the same everywhere, where both agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from datasets.labels import IGNORE

AT_BOUNDARY = 1.0  # pixels: the pixels on either side of the boundary lie 0.5 off it
BLUR, THIN_BLUR, THIN = 1.5, 2.0, 2.5  # pixels: σ in wide structures, in thin ones, and the half width of thin ones


def network_blur(distances: Sequence[np.ndarray]) -> float:
    """σ of the network's blur, pixels, from the structures' half width: foreground area over boundary length.

    Args:
        distances: signed, to the true boundary, positive inside, (H, W) each.
    """
    area = sum(int((distance > 0).sum()) for distance in distances)
    length = sum(int(((distance > 0) & (distance < AT_BOUNDARY)).sum()) for distance in distances)
    half_width = area / max(length, 1)
    return float(np.interp(half_width, (THIN, 2 * THIN), (THIN_BLUR, BLUR)))


def boundary_threshold(distances: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float | None:
    """The threshold τ of the module's docstring, in (0, 1); None without any boundary.

    Args:
        distances: signed, to the true boundary, positive inside; labels: binary with 255 ignored; (H, W) each.
    """
    blur, total, count = network_blur(distances), 0.0, 0.0
    for distance, label in zip(distances, labels, strict=True):
        known = (label != IGNORE).astype(np.float32)
        weight = cv2.GaussianBlur(known, (0, 0), blur)
        rate = cv2.GaussianBlur((label == 1).astype(np.float32), (0, 0), blur)
        here = (np.abs(distance) < AT_BOUNDARY) & (weight > 0.01)
        total += float((rate[here] / weight[here]).sum())
        count += float(here.sum())
    return float(np.clip(total / count, 0.001, 0.999)) if count else None
