"""Whether a run learns at all: losses that explode or do not move, scores that are the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

EXPLODED = 3.0  # times the loss of the run's first step
UNMOVED = 1e-4  # of the loss, over all epochs
COLLAPSED = 0.999  # of the pixels in one bin of scores, or in one class


def is_collapsed(counts: np.ndarray | None) -> bool:
    """Whether nearly all scores of the validation images are equal, or of several classes one is predicted.

    Args:
        counts: score histograms (n, 2, BINS) or confusion matrices (n, K, K), rows = truth; None without validation.
    """
    if counts is None:
        return False
    table = counts.sum(0)
    predicted, truth = table.sum(0), table.sum(1)
    return bool((truth > 0).sum() > 1 and predicted.max() > COLLAPSED * predicted.sum())


def warnings_of_epoch(loss: float, first_loss: float, counts: np.ndarray | None) -> list[str]:
    """What is wrong with an epoch, in words for metrics.jsonl.

    Args:
        loss: mean loss of the epoch.
        first_loss: that of the run's first step, or the lowest known.
        counts: see `is_collapsed`.
    """
    exploded = not math.isfinite(loss) or (first_loss > 0 and loss > EXPLODED * first_loss)
    return [*(["the loss explodes"] if exploded else []), *(["scores collapse"] if is_collapsed(counts) else [])]


def closing_warnings(records: Sequence[dict[str, Any]], lr: float) -> list[str]:
    """What to say at the end of a run that has not learned.

    Args:
        records: those of metrics.jsonl.
        lr: the highest learning rate.
    """
    if not records:
        return []
    last = records[-1].get("warnings") or []
    losses = [record["train/loss"] for record in records if isinstance(record.get("train/loss"), float)]
    lines = []
    if "the loss explodes" in last or any("the loss explodes" in (each.get("warnings") or []) for each in records):
        lines.append(f"warning: the loss explodes (up to {max(losses):.4g}): lower --lr, which was {lr:g}")
    if "scores collapse" in last:
        lines.append(
            f"warning: scores collapse: all pixels get nearly the same score. Lower --lr (it was {lr:g}), take more "
            "--steps, or look at the labels"
        )
    if len(losses) > 1 and max(losses) - min(losses) <= UNMOVED * max(map(abs, losses)):
        lines.append(f"warning: the loss does not move ({losses[-1]:.4g} in every epoch): raise --lr, which was {lr:g}")
    return lines
