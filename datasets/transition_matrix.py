r"""The noise transition matrix Q, and all that follows from it.

.. math:: Q_{jm} = P(\text{label}=m \mid \text{truth}=j)

Rows are the truth and sum to 1. A network trained with a proper loss (BCE, CE) learns
:math:`\tilde p = p\,Q`, so everything that labels can teach about classes passes through Q. Of two classes it has a
threshold and a direction; of more, scores that may have to be decoded by :math:`Q^{-1}` before the argmax.
The file is ``{"classes": K, "matrix": [[…], …]}``.

Source: Luo et al., AAAI-22; decoding after Patrini et al., CVPR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datasets.labels import IGNORE, label_classes
from utils.errors import UserError
from utils.files import read_json, write_json
from utils.paths import display_path

ROW_SUM_TOLERANCE = 1e-6
MAX_CONDITION = 100.0  # of a matrix that is inverted: beyond, the inverse multiplies noise past any use
MIN_PHI = 0.02  # a weaker association of labels and truth is as good as none
FILE_FORM = '{"classes": K, "matrix": [[…], …]} with K rows (truth) of K numbers each'


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
    r"""Rows of counts as fractions, :math:`N_{jm} / \sum_m N_{jm}`, (…, K, K); NaN in the row of an absent class."""
    totals = counts.sum(-1, keepdims=True)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def contrast(rows: np.ndarray) -> np.ndarray:
    r"""How much more often a label is its own class than another one: Youden's J of the labels.

    .. math:: c = \frac1K \sum_j Q_{jj} - \frac{1}{K(K-1)} \sum_{j \ne m} Q_{jm}

    For two classes :math:`c = Q_{11} - Q_{01} = \det Q`; for an even share r of flips :math:`c = 1 - rK/(K-1)`, zero
    at r = (K − 1)/K. c < 0 is what inversion means for any number of classes; the sign of det Q says it for two only.

    Args:
        rows: transition matrices (…, K, K); rows of NaN (absent classes) are left out.
    Returns: (…,) in [−1/(K − 1), 1]; NaN without any class.
    """
    diagonal = np.diagonal(rows, axis1=-2, axis2=-1)
    present = np.isfinite(diagonal)
    total, number = np.where(present, diagonal, 0).sum(-1), present.sum(-1)
    mean = np.divide(total, number, out=np.full(np.shape(number), np.nan), where=number > 0)
    return mean - (1 - mean) / (rows.shape[-1] - 1)


@dataclass(frozen=True, eq=False)
class ScoreDecoder:
    """Class scores corrected for known label noise: p(label) = p(truth) · M, so p(truth) = p(label) · M⁻¹.

    Args:
        matrix: M, (K, K): Q, or Q·diag(w) where class weights w moved the scores too.
    """

    matrix: np.ndarray

    @classmethod
    def of_config(cls, config: dict[str, Any]) -> ScoreDecoder | None:
        """The decoder kept in a run's config; None where scores need none."""
        stored = config.get("decode_matrix")
        return None if stored is None else cls(np.asarray(stored, np.float64))

    @cached_property
    def inverse(self) -> np.ndarray:
        """M⁻¹, float64 (K, K)."""
        return np.linalg.inv(self.matrix)

    def __call__(self, scores: Any) -> Any:
        """Decode scores (…, K, H, W), a NumPy array or a tensor; they may leave [0, 1] then: for argmax."""
        if isinstance(scores, np.ndarray):
            return np.moveaxis(np.moveaxis(scores, -3, -1) @ self.inverse.astype(scores.dtype), -1, -3)
        return (scores.movedim(-3, -1) @ scores.new_tensor(self.inverse)).movedim(-1, -3)


