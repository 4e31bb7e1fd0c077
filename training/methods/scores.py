"""What methods do with scores: of whole training images, and as soft targets of a cross entropy."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from datasets.segmentation import SegmentationDataset
from evaluation.prediction import Predictor
from training.losses.pixel import full_precision, log_scores, pixel_mean
from training.options import TrainingOptions
from training.run.state import TrainingState
from utils.cli import UserError


def image_scores(state: TrainingState, dataset: SegmentationDataset, index: int) -> tuple[Tensor, Tensor]:
    """Scores float32 (1, C, H, W) of a training image, in eval mode, and the network's input (1, channels, H, W)."""
    pixels, scaling = dataset.scaled_pixels(index)
    tensor = torch.from_numpy(scaling(pixels))[None]
    state.predictor.eval()
    predictor = Predictor(state.predictor, state.device, state.precision)
    return predictor(tensor).float(), tensor.to(state.device)


def class_scores(scores: Tensor) -> Tensor:
    """Scores of all classes, (B, max(C, 2), H, W), from those that a network gives."""
    return torch.cat([1 - scores, scores], dim=1) if scores.shape[1] == 1 else scores


def training_scores(state: TrainingState, dataset: SegmentationDataset) -> Iterator[tuple[int, Tensor]]:
    """Index and scores of all classes, (max(C, 2), H, W) on the CPU, of every training image."""
    for index in range(len(dataset)):
        yield index, class_scores(image_scores(state, dataset, index)[0])[0].cpu()


@full_precision
def soft_cross_entropy(logits: Tensor, labels: Tensor, *, targets: Tensor) -> Tensor:
    r"""Cross entropy with soft targets, :math:`-\sum_k t_k \log p_k`, per image, (B,).

    Args:
        labels: (B, H, W); where they are ignored nothing counts.
        targets: (B, max(C, 2), H, W), sums over the classes 1.
    """
    return pixel_mean(-(targets.to(logits.dtype) * log_scores(logits)).sum(1), labels, None)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (B, H, W) as float32 (B, classes, H, W); all 0 at ignored pixels."""
    numbers = torch.arange(classes, device=labels.device)[:, None, None]
    return (labels[:, None] == numbers).float()


def require_cross_entropy(options: TrainingOptions, method: str) -> None:
    """Refuse losses that a method with soft labels does not know.

    Raises:
        UserError: another loss than cross entropy, or class weights.
    """
    if options.loss.spec not in ("bce", "ce") or options.loss.class_weights:
        raise UserError(f"--method {method} makes labels soft: it takes --loss bce or ce, without --class_weights")
