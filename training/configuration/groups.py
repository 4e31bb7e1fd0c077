"""The options of a training run, one entry each, in the groups that functions take.

An entry names type, default and help, what it needs, and whether a resumed run may change it; flags, ``--help`` and
checks follow from it. Nothing here imports torch, so that ``main.py --help`` answers at once.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from datasets import AUGMENTATION_PRESETS, FUSIONS, NORMALIZATIONS, STRONG_AUGMENTATIONS
from datasets.labels import FOREGROUNDS
from evaluation.classical import BASELINES
from models import NETWORKS
from training.configuration import PRESETS, RECIPES
from training.losses.spec import LOSSES
from training.methods import METHODS
from training.optimizers import OPTIMIZERS, SCHEDULES
from utils.cli import channel_list, whole_number
from utils.option_fields import (
    below_one,
    fold_of,
    name_with_params,
    non_negative_float,
    non_negative_int,
    option,
    positive_float,
    positive_int,
    up_to,
)

# Far beyond what is of use; what lies above is a slip, and would end in a failed allocation.
MAX_CROP, MAX_WIDTH, MAX_BATCH = 16384, 4096, 65536
MAX_EPOCHS, MAX_COUNT, MAX_RATE = 10**6, 10**5, 1e6
INITIAL_LABELS = ("black", "random", "auto", *BASELINES)


def auto_or_count(text: str) -> int | str:
    """A whole number of at least 1, or ``auto``."""
    if text == "auto":
        return text
    try:
        return whole_number(1, MAX_COUNT)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or auto") from None


seed_number = whole_number(0, 2**63 - 1)  # that torch takes


@dataclass(frozen=True)
class DataOptions:
    """Which images and labels are read, and how."""

    dataset: str = option("er", "name of the data set: datasets/NAME and txt/NAME", metavar="NAME")
    train_list: str | None = option(
        None, "list of training images and labels (default: train_noisyLabel.txt)", metavar="LIST"
    )
    val_list: str | None = option(None, "list of validation images and labels (default: val.txt)", metavar="LIST")
    clean_list: str | None = option(
        None, "list with clean labels of some training images: decides the recipe, and is trained on", metavar="LIST"
    )
    fusion: str = option(
        "vote",
        "how labels of several annotators become one: shares of votes, weighted by agreement, after repairs, by "
        "STAPLE; or the first label alone",
        choices=(*FUSIONS, "first"),
    )
    val_labels: str = option("clean", "whether the validation labels can be trusted", choices=("clean", "noisy"))
    data_root: str | None = option(
        None, "folder that relative paths in lists start from (default: $SEG_ROOT)", metavar="DIR", is_copied=False
    )
    real_only: bool = option(False, "never replace missing images by simulated ones")
    fold: str | None = option(None, "leave out part k of K of the training list", fold_of, metavar="k/K")
    folds: int | None = option(
        None,
        "train K runs, each without one of K parts of the training list: maps, metrics and label issues of all of it, "
        "and an ensemble",
        positive_int,
        metavar="K",
        is_copied=False,
    )
    group_by: str | None = option(
        None,
        "images in whose path it finds the same text stay in one part: '(cell[0-9]+)_'",
        metavar="REGEX",
        needs="fold",
    )
    num_classes: int = option(1, "1 for binary labels, else the number of classes", positive_int, metavar="K")
    in_channels: int = option(1, "channels of an image: 1 reads as grey, 3 as RGB", whole_number(1, 1024), metavar="N")
    channels: tuple[str, ...] = option((), "channels to read, by number or OME name: 0,2", channel_list, metavar="C,…")
    ignore_index: int | None = option(None, "label value that is ignored", non_negative_int, metavar="V")
    label_map: str | None = option(None, 'what label values or colours mean: "1:0,2:1,-1:ignore"', metavar="V:CLASS,…")
    normalization: str = option("zscore", "how pixels are scaled, image by image", choices=NORMALIZATIONS)


@dataclass(frozen=True)
class NoiseOptions:
    """What is done to labels while they are read: a repair first, then noise."""

    label_repair: str | None = option(
        None, "correct labels, such as offset:-1.5 or move:0,2; auto: as the clean list shows", metavar="SPEC|auto"
    )
    label_noise: str | None = option(
        None, "put noise on the labels, such as flip:0.3 or skeleton+shift:1", metavar="SPEC"
    )
    label_noise_refresh: str = option(
        "fixed", "draw the noise once or every epoch anew", choices=("fixed", "epoch"), needs="label_noise"
    )
    noise_seed: int | None = option(None, "seed of the noise (default: seed)", needs="label_noise", python_only=True)
    unlabelled: str = option(
        "background", "what the step sample drops becomes", choices=("background", "ignore"), needs="label_noise"
    )


@dataclass(frozen=True)
class LabelFreeOptions:
    """Iterative ground-truth training (iGTT), from images alone; its recipe sets what is None here."""

    igtt: str | None = option(None, "train from images alone; by itself it means best", choices=RECIPES, nargs="?")
    igtt_init: str | None = option(
        None,
        "first labels; auto: a vote by noise and size; black: the random network's",
        choices=INITIAL_LABELS,
        needs="igtt",
    )
    igtt_ems: str | None = option(None, "noise spec that turns masks into labels", needs="igtt", python_only=True)
    igtt_criterion: str | None = option(None, "which mask becomes the label", needs="igtt", python_only=True)
    igtt_warmup: float | None = option(
        None, "fraction of the epochs before labels are first refreshed", needs="igtt", python_only=True
    )
    foreground: str | None = option(
        None, "what tells structure from background", choices=("auto", *FOREGROUNDS), needs="igtt"
    )


@dataclass(frozen=True)
class AugmentationOptions:
    """Windows of the images and how they are varied."""

    crop: int = option(256, "side of the training window in pixels", whole_number(1, MAX_CROP), metavar="PIXELS")
    flips: bool = option(True, "flip images and turn them by quarters")
    augment: tuple[str, ...] = option(
        (),
        f"stronger augmentation, {', '.join(AUGMENTATION_PRESETS)} (for images of other labs) or NAME[:STRENGTH] of: "
        + ", ".join(STRONG_AUGMENTATIONS)
        + "; alone: none",
        nargs="*",
        metavar="NAME",
    )
    repeat: int | str = option(
        "auto", "draws of every image in an epoch; auto: as --steps asks, else 1", auto_or_count, metavar="N"
    )


@dataclass(frozen=True)
class NetworkOptions:
    """The network; ``options`` is all that ``build_network`` gets beside channels and classes, width included."""

    name: str = option(
        "unet",
        f"NAME or NAME(option=value,…), such as hrnet(stem_stride=4,norm=group), of: {', '.join(NETWORKS)}",
        name_with_params(NETWORKS),
        flag="network",
        metavar="SPEC",
    )
    options: dict[str, Any] = option({}, "options of the network", flag="network_options", python_only=True)
    width: int | None = option(
        None, "channels of the first level; else as published", whole_number(1, MAX_WIDTH), metavar="CHANNELS"
    )
    pretrained: str | None = option(None, "weights of a ResNet encoder: imagenet, or a file", metavar="FILE")
    sync_batchnorm: bool = option(False, "batch norm over the images of all processes (GPUs only)")
    head_bias: str = option(
        "shares",
        "start scores at the classes' fractions in the labels, or at one half",
        choices=("shares", "zero"),
        python_only=True,
    )


@dataclass(frozen=True)
class LossOptions:
    """The loss, what is known of the labels' noise, and what is made of that; ``method_options`` are those of
    ``method``."""

    spec: str | None = option(
        None,
        f"loss or weighted sum such as bce+0.5*dice, of: {', '.join(LOSSES)}; bce for binary labels, else ce",
        flag="loss",
        metavar="SPEC",
    )
    method: str = option(
        "supervised",
        f"how wrong labels are dealt with, NAME or NAME(option=value,…), of: {', '.join(METHODS)}",
        name_with_params(METHODS),
        metavar="SPEC",
    )
    method_options: dict[str, Any] = option({}, "options of the method", python_only=True)
    class_weights: tuple[str, ...] = option((), "a weight per class, or 'frequency'", nargs="+", metavar="W")
    transition_matrix: str | None = option(
        None, "JSON file with the noise of the labels, as audit_labels.py writes it", metavar="FILE"
    )
    audit: bool = option(True, "audit the labels before training on them")
    pred_invert: str = option(
        "auto", "whether scores are inverted, for labels flipped by more than half", choices=("auto", "on", "off")
    )


@dataclass(frozen=True)
class OptimizationOptions:
    """Steps, their size and their arithmetic."""

    steps: int | None = option(
        None,
        "optimizer steps in all, in epochs of equal length; those of a preset give way to --epochs or --repeat",
        positive_int,
        metavar="N",
    )
    epochs: int = option(100, "epochs in all", whole_number(1, MAX_EPOCHS), metavar="N", may_change=True)
    batch_size: int = option(32, "images a step, over all processes", whole_number(1, MAX_BATCH), metavar="N")
    accumulate: int = option(1, "parts that a batch is computed in, to save memory", positive_int, metavar="N")
    optimizer: str = option(
        "sgd",
        f"NAME or NAME(momentum=…,weight_decay=…,clip_grad=…), of: {', '.join(OPTIMIZERS)}",
        name_with_params(OPTIMIZERS),
        metavar="SPEC",
    )
    momentum: float = option(0.9, "momentum of SGD; of the Adams, their first beta", below_one, inside="optimizer")
    weight_decay: float = option(0.0, "weight decay", non_negative_float, inside="optimizer")
    clip_grad: float | None = option(None, "largest norm of the gradient", positive_float, inside="optimizer")
    lr: float = option(0.05, "highest learning rate", up_to(MAX_RATE), metavar="RATE")
    schedule: str = option(
        "constant",
        f"course of the learning rate, NAME or NAME(warmup_epochs=…), of: {', '.join(SCHEDULES)}",
        name_with_params(SCHEDULES),
        metavar="SPEC",
    )
    warmup_epochs: float = option(0.0, "epochs of linear warm-up", non_negative_float, inside="schedule")
    step_epochs: int = option(
        20, "epochs between steps of the step schedule", positive_int, metavar="E", needs="schedule=step"
    )
    step_gamma: float = option(0.1, "factor of the step schedule", up_to(1), metavar="FACTOR", needs="schedule=step")
    ema: float = option(
        0.0, "predict with the moving average of the weights, of this decay; 0: the latest", below_one, metavar="DECAY"
    )
    precision: str = option(
        "auto",
        "arithmetic of the forward pass; auto: bf16 or fp16 where the device has it, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: bool = option(False, "compile the network: slow first steps, then faster ones")


@dataclass(frozen=True)
class RunOptions:
    """One run: its preset, name, length and records."""

    preset: str = option(
        "auto", "recipe: paper, quick (a laptop's CPU), auto (paper with an accelerator)", choices=("auto", *PRESETS)
    )
    recipe: str | None = option(
        None,
        "auto: decide repair, loss and length by clean labels; plain: do not (default: auto with --clean_list)",
        choices=("auto", "plain"),
    )
    left_to_recipe: tuple[str, ...] = option((), "what the recipe decides", python_only=True, is_copied=False)
    config: str | None = option(
        None, "config.json of a run to repeat; options given besides win", metavar="FILE", is_copied=False
    )
    run_name: str | None = option(None, "name of the run's folder below train_log/NAME", metavar="RUN", is_copied=False)
    within: str | None = option(None, "folder below train_log/NAME that it lies in", python_only=True, is_copied=False)
    resume: str | None = option(
        None,
        "go on with a run: a path or <dataset>/<run>; auto: that of --run_name, else start it",
        metavar="RUN",
        is_copied=False,
    )
    init_from: str | None = option(
        None, "start from the best weights of another run: a path or <dataset>/<run>", metavar="RUN", is_copied=False
    )
    stop_after: int | None = option(
        None, "end cleanly after this epoch of --epochs", positive_int, metavar="N", may_change=True, is_copied=False
    )
    seed: int = option(0, "seed of everything random", seed_number, metavar="S")
    checkpoint_every: int = option(
        10, "epochs between numbered checkpoints, which paper writes from epoch 80 on", positive_int, metavar="N"
    )
    checkpoint_from: int = option(0, "first epoch with a numbered checkpoint", python_only=True)
    tensorboard: bool = option(True, "write TensorBoard files")


@dataclass(frozen=True)
class MachineOptions:
    """What the machine does, without an effect on the result."""

    device: str = option(
        "auto", "where to train", choices=("auto", "cpu", "cuda", "mps"), may_change=True, is_copied=False
    )
    workers: int | None = option(
        None,
        "processes that read images (default: 0 where these are cached, else by the number of processors)",
        non_negative_int,
        metavar="N",
        may_change=True,
        is_copied=False,
    )
    threads: int | str = option(
        "auto",
        "threads to compute in; auto: as many as processors are free; OMP_NUM_THREADS wins",
        auto_or_count,
        metavar="N",
        is_copied=False,
    )
    cache: str = option(
        "auto",
        "keep decoded images on the GPU or in memory; auto: where they fit",
        choices=("auto", "gpu", "ram", "none"),
        may_change=True,
        is_copied=False,
    )
    profile: bool = option(
        False, "trace a few steps into the run's profile.json, for ui.perfetto.dev", python_only=True, is_copied=False
    )
