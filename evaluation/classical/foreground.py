"""Which part of an image is the structure: rules that need no label, from brightness and rarity."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from datasets.image_corrections import above_local_background

LOCAL_SIGMA = 20.0  # pixels; the surroundings that a structure of up to about 40 pixels stands out from
LOCAL_FLOOR = 0.03  # deviations of the whole image, below which surroundings count as flat
ROUNDING = 1e-6  # relative; what float32 makes of a constant image
MAX_DEVIATIONS = 3.0  # beyond which a pixel says no more


def otsu_mask(image: np.ndarray) -> np.ndarray:
    """The pixels above Otsu's threshold of the image itself.

    Args:
        image: (H, W), any type.
    Returns: bool (H, W); all False for a constant image.
    Source: Otsu, *A threshold selection method from gray-level histograms*, IEEE Trans. SMC 1979.
    """
    from skimage.filters import threshold_otsu

    values = image.astype(np.float32)
    return values > threshold_otsu(values)


def to_grey(image: np.ndarray) -> np.ndarray:
    """An image (H, W) or (H, W, C), any type → float32 (H, W), the mean of its channels."""
    values = image.astype(np.float32)
    return values if values.ndim == 2 else values.mean(axis=2)


def local_skewness(image: np.ndarray) -> float:
    r"""Skewness :math:`E[d^3] / E[d^2]^{3/2}` of d, the image less its Gaussian mean of ``LOCAL_SIGMA`` pixels.

    Structures are rarer than their surroundings, so they are the longer tail: positive means bright ones. d is in
    deviations of the surroundings and bounded, so that no bright disc, speck or black border outweighs all the rest.
    """
    import cv2

    grey = to_grey(image)
    smooth = cv2.GaussianBlur(grey - grey.mean(), (0, 0), 1.0)
    deviation = float(smooth.std())
    if deviation <= ROUNDING * np.abs(grey).max():
        return 0.0
    excess = above_local_background(smooth / deviation, LOCAL_SIGMA, LOCAL_FLOOR).astype(np.float64)
    excess = np.clip(excess, -MAX_DEVIATIONS, MAX_DEVIATIONS)
    excess -= excess.mean()
    return float((excess**3).mean() / (excess**2).mean() ** 1.5)


def resolve_foreground(foreground: str, images: Iterable[np.ndarray]) -> str:
    """Turn ``auto`` into ``bright`` or ``dark`` by the median local skewness of a set of images; others stay.

    One answer for the whole set: a single image may mislead, all of them share a stain and a microscope.
    """
    if foreground != "auto":
        return foreground
    return "bright" if np.median([local_skewness(image) for image in images]) >= 0 else "dark"


def orient(image: np.ndarray, foreground: str) -> np.ndarray:
    """The image as float32 (H, W) with its structures bright.

    Args:
        image: (H, W) or (H, W, C), any type; channels are averaged.
        foreground: ``bright`` (as it is), ``dark`` (negated), ``minority`` (negated where Otsu's threshold leaves
            more than half of the pixels above it).
    """
    values = to_grey(image)
    negate = foreground == "dark" or (foreground == "minority" and otsu_mask(values).mean() > 0.5)
    return -values if negate else values
