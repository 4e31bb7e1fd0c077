"""One epoch of training and one pass of validation: explicit arguments, no state of their own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.scores import BINS, confusion_matrix, decode_scores, score_histogram
from models import to_scores
from training.losses import SegmentationLoss
from training.optimizers import LearningRateSchedule
from utils.cli import Progress
from utils.device import autocast
from utils.distributed import sum_over_ranks, world_size


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became infinite or NaN; raised before the optimizer's step."""


@dataclass(frozen=True)
class EpochFigures:
    """What an epoch of training reports: mean loss, images per second over all processes, last learning rate."""

    loss: float
    images_per_second: float
    learning_rate: float


def to_device(batch: dict[str, Any], device: torch.device, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Images float32 (B, C, H, W) and labels uint8 (B, H, W) of a batch on ``device``."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = batch["image"].to(device, non_blocking=True, memory_format=memory_format)
    return images, batch["label"].to(device, non_blocking=True)


def backward_in_parts(
    network: nn.Module,
    loss: SegmentationLoss,
    images: Tensor,
    labels: Tensor,
    *,
    precision: str,
    accumulate: int,
    scaler: torch.amp.GradScaler,
) -> Tensor:
    """Add the gradients of a global batch to the parameters, in ``accumulate`` parts; return its loss.

    The denominators are those of the whole global batch, over all parts and processes, so parts and processes
    change nothing but memory and time. (DistributedDataParallel averages gradients, hence the factor.)
    """
    weights = sum_over_ranks(loss.weights(labels))
    total = torch.zeros((), device=images.device)
    parts = list(zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True))
    for number, (part_images, part_labels) in enumerate(parts, start=1):
        last = number == len(parts)
        with nullcontext() if last or world_size() == 1 else network.no_sync():
            with autocast(images.device, precision):
                logits = network(part_images)
            value = loss(logits, part_labels, weights)
            scaler.scale(value * world_size()).backward()
        total += value.detach()
    return sum_over_ranks(total)


def train_one_epoch(
    network: nn.Module,
    batches: Iterable[dict[str, Any]],
    loss: SegmentationLoss,
    optimizer: torch.optim.Optimizer,
    schedule: LearningRateSchedule,
    scaler: torch.amp.GradScaler,
    *,
    device: torch.device,
    precision: str = "fp32",
    channels_last: bool = False,
    accumulate: int = 1,
    clip_grad: float | None = None,
    progress: Progress | None = None,
) -> EpochFigures:
    """Train on every batch once; the schedule advances with each step.

    Raises:
        NonFiniteLoss: before the step that a non-finite loss or gradient would have made.
    """
    network.train()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    losses, images_seen, started = [], 0, time.monotonic()
    for step, batch in enumerate(batches, start=1):
        images, labels = to_device(batch, device, channels_last)
        optimizer.zero_grad(set_to_none=True)
        value = backward_in_parts(
            network, loss, images, labels, precision=precision, accumulate=accumulate, scaler=scaler
        )
        for parameter in loss.parameters():  # those that a loss learns are in no DistributedDataParallel
            if parameter.grad is not None:
                sum_over_ranks(parameter.grad).div_(world_size())
        scaler.unscale_(optimizer)
        norm = gradient_norm(parameters, clip_grad)
        _stop_if_not_finite(value, norm, step, scaler.is_enabled())
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(value.detach())
        images_seen += len(images) * world_size()
        if progress is not None:
            progress.update(len(images) * world_size(), loss=float(value))
    return EpochFigures(
        loss=float(torch.stack(losses).mean()),
        images_per_second=images_seen / (time.monotonic() - started),
        learning_rate=optimizer.param_groups[0]["lr"],
    )


def gradient_norm(parameters: list[nn.Parameter], clip_grad: float | None) -> Tensor:
    """The norm of the gradient before it is clipped to ``clip_grad`` (None leaves it as it is)."""
    if clip_grad is not None:
        return nn.utils.clip_grad_norm_(parameters, clip_grad)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def _stop_if_not_finite(value: Tensor, norm: Tensor, step: int, scaled: bool) -> None:
    """A scaler skips steps whose fp16 gradient overflowed and halves its scale; a non-finite loss is never fine."""
    if not torch.isfinite(value) or not (scaled or torch.isfinite(norm)):
        raise NonFiniteLoss(
            f"step {step} of the epoch: the loss is {float(value)}, the norm of its gradient {float(norm)}; the "
            "weights were not changed. Try a lower --lr, --clip_grad 1, --precision fp32, or look for broken images."
        )


@torch.inference_mode()
def validate(
    network: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    num_classes: int,
    device: torch.device,
    precision: str = "fp32",
    channels_last: bool = False,
    transition: Tensor | None = None,
) -> np.ndarray:
    """Count how scores and labels meet, over all batches and processes.

    Args:
        transition: for several classes, the noise transition matrix (K, K) by which scores are corrected first.
    Returns: binary: the (2, BINS) score histogram; K classes: the (K, K) confusion matrix, rows = truth; int64.
    """
    network.eval()
    counts: Tensor | None = None
    for batch in batches:
        images, labels = to_device(batch, device, channels_last)
        with autocast(device, precision):
            logits = network(images)
        scores = to_scores(logits)
        if num_classes == 1:
            batch_counts = score_histogram(scores[:, 0], labels)
        else:
            scores = scores if transition is None else decode_scores(scores, transition)
            batch_counts = confusion_matrix(scores.argmax(1), labels, num_classes)
        counts = batch_counts if counts is None else counts + batch_counts
    if counts is None:  # a process without a share
        shape = (2, BINS) if num_classes == 1 else (num_classes, num_classes)
        counts = torch.zeros(shape, dtype=torch.int64, device=device)
    return sum_over_ranks(counts).cpu().numpy()
