"""Pieces that every network shares: padding and cropping, convolution blocks, initialization, checkpointing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from utils.cli import UserError, one_of
from utils.device import autocast

INIT_STD = 0.02
WEIGHT_INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": partial(nn.init.normal_, mean=0.0, std=INIT_STD),
    "kaiming": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
}
INITS = (*WEIGHT_INITS, "default")
# A running statistic is an average over the latest ten batches or so: after few steps it still holds the zeros and ones
# that it began with, and while weights change fast it lags behind. The loss then says *learned*, predictions nothing.
FEW_STEPS = 200  # of the optimizer, until which statistics are counted anew after every epoch
MAX_BATCHES = 8  # that they are counted on then
LOCAL_FLOOR, MAX_SIGMA = 0.05, 64  # deviations of the whole image; pixels


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with as many groups as divide ``channels``: at most 32, each of two channels or more."""
    groups = max(count for count in range(1, max(1, min(32, channels // 2)) + 1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}


def norm_layer(norm: str) -> Callable[[int], nn.Module]:
    """The function channels → normalization layer that ``norm`` names (``batch`` or ``group``).

    Raises:
        UserError: unknown name.
    """
    return NORMS[one_of(norm, tuple(NORMS), "norm")]


def check_count(value: int, what: str) -> int:
    """Return ``value`` if it is a whole number of at least 1; else raise a UserError that names ``what``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{what} must be a whole number of at least 1, not {value!r}")
    return value


def conv_norm_relu(
    in_channels: int, out_channels: int, norm: str, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution that keeps H and W at stride 1, normalization, ReLU.

    The convolution has no bias: the normalization subtracts any constant per channel and has a bias of its own.
    """
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        bias=False,
    )
    return nn.Sequential(conv, norm_layer(norm)(out_channels), nn.ReLU(inplace=True))


class LocalContrast(nn.Module):
    r"""Put beside every channel its brightness relative to the surroundings, in their own deviations.

    .. math:: v = \frac{x - G_\sigma * x}{\sqrt{G_\sigma * (x - G_\sigma * x)^2 + f^2}}

    The Gaussian mean is over what of its window lies inside the image, and computed on one of every ``step``² pixels,
    four or more to a :math:`\sigma`. Never in mixed precision, without weights, and part of every export.

    Args:
        sigma: :math:`\sigma`, reach of the surroundings in pixels.
        stride: of the network; H and W are multiples of it.
        floor: f, the deviation below which surroundings count as flat.

    Source: local contrast normalization, Jarrett, Kavukcuoglu, Ranzato, LeCun, *What is the Best Multi-Stage
    Architecture for Object Recognition?*, ICCV 2009, section 2.1.
    """

    kernel: Tensor

    def __init__(self, sigma: float, stride: int, floor: float = LOCAL_FLOOR) -> None:
        super().__init__()
        self.step = max(step for step in (1, 2, 4, 8, 16) if step == 1 or (step <= sigma / 4 and stride % step == 0))
        self.reach, self.floor = round(3 * sigma / self.step), floor
        places = torch.arange(-self.reach, self.reach + 1, dtype=torch.float64)
        weights = torch.exp(-((places * self.step / sigma) ** 2) / 2)
        self.register_buffer("kernel", (weights / weights.sum()).to(torch.get_default_dtype()), persistent=False)

    def blur(self, images: Tensor) -> Tensor:
        """(B, C, h, w), weighted by a Gaussian whose window holds zeros outside the image."""
        planes = images.flatten(0, 1).unsqueeze(1)
        planes = F.conv2d(planes, self.kernel.view(1, 1, 1, -1), padding=(0, self.reach))
        planes = F.conv2d(planes, self.kernel.view(1, 1, -1, 1), padding=(self.reach, 0))
        return planes.view_as(images)

    def mean(self, images: Tensor) -> Tensor:
        """The Gaussian mean (B, C, H, W) of (B, C, H, W)."""
        coarse = F.avg_pool2d(images, self.step) if self.step > 1 else images
        means = self.blur(coarse) / self.blur(torch.ones_like(coarse[:1, :1]))
        return F.interpolate(means, scale_factor=self.step, mode="bilinear") if self.step > 1 else means

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2C, H, W): the images, then their local contrast."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(self.kernel.dtype).contiguous()
            excess = images - self.mean(images)
            return torch.cat([images, excess / torch.sqrt(self.mean(excess**2) + self.floor**2)], dim=1)


def local_contrast_layer(sigma: float, stride: int) -> nn.Module:
    """:class:`LocalContrast`, which doubles the channels, or for 0 nothing.

    Raises:
        UserError: no number of pixels.
    """
    if isinstance(sigma, bool) or not isinstance(sigma, (int, float)) or not (sigma == 0 or 1 <= sigma <= MAX_SIGMA):
        raise UserError(f"local_contrast must be 0 or from 1 to {MAX_SIGMA} pixels, not {sigma!r}")
    return LocalContrast(sigma, stride) if sigma else nn.Identity()


def resize(features: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Resample (B, C, h, w) bilinearly to (B, C, *size); pixel centers are aligned, as in OpenCV."""
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def initialize(network: nn.Module, init: str) -> None:
    """Draw all convolution weights anew and set their biases to 0; normalization layers keep weight 1 and bias 0.

    Args:
        network: changed in place.
        init: ``normal`` is N(0, 0.02) as in the paper's recipe, ``kaiming`` (fan in, ReLU), ``xavier`` (both
            normal), ``default`` leaves what torch drew.

    Raises:
        UserError: unknown name.
    """
    if one_of(init, INITS, "init") == "default":
        return
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            WEIGHT_INITS[init](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Put the batch norms of a network in evaluation mode into the convolutions before them, in place.

    Scores stay, but for rounding; every batch norm's pass over its activations is saved. Pairs are those that follow
    each other in an ``nn.Sequential``.
    """
    for stage in network.modules():
        if not isinstance(stage, nn.Sequential):
            continue
        for index in range(len(stage) - 1):
            conv, norm = stage[index], stage[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                stage[index] = fuse_conv_bn_eval(conv, norm)
                stage[index + 1] = nn.Identity()
    return network


def re_estimate_statistics(
    networks: Iterable[nn.Module],
    batches: Iterable[dict[str, Any]],
    *,
    device: torch.device,
    precision: str = "fp32",
    channels_last: bool = False,
    most: int = MAX_BATCHES,
) -> None:
    r"""Replace the running statistics of every batch norm by their means over up to ``most`` batches.

    .. math:: \mu = \frac1n \sum_{i=1}^n \mu_i, \qquad \sigma^2 = \frac1n \sum_{i=1}^n \sigma_i^2

    They then fit the weights, or images of another lab, see `evaluation.prediction.other_labs`.
    Weights are untouched: nothing but predictions changes. Where several processes synchronize their batch norms, all
    of them must call it alike.

    Args:
        networks: without the wrappers of compiled and distributed ones; each keeps its mode.
        batches: as in training, with ``image`` float32 (B, C, H, W).
    Source: Wu and Johnson, *Rethinking "Batch" in BatchNorm*, arXiv 2105.07576, "PreciseBN".
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    networks = [network for network in dict.fromkeys(networks) if batch_norms(network)]
    if not networks:
        return
    batches = [
        batch["image"].to(device, non_blocking=True, memory_format=memory_format) for batch in islice(batches, most)
    ]
    for network in networks:
        with _counting(network), torch.no_grad(), autocast(device, precision):
            for images in batches:
                network(images)


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network that keep running statistics."""
    return [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]


@contextmanager
def _counting(network: nn.Module) -> Iterator[None]:
    """Let the batch norms of ``network`` average all batches that they see from here on, each as much as any other."""
    layers, mode = batch_norms(network), network.training
    kept = [(layer.momentum, layer.get_buffer("num_batches_tracked").clone()) for layer in layers]
    network.train()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the cumulative average
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, kept, strict=True):
            layer.momentum = momentum
            layer.get_buffer("num_batches_tracked").copy_(tracked)
        network.train(mode)


@contextmanager
def _discarded_statistics(stage: nn.Module) -> Iterator[None]:
    """Let the batch norms of ``stage`` update copies of their running statistics, which are then thrown away."""
    norms = [module for module in stage.modules() if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))]
    kept = [(norm, dict(norm.named_buffers(recurse=False))) for norm in norms]
    try:
        for norm, buffers in kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer.clone())
        yield
    finally:
        for norm, buffers in kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


