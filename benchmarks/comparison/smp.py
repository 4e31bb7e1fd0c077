"""Our networks beside those of segmentation_models.pytorch: same data, split, budget, schedule and training loop.

Every network is trained from scratch with every seed, all networks in turn, so that speeds are comparable although the
machine may be shared; seconds of processor time, which other jobs change less, are recorded beside those of the clock.
SEG_TEST_DATA is the folder of real images, see CONTRIBUTING.md.

    pip install -r requirements-dev.txt
    python datasets/make_lists.py --dataset nuc_3class --source $SEG_TEST_DATA/nuc --labels labels_3class
    python benchmarks/comparison/smp.py
    python benchmarks/comparison/smp.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import UNVARIED, part_of_list
from utils.cli import UserError, run_command
from utils.run_folder import REPO_ROOT

if TYPE_CHECKING:
    from torch import nn

    from training.data import TrainingData
    from training.options import TrainingOptions

NETWORKS = ("unet_resnet34", "smp Unet resnet34", "deeplabv3plus", "smp DeepLabV3Plus resnet50")
SETTINGS = {
    "dataset": "nuc_3class",
    "num_classes": 3,
    "train_images": 96,
    "test_images": 32,
    "crop": 96,
    "batch_size": 8,
    "epochs": 5,
    "lr": 1e-3,
}
COLUMNS = ("network", "parameters", "seeds", "mIoU, mean ± half range", "training images/s", "a second of one core")


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


def make_options(seed: int) -> TrainingOptions:
    """The training options that all networks share; the test images stand in the place of the validation list."""
    from training.fit import configure

    given = {name: value for name, value in SETTINGS.items() if not name.endswith("_images")}
    lists = {"train_list": ("train_gt", "train_images"), "val_list": ("test", "test_images")}
    for option, (name, count) in lists.items():
        given[option] = str(part_of_list(SETTINGS["dataset"], name, SETTINGS[count], "compare_smp"))
    return configure({**given, "preset": "quick", **UNVARIED, "seed": seed})


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


def run_trial(network: str, seed: int) -> dict[str, Any]:
    """Train one network with one seed."""
    import torch

    from training.data import load_data
    from training.run.lists import read_lists
    from utils.device import choose_device

    training = make_options(seed)
    data = load_data(
        training, read_lists(training, REPO_ROOT, print), torch.device(choose_device(training.machine.device))
    )
    found = train_network(make_networks(training.data.num_classes)[network], training, data)
    print(f"{network}  seed {seed}  mIoU {found['miou']:.4f}  {found['images_per_second']:.2f} images/s", flush=True)
    return {**found, "settings": SETTINGS}


def tables(records: list[Record]) -> Tables:
    """A row for every network."""
    rows = []
    for name in NETWORKS:
        found = [record for record in records if record["cell"]["network"] == name]
        if found:
            scores = [record["miou"] for record in found]
            core = [value for record in found if (value := record["images_per_core_second"]) is not None]
            rows.append(
                [
                    name,
                    f"{found[0]['parameters'] / 1e6:.1f} M",
                    str(len(found)),
                    f"{statistics.mean(scores):.3f} ± {(max(scores) - min(scores)) / 2:.3f}",
                    f"{statistics.median(record['images_per_second'] for record in found):.2f}",
                    f"{statistics.median(core):.2f}" if core else "–",
                ]
            )
    return {"smp": markdown(COLUMNS, rows)}


STUDY = Study(
    name="smp",
    cells=[{"network": network, "seed": seed} for seed in (0, 1, 2) for network in NETWORKS],
    trial=run_trial,
    seconds=120,
    tables=tables,
    page="docs/results/classes.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
