r"""Where labels put their pixels: local density maps, and the transition matrix by distance to the true boundary.

A network learns the *spatial density* of labels. The local density of label m around pixel x at bandwidth h is the
share of label-m pixels in the (2h+1)² window inside the image,

.. math:: \rho_m(x) = \frac1{S(x)} \sum_{y \in W_h(x)} [\text{label}(y) = m], \qquad
          \mathbb E\,\rho_m(x) = \frac1{S(x)} \sum_j Q_{jm} S_j(x),

with S_j the pixels of true class j in the window and S their sum. A global Q cannot tell dilated labels from flipped
ones, so Q is also read as a function of where a pixel lies: its distance to the true boundary and its relative depth.

Source: Luo et al., AAAI-22, lemma 1; reading Q by distance is this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from datasets.labels import IGNORE, label_classes
from evaluation.scores import ratio
from evaluation.scores.bootstrap import MIN_IMAGES, bootstrap_counts, percentile_interval, small_sample_reach

BANDWIDTH = 2  # h of the density maps, see evaluation/label_audit/predicted_iou.py for how it was chosen
DISTANCE_EDGES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, np.inf])  # pixels from the boundary, first bin touches it
DEPTH_EDGES = np.array([0, 0.25, 0.5, 0.75, 1 - 1e-6, np.inf])  # the last bin is the skeleton itself
GRADIENT = np.array([[-0.5, 0, 0.5]], np.float32)
SHRINKAGE = 20  # labels that the share of its class weighs in the share of a bin
WORKERS = 4
DISTANCES, DEPTHS = len(DISTANCE_EDGES) - 1, len(DEPTH_EDGES) - 1


def window_mean(values: np.ndarray, bandwidth: int) -> np.ndarray:
    """Sum over the (2h+1)² window, pixels outside the image counting 0, divided by (2h+1)²; float32 (H, W)."""
    size = 2 * bandwidth + 1
    return cv2.boxFilter(values.astype(np.float32), cv2.CV_32F, (size, size), borderType=cv2.BORDER_CONSTANT)


def local_density(label: np.ndarray, bandwidth: int = BANDWIDTH, label_class: int = 1) -> np.ndarray:
    """Share of pixels of a class among the labelled pixels of the (2h+1)² window inside the image.

    Args:
        label: classes with 255 ignored, (H, W).
    Returns: float32 (H, W) in [0, 1]; NaN where the window holds ignored pixels only.
    """
    valid = window_mean(label != IGNORE, bandwidth)
    found = window_mean(label == label_class, bandwidth)
    return np.divide(found, valid, out=np.full_like(found, np.nan), where=valid > 0.5 / (2 * bandwidth + 1) ** 2)


@dataclass(frozen=True)
class DensityAgreement:
    """How alike two label sets are as densities.

    Args:
        bandwidth: h of the windows.
        correlation: Pearson correlation of the two densities over pixels; NaN where one is constant.
        mean_first, mean_second: mean densities.
        rms_difference: root mean square difference.
        sampling_error: the difference that two independent draws of one density would show by chance.
    """

    bandwidth: int
    correlation: float
    mean_first: float
    mean_second: float
    rms_difference: float
    sampling_error: float


def density_agreement(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], bandwidth: int = BANDWIDTH, label_class: int = 1
) -> DensityAgreement:
    r"""Compare the local densities of two label sets of the same images, in windows that do not overlap.

    The sampling error is :math:`\sqrt{\overline{2\rho(1-\rho)/S}}` with ρ the mean of both densities.
    """
    step = 2 * bandwidth + 1
    pairs = []
    for label, other in zip(first, second, strict=True):
        maps = [
            local_density(item, bandwidth, label_class)[bandwidth::step, bandwidth::step] for item in (label, other)
        ]
        pairs.append(np.stack([item.ravel() for item in maps]))
    values = np.concatenate(pairs, axis=1).astype(float)
    values = values[:, np.isfinite(values).all(0)]
    middle = values.mean(0)
    constant = values.shape[1] == 0 or (values.std(1) == 0).any()
    return DensityAgreement(
        bandwidth=bandwidth,
        correlation=float("nan") if constant else float(np.corrcoef(values)[0, 1]),
        mean_first=float(values[0].mean()),
        mean_second=float(values[1].mean()),
        rms_difference=float(np.sqrt(np.mean((values[0] - values[1]) ** 2))),
        sampling_error=float(np.sqrt(np.mean(2 * middle * (1 - middle)) / step**2)),
    )


def _ridge(distance: np.ndarray) -> np.ndarray:
    """The centre lines of a region: where its distance transform stops rising, its gradient being shorter than 1."""
    gradient = [cv2.filter2D(distance, cv2.CV_32F, kernel) for kernel in (GRADIENT, GRADIENT.T)]
    return (distance > 0) & (np.hypot(*gradient) < 0.75)


def boundary_coordinates(truth: np.ndarray, num_classes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    r"""Where every pixel lies within the region of its own true class.

    The distance is that to the nearest pixel of another class, less the half pixel from that pixel's centre to its
    edge. The relative depth is :math:`d / (d + s)`, s the distance to the nearest centre-line pixel of the region: 1 on
    the centre line, d / half width at the edge of a ribbon of any width. The centre line is the skeleton; in the
    background, which takes 10 times as long to thin and where no label follows it pixel by pixel, it is the ridge of
    the distance. The image border is no boundary.

    Args:
        truth: classes with 255 ignored, (H, W).
    Returns: (distance in pixels ≥ 0.5, relative depth in (0, 1]), float32 (H, W); 0 at ignored pixels.
    """
    from skimage.morphology import skeletonize

    distance, depth = np.zeros(truth.shape, np.float32), np.zeros(truth.shape, np.float32)
    for true_class in range(label_classes(num_classes)):
        mask = truth == true_class
        if not mask.any():
            continue
        inside = _distance_inside(mask)
        center = skeletonize(mask) if true_class else _ridge(inside)
        to_center = cv2.distanceTransform((~center).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance[mask] = inside[mask] - 0.5
        depth[mask] = inside[mask] / (inside[mask] + to_center[mask])
    return distance, depth


def _distance_inside(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a mask to the nearest one outside it, float32 (H, W); without any, finite."""
    inside = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.minimum(inside, sum(mask.shape))


