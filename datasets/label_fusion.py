r"""The labels of several annotators made into one: shares of their votes, as targets between 0 and 1.

A pixel's share is :math:`\sum_a w_a [\text{label}_a = 1] / \sum_a w_a` over the annotators who know it. Binary shares
stay as they are, so that a network learns how sure people are; of K classes the one of the largest share is taken, of
equal ones the lowest. An annotator's weight in an image is the squared IoU of the label with the consensus of the
others, what more than half of them marked.

Source of STAPLE: Warfield et al., Simultaneous truth and performance level estimation, IEEE TMI 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets import FUSIONS
from datasets.label_noise import make_noisy_label
from datasets.labels import IGNORE, label_classes
from datasets.list_parser import Sample
from utils.cli import UserError

FIRST = "first"  # no fusion: the first column of the list


@dataclass(frozen=True)
class Fusion:
    """How the labels of one image become one.

    Args:
        how: of ``FUSIONS``.
        repairs: what corrects the label of each annotator first, in the order of the list's columns; None: nothing.
    """

    how: str
    repairs: tuple[str | None, ...] = ()

    def __call__(self, labels: Sequence[np.ndarray], num_classes: int = 1) -> np.ndarray:
        """Fuse labels, uint8 (H, W) each with 255 ignored.

        Returns: binary: float32 (H, W), the share in [0, 1], IGNORE where nobody knows; K classes: uint8 (H, W).
        """
        repairs = self.repairs or (None,) * len(labels)
        corrected = [
            label if spec is None else make_noisy_label(label, spec, 0, "", num_classes)
            for label, spec in zip(labels, repairs, strict=True)
        ]
        return FUSIONS[self.how](np.stack(corrected), num_classes)

    def majority(self, labels: Sequence[np.ndarray], num_classes: int = 1) -> np.ndarray:
        """The fused label, uint8 (H, W): of shares what has more than half."""
        return class_indices(self(labels, num_classes))


def class_indices(label: np.ndarray) -> np.ndarray:
    """A label (H, W) as class indices, uint8: of float shares what has more than half."""
    return label if label.dtype == np.uint8 else np.where(label == IGNORE, IGNORE, label > 0.5).astype(np.uint8)


def with_fusion(
    samples: Sequence[Sample], how: str, repairs: Sequence[Sequence[str | None]] | None = None
) -> list[Sample]:
    """The samples, of which those with several labels know how these become one.

    Args:
        how: of ``FUSIONS``, or FIRST.
        repairs: of every sample, a spec or None for each of its labels.
    """
    if how == FIRST:
        return list(samples)
    known = repairs or [()] * len(samples)
    return [
        replace(sample, fusion=Fusion(how, tuple(own))) if sample.more_labels else sample
        for sample, own in zip(samples, known, strict=True)
    ]


def annotators_of(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Who made each label of every sample: its folder, where one holds several of an image its ending, else its column.

    Lines may lack labels, so that a column alone tells nobody.
    """
    rows = [(sample.label, *sample.more_labels) if sample.label else () for sample in samples]
    folders = [[label.parent.parts for label in row] for row in rows]
    for depth in range(1, 1 + max((len(parts) for row in folders for parts in row), default=0)):
        names = [tuple("/".join(parts[-depth:]) for parts in row) for row in folders]
        if all(map(_all_differ, names)):
            return names
    endings = [tuple(_beyond(sample.image, label) for label in row) for sample, row in zip(samples, rows, strict=True)]
    if all(_all_differ(row) and all(row) for row in endings):
        return endings
    return [tuple(f"annotator {place}" for place in range(1, 1 + len(row))) for row in rows]


def _all_differ(names: Sequence[str]) -> bool:
    return len({*names}) == len(names)


def _beyond(image: Path, label: Path) -> str:
    """What a label's name has beyond its image's: ``_anna`` of ``7_anna.png``; empty where it has another."""
    name = image.stem
    if label.stem.startswith(name):
        return label.stem.removeprefix(name)
    return label.stem.removesuffix(name) if label.stem.endswith(name) else ""


def consensus(labels: np.ndarray, num_classes: int = 1, weights: np.ndarray | None = None) -> np.ndarray:
    """The class that most annotators give, of equal ones the lowest: binary, what more than half of them marked.

    Args:
        labels: uint8 (A, H, W) with 255 ignored; weights: of the annotators, (A,).
    Returns: uint8 (H, W), IGNORE where nobody knows.
    """
    votes = _votes(labels, num_classes, weights)
    return np.where(votes.sum(0) > 0, votes.argmax(0), IGNORE).astype(np.uint8)


def _votes(labels: np.ndarray, num_classes: int, weights: np.ndarray | None) -> np.ndarray:
    """The weight of the annotators who give each class, float32 (K, H, W)."""
    weights = np.ones(len(labels)) if weights is None else weights
    return np.stack(
        [np.tensordot(weights, labels == value, 1).astype(np.float32) for value in range(label_classes(num_classes))]
    )


def label_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two labels where both are known, over the classes ≠ 0 together; 1 where both are empty."""
    known = (first != IGNORE) & (second != IGNORE)
    first, second = first[known], second[known]
    either = int(((first > 0) | (second > 0)).sum())
    return int(((first == second) & (first > 0)).sum()) / either if either else 1.0


def agreement_weights(labels: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """Squared IoU of each label with the consensus of the others, (A,); all 1 where none agrees with any."""
    others = [consensus(np.delete(labels, place, 0), num_classes) for place in range(len(labels))]
    weights = np.array([label_overlap(*pair) ** 2 for pair in zip(labels, others, strict=True)])
    return weights if weights.sum() > 0 else np.ones(len(labels))


def vote_share(labels: np.ndarray, num_classes: int = 1, weights: np.ndarray | None = None) -> np.ndarray:
    """The share of the annotators' weight that marked a pixel; all weigh alike by default."""
    if num_classes > 1:
        return consensus(labels, num_classes, weights)
    votes = _votes(labels, 1, weights)
    total = votes.sum(0)
    return np.where(total > 0, votes[1] / np.where(total > 0, total, 1), IGNORE).astype(np.float32)


def weighted_share(labels: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """The share where annotators weigh in an image as they agree with the others there."""
    return vote_share(labels, num_classes, agreement_weights(labels, num_classes))


def staple_share(labels: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """The probability of foreground that STAPLE estimates; the vote where it has nothing to go by.

    Raises:
        UserError: K classes, or SimpleITK is not installed.
    """
    if num_classes > 1:
        raise UserError("--fusion staple is for binary labels; with several classes use vote, weighted or repaired")
    try:
        import SimpleITK as sitk
    except ImportError:
        raise UserError("--fusion staple needs SimpleITK: pip install SimpleITK, or use --fusion repaired") from None
    votes = vote_share(labels)
    marked = labels == 1
    if not marked.any() or (marked == marked[0]).all():
        return votes
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in marked]
    share = sitk.GetArrayFromImage(sitk.STAPLE(images, 1.0)).astype(np.float32)
    return np.where((labels == IGNORE).any(0) | ~np.isfinite(share), votes, share)
