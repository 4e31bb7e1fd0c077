"""How the verdict of an audit with a reference follows from Q and the ceiling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.transition_matrix import count_transitions
from evaluation.label_audit.bias import AT_BOUNDARIES, BY_PLACE
from evaluation.label_audit.estimate import Transitions, association
from evaluation.label_audit.iou_ceiling import Ceiling
from evaluation.label_audit.verdict import BIAS_MARGIN

SHIFTS, CHANCE = 200, 0.005  # few images: of so many random placements of the labels, this fraction may do as well


def decide(
    transitions: Transitions,
    ceiling: Ceiling,
    *,
    chance: bool = False,
    kinds: Sequence[str] = (),
    cost: float | None = None,
) -> str:
    """The verdict, in the order of precedence.

    *not learnable*: |φ| < 0.02, or its interval holds 0. *inverted*: negative contrast (two classes: φ < 0; more: the
    diagonal of Q below its off-diagonal). *biased*: systematic errors cost more than BIAS_MARGIN of what clean labels
    lead to, or depend on the place in the image; the kinds that were found are named. Else *learnable*. *unknown*: the
    truth shows a single class, so that nothing can be compared, or there are too few images for an interval and what
    they show may be ``chance``.

    Args:
        kinds: of systematic errors that were found.
        cost: share of the clean IoU that systematic errors cost; None where it is not known (no images, or several
            classes): then the gap of the ceiling decides, and boundaries are what it knows of.
    """
    if not np.isfinite(transitions.phi):
        return "unknown"
    if transitions.no_association:
        return "not learnable"
    if chance:
        return "unknown"
    if transitions.inverted:
        return "inverted"
    if cost is None:
        cost, kinds = ceiling.distance_free - ceiling.value, kinds or (AT_BOUNDARIES,)
    if kinds and (cost > BIAS_MARGIN or BY_PLACE in kinds):
        return f"biased {' and '.join(kinds)}"
    return "learnable"


def may_be_chance(
    truths: Sequence[np.ndarray], labels: Sequence[np.ndarray], num_classes: int = 1, seed: int = 0
) -> bool:
    """Whether labels that know nothing of the truth would often be associated with it as much as these are.

    The labels are moved around each image (what leaves on one side comes back on the other) by random offsets. That
    leaves their structure and the truth's as they are, but breaks whatever ties them. φ is no chance where at most
    CHANCE of SHIFTS offsets reach it. Meant for few images, whose spread cannot be known; large sets have intervals.

    Args:
        truths, labels: classes with 255 ignored, (H, W) each.
    Source: the toroidal shift test of spatial statistics (Lotwick & Silverman, J. R. Statist. Soc. B 44, 1982).
    """
    rng = np.random.default_rng(seed)

    def strength(move: bool) -> float:
        offsets = [tuple(rng.integers(0, label.shape)) if move else (0, 0) for label in labels]
        moved = [np.roll(label, offset, (0, 1)) for label, offset in zip(labels, offsets, strict=True)]
        counts = np.sum([count_transitions(*pair, num_classes) for pair in zip(truths, moved, strict=True)], axis=0)
        return float(np.nan_to_num(np.abs(association(counts))))

    observed = strength(move=False)
    return sum(strength(move=True) >= observed for _ in range(SHIFTS)) > CHANCE * SHIFTS
