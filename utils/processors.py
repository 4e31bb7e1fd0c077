"""How many processors this process may keep busy: in a container or under a scheduler, fewer than there are."""

from __future__ import annotations

import functools
import math
import os
import time
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
STAT = Path("/proc/stat")
WATCHED = 0.25  # seconds


def usable_processors(cgroup: Path = CGROUP) -> int:
    """The processors that the operating system and the container's quota of CPU time leave to this process, ≥ 1."""
    return max(1, math.ceil(min(_allowed(), cpu_quota(cgroup))))


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(cgroup: Path = CGROUP) -> float:
    """How many processors' time a container may use: what ``docker run --cpus`` sets; infinite where nothing does."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:  # control groups of version 1
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # no control groups, or ``max``
        return math.inf


def idle_processors(seconds: float = WATCHED, stat: Path = STAT) -> float:
    """How many of this process's processors nobody used while it slept for ``seconds``.

    Where the system does not tell, what the load of the last minute leaves; where it does not tell that, all of them.
    """
    before = _ticks(stat)
    if not before:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return max(0.0, _allowed() - load)
    time.sleep(seconds)
    after = _ticks(stat)
    shares = [(after[cpu][0] - before[cpu][0]) / max(1, after[cpu][1] - before[cpu][1]) for cpu in before]
    return float(sum(shares))


def _ticks(stat: Path) -> dict[int, tuple[int, int]]:
    """Idle and all clock ticks of the processors that this process may run on, as Linux counts them."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    try:
        lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return {}
    counted = {int(name[3:]): [int(value) for value in ticks[:8]] for name, *ticks in lines if name != "cpu"}
    return {cpu: (ticks[3] + ticks[4], sum(ticks)) for cpu, ticks in counted.items() if cpu in allowed}


def choose_threads(asked: int | str, processes: int) -> int:
    """The number of threads to compute in; more than the machine has free would only wait for each other.

    Beside a process that keeps one of two processors busy, two threads are half as fast as one.

    Args:
        asked: a number, or ``auto`` for as many as processors are free now. ``OMP_NUM_THREADS`` wins over both.
        processes: those of this run that share the machine.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return _first_threads()
    if asked != "auto":
        return int(asked)
    free = min(usable_processors(), math.floor(idle_processors() + 0.5))
    return max(1, min(_first_threads(), free // processes))


@functools.cache
def _first_threads() -> int:
    """The threads that torch takes by itself: those of ``OMP_NUM_THREADS``, else one for every core."""
    import torch

    return torch.get_num_threads()
