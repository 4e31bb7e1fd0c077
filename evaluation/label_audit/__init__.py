"""The label audit: what labels will teach a network, said before training.

Given labels and, for some of their images, clean labels (or a second annotator's, or the images alone), `audit_labels`
estimates the transition matrix, reads it by distance to the true boundary, and gives a verdict, the IoU of a perfect
learner, the IoU to expect from a real network, and what to do. A file for each object of the theory: ``estimate`` (Q
and its error), ``by_distance`` (Q by place), ``iou_ceiling``, ``predicted_iou``, ``verdict``; what is said of it:
``with_reference``, ``without_reference``, ``text``, ``plot``; ``lists`` audits a data set on disk.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.label_audit.audit import audit_labels
    from evaluation.label_audit.verdict import Audit
    from evaluation.label_audit.with_reference import ReferenceAudit

__all__ = ["Audit", "ReferenceAudit", "audit_labels"]

_MODULES = {"Audit": "verdict", "ReferenceAudit": "with_reference", "audit_labels": "audit"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: labels without a reference need a part of this package."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
