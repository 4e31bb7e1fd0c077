"""What a network sees: its features layer by layer, beside those of the same network trained on clean labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

MOST_PIXELS = 4000  # of each layer
RIDGE = 1e-3  # times the features' mean variance
MULTIPLE = 16  # of the sides of windows, so that no network pads


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    r"""Linear centred kernel alignment of two sets of features of the same n pixels, in [0, 1],

    .. math:: \frac{\|Y^\top X\|_F^2}{\|X^\top X\|_F\,\|Y^\top Y\|_F}

    with centred columns: 1 for features that differ by a rotation and a factor, about 0 for unrelated ones.

    Args:
        first, second: (n, channels), which may differ.
    Source: Kornblith et al., *Similarity of neural network representations revisited*, ICML 2019.
    """
    x, y = (each - each.mean(0) for each in (first.astype(np.float64), second.astype(np.float64)))
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms) if norms > 0 else float("nan")


def probe_auc(features: np.ndarray, labels: np.ndarray, others: np.ndarray, truth: np.ndarray) -> float:
    """AUC on other pixels of a linear probe, ridge regression of the true labels on features.

    Args:
        features, others: (n, channels) to fit on and to judge by.
        labels, truth: 0/1, (n,).
    """
    from sklearn.metrics import roc_auc_score

    mean = features.mean(0)
    x, y = features - mean, labels - labels.mean()
    weights = np.linalg.solve(x.T @ x + RIDGE * len(x) * max(x.var(), 1e-12) * np.eye(x.shape[1]), x.T @ y)
    return float(roc_auc_score(truth, (others - mean) @ weights)) if len(np.unique(truth)) == 2 else float("nan")


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """The stages of a U-Net by name, in the order in which images pass them."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if name.startswith(("down.", "up.")) and name.count(".") == 1
    }


@torch.no_grad()
def layer_features(
    network: nn.Module, images: Sequence[Tensor], labels: Sequence[np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Features (n, channels) of each layer at up to MOST_PIXELS of its pixels, and what the labels say there, (n,).

    Args:
        images: (channels, H, W), of which a window from the corner is taken.
        labels: 0/1, (H, W); at a lower resolution a pixel is foreground where most of its block is.
    """
    caught: dict[str, Tensor] = {}
    layers = layers_of(network.eval())
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: caught.__setitem__(name, output))
        for name, layer in layers.items()
    ]
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in layers}
    for image, label in zip(images, labels, strict=True):
        height, width = (side // MULTIPLE * MULTIPLE for side in label.shape)
        network(image[None, :, :height, :width])
        for name, output in caught.items():
            factor = height // output.shape[-2]
            blocks = (label[:height, :width] == 1).reshape(height // factor, factor, width // factor, factor)
            values = output[0].flatten(1).T.float().numpy()
            step = max(1, len(values) * len(images) // MOST_PIXELS)
            found[name].append((values[::step], (blocks.mean((1, 3)) >= 0.5).ravel()[::step].astype(np.float64)))
    for hook in hooks:
        hook.remove()
    return {name: tuple(map(np.concatenate, zip(*parts, strict=True))) for name, parts in found.items()}


def compare_layers(
    network: nn.Module, reference: nn.Module, images: Sequence[Tensor], labels: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """CKA of each layer of two networks, and how well a linear probe of either finds the truth in unseen images."""
    half = len(images) // 2
    ours, theirs = (
        [layer_features(each, images[part], labels[part]) for part in (slice(None), slice(half), slice(half, None))]
        for each in (network, reference)
    )

    def probe(parts: list[dict[str, tuple[np.ndarray, np.ndarray]]], name: str) -> float:
        return probe_auc(*parts[1][name], *parts[2][name])

    return [
        {
            "layer": name,
            "cka": linear_cka(ours[0][name][0], theirs[0][name][0]),
            "probe": probe(ours, name),
            "clean_probe": probe(theirs, name),
        }
        for name in ours[0]
    ]
