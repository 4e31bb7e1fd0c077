"""Long runs: memory, open files and threads stay what they were."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_disk_dataset
from utils.paths import REPO_ROOT

EPOCHS, SETTLED = 200, 50
TINY = {"dataset": "disks", "device": "cpu", "width": 4, "crop": 32, "batch_size": 4, "repeat": 2, "epochs": EPOCHS}
CODE = """
import json, pathlib, sys
from training.fit import configure, fit
root = pathlib.Path(sys.argv[1])
fit(configure(json.loads(sys.argv[2]), root), root)
"""
MOST_GROWTH = 20  # MB

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")]


def measure(pid: int) -> tuple[int, int, int]:
    """Resident memory in MB, open files and threads of a process."""
    process = Path(f"/proc/{pid}")
    found = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())
    return int(found[1]) // 1024 if found else 0, len(os.listdir(process / "fd")), len(os.listdir(process / "task"))


@pytest.mark.parametrize("options", [{}, {"workers": 2, "cache": "none"}, {"igtt": True}])
def test_many_epochs_leak_nothing(tmp_path, record_property, options):
    write_disk_dataset(tmp_path, counts=(8, 2, 1), size=64)
    command = [sys.executable, "-c", CODE, str(tmp_path), json.dumps(TINY | options)]
    measured = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO_ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if epoch := re.match(rf"epoch (\d+)/{EPOCHS}  loss", line):
                measured[int(epoch[1])] = measure(process.pid)
    assert process.returncode == 0 and len(measured) == EPOCHS
    settled, late = measured[SETTLED], measured[EPOCHS - 1]
    record_property("MB, files, threads", f"{settled} → {late}")
    growth = [now - before for now, before in zip(late, settled, strict=True)]
    assert growth[0] < MOST_GROWTH and growth[1] <= 2 and growth[2] <= 1
