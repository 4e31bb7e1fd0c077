"""Predictions steadier than one network's: averaged over training steps (EMA teacher) and over flips of the image."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from models import to_scores

FLIPS = ((), (-1,), (-2,), (-2, -1))  # dimensions turned round


class EmaTeacher:
    r"""A network whose weights are the exponential moving average of another's.

    .. math:: \theta'_t = \alpha_t \theta'_{t-1} + (1 - \alpha_t)\,\theta_t,\qquad
              \alpha_t = \min\!\left(\alpha, \frac{1 + t}{10 + t}\right)

    The growing :math:`\alpha_t` lets the first steps forget the random start. Statistics of batch norm are averaged
    too, so the teacher predicts in evaluation mode; counters are copied.
    Source: Tarvainen and Valpola, *Mean teachers are better role models*, NeurIPS 2017.

    Args:
        network: the student, without any wrapper.
        decay: α.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the student's weights; call it after every optimizer step."""
        self.updates += 1
        step = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        ours, theirs = self.network.state_dict(), network.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], step)
        for name in ours.keys() - set(floats):
            ours[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, Any]:
        """Weights and the number of updates, for a checkpoint."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


@torch.inference_mode()
def flip_averaged_scores(network: nn.Module, images: Tensor) -> Tensor:
    """Scores (B, C, H, W), the mean over the image, its two mirror images and its half turn, turned back.

    Works at any H and W; four times the cost of one prediction. The network must be in evaluation mode.
    """
    total = torch.zeros((), device=images.device)
    for dims in FLIPS:
        total = total + to_scores(network(images.flip(dims))).flip(dims)
    return total / len(FLIPS)
