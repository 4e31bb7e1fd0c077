r"""A quick stand-in for a segmentation network: what image features tell about labels, in seconds and without training.

Every pixel gets multi-scale features (smoothed brightness, gradient, curvatures on a five-level pyramid), a fixed
random layer of rectified units bends them, and ridge regression fits labels in closed form. Squared error is a proper
loss, so the fit estimates :math:`P(\text{label} \mid \text{image})` as a network's cross entropy does. Always fitted on
one half of the images and read on the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

LEVELS = 5  # pyramid levels: features reach about 2**LEVELS pixels
UNITS = 192
PIXELS = 1500  # of every image that is fitted to
MAX_IMAGES = 60  # images that everything but Q is estimated from
MAX_SIDE = 512  # of larger images a window of this size is used for the same
RIDGE = 1e-3
WORKERS = 4
PLACES = 2**14  # of which OpenCV reads fewer than 2**15 at once
BRIGHTNESS = 1  # the feature column that holds lightly smoothed brightness


def as_grey(image: np.ndarray) -> np.ndarray:
    """Mean over channels, z-scored; float32 (H, W). A constant image becomes 0."""
    grey = image.astype(np.float32)
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    spread = float(grey.std())
    return (grey - grey.mean()) / spread if spread > 0 else np.zeros_like(grey)


def _level_features(plane: np.ndarray) -> np.ndarray:
    """Smoothed value, gradient magnitude and the two curvatures of a plane; float32 (4, H, W)."""
    smooth = cv2.GaussianBlur(plane, (5, 5), 1.0)
    gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=0.125)
    xx, yy = cv2.Sobel(gx, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(gy, cv2.CV_32F, 0, 1, scale=0.125)
    xy = cv2.Sobel(gx, cv2.CV_32F, 0, 1, scale=0.125)
    middle, swing = (xx + yy) / 2, np.sqrt((xx - yy) ** 2 / 4 + xy**2)
    return np.stack([smooth, np.hypot(gx, gy), middle + swing, middle - swing])


def features_at(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Features of chosen pixels.

    Args:
        image: any dtype, (H, W) or (H, W, C); rows, columns: integer positions, (P,).
    Returns: float32 (P, LEVELS · 4 + 1).
    """
    plane = as_grey(image)
    found = [plane[rows, columns]]
    for level in range(LEVELS):
        if level:
            plane = cv2.pyrDown(plane)
        maps, scale = _level_features(plane), 0.5**level  # pyrDown keeps every other pixel where it is
        x, y = ((places * scale).astype(np.float32) for places in (columns, rows))
        found += [_read_between(each, x, y) for each in maps]
    return np.stack(found, 1)


def _read_between(plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A plane at places between its pixels, (P,); OpenCV takes so many at once."""
    parts = [slice(start, start + PLACES) for start in range(0, max(len(x), 1), PLACES)]
    how = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    return np.concatenate([cv2.remap(plane, x[None, part], y[None, part], **how)[0] for part in parts])


def sample_positions(shape: tuple[int, int], count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of up to ``count`` different pixels of an image."""
    pixels = shape[0] * shape[1]
    flat = rng.choice(pixels, min(count, pixels), replace=False, shuffle=False)
    return np.divmod(flat, shape[1])


def image_features(
    images: Sequence[np.ndarray], positions: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[np.ndarray]:
    """`features_at` chosen (rows, columns) of every image."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda pair: features_at(pair[0], *pair[1]), zip(images, positions, strict=True)))


def sample_windows(
    rng: np.random.Generator, sampled: Sequence[int], *sequences: Sequence[np.ndarray]
) -> list[list[np.ndarray]]:
    """Of the images at some places the same random window of at most MAX_SIDE² pixels of every sequence.

    Args:
        sequences: labels, references, images; read item by item.
    """
    rows = [_window(rng, *(sequence[i] for sequence in sequences)) for i in sampled]
    return [list(column) for column in zip(*rows, strict=True)]


def _window(rng: np.random.Generator, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    height, width = arrays[0].shape[:2]
    top = int(rng.integers(0, max(height - MAX_SIDE, 0) + 1))
    left = int(rng.integers(0, max(width - MAX_SIDE, 0) + 1))
    return tuple(item[top : top + MAX_SIDE, left : left + MAX_SIDE] for item in arrays)


class PixelLearner:
    """Features of sampled pixels of a set of images, ready to fit any labels of these pixels.

    Args:
        features: of the sampled pixels, (P, F) for each image, such as those of `image_features`.
        seed: of the random layer and of the halves.
    """

    def __init__(self, features: Sequence[np.ndarray], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.image = np.repeat(np.arange(len(features)), [len(item) for item in features])
        plain = np.concatenate(features)
        plain = np.clip((plain - plain.mean(0)) / np.maximum(plain.std(0), 1e-6), -6, 6)
        weights = rng.normal(0, 1 / np.sqrt(plain.shape[1]), (plain.shape[1], UNITS)).astype(np.float32) * 2
        bent = np.maximum(plain @ weights + rng.normal(0, 1, UNITS).astype(np.float32), 0)
        self.design = np.concatenate([plain, bent, np.ones((len(plain), 1), np.float32)], 1)
        half = np.zeros(len(features), bool)
        half[rng.permutation(len(features))[: len(features) // 2]] = True
        self.half = half[self.image]

    def scores(self, labels: np.ndarray, weights: np.ndarray | None = None, ridge: float = RIDGE) -> np.ndarray:
        """Fit on either half of the images, predict the other.

        Args:
            labels: targets of the sampled pixels, in the images' order, (P,) or (P, K).
            weights: of the pixels in the fit, ≥ 0, (P,); those of weight 0 are predicted only.
            ridge: how cautious the fit is, relative to features of variance 1.
        Returns: predicted E[label | image], not confined to [0, 1]; shape of ``labels``, float32. With a single image
            the fit is read on the pixels that it saw.
        """
        weights = np.ones(len(labels), np.float32) if weights is None else weights.astype(np.float32)
        result = np.zeros(labels.shape, np.float32)
        sides = [self.half, ~self.half] if self.half.any() and not self.half.all() else [np.zeros_like(self.half)]
        for held_out in sides:
            use = (weights > 0) & ~held_out
            root = np.sqrt(weights[use])
            matrix = self.design[use] * root[:, None]
            target = (labels[use].T * root).T.astype(np.float32)
            if not len(matrix):
                continue
            gram = (matrix.T @ matrix).astype(np.float64)
            gram[np.diag_indices(len(gram))] += ridge * float(weights[use].sum())
            slopes = np.linalg.solve(gram, (matrix.T @ target).astype(np.float64)).astype(np.float32)
            read = held_out if len(sides) > 1 else np.ones_like(held_out)
            result[read] = self.design[read] @ slopes
        return result
