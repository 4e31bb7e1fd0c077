"""HRNetV2: branches of four resolutions side by side, which exchange features all along.

Source: Wang et al., *Deep High-Resolution Representation Learning for Visual Recognition*, TPAMI 2020
(arXiv 1908.07919); a stem without stride as in Luo et al., AAAI-22.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import SegmentationNetwork, check_count, conv_norm_relu, initialize, norm_layer, resize
from models.resnet import residual_layer
from utils.cli import UserError

STEM_STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}  # total stride: strides of the two convolutions
STAGE_MODULES = (1, 4, 3)  # exchange modules of the stages with two, three and four branches
BLOCKS = 4  # residual blocks of a branch between two exchanges


def exchange_path(source: int, target: int, widths: list[int], norm: str) -> nn.Module:
    """From branch ``source`` to the channels, and if downward the resolution, of branch ``target``."""
    if source == target:
        return nn.Identity()
    make_norm = norm_layer(norm)
    if source > target:
        conv = nn.Conv2d(widths[source], widths[target], kernel_size=1, bias=False)
        return nn.Sequential(conv, make_norm(widths[target]))
    halvings = [conv_norm_relu(widths[source], widths[source], norm, stride=2) for _ in range(target - source - 1)]
    last = nn.Conv2d(widths[source], widths[target], kernel_size=3, stride=2, padding=1, bias=False)
    return nn.Sequential(*halvings, last, make_norm(widths[target]))


class ExchangeModule(nn.Module):
    """Residual blocks in every branch, then every branch receives the sum of all."""

    def __init__(self, widths: list[int], norm: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(residual_layer("basic", width, width, BLOCKS, norm) for width in widths)
        numbers = range(len(widths))
        self.paths = nn.ModuleList(
            nn.ModuleList(exchange_path(source, target, widths, norm) for source in numbers) for target in numbers
        )

    def forward(self, *features: Tensor) -> list[Tensor]:
        """Feature maps of falling resolution to as many of the same shapes."""
        branches = [branch(each) for branch, each in zip(self.branches, features, strict=True)]
        joined = []
        for target, paths in enumerate(self.paths):
            size = branches[target].shape[2:]
            total = branches[target]
            for source, path in enumerate(cast(nn.ModuleList, paths)):
                if source != target:
                    part = path(branches[source])
                    total = total + (resize(part, size) if source > target else part)
            joined.append(F.relu(total))
        return joined


class HRNet(SegmentationNetwork):
    """HRNetV2 with ``width``, 2·``width``, 4·``width`` and 8·``width`` channels.

    Published widths are 18, 32 and 48, with a stem of stride 4: 9.6, 29.5 and 65.8 M parameters. The paper on noisy
    labels uses width 32 and a stem without stride, which costs sixteen times as much time and memory.

    Args:
        in_channels: channels of the images.
        num_classes: logits per pixel, 1 for binary.
        width: channels of the branch of highest resolution.
        stem_stride: 1, 2 or 4: how much smaller than the image the highest resolution is.
        norm: ``batch`` or ``group``.
        init: see :func:`models.blocks.initialize`.
        activation_checkpointing: trade time for memory.

    Raises:
        UserError: a value that the option does not take.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        width: int = 32,
        stem_stride: int = 1,
        norm: str = "batch",
        init: str = "normal",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(activation_checkpointing)
        if stem_stride not in STEM_STRIDES:
            raise UserError(f"stem_stride must be 1, 2 or 4, not {stem_stride!r}")
        self.stride = 8 * stem_stride
        first, second = STEM_STRIDES[stem_stride]
        stem_width = min(64, 4 * check_count(width, "width"))  # 64 at all published widths, less in small networks
        self.stem = nn.Sequential(
            *conv_norm_relu(in_channels, stem_width, norm, stride=first),
            *conv_norm_relu(stem_width, stem_width, norm, stride=second),
        )
        self.first_layer = residual_layer("bottleneck", stem_width, stem_width, BLOCKS, norm)
        widths = [width * 2**branch for branch in range(4)]
        self.enter = conv_norm_relu(4 * stem_width, width, norm)
        sources = [4 * stem_width, *widths[1:3]]
        self.new_branches = nn.ModuleList(
            conv_norm_relu(before, after, norm, stride=2) for before, after in zip(sources, widths[1:], strict=True)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(ExchangeModule(widths[: branches + 2], norm) for _ in range(count))
            for branches, count in enumerate(STAGE_MODULES)
        )
        self.join = conv_norm_relu(sum(widths), sum(widths), norm, kernel=1)
        self.head = nn.Conv2d(sum(widths), num_classes, kernel_size=1)
        initialize(self, init)

    def compute_logits(self, images: Tensor) -> Tensor:
        start = self.run_stage(self.first_layer, self.run_stage(self.stem, images))  # (B, 256, H/s, W/s)
        features, lowest = [self.run_stage(self.enter, start)], start
        for new_branch, stage in zip(self.new_branches, self.stages, strict=True):
            features.append(self.run_stage(new_branch, lowest))
            for module in cast(nn.ModuleList, stage):
                features = self.run_stage(module, *features)
            lowest = features[-1]
        size = features[0].shape[2:]
        joined = torch.cat([features[0], *(resize(each, size) for each in features[1:])], dim=1)
        logits = self.head(self.run_stage(self.join, joined))  # (B, num_classes, H/s, W/s)
        return logits if logits.shape[2:] == images.shape[2:] else resize(logits.float(), images.shape[2:])
