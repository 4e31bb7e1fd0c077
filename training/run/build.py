"""What a run trains with, from its options: networks, their first weights, loss, optimizer; or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from datasets.labels import label_classes
from datasets.transition_matrix import TransitionMatrix
from models import build_network, start_from_shares
from training.data import TrainingData, class_counts
from training.engine import EmaTeacher
from training.losses.module import SegmentationLoss, frequency_weights
from training.losses.spec import needs_transition_matrix
from training.optimizers import build_optimizer, can_be_fused
from training.options import TrainingOptions
from training.run.state import (
    TrainingState,
    add_schedule,
    check_work_left,
    load_last,
    put_best_back,
    restore,
    seed_everything,
)
from training.selection import LabelNoiseFacts
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.device import choose_precision
from utils.distributed import distributed, from_main, say_once, synchronize_batch_norm
from utils.run_folder import display_path

COUNTED_LABELS = 500  # from which class shares are estimated
NAMED = ("network", "network_options", "in_channels", "num_classes")  # what the shape of a network follows from


class Networks(Protocol):
    """What a method says of its networks, see ``training.methods.supervised.Supervised``."""

    def build(self, make: Callable[[], nn.Module]) -> nn.Module:
        """What is trained."""
        ...

    def predictor(self, network: nn.Module) -> nn.Module:
        """The network that predicts."""
        ...


def make_state(
    options: TrainingOptions,
    data: TrainingData,
    device: torch.device,
    labels: LabelNoiseFacts,
    method: Networks,
    previous: Path | None = None,
) -> TrainingState:
    """Build what is trained, or bring it back from the last checkpoint of the run that is resumed.

    Args:
        previous: the folder of that run.
    """
    counts = class_counts(data.train, COUNTED_LABELS)
    state = build_state(options, device, counts, labels, method, is_new=previous is None)
    if previous is None:
        add_schedule(options.optimization, state, data.train_batches.steps_per_epoch)
    else:
        checkpoint = load_last(previous, say_once)
        check_work_left(options, previous, checkpoint["epoch"])
        restore(options.optimization, state, checkpoint, data.train_batches.steps_per_epoch)
        best, is_over = checkpoint["best"]["epoch"], state.epoch >= options.optimization.epochs
        if not from_main(lambda: is_over or put_best_back(previous, best)):
            state.best = None
    state.network = distributed(state.network, device)
    return state


def build_state(
    options: TrainingOptions,
    device: torch.device,
    class_counts: np.ndarray,
    labels: LabelNoiseFacts,
    method: Networks,
    is_new: bool = True,
) -> TrainingState:
    """Build network, loss and optimizer on ``device``; the schedule follows when the number of steps is known.

    Args:
        class_counts: pixels of each class in the training labels.
        labels: what is known of their noise.
        method: says what networks are trained.
        is_new: whether the run starts, from the weights of another where it is told so.
    """
    optimization, num_classes = options.optimization, options.data.num_classes
    corrects = needs_transition_matrix(options.loss.spec)  # the loss undoes the noise: scores are about the truth
    seed_everything(options.run.seed, 0)

    def make() -> nn.Module:
        made = build_network(options.network.name, options.data.in_channels, num_classes, **options.network.options)
        if options.network.head_bias == "shares" and class_counts.sum():
            shares = class_counts / class_counts.sum()
            start_from_shares(made, labels.true_shares(shares) if corrects else shares)
        if is_new and options.run.init_from is not None:
            take_weights(made, Path(options.run.init_from), options.flat())
        return made

    network = method.build(make)
    if optimization.ema and method.predictor(network) is not network:
        raise UserError("--ema averages one network, and this method trains several: leave it out")
    channels_last = device.type != "mps"  # slower there, and not in every operator
    network = network.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    if options.network.sync_batchnorm:
        network = synchronize_batch_norm(network, device)
    weights = class_weights(options.loss.class_weights, num_classes, class_counts)
    optimizer = build_optimizer(
        optimization.optimizer,
        network.parameters(),
        optimization.lr,
        weight_decay=optimization.weight_decay,
        momentum=optimization.momentum,
        fused=can_be_fused(device),
    )
    teacher = EmaTeacher(network, optimization.ema) if optimization.ema else None
    precision = choose_precision(optimization.precision, device)
    return TrainingState(
        network=network,
        loss=SegmentationLoss(options.loss.spec, num_classes, weights, labels.matrix).to(device),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        schedule=None,
        precision=precision,
        device=device,
        labels=labels,
        scores=LabelNoiseFacts(TransitionMatrix.identity(num_classes), False) if corrects else labels,
        channels_last=channels_last,
        teacher=teacher,
        predictor_of=method.predictor,
    )


def class_weights(given: Sequence[str], num_classes: int, class_counts: np.ndarray) -> list[float] | None:
    """The weights of ``--class_weights``: given ones, or from class frequencies."""
    if not given:
        return None
    if tuple(given) == ("frequency",):
        return list(frequency_weights(class_counts))
    classes = label_classes(num_classes)
    try:
        weights = [float(value) for value in given]
    except ValueError:
        weights = []
    if len(weights) != classes or min(weights) < 0 or max(weights) <= 0:
        raise UserError(
            f"--class_weights {' '.join(given)}: give 'frequency' or {classes} numbers ≥ 0, one of them above 0, "
            "background first"
        )
    return weights


def take_weights(network: nn.Module, run: Path, own: dict[str, Any]) -> None:
    """Give a network the weights and statistics of another run's best checkpoint.

    Args:
        network: as it is built, without any wrapper.
        run: the folder of the other run.
        own: the options of this run by flat name, for the message.
    Raises:
        UserError: no checkpoint, or one of another network; the message says in what they differ.
    """
    from evaluation.prediction.predictor import find_checkpoint

    checkpoint = load_checkpoint(find_checkpoint(run, "best"))
    ours, theirs = network.state_dict(), checkpoint["model"]
    if {name: value.shape for name, value in ours.items()} != {name: value.shape for name, value in theirs.items()}:
        config = checkpoint["config"]
        differ = [
            f"{name} {config.get(name)} there, {own[name]} here" for name in NAMED if config.get(name) != own[name]
        ]
        first = next((name for name in ours if name not in theirs or ours[name].shape != theirs[name].shape), "")
        raise UserError(
            f"--init_from {display_path(run)}: its network does not match this run's: "
            f"{'; '.join(differ) or f'they differ from {first!r} on'}. Give this run the options of that one"
        )
    network.load_state_dict(theirs)
