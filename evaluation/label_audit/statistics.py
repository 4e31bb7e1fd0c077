"""What is odd about a label set at first sight: empty, full, doubled, inverted or mismatched labels.

Inverted-looking labels and labels that fit another image better than their own are found on a coarse grid: the share
of foreground per cell is fitted to cell features on one half of the images and predicted on the other; a label is then
compared with the prediction for its own image and for every other one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from datasets.labels import IGNORE, label_classes
from evaluation.label_audit.pixel_classifier import as_grey
from utils.cli import counted, shortened

GRID = 32  # cells per side of the coarse maps
MIN_COMPARED = 4  # images from which on labels are compared with other images
MAX_COMPARED = 3000  # images compared with each other; the comparison grows with their square
INVERTED_BELOW = -0.3  # correlation of an inverted-looking label with what its image predicts
CLEAR_SIGNAL = 0.3  # median correlation from which on single labels can be called odd
BETTER_BY = 0.3  # how much better a label must correlate with another image
CLOSE = 0.6  # the least correlation with that image, relative to the median
BASE = 4  # features of a cell that are no products of others
WORKERS = 4


@dataclass(frozen=True)
class LabelStatistics:
    """Figures and oddities of a label set; images are given by their place in the list, from 0.

    Args:
        images: number of labels.
        class_shares: share of labelled pixels per class, (K,); binary: background, foreground.
        foreground_shares: share of non-zero classes among the labelled pixels of every label, (n,); NaN where all
            pixels are ignored.
        ignored_share: share of pixels that count nowhere.
        empty, full: labels without foreground, or without background.
        duplicates: groups of identical labels that are neither empty nor full.
        inverted_looking: (image, correlation) of labels opposed to what the other labels make of their image.
        fits_another: (image, other image, correlation with its own, with the other).
        signal: median correlation of labels with what their images predict; NaN without images.
        compared: how many labels were held against the other images; 0 where none could be judged.
    """

    images: int
    class_shares: np.ndarray
    foreground_shares: np.ndarray
    ignored_share: float
    empty: list[int]
    full: list[int]
    duplicates: list[list[int]]
    inverted_looking: list[tuple[int, float]] = field(default_factory=list)
    fits_another: list[tuple[int, int, float, float]] = field(default_factory=list)
    signal: float = float("nan")
    compared: int = 0

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """The statistics with image names instead of places."""
        return {
            "images": self.images,
            "class_shares": self.class_shares,
            "foreground_share": {
                "mean": np.nanmean(self.foreground_shares),
                "least": np.nanmin(self.foreground_shares),
                "greatest": np.nanmax(self.foreground_shares),
            },
            "ignored_share": self.ignored_share,
            "empty": [names[i] for i in self.empty],
            "full": [names[i] for i in self.full],
            "duplicates": [[names[i] for i in group] for group in self.duplicates],
            "signal": self.signal,
            "compared_with_other_images": self.compared,
            "inverted_looking": [{"image": names[i], "correlation": r} for i, r in self.inverted_looking],
            "fits_another": [
                {"image": names[i], "other": names[j], "correlation_own": own, "correlation_other": other}
                for i, j, own, other in self.fits_another
            ],
        }

    def lines(self, names: Sequence[str]) -> list[str]:
        """The statistics in words, one fact a line."""
        shares = self.foreground_shares
        lines = [
            f"{counted(self.images, 'label')}, foreground {np.nanmean(shares):.1%} of their pixels "
            f"(from {np.nanmin(shares):.1%} to {np.nanmax(shares):.1%} an image)"
        ]
        odd = {
            "without foreground": self.empty,
            "without background": self.full,
            "opposed to what the other labels make of their image": [i for i, _ in self.inverted_looking],
            "that fit another image better than their own": [i for i, *_ in self.fits_another],
        }
        for what, places in odd.items():
            if places:
                lines.append(f"{counted(places, 'label')} {what}: {shortened([names[i] for i in places], 5)}")
        for group in self.duplicates[:5]:
            lines.append(f"identical labels: {shortened([names[i] for i in group], 5)}")
        if len(self.duplicates) > 5:
            lines.append(f"… and {len(self.duplicates) - 5} more groups of identical labels")
        return [*lines, *self._comparison_lines(), *self._suspect_lines(names)]

    def _suspect_lines(self, names: Sequence[str]) -> list[str]:
        """What to do about labels that belong to another image, or are the inverse of the others."""
        places = sorted({i for i, _ in self.inverted_looking} | {i for i, *_ in self.fits_another})
        if not places:
            return []
        which = "this label" if len(places) == 1 else f"these {len(places)} labels"
        return [f"→ Leave {which} out, or correct: {shortened([names[i] for i in places], 30)}"]

    def _comparison_lines(self) -> list[str]:
        """What was not looked for: inverted-looking labels, and labels that fit another image better."""
        if not self.compared:
            if self.images < MIN_COMPARED:
                why = f"{counted(self.images, 'image')}, {MIN_COMPARED} are needed"
            elif np.isnan(self.signal):
                why = "no images, or only labels of a single class"
            else:
                why = (
                    f"images predict them too weakly, with a correlation of {self.signal:.2f}; {CLEAR_SIGNAL} is needed"
                )
            return [f"not looked for: labels that are inverted or fit another image better ({why})"]
        if self.compared < self.images:
            return [f"only the first {self.compared:,} labels were compared with other images"]
        return []


def _describe(label: np.ndarray, classes: int) -> tuple[np.ndarray, bytes, np.ndarray]:
    """Pixels per class with the ignored ones last (K + 1,), a digest, and foreground per cell (GRID, GRID)."""
    counts = np.bincount(np.minimum(label, classes).ravel(), minlength=classes + 1)
    foreground = ((label > 0) & (label != IGNORE)).astype(np.float32)
    digest = hashlib.blake2b(repr(label.shape).encode() + np.ascontiguousarray(label).tobytes(), digest_size=16)
    return counts, digest.digest(), cv2.resize(foreground, (GRID, GRID), interpolation=cv2.INTER_AREA)


def _cell_features(image: np.ndarray) -> np.ndarray:
    """Brightness, its surroundings, contrast and edges per cell, with their products; (GRID², 15)."""
    plane = as_grey(image)
    edges = np.hypot(cv2.Sobel(plane, cv2.CV_32F, 1, 0), cv2.Sobel(plane, cv2.CV_32F, 0, 1))
    mean, square, edge = (
        cv2.resize(item, (GRID, GRID), interpolation=cv2.INTER_AREA) for item in (plane, plane**2, edges)
    )
    around = cv2.GaussianBlur(mean, (0, 0), 2.0)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    base = np.stack([np.clip(item, -6, 6).ravel() for item in (mean, around, spread, edge / 8)], 1)
    products = [base[:, i] * base[:, j] for i in range(BASE) for j in range(i, BASE)]
    return np.concatenate([base, np.stack(products, 1), np.ones((len(base), 1), np.float32)], 1)


def _predicted_maps(maps: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Foreground maps (n, cells) predicted by ridge regression on the other half of the images."""
    predicted = np.zeros_like(maps)
    half = np.arange(len(maps)) % 2 == 0
    for held_out in (half, ~half):
        design, target = features[~held_out].reshape(-1, features.shape[-1]), maps[~held_out].ravel()
        gram = (design.T @ design).astype(float) + 1e-3 * len(design) * np.eye(design.shape[1])
        weights = np.linalg.solve(gram, (design.T @ target).astype(float)).astype(np.float32)
        predicted[held_out] = features[held_out] @ weights
    return predicted


