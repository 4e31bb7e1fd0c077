"""Pretrained ResNet encoders: ImageNet weights from torchvision, or a file of weights."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from models.resnet import ResNetEncoder
from utils.checkpoint import load_tensors
from utils.cli import UserError

STEM = "stem.conv1.weight"
MAX_LISTED = 6  # names of a mismatch that a message lists


def load_pretrained(encoder: ResNetEncoder, pretrained: str | Path) -> None:
    """Load ImageNet weights or a file of weights into an encoder.

    A one-channel stem gets the sum of the weights for red, green and blue: a grey image then gives what the same
    image in three equal channels gives.

    Args:
        encoder: changed in place; width 64 and batch norm, since that is what the weights were made for.
        pretrained: ``imagenet`` for torchvision's ``IMAGENET1K_V1``, downloaded on first use; else a file that
            ``torch.save`` wrote, with the weights of ``torchvision.models.resnet*`` under their names there.

    Raises:
        UserError: weights out of reach, unreadable, or of another network; the message lists what differs.
    """
    if encoder.norm != "batch" or encoder.width != 64:
        raise UserError(
            f"pretrained weights have width 64 and batch norm, but this network has width {encoder.width} and "
            f"{encoder.norm} norm: leave out --width and norm=group, or --pretrained"
        )
    if str(pretrained) == "imagenet":
        weights, source = download_imagenet(encoder.backbone), "imagenet"
    else:
        weights, source = read_weights(Path(pretrained)), str(pretrained)
    weights = translate_names(weights)
    if STEM in weights and weights[STEM].ndim == 4 and encoder.state_dict()[STEM].shape[1] == 1:
        weights[STEM] = weights[STEM].sum(dim=1, keepdim=True)
    check_match(encoder, weights, source)
    encoder.load_state_dict(weights, strict=False)


def download_imagenet(backbone: str) -> dict[str, Tensor]:
    """Torchvision's ImageNet weights of ``backbone``, from its cache or the network."""
    from torchvision.models import get_weight  # takes seconds; most runs need none of it

    weights = get_weight(f"ResNet{backbone.removeprefix('resnet')}_Weights.IMAGENET1K_V1")
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network, no such host, a cut download
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"the ImageNet weights of {backbone} could not be downloaded ({error}). Where there is a network, "
            f"download {weights.url} and give the file with --pretrained FILE, or put it into {folder}"
        ) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, at its top level or below ``state_dict`` or ``model``; code in it is refused."""
    if not path.is_file():
        raise UserError(f"--pretrained {path}: no such file; give a file of weights, or 'imagenet'")
    content = load_tensors(path, what="--pretrained")
    if isinstance(content, dict):
        content = content.get("state_dict", content.get("model", content))
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"--pretrained {path} holds no weights: expected a dictionary from names to tensors")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def translate_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's names to those of :class:`ResNetEncoder`; the classifier is left out."""
    kept = {name.removeprefix("module."): value for name, value in weights.items()}
    renamed = {}
    for name, value in kept.items():
        if not name.startswith("fc."):
            name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
            renamed[re.sub(r"^layer(\d)\.", lambda m: f"layers.{int(m[1]) - 1}.", name)] = value
    return renamed


def check_match(encoder: ResNetEncoder, weights: dict[str, Tensor], source: str) -> None:
    """Raise a UserError that lists missing, foreign and wrongly shaped weights, if there are any.

    Counters of batches may be missing: files from before torch 0.4.1 have none.
    """
    expected = encoder.state_dict()
    missing = [name for name in expected if name not in weights and not name.endswith("num_batches_tracked")]
    foreign = [name for name in weights if name not in expected]
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:MAX_LISTED])}{', …' if len(names) > MAX_LISTED else ''}"
        for what, names in (("missing", missing), ("foreign", foreign), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise UserError(f"--pretrained {source} does not fit {encoder.backbone}; weights " + "; ".join(faults))
