"""Checkpoints and pictures written beside training: whole, of their own epoch, and never lost in silence."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.training.test_fit import run
from training.fit import configure, fit
from utils.checkpoint import load_checkpoint
from utils.cli import RunFailed


@pytest.fixture
def listening_to_interrupts() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests were started in the background of a shell, which ignores it there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_checkpoint_that_is_being_written(disks, monkeypatch, listening_to_interrupts):
    fsync, interrupted = os.fsync, threading.Event()

    def slow_fsync(file: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            if not interrupted.is_set():
                interrupted.set()
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        fsync(file)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    with pytest.raises(KeyboardInterrupt) as stop:
        run(disks, epochs=50, run_name="cut")
    assert any("--resume" in note for note in stop.value.__notes__)
    folder = disks / "train_log" / "disks" / "cut" / "checkpoints"
    epochs = {path.name: load_checkpoint(path)["epoch"] for path in folder.iterdir()}
    assert {"epoch_1.pth", "best.pth", "last.pth"} <= set(epochs)
    assert epochs["last.pth"] == max(epochs.values()) < 50


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_keeps_those_before(disks):
    folder = run(disks, epochs=9, stop_after=1, run_name="full")
    (folder / "checkpoints" / "epoch_2.pth").mkdir()  # no file can take this place
    with pytest.raises(RunFailed, match=r"epoch_2\.pth could not be written: .*irectory"):
        fit(configure({"resume": str(folder)}, disks), disks)
    assert load_checkpoint(folder / "checkpoints" / "best.pth")["epoch"] in (1, 2)
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_full_disk_is_named_whatever_torch_makes_of_it(disks):
    import resource

    folder = run(disks, epochs=9, stop_after=1, run_name="full")
    whole = (folder / "checkpoints" / "last.pth").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole // 2, limits[1]))
    try:
        with pytest.raises(RunFailed, match="could not be written: .*File too large"):
            fit(configure({"resume": str(folder)}, disks), disks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(folder / "checkpoints" / "last.pth")["epoch"] == 1


def test_pictures_of_both_sets_reach_tensorboard(disks):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(disks, epochs=2, tensorboard=True, checkpoint_every=2)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert sorted(events.Tags()["images"]) == ["train", "val"]
    assert [event.step for event in events.Images("train")] == [2]
