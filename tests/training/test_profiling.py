"""The trace holds a few steps of training, also of an epoch that has only a few."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training.fit import configure, fit
from training.run.profiling import BEFORE, TRACE, TRACED, traced_steps


def traced_operations(folder: Path, steps: int) -> set[int]:
    """The sizes of the matrices multiplied in the steps that were traced; step i multiplies (i, i)."""
    for number in traced_steps(iter(range(1, steps + 1)), steps, torch.device("cpu"), folder, print):
        torch.ones(number, number) @ torch.ones(number, number)
    events = json.loads((folder / TRACE).read_text())["traceEvents"]
    return {event["args"]["Input Dims"][0][0] for event in events if event["name"] == "aten::mm"}


@pytest.mark.filterwarnings("ignore:Profiler won't be using warmup")
@pytest.mark.parametrize(
    ("steps", "first"), [(1, 1), (2, 2), (3, 2), (6, 4), (BEFORE + TRACED, BEFORE + 1), (20, BEFORE + 1)]
)
def test_a_few_steps_are_traced(tmp_path, steps, first):
    assert traced_operations(tmp_path, steps) == set(range(first, min(first + TRACED, steps + 1)))
    assert [path.name for path in tmp_path.iterdir()] == [TRACE]


def test_profile_puts_a_trace_of_training_into_the_run_folder(disks):
    given = {
        "dataset": "disks",
        "preset": "quick",
        "width": 4,
        "crop": 32,
        "batch_size": 3,
        "device": "cpu",
        "epochs": 2,
        "tensorboard": False,
        "audit": False,
        "profile": True,
    }
    run = fit(configure(given, disks), disks)
    names = {event["name"] for event in json.loads((run / TRACE).read_text())["traceEvents"]}
    assert {"aten::convolution", "autograd::engine::evaluate_function: ConvolutionBackward0"} <= names
