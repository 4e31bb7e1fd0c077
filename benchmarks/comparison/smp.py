"""Our networks beside those of segmentation_models.pytorch: same data, split, budget, schedule and training loop.

Every network is trained from scratch with every seed, all networks in turn, so that speeds are comparable although the
machine may be shared; seconds of processor time, which other jobs change less, are recorded beside those of the clock.
Finished trainings are kept in the output file and not repeated; ``--summarize`` makes the table.

    pip install -r requirements-dev.txt
    python datasets/make_lists.py --dataset nuc_3class --source ../shared/data/nuc --labels labels_3class
    python benchmarks/comparison/smp.py --dataset nuc_3class --num_classes 3
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from utils.cli import CommandParser, UserError, run_command
from utils.files import read_json, write_json
from utils.run_folder import REPO_ROOT, environment_record

if TYPE_CHECKING:
    from torch import nn

    from training.data import TrainingData
    from training.options import TrainingOptions

RESULTS = REPO_ROOT / "benchmarks" / "results" / "compare_smp.json"
PAIRS = (("unet_resnet34", "smp Unet resnet34"), ("deeplabv3plus", "smp DeepLabV3Plus resnet50"))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__.splitlines()[0], formatter_class=argparse.HelpFormatter)
    add = parser.add_argument
    add("--dataset", default="nuc_3class", metavar="NAME", help="data set with lists (default: nuc_3class)")
    add("--num_classes", type=int, default=3, metavar="K", help="classes (default: 3)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="seeds (default: 0 1 2)")
    add("--networks", nargs="+", choices=[name for pair in PAIRS for name in pair], help="networks (default: all)")
    add("--train_images", type=int, default=120, metavar="N", help="training images (default: 120)")
    add("--test_images", type=int, default=64, metavar="N", help="test images (default: 64)")
    add("--crop", type=int, default=128, metavar="PIXELS", help="side of the training window (default: 128)")
    add("--batch_size", type=int, default=16, metavar="N", help="images a step (default: 16)")
    add("--epochs", type=int, default=20, metavar="N", help="epochs (default: 20)")
    add("--lr", type=float, default=1e-3, metavar="RATE", help="highest learning rate of AdamW (default: 0.001)")
    add("--out", type=Path, default=RESULTS, metavar="FILE", help="where the results go")
    add("--summarize", action="store_true", help="no training: the table of what is finished")
    return parser.parse_args()


def make_networks(num_classes: int) -> dict[str, Callable[[], nn.Module]]:
    """Name → function that makes the network with fresh weights, one grey channel in, at its published width.

    Raises:
        UserError: segmentation_models.pytorch is not installed.
    """
    from models import build_network

    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise UserError("segmentation_models.pytorch is missing: pip install -r requirements-dev.txt") from None
    shared = {"encoder_weights": None, "in_channels": 1, "classes": num_classes}
    return {
        "unet_resnet34": lambda: build_network("unet_resnet34", 1, num_classes, init="kaiming"),
        "smp Unet resnet34": lambda: smp.Unet("resnet34", **shared),
        "deeplabv3plus": lambda: build_network("deeplabv3plus", 1, num_classes, init="kaiming"),
        "smp DeepLabV3Plus resnet50": lambda: smp.DeepLabV3Plus("resnet50", encoder_output_stride=16, **shared),
    }


def make_options(options: argparse.Namespace, seed: int) -> TrainingOptions:
    """The training options that all networks share; the test images stand in the place of the validation list."""
    from benchmarks.audit.noise_grid import shortened_list
    from training.fit import configure

    return configure(
        {
            "dataset": options.dataset,
            "num_classes": options.num_classes,
            "preset": "quick",
            "seed": seed,
            "train_list": str(shortened_list(options.dataset, "train_gt", options.train_images, "compare_smp")),
            "val_list": str(shortened_list(options.dataset, "test", options.test_images, "compare_smp")),
            "crop": options.crop,
            "batch_size": options.batch_size,
            "epochs": options.epochs,
            "lr": options.lr,
        }
    )


def train_network(make: Callable[[], nn.Module], training: TrainingOptions, data: TrainingData) -> dict[str, Any]:
    """Train one network for all epochs and score its last state; nothing is chosen on the test images."""
    import torch

    from evaluation.scores import class_iou, mean_iou
    from training.engine import train_one_epoch, validate
    from training.losses import SegmentationLoss
    from training.optimizers import build_optimizer, build_schedule
    from training.run.state import seed_everything
    from utils.device import choose_device, choose_precision

    device = torch.device(choose_device(training.machine.device))
    precision = choose_precision(training.optimization.precision, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seed_everything(training.run.seed, 0)
    network = make().to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(
        training.optimization.optimizer,
        network.parameters(),
        training.optimization.lr,
        weight_decay=training.optimization.weight_decay,
        momentum=training.optimization.momentum,
    )
    steps = len(data.train_batches)
    schedule = build_schedule(
        training.optimization.schedule,
        optimizer,
        total_steps=training.optimization.epochs * steps,
        steps_per_epoch=steps,
        warmup_steps=0,
        step_epochs=training.optimization.step_epochs,
        gamma=training.optimization.step_gamma,
    )
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    shared = {"device": device, "precision": precision, "channels_last": True}
    speeds, core_speeds = [], []
    for epoch in range(1, training.optimization.epochs + 1):
        seed_everything(training.run.seed, epoch)
        data.train_batches.set_epoch(epoch)
        loss = SegmentationLoss("ce", training.data.num_classes).to(device)
        started = time.process_time()
        figures = train_one_epoch(network, data.train_loader, loss, optimizer, schedule, scaler, **shared)
        core_speeds.append(len(data.train) * training.augmentation.repeat / (time.process_time() - started))
        speeds.append(figures.images_per_second)
    confusion = validate(network, data.val_loader, num_classes=training.data.num_classes, **shared)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {
        "miou": mean_iou(confusion),
        "class_iou": class_iou(confusion),
        "images_per_second": statistics.median(speeds),
        "images_per_core_second": statistics.median(core_speeds) if device.type == "cpu" else None,
        "last_loss": figures.loss,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "peak_gpu_gib": peak,
        "device": str(device),
        "precision": precision,
        "steps": training.optimization.epochs * steps,
    }


def run(options: argparse.Namespace) -> None:
    """Train what is not finished yet; the file is written after every training."""
    import torch

    from training.data import load_data
    from utils.device import choose_device

    makers = make_networks(options.num_classes)
    settings = {
        name: getattr(options, name)
        for name in ("dataset", "num_classes", "train_images", "test_images", "crop", "batch_size", "epochs", "lr")
    }
    content = read_json(options.out) if options.out.exists() else {"settings": settings, "trainings": []}
    if content["settings"] != settings:
        raise UserError(f"{options.out} holds trainings with other settings: {content['settings']}; give another --out")
    done = {(training["network"], training["seed"]) for training in content["trainings"]}
    for seed in options.seeds:
        training = make_options(options, seed)
        data = load_data(training, REPO_ROOT, torch.device(choose_device(training.machine.device)), print)
        for name in options.networks or makers:
            if (name, seed) in done:
                continue
            found = train_network(makers[name], training, data)
            speed = found["images_per_second"]
            print(f"{name}  seed {seed}  mIoU {found['miou']:.4f}  {speed:.2f} images/s", flush=True)
            content["trainings"].append({"network": name, "seed": seed, **found})
            content["environment"] = environment_record(found["device"])
            write_json(options.out, content)


def summarize(path: Path) -> str:
    """The table of what is finished; missing networks are named."""
    content = read_json(path)
    lines = [
        "| network | parameters | seeds | mIoU, mean ± half range | training images/s | a second of one core |",
        "|---|---|---|---|---|---|",
    ]
    missing = []
    for name in (name for pair in PAIRS for name in pair):
        found = [training for training in content["trainings"] if training["network"] == name]
        if not found:
            missing.append(name)
            continue
        scores = [training["miou"] for training in found]
        speed, core_speed = (
            [training[key] for training in found if training[key] is not None]
            for key in ("images_per_second", "images_per_core_second")
        )
        spread = (max(scores) - min(scores)) / 2
        lines.append(
            f"| {name} | {found[0]['parameters'] / 1e6:.1f} M | {len(found)} | "
            f"{statistics.mean(scores):.3f} ± {spread:.3f} | {statistics.median(speed):.2f} | "
            f"{f'{statistics.median(core_speed):.2f}' if core_speed else '–'} |"
        )
    return "\n".join([*lines, "", f"Missing: {', '.join(missing) or 'none'}."])


def main() -> None:
    """Train what is missing, then print the table."""
    options = parse_arguments()
    if not options.summarize:
        run(options)
    print(summarize(options.out))


if __name__ == "__main__":
    run_command(main)
