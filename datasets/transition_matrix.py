"""Noise transition matrices: of label noise in theory, counted from pairs of labels, read from and written to JSON.

``Q[j, m] = P(label = m | truth = j)``, rows sum to 1. The file is ``{"classes": K, "matrix": [[…], …]}``, rows = truth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from datasets.labels import IGNORE, label_classes
from utils.cli import UserError
from utils.files import read_json, write_json
from utils.run_folder import display_path

ROW_SUM_TOLERANCE = 1e-6


def joint_counts(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How often value i in ``first`` meets j in ``second``: int64 (256, 256) of two uint8 labels of equal shape."""
    if first.shape != second.shape or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(
            f"expected two uint8 labels of equal shape, got {first.dtype} {first.shape} and "
            f"{second.dtype} {second.shape}"
        )
    pairs = (first.astype(np.uint16) << 8) | second
    return np.bincount(pairs.ravel(), minlength=1 << 16).reshape(256, 256)


def count_transitions(truth: np.ndarray, noisy: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """Count how often each true class became each label.

    Args:
        truth, noisy: labels uint8 of equal shape; pixels that are IGNORE in either are left out.
        num_classes: 1 (binary) or K.
    Returns: int64 (K, K), rows = truth; counts of several images add up.
    """
    classes = label_classes(num_classes)
    joint = joint_counts(truth, noisy)
    seen = np.flatnonzero(joint.sum(axis=0) + joint.sum(axis=1))
    stray = seen[(seen >= classes) & (seen != IGNORE)]
    if stray.size:
        raise ValueError(f"labels of {classes} classes hold the values {stray.tolist()}")
    return joint[:classes, :classes].copy()


def normalize_rows(counts: np.ndarray) -> np.ndarray:
    """Transition matrix float64 (K, K) of transition counts; the row of a class without pixels is NaN."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def sample_matrix(share: float, classes: int) -> np.ndarray:
    """Keep ``share`` of each class ≠ 0, the rest becomes 0: (K, K); binary [[1, 0], [1−p, p]]."""
    matrix = np.eye(classes) * share
    matrix[:, 0] += 1 - share
    matrix[0] = np.eye(classes)[0]
    return matrix


def flip_matrix(foreground_share: float, background_share: float | None = None, *, classes: int) -> np.ndarray:
    """Move a share of every class evenly to the others: (K, K); binary [[1−b, b], [f, 1−f]]."""
    shares = np.full((classes, 1), float(foreground_share))
    shares[0] = foreground_share if background_share is None else background_share
    return np.where(np.eye(classes) > 0, 1 - shares, shares / (classes - 1))


def random_matrix(share: float, classes: int) -> np.ndarray:
    """Foreground with probability ``share`` whatever the truth, in equal parts of the classes ≠ 0: (K, K)."""
    row = np.full(classes, share / (classes - 1))
    row[0] = 1 - share
    return np.tile(row, (classes, 1))


def read_matrix(path: Path | str, num_classes: int | None = None) -> np.ndarray:
    """Read a transition matrix.

    Args:
        num_classes: the number of classes it must have (1 is binary, 2×2); None takes any.
    Returns: float64 (K, K), entries ≥ 0, rows summing to 1.
    Raises:
        UserError: no such file, or not such a matrix; the message says what was found.
    """
    path, shown = Path(path), display_path(Path(path))
    content = read_json(path)
    form = '{"classes": K, "matrix": [[…], …]} with K rows (truth) of K numbers each'
    if not isinstance(content, dict) or not {"classes", "matrix"} <= content.keys():
        raise UserError(f"{shown} is no transition matrix: expected {form}")
    rows, classes = content["matrix"], content["classes"]
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
        raise UserError(f"{shown}: the matrix is not square; expected {form}")
    if isinstance(classes, bool) or classes != len(rows) or not 2 <= len(rows) <= IGNORE:
        raise UserError(
            f'{shown}: "classes" is {classes!r} and the matrix {len(rows)}×{len(rows)}; expected {form}, '
            f"K from 2 to {IGNORE}"
        )
    if num_classes is not None and len(rows) != label_classes(num_classes):
        raise UserError(
            f"{shown} is {len(rows)}×{len(rows)}, but --num_classes {num_classes} means "
            f"{label_classes(num_classes)} classes (binary has background and foreground)"
        )
    for truth, row in enumerate(rows):
        _check_row(row, f"{shown}: row {truth} (truth = class {truth})")
    return np.array(rows, float)


def _check_row(row: list, where: str) -> None:
    for entry in row:
        if isinstance(entry, bool) or not isinstance(entry, (int, float)) or not 0 <= entry <= 1:
            raise UserError(f"{where} holds {entry!r}; its entries are probabilities from 0 to 1")
    if abs(sum(row) - 1) > ROW_SUM_TOLERANCE:
        raise UserError(f"{where} sums to {sum(row):.9g}; the probabilities of a row sum to 1")


def write_matrix(path: Path | str, matrix: np.ndarray) -> None:
    """Write a transition matrix (K, K) so that `read_matrix` returns the same numbers."""
    matrix = np.asarray(matrix, float)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not square or not (matrix >= 0).all() or not np.allclose(matrix.sum(axis=1), 1, rtol=0, atol=ROW_SUM_TOLERANCE):
        raise ValueError(f"no transition matrix: {matrix.tolist()}")
    write_json(Path(path), {"classes": len(matrix), "matrix": matrix})
