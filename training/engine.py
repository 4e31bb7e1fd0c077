"""One epoch of training and one pass of validation: explicit arguments, no state but the average of weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from datasets.transition_matrix import ScoreDecoder
from evaluation.scores import BINS, confusion_matrix, score_histogram
from models import to_scores
from training.losses.module import SegmentationLoss
from training.step_guard import StepGuard
from utils.cli import Progress
from utils.device import autocast, memory_metrics, start_memory_metrics, tuned_convolutions
from utils.distributed import sum_over_ranks, world_size

TILE, TILE_OVERLAP, TILES_AT_ONCE = 512, 64, 1  # pixels, pixels: as inference does by default


@dataclass(frozen=True)
class EpochMetrics:
    """What an epoch of training reports: mean loss, that of its first step, images per second over all processes,
    last learning rate.

    ``memory`` is that of :func:`utils.device.memory_metrics`.
    """

    loss: float
    first_loss: float
    images_per_second: float
    learning_rate: float
    memory: dict[str, float]


class EmaTeacher:
    r"""A network whose weights are the exponential moving average of another's.

    .. math:: \theta'_t = \alpha_t \theta'_{t-1} + (1 - \alpha_t)\,\theta_t,\qquad
              \alpha_t = \min\!\left(\alpha, \frac{1 + t}{10 + t}\right)

    The growing :math:`\alpha_t` lets the first steps forget the random start. Statistics of batch norm are averaged
    too, so the teacher predicts in evaluation mode; counters are copied.
    Source: Tarvainen and Valpola, *Mean teachers are better role models*, NeurIPS 2017.

    Args:
        network: the student, without any wrapper.
        decay: α.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the student's weights; call it after every optimizer step."""
        self.updates += 1
        step = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        ours, theirs = self.network.state_dict(), network.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in floats], [theirs[name] for name in floats], step)
        for name in ours.keys() - set(floats):
            ours[name].copy_(theirs[name])

    def state_dict(self) -> dict[str, Any]:
        """Weights and the number of updates, for a checkpoint."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly where ``state_dict`` was taken."""
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


