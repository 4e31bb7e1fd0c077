r"""How unlike the images that a network was trained on an image is: from its input, inner features and scores.

An image is described by numbers of three kinds: of its input (mean, deviation, quantiles, octaves of spatial
frequency), of inner features (mean and deviation of every channel) and of its scores (shares of the classes, entropy).
Training images give each number its mean μ and deviation σ. The distance of an image in a kind is

.. math:: d = \sqrt{\tfrac1n \sum_i \Big(\frac{x_i - \mu_i}{\sigma_i}\Big)^2}

in units of the median of held-out images of the same lab; its unlikeness is the largest of the three over the limit
that one further image of that lab stays below in 99 of 100 cases. Above 1 the image is unlike all that was seen.

Source of the idea, per-channel statistics of activations as the signature of a domain: Li et al., *Revisiting Batch
Normalization for Practical Domain Adaptation*, arXiv 1603.04779.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import to_scores
from utils.device import autocast

KINDS = ("input", "features", "scores")
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
OCTAVES = 5
MAX_SORTED = 2**16  # pixels, for quantiles
MIN_RELATIVE = 0.05  # of a number's mean: deviations below count as this
WITHIN = 0.99  # of further images of the same lab lie within the limit
MIN_IMAGES = 3  # of either kind
WINDOW = 512  # side of what is described of an image, in pixels
SPARE = 1e-6
MIN_SHARE = 0.01  # of a class, below which doubt about it counts little


def describe_input(images: Tensor) -> Tensor:
    """Numbers of network input (B, C, H, W): for every channel moments, quantiles, log deviations of octaves (B, n)."""
    planes = images.float()
    deviation, mean = torch.std_mean(planes, (-2, -1), correction=0)
    flat = planes.flatten(2)[..., :: max(1, planes[0, 0].numel() // MAX_SORTED)]
    numbers = [mean, deviation]
    numbers += [flat.kthvalue(1 + round(at * (flat.shape[-1] - 1)), -1)[0] for at in QUANTILES]
    for _ in range(OCTAVES):
        if min(planes.shape[-2:]) < 2:
            numbers.append(torch.zeros_like(mean))
            continue
        coarse = F.avg_pool2d(planes, 2)
        seen = planes[..., : 2 * coarse.shape[-2], : 2 * coarse.shape[-1]]
        detail = seen - F.interpolate(coarse, scale_factor=2)
        numbers.append(detail.std((-2, -1), correction=0).clamp_min(1e-3).log())
        planes = coarse
    return torch.cat(numbers, 1)


def describe_features(features: Iterable[Tensor]) -> Tensor:
    """Mean and deviation of every channel of some feature maps (B, C, h, w), (B, n)."""
    moments = [torch.std_mean(each.float(), (-2, -1), correction=0) for each in features]
    return torch.cat([part for pair in moments for part in pair], 1)


def describe_scores(logits: Tensor) -> Tensor:
    """Share of every class but the first, mean entropy, and how much of every class is in doubt, (B, n)."""
    scores = to_scores(logits).float()
    if scores.shape[1] == 1:
        scores = torch.cat([1 - scores, scores], 1)
    shares = scores.mean((-2, -1))
    entropy = -(scores.clamp_min(SPARE).log() * scores).sum(1).mean((-2, -1))
    doubt = [(scores * (1 - scores))[:, k].mean((-2, -1)) / (shares[:, k] + MIN_SHARE) for k in range(scores.shape[1])]
    return torch.cat([shares[:, 1:], entropy[:, None], torch.stack(doubt, 1)], 1)


def layers_to_watch(network: nn.Module) -> list[str]:
    """The layers whose input is described: the convolution with the most input channels, and the last one.

    Inputs, since batch norm that is folded into the convolution before leaves them as they are.
    """
    convolutions = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    deepest = max(convolutions, key=lambda named: named[1].in_channels)[0]
    return list(dict.fromkeys([deepest, convolutions[-1][0]]))


class Watch:
    """Describes the images that a network sees, pass by pass; see `watching`."""

    def __init__(self) -> None:
        self.passes: list[Tensor] = []  # (B, n) each
        self.sizes: tuple[int, ...] = ()  # numbers of each kind
        self.features: dict[str, Tensor] = {}
        self.numbers: dict[Any, np.ndarray] = {}  # (n,) by what was seen

    def describe(self, images: Tensor, logits: Tensor) -> None:
        """Keep the numbers of a pass whose inner features have been kept already."""
        kinds = [describe_input(images), describe_features(self.features.values()), describe_scores(logits)]
        self.passes.append(torch.cat(kinds, 1))
        self.sizes = tuple(kind.shape[1] for kind in kinds)
        self.features = {}

    def take(self) -> np.ndarray:
        """The numbers (images, n) of the images that were seen since the last call, flipped ones averaged with them."""
        numbers = torch.stack(self.passes).mean(0)
        self.passes.clear()
        return numbers.double().cpu().numpy()

    def note(self, seen: Sequence[Any]) -> None:
        """Say which images were seen since the last call."""
        self.numbers |= zip(seen, self.take(), strict=True)


@contextmanager
def watching(network: nn.Module, layers: Sequence[str]) -> Iterator[Watch]:
    """Watch every forward pass of a network.

    Args:
        layers: names of modules whose input is described.
    """
    watch = Watch()

    def keep(name: str, inputs: tuple[Tensor, ...]) -> None:
        watch.features[name] = inputs[0]

    handles: list[Any] = [
        network.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs))
        for name in layers
    ]
    handles.append(network.register_forward_hook(lambda _, inputs, logits: watch.describe(inputs[0], logits)))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class OwnImages:
    """What the images of a network's own lab look like to it; plain tensors and numbers in a checkpoint.

    Args:
        layers: whose input is described.
        sizes: numbers of each kind.
        mean, deviation: of every number over training images, (n,).
        medians: of the held-out images' distances, by kind.
        limit: of distances over medians, see the file's beginning.
        images, held_out: how many there were.
    """

    layers: list[str]
    sizes: list[int]
    mean: np.ndarray
    deviation: np.ndarray
    medians: list[float]
    limit: float
    images: int
    held_out: int

    @classmethod
    def learn(
        cls, trained: np.ndarray, held_out: np.ndarray, sizes: Sequence[int], layers: Sequence[str]
    ) -> OwnImages | None:
        """From the numbers of training images (N, n) and of held-out ones (M, n); None where these are too few."""
        if min(len(trained), len(held_out)) < MIN_IMAGES:
            return None
        mean = trained.mean(0)
        deviation = np.sqrt(trained.var(0, ddof=1) + (MIN_RELATIVE * mean) ** 2 + SPARE)
        own = cls([*layers], [*sizes], mean, deviation, [1.0] * len(KINDS), 1.0, len(trained), len(held_out))
        distances = own.distances(held_out)
        medians = np.maximum(np.median(distances, 0), SPARE)
        farthest = (distances / medians).max(1)
        return replace(own, medians=medians.tolist(), limit=upper_limit(farthest))

    def distances(self, numbers: np.ndarray) -> np.ndarray:
        """Distances of images, whose numbers are (m, n), by kind, (m, 3)."""
        squares = ((numbers - self.mean) / self.deviation) ** 2
        kinds = np.split(squares, np.cumsum(self.sizes)[:-1], axis=1)
        return np.stack([np.sqrt(kind.mean(1)) for kind in kinds], 1) / self.medians

    def unlikeness(self, numbers: np.ndarray) -> np.ndarray:
        """How unlike own images are, by kind, (m, 3); an image's unlikeness is the largest."""
        return self.distances(numbers) / self.limit

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("mean", "deviation")}
        return {**asdict(self), **arrays}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> OwnImages:
        """What `to_json` gave."""
        return cls(**{**stored, "mean": stored["mean"].numpy(), "deviation": stored["deviation"].numpy()})


