"""Metrics for thin structures and boundaries, which overlap alone judges badly: clDice, boundary IoU, NSD, HD95.

All take boolean masks (H, W), the label second; ignored pixels must be False in both. The boundary of a
mask are its pixels with a neighbour (of eight) outside it; what lies outside the image is no neighbour, since the
image's edge is no edge of the object. Overlaps of two empty masks are 1, of an empty and another one 0, as IoU's are;
distances are NaN where a mask is empty.
"""

from __future__ import annotations

import cv2
import numpy as np

BOUNDARY_WIDTH = 2  # pixels inside the mask that belong to the boundary of boundary IoU
TOLERANCE = 2.0  # pixels that a boundary may be off, for NSD


def boundary(mask: np.ndarray, width: int = 1) -> np.ndarray:
    """The pixels of a mask within ``width`` pixels (in chess-board distance) of what lies outside it."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    inside = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return mask & ~inside.astype(bool)


def skeletons_of(mask: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The skeletons of a mask and of its label, bool (H, W)."""
    from skimage.morphology import skeletonize

    return skeletonize(mask), skeletonize(label)


def cl_dice(mask: np.ndarray, label: np.ndarray, skeletons: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """Centreline Dice: the harmonic mean of how much of either mask's skeleton lies inside the other mask.

    ``skeletons`` saves computing `skeletons_of` again.

    Source: Shit et al., clDice, CVPR 2021, with hard skeletons.
    """
    if not mask.any() or not label.any():
        return float(mask.any() == label.any())
    skeleton, label_skeleton = skeletons or skeletons_of(mask, label)
    precision = (skeleton & label).sum() / skeleton.sum()
    sensitivity = (label_skeleton & mask).sum() / label_skeleton.sum()
    total = precision + sensitivity
    return float(2 * precision * sensitivity / total) if total else 0.0


def boundary_iou(mask: np.ndarray, label: np.ndarray, width: int = BOUNDARY_WIDTH) -> float:
    """IoU of the inner boundary bands of ``width`` pixels.

    Source: Cheng et al., Boundary IoU, CVPR 2021, with a width in pixels and without the image's edge.
    """
    if not mask.any() or not label.any():
        return float(mask.any() == label.any())
    band, label_band = boundary(mask, width), boundary(label, width)
    union = (band | label_band).sum()
    return float((band & label_band).sum() / union) if union else 1.0  # both fill the image


def boundary_distances(
    mask: np.ndarray, label: np.ndarray, pixel_size: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of each boundary pixel of the mask to the label's boundary, and the other way round.

    In pixels, or in the unit of ``pixel_size``, their height and width. Both are empty where either mask has no
    boundary.
    """
    edge, label_edge = boundary(mask), boundary(label)
    if not edge.any() or not label_edge.any():
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    return _distance_to(label_edge, pixel_size)[edge], _distance_to(edge, pixel_size)[label_edge]


def _distance_to(edge: np.ndarray, pixel_size: tuple[float, float] | None) -> np.ndarray:
    if pixel_size is not None:
        from scipy.ndimage import distance_transform_edt

        return np.asarray(distance_transform_edt(~edge, sampling=pixel_size))
    # The faster mask of size 5 is off by up to 0.29 pixels.
    return cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def hd95(mask: np.ndarray, label: np.ndarray, distances: tuple[np.ndarray, np.ndarray] | None = None) -> float:
    """Hausdorff distance in pixels, its 95th percentile instead of the maximum: the larger of the two directions.

    NaN where either mask has no boundary. ``distances`` saves computing `boundary_distances` again.
    """
    forth, back = distances or boundary_distances(mask, label)
    return max(float(np.percentile(forth, 95)), float(np.percentile(back, 95))) if forth.size else float("nan")


def surface_dice(
    mask: np.ndarray,
    label: np.ndarray,
    tolerance: float = TOLERANCE,
    distances: tuple[np.ndarray, np.ndarray] | None = None,
) -> float:
    """Normalized surface Dice: the share of both boundaries that lies within ``tolerance`` pixels of the other.

    Source: Nikolov et al., arXiv 1809.04430, counting boundary pixels.
    """
    forth, back = distances or boundary_distances(mask, label)
    if forth.size:
        return float(((forth <= tolerance).sum() + (back <= tolerance).sum()) / (forth.size + back.size))
    # One of the masks is empty or fills the image.
    return float(boundary(mask).any() == boundary(label).any() and mask.any() == label.any())


def surface_metrics(
    mask: np.ndarray,
    label: np.ndarray,
    skeletons: tuple[np.ndarray, np.ndarray] | None = None,
    pixel_size: tuple[float, float] | None = None,
) -> dict[str, float]:
    """All metrics of this module by name; ``hd95_um`` is NaN where the size of pixels in µm is not known."""
    distances = boundary_distances(mask, label)
    pixels = hd95(mask, label, distances)
    return {
        "cldice": cl_dice(mask, label, skeletons),
        "boundary_iou": boundary_iou(mask, label),
        "nsd": surface_dice(mask, label, distances=distances),
        "hd95": pixels,
        "hd95_um": _in_micrometres(mask, label, pixels, pixel_size=pixel_size),
    }


def _in_micrometres(
    mask: np.ndarray, label: np.ndarray, pixels: float, pixel_size: tuple[float, float] | None
) -> float:
    """HD95 in µm, of ``pixels`` where these are square."""
    if pixel_size is None:
        return float("nan")
    if np.isclose(*pixel_size):
        return pixels * pixel_size[0]
    return hd95(mask, label, boundary_distances(mask, label, pixel_size))
