"""Classic segmentation without training, which part of an image is the structure, and what the cheap methods reach.

No method sees a label. A score of 0.5 is a method's own threshold; the order of the scores above and below it gives
the AUC.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from datasets.image_corrections import above_local_background
from evaluation.classical import BASELINES
from evaluation.scores import DEFAULT_THRESHOLD, counts_at, iou, score_histogram

CHEAP = ("otsu", "local_threshold", "local_contrast", "kmeans", "gaussian_mixture")
CHEAP_ON_LARGE = ("otsu", "local_threshold")  # the others take minutes, and half a gigabyte more than these
LARGE_PIXELS = 2**22  # of an image
MAD_OF_NORMAL = 0.6745  # median absolute deviation of a normal distribution of deviation 1
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
LOCAL_SIGMA = 20.0  # pixels; the surroundings that a structure of up to about 40 pixels stands out from
LOCAL_FLOOR = 0.03  # deviations of the whole image, below which surroundings count as flat
ROUNDING = 1e-6  # relative; what float32 makes of a constant image
MAX_DEVIATIONS = 3.0  # beyond which a pixel says no more


def otsu_mask(image: np.ndarray) -> np.ndarray:
    """The pixels above Otsu's threshold of the image itself.

    Args:
        image: (H, W), any type.
    Returns: bool (H, W); all False for a constant image.
    Source: Otsu, *A threshold selection method from gray-level histograms*, IEEE Trans. SMC 1979.
    """
    from skimage.filters import threshold_otsu

    values = image.astype(np.float32)
    return values > threshold_otsu(values)


def to_grey(image: np.ndarray) -> np.ndarray:
    """An image (H, W) or (H, W, C), any type → float32 (H, W), the mean of its channels."""
    values = image.astype(np.float32)
    return values if values.ndim == 2 else values.mean(axis=2)


def local_skewness(image: np.ndarray) -> float:
    r"""Skewness :math:`E[d^3] / E[d^2]^{3/2}` of d, the image less its Gaussian mean of ``LOCAL_SIGMA`` pixels.

    Structures are rarer than their surroundings, so they are the longer tail: positive means bright ones. d is in
    deviations of the surroundings and bounded, so that no bright disc, speck or black border outweighs all the rest.
    """
    import cv2

    grey = to_grey(image)
    smooth = cv2.GaussianBlur(grey - grey.mean(), (0, 0), 1.0)
    deviation = float(smooth.std())
    if deviation <= ROUNDING * np.abs(grey).max():
        return 0.0
    excess = above_local_background(smooth / deviation, LOCAL_SIGMA, LOCAL_FLOOR).astype(np.float64)
    excess = np.clip(excess, -MAX_DEVIATIONS, MAX_DEVIATIONS)
    excess -= excess.mean()
    return float((excess**3).mean() / (excess**2).mean() ** 1.5)


def resolve_foreground(foreground: str, images: Iterable[np.ndarray]) -> str:
    """Turn ``auto`` into ``bright`` or ``dark`` by the median local skewness of a set of images; others stay.

    One answer for the whole set: a single image may mislead, all of them share a stain and a microscope.
    """
    if foreground != "auto":
        return foreground
    return "bright" if np.median([local_skewness(image) for image in images]) >= 0 else "dark"


def orient(image: np.ndarray, foreground: str) -> np.ndarray:
    """The image as float32 (H, W) with its structures bright.

    Args:
        image: (H, W) or (H, W, C), any type; channels are averaged.
        foreground: ``bright`` (as it is), ``dark`` (negated), ``minority`` (negated where Otsu's threshold leaves
            more than half of the pixels above it).
    """
    values = to_grey(image)
    negate = foreground == "dark" or (foreground == "minority" and otsu_mask(values).mean() > 0.5)
    return -values if negate else values


def scores_from_mask(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Score map whose threshold 0.5 is exactly ``mask``, ordered by ``values`` on either side of it.

    Foreground values are spread over [0.5, 1], background values over [0, 0.5).

    Args:
        values: float (H, W); how sure a pixel is of being foreground, any scale.
        mask: bool (H, W).
    Returns: float32 (H, W).
    """
    scores = np.zeros(values.shape, np.float32)
    for part, offset in ((mask, 0.5), (~mask, 0.0)):
        if part.any():
            low, high = float(values[part].min()), float(values[part].max())
            share = (values[part] - low) / (high - low) if high > low else np.float32(offset > 0)
            scores[part] = offset + 0.5 * share
    scores[~mask] = np.minimum(scores[~mask], BELOW_HALF)
    return scores


def standardized(image: np.ndarray) -> np.ndarray:
    """The image as float32 with mean 0 and standard deviation 1; a constant one becomes 0."""
    values = image.astype(np.float64)
    if values.min() == values.max():
        return np.zeros(image.shape, np.float32)
    return ((values - values.mean()) / values.std()).astype(np.float32)


