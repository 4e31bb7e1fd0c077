"""Running statistics of batch norm that fit the weights: counted anew on training crops while a run has few steps.

A running statistic is an average over the latest ten batches or so. After few steps it still holds the zeros and ones
that it began with, and while weights change fast it lags behind them: the training loss then says *learned*, and
predictions, which use it, say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.device import autocast

FEW_STEPS = 200  # of the optimizer, until which statistics are counted anew after every epoch
MAX_BATCHES = 8  # that they are counted on


def re_estimate_statistics(
    networks: Iterable[nn.Module],
    batches: Iterable[dict[str, Any]],
    *,
    device: torch.device,
    precision: str = "fp32",
    channels_last: bool = False,
) -> None:
    r"""Replace the running statistics of every batch norm by their means over up to ``MAX_BATCHES`` batches.

    .. math:: \mu = \frac1n \sum_{i=1}^n \mu_i, \qquad \sigma^2 = \frac1n \sum_{i=1}^n \sigma_i^2

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
        batch["image"].to(device, non_blocking=True, memory_format=memory_format)
        for batch in islice(batches, MAX_BATCHES)
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
    kept = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]
    network.train()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the cumulative average
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, kept, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(tracked)
        network.train(mode)
