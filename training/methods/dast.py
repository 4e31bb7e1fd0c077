"""Divergence-aware selective training: a branch for clean labels, one for noisy ones, and what their distance tells."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from datasets.labels import IGNORE, label_classes
from models import to_scores
from training.data import TrainingData
from training.engine import Step
from training.losses.pixel import labeled_log_score
from training.methods.scores import class_scores, one_hot
from training.methods.several import SeveralNetworks
from training.options import TrainingOptions
from training.run.state import TrainingState
from utils.cli import UserError
from utils.distributed import world_size

SHARPNESS = 16.0  # of the weight exp(−16 D) that pixels have on which the branches disagree
TEMPERATURE = 0.5
QUEUE = 20  # latest noisy batches that a batch is ranked among
RAMP = 0.4  # share of the epochs over which both terms come in


class DivergenceAware(SeveralNetworks):
    r"""The first network learns clean labels, the second noisy ones; the first predicts.

    For the noisy images of a batch, with D the symmetric KL divergence of both networks' scores, each network's cross
    entropy is averaged with weights :math:`e^{-16 D}`. Where the clean network's is the smaller, the labels are noisy
    at least to it, and two terms follow from the rank among the latest batches:

    - the noisy network's among the largest: severe noise, the two are drawn together by D;
    - the clean network's among the smallest: slight noise, the first network also learns the mean of both predictions
      and the label, sharpened, by its mean absolute error.

    Args:
        consistency: weight of the first term.
        supplement: weight of the second.
        select: share of the ranks that counts as largest or smallest.
    Source: Yang et al., *Learning COVID-19 pneumonia lesion segmentation from imperfect annotations via
        divergence-aware selective training*, IEEE JBHI 2022. Their branches share an encoder; here they are two
        networks, so that any network will do.
    """

    learn_apart = True
    BOUNDS: ClassVar = {"consistency": (0.0, 100.0), "supplement": (0.0, 100.0), "select": (0.0, 1.0)}

    def __init__(
        self,
        options: TrainingOptions,
        data: TrainingData,
        *,
        consistency: float = 0.1,
        supplement: float = 0.1,
        select: float = 0.2,
    ) -> None:
        super().__init__(options, data)
        clean = [sample.clean_label is not None for sample in data.train.samples]
        if not any(clean) or all(clean):
            remedy = "give --clean_list LIST, of some images"
            if options.data.clean_list is not None:
                found = "all training images" if any(clean) else "none of the images that --fold leaves to train on"
                remedy = f"--clean_list names {found}; give one of some of them"
            raise UserError(f"--method dast learns from clean and from noisy labels: {remedy}")
        if world_size() > 1 or options.optimization.accumulate > 1:
            raise UserError("--method dast ranks whole batches: train in one process, without --accumulate")
        self.clean, self.classes = torch.tensor(clean), label_classes(options.data.num_classes)
        self.consistency, self.supplement, self.select = consistency, supplement, select

    def begin(self, state: TrainingState, folder: Path) -> list[str]:
        """Ranks go on where they were."""
        state.memory.setdefault("clean_losses", [])
        state.memory.setdefault("noisy_losses", [])
        return super().begin(state, folder)

    def backward(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        if step.indices is None:
            raise ValueError("a step of this method needs to know its images")
        is_clean = self.clean[step.indices.cpu()].to(labels.device)

        def objective(images: Tensor, labels: Tensor) -> Tensor:
            clean, noisy = step.logits(images)
            value = step.loss(clean, labels.masked_fill(~is_clean[:, None, None], IGNORE))
            value = (value + step.loss(noisy, labels.masked_fill(is_clean[:, None, None], IGNORE))) / 2
            if is_clean.all():
                return value
            return value + self._selective(clean[~is_clean], noisy[~is_clean], labels[~is_clean])

        return step.backward_mean(images, labels, objective)

    def _selective(self, clean: Tensor, noisy: Tensor, labels: Tensor) -> Tensor:
        """The terms of the noisy images, by how the batch ranks."""
        memory, none = self.state.memory, clean.sum() * 0
        of_clean, of_noisy = (float(each) for each in weighted_losses(clean, noisy, labels))
        for name, value in (("clean_losses", of_clean), ("noisy_losses", of_noisy)):
            memory[name] = [*memory[name], value][-QUEUE:]
        if len(memory["clean_losses"]) < QUEUE or of_clean >= of_noisy:
            return none
        weight = min(1.0, self.epoch / max(1.0, RAMP * self.options.optimization.epochs))
        value = none
        if rank_of_last(memory["noisy_losses"]) >= QUEUE * (1 - self.select):
            value = value + weight * self.consistency * divergence(clean, noisy, labels).mean()
        if rank_of_last(memory["clean_losses"]) < QUEUE * self.select:
            value = value + weight * self.supplement * self._supplement(clean, noisy, labels)
        return value

    def _supplement(self, clean: Tensor, noisy: Tensor, labels: Tensor) -> Tensor:
        """Mean absolute error of the first network's scores and the sharpened mean of three opinions."""
        scores = class_scores(to_scores(clean))
        masks = [one_hot(class_scores(to_scores(each)).argmax(1), self.classes) for each in (clean, noisy)]
        target = sharpened((masks[0] + masks[1] + one_hot(labels, self.classes)).detach() / 3, TEMPERATURE)
        counted = (labels != IGNORE)[:, None].float()
        return ((scores - target).abs() * counted).sum() / (counted.sum() * self.classes).clamp(min=1)


def rank_of_last(values: Sequence[float]) -> int:
    """How many of the values are smaller than the last one."""
    return bisect_left(sorted(values), values[-1])


def divergence(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """Symmetric KL divergence of two networks' scores, each learning from the other as it is, (B, H, W).

    Args:
        first, second: logits (B, C, H, W).
        labels: (B, H, W); 0 where they are ignored.
    """
    one, two = (class_scores(to_scores(each)).clamp(1e-7, 1) for each in (first, second))
    there = (two.detach() * (two.detach().log() - one.log())).sum(1)
    back = (one.detach() * (one.detach().log() - two.log())).sum(1)
    return (there + back) / 2 * (labels != IGNORE)


@torch.no_grad()
def weighted_losses(clean: Tensor, noisy: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy of either network on noisy labels, weighted by how far both agree; two scalars."""
    weights = torch.exp(-SHARPNESS * divergence(clean, noisy, labels)) * (labels != IGNORE)
    count = (labels != IGNORE).sum().clamp(min=1)
    losses = [(-labeled_log_score(each.float(), labels) * weights).sum() / count for each in (clean, noisy)]
    return losses[0], losses[1]


def sharpened(shares: Tensor, temperature: float) -> Tensor:
    """Shares (B, K, H, W) to the power 1/T, each beside its complement."""
    power = 1 / temperature
    return shares**power / (shares**power + (1 - shares) ** power)
