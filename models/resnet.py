"""ResNet encoders from torchvision's residual blocks: any width, either norm, dilated on demand.

Source: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016 (arXiv 1512.03385). At width 64
the layers are those of ``torchvision.models.resnet*`` without the classifier, so its weights fit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from models.blocks import check_count, norm_layer
from utils.cli import UserError, one_of

# residual block: its output channels per inner channel
EXPANSIONS = {"basic": 1, "bottleneck": 4}
# backbone: residual block, blocks per layer
BACKBONES: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
# output stride: (stride, dilation of the first block, dilation of the others) of layer 3 and of layer 4
DEEP_LAYERS = {32: ((2, 1, 1), (2, 1, 1)), 16: ((2, 1, 1), (1, 1, 2)), 8: ((1, 1, 2), (1, 2, 4))}


def residual_layer(
    block: str,
    in_channels: int,
    width: int,
    count: int,
    norm: str,
    stride: int = 1,
    first_dilation: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """``count`` residual blocks, the first with ``stride``; gives width · ``EXPANSIONS[block]`` channels."""
    from torchvision.models.resnet import BasicBlock, Bottleneck  # takes seconds; most runs need none of it

    make_block = {"basic": BasicBlock, "bottleneck": Bottleneck}[block]
    make_norm = norm_layer(norm)
    out_channels = width * EXPANSIONS[block]
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
        shortcut = nn.Sequential(conv, make_norm(out_channels))
    first = make_block(in_channels, width, stride, shortcut, dilation=first_dilation, norm_layer=make_norm)
    others = [make_block(out_channels, width, dilation=dilation, norm_layer=make_norm) for _ in range(count - 1)]
    return nn.Sequential(first, *others)


class ResNetEncoder(nn.Module):
    """A ResNet without its classifier: an image in, feature maps of falling resolution out.

    Args:
        backbone: a key of ``BACKBONES``.
        in_channels: channels of the images.
        width: channels of the stem; 64 is the published network.
        norm: ``batch`` or ``group``.
        output_stride: 32 as published; 16 or 8 replace the strides of the last layers by dilation, which takes
            bottleneck blocks (ResNet-50 and deeper).

    Attributes:
        channels: of the five feature maps.

    Raises:
        UserError: a value that the option does not take.
    """

    def __init__(
        self, backbone: str, in_channels: int, *, width: int = 64, norm: str = "batch", output_stride: int = 32
    ) -> None:
        super().__init__()
        block, counts = BACKBONES[one_of(backbone, tuple(BACKBONES), "backbone")]
        if output_stride not in DEEP_LAYERS:
            raise UserError(f"output_stride must be one of {', '.join(map(str, DEEP_LAYERS))}, not {output_stride!r}")
        self.backbone, self.width, self.norm = backbone, check_count(width, "width"), norm
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False),
                bn1=norm_layer(norm)(width),
                relu=nn.ReLU(inplace=True),
            )
        )
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        widths = [width * 2**level for level in range(4)]
        self.channels = [width, *(each * EXPANSIONS[block] for each in widths)]
        shapes = ((1, 1, 1), (2, 1, 1), *DEEP_LAYERS[output_stride])
        self.layers = nn.ModuleList(
            residual_layer(block, before, each, count, norm, *shape)
            for before, each, count, shape in zip(self.channels, widths, counts, shapes, strict=False)
        )

    def forward(self, images: Tensor, run_stage: Callable[..., Tensor]) -> list[Tensor]:
        """Images (B, C, H, W) to five feature maps of H/2, H/4, H/8, … down to H/``output_stride``.

        Args:
            images: the input.
            run_stage: calls a stage, see :meth:`models.blocks.SegmentationNetwork.run_stage`.
        """
        features = [run_stage(self.stem, images)]  # (B, width, H/2, W/2)
        current = self.pool(features[0])
        for layer in self.layers:
            current = run_stage(layer, current)
            features.append(current)
        return features
