"""The outline of a mask moved outwards or inwards: what undoes labels whose outlines are too narrow or too wide.

A network that learned such labels predicts such masks, and no threshold takes back what lies beyond its blur. Clean
validation labels tell the level set of the mask's signed distance that fits them.
"""

from __future__ import annotations

import numpy as np

from datasets.labels import IGNORE
from datasets.noise_steps import offset as offset_label
from datasets.noise_steps import signed_distance
from evaluation.scores.bootstrap import bootstrap_counts, small_sample_reach
from evaluation.scores.few_images import MIN_IMAGES

OFFSETS = np.arange(-12, 13) / 2  # pixels; the middle one leaves masks as they are
MIN_GAIN = 0.01  # in IoU, below which an offset is not worth a word


def offset_mask(mask: np.ndarray, offset: float) -> np.ndarray:
    """A mask, bool or 0/1 (H, W), whose outline is moved outwards by ``offset`` pixels, inwards below 0; uint8."""
    mask = np.ascontiguousarray(mask).astype(np.uint8)
    return offset_label(mask, offset) if offset else mask


def count_offsets(scores: np.ndarray, label: np.ndarray, threshold: float) -> np.ndarray:
    """How masks at a threshold, their outlines moved by each of OFFSETS, meet the label.

    Args:
        scores: in [0, 1], (H, W); label: 0/1 with IGNORE.
    Returns: confusion matrices, rows = truth, int64 (len(OFFSETS), 2, 2).
    """
    known = label != IGNORE
    level = np.searchsorted(OFFSETS, signed_distance((scores >= threshold).view(np.uint8))[known])
    levels = len(OFFSETS) + 1
    table = np.bincount(label[known].astype(np.int64) * levels + level, minlength=2 * levels).reshape(2, levels)
    inside = table.cumsum(1)[:, :-1].T  # (offsets, 2)
    return np.stack([table.sum(1) - inside, inside], -1)


def choose_offset(tables: np.ndarray, seed: int = 0) -> tuple[int, int]:
    """The threshold and offset of the highest pooled IoU, where it beats the first threshold without one for sure.

    That is by more than the 95 % error of the gain (paired bootstrap over images), and by MIN_GAIN.

    Args:
        tables: of `count_offsets` for images, or groups of them, and thresholds, (n, thresholds, len(OFFSETS), 2, 2).
    Returns: the indices of both; (0, the middle) where nothing is won.
    """
    zero = len(OFFSETS) // 2
    found = _iou(tables.sum(0))
    highest = found >= found.max() - 1e-9
    threshold, offset = min(np.argwhere(highest).tolist(), key=lambda place: (abs(place[1] - zero), place[0]))
    told = tables[tables.any((1, 2, 3, 4))]
    if len(told) < MIN_IMAGES or found[threshold, offset] - found[0, zero] <= MIN_GAIN:
        return 0, zero
    pairs = np.stack([told[:, threshold, offset], told[:, 0, zero]], 1)
    resampled = _iou(bootstrap_counts(pairs, seed))
    error = small_sample_reach(len(told)) * (resampled[:, 0] - resampled[:, 1]).std()
    is_sure = found[threshold, offset] - found[0, zero] > error
    return (int(threshold), int(offset)) if is_sure else (0, zero)


def _iou(tables: np.ndarray) -> np.ndarray:
    """IoU of the foreground of confusion matrices (…, 2, 2); 0 where there is none."""
    union = tables.sum((-2, -1)) - tables[..., 0, 0]
    return tables[..., 1, 1] / np.maximum(union, 1)
