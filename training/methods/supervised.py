"""Plain training, and with it the form of every method: what ``fit`` asks of one, in the order in which it asks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor, nn

from evaluation.scores import DEFAULT_THRESHOLD
from evaluation.scores.validation import choose_threshold
from training.engine import Step
from training.options import TrainingOptions
from training.selection import Selection, select_binary, select_classes, without_validation

if TYPE_CHECKING:
    from training.data import TrainingData
    from training.run.state import TrainingState


class Supervised:
    """One network that learns its labels as they are. Other methods override what they do otherwise.

    Args:
        data: the training images, whose labels a method may replace, and the validation images.
    """

    BOUNDS: ClassVar[dict[str, tuple[float, float]]] = {}  # option → (least, greatest) value
    needs_saved_epochs = False  # whether ``keep`` wants to know which epochs lie on disk
    changes_labels = False  # whether labels of the training set are replaced while a run goes on

    def __init__(self, options: TrainingOptions, data: TrainingData) -> None:
        self.options, self.data = options, data

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        """What is trained: a module of one network or of several, each made by ``make``."""
        return make()

    def predictor(self, network: nn.Module) -> nn.Module:
        """The network that predicts, of what ``build`` returned; checkpoints hold it as ``model``."""
        return network

    def backward(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        """Add the gradients of a global batch to the parameters.

        Args:
            images: float32 (B, C, H, W), this process's share of the batch.
            labels: uint8 (B, H, W), 255 ignored.
        Returns: the loss of the batch, the same scalar in every process.
        """
        return step.backward(images, labels)

    def begin(self, state: TrainingState, folder: Path) -> list[str]:
        """Make ready for the first epoch, or for the one that a resumed run goes on with.

        Args:
            folder: of the run.
        Returns: lines that say what is learned from.
        """
        self.state = state
        return []

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, counted from 1."""
        return self.state.epoch + 1

    def refresh(self, state: TrainingState) -> None:
        """Look at what an epoch has taught, before it is judged and the next one begins."""

    def decide(self, state: TrainingState, counts: np.ndarray | None, known: np.ndarray | None = None) -> Selection:
        """Settle threshold, direction and the metric of ``best``.

        Args:
            counts: of validation images or groups of them, see ``engine.validate``; None without a validation list.
            known: the same of training images with clean labels, which move the threshold where validation cannot.
        """
        num_classes, clean = self.options.data.num_classes, self.options.data.val_labels == "clean"
        direction = {"auto": None if clean and counts is not None else state.scores.invert, "on": True, "off": False}
        invert = direction[self.options.loss.pred_invert]
        implied = state.scores.threshold(state.loss.class_weights) if state.loss.is_proper else None
        if known is not None:
            turned = known[..., ::-1] if invert or (invert is None and state.scores.invert) else known
            prior = DEFAULT_THRESHOLD if implied is None else implied
            implied = choose_threshold(turned, prior, images=len(self.data.known or known))[0]
        if counts is None:
            return without_validation(pred_invert=invert, implied=implied, num_classes=num_classes)
        if num_classes > 1:
            return select_classes(counts, labels_are_clean=clean, noise=state.labels)
        return select_binary(
            counts,
            labels_are_clean=clean,
            pred_invert=invert,
            implied=implied,
            labels_inverted=bool(state.labels.invert),
            images=len(self.data.val or counts),
        )

    def keep(self, epochs: Collection[int]) -> None:
        """Remove what the run folder holds of other epochs than these, which checkpoints name."""
