"""What a training run can be told: every option, its help, presets and recipes.

No torch import, so that ``main.py --help`` answers at once; the names listed here are tested equal to the registries.
How options come together is in ``training/resolve.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from utils.cli import CommandParser, channel_list, positive_fraction, whole_number

NETWORK_NAMES = ("unet", "lightunet", "deeplabv3plus", "hrnet", "unet_resnet18", "unet_resnet34", "unet_resnet50")
BACKBONE_NAMES = ("resnet50", "resnet101")
LOSS_NAMES = (
    "bce",
    "ce",
    "dice",
    "iou",
    "tversky",
    "focal",
    "boundary",
    "cldice",
    "dmi",
    "forward",
    "backward",
    "gce",
    "mae",
    "sce",
    "nce",
    "rce",
    "nr_dice",
    "tloss",
)
OPTIMIZER_NAMES = ("sgd", "adam", "adamw")
SCHEDULE_NAMES = ("constant", "step", "cosine", "poly", "one_cycle")
NORMALIZATION_NAMES = ("zscore", "unit", "local")
AUGMENTATION_NAMES = ("rotate", "scale", "elastic", "brightness", "contrast", "blur", "noise")
CACHE_NAMES = ("auto", "gpu", "ram", "none")
PRESET_NAMES = ("auto", "paper", "quick")
INITIAL_LABEL_NAMES = (
    "black",
    "random",
    "otsu",
    "local_threshold",
    "local_contrast",
    "kmeans",
    "gaussian_mixture",
    "chan_vese",
    "ridge",
    "random_walker",
    "vote",
)
CRITERION_NAMES = ("dmi", "bce")
FOREGROUND_NAMES = ("bright", "dark", "minority", "auto")
MAX_SEED = 2**63 - 1  # that torch takes
EMS = "skeleton+shift:1+sample:0.1"  # extraction of the meta-structure, tested equal to label_noise.EMS_SPEC

PAPER_PRESET = {
    "epochs": 100,
    "batch_size": 32,
    "crop": 256,
    "optimizer": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 1e-3,
    "schedule": "step",
    "step_epochs": 20,
    "step_gamma": 0.1,
    "init": "normal",
    "head_bias": "zero",
    "checkpoint_every": 2,
    "checkpoint_from": 80,
}
QUICK_PRESET = {
    "epochs": 20,
    "batch_size": 16,
    "crop": 128,
    "width": 16,
    "optimizer": "adamw",
    "lr": 3e-3,
    "weight_decay": 1e-4,
    "schedule": "one_cycle",
    "init": "kaiming",
    "checkpoint_every": 5,
}
PRESETS: dict[str, dict[str, Any]] = {"paper": PAPER_PRESET, "quick": QUICK_PRESET}
# At the image's full resolution HRNet needs twenty times the U-Net's arithmetic, at a quarter of it as much.
PRESETS_BY_NETWORK: dict[tuple[str, str], dict[str, Any]] = {("quick", "hrnet"): {"stem_stride": 4}}

PUBLISHED_RECIPE = {
    "igtt_init": "black",
    "igtt_ems": EMS,
    "igtt_criterion": "dmi",
    "foreground": "minority",
    "loss": "dmi+iou",
}
BEST_RECIPE = {
    "igtt_init": "vote",
    "igtt_ems": "clean",
    "igtt_criterion": "bce",
    "igtt_warmup": 0.5,
    "foreground": "auto",
    "loss": "bce",
    "ema": 0.99,
    "normalization": "local",
}
RECIPES: dict[str, dict[str, Any]] = {"best": BEST_RECIPE, "published": PUBLISHED_RECIPE}


@dataclass(frozen=True)
class DataOptions:
    """Which images and labels are read, and how."""

    dataset: str = "er"
    train_list: str | None = None
    val_list: str | None = None
    val_labels: str = "clean"
    data_root: str | None = None
    real_only: bool = False
    fold: str | None = None
    num_classes: int = 1
    in_channels: int = 1
    channels: tuple[str, ...] = ()
    ignore_index: int | None = None
    label_map: str | None = None
    normalization: str = "zscore"


@dataclass(frozen=True)
class NoiseOptions:
    """Noise put on clean labels."""

    label_noise: str | None = None
    label_noise_refresh: str = "fixed"
    noise_seed: int | None = None
    unlabelled: str = "background"


@dataclass(frozen=True)
class LabelFreeOptions:
    """Training from images alone."""

    igtt: bool = False
    igtt_init: str = "black"
    igtt_recipe: str | None = None
    igtt_warmup: float = 0.0
    igtt_ems: str = EMS
    igtt_criterion: str = "dmi"
    foreground: str = "minority"


@dataclass(frozen=True)
class AugmentationOptions:
    """Windows of the images and how they are varied."""

    crop: int = 256
    flips: bool = True
    augment: tuple[str, ...] = ()
    repeat: int | str = "auto"


@dataclass(frozen=True)
class NetworkOptions:
    """The network and its first weights."""

    name: str = field(default="unet", metadata={"flag": "network"})
    width: int | None = None
    norm: str | None = None
    sync_batchnorm: bool = False
    init: str | None = None
    head_bias: str = "shares"
    backbone: str | None = None
    output_stride: int | None = None
    stem_stride: int | None = None
    pretrained: str | None = None
    activation_checkpointing: bool | None = None


@dataclass(frozen=True)
class LossOptions:
    """The loss, and what is known of the labels' noise."""

    spec: str | None = field(default=None, metadata={"flag": "loss"})
    class_weights: tuple[str, ...] = ()
    transition_matrix: str | None = None
    audit: bool = True
    pred_invert: str = "auto"


