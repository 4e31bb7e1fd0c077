"""The verdict of an audit, and what audits with and without a reference have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.files import COUNT, LIST, NUMBER, NUMBERS, OBJECT, SWITCH, TEXT, Kind, read_record

if TYPE_CHECKING:
    from datasets.transition_matrix import TransitionMatrix

VERDICTS = ("not learnable", "inverted", "biased", "learnable", "unknown")  # that verdicts begin with
UNDECIDED = ("unknown", "not learnable")  # verdicts that say nothing of the direction
BIAS_MARGIN = 0.03  # of the IoU of clean labels that systematic errors may cost before labels count as biased
DETAILS = [
    "compared",
    "predicted_iou_is",
    "transitions",
    "ceiling",
    "density_agreement",
    "image_evidence",
    "foreground",
]


def _are_biases(value: Any) -> bool:
    return LIST.accepts(value) and all(isinstance(each, dict) and TEXT.accepts(each.get("kind")) for each in value)


def _are_errors(value: Any) -> bool:
    if not isinstance(value, dict) or not TEXT.or_null().accepts(value.get("repair", 0)):
        return False
    tables = [value.get("pixels"), value.get("labelled")]
    if not all(LIST.accepts(table) and all(map(NUMBERS.accepts, table)) for table in tables):
        return False
    sizes = [[len(row) for row in table] for table in tables]
    return sizes[0] == sizes[1] and len(set(sizes[0])) == 1 and _are_masks(value.get("stand_in"), sizes[0][0])


def _are_masks(value: Any, distances: int) -> bool:
    """Whether counts of masks by threshold and image are tables of one size; or null, as in earlier versions."""
    if value is None:
        return True
    parts = [value.get(name) for name in ("pixels", "labelled", "outcomes")] if isinstance(value, dict) else []
    if not parts or not all(_is_block(part) for part in parts):
        return False
    shapes = [
        (len(part), {len(table) for table in part}, {len(row) for table in part for row in table}) for part in parts
    ]
    return (
        shapes[0] == shapes[1] and shapes[0][:2] == shapes[2][:2] and [shapes[0][2], shapes[2][2]] == [{distances}, {3}]
    )


def _is_block(part: Any) -> bool:
    return LIST.accepts(part) and all(LIST.accepts(table) and all(map(NUMBERS.accepts, table)) for table in part)


BIASES = Kind("a list of objects that have a kind", _are_biases)
ERRORS = Kind("an object with repair, and pixels and labelled as tables of one size", _are_errors)
# the keys of audit.json, and what their values are where they are not null
AUDIT_FIELDS = {"verdict": TEXT, "iou_ceiling": NUMBER, "predicted_iou": NUMBER, "phi": NUMBER, "contrast": NUMBER}
AUDIT_FIELDS |= {"Q": LIST, "Q_low": LIST, "Q_high": LIST, "rank": COUNT, "det": NUMBER, "invert": SWITCH}
AUDIT_FIELDS |= {"threshold": NUMBER, "profile": OBJECT, "predicted_iou_low": NUMBER, "predicted_iou_high": NUMBER}
AUDIT_FIELDS |= {"relative_iou": NUMBER, "steps": COUNT, "bias": BIASES, "offset": NUMBER, "repair": TEXT}
BESIDE = {"annotators": LIST, "repaired_iou": NUMBER, "errors_by_distance": ERRORS}  # that only some audits have
HOPELESS = "Training on these labels teaches nothing: get other labels, or train without any (--igtt)."


def read_audit(path: Path) -> dict[str, Any]:
    """The content of an audit.json; earlier versions wrote fewer keys.

    Raises:
        UserError: it is missing or broken.
    """
    optional = {name: kind.or_null() for name, kind in (AUDIT_FIELDS | BESIDE).items() if name != "verdict"}
    return read_record(path, {"verdict": TEXT}, optional, remedy="put back a copy, or remove the file")


@dataclass(frozen=True, kw_only=True)
class Audit(ABC):
    """What an audit found.

    Args:
        verdict: begins with one of VERDICTS; *biased* is followed by the kinds.
        num_classes: 1 for binary labels.
        images: labels audited.
        sampled: places of the images that everything but Q was estimated from.
        reference: what the labels were compared with.
    """

    verdict: str
    num_classes: int
    images: int
    sampled: list[int]
    reference: str

    @property
    def predicted_iou(self) -> float:
        """Expected IoU (K classes: mean IoU) of a trained network; NaN where it cannot be predicted."""
        return float("nan")

    @property
    def iou_ceiling(self) -> float:
        """IoU of a perfect learner of the labels; NaN where it is not known."""
        return float("nan")

    @property
    def matrix(self) -> TransitionMatrix | None:
        """Q, as a reference shows it; None without one."""
        return None

    @property
    def errors_forget_image(self) -> bool:
        """Whether Q describes the errors: they depend on the class alone, as far as enough images tell."""
        return False

    @property
    def threshold(self) -> float | None:
        """The score threshold that the labels imply, after inversion; None where none is known."""
        return None

    @property
    def invert(self) -> bool | None:
        """Whether training should invert binary scores; None where the direction is not known."""
        return None if self.num_classes > 1 or self.is_undecided else self._shows_inverse()

    @abstractmethod
    def _shows_inverse(self) -> bool:
        """Whether labels with a direction show the inverse of the truth."""

    @property
    def is_undecided(self) -> bool:
        """Whether the verdict says nothing of the direction."""
        return self.verdict in UNDECIDED

    @property
    def is_biased(self) -> bool:
        """Whether systematic errors decide the verdict."""
        return self.verdict.startswith("biased")

    def line(self) -> str:
        """The audit in one line, ``verdict: learnable (predicted IoU 0.71, IoU ceiling 0.93)``."""
        ious = (self.predicted_iou, self.iou_ceiling)
        predicted, ceiling = ("unknown" if np.isnan(value) else f"{value:.2f}" for value in ious)
        return f"verdict: {self.verdict} (predicted IoU {predicted}, IoU ceiling {ceiling})"

    @abstractmethod
    def reason(self) -> str:
        """Why the verdict is what it is, in a sentence."""

    def warnings(self) -> list[str]:
        """What whoever trains on the labels must hear beside the line, a sentence each."""
        return []

    @abstractmethod
    def notes(self) -> list[str]:
        """What stands behind the verdict and how sure it is, a sentence each."""

    @abstractmethod
    def advice(self, matrix_file: str | None = None) -> list[str]:
        """What to do, a sentence each.

        Args:
            matrix_file: where Q was written, for options that take it; None if it was not.
        """

    def to_json(self) -> dict[str, Any]:
        """The content of ``audit.json``, AUDIT_FIELDS: null is what the evidence cannot give."""
        return {**dict.fromkeys(AUDIT_FIELDS), "verdict": self.verdict, "invert": self.invert, **self._found()}

    def record(self) -> dict[str, Any]:
        """The content of ``audit.json`` on disk: `to_json`, and what only some audits have."""
        return self.to_json()

    def _found(self) -> dict[str, Any]:
        """Those of AUDIT_FIELDS that only this kind of audit has."""
        return {}

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
