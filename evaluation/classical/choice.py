"""Which vote suits a set of images: by how noisy they are and how wide their structures, estimated without labels.

The limits were chosen on simulated networks, mitochondria and nuclei of SNR 1 to 8, also denser and larger ones, before
any real image was looked at: `benchmarks/label_free/first_labels.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from evaluation.classical.methods import MAD_OF_NORMAL, VOTERS, standardized, to_grey, vote

NOISY, VERY_NOISY = 0.4, 0.8  # deviation of the noise over that of the image
WIDE = 6.0  # pixels, structure size from which a wider smoothing keeps them
SCALES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # pixels
LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # blind to planes; of norm 6
MIN_AGREEMENT = 0.6  # beyond chance, with the mask of a noisier image
Segment = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Vote:
    """A vote, and the estimates that it was chosen by: medians over images.

    Args:
        sigma: pixels by which images are smoothed first.
        voters: names of methods.
        noise: deviation of the noise over that of the image.
        size: of structures, in pixels: the scale at which images vary most.
    """

    sigma: float
    voters: tuple[str, ...]
    noise: float
    size: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Scores float32 (H, W) of an image (H, W) with bright structures."""
        return vote(image, self.sigma, self.voters)

    def __str__(self) -> str:
        smoothed = f" of images smoothed by {self.sigma:g} px" if self.sigma else ""
        return (
            f"vote of {', '.join(self.voters)}{smoothed}: noise is {self.noise:.0%} of the images' deviation, "
            f"structures vary at {self.size:g} px"
        )


def choose_vote(images: Sequence[np.ndarray]) -> Vote:
    """The vote for a set of images (H, W) or (H, W, C): one answer for all, as they share a microscope.

    ============  =================================  ==========================================
    noise         structures below ``WIDE`` pixels   wider ones
    ============  =================================  ==========================================
    below 40 %    as the images are                  the same
    up to 80 %    smoothed by 1 pixel                smoothed by 2 pixels
    above         by 2 pixels, the difference of Gaussians in place of the ridge filter
    ============  =================================  ==========================================
    """
    estimates = [(noise_level(each), structure_size(each)) for each in map(standardized, map(to_grey, images))]
    noise, size = np.median(estimates, axis=0).tolist()
    if noise > VERY_NOISY:
        return Vote(2.0, (*VOTERS[:2], "difference_of_gaussians"), noise, size)
    return Vote(0.0 if noise < NOISY else 2.0 if size >= WIDE else 1.0, VOTERS, noise, size)


def noise_level(image: np.ndarray) -> float:
    """Deviation of white noise in an image float32 (H, W), robustly from its second differences.

    Source: Immerkær, *Fast noise variance estimation*, CVIU 1996, with the median in place of the mean.
    """
    differences = cv2.filter2D(image, -1, LAPLACIAN)
    return float(np.median(np.abs(differences))) / MAD_OF_NORMAL / 6


def structure_size(image: np.ndarray) -> float:
    """The scale, in pixels, at which differences of Gaussians of an image float32 (H, W) vary most, less its noise."""
    energies, noise = [], noise_level(image)
    white = np.random.default_rng(0).standard_normal(image.shape, np.float32)
    for scale in SCALES:
        seen, by_noise = (
            float((cv2.GaussianBlur(each, (0, 0), scale) - cv2.GaussianBlur(each, (0, 0), 1.6 * scale)).var())
            for each in (image, white)
        )
        energies.append(seen - noise**2 * by_noise)
    return SCALES[int(np.argmax(energies))]


def noise_agreement(segment: Segment, image: np.ndarray) -> float:
    r"""How much of a mask is left when as much noise again is added to the image, beyond chance.

    .. math:: \frac{D - f}{1 - f}

    with the Dice D of both masks and their mean fraction f of foreground, which is the Dice of independent ones. Where
    noise drew the first mask, other noise draws another: 0.5 on noise alone, 0.7 to 1 where structures are seen.

    Args:
        segment: scores (H, W) of an image (H, W) with bright structures.
    """
    values = standardized(image)
    noise = np.random.default_rng(0).standard_normal(values.shape, np.float32)
    masks = [segment(each) >= 0.5 for each in (values, values + noise_level(values) * noise)]
    fraction = float(np.mean(masks))
    if not 0 < fraction < 1:
        return 0.0
    dice = 2 * (masks[0] & masks[1]).sum() / sum(mask.sum() for mask in masks)
    return float((dice - fraction) / (1 - fraction))
