"""Images larger than the network's window: overlapping tiles in, blended scores out, in bounded memory.

Neighbouring tiles are blended by linear ramps in the middle of their overlap; what lies outside the ramps, near a
tile's edge, is not used at all, because there the network saw too little of the surroundings. The weights of all
tiles add up to exactly 1 at every pixel, so tiling a pointwise network changes no bit of its scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import to_scores

# Weights are multiples of 1/RAMP_STEPS: products of two with a float32 score, and their sums, are exact in float64.
RAMP_STEPS = 4096
ALIGNMENT = 32  # pixels; a multiple of every network's stride

Predict = Callable[[Tensor], Tensor]  # float32 images (B, C, h, w) → scores (B, K, h, w), both on the host


def tile_starts(length: int, window: int, overlap: int) -> list[int]:
    """First pixels of the fewest tiles that cover an axis, evenly spaced.

    Starts are multiples of ALIGNMENT where window − overlap allows it: the poolings of all tiles then meet the same
    pixels, so that neighbours agree where they overlap. The last tile may reach beyond the axis, by less than that.

    Args:
        length: pixels along the axis.
        window: pixels of a tile; a tile covers a shorter axis as a whole.
        overlap: least number of pixels that neighbours share, 0 ≤ overlap < window.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"the overlap ({overlap}) must be at least 0 and smaller than the window ({window})")
    if length <= window:
        return [0]
    unit = ALIGNMENT if window - overlap >= ALIGNMENT else 1
    last = -(-(length - window) // unit)  # in units, like the stride
    count = -(-last // ((window - overlap) // unit)) + 1
    return [round(index * last / (count - 1)) * unit for index in range(count)]


def tile_weights(starts: list[int], length: int, window: int, overlap: int) -> np.ndarray:
    """Weights of the tiles along one axis, float64 (tiles, min(window, length)); at every pixel they add up to 1."""
    window = min(window, length)
    length = starts[-1] + window
    ramp = min([overlap, *np.diff(starts).tolist()])
    pixels = np.arange(length)
    shares = [np.ones(length)]  # the share of pixels that belongs to tile i or a later one
    for left, right in zip(starts, starts[1:], strict=False):
        begin = (right + left + window - ramp) // 2
        rising = (pixels - begin + 0.5) / max(ramp, 1) if ramp else pixels >= begin
        shares.append(np.rint(np.clip(rising, 0, 1) * RAMP_STEPS) / RAMP_STEPS)
    shares.append(np.zeros(length))
    weights = -np.diff(np.stack(shares), axis=0)
    return np.stack([line[start : start + window] for line, start in zip(weights, starts, strict=True)])


def predict_bands(
    predict: Predict, image: Tensor, window: int = 512, overlap: int = 64, batch: int = 8
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict an image tile by tile and yield its scores from top to bottom in bands of whole rows.

    Memory beyond the image: one band of ``window`` rows in float64 here, ``batch`` tiles in ``predict``.

    Args:
        predict: scores of a batch of tiles.
        image: network input, float32 (C, H, W), on the host.
        window: side of a tile.
        overlap: least overlap of neighbouring tiles.
        batch: tiles predicted at once.
    Yields: (first row, scores float32 (K, rows, W)); bands follow each other without gap.
    """
    height, width = image.shape[-2:]
    tops, lefts = tile_starts(height, window, overlap), tile_starts(width, window, overlap)
    row_weights = tile_weights(tops, height, window, overlap)
    column_weights = tile_weights(lefts, width, window, overlap)
    size = (row_weights.shape[1], column_weights.shape[1])
    band = None
    for number, top in enumerate(tops):
        for first in range(0, len(lefts), batch):
            some = lefts[first : first + batch]
            scores = predict(torch.stack([_cut(image, top, left, *size) for left in some])).numpy()
            if band is None:
                band = np.zeros((scores.shape[1], size[0], lefts[-1] + size[1]))
            for left, columns, tile in zip(some, column_weights[first:], scores, strict=False):
                band[:, :, left : left + size[1]] += tile * (row_weights[number][:, None] * columns)
        finished = (tops[number + 1] if number + 1 < len(tops) else height) - top
        yield top, band[:, :finished, :width].astype(np.float32)
        band = np.concatenate([band[:, finished:], np.zeros_like(band[:, :finished])], axis=1)


def _cut(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A tile; what lies beyond the image is its reflection."""
    tile = image[:, top : top + height, left : left + width]
    missing = (0, width - tile.shape[-1], 0, height - tile.shape[-2])
    return F.pad(tile[None], missing, mode="reflect")[0] if any(missing) else tile


@torch.inference_mode()
def predict_tiled(
    network: nn.Module,
    image: Tensor,
    window: int = 512,
    overlap: int = 64,
    batch: int = 8,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Scores of an image of any size; the network is taken as it is, in evaluation mode or not.

    Args:
        network: images to logits; lies on ``device``.
        image: float32 (C, H, W), on the host.
        window, overlap, batch: as in `predict_bands`.
    Returns: float32 (K, H, W).
    """

    def predict(tiles: Tensor) -> Tensor:
        return to_scores(network(tiles.to(device))).cpu()

    bands = [scores for _, scores in predict_bands(predict, image, window, overlap, batch)]
    return np.concatenate(bands, axis=1)
