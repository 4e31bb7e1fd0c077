"""The network of a run at a checkpoint, and the scores that it gives batches of images."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models import build_network, to_scores
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.device import autocast
from utils.run_folder import display_path

ROTATIONS = [(turns, flip) for flip in (False, True) for turns in range(4)]


def find_checkpoint(run: Path, which: str) -> Path:
    """The checkpoint of a run: ``best``, ``last`` or the number of a completed epoch.

    Raises:
        UserError: there is no such checkpoint; the message lists those that exist.
    """
    folder = run / "checkpoints"
    number = re.fullmatch(r"(?:epoch_)?0*(\d+)", which)
    path = folder / (f"epoch_{number[1]}.pth" if number else f"{which}.pth")
    if (number or which in ("best", "last")) and path.is_file():
        return path
    unnumbered = [folder / f"{name}.pth" for name in ("last", "best") if (folder / f"{name}.pth").is_file()]
    for candidate in unnumbered:
        if number and load_checkpoint(candidate)["epoch"] == int(number[1]):
            return candidate
    names = (re.fullmatch(r"epoch_(\d+)\.pth", file.name) for file in folder.iterdir())
    epochs = sorted(int(name[1]) for name in names if name)
    known = ", ".join([*map(str, epochs), *(path.stem for path in unnumbered)])
    raise UserError(
        f"{display_path(run)} has no checkpoint {which!r}; "
        + (f"--test_ckpt_epoch can be: {known}" if known else "it has none yet: its training ended before an epoch did")
    )


def load_network(
    run: Path, which: str = "best", device: str | torch.device = "cpu"
) -> tuple[nn.Module, dict[str, Any], int]:
    """Rebuild the network of a run as it was at a checkpoint.

    Args:
        run: the run folder.
        which: ``best``, ``last`` or the number of a completed epoch.
        device: where the network goes.
    Returns: the network in evaluation mode, the checkpoint (on the CPU), the completed epoch.
    Raises:
        UserError: no such checkpoint, a broken one, or weights that do not fit the network it names.
    """
    path = find_checkpoint(run, which)
    checkpoint = load_checkpoint(path)
    config = checkpoint["config"]
    try:
        # Pretrained weights would only be fetched to be overwritten.
        options = {name: value for name, value in config["network_options"].items() if name != "pretrained"}
        network = build_network(config["network"], config["in_channels"], config["num_classes"], **options)
        network.load_state_dict(checkpoint["model"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{display_path(path)} does not hold the network that its config names: {reason}") from None
    check_finite_weights(network, path)
    network = network.to(device).to(memory_format=memory_format(torch.device(device)))
    return network.eval(), checkpoint, int(checkpoint["epoch"])


def check_finite_weights(network: nn.Module, path: Path) -> None:
    """Raise a UserError where a weight or running statistic is NaN or infinite."""
    broken = [name for name, value in network.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{display_path(path)} holds weights that are not finite ({broken[0]}): take an earlier checkpoint"
        )


def memory_format(device: torch.device) -> torch.memory_format:
    """How activations are laid out: channels last (a U-Net of width 16 on a CPU: 79 instead of 118 ms an image).

    MPS keeps torch's default.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


@dataclass(frozen=True)
class Predictor:
    """The scores of a batch of images.

    Args:
        network: in evaluation mode, on ``device``.
        precision: ``fp32``, or ``bf16`` or ``fp16`` for autocast.
        augment: average the scores of the eight flips and rotations.
    """

    network: nn.Module
    device: torch.device
    precision: str = "fp32"
    augment: bool = False

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images float32 (B, C, H, W) → scores float32 (B, K, H, W) on the device, which may lag behind."""
        total = functools.reduce(torch.add, self.passes(images))
        return total / len(ROTATIONS) if self.augment else total

    def passes(self, images: Tensor) -> Iterator[Tensor]:
        """The scores of each of the eight flips and rotations where they are averaged, else the scores."""
        images = images.to(self.device, non_blocking=True, memory_format=memory_format(self.device))
        yield from (
            (self._turned_scores(images, *each) for each in ROTATIONS) if self.augment else [self._scores(images)]
        )

    def _turned_scores(self, images: Tensor, turns: int, flip: bool) -> Tensor:
        turned = images.flip(-1) if flip else images
        scores = self._scores(turned.rot90(turns, (-2, -1))).rot90(-turns, (-2, -1))
        return scores.flip(-1) if flip else scores

    def _scores(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            return to_scores(self.network(images))


def images_per_batch(batch_size: int, height: int, width: int) -> int:
    """How many images of a size take the memory of ``batch_size`` images of 256×256; at least 1."""
    return max(1, min(4 * batch_size, batch_size * 256 * 256 // (height * width)))


def check_finite(scores: np.ndarray, name: str) -> None:
    """Raise a UserError where a score of image ``name`` is NaN or infinite: such a map would pass for one."""
    if not np.isfinite(scores).all():
        raise UserError(
            f"{name}: the network's scores are not finite; try --precision fp32, or look at the image's values"
        )
