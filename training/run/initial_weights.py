"""Weights of another run to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from evaluation.prediction.predictor import find_checkpoint
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.run_folder import display_path

NAMED = ("network", "network_options", "in_channels", "num_classes")  # what the shape of a network follows from


def take_weights(network: nn.Module, run: Path, own: dict[str, Any]) -> None:
    """Give a network the weights and statistics of another run's best checkpoint.

    Args:
        network: as it is built, without any wrapper.
        run: the folder of the other run.
        own: the options of this run by flat name, for the message.
    Raises:
        UserError: no checkpoint, or one of another network; the message says in what they differ.
    """
    checkpoint = load_checkpoint(find_checkpoint(run, "best"))
    ours, theirs = network.state_dict(), checkpoint["model"]
    if {name: value.shape for name, value in ours.items()} != {name: value.shape for name, value in theirs.items()}:
        config = checkpoint["config"]
        differ = [
            f"{name} {config.get(name)} there, {own[name]} here" for name in NAMED if config.get(name) != own[name]
        ]
        first = next((name for name in ours if name not in theirs or ours[name].shape != theirs[name].shape), "")
        raise UserError(
            f"--init_from {display_path(run)}: its network does not match this run's: "
            f"{'; '.join(differ) or f'they differ from {first!r} on'}. Give this run the options of that one"
        )
    network.load_state_dict(theirs)
