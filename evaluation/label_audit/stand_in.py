"""What predictions that learned audited labels would be like: masks of a stand-in for a network, counted.

People and networks fail at the same faint structures, which the distance to an outline does not show. How far scores
without clean labels are off for that reason is seen where clean labels are known, on the audited images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.labels import IGNORE
from evaluation.label_audit.error_table import StandInMasks, count_by_distance
from evaluation.label_audit.pixel_classifier import PixelLearner, image_features, sample_positions

IMAGES, SIDE, PIXELS = 16, 192, 1500  # at most: images, pixels of a window's side, pixels that are learned of each
SHARES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)  # foreground of masks as a share of the labels'


def stand_in_masks(
    images: Sequence[np.ndarray], truths: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> StandInMasks:
    """Learn binary labels of half of the images, mark the other half.

    Args:
        images: (H, W) or (H, W, C), of any range.
        truths, labels: uint8 (H, W) with 255 ignored.
    """
    step = max(1, len(images) // IMAGES)
    windows = [[item[middle_window(item.shape)] for item in part[::step][:IMAGES]] for part in (images, truths, labels)]
    images, truths, labels = windows
    scores = _scores(images, labels)
    every = np.concatenate([item.ravel() for item in scores])
    known = np.concatenate([item.ravel() for item in labels])
    share = float((known == 1).sum() / max((known != IGNORE).sum(), 1))
    tables, outcomes = [], []
    for factor in SHARES:
        level = np.quantile(every, max(0.0, 1 - factor * share))
        masks = [(item > level).astype(np.uint8) for item in scores]
        tables.append([count_by_distance(*pair) for pair in zip(masks, labels, strict=True)])
        outcomes.append([_outcomes(*pair) for pair in zip(masks, truths, strict=True)])
    table = np.array(tables)
    return StandInMasks(table[..., 0], table[..., 1], np.array(outcomes))


def middle_window(shape: Sequence[int]) -> tuple[slice, slice]:
    """The middle SIDE × SIDE pixels of an image (H, W, …)."""
    rows, columns = (slice(start := max((length - SIDE) // 2, 0), start + SIDE) for length in shape[:2])
    return rows, columns


def _scores(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> list[np.ndarray]:
    """E[label | image] of every pixel, learned from sampled pixels of the other half of the images; (H, W) each."""
    rng = np.random.default_rng(0)
    shapes = [label.shape for label in labels]
    everywhere = [np.divmod(np.arange(height * width), width) for height, width in shapes]
    learned = []
    for label in labels:
        chosen = np.zeros(label.shape, np.float32)
        chosen[sample_positions(label.shape, PIXELS, rng)] = 1
        learned.append((chosen * (label != IGNORE)).ravel())
    learner = PixelLearner(image_features(images, everywhere))
    target = np.concatenate([(label == 1).ravel() for label in labels]).astype(np.float32)
    scores = learner.scores(target, np.concatenate(learned))
    parts = np.split(scores, np.cumsum([height * width for height, width in shapes])[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _outcomes(mask: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """True positives, false positives, false negatives."""
    marked, right, wrong = mask == 1, truth == 1, truth == 0
    return int((marked & right).sum()), int((marked & wrong).sum()), int((~marked & right).sum())
