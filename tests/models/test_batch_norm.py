"""Statistics of batch norm counted anew: known means, unchanged weights, runs that predict what they have learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from models import build_network
from models.blocks import MAX_BATCHES, batch_norms, re_estimate_statistics
from training.fit import configure, fit
from utils.checkpoint import load_checkpoint
from utils.files import read_jsonl

CPU = torch.device("cpu")


def batches(count: int, mean: float = 3.0, deviation: float = 0.01) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": mean + deviation * torch.randn(4, 1, 32, 32, generator=generator)} for _ in range(count)]


def test_statistics_are_the_means_over_the_batches():
    network = nn.Sequential(nn.BatchNorm2d(1)).eval()
    shown = batches(5)
    re_estimate_statistics([network], shown, device=CPU)
    images = [batch["image"] for batch in shown]
    norm = network[0]
    assert norm.running_mean.item() == pytest.approx(torch.stack([image.mean() for image in images]).mean().item())
    assert norm.running_var.item() == pytest.approx(torch.stack([image.var() for image in images]).mean().item())
    assert not network.training and norm.momentum == 0.1 and norm.num_batches_tracked == 0


def test_only_so_many_batches_are_looked_at():
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield batches(1)[0]

    re_estimate_statistics([nn.BatchNorm2d(1)], endless(), device=CPU)
    assert len(drawn) == MAX_BATCHES


@pytest.mark.parametrize("name", ["unet", "hrnet", "deeplabv3plus", "unet_resnet18"])
def test_nothing_but_the_statistics_changes(name):
    network = build_network(name)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    re_estimate_statistics([network], batches(2), device=CPU)
    after = network.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if "running_" in key} and network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_without_batch_norm_is_left_alone():
    network = build_network("unet", width=4, norm="group")
    assert not batch_norms(network)
    re_estimate_statistics([network], iter(()), device=CPU)


def run(root: Path, **given) -> Path:
    small = {"preset": "quick", "width": 4, "crop": 32, "batch_size": 4, "device": "cpu", "tensorboard": False}
    return fit(configure({"dataset": "disks", **small, "epochs": 4, "repeat": 4, **given}, root), root)


def test_images_of_small_variance_are_predicted_as_well_as_they_are_learned(disks):
    """8-bit pixels as fractions of 65,535: the initial variance of 1 is ten thousand times what the network sees."""
    import cv2

    for path in (disks / "datasets").rglob("images/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype("uint16"))
    record = read_jsonl(run(disks, normalization="unit") / "metrics.jsonl")[-1]
    assert record["val/auc"] > 0.9


def test_a_resumed_run_has_the_same_statistics(disks):
    extra = {"ema": 0.9, "workers": 1, "cache": "none"}
    whole = run(disks, run_name="whole", **extra)
    part = run(disks, run_name="part", stop_after=2, **extra)
    fit(configure({"resume": str(part)}, disks), disks)
    one, other = (load_checkpoint(folder / "checkpoints" / "last.pth")["model"] for folder in (whole, part))
    assert all(torch.equal(one[name], other[name]) for name in one)
