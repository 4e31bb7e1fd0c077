"""An audit as lines of text: why, Q with its intervals, determinant, singular values, profile, densities, verdict."""

from __future__ import annotations

import numpy as np

from evaluation.label_audit.verdict import Audit
from evaluation.label_audit.with_reference import ReferenceAudit

MAX_CLASSES = 20  # of more, only the diagonal of Q is printed


def first_lines(audit: Audit, matrix_file: str | None = None) -> list[str]:
    """What is read first: the verdict, why, what to expect and what to do."""
    lines = [audit.line(), audit.reason(), *_prediction_lines(audit), *audit.warnings()]
    return [*lines, *(f"→ {sentence}" for sentence in audit.advice(matrix_file))]


def _prediction_lines(audit: Audit) -> list[str]:
    """The predicted IoU with its interval, and as a share of what clean labels would lead to."""
    found = audit.expected if isinstance(audit, ReferenceAudit) else None
    if not isinstance(audit, ReferenceAudit) or found is None or np.isnan(found.relative):
        return []
    return [
        f"predicted IoU {found.value:.2f} (90 %: {found.low:.2f} to {found.high:.2f}), {found.relative:.0%} of what "
        f"clean labels would lead to; {audit.prediction_basis()}"
    ]


def audit_lines(audit: Audit) -> list[str]:
    """Everything that was found, beside what `first_lines` says."""
    lines = audit.notes()
    if isinstance(audit, ReferenceAudit):
        lines += _matrix_lines(audit) + [_spectrum_line(audit), _profile_line(audit), _density_line(audit)]
    return lines


def _matrix_lines(audit: ReferenceAudit) -> list[str]:
    """Q, a line per row of the truth, every share with its interval."""
    found, classes = audit.transitions, audit.transitions.matrix.classes
    lines = ["Q, share of each label by true class:"]
    for row, shares in enumerate(found.matrix.rows):
        if not np.isfinite(shares).all():
            lines.append(f"  truth {row}: not in the reference labels")
            continue
        cells = []
        for column in range(classes) if classes <= MAX_CLASSES else [row]:
            bounds = ""
            if found.matrix_low is not None and found.matrix_high is not None:
                bounds = f" ({found.matrix_low[row, column]:.3f} to {found.matrix_high[row, column]:.3f})"
            cells.append((f"label {column} " if classes > MAX_CLASSES else "") + f"{shares[column]:.3f}{bounds}")
        lines.append(f"  truth {row}: " + "  ".join(cells))
    return lines


def _spectrum_line(audit: ReferenceAudit) -> str:
    found = audit.transitions
    values = ", ".join(f"{value:.3f}" for value in found.singular_values)
    return f"det Q = {found.determinant:.3g}, singular values {values}"


def _profile_line(audit: ReferenceAudit) -> str:
    """The shares by distance to the true boundary in one line, places without pixels left out."""
    profile = audit.profile["by_distance"]
    signed = audit.transitions.matrix.classes == 2
    cells = []
    for start, end, share in zip(profile["from"], profile["to"], profile["share"], strict=True):
        if np.isfinite(share):
            end = end + 0.0  # −0 becomes 0
            place = f"below {end:g}" if np.isinf(start) else f"{start:g}+" if np.isinf(end) else f"{start:g} to {end:g}"
            cells.append(f"{place}: {share:.2f}")
    what = "labelled foreground by signed distance" if signed else "labelled right by distance"
    return f"share {what} to the true boundary, pixels: {', '.join(cells)}"


def _density_line(audit: ReferenceAudit) -> str:
    found = audit.agreement
    correlation = "undefined" if np.isnan(found.correlation) else f"{found.correlation:.3f}"
    over = "" if audit.num_classes == 1 else ", averaged over the classes"
    side = 2 * found.bandwidth + 1
    return (
        f"local densities of labels and {audit.named_reference} ({side}×{side} windows{over}): "
        f"correlation {correlation}, rms difference {found.rms_difference:.3f}, of which chance explains "
        f"{found.sampling_error:.3f}"
    )
