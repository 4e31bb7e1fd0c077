"""Faults of the disk: whichever flush or rename fails, what was finished before can be loaded and gone on with."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import write_disk_dataset
from training.fit import configure, fit
from utils.checkpoint import load_checkpoint
from utils.cli import RunFailed

SMALL = {"dataset": "disks", "device": "cpu", "precision": "fp32", "crop": 32, "batch_size": 8, "width": 2}
SMALL |= {"tensorboard": False, "audit": False, "checkpoint_every": 1, "run_name": "r", "repeat": 1, "epochs": 2}
CALLS = ("fsync", "replace")
FAULTS = (errno.ENOSPC, errno.EIO, errno.EINTR)


class FailingCall:
    """A function of ``os`` whose call number ``at`` fails, counted from 1."""

    def __init__(self, call: Callable[..., object], at: int, number: int) -> None:
        self.call, self.at, self.number, self.calls = call, at, number, 0

    def __call__(self, *arguments: object, **keywords: object) -> object:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.number, os.strerror(self.number))
        return self.call(*arguments, **keywords)


def check_after(root: Path) -> None:
    """Every checkpoint that has its name is whole, nothing temporary is left, and the run can be finished."""
    run = root / "train_log/disks/r"
    for path in run.glob("checkpoints/*.pth"):
        load_checkpoint(path)
    assert not list(run.glob("**/*.tmp"))
    given = {"resume": str(run)} if (run / "checkpoints/last.pth").exists() else {**SMALL, "run_name": "again"}
    if given.get("resume") is None or load_checkpoint(run / "checkpoints/last.pth")["epoch"] < 2:
        last = fit(configure({**given, "device": "cpu"}, root), root) / "checkpoints/last.pth"
        assert load_checkpoint(last)["epoch"] == 2


def train_with_fault(root: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int, number: int) -> FailingCall:
    failing = FailingCall(getattr(os, name), at, number)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, failing)
        with contextlib.suppress(OSError, RunFailed):
            fit(configure(SMALL, root), root)
    return failing


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("at", [2, 9])
def test_a_failed_flush_or_rename_leaves_a_state_that_can_be_loaded(tmp_path, monkeypatch, name, at):
    train_with_fault(write_disk_dataset(tmp_path), monkeypatch, name, at, errno.ENOSPC)
    check_after(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("name", CALLS)
def test_every_flush_and_rename_may_fail_in_turn(tmp_path, monkeypatch, name, number):
    at, reached = 0, True
    while reached:
        at += 1
        root = write_disk_dataset(tmp_path / str(at))
        reached = train_with_fault(root, monkeypatch, name, at, number).calls >= at
        check_after(root)
    assert at > 5
