"""Co-teaching: two networks, each of which learns the pixels whose labels the other finds easy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from training.data import TrainingData
from training.engine import Step
from training.methods.several import SeveralNetworks, only, small_loss
from training.options import TrainingOptions


class CoTeaching(SeveralNetworks):
    r"""Of each batch a network learns the share R(T) of the pixels on which the *other* one's loss is smallest,

    .. math:: R(T) = 1 - \tau \min(T / T_k,\ 1)

    in epoch T = 1, 2, …: networks learn what is regular first, so that early on small losses are clean labels, and what
    one network has memorised the other has not.

    Args:
        forget: τ, the share of the pixels that is left out in the end; about the share of wrong labels.
        ramp: T_k as a share of all epochs; the paper takes 10 of 200, of which each has many more steps.
    Source: Han et al., *Co-teaching*, NeurIPS 2018, algorithm 1, with pixels in place of images.
    """

    BOUNDS: ClassVar = {"forget": (0.0, 0.95), "ramp": (0.0, 1.0)}

    def __init__(
        self, options: TrainingOptions, data: TrainingData, *, forget: float = 0.2, ramp: float = 0.25
    ) -> None:
        super().__init__(options, data)
        self.forget, self.ramp = forget, ramp

    def kept_share(self, epoch: int) -> float:
        """R(T) of epoch T, counted from 1."""
        until = self.ramp * self.options.optimization.epochs
        return 1 - self.forget * (1.0 if epoch >= until else epoch / until)

    def backward(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        keep = self.kept_share(self.epoch)

        def objective(images: Tensor, labels: Tensor) -> Tensor:
            logits = step.logits(images)
            chosen = [small_loss(each, labels, keep) for each in logits.detach()]
            taught = zip(logits, reversed(chosen), strict=True)
            return torch.stack([step.loss(each, only(labels, other)) for each, other in taught]).mean()

        return step.backward_mean(images, labels, objective)
