"""SIGKILL and stop signals at any moment: checkpoints are whole, resumed runs have the weights of undisturbed ones."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.conftest import write_disk_dataset
from training.fit import configure, fit
from training.run.state import has_checkpoint
from utils.checkpoint import load_checkpoint
from utils.cli import run_command
from utils.files import read_jsonl

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork")

KILLS, KILLS_SLOW = 2, 100  # of each kind of run
STOPS, STOPS_SLOW = 1, 40  # of each kind of run
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
LONGEST_STOP = 5  # seconds
EPOCHS = 3
TINY = {"dataset": "disks", "device": "cpu", "precision": "fp32", "crop": 32, "batch_size": 4, "width": 1}
TINY |= {"network": "lightunet", "tensorboard": False, "audit": False, "checkpoint_every": 1, "run_name": "r"}
TINY |= {"repeat": 2, "epochs": EPOCHS}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "EMA with workers": {"ema": 0.9, "workers": 2, "cache": "none"},
    "label-free": {"igtt": True},
}
STOPPED_KINDS = {
    "TensorBoard": {"tensorboard": True, "epochs": 40},
    "workers": {"workers": 2, "cache": "none", "epochs": 40},
    "label-free": {"igtt": True, "epochs": 40},
}


class Control(NamedTuple):
    """The run that nobody stopped: the folder before it, its weights, and the seconds that it took in a process."""

    before: Path
    weights: dict[str, torch.Tensor]
    seconds: float


def run_of(root: Path) -> Path:
    return root / "train_log/disks/r"


def go_on(root: Path, options: dict[str, Any]) -> None:
    """Resume the run, or start it where there is none."""
    resumed = {"resume": str(run_of(root)), "device": "cpu"}
    fit(configure(resumed if has_checkpoint(run_of(root)) else {**TINY, **options}, root), root)


def train_silently(root: Path, options: dict[str, Any]) -> None:
    """What a process does."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    go_on(root, options)


def run_process(root: Path, options: dict[str, Any], kill_after: float | None = None) -> int:
    """Train in a process of its own, a fork of this one, and end it after some seconds; its exit status."""
    process = multiprocessing.get_context("fork").Process(target=train_silently, args=(root, options))
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def stop_process(root: Path, options: dict[str, Any], sent: signal.Signals, after: float) -> tuple[int | None, float]:
    """Train as a command does, send a signal after some seconds; (exit status, seconds from the signal to the end)."""
    process = multiprocessing.get_context("fork").Process(target=run_as_command, args=(root, options))
    process.start()
    process.join(after)
    assert process.pid is not None
    os.kill(process.pid, sent)
    begun = time.monotonic()
    process.join(4 * LONGEST_STOP)
    took = time.monotonic() - begun
    process.kill()
    process.join()
    return process.exitcode, took


def run_as_command(root: Path, options: dict[str, Any]) -> None:
    """What a process that answers signals does, also where that of the tests ignores some, as below ``nohup``."""
    for name in SIGNALS:
        signal.signal(signal.Signals[name], signal.SIG_DFL)
    run_command(lambda: train_silently(root, options))


def last_weights(root: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(run_of(root) / "checkpoints/last.pth")
    assert checkpoint["epoch"] == EPOCHS
    return checkpoint["model"]


@pytest.fixture(scope="module", params=KINDS)
def control(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Control]:
    """The kind of run, and one that nobody stopped."""
    base = tmp_path_factory.mktemp("control")
    before = write_disk_dataset(base / "before", counts=(4, 1, 1), size=32)
    shutil.copytree(before, base / "here")
    go_on(base / "here", KINDS[request.param])  # imports what a run needs, so that no kill falls into that
    shutil.copytree(before, base / "timed")
    begun = time.monotonic()
    assert run_process(base / "timed", KINDS[request.param]) == 0
    return request.param, Control(before, last_weights(base / "here"), time.monotonic() - begun)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return KILLS_SLOW if request.config.getoption("--runslow") else KILLS


def test_a_killed_run_ends_as_if_nobody_had_killed_it(control, kills, tmp_path, record_property):
    kind, (before, expected, seconds) = control
    killed = amid = 0
    for seed in range(kills):
        root = shutil.copytree(before, tmp_path / str(seed))
        moment = random.Random(f"{kind} {seed}").uniform(0.05, 0.95) * seconds
        killed += run_process(root, KINDS[kind], moment) == -signal.SIGKILL
        for path in run_of(root).glob("checkpoints/*.pth"):
            load_checkpoint(path)
        amid += (is_begun := has_checkpoint(run_of(root)))
        if not is_begun:
            shutil.rmtree(run_of(root), ignore_errors=True)
        if not is_begun or newest(root) < EPOCHS:
            go_on(root, KINDS[kind])
            assert not list(run_of(root).glob("**/*.tmp")), f"seed {seed}"
        weights = last_weights(root)
        assert all(torch.equal(weights[name], expected[name]) for name in expected), f"{kind}, seed {seed}"
        assert list_epochs(root) == list(range(1, EPOCHS + 1)), f"{kind}, seed {seed}"
        shutil.rmtree(root)
    record_property("killed", killed)
    record_property("after the first epoch", amid)
    assert killed > kills // 4


@pytest.mark.parametrize("kind", STOPPED_KINDS)
def test_a_signal_ends_a_run_in_seconds(kind, request, tmp_path, record_property):
    stops = STOPS_SLOW if request.config.getoption("--runslow") else STOPS
    before = write_disk_dataset(tmp_path / "before", counts=(4, 1, 1), size=32)
    go_on(shutil.copytree(before, tmp_path / "here"), STOPPED_KINDS[kind] | {"epochs": 1})  # imports what a run needs
    slowest = 0.0
    for seed in range(stops):
        root, chance = shutil.copytree(before, tmp_path / str(seed)), random.Random(f"{kind} {seed}")
        sent = signal.Signals[chance.choice(SIGNALS)]
        status, took = stop_process(root, STOPPED_KINDS[kind], sent, chance.uniform(0.2, 1.5))
        assert (status, took < LONGEST_STOP) == (128 + sent, True), f"{kind}, seed {seed}: {sent.name}, {took:.1f} s"
        for path in run_of(root).glob("checkpoints/*.pth"):
            load_checkpoint(path)
        assert not list(run_of(root).glob("**/*.tmp")), f"{kind}, seed {seed}"
        slowest = max(slowest, took)
        shutil.rmtree(root)
    record_property("signals", stops)
    record_property("slowest seconds", round(slowest, 2))


def list_epochs(root: Path) -> list[int]:
    return [record["epoch"] for record in read_jsonl(run_of(root) / "metrics.jsonl")]


def newest(root: Path) -> int:
    """The epoch of last.pth; 0 where a kill came before it and after a numbered one."""
    last = run_of(root) / "checkpoints/last.pth"
    return load_checkpoint(last)["epoch"] if last.exists() else 0
