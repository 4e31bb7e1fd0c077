"""What only a GPU can say, within ten minutes on one device: the most valuable parts first.

Every part is a process of its own with a limit in time, and its line of JSON is written as soon as it is done: a run
that is cut off is still useful, and the next one goes on where it stopped. ``--tiny`` tries every part at its smallest
sizes on a CPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --tiny --budget 3600 --out benchmarks/results/gpu_dry_run.jsonl
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder

import argparse
import os
import signal
import subprocess
import time

from benchmarks.grid import RESULTS, read_results
from benchmarks.speed.record import table
from utils.cli import CommandParser, UserError, run_command
from utils.device import choose_device
from utils.run_folder import REPO_ROOT

# part of benchmarks/speed/measure.py → the most seconds that it may take
LIMITS = {
    "gpu_tests": 120,
    "ceilings": 30,
    "graphs": 120,
    "training": 150,
    "recipe": 150,
    "inference": 120,
    "noise_row": 60,
    "compiled_recipe": 150,
    "label_free": 200,
    "compiled": 90,
    "networks": 120,
    "processes": 60,
}
BUDGET = 600.0  # seconds


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=(__doc__ or "").splitlines()[0])
    parts = ", ".join(LIMITS)
    parser.add_argument("--parts", nargs="+", default=list(LIMITS), choices=LIMITS, metavar="PART", help=f"of: {parts}")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="S", help=f"seconds in all ({BUDGET:g})")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes on a CPU: to see that every part works")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.jsonl", metavar="FILE", help="results")
    return parser.parse_args()


def run_part(part: str, out: Path, *, seconds: float, tiny: bool) -> str | None:
    """Measure a part in a process of its own, which appends to ``out``; what went wrong, or None."""
    sizes = ("--device", "cpu", "--tiny") if tiny else ("--device", "cuda", "--rounds", "1")
    command = [sys.executable, "benchmarks/speed/measure.py", "--parts", part, "--baseline", "--out", str(out), *sizes]
    process = subprocess.Popen(command, cwd=REPO_ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(seconds)
        return f"exit status {status}" if status else None
    except subprocess.TimeoutExpired:
        return f"cut off after {seconds:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with all processes that it started
            process.wait()


def measured(out: Path) -> set[str]:
    """The parts that a file of results holds."""
    return {record["cell"]["part"] for record in read_results(out).values()}


def run_parts(parts: list[str], out: Path, *, budget: float, tiny: bool) -> dict[str, str]:
    """Measure what the file lacks, in the order of ``LIMITS``, until the budget is spent; what failed, by part."""
    started, failed = time.monotonic(), {}
    for part in LIMITS:
        if part not in parts or part in measured(out):
            continue
        left = budget - (time.monotonic() - started)
        if left <= 0:
            failed[part] = "no time left"
            continue
        print(f"== {part}, {left:.0f} s left", flush=True)
        fault = run_part(part, out, seconds=left if tiny else min(LIMITS[part], left), tiny=tiny)
        if fault:
            failed[part] = fault
            print(f"{part}: {fault}", flush=True)
    return failed


def main() -> None:
    """Measure what is missing and print the table; exit status 1 where a part is missing still."""
    options = parse_options()
    if not options.tiny and choose_device("auto") != "cuda":
        raise UserError("there is no CUDA device here; --tiny tries every part on a CPU")
    out = options.out.resolve()
    failed = run_parts(options.parts, out, budget=options.budget, tiny=options.tiny)
    print(table(list(read_results(out).values())))
    if failed:
        raise SystemExit("\n".join(f"missing: {part}: {fault}" for part, fault in failed.items()))


if __name__ == "__main__":
    run_command(main)