@dataclass(frozen=True)
class OptimizationOptions:
    """Steps, their size and their arithmetic."""

    steps: int | None = None
    epochs: int = 100
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    step_epochs: int = 20
    step_gamma: float = 0.1
    clip_grad: float | None = None
    ema: float = 0.0
    precision: str = "auto"
    channels_last: bool = True
    compile: bool = False


@dataclass(frozen=True)
class RunOptions:
    """One run: its preset, name, length and records."""

    preset: str = "auto"
    run_name: str | None = None
    resume: str | None = None
    stop_after: int | None = None
    seed: int = 0
    checkpoint_every: int = 10
    checkpoint_from: int = 0
    tensorboard: bool = True


@dataclass(frozen=True)
class MachineOptions:
    """What the machine does, without an effect on the result."""

    device: str = "auto"
    workers: int | None = None
    cache: str = "auto"
    profile: bool = False


@dataclass(frozen=True)
class TrainingOptions:
    """Every option of a run, in groups; ``resolve_options`` fills what depends on preset and machine.

    On the command line, in config.json and in ``configure`` options are flat: ``lr``, not ``optimization.lr``.
    """

    data: DataOptions = DataOptions()
    noise: NoiseOptions = NoiseOptions()
    label_free: LabelFreeOptions = LabelFreeOptions()
    augmentation: AugmentationOptions = AugmentationOptions()
    network: NetworkOptions = NetworkOptions()
    loss: LossOptions = LossOptions()
    optimization: OptimizationOptions = OptimizationOptions()
    run: RunOptions = RunOptions()
    machine: MachineOptions = MachineOptions()

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> TrainingOptions:
        """Options by their flat names, defaults for all others.

        Raises:
            TypeError: a name that no option has.
        """
        return cls().replace(**values)

    def replace(self, **values: Any) -> TrainingOptions:
        """The same options but for these, by their flat names."""
        changed: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in PLACES:
                raise TypeError(f"there is no option {name!r}")
            group, key = PLACES[name]
            changed.setdefault(group, {})[key] = value
        return replace(self, **{group: replace(getattr(self, group), **own) for group, own in changed.items()})

    def flat(self) -> dict[str, Any]:
        """Flat name → value."""
        return {name: getattr(getattr(self, group), key) for name, (group, key) in PLACES.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values by flat name, for config.json and checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.flat().items()}


# The flat name of an option → its group and its name there.
PLACES = {
    own.metadata.get("flag", own.name): (group.name, own.name)
    for group in fields(TrainingOptions)
    for own in fields(group.default)
}
DEFAULTS = TrainingOptions().flat()


class _Group:
    """An argparse group whose options appear in the result only when given, with the default named in the help."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        self.group = parser.add_argument_group(title)

    def add(self, flag: str, help: str, **kwargs: Any) -> None:
        name = kwargs.get("dest") or flag.lstrip("-")
        shown = DEFAULTS[name]
        by_preset = [f"{preset}: {values[name]}" for preset, values in PRESETS.items() if name in values]
        is_plain = shown not in (None, ()) and not isinstance(shown, bool)
        note = ", ".join(by_preset) or (f"default: {shown}" if is_plain else "")
        self.group.add_argument(flag, help=f"{help} ({note})" if note else help, default=argparse.SUPPRESS, **kwargs)


positive_int, non_negative_int, seed_number = whole_number(1), whole_number(), whole_number(0, MAX_SEED)


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0")
    return value


def non_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a finite number of at least 0")
    return value


def decay(text: str) -> float:
    """A number from 0 to below 1."""
    value = non_negative_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be below 1")
    return value


def fold(text: str) -> str:
    """``k/K`` with 1 ≤ k ≤ K and K ≥ 2."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts) and int(parts) >= 2):
        raise argparse.ArgumentTypeError(f"{text!r} must be k/K with k from 1 to K and K at least 2, e.g. 1/5")
    return text


