"""Quotas of containers and what other processes use are left alone; what the user set stays."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from utils import processors
from utils.processors import choose_threads, cpu_quota, idle_processors, usable_processors


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


STAT = """cpu  9 9 9 9 9 9 9 9 0 0
cpu0 100 0 50 {idle0} 0 0 0 {steal} 0 0
cpu1 {busy1} 0 0 800 40 0 0 0 0 0
cpu7 5 0 0 0 0 0 0 0 0 0
intr 1
"""


@pytest.mark.parametrize(
    ("later", "idle"),
    [
        ({"idle0": 930, "busy1": 30, "steal": 0}, 1.0),  # the second is kept busy
        ({"idle0": 930, "busy1": 0, "steal": 0}, 1.0),  # a processor without a tick counts as not idle
        ({"idle0": 915, "busy1": 30, "steal": 15}, 0.5),  # half of the first goes to another machine
    ],
)
def test_processors_that_nobody_uses_are_counted(tmp_path, monkeypatch, later, idle):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    stat = tmp_path / "stat"
    stat.write_text(STAT.format(idle0=900, busy1=0, steal=0))
    monkeypatch.setattr(processors.time, "sleep", lambda seconds: stat.write_text(STAT.format(**later)))
    assert idle_processors(stat=stat) == pytest.approx(idle)


def test_without_the_system_s_word_the_load_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 0, 0))
    assert idle_processors(stat=tmp_path / "absent") == 5.5


@pytest.mark.parametrize(
    ("asked", "idle", "processes", "given", "count"),
    [
        ("auto", 2.9, 1, None, 3),
        ("auto", 9.0, 1, None, 3),  # no more than there are
        ("auto", 1.2, 1, None, 1),
        ("auto", 0.0, 1, None, 1),
        ("auto", 3.0, 2, None, 1),
        (2, 0.0, 1, None, 2),
        ("auto", 0.0, 1, "4", 4),
        (2, 0.0, 1, "4", 4),
    ],
)
def test_threads_are_those_that_are_free_unless_given(monkeypatch, asked, idle, processes, given, count):
    monkeypatch.setattr(processors, "usable_processors", lambda: 3)
    monkeypatch.setattr(processors, "idle_processors", lambda: idle)
    monkeypatch.setattr(processors, "_first_threads", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert choose_threads(asked, processes) == count
