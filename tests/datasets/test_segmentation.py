"""Items depend on (seed, epoch, image) alone; batches deal every draw out once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from datasets.labels import IGNORE
from datasets.lists import read_list
from datasets.segmentation import LabelNoise, OrderedBatches, SegmentationDataset, TrainingBatches, make_loader
from datasets.transforms import TrainingTransform


@pytest.fixture
def samples(disks):
    return read_list(disks / "txt" / "disks" / "train" / "train_gt.txt", root=disks)


def test_items_are_normalized_images_and_class_labels(samples):
    item = SegmentationDataset(samples)[0]
    assert item["image"].shape == (1, 64, 64) and item["image"].dtype == torch.float32
    assert item["label"].shape == (64, 64) and set(item["label"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("cache", [True, False])
def test_an_item_is_a_function_of_seed_epoch_and_draw(samples, cache):
    def items(seed: int, order: list[int]) -> dict[int, torch.Tensor]:
        dataset = SegmentationDataset(samples, TrainingTransform(32), seed=seed, cache=cache)
        return {draw: dataset[(5, draw)]["image"] for draw in order}

    forward, backward, other = items(0, [0, 1, 9]), items(0, [9, 1, 0]), items(1, [0, 1, 9])
    assert all(torch.equal(forward[draw], backward[draw]) for draw in forward)
    assert not torch.equal(forward[0], other[0])
    assert not torch.equal(forward[1], forward[9])  # a second copy of image 1 has a draw of its own


def test_fixed_noise_stays_and_fresh_noise_changes(samples):
    for refresh, same in (("fixed", True), ("epoch", False)):
        dataset = SegmentationDataset(samples, noise=LabelNoise("flip:0.3", refresh=refresh))
        first, second = dataset.label(0, epoch=1), dataset.label(0, epoch=2)
        assert np.array_equal(first, second) is same
        clean = SegmentationDataset(samples).label(0)
        expected = sum(np.floor(0.3 * (clean == value).sum() + 0.5) for value in (0, 1))
        assert (first != clean).sum() == (second != clean).sum() == expected


@pytest.mark.parametrize("cache", [True, False])
def test_a_stored_label_has_fixed_noise_and_no_fresh_one(samples, cache):
    clean = SegmentationDataset(samples).label(0)
    fresh = SegmentationDataset(samples, noise=LabelNoise("flip:0.3", refresh="epoch"), cache=cache)
    fixed = SegmentationDataset(samples, noise=LabelNoise("flip:0.3"), cache=cache)
    assert np.array_equal(fresh.stored_label(0), clean) and not np.array_equal(fresh.label(0, epoch=1), clean)
    assert np.array_equal(fixed.stored_label(0), fixed.label(0)) and not np.array_equal(fixed.label(0), clean)


def test_a_sample_without_label_counts_nowhere(samples):
    from dataclasses import replace

    item = SegmentationDataset([replace(samples[0], label=None)])[0]
    assert (item["label"] == IGNORE).all()


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("repeat", [1, 8])
def test_every_draw_is_dealt_out_once(world, repeat):
    parts = [TrainingBatches(10, 4, seed=1, repeat=repeat, rank=rank, world=world) for rank in range(world)]
    seen: Counter = Counter()
    shapes = set()
    for part in parts:
        part.set_epoch(3)
        batches = list(part)
        shapes.add(tuple(map(len, batches)))
        seen.update(key for batch in batches for key in batch if key[1] >= 0)
    (steps,) = shapes  # all processes make the same ones
    assert len(steps) == len(parts[0]) == -(-10 * repeat // 4)
    assert seen == Counter({(3, draw): 1 for draw in range(10 * repeat)})


def test_the_order_follows_the_epoch():
    batches = TrainingBatches(20, 20, seed=0)
    orders = []
    for epoch in (1, 2, 1):
        batches.set_epoch(epoch)
        orders.append([draw for _, draw in next(iter(batches))])
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize(("images", "steps", "epochs"), [(14, 60, 20), (3, 50, 20), (100, 33, 7)])
def test_a_run_counted_in_steps_draws_all_images_equally_often(images, steps, epochs, world):
    parts = [TrainingBatches(images, 4, 0, rank=rank, world=world, steps=steps / epochs) for rank in range(world)]
    made, seen, keys = 0, Counter(), Counter()
    for epoch in range(1, epochs + 1):
        for part in parts:
            part.set_epoch(epoch)
            batches = [[key for key in batch if key[1] >= 0] for batch in part]
            assert len(batches) == len(part)
            keys.update(key for batch in batches for key in batch)
            seen.update(draw % images for batch in batches for _, draw in batch)
        made += len(parts[0])
        assert max(seen.values()) - min(seen[index] for index in range(images)) <= 1
    assert made == steps and sum(seen.values()) == 4 * steps
    assert set(keys.values()) == {1}  # each with a random stream of its own


def test_a_run_counted_in_steps_is_a_function_of_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = TrainingBatches(14, 4, seed, steps=2.5)
        batches.set_epoch(epoch)
        return [[draw for _, draw in batch] for batch in batches]

    assert order(0, 5) == order(0, 5) != order(1, 5)
    assert [len(order(0, epoch)) for epoch in (1, 2, 3, 4)] == [3, 2, 3, 2]


def test_a_filler_counts_nowhere(samples):
    part = TrainingBatches(5, 4, seed=0, rank=1, world=2)
    last = list(part)[-1]
    label = SegmentationDataset(samples, TrainingTransform(32))[last[0]]["label"]
    assert len(last) == 1 and (label == IGNORE).all()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_validation_batches_hold_equal_sizes_and_every_image_once(world):
    sizes = [(64, 64), (32, 48), (64, 64), (32, 48), (64, 64), (20, 20)]
    shares = [list(OrderedBatches(sizes, 2, rank, world)) for rank in range(world)]
    counts = [sum(map(len, share)) for share in shares]
    assert max(counts) - min(counts) <= 1
    batches = sum(shares, [])
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert all(len({sizes[index] for index in batch}) == 1 for batch in batches)


def test_workers_change_nothing(samples):
    def epoch(workers: int) -> list[torch.Tensor]:
        dataset = SegmentationDataset(samples, TrainingTransform(32), noise=LabelNoise("flip:0.3", refresh="epoch"))
        batches = TrainingBatches(len(dataset), 3, seed=0)
        loader = make_loader(dataset, batches, workers)
        results = []
        for number in (1, 2):
            batches.set_epoch(number)
            results += [torch.cat([batch["image"].ravel(), batch["label"].ravel()]) for batch in loader]
        return results

    assert all(torch.equal(one, many) for one, many in zip(epoch(0), epoch(2), strict=True))


def test_no_more_workers_are_started_than_there_are_batches(samples):
    dataset = SegmentationDataset(samples, TrainingTransform(32))
    batches = TrainingBatches(len(dataset), 3, seed=0)
    assert make_loader(dataset, batches, workers=100_000).num_workers == len(batches)
    assert make_loader(dataset, batches, workers=1).num_workers == 1