def repeat_count(text: str) -> int | str:
    """A whole number of at least 1, or ``auto``."""
    return text if text == "auto" else positive_int(text)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    data = _Group(parser, "data")
    data.add("--dataset", "name of the data set: datasets/NAME and txt/NAME", metavar="NAME")
    data.add("--train_list", "list of training images and labels (default: train_noisyLabel.txt)", metavar="LIST")
    data.add("--val_list", "list of validation images and labels (default: val.txt)", metavar="LIST")
    data.add("--val_labels", "whether the validation labels can be trusted", choices=("clean", "noisy"))
    data.add("--data_root", "folder that relative paths in lists start from (default: $SEG_ROOT)", metavar="DIR")
    data.add("--real_only", "never replace missing images by simulated ones", action="store_true")
    data.add("--fold", "k/K: leave out part k of K of the training list, k from 1", type=fold, metavar="k/K")
    data.add("--num_classes", "1 for binary labels, else the number of classes", type=positive_int, metavar="K")
    data.add("--in_channels", "channels of an image: 1 reads as grey, 3 as RGB", type=positive_int, metavar="N")
    data.add("--channels", "channels to read, by number or OME name: 0,2", type=channel_list, metavar="C,…")
    data.add("--ignore_index", "label value that is ignored", type=non_negative_int, metavar="V")
    data.add("--label_map", 'what label values or colours mean: "1:0,2:1,-1:ignore"', metavar="V:CLASS,…")
    data.add("--normalization", "how pixels are scaled, image by image", choices=NORMALIZATION_NAMES)


def _add_noise_options(parser: argparse.ArgumentParser) -> None:
    noise = _Group(parser, "label noise")
    noise.add("--label_noise", "noise put on the clean labels, e.g. flip:0.3 or skeleton+shift:1", metavar="SPEC")
    noise.add("--label_noise_refresh", "draw the noise once or every epoch anew", choices=("fixed", "epoch"))
    noise.add("--noise_seed", "seed of the noise (default: --seed)", type=seed_number, metavar="S")
    noise.add("--unlabelled", "what sampling drops becomes", choices=("background", "ignore"))


def _add_label_free_options(parser: argparse.ArgumentParser) -> None:
    free = _Group(parser, "training without labels")
    free.add("--igtt", "train from images alone, by iterative ground-truth training", action="store_true")
    free.add("--igtt_init", "first labels; black: those of the random network", choices=INITIAL_LABEL_NAMES)
    free.add(
        "--igtt_recipe",
        "set all of these options at once; those given besides still count (default: best)",
        choices=tuple(RECIPES),
    )
    free.add(
        "--igtt_warmup",
        "share of the epochs before labels are first refreshed",
        type=positive_fraction,
        metavar="SHARE",
    )
    free.add("--igtt_ems", "noise spec that turns masks into labels; clean: the masks themselves", metavar="SPEC")
    free.add("--igtt_criterion", "which mask of a score map becomes the label", choices=CRITERION_NAMES)
    free.add("--foreground", "what tells structure from background", choices=FOREGROUND_NAMES)


def _add_augmentation_options(parser: argparse.ArgumentParser) -> None:
    augmentation = _Group(parser, "augmentation")
    augmentation.add("--crop", "side of the training window in pixels", type=positive_int, metavar="PIXELS")
    augmentation.add("--no_flips", "leave out flips and quarter turns", action="store_false", dest="flips")
    augmentation.add(
        "--augment",
        f"stronger augmentation, NAME[:STRENGTH] of: {', '.join(AUGMENTATION_NAMES)}",
        nargs="*",
        metavar="NAME",
    )
    augmentation.add(
        "--repeat", "draws of every image in an epoch; auto: as --steps asks, else 1", type=repeat_count, metavar="N"
    )


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    network = _Group(parser, "network and loss")
    network.add("--network", "network", choices=NETWORK_NAMES)
    network.add("--width", "channels of the first level", type=positive_int, metavar="CHANNELS")
    network.add("--norm", "normalization layers", choices=("batch", "group"))
    network.add("--sync_batchnorm", "batch norm over the images of all processes (GPUs only)", action="store_true")
    network.add("--init", "initialization of the weights", choices=("normal", "kaiming", "xavier"))
    network.add(
        "--head_bias", "start scores at the classes' shares in the labels, or at one half", choices=("shares", "zero")
    )
    network.add("--backbone", "encoder of deeplabv3plus", choices=BACKBONE_NAMES)
    network.add("--output_stride", "resolution of deeplabv3plus's encoder", type=int, choices=(8, 16))
    network.add(
        "--stem_stride",
        "how much smaller than the image hrnet computes (paper: 1, quick: 4)",
        type=int,
        choices=(1, 2, 4),
    )
    network.add("--pretrained", "weights of a ResNet encoder: imagenet, or a file", metavar="FILE")
    network.add("--activation_checkpointing", "compute activations twice to save memory", action="store_true")
    network.add(
        "--loss",
        f"loss or weighted sum such as bce+0.5*dice, of: {', '.join(LOSS_NAMES)}"
        " (default: bce for binary labels, else ce)",
        metavar="SPEC",
    )
    network.add("--class_weights", "a weight per class, or 'frequency'", nargs="+", metavar="W")
    network.add(
        "--transition_matrix", "JSON file with the noise of the labels, as audit_labels.py writes it", metavar="FILE"
    )
    network.add("--no_audit", "train without auditing the labels first", action="store_false", dest="audit")
    network.add(
        "--pred_invert",
        "whether scores are inverted, for labels flipped by more than half",
        choices=("auto", "on", "off"),
    )


