"""Whether labels belong to other images: held against the truth of every image, on coarse maps.

Images of one kind may be alike in where their structures lie (crops of one field, cells in the middle), so that labels
of other images are associated with the truth. They are so with the truth of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.labels import IGNORE
from evaluation.scores.bootstrap import MIN_IMAGES, student_reach

# Fixed on simulated sets.
GRID = 32  # cells per side of the coarse maps
FITS, BETTER_BY = 0.6, 0.3  # correlation with the truth of another image, at least, and by how much with the own less
UNLIKE = 0.3  # by how much less truths of two images must be correlated than equal ones, on average, for them to tell
OWN_PART = 0.5  # of the advantage that right labels of as much correlation would have, which is no chance


@dataclass(frozen=True)
class OtherImages:
    """How labels fit the truth of their own image and of others.

    Args:
        labels: how many could be judged.
        places: of those that fit the truth of another image far better, ascending.
        own_fits_better: whether labels fit their own truth better, or worse, than those of most other images, beyond
            chance; None where that cannot be told.
    """

    labels: int = 0
    places: tuple[int, ...] = ()
    own_fits_better: bool | None = None

    @property
    def are_most(self) -> bool:
        """Whether most labels are those of other images."""
        return len(self.places) > self.labels / 2


def find_other_images(truths: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> OtherImages:
    """Hold labels against the truth of every image of their shape; classes with 255 ignored, (H, W) each."""
    shapes = np.unique([label.shape for label in labels], axis=0, return_inverse=True)[1].ravel()
    alike = (shapes[:, None] == shapes) & ~np.eye(len(labels), dtype=bool)
    marks, maps = (np.stack([_coarse(item) for item in items]) for items in (labels, truths))
    judged = marks.any(1) & maps.any(1)
    alike &= judged & judged[:, None]
    judged &= alike.any(1)
    table, among = marks @ maps.T, maps @ maps.T
    own, others = table.diagonal(), np.where(alike, table, -1.0).max(1, initial=-1.0)
    places = np.flatnonzero(judged & (others >= np.maximum(FITS, own + BETTER_BY)))
    elsewhere, between = (np.nanmedian(np.where(alike, item, np.nan)[judged], 1) for item in (table, among))
    gains, unlike, better = own[judged] - elsewhere, (1 - between).mean() if len(between) else 0.0, None
    if len(gains) >= MIN_IMAGES and unlike >= UNLIKE:
        reach = student_reach(len(gains)) * gains.std(ddof=1) / np.sqrt(len(gains))
        better = bool(abs(gains.mean()) > min(reach, OWN_PART * unlike * abs(own[judged].mean())))
    return OtherImages(int(judged.sum()), tuple(places.tolist()), better)


def _coarse(item: np.ndarray) -> np.ndarray:
    """Foreground per cell, less its mean and of length 1; 0 where it is the same everywhere; float32 (GRID²,)."""
    inside = ((item > 0) & (item != IGNORE)).astype(np.float32)
    cells = cv2.resize(inside, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()
    cells -= cells.mean()
    length = float(np.linalg.norm(cells))
    return cells / length if length > 1e-6 else np.zeros_like(cells)
