"""Faults of the disk: whatever call of a run fails, what was finished can be loaded and gone on with, bit for bit."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import write_disk_dataset
from tests.reliability.disk_faults import CALLS, FAULTS, DiskFault, failing
from training.fit import configure, fit
from training.run.state import has_checkpoint
from utils.checkpoint import load_checkpoint
from utils.cli import RunFailed
from utils.files import read_json, read_jsonl

SMALL = {"dataset": "disks", "device": "cpu", "precision": "fp32", "crop": 32, "batch_size": 8, "width": 1}
SMALL |= {"network": "lightunet", "tensorboard": False, "audit": False, "checkpoint_every": 1, "run_name": "r"}
SMALL |= {"repeat": 1, "epochs": 2}
FRESH, RESUMED = "fresh", "resumed"
HARMLESS = [("write", "short"), ("write", "interrupted")]  # tried again by Python's own buffers
SWEEP = [(call, fault) for call in CALLS for fault in FAULTS[call]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder without a run (`FRESH`), one with a run after the first of two epochs, and one after both (`whole`)."""
    base = tmp_path_factory.mktemp("prepared")
    folders = {name: base / name for name in (FRESH, RESUMED, "whole")}
    write_disk_dataset(folders[FRESH], counts=(4, 1, 1), size=32)
    shutil.copytree(folders[FRESH], folders[RESUMED])
    fit(configure({**SMALL, "stop_after": 1}, folders[RESUMED]), folders[RESUMED])
    shutil.copytree(folders[RESUMED], folders["whole"])
    go_on(folders["whole"])
    return folders


def run_of(root: Path) -> Path:
    return root / "train_log/disks/r"


def go_on(root: Path) -> None:
    """Resume the run, or start it where there is none."""
    resumed = {"resume": str(run_of(root)), "device": "cpu"}
    fit(configure(resumed if has_checkpoint(run_of(root)) else SMALL, root), root)


def train_with_fault(prepared: dict[str, Path], root: Path, start: str, disk: DiskFault) -> bool:
    """Train the second epoch, or both, on a failing disk; whether the fault was reached."""
    shutil.copytree(prepared[start], root)
    is_harmless = (disk.call, disk.fault) in HARMLESS
    with failing(disk), contextlib.nullcontext() if is_harmless else contextlib.suppress(OSError, RunFailed):
        go_on(root)
    return disk.reached


def check_after(root: Path, whole: Path) -> None:
    """Every file that has its name is whole, no temporary one is left, and the finished run is as without a fault."""
    run = run_of(root)
    for path in run.glob("checkpoints/*.pth"):
        load_checkpoint(path)
    for path in run.glob("*.json"):
        read_json(path)
    assert not list(run.glob("**/*.tmp"))
    if not has_checkpoint(run):
        shutil.rmtree(run, ignore_errors=True)
    last = run / "checkpoints/last.pth"
    if not last.exists() or load_checkpoint(last)["epoch"] < 2:
        go_on(root)
    weights, expected = (load_checkpoint(folder / "checkpoints/last.pth")["model"] for folder in (run, run_of(whole)))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert [record["epoch"] for record in read_jsonl(run / "metrics.jsonl")] == [1, 2]


def test_without_a_fault_the_run_ends(prepared, tmp_path):
    disk = DiskFault(tmp_path / "root", "write", 10**9, "full")
    assert not train_with_fault(prepared, tmp_path / "root", RESUMED, disk)
    assert load_checkpoint(run_of(tmp_path / "root") / "checkpoints/last.pth")["epoch"] == 2


@pytest.mark.parametrize(
    ("call", "fault", "at"),
    [("write", "full", 3), ("write", "full", 40), ("write", "short", 41), ("close", "broken", 4)]
    + [("fsync", "full", 2), ("fsync", "broken", 9), ("replace", "full", 2), ("replace", "interrupted", 4)],
)
def test_a_failed_call_leaves_a_state_that_can_be_gone_on_with(prepared, tmp_path, call, fault, at):
    disk = DiskFault(tmp_path / "root", call, at, fault)
    assert train_with_fault(prepared, tmp_path / "root", RESUMED, disk), f"the run has fewer than {at} calls of {call}"
    check_after(tmp_path / "root", prepared["whole"])


@pytest.mark.slow
@pytest.mark.parametrize("start", [FRESH, RESUMED])
@pytest.mark.parametrize(("call", "fault"), SWEEP)
def test_every_call_may_fail_in_turn(prepared, tmp_path, record_property, start, call, fault):
    """Of a fresh run every call but those of checkpoints' content, which a resumed one makes in the same way."""
    at, reached = 0, True
    while reached:
        at += 1
        root = tmp_path / str(at)
        reached = train_with_fault(prepared, root, start, DiskFault(root, call, at, fault, start == RESUMED))
        check_after(root, prepared["whole"])
        shutil.rmtree(root)
    record_property("faults", at - 1)
    assert at > 4
