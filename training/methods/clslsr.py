"""Confident learning with spatial label smoothing: labels that a first network doubts are made soft for the second."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from datasets.labels import IGNORE, label_classes
from models import to_scores
from training.data import TrainingData
from training.engine import Step
from training.methods.scores import class_scores, one_hot, require_cross_entropy, soft_cross_entropy, training_scores
from training.methods.supervised import Supervised
from training.options import TrainingOptions
from training.run.state import TrainingState
from utils.device import autocast


class ConfidentSmoothing(Supervised):
    r"""Confident learning finds the wrong labels, label smoothing disarms them (CL + SLSR).

    For ``warmup`` of the epochs the network learns the labels as they are. What it is then is the teacher, frozen. Its
    mean score of class k over the pixels labelled k is the threshold :math:`t_k`. A pixel labelled y is an error where
    the most likely of the classes with :math:`p_k \ge t_k` is another than y (off the diagonal of the confident joint).
    From then on errors are learned as :math:`(1 - \epsilon)\,y + \epsilon / K`.

    Args:
        warmup: share of the epochs.
        epsilon: ε.
    Source: Zhang et al., *Characterizing label errors*, MICCAI 2020. Theirs are two trainings with cross-validated
        scores; here the second goes on from the first, within the same number of steps.
    """

    BOUNDS: ClassVar = {"warmup": (0.0, 1.0), "epsilon": (0.0, 1.0)}

    def __init__(
        self, options: TrainingOptions, data: TrainingData, *, warmup: float = 0.5, epsilon: float = 0.25
    ) -> None:
        super().__init__(options, data)
        require_cross_entropy(options, "clslsr")
        self.warmup, self.epsilon = warmup, epsilon
        self.classes = label_classes(options.data.num_classes)

    def begin(self, state: TrainingState, folder: Path) -> list[str]:
        """Bring the teacher back where there was one."""
        self.teacher = None
        if "teacher" in state.memory:
            self._set_teacher(state)
        return super().begin(state, folder)

    def _set_teacher(self, state: TrainingState) -> None:
        self.teacher = copy.deepcopy(state.predictor).requires_grad_(False).eval()
        self.teacher.load_state_dict(state.memory["teacher"])
        self.thresholds = torch.tensor(state.memory["thresholds"], device=state.device)

    def refresh(self, state: TrainingState) -> None:
        """After the warm-up, keep the network as the teacher and take its thresholds."""
        if self.teacher is not None or state.epoch < self.warmup * self.options.optimization.epochs:
            return
        total, count = np.zeros(self.classes), np.zeros(self.classes)
        for index, scores in training_scores(state, self.data.train):
            label = self.data.train.label(index, state.epoch)
            for number in range(self.classes):
                total[number] += float(scores[number].numpy()[label == number].sum(dtype=np.float64))
                count[number] += int((label == number).sum())
        state.memory["thresholds"] = [float(each) for each in np.where(count > 0, total / np.maximum(count, 1), np.inf)]
        state.memory["teacher"] = {name: value.clone() for name, value in state.predictor.state_dict().items()}
        self._set_teacher(state)

    def backward(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        if self.teacher is None:
            return step.backward(images, labels)
        teacher = self.teacher

        def objective(images: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad(), autocast(images.device, step.precision):
                scores = class_scores(to_scores(teacher(images)))
            wrong = label_errors(scores, labels, self.thresholds)
            targets = smoothed_targets(labels, wrong, self.classes, self.epsilon)
            return soft_cross_entropy(step.logits(images), labels, targets=targets).mean()

        return step.backward_mean(images, labels, objective)


def label_errors(scores: Tensor, labels: Tensor, thresholds: Tensor) -> Tensor:
    """Pixels off the diagonal of the confident joint, bool (B, H, W).

    Args:
        scores: of all classes, (B, K, H, W).
        labels: (B, H, W).
        thresholds: t_k, (K,).
    """
    confident = scores >= thresholds[:, None, None]
    likely = scores.masked_fill(~confident, -1).argmax(1)
    return confident.any(1) & (likely != labels) & (labels != IGNORE)


def smoothed_targets(labels: Tensor, wrong: Tensor, classes: int, epsilon: float) -> Tensor:
    """One-hot labels, smoothed by ε where they are wrong, float32 (B, K, H, W)."""
    targets = one_hot(labels, classes)
    return torch.where(wrong[:, None], (1 - epsilon) * targets + epsilon / classes, targets)
