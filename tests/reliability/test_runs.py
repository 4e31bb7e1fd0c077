"""Runs: one owner, checked files, the newest whole checkpoint, changed data, advice that can be followed."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import write_disk_dataset
from training.fit import configure, fit
from training.methods.supervised import Supervised
from training.run.reports import closing_warnings, is_collapsed, lowest_loss, warnings_of_epoch
from training.selection import Selection
from training.step_guard import NonFiniteLoss
from utils.checkpoint import load_checkpoint
from utils.cli import RunFailed, UserError
from utils.files import read_json, read_jsonl

SMALL = {"dataset": "disks", "device": "cpu", "precision": "fp32", "crop": 32, "batch_size": 4, "network_options": {}}
SMALL |= {"width": 2, "tensorboard": False, "audit": False, "checkpoint_every": 1, "run_name": "r", "repeat": 1}


def train(root: Path, **given: object) -> Path:
    return fit(configure({**SMALL, **given}, root), root)


def resume(root: Path, **given: object) -> Path:
    run = str(root / "train_log/disks/r")
    return fit(configure({"resume": run, "device": "cpu", **given}, root), root)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A root with a run that was stopped after the second of three epochs, and a copy to put back."""
    root, copy = tmp_path_factory.mktemp("trained") / "root", tmp_path_factory.mktemp("copy") / "root"
    write_disk_dataset(root)
    train(root, epochs=3, stop_after=2)
    shutil.copytree(root, copy)
    return root, copy


@pytest.fixture
def disks(trained: tuple[Path, Path]) -> Path:
    """The root of `trained` as it was; no test sees what another has done to it."""
    root, copy = trained
    shutil.rmtree(root)
    shutil.copytree(copy, root)
    return root


@pytest.fixture
def run(disks: Path) -> Path:
    """The run of `trained`."""
    return disks / "train_log/disks/r"


def same_weights(first: Path, second: Path) -> bool:
    weights = [load_checkpoint(path)["model"] for path in (first, second)]
    return all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_second_resume_is_refused_naming_the_first(disks, run):
    hold = "import sys, time; from pathlib import Path; from utils.run_lock import run_lock\n"
    hold += "with run_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, str(run)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        before = (run / "metrics.jsonl").read_bytes()
        with pytest.raises(UserError, match=f"in use by process {owner.pid}"):
            resume(disks)
        assert (run / "metrics.jsonl").read_bytes() == before
        owner.kill()
    resume(disks)