def inward_distance(truth: np.ndarray) -> np.ndarray:
    """Distance to the true boundary in pixels: positive in the foreground, negative outside; float32 (H, W).

    Its sign is not that of `datasets.noise_steps.signed_distance`, and ignored pixels are a boundary here.
    """
    distance = np.zeros(truth.shape, np.float32)
    for true_class, sign in ((0, -1), (1, 1)):
        mask = truth == true_class
        distance[mask] = sign * (_distance_inside(mask)[mask] - 0.5)
    return distance


def location_bins(truth: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """The bin (class, distance, relative depth) of every pixel as one index; −1 at ignored pixels; int32 (H, W)."""
    distance, depth = boundary_coordinates(truth, num_classes)
    far = np.searchsorted(DISTANCE_EDGES, distance, side="right") - 1
    deep = np.searchsorted(DEPTH_EDGES, depth, side="right") - 1
    index = (truth.astype(np.int32) * DISTANCES + far) * DEPTHS + deep
    return np.where(truth == IGNORE, -1, index).astype(np.int32)


def location_counts(bins: np.ndarray, noisy: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """How many pixels of every location bin carry each label.

    Args:
        bins: of ``location_bins``, (H, W); noisy: labels with 255 ignored, (H, W).
    Returns: int64 (K, DISTANCES, DEPTHS, K): true class, distance, relative depth, label.
    """
    classes = label_classes(num_classes)
    valid = (bins >= 0) & (noisy != IGNORE)
    cells = bins[valid].astype(np.int64) * classes + noisy[valid]
    counts = np.bincount(cells, minlength=classes * DISTANCES * DEPTHS * classes)
    return counts.reshape(classes, DISTANCES, DEPTHS, classes)


def location_table(
    truths: Sequence[np.ndarray], noisy: Sequence[np.ndarray], num_classes: int = 1
) -> tuple[list[np.ndarray], np.ndarray]:
    """Location bins and label counts of a set of images.

    Returns: (bins of every image, counts (n, K, DISTANCES, DEPTHS, K)).
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        bins = list(pool.map(lambda truth: location_bins(truth, num_classes), truths))
    return bins, np.stack([location_counts(*pair, num_classes) for pair in zip(bins, noisy, strict=True)])


def bin_shares(table: np.ndarray) -> np.ndarray:
    """E[label | location bin], drawn towards the share of the true class where labels are few.

    Args:
        table: of ``location_table``, (n, K, D, R, K).
    Returns: (K · D · R, K); 0 for classes without any label.
    """
    classes = table.shape[1]
    pooled = table.sum(0).reshape(classes, -1, classes)
    whole = pooled.sum(1, keepdims=True)
    prior = np.nan_to_num(ratio(whole, whole.sum(-1, keepdims=True)))
    shares = (pooled + SHRINKAGE * prior) / (pooled.sum(-1, keepdims=True) + SHRINKAGE)
    return shares.reshape(-1, classes)


def _share_with_interval(found: np.ndarray, total: np.ndarray, seed: int) -> dict[str, np.ndarray | None]:
    """Shares found / total of pooled counts, with intervals from resampling images; both (n, bins)."""
    result = {"share": ratio(found.sum(0), total.sum(0)), "low": None, "high": None, "pixels": total.sum(0)}
    if len(found) >= MIN_IMAGES:
        resampled = bootstrap_counts(np.stack([found, total], 1), seed, 400)
        result["low"], result["high"] = percentile_interval(
            ratio(resampled[:, 0], resampled[:, 1]), small_sample_reach(len(found))
        )
    return result


def distance_profile(table: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Q as a function of the distance to the true boundary and of relative depth.

    Binary: the share of foreground labels by signed distance, from deep outside to deep inside. K classes: the share
    of labels that name the true class, by distance inside its region.

    Args:
        table: of ``location_table``, (n, K, DISTANCES, DEPTHS, K).
    Returns: ``by_distance`` with from, to (signed pixels, null = open), share, low, high, pixels; ``by_depth`` the same
        over relative depth inside the foreground (K classes: inside every class but 0).
    """
    lower, upper = DISTANCE_EDGES[:-1], DISTANCE_EDGES[1:]
    if table.shape[1] == 2:
        rows = table.sum(3)  # (n, 2, DISTANCES, 2)
        rows = np.concatenate([rows[:, 0, ::-1], rows[:, 1]], axis=1)
        found, total = rows[..., 1], rows.sum(-1)
        lower, upper = np.concatenate([-upper[::-1], lower]), np.concatenate([-lower[::-1], upper])
        inside = table[:, 1].sum(1)  # (n, DEPTHS, 2)
        depth_found, depth_total = inside[..., 1], inside.sum(-1)
    else:
        own = np.stack([table[:, j, ..., j] for j in range(table.shape[1])], 1)
        found, total = own.sum((1, 3)), table.sum((1, 3, 4))
        depth_found, depth_total = own[:, 1:].sum((1, 2)), table[:, 1:].sum((1, 2, 4))
    return {
        "by_distance": {"from": lower, "to": upper, **_share_with_interval(found, total, seed)},
        "by_depth": {
            "from": DEPTH_EDGES[:-1].round(6),
            "to": np.minimum(DEPTH_EDGES[1:], 1).round(6),
            **_share_with_interval(depth_found, depth_total, seed),
        },
    }
