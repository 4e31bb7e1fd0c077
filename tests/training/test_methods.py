"""A method with networks, step and predictor of its own needs no training loop of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluation.prediction import load_network
from training.engine import Step
from training.fit import configure, fit
from training.methods import METHODS
from training.methods.supervised import Supervised
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.distributed import sum_over_ranks

SMALL = {"dataset": "disks", "preset": "quick", "width": 4, "crop": 32, "batch_size": 4, "device": "cpu"}
SMALL |= {"tensorboard": False, "audit": False, "precision": "fp32", "network": "lightunet"}


class Pair(nn.Module):
    """Two networks that see the same images: logits (2, B, C, H, W)."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = make(), make()

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.first(images), self.second(images)])


class Teaching(Supervised):
    """Each of two networks learns from the half of the images on which the other's loss is smaller."""

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        return Pair(make)

    def predictor(self, network: nn.Module) -> nn.Module:
        return network.first

    def begin(self, state, folder: Path) -> list[str]:
        return ["two networks teach each other"]

    def backward(self, step: Step, images: Tensor, labels: Tensor) -> Tensor:
        logits = step.network(images)
        losses = torch.stack(
            [torch.stack([step.loss(one[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]) for one in logits]
        )  # (2, B)
        kept = losses.detach().argsort(1)[:, : max(1, len(labels) // 2)].flip(0)
        value = losses.gather(1, kept).mean()
        step.scaler.scale(value).backward()
        return sum_over_ranks(value.detach())


def run(root: Path, **given) -> Path:
    return fit(configure({**SMALL, "ema": 0.0, **given}, root), root, method=Teaching)


def test_two_networks_train_predict_and_resume(disks, capsys):
    whole, part = run(disks, epochs=3, run_name="whole"), run(disks, epochs=3, stop_after=1, run_name="part")
    assert "two networks teach each other" in capsys.readouterr().out
    fit(configure({"resume": str(part)}, disks), disks, method=Teaching)
    one, two = (load_checkpoint(folder / "checkpoints" / "last.pth") for folder in (whole, part))
    for key in ("model", "student"):
        assert all(torch.equal(value, two[key][name]) for name, value in one[key].items())
    assert all(torch.equal(value, one["student"][f"first.{name}"]) for name, value in one["model"].items())
    firsts, seconds = (
        [value for name, value in one["student"].items() if name.startswith(which) and value.is_floating_point()]
        for which in ("first.", "second.")
    )
    assert not all(torch.equal(a, b) for a, b in zip(firsts, seconds, strict=True)), "each began and learned apart"
    network, _, epoch = load_network(whole, "last")
    assert epoch == 3 and set(network.state_dict()) == set(one["model"])


def test_an_average_of_several_networks_is_refused(disks):
    with pytest.raises(UserError, match="--ema"):
        run(disks, epochs=1, ema=0.9)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_of_the_form_that_fit_asks(name):
    assert issubclass(METHODS[name], Supervised)
