r"""Losses of overlap: an image's mask as a whole against its label.

Form, arguments and symbols are those of ``pixel.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses.pixel import full_precision, mean_over_present, scores_and_targets


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


def _soft_erode(mask: Tensor) -> Tensor:
    vertical = -F.max_pool2d(-mask, (3, 1), 1, (1, 0))
    horizontal = -F.max_pool2d(-mask, (1, 3), 1, (0, 1))
    return torch.minimum(vertical, horizontal)


def _soft_top_hat(mask: Tensor) -> Tensor:
    """What a soft opening removes from the mask."""
    return F.relu(mask - F.max_pool2d(_soft_erode(mask), 3, 1, 1))


def soft_skeleton(mask: Tensor, iterations: int) -> Tensor:
    """The differentiable skeleton of soft masks (B, C, H, W) in [0, 1]: top hats of ever more eroded masks, united.

    Args:
        iterations: erosions; structures are thinned fully if half their width is at most this.
    Source: Shit et al., clDice, CVPR 2021, algorithm 1.
    """
    skeleton = _soft_top_hat(mask)
    for _ in range(iterations):
        mask = _soft_erode(mask)
        ridge = _soft_top_hat(mask)
        skeleton = skeleton + F.relu(ridge - skeleton * ridge)
    return skeleton


@full_precision
def soft_cl_dice_loss(logits: Tensor, labels: Tensor, *, iterations: int = 5, smooth: float = 1.0) -> Tensor:
    r"""Centerline Dice for tubes, the mean over the classes ≠ 0 present in the image (binary: the foreground) of

    .. math:: 1 - \frac{2\,T_p\,T_s}{T_p + T_s},\quad
        T_p = \frac{\sum S(p)\,y + s}{\sum S(p) + s},\quad T_s = \frac{\sum S(y)\,p + s}{\sum S(y) + s}

    with S the soft skeleton. Ignored pixels are background to both.

    Args:
        iterations: see :func:`soft_skeleton`.
        smooth: s in pixels; with two empty masks the loss is 0, not 0/0.
    Source: Shit et al., clDice - a novel topology-preserving loss function for tubular structure segmentation,
        CVPR 2021. It sees skeletons only: add a pixel or overlap loss.
    """
    scores, targets, weights = scores_and_targets(logits, labels)
    if logits.shape[1] > 1:
        scores, targets = scores[:, 1:], targets[:, 1:]
    scores = scores * weights
    predicted_lines = soft_skeleton(scores, int(iterations))
    labeled_lines = soft_skeleton(targets, int(iterations))

    def share(lines: Tensor, mask: Tensor) -> Tensor:
        return ((lines * mask).sum((2, 3)) + smooth) / (lines.sum((2, 3)) + smooth)

    precision, sensitivity = share(predicted_lines, targets), share(labeled_lines, scores)
    values = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    area = targets.sum((2, 3))
    return mean_over_present(values, area) if logits.shape[1] > 1 else values[:, 0]
