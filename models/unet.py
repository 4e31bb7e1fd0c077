"""U-Net and LightUNet.

Source: Ronneberger, Fischer, Brox, *U-Net: Convolutional Networks for Biomedical Image Segmentation*, MICCAI 2015
(arXiv 1505.04597), with padded convolutions and batch norm as in Luo et al., AAAI-22.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SegmentationNetwork, check_count, conv_norm_relu, initialize, local_contrast_layer


def double_conv(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    """Two 3×3 convolutions, each with normalization and ReLU; H and W stay."""
    return nn.Sequential(
        *conv_norm_relu(in_channels, out_channels, norm), *conv_norm_relu(out_channels, out_channels, norm)
    )


class UpBlock(nn.Module):
    """Double the resolution with a transposed convolution, join the skip connection, convolve twice."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)
        self.convs = double_conv(2 * out_channels, out_channels, norm)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """(B, 2C, h, w) and the skip (B, C, 2h, 2w) to (B, C, 2h, 2w)."""
        return self.convs(torch.cat([skip, self.up(features)], dim=1))


class UNet(SegmentationNetwork):
    """U-Net with four 2× poolings and ``width``, 2·``width``, … 16·``width`` channels.

    31,036,481 parameters at width 64 with one input channel and one logit; the published count of 31.04 M
    (31,042,369) includes 5,888 biases of convolutions before batch norm, which have no effect and are left out.

    Args:
        in_channels: channels of the images.
        num_classes: logits per pixel, 1 for binary.
        width: channels at full resolution.
        norm: ``batch`` or ``group``.
        init: see :func:`models.blocks.initialize`.
        activation_checkpointing: trade time for memory.
        local_contrast: reach in pixels of the surroundings that a second copy of the channels is relative to, see
            :class:`models.blocks.LocalContrast`; 0: the images alone.

    Raises:
        UserError: a value that the option does not take.
    """

    poolings = 4

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        width: int = 64,
        norm: str = "batch",
        init: str = "normal",
        activation_checkpointing: bool = False,
        local_contrast: float = 0,
    ) -> None:
        super().__init__(activation_checkpointing)
        widths = [check_count(width, "width") * 2**level for level in range(self.poolings + 1)]
        self.stride = 2**self.poolings
        self.local_contrast = local_contrast_layer(local_contrast, self.stride)
        in_channels *= 2 if local_contrast else 1
        self.down = nn.ModuleList(
            double_conv(before, after, norm) for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(UpBlock(2 * after, after, norm) for after in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, num_classes, kernel_size=1)
        initialize(self, init)

    def compute_logits(self, images: Tensor) -> Tensor:
        features = self.run_stage(self.down[0], self.local_contrast(images))  # (B, width, H, W)
        skips = []
        for stage in self.down[1:]:
            skips.append(features)
            features = self.run_stage(stage, F.max_pool2d(features, 2))  # half of H and W, twice the channels
        for stage in self.up:
            features = self.run_stage(stage, features, skips.pop())  # twice H and W, half of the channels
        return self.head(features)


class LightUNet(UNet):
    """U-Net without its deepest level: three poolings, up to 8·``width`` channels, 7.70 M parameters at width 64."""

    poolings = 3