@dataclass(frozen=True, eq=False)
class TransitionMatrix:
    """A noise transition matrix.

    >>> Q = TransitionMatrix.from_counts(np.array([[90, 10], [30, 70]]))
    >>> Q.rows.tolist(), round(float(Q.contrast), 3), Q.inverts, round(Q.threshold(), 3)
    ([[0.9, 0.1], [0.3, 0.7]], 0.6, False, 0.4)
    >>> Q.true_shares([0.78, 0.22]).round(3).tolist()  # a fifth of the pixels is foreground
    [0.8, 0.2]

    Args:
        rows: float64 (K, K), rows = truth, entries in [0, 1], rows summing to 1; the row of a class that the truth
            never shows is NaN throughout.
    Raises: ValueError where it is not such a matrix.
    """

    rows: np.ndarray

    def __post_init__(self) -> None:
        rows = np.array(self.rows, np.float64)
        if rows.ndim != 2 or rows.shape[0] != rows.shape[1] or len(rows) < 2:
            raise ValueError(f"no transition matrix: its shape is {rows.shape}, expected K×K with K ≥ 2")
        for truth, row in enumerate(rows.tolist()):
            if not all(map(math.isnan, row)) and (fault := _row_fault(row)):
                raise ValueError(f"no transition matrix: row {truth} (truth = class {truth}) {fault}")
        rows.setflags(write=False)
        object.__setattr__(self, "rows", rows)

    @classmethod
    def identity(cls, num_classes: int) -> TransitionMatrix:
        """Of clean labels; ``num_classes`` 1 is binary."""
        return cls(np.eye(label_classes(num_classes)))

    @classmethod
    def from_counts(cls, counts: np.ndarray) -> TransitionMatrix:
        """From pixels of true class j (row) with label m (column), (K, K), see `count_transitions`."""
        return cls(normalize_rows(counts))

    @classmethod
    def read(cls, path: Path | str, num_classes: int | None = None) -> TransitionMatrix:
        """Read a file of the form above.

        Args:
            num_classes: the number of classes it must have (1 is binary, 2×2); None takes any.
        Raises:
            UserError: no such file, or not such a matrix; the message says what was found.
        """
        path, shown = Path(path), display_path(Path(path))
        content = read_json(path)
        if not isinstance(content, dict) or not {"classes", "matrix"} <= content.keys():
            raise UserError(f"{shown} is no transition matrix: expected {FILE_FORM}")
        rows, classes = content["matrix"], content["classes"]
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(rows) for row in rows):
            raise UserError(f"{shown}: the matrix is not square; expected {FILE_FORM}")
        if isinstance(classes, bool) or classes != len(rows) or not 2 <= len(rows) <= IGNORE:
            raise UserError(
                f'{shown}: "classes" is {classes!r} and the matrix {len(rows)}×{len(rows)}; expected {FILE_FORM}, '
                f"K from 2 to {IGNORE}"
            )
        if num_classes is not None and len(rows) != label_classes(num_classes):
            raise UserError(
                f"{shown} is {len(rows)}×{len(rows)}, but --num_classes {num_classes} means "
                f"{label_classes(num_classes)} classes (binary has background and foreground)"
            )
        for truth, row in enumerate(rows):
            if fault := _row_fault(row):
                raise UserError(f"{shown}: row {truth} (truth = class {truth}) {fault}")
        return cls(np.array(rows, float))

    def write(self, path: Path | str) -> None:
        """Write a file from which `read` returns the same numbers; every class must have been seen."""
        if not self.is_complete:
            raise ValueError(f"classes without a row cannot be written: {self.rows.tolist()}")
        write_json(Path(path), {"classes": self.classes, "matrix": self.rows})

    def __matmul__(self, later: TransitionMatrix) -> TransitionMatrix:
        """Noise on noise: this one, then ``later``."""
        return TransitionMatrix(self.rows @ later.rows)

    @property
    def classes(self) -> int:
        """K."""
        return len(self.rows)

    @property
    def present(self) -> np.ndarray:
        """Indices of the classes that the truth shows."""
        return np.flatnonzero(np.isfinite(self.rows[:, 0]))

    @property
    def is_complete(self) -> bool:
        """Whether every class has a row."""
        return len(self.present) == self.classes

    @property
    def block(self) -> np.ndarray:
        """The rows and columns of the classes that occur."""
        return self.rows[np.ix_(self.present, self.present)]

    @property
    def contrast(self) -> float:
        """See `contrast`."""
        return float(contrast(self.rows))

    @property
    def inverts(self) -> bool:
        """Whether labels name the other classes more often than the own one."""
        return self.contrast < 0

    @property
    def is_invertible(self) -> bool:
        """Whether the noise can be undone among the classes that occur: the condition number is below MAX_CONDITION."""
        return len(self.present) > 0 and bool(np.linalg.cond(self.block) < MAX_CONDITION)

    @property
    def needs_decoding(self) -> bool:
        """Whether the plain argmax of K-class scores errs: Q's diagonal does not dominate its columns and rows.

        A column is dominated where its diagonal exceeds the sum of its other entries, a row where it is the greatest
        entry: the argmax of a pixel that surely is class j is that of row j. Binary labels (one logit) have a threshold
        instead; do not ask for them.
        """
        others = np.where(np.eye(self.classes, dtype=bool), 0, self.rows)[self.present]
        own = np.diagonal(self.rows)[self.present]
        return bool((own <= others.sum(0)[self.present]).any() or (own <= others.max(1)).any())

    def threshold(self, class_weights: Sequence[float] | None = None) -> float | None:
        r"""The score at which the truth is even, for a network that learned the noisy posterior; two classes.

        .. math:: \tilde p = Q_{01} + (Q_{11} - Q_{01})\,p, \qquad p = \tfrac12 \iff
            \tilde p = \tfrac12 (Q_{01} + Q_{11})

        A negative contrast calls for inverted scores 1 − p̃, on which the same point is one minus that. Weighted cross
        entropy learns :math:`w_1 \tilde p / (w_1 \tilde p + w_0 (1 - \tilde p))` instead, which moves the threshold.

        Args:
            class_weights: weights of background and foreground in the loss.
        Returns: in [0, 1], after inversion; None for more than two classes, absent ones, or no contrast.
        """
        if self.classes != 2 or not self.is_complete or np.isclose(self.rows[0, 1], self.rows[1, 1]):
            return None
        middle = float(self.rows[0, 1] + self.rows[1, 1]) / 2
        even = 1 - middle if self.inverts else middle
        if class_weights is None:
            return even
        background, foreground = reversed(class_weights) if self.inverts else class_weights
        return foreground * even / (foreground * even + background * (1 - even))

    def decoder(self, num_classes: int, class_weights: Sequence[float] | None = None) -> ScoreDecoder | None:
        r"""What corrects class scores before the argmax; None where that is not needed or impossible.

        With class weights w the network learns :math:`w_m \tilde p_m` up to a factor, so :math:`Q\,\mathrm{diag}(w)`
        is undone.

        Args:
            num_classes: 1 for binary labels, whose scores have a threshold and a direction instead; else K.
            class_weights: weights of the classes in the loss.
        """
        if num_classes == 1 or not self.is_complete or not self.is_invertible:
            return None
        if num_classes == 2:  # decided by argmax, which is a threshold of one half
            argmax_is_right = not self.inverts and math.isclose(self.threshold() or 0.0, 0.5)
        else:
            argmax_is_right = not self.needs_decoding
        if argmax_is_right or (class_weights is not None and min(class_weights) <= 0):
            return None
        return ScoreDecoder(self.rows if class_weights is None else self.rows * np.asarray(class_weights))

    def decode(self, scores: np.ndarray) -> np.ndarray:
        """Scores of pixels (P, K) multiplied by Q⁻¹, among the classes that occur."""
        return scores @ np.linalg.pinv(np.nan_to_num(self.rows), rcond=1e-6)

    def true_counts(self, label_counts: np.ndarray) -> np.ndarray:
        """Counts (K, …) by true class from counts by label, Q⁻ᵀ·counts, at least 0; Q must be invertible."""
        return np.linalg.solve(self.rows.T, label_counts).clip(0)

    def true_shares(self, label_shares: Sequence[float] | np.ndarray, lowest: float = 0.0) -> np.ndarray:
        """The class fractions π of the truth from those of noisy labels, by least squares of Qᵀ·π = label fractions.

        Args:
            label_shares: (K,), of sum 1.
            lowest: fraction that no class falls below.
        Returns: (K,), of sum 1.
        """
        shares = np.linalg.lstsq(self.rows.T, label_shares, rcond=None)[0].clip(lowest)
        return shares / shares.sum()


def _row_fault(row: list) -> str | None:
    """What keeps a row from being one of a transition matrix; None where nothing does."""
    for entry in row:
        if isinstance(entry, bool) or not isinstance(entry, (int, float)) or not 0 <= entry <= 1:
            return f"holds {entry!r}; its entries are probabilities from 0 to 1"
    if abs(sum(row) - 1) > ROW_SUM_TOLERANCE:
        return f"sums to {sum(row):.9g}; the probabilities of a row sum to 1"
    return None


def read_matrix(path: Path | str, num_classes: int | None = None) -> np.ndarray:
    """The rows of a matrix file, float64 (K, K); see `TransitionMatrix.read`."""
    return TransitionMatrix.read(path, num_classes).rows


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
