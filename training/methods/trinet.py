"""Tri-network: three networks, each of which learns the pixels that both others find easy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from training.data import TrainingData
from training.engine import Step
from training.methods.several import SeveralNetworks, only, small_loss
from training.options import TrainingOptions


class TriNet(SeveralNetworks):
    r"""Network i learns the pixels that are among the easiest of both others, :math:`M_j \cap M_k`,

    with :math:`M_j` the share of a batch's pixels on which network j has the smallest loss. That share falls linearly
    from 1 to ``select`` over the run.

    Args:
        select: the share in the end.
    Source: Zhang et al., *Robust medical image segmentation from non-expert annotations with tri-network*, MICCAI 2020;
        joint selection as its released code has it, without the paper's integration of both predictions.
    """

    count = 3
    BOUNDS: ClassVar = {"select": (0.05, 1.0)}

    def __init__(self, options: TrainingOptions, data: TrainingData, *, select: float = 0.8) -> None:
        super().__init__(options, data)
        self.select = select

    def kept_share(self, epoch: int) -> float:
        """The share of epoch 1, 2, …: all of it in the first, ``select`` in the last."""
        return 1 - (1 - self.select) * (epoch - 1) / max(1, self.options.optimization.epochs - 1)

    def backward(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        keep = self.kept_share(self.epoch)

        def objective(images: Tensor, labels: Tensor) -> Tensor:
            logits = step.logits(images)
            easy = [small_loss(each, labels, keep) for each in logits.detach()]
            taught = [easy[1] & easy[2], easy[0] & easy[2], easy[0] & easy[1]]
            losses = [step.loss(each, only(labels, both)) for each, both in zip(logits, taught, strict=True)]
            return torch.stack(losses).mean()

        return step.backward_mean(images, labels, objective)
