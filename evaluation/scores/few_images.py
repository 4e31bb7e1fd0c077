"""What a few validation images can decide: a threshold and a direction, only where they differ beyond their errors.

Errors come from resampling images, since the pixels of an image err together. A threshold that is the best of four
images is often worse elsewhere than the one that is right by theory. Crops of one field of view err together too: they
count as one image, and alone they tell nothing of other fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from evaluation.scores import BINS, auc, best_threshold, counts_at, counts_at_all, iou
from evaluation.scores.bootstrap import bootstrap_counts, percentile_interval, small_sample_reach

MAX_GROUPS = 32  # of validation images that are counted apart: enough for errors, 32 MB of histograms
MIN_IMAGES = 4  # fewer move no threshold
ERROR_OF_ONE = 0.25  # of the AUC of a single image, whose error cannot be estimated
CANDIDATES = 65  # between the prior and the best threshold
# A crop's place in its field, at the end of a name: 14_h0_w256.png, cell_y3_x0; rows and columns may be those of wells.
CROP = re.compile(r"_(?:h\d+_w\d+|y\d+_x\d+|x\d+_y\d+)$", re.IGNORECASE)
COARSE = 256  # bins that suffice for the error of an AUC


def field_names(image_ids: Sequence[str]) -> list[str]:
    """The field of view of every image: its name without ending and without the place of a crop in the field.

    >>> field_names(["a/14_h0_w0.png", "a/14_h0_w256.png", "b/14_h0_w0.png", "cell_3.tif"])
    ['a/14', 'a/14', 'b/14', 'cell_3.tif']
    """
    stems = [re.sub(r"\.[A-Za-z]+$", "", name) for name in image_ids]
    return [CROP.sub("", stem) if CROP.search(stem) else name for name, stem in zip(image_ids, stems, strict=True)]


def group_numbers(image_ids: Sequence[str]) -> list[int]:
    """For every image the number of the group that it is counted in: a field of view, or several of many fields."""
    fields = field_names(image_ids)
    numbers = {field: number % MAX_GROUPS for number, field in enumerate(dict.fromkeys(fields))}
    return [numbers[field] for field in fields]


def table_interval(metric: Callable[[np.ndarray], float], tables: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of a metric of the pooled confusion matrix of images (n, K, K); None of too few."""
    if len(tables) < MIN_IMAGES:
        return None
    resampled = np.array([metric(table) for table in bootstrap_counts(tables, seed=0)])
    low, high = percentile_interval(resampled, small_sample_reach(len(tables)))
    return float(low), float(high)


def choose_threshold(histograms: np.ndarray, prior: float, seed: int = 0) -> tuple[float, float]:
    """A threshold of high pooled IoU that leaves ``prior`` only as far as the images tell for sure.

    Between ``prior`` and the best threshold it is the first one whose loss against the best is within the 95 % error
    of that loss (paired bootstrap over images; Breiman's one-standard-error rule with Student's reach): ``prior``
    itself where the best gains no more than its error.

    Args:
        histograms: score histograms of images, or of groups of them, (n, 2, BINS).
        prior: the threshold that is right without a look at these images.
    Returns: the threshold and the pooled IoU there.
    """
    pooled = histograms.sum(0)
    told = histograms[histograms.any((1, 2))]
    best, images = best_threshold(pooled)[0], len(told)
    if images < MIN_IMAGES or not pooled[1].any() or best == prior:
        return prior, float(iou(counts_at(pooled, prior)))
    candidates = np.linspace(prior, best, CANDIDATES)
    counts = np.array([iou_counts(histogram, candidates) for histogram in told])  # (n, CANDIDATES, 2)
    found, resampled = (table[..., 0] / table[..., 1] for table in (counts.sum(0), bootstrap_counts(counts, seed)))
    errors = small_sample_reach(images) * (resampled[:, -1:] - resampled).std(0)
    first = np.argmax(found[-1] - found <= errors)  # the best loses nothing, so there is one
    return float(candidates[first]), float(found[first])


def iou_counts(histogram: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Pixels in the intersection and in the union of mask and label, at least one, for every threshold: (…, 2)."""
    above = counts_at_all(histogram)
    bins = np.ceil(np.asarray(thresholds) * BINS).astype(int).clip(0, BINS - 1)
    return np.stack([above.tp[bins], np.maximum((above.tp + above.fp + above.fn)[bins], 1)], -1)


def is_inverted_beyond_error(histograms: np.ndarray, seed: int = 0) -> bool:
    """Whether foreground scores lower than background: the AUC lies below one half by more than chance explains.

    Args:
        histograms: score histograms of images, or of groups of them, (n, 2, BINS).
    """
    told = histograms[histograms.any((1, 2))]
    shortfall = 0.5 - auc(told.sum(0))
    if not shortfall > 0:  # also where no AUC is defined
        return False
    if len(told) == 1:
        return shortfall > ERROR_OF_ONE
    coarse = told.reshape(len(told), 2, COARSE, BINS // COARSE).sum(-1)
    resampled = np.array([auc(histogram) for histogram in bootstrap_counts(coarse, seed)])
    return bool(shortfall > small_sample_reach(len(told)) * np.nanstd(resampled))
