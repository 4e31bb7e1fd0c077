"""A network steadier than the one that is trained: the average of its weights over the latest steps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


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