def test_temporary_files_of_killed_processes_go_and_others_stay(disks, run):
    (run / "checkpoints/.last.pth.12345.tmp").touch()
    (run / "checkpoints/.mine.tmp").touch()
    resume(disks)
    hidden = [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
    assert hidden == [".mine.tmp"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def drop_optimizer(path: Path) -> None:
    torch.save({**load_checkpoint(path), "optimizer": {}}, path)


def spoil_weights(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    first = next(iter(checkpoint["model"].values()))
    first[(0,) * first.ndim] = torch.inf
    torch.save(checkpoint, path)


@pytest.mark.parametrize("harm", [Path.unlink, truncate, flip_a_bit, drop_optimizer, spoil_weights])
def test_the_newest_whole_checkpoint_takes_the_place_of_a_damaged_last_one(disks, run, capsys, harm, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    resume(disks)
    expected = tmp_path / "expected.pth"
    shutil.copy(run / "checkpoints/last.pth", expected)
    shutil.rmtree(run)
    shutil.copytree(whole, run)
    harm(run / "checkpoints/last.pth")
    capsys.readouterr()
    resume(disks)
    assert "going on after epoch 2 from epoch_2.pth" in capsys.readouterr().out
    assert same_weights(run / "checkpoints/last.pth", expected)


def test_a_run_whose_times_lie_ahead_or_run_backwards_is_gone_on_with_by_epoch(disks, run, capsys):
    owner = {"host": platform.node(), "process": 2**22 - 1, "since": "2090-01-01 00:00:00"}
    (run / ".lock").write_text(json.dumps(owner))
    (run / "checkpoints/.last.pth.12345.tmp").touch()
    for path in run.rglob("*"):
        os.utime(path, (2**32, 2**32))  # of a clock that was set back since
    for epoch in (1, 2):
        os.utime(run / f"checkpoints/epoch_{epoch}.pth", (2**32 - epoch, 2**32 - epoch))
    (run / "checkpoints/last.pth").unlink()
    resume(disks)
    assert "going on after epoch 2 from epoch_2.pth" in capsys.readouterr().out
    assert [record["epoch"] for record in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3]
    assert not (run / "checkpoints/.last.pth.12345.tmp").exists()


def test_a_run_whose_folder_is_moved_while_it_trains_says_so_and_goes_on_there(disks, run, monkeypatch):
    moved, decide = run.with_name("moved"), Supervised.decide

    def move(*arguments: object) -> Selection:
        run.rename(moved)
        return decide(*arguments)

    monkeypatch.setattr(Supervised, "decide", move)
    with pytest.raises(RunFailed, match=r"r, or the \.lock in it, was removed, renamed or replaced") as failure:
        resume(disks)
    assert "--resume FOLDER" in failure.value.__notes__[-1] and not run.exists()
    monkeypatch.undo()
    fit(configure({"resume": str(moved), "device": "cpu"}, disks), disks)
    assert [record["epoch"] for record in read_jsonl(moved / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize(("lost", "best"), [((), 1), (("best.pth",), 1), (("epoch_1.pth",), 3)])
def test_the_best_checkpoint_is_of_the_epoch_that_a_resumed_run_knows(disks, monkeypatch, capsys, lost, best):
    metrics = iter([0.8, 0.5, 0.9, 0.1])
    monkeypatch.setattr(Supervised, "decide", lambda *_: Selection(0.25, False, next(metrics)))
    folder = train(disks, epochs=4, stop_after=3, run_name="chosen") / "checkpoints"
    assert load_checkpoint(folder / "best.pth")["epoch"] == 3
    for name in ("last.pth", "epoch_3.pth", *lost):
        (folder / name).unlink()
    capsys.readouterr()
    fit(configure({"resume": str(folder.parent), "device": "cpu", "stop_after": 3}, disks), disks)
    said = capsys.readouterr().out
    assert ("best.pth is put back from epoch_1.pth" in said) == (best == 1)
    assert (
        load_checkpoint(folder / "last.pth")["best"]["epoch"] == load_checkpoint(folder / "best.pth")["epoch"] == best
    )
    assert load_checkpoint(folder / "best.pth")["threshold"] == 0.25


def test_a_checkpoint_of_another_run_is_not_gone_on_with(disks, run, capsys):
    shutil.copy(run / "checkpoints/epoch_1.pth", run / "checkpoints/last.pth")  # its own are
    other = train(disks, epochs=3, seed=7, run_name="other")
    shutil.copy(other / "checkpoints/last.pth", run / "checkpoints/epoch_2.pth")
    resume(disks, stop_after=2)
    assert "of another run" not in capsys.readouterr().out
    shutil.copy(other / "checkpoints/last.pth", run / "checkpoints/last.pth")
    resume(disks)
    assert (
        "last.pth is of another run: it has seed 7, and config.json 0; going on after epoch 2"
        in capsys.readouterr().out
    )
    assert load_checkpoint(run / "checkpoints/last.pth")["rng"] == {"seed": 0, "epoch": 3}


@pytest.mark.parametrize("began", [2**32, 0])
def test_curves_go_on_by_epoch_where_the_clock_was_set_back(disks, began):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    curves = train(disks, epochs=3, stop_after=2, tensorboard=True, run_name="curves") / "tensorboard"
    (first,) = curves.iterdir()
    first.rename(curves / f"events.out.tfevents.{began:010d}.host.1.0")
    with SummaryWriter(str(curves), purge_step=3) as killed:  # it went on to epochs that are discarded
        for epoch in (3, 4):
            killed.add_scalar("train/loss", -1, epoch)
        written = Path(killed.file_writer.event_writer._file_name)
    written.rename(curves / f"events.out.tfevents.{2**32 + 5:010d}.host.2.0")
    (curves / "events.out.mine").touch()
    fit(configure({"resume": str(curves.parent), "device": "cpu"}, disks), disks)
    shown = EventAccumulator(str(curves)).Reload().Scalars("train/loss")
    assert [event.step for event in shown] == [1, 2, 3] and min(event.value for event in shown) > 0
    assert (curves / "events.out.mine").exists()


def test_all_checkpoints_damaged_is_one_message(disks, run):
    for path in (run / "checkpoints").iterdir():
        truncate(path)
    with pytest.raises(UserError, match=r"last\.pth"):
        resume(disks)


def test_a_broken_line_of_metrics_costs_that_line_alone(disks, run):
    path = run / "metrics.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"\xff\xfe\n[]\n{}\n" + b"[" * 9000 + b"\n" + second)
    resume(disks)
    assert [record["epoch"] for record in read_jsonl(path)] == [1, 2, 3]


BROKEN_CONFIGS = ["[]", "", "{", "[" * 20000, "null", "\xff", '{"dataset": "disks"}']
BROKEN_VALUES = [("labels", None), ("labels", []), ("epochs", "3"), ("epochs", 0), ("seed", -1), ("lr", "fast")]
BROKEN_VALUES += [("decisions", [{"name": "loss"}]), ("label_reading", {"num_classes": 1, "cut": "high"})]
BROKEN_VALUES += [("batch_size", [4]), ("network", 5), ("asked", "x"), ("cache", "disk"), ("width", 10**9)]


@pytest.mark.parametrize("content", BROKEN_CONFIGS)
def test_a_broken_config_is_one_message(disks, run, content):
    (run / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json"):
        resume(disks)


@pytest.mark.parametrize(("name", "value"), BROKEN_VALUES)
def test_a_value_that_cannot_be_is_named(disks, run, name, value):
    config = read_json(run / "config.json")
    (run / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(UserError, match=rf"config\.json.*{name}"):
        resume(disks)


def test_changed_data_are_said(disks, run, capsys):
    image = disks / "datasets/disks/train/images/0.png"
    pixels = cv2.imread(str(image), cv2.IMREAD_UNCHANGED)
    pixels[0, 0] ^= 1
    cv2.imwrite(str(image), pixels)
    capsys.readouterr()
    resume(disks)
    assert f"since the run began, 1 of its files is changed: {image}" in capsys.readouterr().out


def test_unchanged_data_are_not_spoken_of(disks, run, capsys):
    (disks / "datasets/disks/train/images/0.png").touch()
    resume(disks)
    assert "since the run began" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("harm", ["size", "gone"])
def test_a_file_that_changes_during_training_is_named(disks, monkeypatch, kind, harm):
    from training import fit as fit_module

    path = disks / f"datasets/disks/train/{kind}/3.png"
    begin = fit_module.train

    def change_and_train(*arguments: object) -> None:
        path.unlink() if harm == "gone" else cv2.imwrite(str(path), np.zeros((40, 64), np.uint8))
        begin(*arguments)

    monkeypatch.setattr(fit_module, "train", change_and_train)
    with pytest.raises(UserError, match=rf"{kind}/3\.png"):
        train(disks, epochs=1, cache="none", workers=0)


def test_after_a_loss_that_is_not_finite_another_rate_is_taken(disks, run, monkeypatch):
    with pytest.raises(UserError, match="--lr"):
        resume(disks, lr=1e-5)
    from training import fit as fit_module

    def diverge(*arguments: object) -> None:
        raise NonFiniteLoss("the loss is nan")

    with monkeypatch.context() as patch, pytest.raises(NonFiniteLoss) as failure:
        patch.setattr(fit_module, "train_epoch", diverge)
        resume(disks)
    assert failure.value.__notes__[-1].endswith("--lr 0.0003")
    resume(disks, lr=1e-5)
    assert read_json(run / "config.json")["lr"] == 1e-5
    assert max(record["train/learning_rate"] for record in read_jsonl(run / "metrics.jsonl")[2:]) <= 1e-5


def test_advice_after_a_first_epoch_that_failed_does_not_name_resume(disks, monkeypatch):
    from training import fit as fit_module

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "train_epoch", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(disks, epochs=2)
    assert "nothing to resume: start the run anew" in "\n".join(stopped.value.__notes__)


def test_the_epoch_that_is_given_up_is_named(disks, run, monkeypatch):
    from training import fit as fit_module

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "train_epoch", stop)
    with pytest.raises(KeyboardInterrupt) as stopped:
        resume(disks)
    assert stopped.value.__notes__[0] == "epoch 3 was given up; it is repeated on --resume"
    assert "go on with: python main.py --resume" in stopped.value.__notes__[1]


def test_what_follows_the_last_epoch_is_done_by_resume(disks, monkeypatch, capsys):
    from training import fit as fit_module

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
        patch.setattr(fit_module, "keep_own_images", stop)
        train(disks, epochs=3, run_name="cut")
    (advice,) = stopped.value.__notes__
    run = disks / "train_log/disks/cut"
    assert f"go on with: python main.py --resume {run}" in advice and not (run / "model_card.json").exists()
    before = load_checkpoint(run / "checkpoints/last.pth")
    capsys.readouterr()
    fit(configure({"resume": str(run), "device": "cpu"}, disks), disks)
    assert "best epoch" in capsys.readouterr().out and (run / "model_card.json").is_file()
    after = load_checkpoint(run / "checkpoints/last.pth")
    assert "own_images" in after and "own_images" not in before and after["epoch"] == 3
    assert all(torch.equal(value, after["model"][name]) for name, value in before["model"].items())
    assert [record["epoch"] for record in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3]
    with pytest.raises(UserError, match="completed 3 epochs"):
        fit(configure({"resume": str(run), "device": "cpu"}, disks), disks)


def test_out_of_memory_names_what_to_lower(disks, monkeypatch):
    from training import fit as fit_module
    from utils.cli import RunFailed

    def fail(*arguments: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")

    monkeypatch.setattr(fit_module, "train_epoch", fail)
    with pytest.raises(RunFailed, match=r"lower --batch_size 4 .*--crop 32 or --width 2"):
        train(disks, epochs=1)


def test_runs_that_do_not_learn_are_told():
    counts = np.zeros((1, 2, 256), np.int64)
    counts[0, :, 7] = 500
    assert is_collapsed(counts) and warnings_of_epoch(90.0, 0.7, counts) == ["the loss explodes", "scores collapse"]
    counts[0, 0, 9] = 500
    assert warnings_of_epoch(0.6, 0.7, counts) == [] and not is_collapsed(None)
    known = [{"train/loss": loss} for loss in (0.5, math.inf, 0.4, "nan")]
    assert lowest_loss(known) == 0.4 and lowest_loss([]) == 0  # a resumed run may begin with an easy step
    still = [{"epoch": epoch, "train/loss": 0.7} for epoch in (1, 2)]
    assert "does not move" in closing_warnings(still, 1e-9)[0]
    assert closing_warnings([{"epoch": 1, "train/loss": 0.7}, {"epoch": 2, "train/loss": 0.5}], 0.1) == []
