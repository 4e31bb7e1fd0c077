"""The verdict of an audit, and what audits with and without a reference have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.transition_matrix import count_transitions
from evaluation.label_audit.estimate import Transitions, association
from evaluation.label_audit.iou_ceiling import Ceiling

VERDICTS = ("not learnable", "inverted", "biased at boundaries", "learnable", "unknown")
UNDECIDED = ("unknown", "not learnable")  # verdicts that say nothing of the direction
BIAS_MARGIN = 0.03  # by how much a ceiling may fall below the distance-free one before boundaries count as biased
DETAILS = (
    "compared",
    "predicted_iou_is",
    "transitions",
    "ceiling",
    "density_agreement",
    "image_evidence",
    "foreground",
)
SHIFTS, CHANCE = 200, 0.005  # few images: of so many random placements of the labels, this fraction may do as well
HOPELESS = "Training on these labels teaches nothing: get other labels, or train without any (--igtt)."


@dataclass(frozen=True, kw_only=True)
class Audit(ABC):
    """What an audit found.

    Args:
        verdict: one of VERDICTS.
        num_classes: 1 for binary labels.
        images: labels audited.
        sampled: places of the images that everything but Q was estimated from.
        reference: what the labels were compared with.
        predicted_iou: expected IoU (K classes: mean IoU) of a trained network; NaN where it cannot be predicted.
    """

    verdict: str
    num_classes: int
    images: int
    sampled: list[int]
    reference: str
    predicted_iou: float

    @property
    def invert(self) -> bool | None:
        """Whether training should invert binary scores; None where the direction is not known."""
        return None if self.num_classes > 1 or self.verdict in UNDECIDED else self._shows_inverse()

    @abstractmethod
    def _shows_inverse(self) -> bool:
        """Whether labels with a direction show the inverse of the truth."""

    def line(self) -> str:
        """The audit in one line, ``verdict: learnable (IoU ceiling 0.93)``."""
        ceiling = self.to_json()["iou_ceiling"]
        return f"verdict: {self.verdict} (IoU ceiling {'unknown' if ceiling is None else f'{ceiling:.2f}'})"

    def prediction(self) -> str:
        """``, predicted IoU 0.71``, to follow the line; nothing where it cannot be predicted."""
        return "" if np.isnan(self.predicted_iou) else f", predicted IoU {self.predicted_iou:.2f}"

    @abstractmethod
    def notes(self) -> list[str]:
        """What stands behind the verdict and how sure it is, a sentence each."""

    @abstractmethod
    def advice(self, matrix_file: str | None = None) -> list[str]:
        """What to do, a sentence each.

        Args:
            matrix_file: where Q was written, for options that take it; None if it was not.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The content of ``audit.json``: null is what the evidence cannot give."""

    def details(self, matrix_file: str | None = None) -> dict[str, Any]:
        """Everything else, for ``audit_details.json``; ``matrix_file`` as for `advice`."""
        return {
            "reference": self.reference,
            "num_classes": self.num_classes,
            "images": self.images,
            **dict.fromkeys(DETAILS),
            **self._evidence_details(),
            "notes": self.notes(),
            "advice": self.advice(matrix_file),
        }

    @abstractmethod
    def _evidence_details(self) -> dict[str, Any]:
        """Those of DETAILS that this kind of audit has."""


def decide(transitions: Transitions, ceiling: Ceiling, chance: bool = False) -> str:
    """The verdict from Q and the ceiling, in the order of precedence.

    *not learnable*: |φ| < 0.02, or its interval holds 0. *inverted*: negative contrast (two classes: φ < 0; more: the
    diagonal of Q below its off-diagonal). *biased at boundaries*: the ceiling is more than 0.03 below that of the
    distance-free Q. Else *learnable*. *unknown*: the truth shows a single class, so that nothing can be compared,
    or there are too few images for an interval and what they show may be ``chance``.
    """
    if not np.isfinite(transitions.phi):
        return "unknown"
    if transitions.no_association:
        return "not learnable"
    if chance:
        return "unknown"
    if transitions.inverted:
        return "inverted"
    if ceiling.distance_free - ceiling.value > BIAS_MARGIN:
        return "biased at boundaries"
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
        counts = sum(count_transitions(*pair, num_classes) for pair in zip(truths, moved, strict=True))
        return float(np.nan_to_num(np.abs(association(counts))))

    observed = strength(move=False)
    return sum(strength(move=True) >= observed for _ in range(SHIFTS)) > CHANCE * SHIFTS
