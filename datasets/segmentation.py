"""The data set that training, validation and prediction read: samples in, normalized tensors out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.image_io import read_image, read_label
from datasets.labels import IGNORE
from datasets.list_parser import Sample
from datasets.transforms import NORMALIZATIONS, Scaling, TrainingTransform, prepare, sample_generator
from utils.errors import UserError
from utils.paths import display_path

# (epoch, draw): draw d of an epoch is image d mod n; ~d, below 0, is the same without its label: it is ignored.
Key = tuple[int, int]
USUAL_PIXELS = 256 * 256
BATCHES_AHEAD = 4  # that each worker reads before they are asked for


@dataclass(frozen=True)
class LabelNoise:
    """Noise put on clean labels while they are read.

    Args:
        spec: what to do, in the grammar of ``datasets.label_noise``.
        seed: the noise's seed.
        refresh: ``fixed`` (made once) or ``epoch`` (a fresh draw every epoch).
        unlabelled: what sampling drops becomes ``background`` or is ``ignore``-d.
    """

    spec: str
    seed: int = 0
    refresh: str = "fixed"
    unlabelled: str = "background"


class SegmentationDataset(Dataset):
    """Images and labels of a list as tensors; item ``(epoch, draw)`` depends on nothing else than the seed.

    Args:
        samples: what ``datasets.lists.read_list`` returned; samples without label get one that is ignored throughout.
        transform: paired augmentation of training; None returns whole images.
        num_classes: 1 for binary labels, else the number of classes.
        in_channels: of the images; 1 (grey) or 3 (RGB) turn one into the other.
        channels: to read, by number or OME name; empty: those that there are.
        ignore_index: the label value on disk that is ignored; of samples that know how they are read, that counts.
        normalization: a key of ``datasets.transforms.NORMALIZATIONS``.
        noise: label noise applied to the whole label, before crop and augmentation; clean labels get none.
        repair: what corrects labels that are not known to be clean, before noise; see `label_noise.parse_repair`.
        seed: seeds the augmentation.
        cache: keep decoded images and fixed labels in memory.
        sizes: (H, W) of every image when the lists were checked; one that differs later is an error.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: TrainingTransform | None = None,
        *,
        num_classes: int = 1,
        in_channels: int = 1,
        channels: Sequence[str] = (),
        ignore_index: int | None = None,
        normalization: str = "zscore",
        noise: LabelNoise | None = None,
        repair: str | None = None,
        seed: int = 0,
        cache: bool = True,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.samples, self.transform = list(samples), transform
        self.num_classes, self.in_channels, self.ignore_index = num_classes, in_channels, ignore_index
        self.channels = tuple(channels)
        self.normalization, self.seed, self.cache = normalization, seed, cache
        # Labels are shares: those of several annotators, fused.
        self.is_soft = num_classes == 1 and any(sample.fusion is not None for sample in self.samples)
        self.sizes = None if sizes is None else list(sizes)
        self.noise, self._repair, self._make_noisy = noise, None, None
        if repair is not None or noise is not None:
            self._set_changes(repair, noise)
        self._images: dict[int, np.ndarray] = {}
        self._labels: dict[int, np.ndarray] = {}
        self._scalings: dict[int, Scaling] = {}
        self._prepared: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> np.ndarray:
        """The decoded image of sample ``index``, (H, W) or (H, W, 3), in its file's own type."""
        image = self._images.get(index)
        if image is None:
            image = read_image(self.samples[index].image, self.in_channels, self.channels)
            self._check_size(index, image.shape[:2], self.samples[index].image)
            if self.cache:
                self._images[index] = image
        return image

    def pixels(self, index: int) -> np.ndarray:
        """What of sample ``index`` is scaled: its image, or what ``prepare`` makes of it."""
        prepared = self._prepared.get(index)
        if prepared is None:
            prepared = prepare(self.image(index), self.normalization)
            if self.cache:
                self._prepared[index] = prepared
        return prepared

    def scaled_pixels(self, index: int) -> tuple[np.ndarray, Scaling]:
        """The ``pixels`` of sample ``index`` and how they become network input; decoded once."""
        pixels, scaling = self.pixels(index), self._scalings.get(index)
        if scaling is None:
            scaling = self._scalings[index] = NORMALIZATIONS[self.normalization](pixels)
        return pixels, scaling

    def label(self, index: int, epoch: int = 0) -> np.ndarray:
        """The label that training sees for sample ``index``, (H, W): noise applied, IGNORE where unknown.

        uint8, or float32 shares of foreground where ``is_soft``.
        """
        label = self.stored_label(index)
        is_noisy = self.samples[index].clean_label is None
        if is_noisy and self.noise is not None and self.noise.refresh == "epoch":
            label = self._add_noise(label, index, epoch)
        return label

    def stored_label(self, index: int) -> np.ndarray:
        """The label of sample ``index`` as read or set, without the noise that every epoch draws anew."""
        label = self._labels.get(index)
        if label is None:
            clean = self.samples[index].clean_label
            label = self._listed_label(index) if clean is None else self._read(index, clean)
            label = label.astype(np.float32) if self.is_soft else label
            if self.cache:
                self._labels[index] = label
        return label

    def listed_label(self, index: int) -> np.ndarray:
        """The label that training would see for sample ``index`` if no clean one were known; of shares the majority."""
        label = self._listed_label(index, as_shares=False)
        is_drawn = self.noise is not None and self.noise.refresh == "epoch"
        return self._add_noise(label, index, 0) if is_drawn else label

    def _listed_label(self, index: int, as_shares: bool = True) -> np.ndarray:
        """The label that the list names, repaired, with fixed noise; of several ones the repaired ones fused."""
        sample = self.samples[index]
        if sample.fusion is not None:
            labels = [self._repaired(self._read(index, path)) for path in (sample.label, *sample.more_labels)]
            return (sample.fusion if as_shares else sample.fusion.majority)(labels, self.num_classes)
        label = self._repaired(self._read(index, sample.label))
        if self.noise is not None and self.noise.refresh == "fixed":
            label = self._add_noise(label, index, None)
        return label

    def _set_changes(self, repair: str | None, noise: LabelNoise | None) -> None:
        """Parse what is done to labels once they are read."""
        from datasets.label_noise import make_noisy_label, parse_repair, parse_spec

        classes = self.num_classes
        if repair is not None:
            steps = parse_repair(repair, classes)
            self._repair = partial(make_noisy_label, spec=steps, seed=0, image_id="", num_classes=classes)
        if noise is not None:
            self._make_noisy = partial(
                make_noisy_label,
                spec=parse_spec(noise.spec, classes),
                seed=noise.seed,
                num_classes=classes,
                unlabelled=noise.unlabelled,
            )

    def _repaired(self, label: np.ndarray) -> np.ndarray:
        return label if self._repair is None else self._repair(label)

    def set_label(self, index: int, label: np.ndarray) -> None:
        """Replace the label of sample ``index`` from now on, as label-free training does with its pseudo-labels."""
        self._labels[index] = label

    def clean_label(self, index: int) -> np.ndarray | None:
        """The label of sample ``index`` that is known to be clean; None where there is none."""
        clean = self.samples[index].clean_label
        return None if clean is None else self._read(index, clean)

    def _read(self, index: int, path: Path | None) -> np.ndarray:
        if path is None:
            return np.full(self.image(index).shape[:2], IGNORE, np.uint8)
        label = read_label(path, self.num_classes, self.ignore_index, self.samples[index].reading)
        self._check_size(index, label.shape, path)
        return label

    def _check_size(self, index: int, size: tuple[int, ...], path: Path) -> None:
        """Refuse a file that has changed its size since the lists were checked: image and label would not fit."""
        if self.sizes is not None and tuple(size) != tuple(self.sizes[index]):
            height, width = self.sizes[index]
            raise UserError(
                f"{display_path(path)} is {size[0]}×{size[1]} now and was {height}×{width} when its list was checked: "
                "it has changed while the run was reading it"
            )

    def _add_noise(self, label: np.ndarray, index: int, epoch: int | None) -> np.ndarray:
        return self._make_noisy(label, image_id=self.samples[index].image_id, epoch=epoch)

    def __getitem__(self, key: int | Key) -> dict[str, Any]:
        """Item ``index`` or ``(epoch, draw)``: image float32 (C, H, W), label uint8 (H, W), index."""
        epoch, draw = key if isinstance(key, tuple) else (0, key)
        index, rng = self.draw(epoch, draw)
        (pixels, scaling), label = self.scaled_pixels(index), np.ascontiguousarray(self.label(index, epoch))
        if self.transform is None:
            image, label = torch.from_numpy(scaling(pixels)), torch.from_numpy(label)
        elif self.transform.strong:
            image, label = self.transform(torch.from_numpy(scaling(pixels)), torch.from_numpy(label), rng)
        else:  # what the window does not show need not be scaled
            window = self.transform.window(*label.shape, rng)
            image, label = torch.from_numpy(scaling(pixels[window.pixels])), torch.from_numpy(label[window.pixels])
            image, label = window.finish(image, label)
        if draw < 0:
            label = torch.full_like(label, IGNORE)
        return {"image": image, "label": label, "index": index}

    def draw(self, epoch: int, draw: int) -> tuple[int, np.random.Generator]:
        """The sample that a draw of an epoch shows, and the random stream of its augmentation."""
        copy, index = divmod(draw if draw >= 0 else ~draw, len(self.samples))
        return index, sample_generator(self.seed, epoch, self.samples[index].image_id, copy)


