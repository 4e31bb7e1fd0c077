"""What methods with several networks share: the networks as one module, and the choice of pixels by their losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from datasets.labels import IGNORE
from training.losses.pixel import labeled_log_score
from training.methods.supervised import Supervised
from training.options import TrainingOptions
from utils.cli import UserError

if TYPE_CHECKING:
    from training.data import TrainingData


class Several(nn.Module):
    """Networks that see the same images and share nothing: logits (N, B, C, H, W)."""

    def __init__(self, make: Callable[[], nn.Module], count: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(make() for _ in range(count))

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([network(images) for network in self.networks])


class SeveralNetworks(Supervised):
    """A method that trains ``count`` networks alike and predicts with the first, so that it costs no more to use."""

    count = 2
    learn_apart = False  # whether networks of the same weights would come to differ

    def __init__(self, options: TrainingOptions, data: TrainingData) -> None:
        super().__init__(options, data)
        if options.run.init_from is not None and options.run.resume is None and not self.learn_apart:
            raise UserError(
                f"--init_from gives all networks of --method {options.loss.method} the same weights, and they would "
                "stay alike: leave one of the two out"
            )

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        return Several(make, self.count)

    def predictor(self, network: nn.Module) -> nn.Module:
        return network.get_submodule("networks.0")


@torch.no_grad()
def small_loss(logits: Tensor, labels: Tensor, keep: float) -> Tensor:
    """The share ``keep`` of a batch's pixels that have the smallest cross entropy, bool (B, H, W).

    Args:
        logits: (B, C, H, W).
        labels: (B, H, W); ignored pixels are never among them, and do not count.
    """
    losses = -labeled_log_score(logits.float(), labels)
    counted = labels != IGNORE
    number = int(keep * int(counted.sum()) + 0.5)
    order = losses.masked_fill(~counted, torch.inf).flatten().argsort(stable=True)
    chosen = torch.zeros(losses.numel(), dtype=torch.bool, device=losses.device)
    chosen[order[:number]] = True
    return chosen.view_as(losses)


def only(labels: Tensor, chosen: Tensor) -> Tensor:
    """The labels of the chosen pixels; all others are ignored."""
    return labels.masked_fill(~chosen, IGNORE)
