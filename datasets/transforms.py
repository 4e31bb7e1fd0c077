"""From decoded arrays to network input: normalization and paired augmentation.

Every random transform draws once and applies the draw to image and label alike. Randomness is handed in: the
caller derives a generator from (seed, epoch, image id), so that a sample is the same whatever the worker, the
order or the number of processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from datasets.image_io import IGNORE

MINIMUM_DEVIATION = 1e-6


def to_unit(image: np.ndarray) -> np.ndarray:
    """Integer pixels divided by their type's maximum (255, 65535), float pixels as they are; float32."""
    scale = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    return image.astype(np.float32) / np.float32(scale)


def z_score(image: np.ndarray) -> np.ndarray:
    """Zero mean and unit deviation over the whole image, channel by channel; a constant image becomes zero.

    Computed in float64: photon counts with a mean of 1 and camera offsets of 33,000 both keep their contrast.
    """
    values = image.astype(np.float64)
    mean, deviation = values.mean((0, 1)), values.std((0, 1))
    return ((values - mean) / np.maximum(deviation, MINIMUM_DEVIATION * np.maximum(1, np.abs(mean)))).astype(np.float32)


NORMALIZATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"zscore": z_score, "unit": to_unit}


def normalize(image: np.ndarray, mode: str = "zscore") -> np.ndarray:
    """Turn a decoded image (H, W) or (H, W, C) of any type into network input, float32 (C, H, W)."""
    image = image if image.ndim == 3 else image[..., None]
    return np.ascontiguousarray(NORMALIZATIONS[mode](image).transpose(2, 0, 1))


def sample_generator(seed: int, epoch: int, image_id: str, copy: int = 0) -> np.random.Generator:
    """The random stream of one draw of one image: a function of (seed, epoch, image id, copy) alone."""
    digest = int.from_bytes(hashlib.sha256(image_id.encode()).digest(), "big")
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, copy, digest]))


