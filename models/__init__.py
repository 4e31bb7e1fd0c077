"""Networks: images in, logits out; every network by its name, and the one function from logits to scores.

Importing this file costs no torch: a network is imported when it is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from utils.cli import UserError, one_of
from utils.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

NETWORKS = Registry(
    {
        "unet": "models.unet:UNet",
        "lightunet": "models.unet:LightUNet",
        "deeplabv3plus": "models.deeplabv3plus:DeepLabV3Plus",
        "hrnet": "models.hrnet:HRNet",
        "unet_resnet18": "models.encoder_unet:UNetResNet18",
        "unet_resnet34": "models.encoder_unet:UNetResNet34",
        "unet_resnet50": "models.encoder_unet:UNetResNet50",
    }
)

MIN_SHARE = 1e-4  # of a class in the labels, for the head's bias


def network_options(name: str) -> dict[str, Any]:
    """The options that network ``name`` takes beside its channels and classes, with their defaults.

    Raises:
        UserError: unknown network; the message lists those that exist.
    """
    parameters = inspect.signature(NETWORKS[one_of(name, tuple(NETWORKS), "network")]).parameters
    return {key: value.default for key, value in parameters.items() if key not in ("in_channels", "num_classes")}


def build_network(name: str, in_channels: int = 1, num_classes: int = 1, **options: Any) -> nn.Module:
    """Make a network with fresh weights, or pretrained ones where ``pretrained`` is among its options.

    Args:
        name: a key of ``NETWORKS``.
        in_channels: channels of the images.
        num_classes: logits per pixel; 1 for binary.
        options: as :func:`network_options` lists them, e.g. ``width=16``.

    Returns: a module whose ``forward`` takes (B, in_channels, H, W), any H and W, to logits (B, num_classes, H, W).

    Raises:
        UserError: unknown network, an option that the network does not have, or a value that it does not take.

    >>> import torch
    >>> network = build_network("lightunet", in_channels=3, num_classes=4, width=8)
    >>> network(torch.zeros(2, 3, 50, 70)).shape
    torch.Size([2, 4, 50, 70])
    """
    known = network_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"network {name!r} has no option {', '.join(unknown)}; its options are: {', '.join(known)}")
    return NETWORKS[name](in_channels, num_classes, **options)


def check_network(name: str, options: Mapping[str, Any]) -> None:
    """Raise the UserError that building the network would raise, without its weights; files are not looked at."""
    import torch

    network_options(name)
    with torch.device("meta"):
        build_network(name, **{key: value for key, value in options.items() if key != "pretrained"})


def to_scores(logits: Tensor) -> Tensor:
    """Turn logits into scores in [0, 1], in float32 also under mixed precision.

    Args:
        logits: (B, C, H, W).

    Returns: (B, C, H, W): the foreground's sigmoid for C = 1, else the softmax over the classes.
    """
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def start_from_shares(network: nn.Module, shares: Sequence[float]) -> None:
    r"""Set the head's bias so that a fresh network's scores are near the classes' shares.

    .. math:: b = \log\frac{s_1}{s_0} \quad\text{(binary)}, \qquad b_k = \log s_k

    Cross entropy on rare foreground, as sampled labels have it, otherwise spends its first epochs on learning that
    almost everything is background.

    Args:
        network: one of ``NETWORKS``; its head is a convolution named ``head``.
        shares: share of the pixels of each class, background first, (max(C, 2),); values below 1e-4 count as that.

    Source: Lin et al., *Focal Loss for Dense Object Detection*, ICCV 2017, section 4.1.
    """
    head = network.get_submodule("head")
    bias, channels = head.get_parameter("bias").detach(), head.get_parameter("weight").shape[0]
    logs = bias.double().new_tensor([float(share) for share in shares]).clamp_min(MIN_SHARE).log()
    bias.copy_(logs[1:] - logs[:1] if channels == 1 else logs)
