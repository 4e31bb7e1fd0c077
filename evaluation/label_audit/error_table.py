r"""What labels are, by distance to the true outline, in counts that scores without clean labels are estimated from.

Labels are counted after the repair that the audit found, image by image, so that their shares can be resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from datasets.label_noise import make_noisy_label
from datasets.labels import IGNORE
from datasets.noise_steps import signed_distance

REACH = 17  # pixels of distance told apart
DISTANCE = np.arange(-REACH, REACH) + 0.5  # middles of the bins of distance, positive inside
INSIDE = DISTANCE > 0
SHRINKAGE = 20  # labels that the share of its class weighs in the share of a bin


class Shares(NamedTuple):
    """Shares of foreground labels: by distance to the true outline, (2 · REACH,), in background, in foreground."""

    by_distance: np.ndarray
    outer: float
    inner: float


@dataclass(frozen=True)
class StandInMasks:
    """Counts of masks that a stand-in for a network makes of n images, at L thresholds.

    Args:
        pixels, labelled: pixels by distance to the outline of the mask, and those labelled, int (L, n, 2 · REACH).
        outcomes: true positives, false positives and false negatives against the truth, int (L, n, 3).
    """

    pixels: np.ndarray
    labelled: np.ndarray
    outcomes: np.ndarray

    def like(self, table: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """The pooled table of the masks that are most like those of another one, and their IoU with the truth.

        Like in the foreground that they mark, as a share of what is labelled.

        Args:
            table: of `count_by_distance`, (2 · REACH, 2).
            weights: of the images, (n,); None: all alike.
        """
        weights = np.ones(self.pixels.shape[1]) if weights is None else weights
        tables = np.stack([np.tensordot(weights, part, (0, 1)) for part in (self.pixels, self.labelled)], -1)
        marked = [_marked(each) for each in tables]
        place = int(np.argmin(np.abs(np.log(marked) - np.log(_marked(table)))))
        outcomes = weights @ self.outcomes[place]
        return tables[place], float(outcomes[0] / max(outcomes.sum(), 1))


def _marked(table: np.ndarray) -> float:
    """Pixels of the masks of a table as a share of those labelled, never 0."""
    return float(max(table[INSIDE, 0].sum(), 1) / max(table[:, 1].sum(), 1))


@dataclass(frozen=True)
class LabelErrors:
    """What an audit knows of labels by distance to the true outline, in counts of each audited image.

    Args:
        repair: what was done to the labels before, in the grammar of label noise; None: nothing.
        pixels, labelled: pixels by distance and those labelled foreground, int (n, 2 · REACH).
        stand_in: what predictions that learned the labels are like; None where there were no images.
    """

    repair: str | None
    pixels: np.ndarray
    labelled: np.ndarray
    stand_in: StandInMasks | None = None

    @staticmethod
    def of(truths: Sequence[np.ndarray], labels: Sequence[np.ndarray], repair: str | None) -> LabelErrors:
        """Count binary labels, repaired, by distance to the truth; both uint8 (H, W) with 255 ignored."""
        pairs = zip(truths, labels, strict=True)
        table = np.stack([count_by_distance(truth, repaired(label, repair)) for truth, label in pairs])
        return LabelErrors(repair, table[..., 0], table[..., 1])

    def to_json(self) -> dict[str, Any]:
        """For audit.json."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> LabelErrors:
        """From audit.json."""
        pixels, labelled = (np.array(content[name]) for name in ("pixels", "labelled"))
        masks = content.get("stand_in")
        stand_in = masks and StandInMasks(*(np.array(masks[name]) for name in ("pixels", "labelled", "outcomes")))
        return LabelErrors(content["repair"], pixels, labelled, stand_in or None)

    def repaired(self, label: np.ndarray) -> np.ndarray:
        """A label with the repair that the counts are of."""
        return repaired(label, self.repair)

    def shares(self, weights: np.ndarray | None = None) -> Shares:
        """Shares of foreground labels; weights are of the audited images, (n,), all alike by default."""
        weights = np.ones(len(self.pixels)) if weights is None else weights
        pixels, labelled = weights @ self.pixels, weights @ self.labelled
        outer, inner = (labelled[side].sum() / max(pixels[side].sum(), 1) for side in (~INSIDE, INSIDE))
        prior = np.where(INSIDE, inner, outer)
        return Shares((labelled + SHRINKAGE * prior) / (pixels + SHRINKAGE), float(outer), float(inner))

    def dependence(self) -> float:
        """How far errors depend on the distance, from 0 to 1: pixels whose labels differ from the share of their class.

        As a part of the foreground's pixels and of the contrast.
        """
        known, pixels = self.shares(), self.pixels.sum(0)
        differ = np.abs(known.by_distance - np.where(INSIDE, known.inner, known.outer))
        contrast = max(abs(known.inner - known.outer), 1e-6)
        return float(min((pixels * differ).sum() / max(pixels[INSIDE].sum(), 1) / contrast, 1.0))


def repaired(label: np.ndarray, spec: str | None) -> np.ndarray:
    """A binary label, uint8 (H, W) with 255 ignored, after the steps of a repair; None: as it is."""
    return label if spec is None else make_noisy_label(label, spec, 0, "")


def count_by_distance(mask: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Pixels by signed distance to the outline of a mask, and those labelled foreground; int64 (2 · REACH, 2).

    Args:
        mask, label: binary with 255 ignored, uint8 (H, W); a mask without outline is far from any.
    """
    known = (mask != IGNORE) & (label != IGNORE)
    distance = -signed_distance((mask == 1).astype(np.uint8))
    place = np.clip(np.floor(distance), -REACH, REACH - 1).astype(int)[known] + REACH
    labelled = np.bincount(place, label[known] == 1, 2 * REACH)
    return np.stack([np.bincount(place, minlength=2 * REACH), labelled], 1).astype(np.int64)