class TrainingBatches(Sampler[list[Key]]):
    """Shuffled batches of ``(epoch, draw)`` keys, this process's share of each.

    The order is a function of (seed, epoch). A batch is the global one: its draws are dealt out over the processes.
    Where they do not come out even, the shorter shares are filled up with an image without its label, so that all
    processes make every step alike.

    Args:
        count: number of images.
        batch_size: images in a global batch.
        repeat: draws of every image in an epoch, whose last batch may be partial.
        steps: in place of ``repeat``: steps in an epoch, any number above 0; epoch e begins after
            round((e − 1) · ``steps``). All batches are whole, and the run goes through the images again and again,
            each time in another order, so that no image is drawn more than once more often than another.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        repeat: int = 1,
        rank: int = 0,
        world: int = 1,
        *,
        steps: float | None = None,
    ) -> None:
        self.count, self.batch_size, self.seed, self.repeat = count, batch_size, seed, repeat
        self.rank, self.world, self.epoch = rank, world, 0
        self.steps = steps

    @property
    def steps_per_epoch(self) -> float:
        """Steps in an epoch, on average where ``steps`` is no whole number."""
        return -(-self.count * self.repeat // self.batch_size) if self.steps is None else self.steps

    @property
    def draws(self) -> int:
        """Images drawn in the epoch that was set, over all processes."""
        return self.count * self.repeat if self.steps is None else len(self) * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 1, whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        first = max(self.epoch, 1) - 1
        return steps_before(first + 1, self.steps_per_epoch) - steps_before(first, self.steps_per_epoch)

    def __iter__(self) -> Iterator[list[Key]]:
        draws = self._one_epoch() if self.steps is None else self._part_of_passes()
        for start in range(0, len(draws), self.batch_size):
            batch = draws[start : start + self.batch_size]
            share = batch[self.rank :: self.world].tolist()
            fillers = [~int(batch[0])] * (-(-len(batch) // self.world) - len(share))
            yield [(self.epoch, draw) for draw in share + fillers]

    def _order(self, number: int, count: int) -> np.ndarray:
        return np.random.default_rng(np.random.SeedSequence([self.seed, number])).permutation(count)

    def _one_epoch(self) -> np.ndarray:
        """Every image ``repeat`` times."""
        return self._order(self.epoch, self.count * self.repeat)

    def _part_of_passes(self) -> np.ndarray:
        """The next draws of the passes over all images; the images of pass p come in the order of (seed, p)."""
        begin = steps_before(max(self.epoch, 1) - 1, self.steps) * self.batch_size
        first, skipped = divmod(begin, self.count)
        needed = len(self) * self.batch_size
        passes = -(-(skipped + needed) // self.count)
        orders = [copy * self.count + self._order(first + copy, self.count) for copy in range(passes)]
        return np.concatenate(orders)[skipped : skipped + needed]


def steps_before(epochs: int, steps_per_epoch: float) -> int:
    """The steps that lie before the end of an epoch, where an epoch may not have a whole number of them."""
    return math.floor(epochs * steps_per_epoch + 0.5)


class OrderedBatches(Sampler[list[int]]):
    """Batches of equally large images, each image once, dealt out evenly over the processes.

    Args:
        sizes: (H, W) of every image.
        batch_size: images of 256×256 in a batch of one process; of larger ones fewer.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], batch_size: int, rank: int = 0, world: int = 1) -> None:
        share = sorted(range(len(sizes)), key=sizes.__getitem__)[rank::world]
        self.batches: list[list[int]] = []
        for (height, width), group in groupby(share, key=sizes.__getitem__):
            indices = list(group)
            count = max(1, min(batch_size, batch_size * USUAL_PIXELS // (height * width)))
            self.batches += [indices[start : start + count] for start in range(0, len(indices), count)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class SegmentationLoader(DataLoader):
    """A loader whose workers' errors reach the user as the one message they are, without the workers' traceback."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from super().__iter__()
        except UserError as error:
            raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from None


def make_loader(
    dataset: SegmentationDataset, batches: Sampler[list], workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """A loader over ``batches``; its generator is its own, so loading never moves torch's global random stream.

    Args:
        workers: processes that read; no more are started than there are batches.
    """
    workers = min(workers, len(batches))
    return SegmentationLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=BATCHES_AHEAD if workers else None,
        generator=torch.Generator().manual_seed(dataset.seed),
    )
