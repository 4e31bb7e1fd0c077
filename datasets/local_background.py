"""Brightness as it stands out from its surroundings."""

from __future__ import annotations

import numpy as np


def above_local_background(plane: np.ndarray, sigma: float, floor: float) -> np.ndarray:
    r"""Brightness relative to that of the surroundings, in their own deviations.

    .. math:: v = \frac{g - G_\sigma * g}{\sqrt{G_\sigma * (g - G_\sigma * g)^2 + f^2}}

    Args:
        plane: g, float32 (H, W), of deviation 1.
        sigma: reach of the surroundings in pixels.
        floor: f, the deviation below which surroundings count as flat.
    Returns: float32 (H, W).
    """
    import cv2

    excess = plane - cv2.GaussianBlur(plane, (0, 0), sigma)
    return excess / np.sqrt(cv2.GaussianBlur(excess**2, (0, 0), sigma) + floor**2)
