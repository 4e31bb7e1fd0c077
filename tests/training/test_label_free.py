"""Label-free runs: no label is read, pseudo-labels are kept and resumed from, and structures are found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from datasets.label_noise import EMS_SPEC
from training.fit import configure, fit
from training.igtt import CRITERIA, INITIAL_LABELS
from training.options import CRITERION_NAMES, EMS, INITIAL_LABEL_NAMES
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.run_folder import read_json, read_jsonl

FREE = {
    "dataset": "disks", "preset": "quick", "igtt": True, "width": 4, "crop": 64, "batch_size": 4, "device": "cpu",
    "tensorboard": False, "igtt_init": "otsu", "foreground": "bright",
}  # fmt: skip


def run(root: Path, **given) -> Path:
    return fit(configure({**FREE, **given}, root), root)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoints" / "last.pth")["model"]


def test_help_names_what_exists():
    assert EMS == EMS_SPEC and tuple(CRITERIA) == CRITERION_NAMES
    assert set(INITIAL_LABEL_NAMES) == set(INITIAL_LABELS)


def test_no_training_label_is_read(disks):
    with_labels = run(disks, epochs=2, run_name="with")
    shutil.rmtree(disks / "datasets" / "disks" / "train" / "labels")
    train_list = disks / "txt" / "disks" / "train" / "train_gt.txt"
    train_list.write_text("".join(line.split("\t")[0] + "\n" for line in train_list.read_text().splitlines()))
    without = run(disks, epochs=2, run_name="without")
    assert all(torch.equal(value, weights(without)[name]) for name, value in weights(with_labels).items())


def test_validation_labels_decide_nothing(disks):
    with_labels = run(disks, epochs=2, run_name="with")
    (disks / "txt" / "disks" / "val.txt").unlink()
    without = run(disks, epochs=2, run_name="without")
    one, two = (load_checkpoint(folder / "checkpoints" / "best.pth") for folder in (with_labels, without))
    assert one["threshold"] == two["threshold"] and one["epoch"] == two["epoch"] == 2
    assert "val/iou" in read_jsonl(with_labels / "metrics.jsonl")[-1]
    assert "val/iou" not in read_jsonl(without / "metrics.jsonl")[-1]


@pytest.mark.parametrize("initial", ["otsu", "black"])
def test_stopped_and_resumed_equals_uninterrupted(disks, initial):
    given = {"epochs": 3, "checkpoint_every": 1, "igtt_init": initial}
    whole = run(disks, run_name="whole", **given)
    part = run(disks, run_name="part", stop_after=1, **given)
    stale = part / "igtt" / "epoch_2"
    stale.mkdir()  # what a crash in the second epoch leaves behind
    (stale / "manifest.json").write_text("{}")
    fit(configure({"resume": str(part)}, disks), disks)
    assert all(torch.equal(value, weights(part)[name]) for name, value in weights(whole).items())


def test_only_masks_that_a_checkpoint_names_are_kept(disks):
    folder = run(disks, epochs=5, checkpoint_every=2, run_name="kept")
    assert sorted(path.name for path in (folder / "igtt").iterdir()) == ["epoch_2", "epoch_4", "epoch_5"]
    record = read_json(folder / "igtt" / "epoch_5" / "manifest.json")
    assert record["foreground"] == "bright" and len(record["masks"]) == 8 and 0 <= record["agreement"] <= 1


def test_bright_disks_are_found_without_labels(disks):
    simple = {"igtt_ems": "clean", "igtt_criterion": "bce", "loss": "bce"}
    folder = run(disks, epochs=10, repeat=8, igtt_warmup=8, run_name="found", **simple)
    assert read_jsonl(folder / "metrics.jsonl")[-1]["val/iou"] > 0.8


@pytest.mark.parametrize("given", [{"num_classes": 3}, {"label_noise": "flip:0.1"}, {"fold": "1/2"}])
def test_what_needs_labels_is_refused(disks, given):
    with pytest.raises(UserError, match="--igtt"):
        run(disks, epochs=1, **given)
