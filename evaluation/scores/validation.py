"""What validation images decide: threshold, direction and offset of masks, only as far as they tell beyond errors.

Errors come from resampling images, since the pixels of an image err together. A threshold that is the best of four
images is often worse elsewhere than the one that is right by theory. Crops of one field of view and planes of one stack
err together too: they count as one image. What crops of few fields win is chance on others up to a bound that no
resampling of them can know.

An offset moves the outline of a mask, and undoes labels whose outlines are too narrow or too wide: a network that
learned such labels predicts such masks, and no threshold takes back what lies beyond its blur.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from datasets.image_files import field_names
from datasets.labels import IGNORE
from datasets.noise_steps import offset as offset_label
from datasets.noise_steps import signed_distance
from evaluation.scores import BINS, auc, best_threshold, counts_at, counts_at_all, iou
from evaluation.scores.bootstrap import bootstrap_counts, percentile_interval, small_sample_reach

MAX_GROUPS = 32  # of validation images that are counted apart: enough for errors, 32 MB of histograms
MIN_IMAGES = 4  # fewer move no threshold
ERROR_OF_ONE = 0.25  # of the AUC of a single image, whose error cannot be estimated
# The gain in IoU by which one field moves a threshold. Single simulated images with clean labels gain 0.07 by chance;
# real fields differ more: what won 0.1 on one of er_ernet lost 0.2 on others (docs/results/small_data.md).
GAIN_OF_ONE = 0.25
PLANE = re.compile(r"::(\d+)$")  # of a stack, at the end of a name
COARSE = 256  # bins that suffice for the error of an AUC
OFFSETS = np.arange(-12, 13) / 2  # pixels; the middle one leaves masks as they are
MIN_OFFSET_GAIN = 0.01  # in IoU, below which an offset is not worth a word


def join_planes(image_ids: Sequence[str], blocks: int = 1) -> list[str]:
    """The ids of images, those of the planes of a stack made one, or as many as ``blocks`` of neighbouring planes.

    >>> join_planes(["a.tif", "s.tif::0", "s.tif::1", "s.tif::2"], blocks=2)
    ['a.tif', 's.tif::block 0', 's.tif::block 0', 's.tif::block 1']
    """
    planes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, name in enumerate(image_ids):
        if plane := PLANE.search(name):
            planes[name[: plane.start()]].append((int(plane[1]), index))
    joined = list(image_ids)
    for stack, listed in planes.items():
        for place, (_, index) in enumerate(sorted(listed)):
            joined[index] = stack if blocks == 1 else f"{stack}::block {place * blocks // len(listed)}"
    return joined


def unit_names(
    image_ids: Sequence[str], enough: int = MIN_IMAGES, group: Callable[[list[str]], Sequence[str]] = list
) -> list[str]:
    """What every image is a part of that errs as a whole: a field of view, or the stack that it is a plane of.

    Of fewer stacks than ``enough``, neighbouring planes are parts of as many blocks of each.

    >>> unit_names(["a.tif::0", "a.tif::1", "b.tif::0", "c_h0_w0.png"], enough=3)
    ['a.tif', 'a.tif', 'b.tif', 'c']

    Args:
        group: from the names of images and stacks to names that those of one group share.
    """
    units: list[str] = []
    for blocks in (1, enough):
        units = field_names(group(join_planes(image_ids, blocks)))
        if len(set(units)) >= enough:
            break
    return units


def group_numbers(image_ids: Sequence[str]) -> list[int]:
    """For every image the number of the group that it is counted in: one of `unit_names`, or several of many."""
    fields = unit_names(image_ids)
    numbers = {field: number % MAX_GROUPS for number, field in enumerate(dict.fromkeys(fields))}
    return [numbers[field] for field in fields]


def can_choose(image_ids: Sequence[str]) -> bool:
    """Whether images are of enough fields of view to choose by beyond errors."""
    return len(set(group_numbers(image_ids))) >= MIN_IMAGES


def table_interval(metric: Callable[[np.ndarray], float], tables: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of a metric of the pooled confusion matrix of images (n, K, K); None of too few."""
    if len(tables) < MIN_IMAGES:
        return None
    resampled = np.array([metric(table) for table in bootstrap_counts(tables, seed=0)])
    low, high = percentile_interval(resampled, small_sample_reach(len(tables)))
    return float(low), float(high)


