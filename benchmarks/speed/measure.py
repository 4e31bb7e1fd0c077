"""How fast everything is on this machine, beside a plain recipe and what the hardware could do.

Parts that are finished in the file are kept, so a measurement can be stopped and gone on with.

    python benchmarks/speed/measure.py --parts cpu --baseline --out FILE.jsonl
    python benchmarks/gpu.py                    # what only a GPU can say, in ten minutes
    python benchmarks/speed/measure.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import argparse
import importlib
from dataclasses import asdict, replace
from typing import Any

from benchmarks.grid import RESULTS, read_results, run_trials, write_tables
from benchmarks.speed.record import SIZES, Settings, machine_record, table
from utils.cli import CommandParser, UserError, run_command
from utils.run_folder import REPO_ROOT, display_path

PAGE = "docs/SPEED.md"
# part → (file, function)
PARTS = {
    "ceilings": ("counts", "measure_ceilings"),
    "training": ("training", "measure_training"),
    "cpu_steps": ("training", "measure_cpu_steps"),
    "networks": ("networks", "measure_networks"),
    "inference": ("inference", "measure_inference"),
    "huge": ("inference", "measure_huge"),
    "startup": ("training", "measure_startup"),
    "noise": ("labels", "measure_label_noise"),
    "ems": ("labels", "measure_ems"),
    "metrics": ("labels", "measure_metrics"),
    "audit": ("labels", "measure_audit"),
    "safety": ("safety", "measure_safety"),
    "accuracy": ("accuracy", "measure_accuracy"),
    "processes": ("training", "measure_processes"),
    "compiled": ("training", "measure_compiled"),
    "graphs": ("training", "measure_graphs"),
    "recipe": ("whole_runs", "measure_recipe"),
    "compiled_recipe": ("whole_runs", "measure_compiled_recipe"),
    "noise_row": ("whole_runs", "measure_noise_row"),
    "label_free": ("whole_runs", "measure_label_free"),
    "gpu_tests": ("whole_runs", "measure_gpu_tests"),
}
CPU_PARTS = ("ceilings", "training", "inference", "huge", "startup", "noise", "ems", "metrics", "audit")
CPU_PARTS += ("safety", "accuracy")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["cpu"],
        choices=("cpu", *PARTS),
        metavar="PART",
        help=f"cpu: {', '.join(CPU_PARTS)}; or parts of: {', '.join(PARTS)}",
    )
    parser.add_argument("--baseline", action="store_true", help="run the plain recipe beside the fast one")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="(default: auto)")
    parser.add_argument("--width", type=int, metavar="CHANNELS", help="of the U-Net (default: 64 on CUDA, else 16)")
    parser.add_argument("--crop", type=int, metavar="PIXELS", help="of training (default: 256 on CUDA, else 128)")
    parser.add_argument("--batch_size", type=int, metavar="N", help="of training (default: 32 on CUDA, else 16)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="turns of fast and plain training (2)")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: as torch chooses)")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes: to see that every part works")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.jsonl", metavar="FILE", help="results")
    parser.add_argument("--summarize", action="store_true", help="no measuring: the table of the file")
    return parser.parse_args()


def choose_parts(names: list[str]) -> list[str]:
    """The parts that are named, each once, in the order of PARTS; ``cpu`` stands for several."""
    chosen = {part for name in names for part in (CPU_PARTS if name == "cpu" else (name,))}
    return [part for part in PARTS if part in chosen]


def make_settings(options: argparse.Namespace) -> Settings:
    """The sizes of this machine's measurements."""
    from utils.device import choose_device

    device = choose_device(options.device)
    width, crop, batch_size, repeat = (4, 32, 8, 1) if options.tiny else SIZES[device]
    settings = Settings(
        device, width, crop, batch_size, repeat, options.rounds, baseline=options.baseline, tiny=options.tiny
    )
    given = {name: getattr(options, name) for name in ("width", "crop", "batch_size")}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    return replace(settings, rounds=1, seconds=0.0) if options.tiny else settings


def measure_part(part: str, **settings: Any) -> dict[str, Any]:
    """What one part measures."""
    module, function = PARTS[part]
    figures = getattr(importlib.import_module(f"benchmarks.speed.{module}"), function)(Settings(**settings))
    return {"environment": machine_record(settings["device"]), "figures": [asdict(figure) for figure in figures]}


def measure(parts: list[str], settings: Settings, out: Path) -> dict[str, str]:
    """Measure what the file lacks; it is written after every part. Returns what failed, as ``run_trials`` does.

    Raises:
        UserError: the file holds one of the parts at other settings.
    """
    cells = [{"part": part, **asdict(settings)} for part in parts]
    for record in read_results(out).values():
        part = record["cell"]["part"]
        if part in parts and record["cell"] != {"part": part, **asdict(settings)}:
            raise UserError(
                f"{display_path(out)} holds part {part} at other settings, {record['cell']}: give another --out"
            )
    return run_trials(cells, measure_part, out, seconds=60)


def main() -> None:
    """Measure, or print the table and, for the results that the repository keeps, put it into its page."""
    options = parse_options()
    if options.summarize:
        found = table(list(read_results(options.out).values()))
        print(found)
        if options.out.resolve() in (RESULTS / "speed.jsonl", RESULTS / "gpu.jsonl"):
            write_tables(REPO_ROOT / PAGE, {options.out.stem: found})
        return
    if options.threads is not None:
        import os

        os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for processes started here; torch is not loaded yet
    failed = measure(choose_parts(options.parts), make_settings(options), options.out)
    print(table(list(read_results(options.out).values())))
    if failed:
        raise SystemExit("\n".join(f"failed: {part}: {error}" for part, error in failed.items()))


if __name__ == "__main__":
    run_command(main)
