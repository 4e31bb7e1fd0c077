"""What validation decides: threshold, direction and the metric by which ``best`` is chosen.

Clean validation labels choose everything by IoU, as far as they are enough to tell (``scores.validation``). Noisy ones
choose nothing by IoU or F1, which reward labels that resemble the noise: the threshold is the one that the noise
implies, else that of Youden's J, which noise that is independent of the image leaves where it is. Without validation
labels only the implied threshold is left. Clean ones also choose by how many pixels the outlines of masks are moved.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.transition_matrix import ScoreDecoder, TransitionMatrix
from evaluation.scores import (
    DEFAULT_THRESHOLD,
    auc,
    best_threshold,
    class_iou,
    counts_at,
    f1,
    iou,
    mean_iou,
    youden_threshold,
)
from evaluation.scores.validation import (
    OFFSETS,
    choose_offset,
    choose_threshold,
    count_offsets,
    is_inverted_beyond_error,
)
from utils.background import read_ahead
from utils.distributed import sum_over_ranks
from utils.processors import usable_processors

MOST_THREADS = 8  # that distances to outlines are computed in
MAX_PIXELS = 2**25  # of all validation images, above which their scores are not kept and masks get no offset


@dataclass(frozen=True)
class Selection:
    """The decision after an epoch.

    Args:
        threshold: scores at or above it are foreground (after inversion); None for several classes.
        invert: whether scores are to be inverted.
        metric: what ``best`` maximises; NaN where there is nothing to choose by.
        metrics: what is logged, name → value.
        tables: confusion matrices of the validation images, or groups of them, (n, K, K); None without labels.
        offset: pixels by which the outlines of masks are moved outwards, see `evaluation.scores.validation`.
        prior: the threshold that is right without a look at the validation images; None where none is implied.
    """

    threshold: float | None
    invert: bool
    metric: float
    metrics: dict[str, float] = field(default_factory=dict)
    tables: np.ndarray | None = None
    offset: float = 0.0
    prior: float | None = None


@dataclass(frozen=True)
class LabelNoiseFacts:
    """What is known of label noise; the one place where Q may be unknown.

    Args:
        matrix: the transition matrix that holds wherever a pixel lies; None where there is none or it is not known.
        invert: whether the labels show the inverse of the truth; None where that is not known.
        prior: the threshold that the audit implies where labels are biased, so that there is no matrix.
    """

    matrix: TransitionMatrix | None = None
    invert: bool | None = None
    prior: float | None = None

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> LabelNoiseFacts:
        """What `to_json` wrote."""
        matrix = None if stored["matrix"] is None else TransitionMatrix(stored["matrix"])
        return cls(matrix, stored["invert"], stored.get("prior"))

    def to_json(self) -> dict[str, Any]:
        """For ``config.json``."""
        rows = None if self.matrix is None else self.matrix.rows
        return {"matrix": rows, "invert": self.invert, "prior": self.prior}

    def threshold(self, class_weights: Sequence[float] | None = None) -> float | None:
        """The threshold that the labels imply, see `TransitionMatrix.threshold`; None where there is none."""
        if self.matrix is None:
            return self.prior if class_weights is None else None
        return self.matrix.threshold(class_weights)

    def decoder(self, num_classes: int, class_weights: Sequence[float] | None = None) -> ScoreDecoder | None:
        """See `TransitionMatrix.decoder`; None where scores are taken as they are."""
        return None if self.matrix is None else self.matrix.decoder(num_classes, class_weights)

    def true_shares(self, label_shares: np.ndarray) -> np.ndarray:
        """The class fractions of the truth from those of the labels, (K,); unchanged where Q is not known."""
        return label_shares if self.matrix is None else self.matrix.true_shares(label_shares)

    def true_confusion(self, confusion: np.ndarray) -> np.ndarray:
        """The confusion with the truth, (K, K), from one with the labels, where Q is known and can be inverted."""
        if self.matrix is None or not (self.matrix.is_complete and self.matrix.is_invertible):
            return confusion
        return self.matrix.true_counts(confusion)


def select_binary(
    histograms: np.ndarray,
    *,
    labels_are_clean: bool,
    pred_invert: bool | None,
    implied: float | None,
    labels_inverted: bool = False,
    images: int | None = None,
) -> Selection:
    """Decide from the score histograms of the validation images.

    Args:
        histograms: one for every image, or group of images, (n, 2, BINS).
        pred_invert: a direction that is already decided; None lets clean labels decide.
        implied: the threshold implied by the label noise, if known.
        labels_inverted: whether noisy validation labels show the inverse; they are then judged turned around.
        images: how many images the groups hold; None: one each.
    """
    if labels_inverted and not labels_are_clean:
        histograms = histograms[:, ::-1]
    invert = pred_invert if pred_invert is not None else labels_are_clean and is_inverted_beyond_error(histograms)
    if invert:
        histograms = histograms[..., ::-1]  # the scores; labels stay
    pooled = histograms.sum(0)
    youden_at, youden = youden_threshold(pooled)
    if labels_are_clean:
        prior = DEFAULT_THRESHOLD if implied is None else implied
        threshold, metric = choose_threshold(histograms, prior, images=images)
    else:
        threshold = youden_at if implied is None else implied
        metric = youden
    counts = counts_at(pooled, threshold)
    metrics = {"iou": float(iou(counts)), "f1": float(f1(counts)), "auc": float(auc(pooled)), "youden": youden}
    if labels_are_clean:
        metrics["best_threshold"], metrics["highest_iou"] = map(float, best_threshold(pooled))
    if not pooled.any(axis=1).all():  # without foreground, or without background, even an IoU of 1 means nothing
        metric, metrics = math.nan, dict.fromkeys(metrics, math.nan)
    tables = tables_at(histograms, threshold)
    return Selection(float(threshold), bool(invert), float(metric), metrics, tables, prior=implied)


def tables_at(histograms: np.ndarray, threshold: float) -> np.ndarray:
    """Confusion matrices (n, 2, 2), rows = truth, of score histograms (n, 2, BINS) at a threshold."""
    counts = (counts_at(histogram, threshold) for histogram in histograms)
    return np.array([[[at.tn, at.fp], [at.fn, at.tp]] for at in counts])


def select_classes(
    tables: np.ndarray, *, labels_are_clean: bool, noise: LabelNoiseFacts = LabelNoiseFacts()
) -> Selection:
    """Decide from confusion matrices: by mean IoU, or by mean J over the classes on noisy labels.

    Args:
        tables: one for every validation image, or group of images, (n, K, K).
        noise: of noisy validation labels, whose confusion Qᵀ·C is turned back into C.
    """
    confusion = tables.sum(0)
    if not labels_are_clean:
        confusion = noise.true_confusion(confusion)
    per_class = class_iou(confusion)
    metrics = {"miou": float(mean_iou(confusion))}
    metrics.update({f"iou_class_{index}": float(value) for index, value in enumerate(per_class)})
    metric = metrics["miou"] if labels_are_clean else _mean_youden(confusion)
    if (tables.sum((0, 2)) > 0).sum() < 2:  # where all labels are one class, even an IoU of 1 means nothing
        metric, metrics = math.nan, dict.fromkeys(metrics, math.nan)
    return Selection(None, False, metric, metrics, tables)


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


def with_logged_metrics(selection: Selection, histograms: np.ndarray | None) -> Selection:
    """A decision that validation has no part in, with the metrics that it reaches there, for the record."""
    if histograms is None or not histograms.sum((0, 2)).all():
        return selection
    logged = select_binary(
        histograms, labels_are_clean=False, pred_invert=selection.invert, implied=selection.threshold
    )
    return replace(selection, metrics={**logged.metrics, **selection.metrics}, tables=logged.tables)


class KeptScores:
    """The scores and labels of this process's validation images, as ``engine.validate`` counts them.

    Args:
        most: pixels to keep; of more, none are.
    """

    def __init__(self, most: float = MAX_PIXELS) -> None:
        self.most = most
        self.parts: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self.pixels = 0

    def keep(self, index: int, scores: Tensor, label: Tensor) -> None:
        """Take in scores (h, w) of an image, or of the next rows of it, and their labels."""
        self.pixels += label.numel()
        if self.pixels > self.most:
            self.parts.clear()
        else:
            self.parts[index].append((scores.float().cpu(), label.cpu()))

    def tables(self, thresholds: list[float], groups: Sequence[int] | None, invert: bool) -> np.ndarray | None:
        """Confusion matrices at thresholds and offsets, a table for each group, see ``engine.validate``.

        Returns: int64 (number of groups, thresholds, offsets, 2, 2); None where any process had too many pixels.
        """
        counts = torch.zeros(max(groups) + 1 if groups else 1, len(thresholds), len(OFFSETS), 2, 2, dtype=torch.int64)
        is_full = torch.tensor(int(self.pixels > self.most))

        def count(index: int) -> tuple[int, np.ndarray]:
            scores, label = (torch.cat(part).numpy() for part in zip(*self.parts[index], strict=True))
            scores = 1 - scores if invert else scores
            found = np.stack([count_offsets(scores, label, threshold) for threshold in thresholds])
            return (groups[index] if groups else 0), found

        workers = min(MOST_THREADS, usable_processors())
        for table, found in read_ahead(count, sorted(self.parts), ahead=2 * workers, workers=workers):
            counts[table] += torch.from_numpy(found)
        return None if sum_over_ranks(is_full) else sum_over_ranks(counts).numpy()


def with_offset(selection: Selection, kept: KeptScores | None, groups: Sequence[int] | None) -> Selection:
    """The decision of an epoch, with the offset of masks that clean labels show to be worth it.

    At the chosen threshold, or at the one that is right without a look at these images.

    Args:
        kept: None where validation labels do not decide.
        groups: that the validation images were counted in.
    """
    if kept is None or selection.tables is None or selection.threshold is None or not np.isfinite(selection.metric):
        return selection
    prior = DEFAULT_THRESHOLD if selection.prior is None else selection.prior
    thresholds = list(dict.fromkeys([selection.threshold, prior]))
    tables = kept.tables(thresholds, groups, selection.invert)
    if tables is None:
        return selection
    at, offset = choose_offset(tables)
    if not OFFSETS[offset]:
        return selection
    chosen = tables[:, at, offset]
    (_, invented), (missed, hit) = chosen.sum(0)
    iou, f1 = float(hit / (hit + invented + missed)), float(2 * hit / (2 * hit + invented + missed))
    return replace(
        selection,
        threshold=thresholds[at],
        offset=float(OFFSETS[offset]),
        metric=iou,
        metrics={**selection.metrics, "iou": iou, "f1": f1, "iou_without_offset": selection.metrics["iou"]},
        tables=chosen,
    )