def standardized_input(method: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Hand ``method`` the standardized image, so that no result depends on offset or scale.

    A constant image has no foreground: its scores are 0 and the method is not asked.
    """

    @functools.wraps(method)
    def segment(image: np.ndarray, **parameters: object) -> np.ndarray:
        values = standardized(image)
        return np.clip(method(values, **parameters), 0, 1).astype(np.float32) if values.any() else values

    return segment


@standardized_input
def otsu(image: np.ndarray) -> np.ndarray:
    """Otsu's threshold, see :func:`otsu_mask`. Assumes two intensities that are the same throughout the image."""
    return scores_from_mask(image, otsu_mask(image))


@standardized_input
def local_threshold(image: np.ndarray, sigma: float = 17.0, offset: float = 0.2) -> np.ndarray:
    """Brighter than the Gaussian mean of its surroundings by more than ``offset`` standard deviations of the image.

    Assumes structures narrower than about 2 ``sigma`` pixels; stands an uneven background.
    """
    import cv2

    excess = image - cv2.GaussianBlur(image, (0, 0), sigma) - offset
    return scores_from_mask(excess, excess > 0)


@standardized_input
def local_contrast(image: np.ndarray, sigma: float = 17.0, floor: float = 0.05) -> np.ndarray:
    """Otsu's threshold of the brightness relative to the surroundings, see :func:`above_local_background`.

    Finds dim structures beside bright ones; what it finds in empty regions is noise.
    """
    import cv2

    values = above_local_background(cv2.GaussianBlur(image, (0, 0), 1.0), sigma, floor)
    return scores_from_mask(values, otsu_mask(values))


@standardized_input
def kmeans(image: np.ndarray, sigmas: Sequence[float] = (1.0, 2.0)) -> np.ndarray:
    """Two means of the pixels' intensities, plain and blurred at ``sigmas``; started from Otsu's mask, so no chance.

    The score is the relative distance d_background / (d_background + d_foreground) to the two centers.
    """
    import cv2

    features = np.stack([image, *(cv2.GaussianBlur(image, (0, 0), sigma) for sigma in sigmas)], -1)
    features = features.reshape(image.size, -1)
    start = otsu_mask(image).reshape(-1, 1).astype(np.int32)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
    _, _, centers = cv2.kmeans(features, 2, start, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    centers = centers[np.argsort(centers[:, 0])]  # background first
    background, foreground = (np.linalg.norm(features - center, axis=1) for center in centers)
    return (background / np.maximum(background + foreground, 1e-12)).reshape(image.shape)


@standardized_input
def gaussian_mixture(image: np.ndarray, levels: int = 512, iterations: int = 300) -> np.ndarray:
    r"""Posterior of the brighter of two Gaussians, fitted to the intensity histogram by expectation–maximization.

    .. math:: r_k(v) \propto w_k\,\mathcal N(v; \mu_k, \sigma_k^2)

    Started from Otsu's two classes. With unequal widths the wider Gaussian also claims the other's far tail; there the
    posterior is held at its value at that other's mean, so that brighter never means less foreground.
    """
    counts, edges = np.histogram(image, levels)
    centers, floor = (edges[:-1] + edges[1:]) / 2, (edges[1] - edges[0]) ** 2
    otsu_level = image[otsu_mask(image)].min()
    shares = np.stack([centers < otsu_level, centers >= otsu_level]).astype(np.float64)  # (2, levels)
    means = np.zeros(2)
    for _ in range(iterations):
        weights = shares * counts
        mass = np.maximum(weights.sum(1), 1e-9)
        means = (weights * centers).sum(1) / mass
        variances = (weights * (centers - means[:, None]) ** 2).sum(1) / mass + floor
        logs = np.log(mass / variances**0.5)[:, None] - (centers - means[:, None]) ** 2 / (2 * variances[:, None])
        before, shares = shares, np.exp(logs - np.logaddexp(*logs))
        if np.abs(shares - before).max() < 1e-5:
            break
    low, high = np.searchsorted(centers, np.sort(means)).clip(0, levels - 1)
    posterior = shares[means.argmax()]
    posterior[:low], posterior[high:] = posterior[low], posterior[high]
    return posterior[np.clip(np.searchsorted(edges, image, "right") - 1, 0, levels - 1)]


@standardized_input
def chan_vese(image: np.ndarray, iterations: int = 60, smoothing: int = 1) -> np.ndarray:
    """Morphological Chan–Vese: two constant intensities and a smooth contour, started from Otsu's mask.

    Source: Márquez-Neila, Baumela, Alvarez, *A morphological approach to curvature-based evolution*, PAMI 2014.
    """
    from skimage.segmentation import morphological_chan_vese

    start = otsu_mask(image)
    found = morphological_chan_vese(image, iterations, init_level_set=start, smoothing=smoothing)  # type: ignore
    mask = found.astype(bool)
    swapped = mask.any() and not mask.all() and image[mask].mean() < image[~mask].mean()
    return scores_from_mask(image, ~mask if swapped else mask)


@standardized_input
def ridge(image: np.ndarray, sigmas: Sequence[float] = (2.0, 3.0), low: float = 0.5) -> np.ndarray:
    """Sato's tubeness, then hysteresis: pixels above ``low`` · t that touch one above t, Otsu's threshold of it.

    Assumes bright lines of about ``sigmas`` pixels half-width; it hollows out blobs.
    Source: Sato et al., *Three-dimensional multi-scale line filter*, Medical Image Analysis 1998.
    """
    from skimage.filters import apply_hysteresis_threshold, sato, threshold_otsu

    response = sato(image, sigmas=sigmas, black_ridges=False)  # type: ignore[arg-type]
    threshold = threshold_otsu(response)
    return scores_from_mask(response, apply_hysteresis_threshold(response, low * threshold, threshold))


@standardized_input
def random_walker(
    image: np.ndarray, beta: float = 130.0, foreground: float = 0.8, background: float = 0.9
) -> np.ndarray:
    """Chance that a random walker, slowed by edges, first meets a foreground seed.

    Seeds are the brighter share ``foreground`` of Otsu's foreground and the darker share ``background`` of the rest;
    the walk decides the pixels between.
    Source: Grady, *Random walks for image segmentation*, PAMI 2006.
    """
    from skimage.segmentation import random_walker as walk

    mask = otsu_mask(image)
    seeds = np.zeros(image.shape, np.int32)
    seeds[mask & (image >= np.quantile(image[mask], 1 - foreground))] = 2
    seeds[~mask & (image <= np.quantile(image[~mask], background))] = 1
    if seeds.all():
        return mask
    # Few pixels are open, so solving exactly ("bf") is faster than iterating, which leaves [0, 1] by far.
    return walk(image, seeds, beta=beta, mode="bf", return_full_prob=True)[1]


@standardized_input
def difference_of_gaussians(image: np.ndarray, sigma: float = 2.0, deviations: float = 3.0) -> np.ndarray:
    """Brighter at scale ``sigma`` than around it, four times as wide, by so many robust deviations of all pixels.

    Finds small bright structures in very noisy images; it hollows out what is wider than some ``sigma``, and where
    structures fill much of the image their own spread hides them.
    """
    import cv2

    excess = cv2.GaussianBlur(image, (0, 0), sigma) - cv2.GaussianBlur(image, (0, 0), 4 * sigma)
    excess -= np.median(excess)
    limit = deviations * max(float(np.median(np.abs(excess))) / MAD_OF_NORMAL, 1e-6)
    return scores_from_mask(excess, excess > limit)


VOTERS = ("local_contrast", "random_walker", "ridge")


def vote(image: np.ndarray, sigma: float = 0.0, voters: Sequence[str] = VOTERS) -> np.ndarray:
    """Two of three: the median score of local contrast, random walker and ridge filter.

    They err differently: the first in empty regions, the second where the background is uneven, the third inside
    blobs. What two of them agree on assumes no more than that structures are bright.

    Args:
        sigma: pixels by which the image is smoothed first, against noise; see `evaluation.classical.choice`.
        voters: names of methods of this file.
    """
    import cv2

    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma) if sigma else image
    return np.median([globals()[name](smooth) for name in voters], axis=0)


def cheap_methods(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
    """The pooled IoU of every cheap classic method.

    Args:
        images: (H, W) or (H, W, C), any type; colours are averaged. Structures may be bright or dark. Both
            sequences are read item by item, twice, and may load from disk.
        labels: 0 background, 1 foreground, 255 is ignored, (H, W) each.
    """
    foreground = resolve_foreground("auto", images)
    methods = CHEAP_ON_LARGE if max(label.size for label in labels) > LARGE_PIXELS else CHEAP
    pooled = dict.fromkeys(methods, 0)
    for image, label in zip(images, labels, strict=True):
        oriented = orient(image, foreground)
        for name in methods:
            pooled[name] = pooled[name] + score_histogram(BASELINES[name](oriented), label)
    return {name: float(iou(counts_at(histogram, DEFAULT_THRESHOLD))) for name, histogram in pooled.items()}


def best_cheap_method(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> tuple[str, float]:
    """The method of `cheap_methods` with the highest IoU, and that IoU.

    >>> image = np.zeros((32, 32)); image[8:16, 8:16] = 9
    >>> best_cheap_method([image], [(image > 0).astype(np.uint8)])
    ('otsu', 1.0)
    """
    found = cheap_methods(images, labels)
    best = max(found, key=found.__getitem__)
    return best, found[best]
