"""A data set that lies on the device, decoded: batches are cut out, turned and scaled there, a few kernels each.

The images keep their own bit depth and lie one behind the other in one buffer, the labels in another; a batch is one
gather from each, whatever the sizes of its images. What augmentation draws is drawn on the host, as for any other
loader, so that the batches are those of ``SegmentationDataset`` bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.labels import IGNORE
from datasets.segmentation import Key, SegmentationDataset
from datasets.transforms import Window, dihedral
from utils.device import pinned


class DeviceLoader:
    """Batches of a data set that was put on a device, as ``datasets.segmentation.make_loader`` gives them.

    Args:
        dataset: what to load; every image is decoded here.
        batches: a sampler of batches of indices or ``(epoch, draw)`` keys.
        device: where the data lie and the batches come out; it must compute in float64.
        labels_change: the data set makes labels anew for every batch, as noise drawn every epoch needs.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        batches: Iterable[Sequence[int | Key]],
        device: torch.device,
        *,
        labels_change: bool = False,
    ) -> None:
        self.dataset, self.batches, self.device, self.labels_change = dataset, batches, device, labels_change
        with ThreadPoolExecutor() as pool:
            images, scalings = zip(*pool.map(dataset.scaled_pixels, range(len(dataset))), strict=True)
            labels = list(pool.map(dataset.stored_label, range(len(dataset))))
        self.label_epochs: list[int | None] = [None] * len(dataset)  # of which epoch each label is
        self.sizes = np.array([image.shape[:2] for image in images])
        self.starts = np.concatenate([[0], np.cumsum(self.sizes.prod(1))[:-1]])
        kind = np.result_type(*{image.dtype for image in images})
        pixels = np.concatenate([image.reshape(-1, dataset.in_channels).astype(kind, copy=False) for image in images])
        # torch hardly computes with uint16: its bits are kept as int16.
        self.is_uint16 = kind == np.uint16
        self.pixels = torch.from_numpy(pixels.view(np.int16) if self.is_uint16 else pixels).to(device)
        self.labels = torch.from_numpy(np.concatenate([label.ravel() for label in labels])).to(device)
        self.offsets = torch.from_numpy(np.stack([scaling.offset for scaling in scalings])).to(device)
        self.scales = torch.from_numpy(np.stack([scaling.scale for scaling in scalings])).to(device)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for keys in self.batches:
            yield self._batch([key if isinstance(key, tuple) else (0, key) for key in keys])

    def _batch(self, keys: list[Key]) -> dict[str, Any]:
        """Images float32 (B, C, h, w), labels uint8 (B, h, w) and indices (B,) of the draws."""
        drawn = [self.dataset.draw(*key) for key in keys]
        indices = [index for index, _ in drawn]
        if self.labels_change:
            for (epoch, _), index in zip(keys, indices, strict=True):
                self._renew_label(index, epoch)
        transform = self.dataset.transform
        if transform is not None and transform.strong:
            pairs = [transform(*self._whole(index), rng) for index, rng in drawn]
            images, labels = (torch.stack(part) for part in zip(*pairs, strict=True))
        else:
            sizes = self.sizes[indices].tolist()
            windows = [
                Window(0, 0, *size) if transform is None else transform.window(*size, rng)
                for size, (_, rng) in zip(sizes, drawn, strict=True)
            ]
            images, labels = self._gather(indices, windows)
        for place, (_, draw) in enumerate(keys):
            if draw < 0:
                labels[place] = IGNORE
        return {"image": images, "label": labels, "index": torch.tensor(indices)}

    def _whole(self, index: int) -> tuple[Tensor, Tensor]:
        height, width = self.sizes[index].tolist()
        images, labels = self._gather([index], [Window(0, 0, height, width)])
        return images[0], labels[0]

    def _renew_label(self, index: int, epoch: int) -> None:
        """Put the label that training sees in this epoch into its place, unless it lies there."""
        if self.label_epochs[index] == epoch:
            return
        self.label_epochs[index] = epoch
        height, width = self.sizes[index].tolist()
        place = slice(int(self.starts[index]), int(self.starts[index]) + height * width)
        label = pinned(torch.from_numpy(np.ascontiguousarray(self.dataset.label(index, epoch))), self.device)
        self.labels[place].copy_(label.flatten(), non_blocking=True)

    def _gather(self, indices: list[int], windows: list[Window]) -> tuple[Tensor, Tensor]:
        """Cut the windows (all of one size) out of the buffers; beyond an image its edge pixels and IGNORE."""
        (size,) = {(window.height, window.width) for window in windows}
        rows = [
            (index, self.starts[index], *self.sizes[index], window.top, window.left, window.element)
            for index, window in zip(indices, windows, strict=True)
        ]
        facts = pinned(torch.from_numpy(np.array(rows, np.int64)), self.device)
        index, start, height, width, top, left, element = (
            column[:, None, None] for column in facts.to(self.device, non_blocking=True).unbind(1)
        )
        if any(window.element for window in windows):
            places = turned_places(*size, self.device)[element[:, 0, 0]]
        else:
            places = torch.arange(size[0] * size[1], device=self.device).view(1, *size)
        row = top + places // size[1]
        column = left + places % size[1]
        inside = (row < height) & (column < width)
        place = start + torch.minimum(row, height - 1) * width + torch.minimum(column, width - 1)
        pixels = self.pixels[place].movedim(-1, 1)
        pixels = (pixels.int() & 0xFFFF) if self.is_uint16 else pixels
        offset, scale = (values[index[:, 0, 0], :, None, None] for values in (self.offsets, self.scales))
        images = ((pixels - offset) / scale).float()
        return images, torch.where(inside, self.labels[place], IGNORE)


@lru_cache(maxsize=8)
def turned_places(height: int, width: int, device: torch.device) -> Tensor:
    """Which pixel of a window each pixel of its eight turned versions shows: row · width + column, int32 (8, h, w).

    Quarter turns of windows that are not square have another shape and are not given: they repeat the half turns.
    """
    places = torch.arange(height * width, dtype=torch.int32).reshape(1, height, width)
    elements = range(8) if height == width else [element & 6 for element in range(8)]
    return torch.cat([dihedral(places, places, element)[0] for element in elements]).to(device)
