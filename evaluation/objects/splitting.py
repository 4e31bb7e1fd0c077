"""From a mask to its objects: connected components, or components cut where objects touch."""

from __future__ import annotations

import cv2
import numpy as np

from evaluation.objects import INSTANCES

DIP = 0.05  # share of an object's depth by which the way to a deeper one must sink for it to be an object of its own
MIN_DIP = 0.5  # pixels; less is roughness of the outline


def label_objects(mask: np.ndarray, method: str = "components", min_area: int = 1) -> np.ndarray:
    """Number the objects of a mask 1, 2, 3, … from top to bottom.

    >>> label_objects(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]]), min_area=2).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]

    Args:
        mask: what is not 0 is foreground, (H, W).
        method: a name of INSTANCES.
        min_area: smaller objects, in pixels, are left out.
    Returns: int32 (H, W), 0 is background.
    """
    numbers = INSTANCES[method](np.asarray(mask) != 0)
    return numbers if min_area <= 1 else without_small(numbers, min_area)


def without_small(numbers: np.ndarray, min_area: int) -> np.ndarray:
    """Numbered objects without those of fewer pixels, numbered anew without gaps."""
    keep = np.bincount(numbers.reshape(-1)) >= min_area
    keep[0] = False
    return np.where(keep, keep.cumsum(), 0).astype(np.int32)[numbers]


def components(mask: np.ndarray) -> np.ndarray:
    """The connected components of a mask, bool (H, W); int32 (H, W)."""
    return _in_order(np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]))


def watershed(mask: np.ndarray) -> np.ndarray:
    """Components cut between touching objects: seeds from the distance to the background, grown by a watershed.

    Seeds are the maxima of the distance that stand out by DIP of their height and by MIN_DIP pixels, so that neither
    the size of objects nor the roughness of outlines matters. Components without such a maximum stay whole.

    Args:
        mask: bool (H, W).
    Returns: int32 (H, W).
    Source: Meyer, Topographic distance and watershed lines, 1994; h-maxima, Soille, Morphological Image Analysis, 2003.
    """
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed as flood

    whole = components(mask)
    if not whole.any():
        return whole
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    lowered = np.maximum(np.minimum((1 - DIP) * distance, distance - MIN_DIP), 0)
    seeds = components(local_maxima(reconstruction(lowered, distance)) & mask)
    seeded = np.zeros(whole.max() + 1, bool)
    seeded[whole[seeds > 0]] = True
    alone = np.where(seeded[whole], 0, whole)
    seeds = np.where(alone > 0, alone + seeds.max(), seeds)
    return _in_order(flood(-distance, seeds, connectivity=2, mask=mask))


def _in_order(numbers: np.ndarray) -> np.ndarray:
    """Numbers without gaps, in the order in which objects begin, row by row: that of OpenCV depends on its threads."""
    flat = numbers.reshape(-1)
    inside = np.flatnonzero(flat)[::-1]
    first = np.full(int(flat.max(initial=0)) + 1, flat.size)
    first[flat[inside]] = inside  # of several assignments the last one, to the first pixel, stays
    first[0] = -1
    place = np.empty(len(first), np.int32)
    place[np.argsort(first, kind="stable")] = np.arange(len(first), dtype=np.int32)
    return place[numbers]
