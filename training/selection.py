"""What validation decides: threshold, direction and the figure by which ``best`` is chosen.

Clean validation labels choose everything by IoU. Noisy ones choose nothing by IoU or F1, which reward labels that
resemble the noise: the threshold is the one that the noise implies, else that of Youden's J, which noise that is
independent of the image leaves where it is. Without validation labels only the implied threshold is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evaluation.label_audit.transitions import implied_threshold, needs_decoding
from evaluation.scores import (
    auc,
    best_threshold,
    class_iou,
    counts_at,
    f1,
    invert_histogram,
    iou,
    mean_iou,
    youden_threshold,
)

DEFAULT_THRESHOLD = 0.5
MAX_CONDITION = 100.0  # of a transition matrix that is inverted: beyond, noise of the scores outweighs them


@dataclass(frozen=True)
class Selection:
    """The decision after an epoch.

    Args:
        threshold: scores at or above it are foreground (after inversion); None for several classes.
        invert: whether scores are to be inverted.
        figure: what ``best`` maximises; NaN where there is nothing to choose by.
        figures: what is logged, name → value.
    """

    threshold: float | None
    invert: bool
    figure: float
    figures: dict[str, float] = field(default_factory=dict)


def can_be_inverted(matrix: np.ndarray | None) -> bool:
    """Whether a transition matrix is known and well enough conditioned to undo the noise."""
    return matrix is not None and bool(np.isfinite(matrix).all()) and np.linalg.cond(matrix) < MAX_CONDITION


def threshold_by_noise(matrix: np.ndarray | None, class_weights: Sequence[float] | None = None) -> float | None:
    r"""The score threshold that known noise implies for binary labels, after inversion; None where there is none.

    Weighted cross entropy learns :math:`w_1 p / (w_1 p + w_0 (1 - p))` in place of p, which moves the threshold.

    Args:
        matrix: transition matrix (2, 2), rows = truth.
        class_weights: weights of background and foreground in the loss.
    """
    if matrix is None or (threshold := implied_threshold(matrix)) is None or class_weights is None:
        return None if matrix is None else implied_threshold(matrix)
    background, foreground = class_weights if matrix[1][1] > matrix[0][1] else reversed(class_weights)
    return foreground * threshold / (foreground * threshold + background * (1 - threshold))


def decoding_matrix(
    matrix: np.ndarray | None, num_classes: int, class_weights: Sequence[float] | None = None
) -> np.ndarray | None:
    r"""The matrix whose inverse corrects class scores before the argmax; None where it is not needed or impossible.

    It is Q, or :math:`Q\,\mathrm{diag}(w)` where the loss has class weights w: weighted cross entropy learns
    :math:`w_m \tilde p_m` up to a factor in place of :math:`\tilde p = p\,Q`.

    Args:
        matrix: transition matrix Q (K, K), rows = truth, or None if unknown.
        num_classes: 1 for binary labels, whose scores have a threshold and a direction instead; else K.
        class_weights: weights of the classes in the loss.
    """
    if num_classes == 1 or not can_be_inverted(matrix):
        return None
    if num_classes == 2:
        argmax_is_right = matrix[1][1] > matrix[0][1] and math.isclose(implied_threshold(matrix), 0.5)
    else:
        argmax_is_right = not needs_decoding(matrix)
    if argmax_is_right:
        return None
    decoding = matrix if class_weights is None else matrix * np.asarray(class_weights)
    return decoding if np.linalg.matrix_rank(decoding) == len(decoding) else None


def is_inverted(histogram: np.ndarray) -> bool:
    """Whether foreground tends to score lower than background (AUC below one half)."""
    return auc(histogram) < 0.5


def select_binary(
    histogram: np.ndarray,
    *,
    labels_are_clean: bool,
    pred_invert: bool | None,
    implied: float | None,
    labels_inverted: bool = False,
) -> Selection:
    """Decide from the score histogram (2, BINS) of the validation set.

    Args:
        pred_invert: a direction that is already decided; None lets clean labels decide.
        implied: the threshold implied by the label noise, if known.
        labels_inverted: whether noisy validation labels show the inverse; they are then judged turned around.
    """
    if labels_inverted and not labels_are_clean:
        histogram = histogram[::-1]
    invert = pred_invert if pred_invert is not None else labels_are_clean and is_inverted(histogram)
    if invert:
        histogram = invert_histogram(histogram)
    youden_at, youden = youden_threshold(histogram)
    if labels_are_clean:
        threshold, figure = best_threshold(histogram)
    else:
        threshold = youden_at if implied is None else implied
        figure = youden
    counts = counts_at(histogram, threshold)
    figures = {"iou": float(iou(counts)), "f1": float(f1(counts)), "auc": float(auc(histogram)), "youden": youden}
    return Selection(float(threshold), bool(invert), float(figure), figures)


def select_classes(
    confusion: np.ndarray, *, labels_are_clean: bool, label_matrix: np.ndarray | None = None
) -> Selection:
    """Decide from the confusion matrix (K, K): mean IoU, or mean J over the classes on noisy labels.

    Args:
        label_matrix: transition matrix of noisy validation labels, whose confusion Qᵀ·C is turned back into C.
    """
    if not labels_are_clean and can_be_inverted(label_matrix):
        confusion = np.linalg.solve(label_matrix.T, confusion).clip(0)
    per_class = class_iou(confusion)
    figures = {"miou": float(mean_iou(confusion))}
    figures.update({f"iou_class_{index}": float(value) for index, value in enumerate(per_class)})
    return Selection(None, False, figures["miou"] if labels_are_clean else _mean_youden(confusion), figures)


def _mean_youden(confusion: np.ndarray) -> float:
    """Sensitivity + specificity − 1, averaged over the classes that occur."""
    truth, predicted, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    hits = np.diag(confusion)
    with np.errstate(invalid="ignore", divide="ignore"):
        youden = hits / truth - (predicted - hits) / (total - truth)
    return float(np.nanmean(youden)) if np.isfinite(youden).any() else math.nan


def without_validation(*, pred_invert: bool | None, implied: float | None, num_classes: int = 1) -> Selection:
    """The decision where no validation list exists: the implied threshold, else one half; ``best`` is ``last``.

    Several classes have no threshold.
    """
    if num_classes > 1:
        return Selection(None, False, math.nan)
    threshold = DEFAULT_THRESHOLD if implied is None else implied
    return Selection(threshold, bool(pred_invert), math.nan)


def with_logged_figures(selection: Selection, histogram: np.ndarray | None) -> Selection:
    """A decision that validation has no part in, with the figures that it reaches there, for the record."""
    if histogram is None or not histogram.sum(1).all():
        return selection
    logged = select_binary(histogram, labels_are_clean=False, pred_invert=selection.invert, implied=selection.threshold)
    return replace(selection, figures={**logged.figures, **selection.figures})
