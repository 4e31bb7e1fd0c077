"""Batches from the device cache are those of the data set and its loader, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.gpu_loader import DeviceLoader, turned_places
from datasets.image_io import write_label
from datasets.labels import IGNORE
from datasets.lists import Sample
from datasets.segmentation import LabelNoise, OrderedBatches, SegmentationDataset, TrainingBatches, make_loader
from datasets.transforms import TrainingTransform

SIZES = [(40, 40), (40, 56), (24, 33), (64, 40), (40, 40)]
PIXELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "8 bit": lambda x: (x * 255).astype(np.uint8),
    "16 bit": lambda x: (20_000 + x * 45_000).astype(np.uint16),
    "float": lambda x: (x * 1e3 - 2).astype(np.float32),
}


@pytest.fixture(params=[*PIXELS, "mixed"])
def samples(request, tmp_path, rng) -> list[Sample]:
    """Images of several sizes, of one type or of all of them, with labels."""
    import tifffile

    made = []
    for number, size in enumerate(SIZES):
        make = list(PIXELS.values())[number % 3] if request.param == "mixed" else PIXELS[request.param]
        image, label = tmp_path / f"{number}.tif", tmp_path / f"{number}.png"
        tifffile.imwrite(image, make(rng.random(size)))
        write_label(label, (rng.random(size) < 0.4).astype(np.uint8))
        made.append(Sample(Path(image), Path(label), image.name, number))
    return made


def assert_same_batches(dataset: SegmentationDataset, batches, device: str, **cache: object) -> None:
    loaders = make_loader(dataset, batches), DeviceLoader(dataset, batches, torch.device(device), **cache)
    assert len(loaders[0]) == len(loaders[1])
    for epoch in (1, 2):
        if isinstance(batches, TrainingBatches):
            batches.set_epoch(epoch)
        for expected, found in zip(*loaders, strict=True):
            assert set(expected) == set(found)
            for name, value in expected.items():
                assert found[name].dtype == value.dtype and torch.equal(found[name].cpu(), value), name


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalization", ["zscore", "unit"])
def test_training_batches_are_those_of_the_data_set(samples, device, channels, normalization):
    dataset = SegmentationDataset(
        samples, TrainingTransform(32), in_channels=channels, normalization=normalization, seed=3
    )
    assert_same_batches(dataset, TrainingBatches(len(dataset), 4, seed=1, repeat=3), device)


def test_fillers_fresh_noise_and_stronger_augmentation_too(samples, device):
    noise = LabelNoise("flip:0.2+dilate:3", refresh="epoch")
    # A GPU interpolates in another order than a processor: what it rotates differs in the last bits.
    for strong in ((), ("rotate", "contrast", "noise") if device == "cpu" else ("contrast", "noise")):
        dataset = SegmentationDataset(samples, TrainingTransform(32, strong=strong), noise=noise)
        batches = TrainingBatches(len(dataset), 2, seed=1, rank=1, world=2)  # the last batch has a filler
        assert_same_batches(dataset, batches, device, labels_change=True)


def test_whole_images_for_validation(samples, device):
    assert_same_batches(SegmentationDataset(samples), OrderedBatches(SIZES, 2), device)


def test_whole_images_of_one_size_are_flipped(samples, device):
    for place in (0, 1):
        dataset = SegmentationDataset([samples[place]], TrainingTransform(None))
        assert_same_batches(dataset, TrainingBatches(1, 4, seed=0, repeat=16), device)


def test_images_keep_their_bit_depth(tmp_path, rng):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", PIXELS["16 bit"](rng.random((32, 32))))
    dataset = SegmentationDataset([Sample(tmp_path / "a.tif", None, "a.tif", 1)])
    loader = DeviceLoader(dataset, [[0]], torch.device("cpu"))
    assert loader.pixels.element_size() == 2 and loader.labels.element_size() == 1
    assert (next(iter(loader))["label"] == IGNORE).all()


def test_turned_places_of_a_square_are_its_eight_versions():
    places = turned_places(5, 5, torch.device("cpu"))
    assert len({version.numpy().tobytes() for version in places}) == 8
    assert all(torch.equal(version.ravel().sort().values, torch.arange(25)) for version in places)


@pytest.mark.gpu
@pytest.mark.parametrize("strong", [(), ("contrast", "noise")])
def test_no_batch_waits_for_the_device(samples, strong):
    noise = LabelNoise("flip:0.2", refresh="epoch")
    dataset = SegmentationDataset(samples, TrainingTransform(32, strong=strong), noise=noise)
    batches = TrainingBatches(len(dataset), 2, seed=1, rank=1, world=2)
    loader = DeviceLoader(dataset, batches, torch.device("cuda"), labels_change=True)
    list(loader)  # tables are made
    batches.set_epoch(1)  # labels are drawn anew
    torch.cuda.set_sync_debug_mode("error")
    try:
        list(loader)
    finally:
        torch.cuda.set_sync_debug_mode("default")
