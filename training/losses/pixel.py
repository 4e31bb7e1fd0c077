r"""Losses of single pixels, and what all losses of this package are made of: pure functions of logits and labels.

Every loss has the same form:

    ``loss(logits, labels, *, pixel_weights=None, …) -> (B,)``

Args:
    logits: (B, C, H, W) of any floating type; C = 1 is binary, else C classes. Half precision is raised to float32
        and autocast switched off; float32 and float64 are computed as they are.
    labels: (B, H, W) integers: 0/1 for binary, else class indices; ``IGNORE`` is ignored. Binary losses of overlap and
        of information also take shares of foreground in [0, 1] as floats; ``SegmentationLoss`` makes those of pixels.
    pixel_weights: (B, H, W) weights ≥ 0 of the pixels, e.g. of their classes; all 1 by default. Not taken by
        ``soft_cl_dice_loss``, which looks at shapes.

Returns: one value per image; finite for any finite logits, 0 where every pixel is ignored.

In the equations p is the score of a class, p_y the score of the labeled class, y the one-hot label, and sums run over
the pixels that count.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a loss compute in float32 (float64 for float64 logits), also under autocast."""

    @functools.wraps(loss)
    def computed(logits: Tensor, labels: Tensor, **params: object) -> Tensor:
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        with torch.autocast(logits.device.type, enabled=False):
            return loss(logits, labels, **params)

    return computed


def counted_weights(labels: Tensor, pixel_weights: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The weight of every pixel, (B, H, W): ``pixel_weights`` or 1, and 0 where the label is ignored."""
    counted = (labels != IGNORE).to(dtype)
    return counted if pixel_weights is None else counted * pixel_weights.to(dtype)


def pixel_mean(losses: Tensor, labels: Tensor, pixel_weights: Tensor | None) -> Tensor:
    """The weighted mean (B,) of per-pixel losses (B, H, W) over the pixels that count; 0 where none does."""
    weights = counted_weights(labels, pixel_weights, losses.dtype)
    total = weights.sum((1, 2))
    return (losses * weights).sum((1, 2)) / torch.where(total > 0, total, 1)


def log_scores(logits: Tensor) -> Tensor:
    """Log-scores of all classes, (B, max(C, 2), H, W), exact for extreme logits; binary: background, foreground."""
    if logits.shape[1] == 1:
        return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=1)
    return F.log_softmax(logits, dim=1)


def label_indices(labels: Tensor) -> Tensor:
    """Labels as int64 with 0 in the place of ignored ones, so that they can index."""
    return labels.long().masked_fill(labels == IGNORE, 0)


def labeled_log_score(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y of every pixel, (B, H, W); what stands at ignored pixels is finite and means nothing."""
    if logits.shape[1] == 1:
        return F.logsigmoid(torch.where(labels == 1, logits[:, 0], -logits[:, 0]))
    return F.log_softmax(logits, dim=1).gather(1, label_indices(labels)[:, None])[:, 0]


def scores_and_targets(
    logits: Tensor, labels: Tensor, pixel_weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores p and one-hot targets y, both (B, C, H, W), and pixel weights (B, 1, H, W); binary: foreground only."""
    weights = counted_weights(labels, pixel_weights, logits.dtype)[:, None]
    if logits.shape[1] == 1:
        is_soft = labels.is_floating_point()
        foreground = labels.masked_fill(labels == IGNORE, 0) if is_soft else labels == 1
        return logits.sigmoid(), foreground.to(logits.dtype)[:, None], weights
    classes = torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    return logits.softmax(1), (labels[:, None] == classes).to(logits.dtype), weights


def mean_over_present(values: Tensor, area: Tensor) -> Tensor:
    """The mean (B,) of per-class values (B, C) over the classes with area > 0; binary: the one value.

    A class that an image lacks has no overlap to measure: its loss would be 1 whatever the scores. False positives of
    it still cost, as missing score of the class that is there.
    """
    if values.shape[1] == 1:
        return values[:, 0]
    present = (area > 0).to(values.dtype)
    return (values * present).sum(1) / present.sum(1).clamp(min=1)


@full_precision
def cross_entropy(logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None) -> Tensor:
    r"""Cross entropy, :math:`-\log p_y`; for one logit the binary one."""
    return pixel_mean(-labeled_log_score(logits, labels), labels, pixel_weights)


@full_precision
def focal_loss(logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    r"""Focal loss, :math:`-(1 - p_y)^\gamma \log p_y`: pixels that are already right count little.

    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017. Under label noise it dwells on wrong labels.
    """
    log_score = labeled_log_score(logits, labels)
    wrong = -torch.expm1(log_score)
    if gamma < 1:  # the derivative of the power is infinite at 0
        wrong = wrong.clamp(min=torch.finfo(wrong.dtype).eps)
    return pixel_mean(-(wrong**gamma) * log_score, labels, pixel_weights)


def boundary_nearness(labels: Tensor, sigma: float, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""How near each pixel is to a boundary between labels: :math:`e^{-d^2 / 2\sigma^2}`, (B, H, W).

    d counts steps to one of eight neighbors from the pixels whose 3×3 window holds two classes (d = 0); beyond 3σ
    the nearness is 0. Ignored pixels have no boundary with anything. Max-pooling keeps it on the labels' device.
    """
    ignored = labels == IGNORE
    classes = labels.to(dtype)[:, None]
    high = F.max_pool2d(classes.masked_fill(ignored[:, None], -1), 3, 1, 1)
    low = -F.max_pool2d(-classes.masked_fill(ignored[:, None], 256), 3, 1, 1)
    reached = (high > low).to(dtype)
    nearness = reached.clone()
    for distance in range(1, math.ceil(3 * sigma) + 1):
        grown = F.max_pool2d(reached, 3, 1, 1)
        nearness += (grown - reached) * math.exp(-(distance**2) / (2 * sigma**2))
        reached = grown
    return nearness[:, 0]


@full_precision
def boundary_cross_entropy(
    logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, weight: float = 5.0, sigma: float = 2.0
) -> Tensor:
    r"""Cross entropy whose pixels weigh :math:`1 + w\,e^{-d^2 / 2\sigma^2}`, d the distance to the label's boundary.

    Args:
        weight: w, the extra weight on the boundary.
        sigma: width of the weighted band in pixels, see :func:`boundary_nearness`.
    Source: the weight map of Ronneberger et al., U-Net, MICCAI 2015, with the distance to the nearest boundary in
        place of the summed distances to two cells. Where labels are noisy pixel by pixel every pixel is a boundary,
        and this becomes plain cross entropy.
    """
    band = 1 + weight * boundary_nearness(labels, sigma, logits.dtype)
    pixel_weights = band if pixel_weights is None else band * pixel_weights.to(band.dtype)
    return pixel_mean(-labeled_log_score(logits, labels), labels, pixel_weights)
