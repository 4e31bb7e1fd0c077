r"""Scores that mean what they say: Platt scaling, fitted on validation images.

.. math:: p' = \sigma(a \cdot \mathrm{logit}(p) + b), \qquad a > 0,

so that the order of scores, and with a threshold mapped alike every mask, stays what it is. a is the temperature's
inverse; b puts right what the prior of the training labels shifted.

Source: Platt, Probabilistic outputs for support vector machines, 1999; Guo et al., On calibration of modern neural
networks, ICML 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.scores import BINS
from utils.cli import UserError

TINY = 1e-6  # scores are kept so far from 0 and 1
SCALES = (0.05, 20.0)  # of the logits


@dataclass(frozen=True)
class PlattScaling:
    """Scale and bias of the logits; ``scale`` is positive.

    >>> halved = PlattScaling(0.5, 0.0)
    >>> round(float(halved(np.float32(0.9))), 4), round(float(halved.undone()(halved(np.float32(0.9)))), 4)
    (0.75, 0.9)
    """

    scale: float
    bias: float

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores, float32 of the same shape."""
        clipped = np.clip(np.asarray(scores, np.float64), TINY, 1 - TINY)
        return (1 / (1 + np.exp(-(self.scale * np.log(clipped / (1 - clipped)) + self.bias)))).astype(np.float32)

    def undone(self) -> PlattScaling:
        """The scaling that gives the scores back."""
        return PlattScaling(1 / self.scale, -self.bias / self.scale)

    def histogram(self, histogram: np.ndarray) -> np.ndarray:
        """The score histogram (2, BINS) after the scaling."""
        places = (self((np.arange(BINS) + 0.5) / BINS) * BINS).astype(int).clip(0, BINS - 1)
        return np.stack([np.bincount(places, row, BINS) for row in histogram])

    def to_json(self) -> dict[str, Any]:
        """For ``predictions.json``."""
        return {"scale": self.scale, "bias": self.bias}


def fit_platt(histogram: np.ndarray) -> PlattScaling:
    """The scaling of the highest likelihood.

    Args:
        histogram: of scores against labels that can be trusted, (2, BINS).
    Raises:
        UserError: labels of one class alone.
    """
    from scipy.optimize import minimize

    if not histogram.sum(1).all():
        raise UserError("scores cannot be calibrated: the validation labels are all background or all foreground")
    used = histogram.any(0)
    centers = ((np.arange(BINS) + 0.5) / BINS)[used]
    logits, counts = np.log(centers / (1 - centers)), histogram[:, used] / histogram.sum()

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        z = values[0] * logits + values[1]
        error = counts.sum(0) / (1 + np.exp(-np.clip(z, -700, 700))) - counts[1]
        value = (counts[0] * np.logaddexp(0, z) + counts[1] * np.logaddexp(0, -z)).sum()
        return float(value), np.array([(error * logits).sum(), error.sum()])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[SCALES, (-20, 20)])
    return PlattScaling(float(found.x[0]), float(found.x[1]))
