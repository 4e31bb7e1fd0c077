"""Every network through a whole run on a CPU, and the options that only some networks have."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from datasets.image_io import read_image, read_label, write_label
from evaluation.prediction import load_network
from models import NETWORKS
from training.fit import configure, fit
from training.options import parse_given
from utils.cli import UserError
from utils.files import read_json, read_jsonl

SMALL = [
    "--dataset",
    "disks",
    "--preset",
    "quick",
    "--width",
    "8",
    "--crop",
    "64",
    "--batch_size",
    "2",
    "--device",
    "cpu",
    "--no_tensorboard",
    "--run_name",
    "small",
]


def run(root: Path, *arguments: object) -> Path:
    """What ``python main.py`` does with these arguments, small settings before them."""
    return fit(configure(parse_given([*SMALL, *map(str, arguments)]), root), root)


@pytest.fixture
def three_classes(disks: Path) -> Path:
    """The small data set with its foreground split in two classes by brightness."""
    for path in (disks / "datasets" / "disks").glob("*/labels/*.png"):
        label = read_label(path)
        label[(label == 1) & (read_image(path.parents[1] / "images" / path.name) > 165)] = 2
        write_label(path, label, num_classes=3)
    return disks


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_learns_to_see_bright_disks(network: str, disks: Path):
    folder = run(disks, "--network", network, "--epochs", 6)
    records = read_jsonl(folder / "metrics.jsonl")
    assert len(records) == 6 and records[-1]["train/loss"] < records[0]["train/loss"]
    assert max(record["val/auc"] for record in records) > 0.75


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_trains_on_three_classes(network: str, three_classes: Path):
    folder = run(three_classes, "--network", network, "--num_classes", 3, "--epochs", 1)
    [record] = read_jsonl(folder / "metrics.jsonl")
    assert math.isfinite(record["train/loss"]) and {f"val/iou_class_{k}" for k in range(3)} <= set(record)
    loaded, checkpoint, epoch = load_network(folder)
    assert checkpoint["threshold"] is None and epoch == 1
    assert loaded(torch.randn(1, 1, 33, 47)).shape == (1, 3, 33, 47)


def test_activation_checkpointing_changes_nothing_but_memory(disks: Path):
    plain, saving = (
        run(disks, "--network", network, "--epochs", 2) for network in ("unet", "unet(activation_checkpointing=true)")
    )
    assert read_json(saving / "config.json")["network_options"]["activation_checkpointing"] is True
    one, other = (load_network(folder, "last")[0].state_dict() for folder in (plain, saving))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_from_a_file_are_where_training_starts(disks: Path, tmp_path: Path):
    file = tmp_path / "resnet18.pth"
    weights = resnet18().state_dict()
    torch.save(weights, file)
    without_width = [value for value in SMALL if value not in ("--width", "8")]
    arguments = [*without_width, "--network", "unet_resnet18", "--pretrained", file, "--epochs", 1, "--lr", 1e-12]
    folder = fit(configure(parse_given(list(map(str, arguments))), disks), disks)
    file.unlink()  # a trained run needs it no longer
    trained = load_network(folder)[0].encoder.state_dict()
    torch.testing.assert_close(trained["stem.conv1.weight"], weights["conv1.weight"].sum(1, keepdim=True))
    torch.testing.assert_close(trained["layers.3.1.conv2.weight"], weights["layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "unet", "--pretrained", "weights.pth"], "network 'unet' has no option pretrained"),
        (["--network", "unet_resnet18", "--pretrained", "no.pth"], "leave out --width and norm=group, or --pretrained"),
        (["--network", "hrnet(output_stride=8)"], "network 'hrnet' has no option output_stride"),
    ],
)
def test_an_option_that_the_network_does_not_have_is_named(arguments: list[str], message: str, disks: Path):
    with pytest.raises(UserError, match=message):
        run(disks, *arguments)
    assert not (disks / "train_log").exists()
