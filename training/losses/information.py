r"""Losses of what scores and labels tell about each other.

Form, arguments and symbols are those of ``pixel.py``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.losses.pixel import counted_weights, full_precision, scores_and_targets


def _joint_determinant(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """det(P Sᵀ) / N^K · K^K, (B,), in [-1, 1]; binary: 4 Cov(p, s), which is the same."""
    scores, targets, _ = scores_and_targets(logits, labels)
    total = weights.sum((2, 3), keepdim=True)
    weights = weights / torch.where(total > 0, total, 1)
    if logits.shape[1] == 1:
        mean = (weights * scores).sum((2, 3), keepdim=True)
        return 4 * (weights * (scores - mean) * targets).sum((1, 2, 3))
    joint = logits.shape[1] * torch.einsum("bkhw,bmhw->bkm", weights * scores, targets)
    if joint.device.type == "mps":  # has no determinant in every version of torch
        return torch.linalg.det(joint.cpu()).to(joint.device)
    return torch.linalg.det(joint)


@full_precision
def dmi_loss(logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    r"""Determinant-based mutual information of scores and labels,

    .. math:: -\log\left( \frac{|\det(\mathcal P \mathcal S^\top)|}{N^K} + \frac{\epsilon}{K^K} \right)

    with the K×N stacks P of scores and S of one-hot labels over the N pixels of an image; binary has K = 2, scores p
    and 1 - p, and det = N² Cov(p, s). Swapping classes changes nothing, so the loss cannot tell a prediction from its
    inverse. It is least, K log K, for perfect scores of classes of equal size.

    Args:
        eps: keeps the loss finite where the determinant is 0, as for labels of one class; relative to the largest
            value, K^-K, of the first term.
    Source: Xu et al., L_DMI, NeurIPS 2019; per image as in Luo et al., AAAI-22. ``dmi+iou`` is the latter's label-free
        objective.
    """
    weights = counted_weights(labels, pixel_weights, logits.dtype)[:, None]
    classes = max(logits.shape[1], 2)
    determinant = _joint_determinant(logits, labels, weights)
    values = classes * math.log(classes) - torch.log(determinant.abs() + eps)
    return values * (weights.sum((1, 2, 3)) > 0)
