"""Tiles cover every pixel with weight 1, change nothing of a pointwise network and little of a local one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.prediction.tiling import ALIGNMENT, predict_bands, tile_starts, tile_weights
from models import build_network, to_scores

AXES = [
    (1, 16, 4),
    (16, 16, 4),
    (17, 16, 4),
    (40, 16, 0),
    (41, 16, 15),
    (100, 64, 8),
    (97, 48, 20),
    (151, 48, 16),
    (1001, 512, 64),
]


def predict_tiled(network: nn.Module, image: torch.Tensor, device: str = "cpu", **how: int) -> np.ndarray:
    """Scores float32 (K, H, W) of an image (C, H, W)."""
    shape = (image.shape[1], image.shape[2])
    bands = predict_bands(
        lambda tiles: to_scores(network(tiles)), lambda top, bottom: image[:, top:bottom], shape, device=device, **how
    )
    return torch.cat([scores for _, scores in bands], dim=1).cpu().numpy()


@pytest.mark.parametrize(("length", "window", "overlap"), AXES)
def test_tiles_cover_the_axis_and_weights_add_up_to_one(length, window, overlap):
    starts = tile_starts(length, window, overlap)
    unit = ALIGNMENT if window - overlap >= ALIGNMENT and window >= 2 * ALIGNMENT else 1
    assert starts[0] == 0 and all(start % unit == 0 for start in starts)
    assert length <= starts[-1] + min(window, length) < length + unit
    assert all(left < right <= left + window - overlap for left, right in zip(starts, starts[1:], strict=False))
    weights = tile_weights(starts, length, window, overlap)
    total = np.zeros(length + unit)
    for start, line in zip(starts, weights, strict=True):
        total[start : start + len(line)] += line
    assert (total[:length] == 1).all() and (weights >= 0).all()


def test_the_edge_of_a_tile_is_not_used():
    starts = tile_starts(300, 100, 20)
    weights = tile_weights(starts, 300, 100, 10)
    assert (weights[1:, 0] == 0).all() and (weights[:-1, -1] == 0).all()


@pytest.mark.parametrize(("shape", "classes"), [((70, 101), 1), ((33, 200), 1), ((64, 65), 3), ((20, 20), 1)])
@pytest.mark.parametrize("window", [32, 48])  # so small that a tile beyond the edge has too little to be mirrored
def test_tiling_a_pointwise_network_equals_the_whole_image(shape, classes, window):
    image = torch.rand(1, *shape)
    whole = (image * torch.linspace(0.5, 1, classes)[:, None, None]).numpy()
    factors = torch.linspace(0.5, 1, classes)[:, None, None]
    bands = predict_bands(lambda tiles: tiles * factors, lambda top, bottom: image[:, top:bottom], shape, window, 9, 3)
    assert (torch.cat([scores for _, scores in bands], 1).numpy() == whole).all()
    torch.manual_seed(0)
    network = nn.Conv2d(1, classes, 1)
    with torch.inference_mode():
        whole = to_scores(network(image[None]))[0].numpy()
    # A convolution may round differently for another shape of its input.
    assert predict_tiled(network, image, window=window, overlap=9, batch=3) == pytest.approx(whole, abs=1e-6)


def test_a_unet_is_the_same_in_tiles_where_the_overlap_exceeds_its_view():
    torch.manual_seed(0)
    network = build_network("unet", width=2, init="kaiming").eval()
    image = torch.randn(1, 416, 384)
    with torch.inference_mode():
        whole = to_scores(network(image[None]))[0].numpy()
    # Ramps of 32 pixels in overlaps of at least 256 leave 112 on either side; the network sees 94.
    tiled = predict_tiled(network, image, window=320, overlap=256)
    assert tile_starts(416, 320, 256) == [0, 64, 96] and whole.std() > 0.1
    assert tiled == pytest.approx(whole, abs=1e-5)


def test_bands_follow_each_other_and_batches_and_strips_are_bounded():
    sizes, strips = [], []

    def predict(tiles: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(tiles.shape))
        return tiles

    def read_rows(top: int, bottom: int) -> torch.Tensor:
        strips.append((top, bottom))
        return torch.zeros(1, bottom - top, 300)

    next_row = 0
    for top, scores in predict_bands(predict, read_rows, (130, 300), window=64, overlap=16, batch=4):
        assert len(strips) <= 2 + top // 32  # the one at work and the next
        assert top == next_row and scores.shape[1] <= 64
        next_row += scores.shape[1]
    assert next_row == 130
    assert strips == [(0, 64), (32, 96), (64, 128), (96, 130)]
    assert max(size[0] for size in sizes) == 4 and {size[1:] for size in sizes} == {(1, 64, 64)}


@pytest.mark.parametrize("overlap", [-1, 32])
def test_an_impossible_overlap_is_refused(overlap):
    with pytest.raises(ValueError, match="overlap"):
        predict_tiled(nn.Identity(), torch.zeros(1, 64, 64), window=32, overlap=overlap)


@pytest.mark.gpu
def test_tiles_cut_and_blended_on_a_gpu_give_the_same_scores():
    torch.manual_seed(0)
    network = build_network("unet", width=2, init="kaiming").eval().double()
    image = torch.randn(1, 200, 333, dtype=torch.float64)
    on_cpu = predict_tiled(network, image, window=96, overlap=32, batch=3)
    on_gpu = predict_tiled(network.cuda(), image, window=96, overlap=32, batch=3, device="cuda")
    assert on_gpu == pytest.approx(on_cpu, abs=1e-6) and on_cpu.std() > 0.01
