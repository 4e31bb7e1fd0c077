"""Where decoded images are kept, and that a run does not depend on it."""

from __future__ import annotations

import pytest
import torch

from training import data
from training.configuration.resolve import resolve_options
from training.data import choose_cache, decoded_bytes, run_steps
from training.fit import configure, fit
from training.options import OPTIONS
from utils.checkpoint import load_checkpoint
from utils.cli import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SMALL = {
    "dataset": "disks",
    "preset": "quick",
    "width": 4,
    "crop": 32,
    "batch_size": 3,
    "epochs": 2,
    "device": "cpu",
    "tensorboard": False,
    "audit": False,
}


@pytest.mark.parametrize(
    ("on_gpu", "in_ram", "copies", "expected"),
    [(1000, 1000, 1, "gpu"), (100, 1000, 1, "ram"), (100, 1000, 20, "none"), (100, 100, 1, "none")],
)
def test_auto_takes_the_fastest_place_with_room(monkeypatch, on_gpu, in_ram, copies, expected):
    monkeypatch.setattr(data, "free_memory", lambda device: on_gpu if device.type == "cuda" else in_ram)
    assert choose_cache("auto", 100, GPU, copies) == expected
    assert choose_cache("auto", 100, CPU, copies) == expected.replace("gpu", "ram")


def test_labels_that_change_are_left_to_worker_processes_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(data, "free_memory", lambda device: 1000)
    assert [choose_cache("auto", 100, device, labels_change=True) for device in (GPU, CPU)] == ["none", "ram"]


def test_a_named_place_is_taken_at_its_word():
    names = [name for name in OPTIONS["cache"].choices if name != "auto"]
    assert [choose_cache(name, 10**18, GPU) for name in names] == names
    with pytest.raises(UserError, match="--cache gpu .* cpu: use --cache ram"):
        choose_cache("gpu", 1, CPU)


def test_bytes_count_images_and_labels():
    assert decoded_bytes([(10, 20), (5, 5)], 3) == 225 * (3 * 4 + 1)


@pytest.mark.parametrize(
    ("given", "images", "steps"),
    [
        ({"preset": "quick"}, 8, 500),
        ({"preset": "paper"}, 157, 100 * 5),  # the last, smaller batch of an epoch is kept
        ({"preset": "paper", "epochs": 3, "repeat": 2, "batch_size": 4}, 9, 3 * 5),
    ],
)
def test_the_length_of_a_run_is_known_before_it(given, images, steps):
    assert run_steps(resolve_options(given, has_accelerator=False), images) == steps


@pytest.mark.parametrize(
    "extra",
    [{}, {"label_noise": "flip:0.3", "label_noise_refresh": "epoch"}, {"igtt": True}, {"augment": ("rotate",)}],
    ids=["labels", "fresh noise", "no labels", "stronger augmentation"],
)
def test_a_run_with_its_data_on_the_device_learns_the_same(disks, monkeypatch, extra):
    folders = [fit(configure({**SMALL, **extra, "cache": "none", "workers": 0, "run_name": "files"}, disks), disks)]
    monkeypatch.setattr(data, "choose_cache", lambda *given, **more: "gpu")
    folders.append(fit(configure({**SMALL, **extra, "run_name": "device"}, disks), disks))
    files, device = (load_checkpoint(folder / "checkpoints" / "last.pth") for folder in folders)
    assert all(torch.equal(value, device["model"][name]) for name, value in files["model"].items())
    assert files["threshold"] == device["threshold"]