def recomputed(stage: nn.Module, *inputs: Tensor):
    """Run ``stage`` without keeping its activations; backward computes them again.

    Outputs and gradients are those of a plain call. The second computation would count every batch twice in
    the running statistics of batch norm, so it works on copies of them. A compiled network updates them only in
    its forward graph anyway, and its compiler does not take such a context.
    """
    if torch.compiler.is_compiling():
        return checkpoint(stage, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _discarded_statistics(stage)

    return checkpoint(stage, *inputs, use_reentrant=False, context_fn=contexts)


def split_padding(size: int, multiple: int) -> tuple[int, int]:
    """Pixels to add before and after ``size`` so that it becomes a multiple of ``multiple``, and at least two of it."""
    missing = max(2 * multiple, -(-size // multiple) * multiple) - size
    return missing // 2, missing - missing // 2


class SegmentationNetwork(nn.Module, ABC):
    """A network that takes images of any size: it pads them to what its poolings need and crops its logits back.

    Subclasses set ``stride``, the factor between the image and the smallest feature map, and implement
    :meth:`compute_logits` for images whose sides are multiples of it. Sides are padded to 2 · ``stride`` at
    least: the smallest map then has 2 × 2 pixels, and batch norm more than one value per channel in training
    with a single image, where it would otherwise fail. Padding reflects the image; where it is wider than the
    image, which cannot be reflected that far, it repeats the border.

    Args:
        activation_checkpointing: keep no activations inside the stages during training but compute them twice:
            up to half as slow again, with a third less memory at the peak or better.
    """

    stride: int

    def __init__(self, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing

    def run_stage(self, stage: nn.Module, *inputs: Tensor):
        """Call ``stage``, with activation checkpointing where that is on and gradients are wanted."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return recomputed(stage, *inputs)
        return stage(*inputs)

    @abstractmethod
    def compute_logits(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), H and W multiples of ``stride``, to logits (B, num_classes, H, W)."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) to logits (B, num_classes, H, W), for any H and W.

        The sizes are Python integers, so nothing here depends on data: it compiles and never synchronizes.
        """
        height, width = images.shape[-2:]
        top, bottom = split_padding(height, self.stride)
        left, right = split_padding(width, self.stride)
        if not (top or bottom or left or right):
            return self.compute_logits(images)
        fits = max(top, bottom) < height and max(left, right) < width
        padded = F.pad(images, (left, right, top, bottom), mode="reflect" if fits else "replicate")
        return self.compute_logits(padded)[..., top : top + height, left : left + width]
