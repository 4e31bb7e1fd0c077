"""How many processors this process may keep busy: in a container or under a scheduler, fewer than there are."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")


def usable_processors(cgroup: Path = CGROUP) -> int:
    """The processors that the operating system and the container's quota of CPU time leave to this process, ≥ 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota(cgroup))))


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


def limit_threads(processes: int) -> None:
    """Let torch compute in no more threads than this process has processors; more of them only wait for each other.

    torch knows nothing of quotas. A number given as ``OMP_NUM_THREADS`` stays.

    Args:
        processes: those that share this machine.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), max(1, usable_processors() // processes)))
