"""The figures of an audit as lines of text: Q with its intervals, determinant, singular values, profile, densities."""

from __future__ import annotations

import numpy as np

from evaluation.label_audit.report import AuditReport

MAX_CLASSES = 20  # of more, only the diagonal of Q is printed


def figure_lines(report: AuditReport) -> list[str]:
    """What stands in ``audit.json`` as numbers, a line each; nothing without a reference."""
    if report.transitions is None:
        return []
    return [*_matrix_lines(report), *_spectrum_lines(report), *_profile_lines(report), *_density_lines(report)]


def _matrix_lines(report: AuditReport) -> list[str]:
    """Q, a line per row of the truth, every share with its interval."""
    found, classes = report.transitions, report.transitions.matrix.classes
    lines = ["Q, share of each label by true class:"]
    for row, shares in enumerate(found.matrix.rows):
        if not np.isfinite(shares).all():
            lines.append(f"  truth {row}: not in the reference labels")
            continue
        cells = []
        for column in range(classes) if classes <= MAX_CLASSES else [row]:
            bounds = ""
            if found.matrix_low is not None:
                bounds = f" ({found.matrix_low[row, column]:.3f} to {found.matrix_high[row, column]:.3f})"
            cells.append((f"label {column} " if classes > MAX_CLASSES else "") + f"{shares[column]:.3f}{bounds}")
        lines.append(f"  truth {row}: " + "  ".join(cells))
    return lines


def _spectrum_lines(report: AuditReport) -> list[str]:
    found = report.transitions
    values = ", ".join(f"{value:.3f}" for value in found.singular_values)
    return [f"det Q = {found.determinant:.3g}, singular values {values}"]


def _profile_lines(report: AuditReport) -> list[str]:
    """The shares by distance to the true boundary in one line, places without pixels left out."""
    if report.profile is None:
        return []
    profile = report.profile["by_distance"]
    signed = report.transitions.matrix.classes == 2
    cells = []
    for start, end, share in zip(profile["from"], profile["to"], profile["share"], strict=True):
        if np.isfinite(share):
            end = end + 0.0  # −0 becomes 0
            place = f"below {end:g}" if np.isinf(start) else f"{start:g}+" if np.isinf(end) else f"{start:g} to {end:g}"
            cells.append(f"{place}: {share:.2f}")
    what = "labelled foreground by signed distance" if signed else "labelled right by distance"
    return [f"share {what} to the true boundary, pixels: {', '.join(cells)}"]


def _density_lines(report: AuditReport) -> list[str]:
    found = report.agreement
    if found is None:
        return []
    correlation = "undefined" if np.isnan(found.correlation) else f"{found.correlation:.3f}"
    over = "" if report.num_classes == 1 else ", averaged over the classes"
    side = 2 * found.bandwidth + 1
    return [
        f"local densities of labels and {report.reference} ({side}×{side} windows{over}): correlation {correlation}, "
        f"rms difference {found.rms_difference:.3f}, of which chance explains {found.sampling_error:.3f}"
    ]
