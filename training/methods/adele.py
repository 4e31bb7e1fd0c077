"""ADELE: labels are corrected, class by class, when the network has learned what is regular in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE, label_classes
from evaluation.scores import class_iou, confusion_matrix
from models import to_scores
from training.data import TrainingData
from training.engine import Step
from training.methods.scores import class_scores, training_scores
from training.methods.supervised import Supervised
from training.options import TrainingOptions
from training.run.state import TrainingState
from utils.cli import UserError

SCALES = (0.7, 1.5)  # beside 1
MIN_POINTS = 4  # of a curve with three parameters


class Adele(Supervised):
    r"""Adaptive early-learning correction.

    After each epoch the IoU of predictions and labels of the training images is a point of a class's curve. The curve
    :math:`f(t) = a\,(1 - e^{-b t^c})` is fitted, and the class is corrected from the first epoch on at which

    .. math:: \frac{|f'(1) - f'(t)|}{|f'(1)|} > r,

    where early learning ends and memorising begins. Then, after every epoch, a pixel of a corrected class, or of the
    background, gets the predicted class, if that is a corrected one, or background, the image has it and its score is
    above τ. The loss has a term that makes predictions at three scales agree, :math:`\lambda \frac13 \sum_k
    \mathrm{KL}(p_k \| q)` with their mean q, where that is above τ.

    Args:
        slope: r.
        confidence: τ.
        consistency: λ; 0 saves the passes at two more scales, three times the work.
    Source: Liu et al., *Adaptive early-learning correction for segmentation from noisy annotations*, CVPR 2022.
    """

    changes_labels = True
    BOUNDS: ClassVar = {"slope": (0.05, 0.999), "confidence": (0.5, 0.999), "consistency": (0.0, 100.0)}

    def __init__(
        self,
        options: TrainingOptions,
        data: TrainingData,
        *,
        slope: float = 0.9,
        confidence: float = 0.8,
        consistency: float = 1.0,
    ) -> None:
        super().__init__(options, data)
        if options.noise.label_noise_refresh == "epoch":
            raise UserError(
                "--method adele corrects labels, which --label_noise_refresh epoch draws anew: leave it out"
            )
        self.slope, self.confidence, self.consistency = slope, confidence, consistency
        self.classes = label_classes(options.data.num_classes)

    def begin(self, state: TrainingState, folder: Path) -> list[str]:
        """Correct the labels again that the run had corrected, by the same network."""
        self.listed = [self.data.train.stored_label(index) for index in range(len(self.data.train))]
        if state.epoch > 0:
            self._correct(state, self._corrected(state.memory["ious"]))
        else:
            state.memory["ious"] = []
        return super().begin(state, folder)

    def refresh(self, state: TrainingState) -> None:
        """Note how well the labels are learned, and correct those of the classes whose time has come."""
        confusion = np.zeros((self.classes, self.classes), np.int64)
        for index, scores in training_scores(state, self.data.train):
            confusion += confusion_matrix(scores.argmax(0).numpy(), self.listed[index], self.classes)
        ious = class_iou(confusion)
        state.memory["ious"] = [*state.memory["ious"], [float(each) for each in ious]]
        self._correct(state, self._corrected(state.memory["ious"]))

    def _corrected(self, ious: Sequence[Sequence[float]]) -> list[int]:
        """The classes that are corrected by now; background is with all others."""
        past = [ious[: count + 1] for count in range(len(ious))]
        return [
            number
            for number in range(1, self.classes)
            if any(learning_slows([each[number] for each in until], self.slope) for until in past)
        ]

    def _correct(self, state: TrainingState, classes: Sequence[int]) -> None:
        if not classes:
            return
        for index, scores in training_scores(state, self.data.train):
            self.data.train.set_label(
                index, corrected_label(self.listed[index], scores.numpy(), classes, self.confidence)
            )

    def backward(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        if not self.consistency:
            return step.backward(images, labels)

        def objective(images: Tensor, labels: Tensor) -> Tensor:
            logits = step.logits(images)
            scaled = [_at_scale(step, images, scale) for scale in SCALES]
            term = scale_disagreement([logits, *scaled], labels, self.confidence)
            return step.loss(logits, labels) + self.consistency * term

        return step.backward_mean(images, labels, objective)


def _at_scale(step: Step, images: Tensor, scale: float) -> Tensor:
    """Logits of images seen at another scale, at their own size."""
    size = images.shape[-2:]
    scaled = [max(16, round(side * scale)) for side in size]
    logits = step.logits(F.interpolate(images, size=scaled, mode="bilinear", align_corners=False))
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)


def scale_disagreement(logits: Sequence[Tensor], labels: Tensor, confidence: float) -> Tensor:
    """KL divergence of each scale's scores from their mean, 0 where that is not confident, over all pixels; a scalar.

    Args:
        logits: (B, C, H, W) of each scale.
        labels: (B, H, W); ignored pixels do not count.
    """
    scores = torch.stack([class_scores(to_scores(each)) for each in logits]).clamp_min(1e-7)  # (S, B, K, H, W)
    mean = scores.mean(0)
    counted = ((mean.amax(1) > confidence) & (labels != IGNORE)).float()
    divergence = (scores * (scores.log() - mean.log())).sum(2).mean(0)
    return (divergence * counted).sum() / counted.numel()


def fit_learning_curve(ious: Sequence[float]) -> tuple[float, float, float]:
    """(a, b, c) of the curve a·(1 − exp(−b·t^c)) nearest to IoUs of epochs t = 1, 2, …; a and c at most 1."""
    from scipy.optimize import curve_fit

    epochs = np.arange(1, len(ious) + 1, dtype=np.float64)
    found, _ = curve_fit(
        lambda t, a, b, c: a * (1 - np.exp(-b * t**c)),
        epochs,
        np.asarray(ious),
        p0=(min(1.0, max(ious) + 0.01), 1.0, 0.8),
        bounds=([0, 0, 0], [1, np.inf, 1]),
        max_nfev=2000,
    )
    a, b, c = (float(value) for value in found)
    return a, b, c


def slope_loss(a: float, b: float, c: float, epoch: float) -> float:
    """|f′(1) − f′(t)| / |f′(1)| of the curve; 0 where it never rises."""

    def slope(t: float) -> float:
        return a * b * c * t ** (c - 1) * np.exp(-b * t**c)

    return abs(slope(1) - slope(epoch)) / slope(1) if slope(1) > 0 else 0.0


def learning_slows(ious: Sequence[float], limit: float) -> bool:
    """Whether the curve of a class has flattened by its last epoch; never where one of its IoUs is undefined."""
    if len(ious) < MIN_POINTS or not np.isfinite(ious).all():
        return False
    try:
        return slope_loss(*fit_learning_curve(ious), epoch=len(ious)) > limit
    except RuntimeError:  # no curve was found
        return False


def corrected_label(label: np.ndarray, scores: np.ndarray, classes: Sequence[int], confidence: float) -> np.ndarray:
    """The label with the prediction where that is confident, and both are background or of the corrected classes.

    Args:
        label: uint8 (H, W).
        scores: of all classes, (K, H, W).
        classes: those that are corrected.
    """
    predicted = scores.argmax(0).astype(np.uint8)
    allowed = [0, *(each for each in classes if (label == each).any())]
    changed = (scores.max(0) > confidence) & np.isin(label, [0, *classes]) & np.isin(predicted, allowed)
    return np.where(changed, predicted, label)
