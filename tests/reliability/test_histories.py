"""Histories of a run that chance makes: trained in parts, killed, moved, its newest checkpoint damaged or lost."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.conftest import write_disk_dataset
from tests.reliability.test_kills import TINY, run_process
from training.fit import configure, fit
from training.run.state import has_checkpoint
from utils.checkpoint import load_checkpoint
from utils.files import read_jsonl

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs fork")

EPOCHS = 3
HISTORIES, HISTORIES_SLOW, STEPS = 1, 40, 6


class Histories(RuleBasedStateMachine):
    """A run that may be anywhere between not begun and ended; ``base`` and ``expected`` are set by the test.

    Rules that cannot be applied do nothing: preconditions may not depend on what a kill leaves.
    """

    base: Path
    expected: dict[str, torch.Tensor]
    number = 0

    def __init__(self) -> None:
        super().__init__()
        Histories.number += 1
        self.root = shutil.copytree(self.base, self.base.parent / f"history {self.number}")
        self.name = "r"

    @property
    def run(self) -> Path:
        return self.root / "train_log/disks" / self.name

    @property
    def checkpoints(self) -> Path:
        return self.run / "checkpoints"

    def go_on(self, **options: object) -> None:
        if has_checkpoint(self.run):
            given = {"resume": str(self.run), "device": "cpu", **options}
        else:
            shutil.rmtree(self.run, ignore_errors=True)
            given = {**TINY, "run_name": self.name, **options}
        fit(configure(given, self.root), self.root)

    @property
    def epochs(self) -> int:
        return len(read_jsonl(self.run / "metrics.jsonl")) if (self.run / "metrics.jsonl").is_file() else 0

    def train_an_epoch_more(self) -> None:
        self.go_on(stop_after=self.epochs + 1 if has_checkpoint(self.run) else 1)

    @rule()
    def train_an_epoch(self) -> None:
        if self.epochs < EPOCHS:
            self.train_an_epoch_more()

    @rule(moment=st.floats(0.02, 1.5), seed=st.integers(0, 9))
    def kill(self, moment: float, seed: int) -> None:
        if self.epochs < EPOCHS and self.name == "r":
            run_process(self.root, {}, moment + random.Random(seed).uniform(0, 0.1))

    @rule(name=st.sampled_from(["r", "moved", "a b", "µ"]))
    def rename(self, name: str) -> None:
        moved = self.run.with_name(name)
        if has_checkpoint(self.run) and not moved.exists():
            self.run.rename(moved)
            self.name = name

    @rule(place=st.floats(0, 1, exclude_max=True))
    def damage(self, place: float) -> None:
        if not self.can_do_without_last:
            return
        path = self.checkpoints / "last.pth"
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1
        path.unlink()  # numbered checkpoints may share its content
        path.write_bytes(content)
        self.train_an_epoch_more()

    @rule()
    def lose(self) -> None:
        if not self.can_do_without_last:
            return
        (self.checkpoints / "last.pth").unlink()
        self.train_an_epoch_more()

    @property
    def can_do_without_last(self) -> bool:
        """Whether it is there, and the same epoch's own checkpoint with it, in a run that has not ended."""
        numbered = self.checkpoints / f"epoch_{self.epochs}.pth"
        return self.epochs < EPOCHS and numbered.is_file() and (self.checkpoints / "last.pth").is_file()

    @invariant()
    def checkpoints_are_whole(self) -> None:
        for path in self.checkpoints.glob("*.pth"):
            load_checkpoint(path)

    def teardown(self) -> None:
        is_open = self.epochs < EPOCHS or not (self.checkpoints / "last.pth").is_file()
        if is_open:  # which removes what killed processes left
            self.go_on()
        last = load_checkpoint(self.checkpoints / "last.pth")
        assert last["epoch"] == EPOCHS
        assert all(torch.equal(last["model"][name], value) for name, value in self.expected.items())
        assert [row["epoch"] for row in read_jsonl(self.run / "metrics.jsonl")] == list(range(1, EPOCHS + 1))
        assert not (is_open and list(self.root.glob("train_log/**/*.tmp")))
        shutil.rmtree(self.root)


def test_every_history_ends_in_the_same_weights(request, tmp_path):
    base = write_disk_dataset(tmp_path / "base", counts=(4, 1, 1), size=32)
    control = shutil.copytree(base, tmp_path / "control")
    fit(configure(TINY, control), control)
    Histories.base = base
    Histories.expected = load_checkpoint(control / "train_log/disks/r/checkpoints/last.pth")["model"]
    count = HISTORIES_SLOW if request.config.getoption("--runslow") else HISTORIES
    how = settings(
        max_examples=count,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(Histories, settings=how)
