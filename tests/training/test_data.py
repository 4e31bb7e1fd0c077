"""Where decoded images are kept, and that a run does not depend on it."""

from __future__ import annotations

import pytest
import torch

from training import data
from training.data import choose_cache, decoded_bytes
from training.fit import configure, fit
from training.options import CACHE_NAMES
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


def test_a_named_place_is_taken_at_its_word():
    assert [choose_cache(name, 10**18, GPU) for name in CACHE_NAMES[1:]] == list(CACHE_NAMES[1:])
    with pytest.raises(UserError, match="--cache gpu .* cpu: use --cache ram"):
        choose_cache("gpu", 1, CPU)


def test_bytes_count_images_and_labels():
    assert decoded_bytes([(10, 20), (5, 5)], 3) == 225 * (3 * 4 + 1)


@pytest.mark.parametrize(
    "extra",
    [{}, {"label_noise": "flip:0.3", "label_noise_refresh": "epoch"}, {"igtt": True}, {"augment": ("rotate",)}],
    ids=["labels", "fresh noise", "no labels", "stronger augmentation"],
)
def test_a_run_with_its_data_on_the_device_learns_the_same(disks, monkeypatch, extra):
    folders = [fit(configure({**SMALL, **extra, "cache": "none", "workers": 0, "run_name": "files"}, disks), disks)]
    monkeypatch.setattr(data, "choose_cache", lambda *given: "gpu")
    folders.append(fit(configure({**SMALL, **extra, "run_name": "device"}, disks), disks))
    files, device = (load_checkpoint(folder / "checkpoints" / "last.pth") for folder in folders)
    assert all(torch.equal(value, device["model"][name]) for name, value in files["model"].items())
    assert files["threshold"] == device["threshold"]


def test_noise_of_the_device_trains_and_has_draws_of_its_own(disks, monkeypatch):
    monkeypatch.setattr(data, "choose_cache", lambda *given: "gpu")
    noise = {"label_noise": "flip:0.3", "label_noise_refresh": "epoch"}
    runs = [
        fit(configure({**SMALL, **noise, **extra, "run_name": f"noise{number}"}, disks), disks)
        for number, extra in enumerate(({"noise_device": "gpu"}, {"noise_device": "gpu"}, {}))
    ]
    first, again, numpys = (load_checkpoint(run / "checkpoints" / "last.pth")["model"] for run in runs)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, numpys[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label_noise": "flip:0.3"}, "--label_noise_refresh epoch"),
        ({"label_noise": "skeleton", "label_noise_refresh": "epoch"}, "does not make skeleton"),
        ({"label_noise": "flip:0.3", "label_noise_refresh": "epoch"}, "use --noise_device cpu"),
    ],
)
def test_noise_of_the_device_where_it_cannot_be(disks, given, message):
    with pytest.raises(UserError, match=message):
        fit(configure({**SMALL, **given, "noise_device": "gpu"}, disks), disks)
