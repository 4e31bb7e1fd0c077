"""DeepLabv3+ on ResNet.

Source: Chen, Zhu, Papandreou, Schroff, Adam, *Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation*, ECCV 2018 (arXiv 1802.02611), with plain instead of separable convolutions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.blocks import SegmentationNetwork, conv_norm_relu, initialize, resize
from models.pretrained import load_pretrained
from models.resnet import ResNetEncoder
from utils.cli import UserError, one_of

BACKBONES = ("resnet50", "resnet101")
RATES = {16: (6, 12, 18), 8: (12, 24, 36)}  # dilations of the pyramid by output stride


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1×1, three dilated 3×3 convolutions and the image's mean, joined by a 1×1.

    The branch of the image's mean has one value per channel and image. Batch norm fails on it with a single image,
    and with a few it would replace a feature by its rank within the batch; it has a bias instead.
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, ...], norm: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv_norm_relu(in_channels, out_channels, norm, kernel=1)])
        self.convs.extend(conv_norm_relu(in_channels, out_channels, norm, dilation=rate) for rate in rates)
        self.image = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1), nn.ReLU(inplace=True))
        self.join = conv_norm_relu((len(rates) + 2) * out_channels, out_channels, norm, kernel=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h, w)."""
        mean = self.image(features.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *features.shape[2:])
        return self.join(torch.cat([*(conv(features) for conv in self.convs), mean], dim=1))


class Decoder(nn.Module):
    """Join the pyramid's output with reduced features of a quarter of the image's resolution."""

    def __init__(self, channels: int, low_channels: int, reduced_channels: int, norm: str) -> None:
        super().__init__()
        self.reduce = conv_norm_relu(low_channels, reduced_channels, norm, kernel=1)
        self.convs = nn.Sequential(
            *conv_norm_relu(channels + reduced_channels, channels, norm), *conv_norm_relu(channels, channels, norm)
        )

    def forward(self, features: Tensor, low: Tensor) -> Tensor:
        """(B, C, h, w) and low-level features (B, L, H/4, W/4) to (B, C, H/4, W/4)."""
        return self.convs(torch.cat([resize(features, low.shape[2:]), self.reduce(low)], dim=1))


class DeepLabV3Plus(SegmentationNetwork):
    """DeepLabv3+ with a ResNet-50 or ResNet-101.

    Args:
        in_channels: channels of the images.
        num_classes: logits per pixel, 1 for binary.
        backbone: ``resnet50`` or ``resnet101``.
        output_stride: 16, or 8 for finer features at about three times the cost.
        width: channels of the encoder's stem; 64 is the published network, with 4 · ``width`` in the decoder.
        norm: ``batch`` or ``group``.
        init: see :func:`models.blocks.initialize`; holds for all but the encoder where that is pretrained.
        pretrained: ``imagenet``, a file of ResNet weights, or None; see :func:`models.pretrained.load_pretrained`.
        activation_checkpointing: trade time for memory.

    Raises:
        UserError: a value that the option does not take, or weights that could not be downloaded.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        backbone: str = "resnet50",
        output_stride: int = 16,
        width: int = 64,
        norm: str = "batch",
        init: str = "normal",
        pretrained: str | Path | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(activation_checkpointing)
        one_of(backbone, BACKBONES, "backbone")
        if output_stride not in RATES:
            raise UserError(f"output_stride must be 16 or 8, not {output_stride!r}")
        self.stride = output_stride
        self.encoder = ResNetEncoder(backbone, in_channels, width=width, norm=norm, output_stride=output_stride)
        _, low_channels, *_, deepest = self.encoder.channels
        self.pyramid = AtrousPyramid(deepest, 4 * width, RATES[output_stride], norm)
        self.decoder = Decoder(4 * width, low_channels, max(1, 3 * width // 4), norm)
        self.head = nn.Conv2d(4 * width, num_classes, kernel_size=1)
        initialize(self, init)
        if pretrained is not None:
            load_pretrained(self.encoder, pretrained)

    def compute_logits(self, images: Tensor) -> Tensor:
        _, low, *_, features = self.encoder(images, self.run_stage)  # H/4 and H/output_stride
        features = self.run_stage(self.pyramid, features)
        features = self.run_stage(self.decoder, features, low)
        return resize(self.head(features).float(), images.shape[2:])
