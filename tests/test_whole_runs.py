"""Runs from labels to scores on every device of this machine, with all that a device does differently."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets.image_io import read_label, write_label
from evaluation import inference
from evaluation.metrics import evaluate_maps
from training import data
from training.fit import configure, fit
from utils.checkpoint import load_checkpoint
from utils.files import read_json, read_jsonl

FRESH_NOISE = {"label_noise": "flip:0.2", "label_noise_refresh": "epoch"}
RUNS = {
    "as it comes": {},
    "data in memory": {"cache": "ram"},
    "data in files": {"cache": "none", "workers": 1},
    "noise and augmentation": {**FRESH_NOISE, "augment": ("contrast", "noise")},
    "in parts": {"accumulate": 2, "clip_grad": 1.0, "ema": 0.9},
    "a sum of losses": {"loss": "tloss(nu=2)+0.5*dice"},
    "a corrected loss": {"label_noise": "flip:0.3", "loss": "forward"},
    "sgd in fp32": {"optimizer": "sgd", "lr": 0.05, "precision": "fp32"},
    "two classes": {"num_classes": 2, "loss": "ce+dice"},
    "without labels": {"igtt": True},
}


@pytest.fixture
def data_on_device(monkeypatch, device) -> None:
    """The data lie where a GPU would have them, also where the CPU is the device."""
    if device == "cpu":
        choose = data.choose_cache
        monkeypatch.setattr(
            data, "choose_cache", lambda name, *given, **more: "gpu" if name == "auto" else choose(name, *given, **more)
        )


def train(root: Path, device: str, **given) -> Path:
    return fit(
        configure(
            {
                "dataset": "disks",
                "preset": "quick",
                "width": 8,
                "crop": 32,
                "batch_size": 4,
                "repeat": 10,
                "epochs": 3,
                "device": device,
                "tensorboard": False,
                "audit": False,
                **given,
            },
            root,
        ),
        root,
    )


def params(*names: str) -> list:
    """Runs by name; on the CPU other tests meet most of their parts, so only the first one is not slow."""
    return [pytest.param(name, marks=pytest.mark.slow if number else ()) for number, name in enumerate(names)]


@pytest.mark.parametrize("name", params(*RUNS))
def test_from_labels_to_scores(disks, device, data_on_device, name):
    if "num_classes" in RUNS[name]:
        for path in (disks / "datasets").rglob("labels/*.png"):
            write_label(path, read_label(path), num_classes=2)
    folder = train(disks, device, run_name="run", **RUNS[name])
    assert read_jsonl(folder / "metrics.jsonl")[-1]["epoch"] == 3
    inference.main(["--train_dir", str(folder), "--device", device, "--data_root", str(disks), "--masks"])
    (results,) = (folder / "results").iterdir()
    assert read_json(results / "predictions.json")["environment"]["device"] == device
    assert evaluate_maps(results, report=False)["pooled"]["iou"] > 0.65


@pytest.mark.parametrize("name", params("in parts", "without labels"))
def test_a_stopped_run_goes_on(disks, device, data_on_device, name):
    whole = train(disks, device, run_name="whole", **RUNS[name])
    part = train(disks, device, run_name="part", stop_after=2, **RUNS[name])
    fit(configure({"resume": str(part), "device": device}, disks), disks)
    ends = [load_checkpoint(folder / "checkpoints" / "last.pth") for folder in (whole, part)]
    assert ends[0]["epoch"] == ends[1]["epoch"] == 3
    if device == "cpu":
        assert all(torch.equal(value, ends[1]["model"][key]) for key, value in ends[0]["model"].items())
    else:  # a GPU adds in any order
        scores = [read_jsonl(folder / "metrics.jsonl")[-1]["val/auc"] for folder in (whole, part)]
        assert scores[0] == pytest.approx(scores[1], abs=0.03)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["as it comes", "in parts", "noise drawn on the device"])
def test_a_compiled_run(disks, name):
    folder = train(disks, "cuda", run_name="compiled", compile=True, **RUNS[name])
    assert read_jsonl(folder / "metrics.jsonl")[-1]["val/iou"] > 0.65
