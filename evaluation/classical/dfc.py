r"""Differentiable feature clustering: a small network trained without labels on the images it segments.

    python evaluation/classical/dfc.py --dataset nuc_sim
    python evaluation/classical/dfc.py --dataset er --data_list val --scope set --iterations 300

Every pixel's response r (q channels) is a vote for one of q clusters; the network is trained to be sure of its own
vote and to vote alike for neighbors:

.. math:: L = \mathrm{CE}(r, \arg\max r) + \mu\,\big(\lVert \nabla_x r \rVert_1 + \lVert \nabla_y r \rVert_1\big)

Clusters have no meaning, so brightness gives them one: each gets its mean intensity, and Otsu's threshold of the
intensities, weighted by the votes, parts structures from background.

Source: Kim, Kanezaki, Tanaka, *Unsupervised Learning of Image Segmentation Based on Differentiable Feature
Clustering*, IEEE Trans. Image Processing 2020 (arXiv 2007.09990); written from the paper. There the network has 100
channels and trains for up to 1000 steps on an image, minutes on a CPU; the defaults here are meant for seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder, which shadows others

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.baselines import graded
from evaluation.classical.foreground import otsu_mask
from evaluation.classical.runner import make_parser, run_methods
from utils.cli import run_command

if TYPE_CHECKING:
    from torch import Tensor, nn


def setting(default: float, help: str) -> Any:
    """A field of :class:`DfcSettings` that is an option of the command too."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DfcSettings:
    """How a feature-clustering network is built and trained; see the fields' help."""

    channels: int = setting(16, "width of the hidden layers, and clusters to begin with")
    layers: int = setting(2, "3x3 convolutions")
    iterations: int = setting(100, "steps at most, for each network")
    continuity: float = setting(1.0, "weight of the likeness of neighbors")
    crop: int = setting(128, "side of the random window that a step sees, in pixels")
    lr: float = setting(0.1, "learning rate")
    momentum: float = setting(0.9, "momentum")
    min_clusters: int = setting(3, "training stops when no more clusters than this are left")
    seed: int = setting(0, "seed of weights, images and windows")


def build_dfc_network(channels: int, layers: int) -> nn.Module:
    """Convolution, ReLU, batch norm ``layers`` times, then a 1×1 convolution and batch norm: (B, 1, H, W) → r.

    The last batch norm keeps every cluster in play: no channel can win by its offset alone.
    """
    from torch import nn

    stages: list[nn.Module] = []
    for number in range(layers):
        stages += [nn.Conv2d(channels if number else 1, channels, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(channels)]
    return nn.Sequential(*stages, nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


def dfc_loss(responses: Tensor, continuity: float) -> Tensor:
    """Cross-entropy against the responses' own votes, plus ``continuity`` times the mean L1 norm of their steps.

    Args:
        responses: (B, q, H, W).
    Returns: a scalar.
    """
    import torch.nn.functional as F

    similarity = F.cross_entropy(responses, responses.detach().argmax(1))
    rows = (responses[..., 1:, :] - responses[..., :-1, :]).abs().mean()
    columns = (responses[..., :, 1:] - responses[..., :, :-1]).abs().mean()
    return similarity + continuity * (rows + columns)


def standardized(image: np.ndarray) -> np.ndarray:
    """The image as float32 with mean 0 and deviation 1; a constant one becomes 0."""
    values = image.astype(np.float64)
    return ((values - values.mean()) / (values.std() or 1.0)).astype(np.float32)


def train_dfc(images: Sequence[np.ndarray], settings: DfcSettings) -> list[np.ndarray]:
    """Train one network on all of ``images`` and segment each of them.

    Args:
        images: (H, W) each, any type and size, structures bright.
    Returns: scores float32 (H, W) in [0, 1] each; 0.5 is Otsu's threshold of the clusters' intensities. A constant
        image scores 0.
    """
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    tensors = [torch.from_numpy(standardized(image))[None, None] for image in images]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = build_dfc_network(settings.channels, settings.layers)
    optimizer = torch.optim.SGD(network.parameters(), settings.lr, settings.momentum)
    for _ in range(settings.iterations):
        image = tensors[int(torch.randint(len(tensors), (), generator=generator))]
        responses = network(random_window(image, settings.crop, generator))
        optimizer.zero_grad(set_to_none=True)
        dfc_loss(responses, settings.continuity).backward()
        optimizer.step()
        if len(responses.argmax(1).unique()) <= settings.min_clusters:
            break
    return [cluster_scores(network, tensor) for tensor in tensors]


def random_window(image: Tensor, size: int, generator: object) -> Tensor:
    """A random window of (1, 1, H, W), at most ``size`` pixels high and wide."""
    import torch

    starts = [int(torch.randint(max(side - size, 0) + 1, (), generator=generator)) for side in image.shape[-2:]]
    return image[..., starts[0] : starts[0] + size, starts[1] : starts[1] + size]


def cluster_scores(network: nn.Module, image: Tensor) -> np.ndarray:
    r"""Scores of an image (1, 1, H, W): intensities averaged over the clusters, thresholded by Otsu.

    .. math:: m_k = \frac{\sum_x \pi_k(x)\,g(x)}{\sum_x \pi_k(x)},\qquad v(x) = \sum_k \pi_k(x)\,m_k

    with the softmax :math:`\pi` of the responses and the intensities g. Batch norm uses the image's own statistics,
    as it did in training.
    """
    import torch

    with torch.no_grad():
        votes = network(image).softmax(1)[0].flatten(1)  # (q, H·W)
    intensities = votes @ image.flatten() / votes.sum(1).clamp_min(1e-6)
    values = (intensities @ votes).view(image.shape[-2:]).numpy()
    if not image.any() or values.min() == values.max():
        return np.zeros(values.shape, np.float32)
    return graded(values, otsu_mask(values))


def segment(images: Sequence[np.ndarray], settings: DfcSettings, scope: str) -> Iterator[np.ndarray]:
    """Scores of all images, from a network of each image's own (``image``) or one for all (``set``)."""
    groups = ([image] for image in images) if scope == "image" else [images]
    for group in groups:
        yield from train_dfc(group, settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Segment the images that the command line names."""
    parser = make_parser(
        "evaluation/classical/dfc.py", "Differentiable feature clustering: segmentation trained without labels."
    )
    parser.add_argument(
        "--scope",
        default="image",
        choices=("image", "set"),
        help="train a network for each image, or one for all (default: image)",
    )
    for own in fields(DfcSettings):
        parser.add_argument(
            f"--{own.name}",
            type=type(own.default),
            default=own.default,
            metavar="N" if isinstance(own.default, int) else "X",
            help=f"{own.metadata['help']} (default: {own.default})",
        )
    options = parser.parse_args(arguments)
    settings = DfcSettings(**{own.name: getattr(options, own.name) for own in fields(DfcSettings)})
    run_methods(options, {"dfc": functools.partial(segment, settings=settings, scope=options.scope)})


if __name__ == "__main__":
    run_command(main)
