"""When label-free training replaces its labels: rules that look at images and predictions, and one that may not.

A rule gives a refresh a figure; the labels are replaced where it exceeds the figure at the last replacement.
``evaluation`` compares with the labels of a validation list, so a run under it is no longer label-free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from datasets.segmentation import SegmentationDataset
from evaluation.label_audit.without_reference import image_evidence
from evaluation.scores import best_threshold
from training.label_free.masks import has_settled, separation

PREDICTED_IMAGES = 24  # at most, of those that a rule looks at


@dataclass(frozen=True)
class Proposal:
    """What a rule may look at before labels are replaced.

    Args:
        masks: proposed masks by index of the training image, uint8 (H, W).
        agreements: mean Dice of proposed and standing masks at every refresh so far, this one last.
        predict: a data set and the index of an image → its scores, float32 (1, 1, H, W).
        train, held_out: the training images, and images that are not trained on; the same where there are none.
        foreground: ``bright``, ``dark`` or ``minority``.
        validation: the score histogram (2, BINS) against validation labels, for ``evaluation``.
    """

    masks: dict[int, np.ndarray]
    agreements: Sequence[float]
    predict: Callable[[SegmentationDataset, int], torch.Tensor]
    train: SegmentationDataset
    held_out: SegmentationDataset
    foreground: str
    validation: np.ndarray | None = None


def _spread(indices: Sequence[int]) -> Sequence[int]:
    """At most ``PREDICTED_IMAGES`` of the indices, spread evenly."""
    return indices[:: -(-len(indices) // PREDICTED_IMAGES)]


def every_epoch(proposal: Proposal) -> float:
    """Always: the published rule."""
    return float("inf")


def while_moving(proposal: Proposal) -> float:
    """Until masks have settled, see :func:`training.label_free.masks.has_settled`; then labels stay."""
    return float("-inf") if has_settled(proposal.agreements) else float("inf")


def held_out_dmi(proposal: Proposal) -> float:
    """The mean DMI of held-out images with their own best masks: how clearly the network parts two classes there."""
    indices = _spread(range(len(proposal.held_out)))
    return float(np.mean([float(separation(proposal.predict(proposal.held_out, i))) for i in indices]))


def image_audit(proposal: Proposal) -> float:
    """How well other images predict the masks from image features, negative where they show the inverse.

    The correlation of ``label_audit.without_reference.image_evidence``, the audit's look at labels without a truth.
    """
    indices = _spread(list(proposal.masks))
    evidence = image_evidence(
        [proposal.masks[i] for i in indices], [proposal.train.image(i) for i in indices], foreground=proposal.foreground
    )
    return evidence.correlation * (evidence.direction or 1)


def validation_iou(proposal: Proposal) -> float:
    """The IoU with validation labels at its best threshold. Reads labels."""
    return float(best_threshold(proposal.validation)[1])


# name → figure of a refresh; replaced where it is above that of the last replacement (inf: always, -inf: never).
REFRESH_RULES: dict[str, Callable[[Proposal], float]] = {
    "epoch": every_epoch,
    "agreement": while_moving,
    "dmi": held_out_dmi,
    "audit": image_audit,
}
