r"""Losses made for wrong labels: corrected by a known transition matrix, or robust without one.

Form, arguments and symbols are those of ``pixel.py``. The transition matrix Q has rows = truth and columns =
label, Q[j, m] = P(label = m | truth = j); for one logit its classes are background and foreground.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from datasets.transition_matrix import MAX_CONDITION, TransitionMatrix
from training.losses.pixel import (
    full_precision,
    label_indices,
    labeled_log_score,
    log_scores,
    mean_over_present,
    pixel_mean,
    scores_and_targets,
)
from utils.cli import UserError

LOG_OF_ZERO = -4.0
MIN_PROBABILITY = 1e-30  # in place of zeros of Q, whose logarithm would be infinite


def inverse_for_loss(matrix: TransitionMatrix) -> np.ndarray:
    """Q⁻¹ for the backward-corrected loss, float64 (K, K).

    Raises:
        UserError: singular, or so nearly that the inverse would multiply the noise of the labels past any use.
    """
    if not (matrix.is_complete and matrix.is_invertible):
        raise UserError(
            f"the transition matrix {np.round(matrix.rows, 4).tolist()} has no usable inverse (condition number "
            f"{np.linalg.cond(matrix.block):.3g}, at most {MAX_CONDITION:g}), so the backward-corrected loss does not "
            "exist; use --loss forward"
        )
    return np.linalg.inv(matrix.rows)


@full_precision
def forward_corrected_loss(
    logits: Tensor, labels: Tensor, *, matrix: Tensor, pixel_weights: Tensor | None = None
) -> Tensor:
    r"""Cross entropy of the scores that the labels' noise would make of the true ones,

    .. math:: -\log \tilde p_y,\quad \tilde p_m = \sum_j Q_{jm}\, p_j;\quad
        \text{binary: } \tilde p = Q_{01} + (Q_{11} - Q_{01})\, p

    so that the scores p themselves become those of the clean labels. Computed from log-scores throughout.

    Args:
        matrix: Q, (K, K).
    Source: Patrini et al., Making deep neural networks robust to label noise: a loss correction approach, CVPR 2017.
    """
    log_matrix = matrix.to(logits.dtype).clamp(min=MIN_PROBABILITY).log()
    columns = log_matrix.t()[label_indices(labels)].movedim(-1, 1)  # (B, K, H, W): log Q[:, y]
    return pixel_mean(-torch.logsumexp(log_scores(logits) + columns, dim=1), labels, pixel_weights)


@full_precision
def backward_corrected_loss(
    logits: Tensor, labels: Tensor, *, inverse: Tensor, pixel_weights: Tensor | None = None
) -> Tensor:
    r"""The combination of cross entropies whose mean over the labels' noise is the cross entropy of the truth,

    .. math:: \sum_j (Q^{-1})_{yj} \, (-\log p_j)

    Unbiased, but single values may be negative without bound: keep learning rates low or clip gradients.

    Args:
        inverse: Q⁻¹, (K, K), see :func:`inverse_for_loss`.
    Source: Patrini et al., CVPR 2017.
    """
    rows = inverse.to(logits.dtype)[label_indices(labels)].movedim(-1, 1)  # (B, K, H, W): Q⁻¹[y, :]
    return pixel_mean(-(rows * log_scores(logits)).sum(1), labels, pixel_weights)


@full_precision
def generalized_cross_entropy(
    logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, q: float = 0.7
) -> Tensor:
    r"""Generalized cross entropy, :math:`(1 - p_y^q) / q`: cross entropy for q → 0, half the MAE for q = 1.

    Source: Zhang & Sabuncu, NeurIPS 2018.
    """
    return pixel_mean(-torch.expm1(q * labeled_log_score(logits, labels)) / q, labels, pixel_weights)


@full_precision
def mean_absolute_error(logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None) -> Tensor:
    r"""Mean absolute error of the class probabilities, :math:`\sum_k |p_k - y_k| = 2 (1 - p_y)`.

    Source: Ghosh et al., Robust loss functions under label noise for deep neural networks, AAAI 2017. Robust where the
    true class remains the most frequent label of its pixels, blind to it elsewhere.
    """
    return pixel_mean(-2 * torch.expm1(labeled_log_score(logits, labels)), labels, pixel_weights)


@full_precision
def reverse_cross_entropy(
    logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, log_zero: float = LOG_OF_ZERO
) -> Tensor:
    r"""Reverse cross entropy, :math:`-\sum_k p_k \log y_k = -A\,(1 - p_y)` with log 0 := A.

    Args:
        log_zero: A, below 0.
    Source: Wang et al., Symmetric cross entropy for robust learning with noisy labels, ICCV 2019.
    """
    return pixel_mean(log_zero * torch.expm1(labeled_log_score(logits, labels)), labels, pixel_weights)


@full_precision
def symmetric_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    pixel_weights: Tensor | None = None,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = LOG_OF_ZERO,
) -> Tensor:
    r"""Symmetric cross entropy, :math:`\alpha\,CE + \beta\,RCE`, see :func:`reverse_cross_entropy`.

    Source: Wang et al., ICCV 2019; the defaults are theirs for CIFAR-10.
    """
    log_score = labeled_log_score(logits, labels)
    return pixel_mean(-alpha * log_score + beta * log_zero * torch.expm1(log_score), labels, pixel_weights)


@full_precision
def normalized_cross_entropy(logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None) -> Tensor:
    r"""Normalized cross entropy, :math:`\log p_y / \sum_k \log p_k`, in [0, 1].

    Source: Ma et al., Normalized loss functions for deep learning with noisy labels, ICML 2020, whose best pairs
    include NCE + RCE: ``nce+rce``. Alone it underfits.
    """
    ratio = labeled_log_score(logits, labels) / log_scores(logits).sum(1)
    return pixel_mean(ratio, labels, pixel_weights)


@full_precision
def noise_robust_dice_loss(
    logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, gamma: float = 1.5, smooth: float = 1.0
) -> Tensor:
    r"""Noise-robust Dice, the mean over the classes present in the image (binary: the foreground) of

    .. math:: \frac{\sum |p - y|^\gamma}{\sum p^2 + \sum y^2 + s}

    Args:
        gamma: 2 is Dice with squared sums, 1 resembles MAE.
        smooth: s in pixels.
    Source: Wang et al., A noise-robust framework for automatic segmentation of COVID-19 pneumonia lesions from CT
        images, IEEE TMI 2020.
    """
    scores, targets, weights = scores_and_targets(logits, labels, pixel_weights)
    difference = (weights * (scores - targets).abs() ** gamma).sum((2, 3))
    area = (weights * targets).sum((2, 3))
    return mean_over_present(difference / ((weights * scores**2).sum((2, 3)) + area + smooth), area)


@full_precision
def t_loss(logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, nu: float = 1.0) -> Tensor:
    r"""T-loss: the negative log-likelihood of an image's errors under a Student's t distribution, per entry,

    .. math:: \frac{1}{D} \left[ \log\Gamma\frac{\nu}{2} - \log\Gamma\frac{\nu + D}{2} + \frac{D}{2}\log(\pi\nu)
        + \frac{\nu + D}{2} \log\left(1 + \frac{\sum (p - y)^2}{\nu}\right) \right]

    with D entries: pixels, times classes where there are several. The identity is the scale matrix.

    Args:
        nu: degrees of freedom ν > 0. The fewer, the less an image with many errors counts.
    Source: Gonzalez-Jimenez et al., Robust T-loss for medical image segmentation, MICCAI 2023, who learn ν; divided by
        D here, so that learning rates do not depend on the image's size.
    """
    scores, targets, weights = scores_and_targets(logits, labels, pixel_weights)
    entries = weights.sum((1, 2, 3)) * logits.shape[1]
    errors = (weights * (scores - targets) ** 2).sum((1, 2, 3))
    value = (
        math.lgamma(nu / 2)
        - torch.lgamma((nu + entries) / 2)
        + entries / 2 * math.log(math.pi * nu)
        + (nu + entries) / 2 * torch.log1p(errors / nu)
    )
    return value / torch.where(entries > 0, entries, 1)