def _standardized(maps: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1; constant rows 0."""
    centered = maps - maps.mean(1, keepdims=True)
    length = np.linalg.norm(centered, axis=1, keepdims=True)
    return np.divide(centered, length, out=np.zeros_like(centered), where=length > 1e-6)


def _agreement(labels: np.ndarray, features: np.ndarray) -> np.ndarray:
    """How well any one feature shows each label in its own image, in the direction that it does in most images.

    The fit cannot be trusted on images that are unlike the others, such as very few very bright objects on black:
    there it may say the opposite of what everybody sees.

    Args:
        labels: standardized, (n, cells); features: (n, cells, F).
    Returns: correlations (n,); −1 where no feature has a clear direction.
    """
    planes = [_standardized(features[..., place]) for place in range(BASE)]
    single = np.stack([(labels * plane).sum(1) for plane in planes])  # (BASE, n)
    usual = np.median(single, axis=1, keepdims=True)
    return np.where(np.abs(usual) >= CLEAR_SIGNAL, np.sign(usual) * single, -1.0).max(0)


def find_mismatches(maps: np.ndarray, features: np.ndarray) -> tuple[float, list, list]:
    """Labels opposed to their image, and labels that fit another image better.

    Args:
        maps: foreground share per cell, (n, cells), n ≥ 4; features: (n, cells, F).
    Returns: (median correlation with the own image, inverted-looking, fits-another), see `LabelStatistics`. Single
        labels are judged only where the median is clear.
    """
    labels, predicted = _standardized(maps), _standardized(_predicted_maps(maps, features))
    table = labels @ predicted.T
    own = np.diag(table).copy()
    judged = np.linalg.norm(labels, axis=1) > 0
    signal = float(np.median(own[judged])) if judged.any() else float("nan")
    if not signal >= CLEAR_SIGNAL:
        return signal, [], []
    agreement = _agreement(labels, features)
    opposed = judged & (own < INVERTED_BELOW) & (agreement < CLEAR_SIGNAL)
    inverted = [(int(i), float(own[i])) for i in np.flatnonzero(opposed)]
    best = table.argmax(1)
    top = table[np.arange(len(table)), best]
    better = judged & (top > own + BETTER_BY) & (top >= CLOSE * signal) & (top > agreement)
    others = [(int(i), int(best[i]), float(own[i]), float(top[i])) for i in np.flatnonzero(better)]
    return signal, inverted, others


def label_statistics(
    labels: Sequence[np.ndarray], images: Sequence[np.ndarray] | None = None, num_classes: int = 1
) -> LabelStatistics:
    """Describe a label set.

    Args:
        labels: classes with 255 ignored, (H, W) each; read one by one, so the sequence may load from disk.
        images: of the same length, any dtype; None leaves out what needs images.
    """
    classes = label_classes(num_classes)
    with ThreadPoolExecutor(WORKERS) as pool:
        described = list(pool.map(lambda i: _describe(labels[i], classes), range(len(labels))))
    counts = np.stack([item[0] for item in described])
    labelled = np.maximum(counts[:, :-1].sum(1), 1)
    shares = np.where(counts[:, :-1].sum(1) > 0, 1 - counts[:, 0] / labelled, np.nan)
    groups: dict[bytes, list[int]] = {}
    for place, (_, digest, _) in enumerate(described):
        if 0 < shares[place] < 1:
            groups.setdefault(digest, []).append(place)
    signal, inverted, others, compared = float("nan"), [], [], 0
    if images is not None and len(labels) >= MIN_COMPARED:
        compared = min(len(labels), MAX_COMPARED)
        with ThreadPoolExecutor(WORKERS) as pool:
            features = np.stack(list(pool.map(lambda i: _cell_features(images[i]), range(compared))))
        maps = np.stack([item[2].ravel() for item in described[:compared]])
        signal, inverted, others = find_mismatches(maps, features)
        compared = compared if signal >= CLEAR_SIGNAL else 0
    return LabelStatistics(
        images=len(labels),
        class_shares=counts[:, :-1].sum(0) / max(counts[:, :-1].sum(), 1),
        foreground_shares=shares,
        ignored_share=float(counts[:, -1].sum() / counts.sum()),
        empty=[int(i) for i in np.flatnonzero(shares == 0)],
        full=[int(i) for i in np.flatnonzero(shares == 1)],
        duplicates=[group for group in groups.values() if len(group) > 1],
        inverted_looking=inverted,
        fits_another=others,
        signal=signal,
        compared=compared,
    )
