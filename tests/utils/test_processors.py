"""Quotas of containers are kept to; what the user set stays."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from utils import processors
from utils.processors import cpu_quota, limit_threads, usable_processors


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu.max": "nonsense"}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, quota):
    assert cpu_quota(write(tmp_path, files)) == quota


@pytest.mark.parametrize(("quota", "count"), [("20000", 1), ("100000", 1), ("250000", 3), ("900000", 8)])
def test_a_quota_and_the_processors_allowed_both_limit(tmp_path, monkeypatch, quota, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert usable_processors(write(tmp_path, {"cpu.max": f"{quota} 100000"})) == count


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("given", "processes", "count"), [(None, 1, 3), (None, 2, 1), (None, 9, 1), ("4", 1, 4)])
def test_threads_are_no_more_than_processors_unless_given(threads, monkeypatch, given, processes, count):
    monkeypatch.setattr(processors, "usable_processors", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    torch.set_num_threads(4)
    limit_threads(processes)
    assert torch.get_num_threads() == count
