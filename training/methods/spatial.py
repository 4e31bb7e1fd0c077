"""Spatial correction: labels err in patches, so a pixel's label is doubted with those around it."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from datasets.labels import IGNORE, label_classes
from models import to_scores
from training.data import TrainingData
from training.engine import Step
from training.methods.scores import class_scores, one_hot, require_cross_entropy, soft_cross_entropy
from training.methods.supervised import Supervised
from training.options import TrainingOptions

ITERATIONS = 15  # where pixels are independent


class SpatialCorrection(Supervised):
    r"""Labels err where a Gaussian field z is above 0, and the field is correlated from pixel to pixel,

    .. math:: P(\text{error}) = \Phi(z),\quad z \sim \mathcal N(\mu, \Sigma),\quad
        \Sigma = R \otimes R,\ R_{ij} = \rho^{|i - j|},\quad
        p(y \mid x, z) = (1 - \Phi(z))\,p_y + \Phi(z)\,\frac{1 - p_y}{K - 1}

    with the network's scores p. In each step the field's most likely value given the labels of the windows is found,
    and the network learns :math:`(1 - e)\,y + \frac{e}{K - 1} (1 - y)` with the probability e of an error there. The
    first ``warmup`` of the epochs learn the labels as they are: before, the network has nothing to say against them.

    Args:
        rate: share of wrong labels that is expected, from which μ follows.
        correlation: ρ of neighbouring pixels.
        warmup: share of the epochs.
    Source: Tadokoro et al., *A Bayesian approach to segmentation with noisy labels via spatially correlated
        distributions*, TMLR 2026. Theirs keeps a Gaussian posterior per image; here it is its mode, per window.
    """

    BOUNDS: ClassVar = {"rate": (0.001, 0.499), "correlation": (0.0, 0.9), "warmup": (0.0, 1.0)}

    def __init__(
        self,
        options: TrainingOptions,
        data: TrainingData,
        *,
        rate: float = 0.1,
        correlation: float = 0.5,
        warmup: float = 0.3,
    ) -> None:
        super().__init__(options, data)
        require_cross_entropy(options, "spatial")
        self.rate, self.correlation, self.warmup = rate, correlation, warmup
        self.classes = label_classes(options.data.num_classes)

    def backward(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        if self.epoch <= self.warmup * self.options.optimization.epochs:
            return step.backward(images, labels)

        def objective(images: Tensor, labels: Tensor) -> Tensor:
            logits = step.logits(images)
            truth, own = class_scores(to_scores(logits.detach())), one_hot(labels, self.classes)
            error = label_error_field((truth * own).sum(1), labels, self.classes, self.rate, self.correlation)
            error = error[:, None]
            targets = (1 - error) * own + error / (self.classes - 1) * (1 - own)
            return soft_cross_entropy(logits, labels, targets=targets).mean()

        return step.backward_mean(images, labels, objective)


def prior_mean(rate: float) -> float:
    """μ of a field of variance 1 for which the mean of Φ(z) is ``rate``."""
    return math.sqrt(2) * float(torch.special.ndtri(torch.tensor(rate, dtype=torch.float64)))


def precision_times(field: Tensor, correlation: float) -> Tensor:
    r"""Σ⁻¹ z of fields (B, H, W), where :math:`R^{-1}` is tridiagonal along each axis."""
    for axis in (1, 2):
        size, inner = field.shape[axis], 1 + correlation**2
        diagonal = torch.full((size,), inner, dtype=field.dtype, device=field.device)
        diagonal[0] = diagonal[-1] = 1.0 if size > 1 else 1 - correlation**2
        shape = (1, size, 1) if axis == 1 else (1, 1, size)
        result = field * diagonal.view(shape)
        result.narrow(axis, 1, size - 1).sub_(correlation * field.narrow(axis, 0, size - 1))
        result.narrow(axis, 0, size - 1).sub_(correlation * field.narrow(axis, 1, size - 1))
        field = result / (1 - correlation**2)
    return field


def posterior_gradient(
    field: Tensor, own: Tensor, labels: Tensor, classes: int, mean: float, correlation: float
) -> Tensor:
    """The gradient of the log-density of fields given labels, see :class:`SpatialCorrection`, (B, H, W)."""
    error, other = torch.special.ndtr(field), (1 - own) / (classes - 1)
    density = torch.exp(-0.5 * field**2) / math.sqrt(2 * math.pi)
    fit = density * (other - own) / ((1 - error) * own + error * other).clamp_min(1e-12)
    return fit * (labels != IGNORE) - precision_times(field - mean, correlation)


@torch.no_grad()
def label_error_field(own: Tensor, labels: Tensor, classes: int, rate: float, correlation: float) -> Tensor:
    """The probability that each label is wrong, at the field's mode, float32 (B, H, W); 0 where they are ignored.

    The mode is sought by accelerated gradient ascent from the prior mean; the more pixels depend on each other, the
    longer.

    Args:
        own: the network's score of the label, (B, H, W).
        rate, correlation: see :class:`SpatialCorrection`.
    """
    mean, spread = prior_mean(rate), (1 + correlation) / (1 - correlation)
    field = torch.full_like(own, mean)
    ahead, momentum = field, 1.0
    for _ in range(round(ITERATIONS * spread)):
        gradient = posterior_gradient(ahead, own, labels, classes, mean, correlation)
        moved = ahead + gradient / (spread**2 + 1)  # the precision's largest eigenvalue is the square
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + (momentum - 1) / following * (moved - field)
        field, momentum = moved, following
    error = torch.special.ndtr(field)
    wrong = error * (1 - own) / (classes - 1)  # how badly the network fits the label also counts
    return (wrong / (wrong + (1 - error) * own).clamp_min(1e-12)) * (labels != IGNORE)