def choose_threshold(
    histograms: np.ndarray, prior: float, seed: int = 0, *, images: int | None = None
) -> tuple[float, float]:
    """The threshold of the highest pooled IoU where it beats ``prior`` by more than one standard error, else ``prior``.

    The error is that of the gain, from a paired bootstrap over images (Breiman's one-standard-error rule), or where
    these are of few fields the one of `error_of_few`. What it loses and wins with simulated and with real labels:
    ``benchmarks/audit/thresholds.py``.

    Args:
        histograms: score histograms of images, or of groups of them, (n, 2, BINS).
        prior: the threshold that is right without a look at these images.
        images: how many images the groups hold, of which MIN_IMAGES are needed; None: one each.
    Returns: the threshold and the pooled IoU there.
    """
    pooled = histograms.sum(0)
    told = histograms[histograms.any((1, 2))]
    best, groups = best_threshold(pooled)[0], len(told)
    if (images or groups) < MIN_IMAGES or not pooled[1].any() or best == prior:
        return prior, float(iou(counts_at(pooled, prior)))
    counts = np.array([iou_counts(histogram, np.array([prior, best])) for histogram in told])
    found, error = with_error(counts, seed)
    chosen = int(found[1] - found[0] > error)
    return float((prior, best)[chosen]), float(found[chosen])


def with_error(counts: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    """The pooled IoU of two masks of the same images, (2,), and the standard error of their difference.

    Args:
        counts: pixels in intersection and union, by image, or group of images, and mask, (n, 2, 2).
    """
    groups = len(counts)
    found, resampled = (table[..., 0] / table[..., 1] for table in (counts.sum(0), bootstrap_counts(counts, seed)))
    if groups < MIN_IMAGES:
        return found, error_of_few(groups)
    return found, float((groups / (groups - 1)) ** 0.5 * (resampled[:, 1] - resampled[:, 0]).std())


def error_of_few(fields: int) -> float:
    """The error of a gain in IoU that fewer than MIN_IMAGES fields show, which resampling them cannot tell."""
    return GAIN_OF_ONE / fields**0.5


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

    That is by more than the 95 % error of the gain (paired bootstrap over images), and by MIN_OFFSET_GAIN.

    Args:
        tables: of `count_offsets` for images, or groups of them, and thresholds, (n, thresholds, len(OFFSETS), 2, 2).
    Returns: the indices of both; (0, the middle) where nothing is won.
    """
    zero = len(OFFSETS) // 2
    found = _table_iou(tables.sum(0))
    highest = found >= found.max() - 1e-9
    threshold, offset = min(np.argwhere(highest).tolist(), key=lambda place: (abs(place[1] - zero), place[0]))
    told = tables[tables.any((1, 2, 3, 4))]
    if len(told) < MIN_IMAGES or found[threshold, offset] - found[0, zero] <= MIN_OFFSET_GAIN:
        return 0, zero
    pairs = np.stack([told[:, threshold, offset], told[:, 0, zero]], 1)
    resampled = _table_iou(bootstrap_counts(pairs, seed))
    error = small_sample_reach(len(told)) * (resampled[:, 0] - resampled[:, 1]).std()
    is_sure = found[threshold, offset] - found[0, zero] > error
    return (int(threshold), int(offset)) if is_sure else (0, zero)


def _table_iou(tables: np.ndarray) -> np.ndarray:
    """IoU of the foreground of confusion matrices (…, 2, 2); 0 where there is none."""
    union = tables.sum((-2, -1)) - tables[..., 0, 0]
    return tables[..., 1, 1] / np.maximum(union, 1)
