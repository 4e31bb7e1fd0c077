r"""Differentiable feature clustering: a small network trained without labels on the images it segments.

    python evaluation/baselines.py --dataset nuc_sim --methods dfc
    python evaluation/baselines.py --dataset er --data_list val --methods dfc --dfc scope=set iterations=300

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from evaluation.classical.methods import otsu_mask, scores_from_mask, standardized
from utils.cli import UserError, one_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class DfcSettings:
    """How feature-clustering networks are built and trained.

    Args:
        channels: width of the hidden layers, and clusters to begin with.
        layers: 3×3 convolutions.
        iterations: steps at most, for each network.
        continuity: weight of the likeness of neighbors.
        crop: side of the random window that a step sees, in pixels.
        lr, momentum: of stochastic gradient descent.
        min_clusters: training stops when no more clusters than this are left.
        seed: of weights, images and windows.
        scope: a network for each ``image``, or one for the ``set``.
    """

    channels: int = 16
    layers: int = 2
    iterations: int = 100
    continuity: float = 1.0
    crop: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    min_clusters: int = 3
    seed: int = 0
    scope: str = "image"

    @classmethod
    def parse(cls, pairs: Sequence[str]) -> DfcSettings:
        """From texts such as ``iterations=300``.

        Raises:
            UserError: an unknown name, or a value of the wrong kind.
        """
        defaults = {own.name: own.default for own in fields(cls)}
        given = {}
        for pair in pairs:
            name, _, value = pair.partition("=")
            kind = type(defaults[one_of(name, list(defaults), "setting of dfc")])
            try:
                given[name] = kind(value)
            except ValueError:
                raise UserError(f"--dfc {pair}: {value!r} must be a number, such as {defaults[name]}") from None
        one_of(given.get("scope", "image"), ("image", "set"), "--dfc scope")
        return cls(**given)


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


def random_window(image: Tensor, size: int, generator: torch.Generator) -> Tensor:
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
    return scores_from_mask(values, otsu_mask(values))


def segment(images: Sequence[np.ndarray], settings: DfcSettings) -> Iterator[np.ndarray]:
    """Scores of all images, in order."""
    groups = ([image] for image in images) if settings.scope == "image" else [images]
    for group in groups:
        yield from train_dfc(group, settings)