def upper_limit(values: np.ndarray) -> float:
    r"""What one further value stays below with probability ``WITHIN``, or the highest if that is more.

    Logarithms are taken as normal, of unknown mean and variance:

    .. math:: \log L = m + t_{n-1} s \sqrt{1 + 1/n}
    """
    from scipy.special import stdtrit

    logs, count = np.log(np.maximum(values, SPARE)), len(values)
    reach = float(stdtrit(count - 1, WITHIN)) * logs.std(ddof=1) * np.sqrt(1 + 1 / count)
    return float(np.exp(max(logs.mean() + reach, logs.max())))


def middle(image: Tensor) -> Tensor:
    """The middle window of network input (C, H, W) that is larger than ``WINDOW``."""
    top, left = (max(size - WINDOW, 0) // 2 for size in image.shape[-2:])
    return image[..., top : top + WINDOW, left : left + WINDOW]


@torch.inference_mode()
def learn_own_images(
    network: nn.Module,
    trained: Iterable[Tensor],
    held_out: Iterable[Tensor],
    *,
    device: torch.device,
    precision: str = "fp32",
) -> OwnImages | None:
    """Describe images of a network's own lab.

    Args:
        network: in evaluation mode, on ``device``; batch norms may be folded later.
        trained: network input of images that it was trained on, (C, H, W) each.
        held_out: the same of images that it was not; where there are fewer than three, every second of the others.
    Returns: None where there are too few.
    """
    layers = layers_to_watch(network)
    with watching(network, layers) as watch, autocast(device, precision):

        def describe(images: Iterable[Tensor]) -> list[np.ndarray]:
            return [(network(middle(image)[None].to(device)), watch.take()[0])[1] for image in images]

        numbers, others = describe(trained), describe(held_out)
    if len(others) < MIN_IMAGES:
        numbers, others = numbers[::2], numbers[1::2] + others
    return OwnImages.learn(np.array(numbers), np.array(others), watch.sizes, layers)
