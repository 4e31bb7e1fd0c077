"""From decoded arrays to network input: normalization and paired augmentation.

Every random transform draws once and applies the draw to image and label alike. Randomness is handed in: the
caller derives a generator from (seed, epoch, image id), so that a sample is the same whatever the worker, the
order or the number of processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datasets import NORMALIZATIONS
from datasets.image_corrections import above_local_background, without_hot_pixels
from datasets.image_files import row_blocks
from datasets.labels import IGNORE

MIN_DEVIATION = 1e-6  # relative to the largest pixel: below it is rounding
LOCAL_SIGMA, LOCAL_FLOOR = 32.0, 0.05  # pixels; deviations of the whole image


@dataclass(frozen=True)
class Scaling:
    """From pixels to network input: (pixel − offset) / scale, both float64 (C,), a number per channel."""

    offset: np.ndarray
    scale: np.ndarray

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (h, w) or (h, w, C) of any type, an image or a part of one → network input, float32 (C, h, w)."""
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        scaled = np.empty((pixels.shape[2], *pixels.shape[:2]), np.float32)
        top = 0
        for block in row_blocks(pixels):  # float64 of a large image would fill the memory
            scaled[:, top : top + len(block)] = ((block - self.offset) / self.scale).transpose(2, 0, 1)
            top += len(block)
        return scaled


def to_unit(image: np.ndarray) -> Scaling:
    """Integer pixels divided by their type's maximum (255, 65535), float pixels as they are."""
    largest = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    channels = image.shape[2] if image.ndim == 3 else 1
    return Scaling(np.zeros(channels), np.full(channels, float(largest)))


def z_score(image: np.ndarray) -> Scaling:
    """Zero mean and unit deviation over the whole image, channel by channel; a constant image becomes zero.

    Computed in float64: photon counts with a mean of 1, camera offsets of 33,000 and heights of 1e-9 metres all keep
    their contrast.
    """
    pixels = image.shape[0] * image.shape[1]
    blocks = row_blocks(image if image.ndim == 3 else image[..., None])
    mean = np.sum([block.sum((0, 1), np.float64) for block in blocks], axis=0) / pixels
    variance = np.sum([((block - mean) ** 2).sum((0, 1)) for block in blocks], axis=0) / pixels
    ends = np.array([[block.min((0, 1)), block.max((0, 1))] for block in blocks], np.float64)
    largest = np.abs(ends).max((0, 1))
    scale = np.maximum(np.sqrt(variance), MIN_DEVIATION * largest)
    return Scaling(mean, np.where(scale > 0, scale, 1.0))


def as_prepared(image: np.ndarray) -> Scaling:
    """The pixels as they are."""
    channels = image.shape[2] if image.ndim == 3 else 1
    return Scaling(np.zeros(channels), np.ones(channels))


def needs_preparation(mode: str) -> bool:
    """Whether a normalization looks at the whole image first, so that parts of it are no longer independent."""
    return mode == "local"


def prepare(image: np.ndarray, mode: str) -> np.ndarray:
    """What is scaled: the image without hot pixels, or for ``local`` each pixel relative to its surroundings, float32.

    An uneven background becomes even, see :func:`datasets.image_corrections.above_local_background`.
    """
    if mode == "unit":
        return image
    image = without_hot_pixels(image)
    if not needs_preparation(mode):
        return image
    planes = z_score(image)(image)
    return np.stack([above_local_background(plane, LOCAL_SIGMA, LOCAL_FLOOR) for plane in planes], -1)


def normalize(image: np.ndarray, mode: str = "zscore") -> np.ndarray:
    """Turn a decoded image (H, W) or (H, W, C) of any type into network input, float32 (C, H, W)."""
    pixels = prepare(image, mode)
    return NORMALIZATIONS[mode](pixels)(pixels)


def sample_generator(seed: int, epoch: int, image_id: str, copy: int = 0) -> np.random.Generator:
    """The random stream of one draw of one image: a function of (seed, epoch, image id, copy) alone."""
    digest = int.from_bytes(hashlib.sha256(image_id.encode()).digest(), "big")
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, copy, digest]))


def pad_to(image: Tensor, label: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pad at the bottom and right to at least this size: the image by its edge pixels, the label with IGNORE."""
    bottom, right = max(height - image.shape[-2], 0), max(width - image.shape[-1], 0)
    if bottom or right:
        image = torch.nn.functional.pad(image[None], (0, right, 0, bottom), mode="replicate")[0]
        label = torch.nn.functional.pad(label, (0, right, 0, bottom), value=IGNORE)
    return image, label


def dihedral(image: Tensor, label: Tensor, element: int) -> tuple[Tensor, Tensor]:
    """One of the eight flips and rotations of the square: ``element & 3`` quarter turns, ``element & 4`` a flip."""
    if element & 4:
        image, label = image.flip(-1), label.flip(-1)
    turns = element & 3
    return image.rot90(turns, (-2, -1)), label.rot90(turns, (-2, -1))


@dataclass(frozen=True)
class Window:
    """The part of an image that a draw shows, and how it is turned: what augmentation drew, before it is applied.

    Args:
        top, left: its first row and column.
        height, width: its size; it reaches beyond the bottom and right of smaller images.
        element: of the flips and rotations, see :func:`dihedral`.
    """

    top: int
    left: int
    height: int
    width: int
    element: int = 0

    @property
    def pixels(self) -> tuple[slice, slice]:
        """The rows and columns of the image that lie in the window."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def finish(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Pad the window's pixels, image (C, h, w) and label (h, w), to its size, and turn both."""
        image, label = pad_to(image, label, self.height, self.width)
        image, label = dihedral(image, label, self.element)
        return image.contiguous(), label.contiguous()


@dataclass(frozen=True)
class TrainingTransform:
    """Strong augmentation (if any) → random crop → one element of the flips and rotations.

    Args:
        crop: side of the square window in pixels, smaller images are padded; None keeps whole images.
        flips: draw one of the eight flips and rotations, without quarter turns where the window is not square.
        strong: names and strengths for ``datasets.augmentation``.
    """

    crop: int | None
    flips: bool = True
    strong: tuple[str, ...] = ()

    def window(self, height: int, width: int, rng: np.random.Generator) -> Window:
        """Draw what is seen of an image of this size."""
        if self.crop is None:
            top, left, size = 0, 0, (height, width)
        else:
            top = int(rng.integers(max(height, self.crop) - self.crop + 1))
            left = int(rng.integers(max(width, self.crop) - self.crop + 1))
            size = (self.crop, self.crop)
        element = int(rng.integers(8)) if self.flips else 0
        return Window(top, left, *size, element if size[0] == size[1] else element & 6)

    def __call__(self, image: Tensor, label: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Augment an image (C, H, W) and its label (H, W) with the same draws."""
        if self.strong:
            from datasets.augmentation import augment  # imports torchvision

            image, label = augment(image, label, self.strong, rng)
        window = self.window(*image.shape[-2:], rng)
        return window.finish(image[..., *window.pixels], label[window.pixels])
