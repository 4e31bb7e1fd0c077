r"""What a loss teaches under label noise: the scores at which its expectation is least.

Given the transition matrix Q and the share of every true class, a network that knows the true class of each pixel and
nothing else gives all pixels of class j the same scores. The loss of such scores over a large image is an exact
function of them, here minimised numerically. A proper loss (BCE, CE) is least at the rows of Q, which differ as long
as the labels tell the classes apart; other losses may be least at scores that no longer do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.transition_matrix import TransitionMatrix
from models import to_scores
from training.losses import LossTerm, parse_loss
from training.losses.robust import inverse_for_loss

PIXELS = 65536  # of the image whose loss is minimised
STEPS, RATE, FINAL, START = 100, 0.3, 0.05, 3.0  # of Adam on logits, its rate falling to RATE·FINAL
SEPARATION_LEFT = 0.1  # of the distance between two rows of Q: with less, their classes count as merged
MIN_SEPARATION = 1e-3  # rows of Q nearer than this cannot be told apart by any loss


def _start_logits(classes: int, binary: bool) -> Tensor:
    """Logits (S, C, K) per true class to start from: the truth, everything one class, and no opinion."""
    truth = START * torch.eye(classes, dtype=torch.float64)  # (C, K)
    constant = [truth[:, [k]].expand(-1, classes) for k in range(classes)]
    starts = torch.stack([truth, *constant, torch.zeros_like(truth)])
    return starts[:, 1:] - starts[:, :1] if binary else starts


def _population_loss(summand: LossTerm, logits: Tensor, matrix: TransitionMatrix, shares: np.ndarray) -> Tensor:
    """One term's loss (S,) for logits (S, C, K) per true class, on an image of K×K "pixels" (truth, label)."""
    starts, _, classes = logits.shape
    labels = torch.arange(classes).expand(starts, classes, classes)
    areas = PIXELS * torch.as_tensor(shares[:, None] * matrix.rows).expand(starts, -1, -1)
    extra = {}
    if "matrix" in summand.term.arguments:
        extra["matrix"] = torch.tensor(matrix.rows)
    if "inverse" in summand.term.arguments:
        extra["inverse"] = torch.as_tensor(inverse_for_loss(matrix))
    pixels = logits[..., None].expand(-1, -1, -1, classes)
    return summand.factor * summand.term.function(pixels, labels, pixel_weights=areas, **summand.params, **extra)


def optimal_scores(
    loss_spec: str, matrix: TransitionMatrix, class_shares: Sequence[float] | np.ndarray, binary: bool
) -> np.ndarray:
    """The scores per true class that minimise the expected loss, found by Adam from several starts.

    Args:
        loss_spec: see ``losses.parse_loss``; no term may be spatial.
        matrix: Q, of all classes.
        class_shares: share of the pixels of each true class, (K,).
        binary: whether the network has one logit (K = 2).
    Returns: float64 (K, K): row j holds the scores of the classes at pixels of class j.
    """
    shares = np.asarray(class_shares, dtype=np.float64)
    summands = parse_loss(loss_spec)
    logits = _start_logits(matrix.classes, binary).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, FINAL, STEPS)

    def losses() -> Tensor:
        return torch.stack([_population_loss(summand, logits, matrix, shares) for summand in summands]).sum(0)

    with torch.enable_grad():
        for _ in range(STEPS):
            optimizer.zero_grad()
            losses().sum().backward()
            optimizer.step()
            schedule.step()
    best = int(losses().argmin())
    scores = to_scores(logits.detach()[best][None, ..., None])[0, :, :, 0].numpy().astype(np.float64)  # (C, K)
    return np.stack([1 - scores[0], scores[0]], axis=1) if binary else scores.T


def degenerate_optimum(
    loss_spec: str,
    matrix: TransitionMatrix,
    class_shares: float | Sequence[float] | np.ndarray,
    binary: bool | None = None,
) -> str | None:
    """A sentence for the user where the loss is least at scores that merge classes which the labels keep apart.

    Two classes count as merged where their best scores differ by less than a tenth of what their rows of Q do.

    Args:
        loss_spec: see ``losses.parse_loss``.
        matrix: Q, of all classes.
        class_shares: the true foreground share of binary labels, or the true share of every class.
        binary: whether the network has one logit; by default where K = 2.
    Returns: None where the optimum keeps the classes apart, where Q already merges them, and where the loss depends
        on shapes (``boundary``, ``cldice``), on which Q says nothing.
    """
    summands = parse_loss(loss_spec)
    if any(summand.term.spatial for summand in summands) or all(summand.term.proper for summand in summands):
        return None
    shares = np.atleast_1d(np.asarray(class_shares, np.float64))
    if np.ndim(class_shares) == 0:
        shares = np.concatenate([1 - shares, shares])
    if len(shares) != matrix.classes:
        raise ValueError(f"{len(shares)} class shares for {matrix.classes} classes")
    binary = matrix.classes == 2 if binary is None else binary
    scores = optimal_scores(loss_spec, matrix, shares, binary)
    for first in range(matrix.classes):
        for second in range(first + 1, matrix.classes):
            distance = np.abs(matrix.rows[first] - matrix.rows[second]).max()
            left = np.abs(scores[first] - scores[second]).max()
            if distance > MIN_SEPARATION and left < SEPARATION_LEFT * distance:
                return _warning(loss_spec, scores, first, second, binary)
    return None


def _warning(loss_spec: str, scores: np.ndarray, first: int, second: int, binary: bool) -> str:
    """The sentence of :func:`degenerate_optimum` for two merged classes."""
    remedy = "use bce or ce, or forward with the transition matrix"
    if binary:
        where = "foreground" if scores[0, 1] > 0.5 else "background"
        return (
            f"under this label noise {loss_spec} is least for {where} everywhere (scores of {scores[0, 1]:.2f} on "
            f"background and {scores[1, 1]:.2f} on foreground): {remedy}"
        )
    return (
        f"under this label noise {loss_spec} is least where classes {first} and {second} get the same scores, highest "
        f"for class {int(scores[first].argmax())}: {remedy}"
    )