def pad_to(image: Tensor, label: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Pad at the bottom and right to at least ``size``: the image by its edge pixels, the label with IGNORE."""
    height, width = image.shape[-2:]
    bottom, right = max(size - height, 0), max(size - width, 0)
    if bottom or right:
        image = torch.nn.functional.pad(image[None], (0, right, 0, bottom), mode="replicate")[0]
        label = torch.nn.functional.pad(label, (0, right, 0, bottom), value=IGNORE)
    return image, label


def random_crop(image: Tensor, label: Tensor, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random ``size`` × ``size`` window of both; smaller images are padded first."""
    image, label = pad_to(image, label, size)
    top = int(rng.integers(image.shape[-2] - size + 1))
    left = int(rng.integers(image.shape[-1] - size + 1))
    window = (..., slice(top, top + size), slice(left, left + size))
    return image[window], label[window]


def dihedral(image: Tensor, label: Tensor, element: int) -> tuple[Tensor, Tensor]:
    """One of the eight flips and rotations of the square: ``element & 3`` quarter turns, ``element & 4`` a flip."""
    if element & 4:
        image, label = image.flip(-1), label.flip(-1)
    turns = element & 3
    return image.rot90(turns, (-2, -1)), label.rot90(turns, (-2, -1))


class RandomIntensity(v2.Transform):
    """Shift brightness by up to ± ``brightness`` deviations and scale contrast by up to 1 ± ``contrast``.

    It works on normalized images, where torchvision's jitter (which clips to [0, 1]) does not.
    """

    def __init__(self, brightness: float, contrast: float) -> None:
        super().__init__()
        self.brightness, self.contrast = brightness, contrast

    def make_params(self, flat_inputs: list) -> dict[str, float]:
        shift, scale = (2 * torch.rand(2) - 1).tolist()
        return {"shift": self.brightness * shift, "scale": 1 + self.contrast * scale}

    def transform(self, inpt, params: dict[str, float]):
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        return tv_tensors.wrap(inpt * params["scale"] + params["shift"], like=inpt)


class AddNoise(v2.Transform):
    """Add white Gaussian noise of a standard deviation drawn from [0, ``deviation``] to the normalized image."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def transform(self, inpt, params: dict[str, float]):
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        return tv_tensors.wrap(inpt + self.deviation * torch.rand(()) * torch.randn(inpt.shape), like=inpt)


def _rotation(degrees: float) -> list[v2.Transform]:
    fill = {tv_tensors.Image: 0.0, tv_tensors.Mask: IGNORE}
    return [v2.RandomRotation(degrees, interpolation=v2.InterpolationMode.BILINEAR, fill=fill)]


def _scale(share: float) -> list[v2.Transform]:
    fill = {tv_tensors.Image: 0.0, tv_tensors.Mask: IGNORE}
    bilinear = v2.InterpolationMode.BILINEAR
    return [v2.RandomAffine(0, scale=(1 - share, 1 + share), interpolation=bilinear, fill=fill)]


def _elastic(alpha: float) -> list[v2.Transform]:
    return [v2.ElasticTransform(alpha=alpha, sigma=6.0, fill={tv_tensors.Image: 0.0, tv_tensors.Mask: IGNORE})]


# name → (default strength, what the strength means, transforms for a strength); geometry comes before intensity.
STRONG_AUGMENTATIONS: dict[str, tuple[float, Callable[[float], list[v2.Transform]]]] = {
    "rotate": (180.0, _rotation),
    "scale": (0.25, _scale),
    "elastic": (60.0, _elastic),
    "brightness": (0.3, lambda strength: [RandomIntensity(strength, 0.0)]),
    "contrast": (0.3, lambda strength: [RandomIntensity(0.0, strength)]),
    "blur": (1.5, lambda strength: [v2.GaussianBlur(5, sigma=(0.1, strength))]),
    "noise": (0.3, lambda strength: [AddNoise(strength)]),
}


def strong_augmentation(spec: Sequence[str]) -> v2.Transform | None:
    """Build the stronger augmentations named in ``spec`` (``rotate``, ``elastic:40``, …), in the table's order.

    Raises:
        ValueError: an unknown name or a strength that is no positive number; the message lists the names.
    """
    strengths: dict[str, float] = {}
    for item in spec:
        name, _, strength = item.partition(":")
        if name not in STRONG_AUGMENTATIONS:
            raise ValueError(f"{name!r} is no augmentation; choose from: {', '.join(STRONG_AUGMENTATIONS)}")
        strengths[name] = float(strength) if strength else STRONG_AUGMENTATIONS[name][0]
        if not strengths[name] > 0:
            raise ValueError(f"the strength of {item!r} must be a positive number")
    steps = [step for name in STRONG_AUGMENTATIONS if name in strengths
             for step in STRONG_AUGMENTATIONS[name][1](strengths[name])]  # fmt: skip
    return v2.Compose(steps) if steps else None


@dataclass(frozen=True)
class TrainingTransform:
    """Strong augmentation (if any) → random crop → one element of the flips and rotations.

    Args:
        crop: side of the square window in pixels; None keeps whole images (then turns need square images).
        flips: draw one of the eight flips and rotations.
        strong: names and strengths for ``strong_augmentation``.
    """

    crop: int | None
    flips: bool = True
    strong: tuple[str, ...] = ()

    def __call__(self, image: Tensor, label: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Augment an image (C, H, W) and its label (H, W) with the same draws."""
        augmentation = strong_augmentation(self.strong)
        if augmentation is not None:
            # torchvision draws from torch's global stream: lend it one of our own and give the old one back.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(rng.integers(2**63)))
                pair = augmentation(tv_tensors.Image(image), tv_tensors.Mask(label[None]))
            image, label = pair[0].as_subclass(Tensor), pair[1].as_subclass(Tensor)[0]
        if self.crop:
            image, label = random_crop(image, label, self.crop, rng)
        if self.flips:
            square = image.shape[-2] == image.shape[-1]
            element = int(rng.integers(8))
            image, label = dihedral(image, label, element if square else element & 6)
        return image.contiguous(), label.contiguous()