def to_device(batch: dict[str, Any], device: torch.device, channels_last: bool) -> tuple[Tensor, Tensor]:
    """Images float32 (B, C, H, W) and labels uint8 (B, H, W) of a batch on ``device``."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = batch["image"].to(device, non_blocking=True, memory_format=memory_format)
    return images, batch["label"].to(device, non_blocking=True)


def unwrap_model(network: nn.Module) -> nn.Module:
    """The network without the wrappers of a compiled and of a distributed one."""
    network = uncompiled(network)
    return network.module if isinstance(network, DistributedDataParallel) else network


def uncompiled(network: nn.Module) -> nn.Module:
    """The network without the wrapper of a compiled one."""
    return getattr(network, "_orig_mod", network)


@dataclass(frozen=True)
class Step:
    """What the gradients of a step depend on, beside its images and labels.

    Args:
        network: in training mode.
        accumulate: parts that a batch is computed in.
        indices: of the images in the training set, (B,).
    """

    network: nn.Module
    loss: SegmentationLoss
    scaler: torch.amp.GradScaler
    precision: str = "fp32"
    accumulate: int = 1
    indices: Tensor | None = None

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add the gradients of a global batch to the parameters, part by part; return its loss.

        The denominators are those of the whole global batch, over all parts and processes, so parts and processes
        change nothing but memory and time. (DistributedDataParallel averages gradients, hence the factor.)
        """
        weights = sum_over_ranks(self.loss.weights(labels))
        total = torch.zeros((), device=images.device)
        for part_images, part_labels in self._parts(images, labels):
            value = self.loss(self.logits(part_images), part_labels, weights)
            self.scaler.scale(value * world_size()).backward()
            total += value.detach()
        return sum_over_ranks(total)

    def _parts(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The parts of a batch; processes exchange gradients with the last one alone."""
        parts = list(zip(images.chunk(self.accumulate), labels.chunk(self.accumulate), strict=True))
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) or world_size() == 1 else self.network.no_sync():
                yield part

    def logits(self, images: Tensor) -> Tensor:
        """What the network makes of images, in the precision of the run."""
        with autocast(images.device, self.precision):
            return self.network(images)

    def backward_mean(self, images: Tensor, labels: Tensor, objective: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """As ``backward``, with an objective in place of the loss; parts and processes count as their images do.

        Args:
            objective: of a part's images and labels, in the order of the parts; a scalar, mean over these images.
        """
        total = torch.zeros((), device=images.device)
        for part_images, part_labels in self._parts(images, labels):
            value = objective(part_images, part_labels) * (len(part_images) / len(images))
            self.scaler.scale(value).backward()
            total += value.detach()
        return sum_over_ranks(total) / world_size()


@tuned_convolutions()
def train_one_epoch(
    network: nn.Module,
    batches: Iterable[dict[str, Any]],
    loss: SegmentationLoss,
    optimizer: torch.optim.Optimizer,
    schedule: LRScheduler,
    scaler: torch.amp.GradScaler,
    *,
    device: torch.device,
    precision: str = "fp32",
    channels_last: bool = False,
    accumulate: int = 1,
    clip_grad: float | None = None,
    read_every: int | None = None,
    teacher: EmaTeacher | None = None,
    backward: Callable[[Step, Tensor, Tensor], Tensor] = Step.backward,
    progress: Progress | None = None,
) -> EpochMetrics:
    """Train on every batch once; the schedule advances with each step, and the teacher follows it.

    Nothing here makes the host wait for a GPU but the reading of losses every ``read_every`` steps and at the end.

    Args:
        read_every: see :class:`StepGuard`.
        teacher: follows the network's weights after each step.
        backward: adds the gradients of a step's images and labels, and returns its loss.
    Raises:
        NonFiniteLoss: a loss or gradient was not finite; neither that step nor a later one changed anything.
    """
    network.train()
    held = start_memory_metrics(device)
    guard = StepGuard(network, optimizer, scaler, clip_grad, read_every)
    images_seen, batch_size, started = 0, None, time.monotonic()
    for batch in batches:
        images, labels = to_device(batch, device, channels_last)
        batch_size = batch_size or len(images)
        guard.begin()
        # The last batch may be smaller: a single step is not worth compiling for its size.
        stepped = network if len(images) == batch_size else uncompiled(network)
        step = Step(stepped, loss, scaler, precision, accumulate, batch.get("index"))
        guard.step(backward(step, images, labels))
        schedule.step()
        if teacher is not None:
            teacher.update(unwrap_model(network))
        images_seen += len(images) * world_size()
        if progress is not None:
            latest = {"loss": guard.losses[-1]} if guard.losses else {}
            progress.update(len(images) * world_size(), **latest)
    guard.read()
    return EpochMetrics(
        loss=math.fsum(guard.losses) / len(guard.losses),
        first_loss=guard.losses[0],
        images_per_second=images_seen / (time.monotonic() - started),
        learning_rate=optimizer.param_groups[0]["lr"],
        memory=memory_metrics(device, held),
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
    decoder: ScoreDecoder | None = None,
    groups: Sequence[int] | None = None,
    tile: int = TILE,
    keep: Callable[[int, Tensor, Tensor], None] | None = None,
) -> np.ndarray:
    """Count how scores and labels meet, over all batches and processes.

    Images with a side above ``tile`` are predicted in tiles, as inference predicts them, and take no more memory.

    Args:
        decoder: for several classes, what corrects scores before the argmax.
        groups: the number of the table that each image of the list is counted into; None: all into one.
        keep: is given the index, scores (h, W) and labels of each binary image, of large ones a band of rows at a time.
    Returns: binary: the (2, BINS) score histogram; K classes: the (K, K) confusion matrix, rows = truth; int64. With
        ``groups`` the tables, (number of groups, …).
    """
    network.eval()
    shape = (2, BINS) if num_classes == 1 else (num_classes, num_classes)
    counts = torch.zeros(max(groups) + 1 if groups else 1, *shape, dtype=torch.int64, device=device)

    def predict(images: Tensor) -> Tensor:
        with autocast(device, precision):
            return to_scores(network(images))

    for batch in batches:
        tables = [groups[int(index)] for index in batch["index"]] if groups else [0] * len(batch["image"])
        for scores, labels, places in _scored_parts(predict, batch, device, channels_last, tile):
            if num_classes > 1:
                scores = (scores if decoder is None else decoder(scores)).argmax(1, keepdim=True)
            if keep is not None and num_classes == 1:
                for row, place in enumerate(places):
                    keep(int(batch["index"][place]), scores[row, 0], labels[row])
            for table in {tables[place] for place in places}:
                own = [row for row, place in enumerate(places) if tables[place] == table]
                if num_classes == 1:
                    counts[table] += score_histogram(scores[own, 0], labels[own])
                else:
                    counts[table] += confusion_matrix(scores[own, 0], labels[own], num_classes)
    return sum_over_ranks(counts if groups else counts[0]).cpu().numpy()


def _scored_parts(
    predict: Callable[[Tensor], Tensor], batch: dict[str, Any], device: torch.device, channels_last: bool, tile: int
) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Scores (B, K, h, W) of a batch, their labels (B, h, W) and places: at once, or large images in bands of rows."""
    if max(batch["image"].shape[-2:]) <= tile:
        images, labels = to_device(batch, device, channels_last)
        yield predict(images), labels, list(range(len(images)))
        return
    from evaluation.prediction.tiling import predict_bands

    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for place, (image, label) in enumerate(zip(batch["image"], batch["label"], strict=True)):
        bands = predict_bands(
            lambda tiles: predict(tiles.contiguous(memory_format=memory_format)),
            lambda top, bottom, image=image: image[:, top:bottom].cpu(),
            tuple(image.shape[-2:]),
            window=tile,
            overlap=TILE_OVERLAP,
            batch=TILES_AT_ONCE,
            device=device,
        )
        for top, scores in bands:
            yield scores[None], label[None, top : top + scores.shape[-2]].to(device), [place]
