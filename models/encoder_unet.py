"""U-Net with a ResNet as its encoder, from scratch or pretrained."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SegmentationNetwork, initialize
from models.pretrained import load_pretrained
from models.resnet import ResNetEncoder
from models.unet import double_conv

MIN_WIDTH = 16  # channels of the last decoder block at width 64; fewer die early in narrow networks


class JoinBlock(nn.Module):
    """Double the resolution by repeating pixels, join the skip connection if there is one, convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.convs = double_conv(in_channels + skip_channels, out_channels, norm)

    def forward(self, features: Tensor, *skips: Tensor) -> Tensor:
        """(B, C, h, w) and skips (B, S, 2h, 2w) to (B, out, 2h, 2w)."""
        features = F.interpolate(features, scale_factor=2, mode="nearest")
        return self.convs(torch.cat([features, *skips], dim=1))


class EncoderUNet(SegmentationNetwork):
    """U-Net whose contracting path is a ResNet and whose expanding path has 4, 2, 1, 1/2 and 1/4 × ``width`` channels.

    Narrow networks keep 16 channels at least. Widths, depth and head of the decoder are those in common use with
    pretrained encoders: 14.3 M parameters with ResNet-18, 24.4 M with ResNet-34, 32.5 M with ResNet-50, at width 64
    and three input channels.

    Args:
        in_channels: channels of the images.
        num_classes: logits per pixel, 1 for binary.
        width: channels of the encoder's stem; 64 is the published ResNet.
        norm: ``batch`` or ``group``.
        init: see :func:`models.blocks.initialize`; holds for the decoder alone where the encoder is pretrained.
        pretrained: ``imagenet``, a file of ResNet weights, or None; see :func:`models.pretrained.load_pretrained`.
        activation_checkpointing: trade time for memory.

    Raises:
        UserError: a value that the option does not take, or weights that could not be downloaded.
    """

    backbone: str
    stride = 32

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        width: int = 64,
        norm: str = "batch",
        init: str = "normal",
        pretrained: str | Path | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(activation_checkpointing)
        self.encoder = ResNetEncoder(self.backbone, in_channels, width=width, norm=norm)
        *skips, deepest = self.encoder.channels
        widths = [max(MIN_WIDTH, width * 4 // 2**level) for level in range(5)]
        before = [deepest, *widths]
        self.up = nn.ModuleList(
            JoinBlock(*channels, norm) for channels in zip(before, [*reversed(skips), 0], widths, strict=False)
        )
        self.head = nn.Conv2d(widths[-1], num_classes, kernel_size=3, padding=1)
        initialize(self, init)
        if pretrained is not None:
            load_pretrained(self.encoder, pretrained)

    def compute_logits(self, images: Tensor) -> Tensor:
        *skips, features = self.encoder(images, self.run_stage)  # features: H/32, W/32
        for stage in self.up:
            features = self.run_stage(stage, features, *skips[-1:])
            skips = skips[:-1]
        return self.head(features)


class UNetResNet18(EncoderUNet):
    """U-Net on ResNet-18."""

    backbone = "resnet18"


class UNetResNet34(EncoderUNet):
    """U-Net on ResNet-34."""

    backbone = "resnet34"


class UNetResNet50(EncoderUNet):
    """U-Net on ResNet-50."""

    backbone = "resnet50"
