"""The label audit: what labels will teach a network, said before training.

Given labels and, for some of their images, clean labels (or a second annotator's, or the images alone), `audit_labels`
estimates the transition matrix, reads it by distance to the true boundary, and gives a verdict, the IoU of a perfect
learner, the IoU to expect from a real network, and what to do. A file for each object of the theory: ``estimate`` (Q
and its error), ``by_distance`` (Q by place), ``iou_ceiling``, ``predicted_iou``, ``verdict``; what is said of it:
``with_reference``, ``without_reference``, ``text``, ``plot``; ``lists`` audits a data set on disk.
"""

from typing import TYPE_CHECKING

from utils.registry import on_demand

if TYPE_CHECKING:
    from evaluation.label_audit.audit import audit_labels
    from evaluation.label_audit.verdict import Audit
    from evaluation.label_audit.with_reference import ReferenceAudit

__all__ = ["Audit", "ReferenceAudit", "audit_labels"]

# Labels without a reference need a part of this package.
__getattr__ = on_demand(__name__, audit="audit_labels", verdict="Audit", with_reference="ReferenceAudit")
