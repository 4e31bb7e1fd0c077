r"""Losses as pure functions of logits and labels.

Every public loss here and in ``robust_losses.py`` has the same form:

    ``loss(logits, labels, *, pixel_weights=None, …) -> (B,)``

Args:
    logits: (B, C, H, W) of any floating type; C = 1 is binary, else C classes. Half precision is raised to float32
        and autocast switched off; float32 and float64 are computed as they are.
    labels: (B, H, W) integers: 0/1 for binary, else class indices; ``IGNORE`` counts nowhere.
    pixel_weights: (B, H, W) weights ≥ 0 of the pixels, e.g. of their classes; all 1 by default. Not taken by
        ``soft_cl_dice_loss``, which looks at shapes.

Returns: one figure per image; finite for any finite logits, 0 where every pixel is ignored.

In the equations p is the score of a class, p_y the score of the labeled class, y the one-hot label, and sums run over
the pixels that count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.image_io import IGNORE


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
        return logits.sigmoid(), (labels == 1).to(logits.dtype)[:, None], weights
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


@full_precision
def soft_dice_loss(
    logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, smooth: float = 1.0
) -> Tensor:
    r"""Soft Dice loss, the mean over the classes present in the image (binary: the foreground) of

    .. math:: 1 - \frac{2 \sum p\,y + s}{\sum p + \sum y + s}

    Args:
        smooth: s in pixels; an empty mask predicted empty costs 0, and there is a gradient towards it.
    Source: Milletari et al., V-Net, 3DV 2016, with sums of p and y in place of their squares.
    """
    scores, targets, weights = scores_and_targets(logits, labels, pixel_weights)
    overlap = (weights * scores * targets).sum((2, 3))
    predicted, area = (weights * scores).sum((2, 3)), (weights * targets).sum((2, 3))
    return mean_over_present(1 - (2 * overlap + smooth) / (predicted + area + smooth), area)


@full_precision
def soft_iou_loss(
    logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, smooth: float = 1.0
) -> Tensor:
    r"""Soft intersection over union, the mean over the classes present in the image (binary: the foreground) of

    .. math:: 1 - \frac{\sum p\,y + s}{\sum (p + y - p\,y) + s}

    Args:
        smooth: s in pixels, see :func:`soft_dice_loss`.
    Source: Luo et al., AAAI-22, label-free training objective.
    """
    scores, targets, weights = scores_and_targets(logits, labels, pixel_weights)
    overlap = (weights * scores * targets).sum((2, 3))
    predicted, area = (weights * scores).sum((2, 3)), (weights * targets).sum((2, 3))
    return mean_over_present(1 - (overlap + smooth) / (predicted + area - overlap + smooth), area)


@full_precision
def tversky_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    pixel_weights: Tensor | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
) -> Tensor:
    r"""Tversky loss, the mean over the classes present in the image (binary: the foreground) of

    .. math:: 1 - \frac{TP + s}{TP + \alpha FP + \beta FN + s},\quad
        TP = \sum p\,y,\; FP = \sum p\,(1 - y),\; FN = \sum (1 - p)\,y

    Args:
        alpha: cost of false positives.
        beta: cost of false negatives; alpha = beta = 0.5 is Dice, alpha = beta = 1 is IoU.
        smooth: s in pixels, see :func:`soft_dice_loss`.
    Source: Salehi et al., Tversky loss function for image segmentation, MLMI 2017.
    """
    scores, targets, weights = scores_and_targets(logits, labels, pixel_weights)
    hit = (weights * scores * targets).sum((2, 3))
    false_positive = (weights * scores * (1 - targets)).sum((2, 3))
    missed = (weights * (1 - scores) * targets).sum((2, 3))
    values = 1 - (hit + smooth) / (hit + alpha * false_positive + beta * missed + smooth)
    return mean_over_present(values, hit + missed)
