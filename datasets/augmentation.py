"""Stronger augmentation of an image and its label. Importing torchvision takes seconds, so it waits until it is used.

Every transform draws once and applies the draw to image and label alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from datasets.labels import IGNORE
from datasets.registries import STRONG_AUGMENTATIONS
from utils.device import pinned

MAX_STRENGTH = 1000


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
        noise = self.deviation * torch.rand(()) * torch.randn(inpt.shape)  # drawn on the host for every device
        return tv_tensors.wrap(inpt + pinned(noise, inpt.device).to(inpt.device, non_blocking=True), like=inpt)


FILL: dict[type, float] = {tv_tensors.Image: 0.0, tv_tensors.Mask: IGNORE}


def rotate(degrees: float = 180.0) -> list[v2.Transform]:
    """Turn by up to ± ``degrees``."""
    return [v2.RandomRotation(degrees, interpolation=v2.InterpolationMode.BILINEAR, fill=FILL)]


def scale(fraction: float = 0.25) -> list[v2.Transform]:
    """Magnify by up to 1 ± ``fraction``."""
    bilinear = v2.InterpolationMode.BILINEAR
    return [v2.RandomAffine(0, scale=(1 - fraction, 1 + fraction), interpolation=bilinear, fill=FILL)]


def elastic(alpha: float = 60.0) -> list[v2.Transform]:
    """Bend smoothly; ``alpha`` is torchvision's magnitude."""
    return [v2.ElasticTransform(alpha=alpha, sigma=6.0, fill=FILL)]


def brightness(shift: float = 0.3) -> list[v2.Transform]:
    """Shift by up to ± ``shift`` standard deviations."""
    return [RandomIntensity(shift, 0.0)]


def contrast(fraction: float = 0.3) -> list[v2.Transform]:
    """Scale by up to 1 ± ``fraction``."""
    return [RandomIntensity(0.0, fraction)]


def blur(sigma: float = 1.5) -> list[v2.Transform]:
    """Blur by a Gaussian of up to ``sigma`` pixels."""
    return [v2.GaussianBlur(5, sigma=(0.1, sigma))]


def noise(deviation: float = 0.3) -> list[v2.Transform]:
    """Add white noise of up to ``deviation`` standard deviations."""
    return [AddNoise(deviation)]


def strong_augmentation(spec: Sequence[str]) -> v2.Transform | None:
    """Build the stronger augmentations named in ``spec`` (``rotate``, ``elastic:40``, …), in the table's order.

    Raises:
        ValueError: an unknown name or a strength that is no positive number; the message lists the names.
    """
    strengths: dict[str, tuple[float, ...]] = {}  # () is the default
    for item in spec:
        name, _, strength = item.partition(":")
        if name not in STRONG_AUGMENTATIONS:
            raise ValueError(f"{name!r} is no augmentation; choose from: {', '.join(STRONG_AUGMENTATIONS)}")
        strengths[name] = (_strength(item, strength),) if strength else ()
    steps = [
        step
        for name in STRONG_AUGMENTATIONS
        if name in strengths
        for step in STRONG_AUGMENTATIONS[name](*strengths[name])
    ]
    return v2.Compose(steps) if steps else None


def _strength(item: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_STRENGTH:
        raise ValueError(f"the strength of {item!r} must be a number above 0 and at most {MAX_STRENGTH}")
    return value


def augment(image: Tensor, label: Tensor, spec: Sequence[str], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Augment an image (C, H, W) and its label (H, W) as ``spec`` says, see :func:`strong_augmentation`."""
    # torchvision draws from torch's global stream of the host: lend it one of our own and give the old one back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        pair = strong_augmentation(spec)(tv_tensors.Image(image), tv_tensors.Mask(label[None]))
    return pair[0].as_subclass(Tensor), pair[1].as_subclass(Tensor)[0]
