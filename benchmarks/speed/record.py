"""What a speed measurement holds: the sizes it was made at, its figures, the machine, and the table of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.grid import Record, markdown
from utils.run_folder import environment_record

SIZES = {"cpu": (16, 128, 16, 1), "mps": (16, 128, 16, 1), "cuda": (64, 256, 32, 10)}  # width, crop, batch, repeat


@dataclass(frozen=True)
class Settings:
    """The sizes of the measurements.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
        width: channels of the U-Net's first level.
        crop: side of a training window.
        batch_size: of training.
        repeat: draws of every training image in an epoch, so that an epoch takes seconds.
        rounds: how often fast and plain training take turns.
        seeds: of the comparison of accuracies.
        seconds: spent on each small measurement.
        baseline: whether the plain recipe runs beside the fast one.
        tiny: smallest sizes everywhere, to see that every part works.
    """

    device: str
    width: int
    crop: int
    batch_size: int
    repeat: int
    rounds: int = 2
    seeds: int = 5
    seconds: float = 0.5
    baseline: bool = False
    tiny: bool = False


@dataclass(frozen=True)
class Figure:
    """One measured number, beside that of the plain recipe where there is one.

    Args:
        unit: ``images/s`` and the like, where more is better, or a time, where less is; ``IoU`` is neither.
        goal: the least (of a time: the most) that is asked for; None where nothing is.
        goal_ratio: how many times faster than the plain recipe it should be.
        more: further facts.
    """

    what: str
    unit: str
    value: float
    plain: float | None = None
    goal: float | None = None
    goal_ratio: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")

    @property
    def ratio(self) -> float | None:
        """How many times faster than the plain recipe."""
        if not self.plain or not self.value or self.unit == "IoU":
            return None
        return self.value / self.plain if self.is_rate else self.plain / self.value

    def verdicts(self) -> list[str]:
        """Each goal with whether it is met."""
        said = []
        if self.goal is not None:
            met = self.value >= self.goal if self.is_rate else self.value <= self.goal
            said.append(f"{'≥' if self.is_rate else '≤'} {self.goal:g} {self.unit}: {_met(met)}")
        if self.goal_ratio is not None and self.ratio is not None:
            said.append(f"≥ {self.goal_ratio:g}×: {_met(self.ratio >= self.goal_ratio)}")
        return said


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def machine_record(device: str) -> dict[str, Any]:
    """Versions, processor, cores and GPU, the commit and the day; nothing that names the machine or its folders."""
    import torch

    record = environment_record(device)
    return {
        "git_commit": record["git_commit"],
        "versions": record["versions"],
        "system": platform.system(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "day": time.strftime("%Y-%m-%d"),
    }


def processor_name() -> str:
    """The CPU's model."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def median_ms(
    function: Callable[[], Any], seconds: float, least: int = 5, clock: Callable[[], float] = time.process_time
) -> float:
    """Median milliseconds of a call, over ``seconds`` and at least ``least`` calls after one to warm up.

    Args:
        clock: by default processor time, to which what else the machine is doing does not count.
    """
    function()
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        started = clock()
        function()
        times.append(clock() - started)
    return 1000 * float(np.median(times))


def table(records: Sequence[Record]) -> str:
    """The figures of all parts as a Markdown table."""
    rows = []
    for record in records:
        for figure in (Figure(**values) for values in record["figures"]):
            plain = "" if figure.plain is None else show(figure.plain, figure.unit)
            ratio = "" if figure.ratio is None else f"{figure.ratio:.3g}×"
            also = ", ".join(f"{key} {_show(value)}" for key, value in figure.more.items())
            value, goals = show(figure.value, figure.unit), "; ".join(figure.verdicts())
            rows.append([record["cell"]["part"], figure.what, value, plain, ratio, goals, also])
    return markdown(["part", "figure", "fast", "plain", "ratio", "goal", "also"], rows)


def show(value: float, unit: str) -> str:
    """A number with its unit, three or four digits."""
    return f"{value:.4f}" if unit == "IoU" else f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return " / ".join(map(_show, value)) if isinstance(value, (list, tuple)) else str(value)