def _add_optimization_options(parser: argparse.ArgumentParser) -> None:
    steps = _Group(parser, "optimization")
    steps.add(
        "--steps",
        "optimizer steps in all, in epochs of equal length; --epochs or --repeat alone count in place of a preset's",
        type=positive_int,
        metavar="N",
    )
    steps.add("--epochs", "epochs in all", type=positive_int, metavar="N")
    steps.add("--batch_size", "images a step, over all processes", type=positive_int, metavar="N")
    steps.add("--accumulate", "parts that a batch is computed in, to save memory", type=positive_int, metavar="N")
    steps.add("--optimizer", "optimizer", choices=OPTIMIZER_NAMES)
    steps.add("--lr", "highest learning rate", type=positive_float, metavar="RATE")
    steps.add("--momentum", "momentum of SGD", type=non_negative_float)
    steps.add("--weight_decay", "weight decay", type=non_negative_float)
    steps.add("--schedule", "course of the learning rate", choices=SCHEDULE_NAMES)
    steps.add("--warmup_epochs", "epochs of linear warm-up", type=non_negative_float, metavar="E")
    steps.add("--step_epochs", "epochs between steps of the step schedule", type=positive_int, metavar="E")
    steps.add("--step_gamma", "factor of the step schedule", type=positive_float, metavar="FACTOR")
    steps.add("--clip_grad", "largest norm of the gradient", type=positive_float, metavar="NORM")
    steps.add(
        "--ema",
        "predict with the moving average of the weights over steps, of this decay; 0: with the latest",
        type=decay,
        metavar="DECAY",
    )
    steps.add(
        "--precision",
        "arithmetic of the forward pass; auto: bf16 or fp16 where the device has it, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    steps.add(
        "--channels_last", "store activations with channels last (default: yes)", action=argparse.BooleanOptionalAction
    )
    steps.add("--compile", "compile the network: slow first steps, then faster ones", action="store_true")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    run = _Group(parser, "run")
    run.add("--preset", "recipe: paper, quick (a laptop's CPU), auto (paper with an accelerator)", choices=PRESET_NAMES)
    run.add("--run_name", "name of the run's folder below train_log/NAME", metavar="RUN")
    run.add(
        "--resume",
        "go on with a run: a path or <dataset>/<run>; auto: that of --run_name, else start it",
        metavar="RUN",
    )
    run.add("--stop_after", "end cleanly after this epoch of --epochs", type=positive_int, metavar="N")
    run.add("--seed", "seed of everything random", type=seed_number, metavar="S")
    run.add("--checkpoint_every", "epochs between numbered checkpoints", type=positive_int, metavar="N")
    run.add("--checkpoint_from", "first epoch with a numbered checkpoint", type=non_negative_int, metavar="N")
    run.add("--no_tensorboard", "write no TensorBoard files", action="store_false", dest="tensorboard")

    machine = _Group(parser, "machine")
    machine.add("--device", "where to train", choices=("auto", "cpu", "cuda", "mps"))
    machine.add(
        "--workers",
        "processes that read images not on the GPU (default: 0 when cached)",
        type=non_negative_int,
        metavar="N",
    )
    machine.add("--cache", "keep decoded images on the GPU or in memory; auto: where they fit", choices=CACHE_NAMES)
    machine.add("--profile", "trace a few steps into the run's profile.json, for ui.perfetto.dev", action="store_true")


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``main.py``; its result holds given options only."""
    parser = CommandParser(
        prog="main.py",
        formatter_class=argparse.HelpFormatter,
        description="Train a segmentation network on noisy, sparse or clean labels.",
    )
    for add_group in (
        _add_data_options,
        _add_noise_options,
        _add_label_free_options,
        _add_augmentation_options,
        _add_network_options,
        _add_optimization_options,
        _add_run_options,
    ):
        add_group(parser)
    return parser


def parse_given(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse a command line into the options that were given, by name."""
    given = vars(make_parser().parse_args(arguments))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
