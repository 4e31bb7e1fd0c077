"""Stronger augmentation of an image and its label. Importing torchvision takes seconds, so it waits until it is used.

Every transform draws once and applies the draw to image and label alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from datasets import AUGMENTATION_PRESETS, STRONG_AUGMENTATIONS
from datasets.labels import IGNORE
from utils.device import pinned

MAX_STRENGTH = 1000
MIN_SPREAD = 1e-6  # of intensities, below which an image is constant
DEFAULT_BLUR = 1.5  # pixels
OCTAVES = 6  # of spatial frequency, from half a cycle a pixel down


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


class RandomBlur(v2.GaussianBlur):
    """torchvision's blur, in a window that the image can be mirrored into."""

    def transform(self, inpt, params: dict[str, Any]):
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        window = min(*self.kernel_size, 2 * min(inpt.shape[-2:]) - 1)
        return v2.functional.gaussian_blur(inpt, [window, window], **params)


class RandomGamma(v2.Transform):
    r"""Bend the scale of intensities: :math:`u \mapsto u^\gamma` between the image's ends, at equal mean and deviation.

    log γ is uniform in ± log(1 + ``strength``): dim structures beside bright ones gain or lose, as another camera, dye
    or exposure would have it.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.range = math.log1p(strength)

    def make_params(self, flat_inputs: list) -> dict[str, float]:
        return {"gamma": math.exp(self.range * (2 * torch.rand(()).item() - 1))}

    def transform(self, inpt, params: dict[str, float]):
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        low, high = inpt.amin((-2, -1), keepdim=True), inpt.amax((-2, -1), keepdim=True)
        bent = ((inpt - low) / (high - low).clamp_min(MIN_SPREAD)) ** params["gamma"]
        return tv_tensors.wrap(with_moments_of(bent, inpt), like=inpt)


class RandomSpectrum(v2.Transform):
    """Weigh the octaves of spatial frequency by factors of log-normal ``strength``: other optics, grain and haze.

    The mean stays, and so does the deviation; phases, and with them the places of things, are untouched.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs: list) -> dict[str, Tensor]:
        return {"gains": self.strength * torch.randn(OCTAVES)}

    def transform(self, inpt, params: dict[str, Tensor]):
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        height, width = inpt.shape[-2:]
        rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
        octave = (-torch.hypot(rows, columns).clamp_min(1e-9).log2() - 1).clamp(0, OCTAVES - 1)
        below = octave.long().clamp_max(OCTAVES - 2)
        gains = torch.lerp(params["gains"][below], params["gains"][below + 1], octave - below).exp()
        gains = pinned(gains, inpt.device).to(inpt.device, non_blocking=True)
        changed = torch.fft.irfft2(torch.fft.rfft2(inpt.float()) * gains, s=(height, width))
        return tv_tensors.wrap(with_moments_of(changed, inpt), like=inpt)


def with_moments_of(image: Tensor, model: Tensor) -> Tensor:
    """An image (C, H, W) moved and scaled to the mean and deviation of another, channel by channel."""
    deviation, mean = torch.std_mean(model, (-2, -1), keepdim=True, correction=0)
    own_deviation, own_mean = torch.std_mean(image, (-2, -1), keepdim=True, correction=0)
    return (image - own_mean) * (deviation / own_deviation.clamp_min(MIN_SPREAD)) + mean


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


def gamma(strength: float = 0.5) -> list[v2.Transform]:
    """Bend intensities by an exponent between 1 / (1 + ``strength``) and 1 + ``strength``."""
    return [RandomGamma(strength)]


def spectrum(strength: float = 0.3) -> list[v2.Transform]:
    """Weigh every octave of spatial frequency by exp(``strength`` · a normal draw)."""
    return [RandomSpectrum(strength)]


def blur(sigma: float = DEFAULT_BLUR) -> list[v2.Transform]:
    """Blur by a Gaussian of up to ``sigma`` pixels."""
    reach = math.ceil(3 * sigma) if sigma > DEFAULT_BLUR else 2  # the default as it was measured
    return [RandomBlur(2 * reach + 1, sigma=(0.1, sigma))]


def noise(deviation: float = 0.3) -> list[v2.Transform]:
    """Add white noise of up to ``deviation`` standard deviations."""
    return [AddNoise(deviation)]


def strong_augmentation(spec: Sequence[str]) -> v2.Transform | None:
    """Build the stronger augmentations named in ``spec`` (``rotate``, ``elastic:40``, …), in the table's order.

    A preset, such as ``robust``, stands for all of its own; a strength given beside it counts.

    Raises:
        ValueError: an unknown name or a strength that is no positive number; the message lists the names.
    """
    strengths: dict[str, tuple[float, ...]] = {}  # () is the default
    presets = [item for name in spec for item in AUGMENTATION_PRESETS.get(name, ())]
    for item in [*presets, *(name for name in spec if name not in AUGMENTATION_PRESETS)]:
        name, colon, strength = item.partition(":")
        if name not in STRONG_AUGMENTATIONS:
            known = ", ".join([*AUGMENTATION_PRESETS, *STRONG_AUGMENTATIONS])
            raise ValueError(f"{name!r} is no augmentation; choose from: {known}")
        strengths[name] = (_strength(item, strength),) if colon else ()
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
