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
from torch import Tensor

from utils.background import read_ahead
from utils.device import pinned

# Weights are multiples of 1/RAMP_STEPS: products of two with a float32 score, and their sums, are exact in float64.
RAMP_STEPS = 4096
ALIGNMENT = 32  # pixels; a multiple of every network's stride

Predict = Callable[[Tensor], Tensor]  # float32 images (B, C, h, w) → scores (B, K, h, w), both on the device
ReadRows = Callable[[int, int], Tensor]  # first row, row after the last → these rows of the input, float32 (C, rows, W)


def tile_starts(length: int, window: int, overlap: int) -> list[int]:
    """First pixels of the fewest tiles that cover an axis, evenly spaced.

    Starts are multiples of ALIGNMENT where window − overlap allows it: the poolings of all tiles then meet the same
    pixels, so that neighbours agree where they overlap. The last tile may reach beyond the axis, by less than that and,
    so that it can be continued by its reflection, than half of the window.

    Args:
        length: pixels along the axis.
        window: pixels of a tile; a tile covers a shorter axis as a whole.
        overlap: least number of pixels that neighbours share, 0 ≤ overlap < window.
    """
    if not 0 <= overlap < window:
        raise ValueError(f"the overlap ({overlap}) must be at least 0 and smaller than the window ({window})")
    if length <= window:
        return [0]
    unit = ALIGNMENT if min(window - overlap, window // 2) >= ALIGNMENT else 1
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


@torch.inference_mode()
def predict_bands(
    predict: Predict,
    read_rows: ReadRows,
    shape: tuple[int, int],
    window: int = 512,
    overlap: int = 64,
    batch: int = 8,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[int, Tensor]]:
    """Predict an image tile by tile and yield its scores from top to bottom in bands of whole rows.

    Tiles are cut, predicted and blended on the device; the rows of the next tiles are read meanwhile. Memory: on the
    device a band of ``window`` rows of scores in float64, beside what ``predict`` needs for ``batch`` tiles; on the
    host two strips of ``window`` rows of the input.

    Args:
        predict: scores of a batch of tiles.
        read_rows: network input; called from a thread.
        shape: of the image, (H, W).
        window: side of a tile.
        overlap: least overlap of neighbouring tiles.
        batch: tiles predicted at once.
    Yields: (first row, scores float32 (K, rows, W) on the device); bands follow each other without gap.
    """
    height, width = shape
    device = torch.device(device)
    blending = torch.device("cpu") if device.type == "mps" else device  # MPS has no float64
    tops, lefts = tile_starts(height, window, overlap), tile_starts(width, window, overlap)
    row_weights = torch.from_numpy(tile_weights(tops, height, window, overlap=overlap)).to(blending)
    column_weights = torch.from_numpy(tile_weights(lefts, width, window, overlap=overlap)).to(blending)
    tile_height, tile_width = row_weights.shape[1], column_weights.shape[1]

    def read_strip(top: int) -> Tensor:
        strip = read_rows(top, min(top + tile_height, height))
        return pinned(_reflect(strip, tile_height, lefts[-1] + tile_width), device)

    band = torch.empty(0)  # (K, tile_height, …) from the first scores on, which tell K
    for number, strip in enumerate(read_ahead(read_strip, tops, ahead=1, workers=1)):
        strip = strip.to(device, non_blocking=True)
        for first in range(0, len(lefts), batch):
            some = lefts[first : first + batch]
            tiles = torch.stack([strip[..., left : left + tile_width] for left in some])
            scores = predict(tiles).to(blending)
            if not band.numel():
                band = scores.new_zeros((scores.shape[1], tile_height, lefts[-1] + tile_width), dtype=torch.float64)
            for left, columns, tile in zip(some, column_weights[first:], scores, strict=False):
                band[..., left : left + tile_width] += tile * (row_weights[number][:, None] * columns)
        finished = (tops[number + 1] if number + 1 < len(tops) else height) - tops[number]
        yield tops[number], band[:, :finished, :width].float()
        band = torch.cat([band[:, finished:], torch.zeros_like(band[:, :finished])], dim=1)


def _reflect(strip: Tensor, height: int, width: int) -> Tensor:
    """A strip (C, h, w) continued to (C, height, width) by its reflection at the bottom and on the right."""
    missing = (0, width - strip.shape[-1], 0, height - strip.shape[-2])
    return F.pad(strip, missing, mode="reflect") if any(missing) else strip
