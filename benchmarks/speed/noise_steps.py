"""Speed of label noise: every step on 256×256 masks, and the shift against a plain loop over pixels.

    python benchmarks/speed/noise_steps.py --out label_noise.json

Prints a table of milliseconds an image and writes it with host and versions. Masks are drawn by the simulations; the
full mask, foreground everywhere, is the worst case of most steps and has no objects.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    # the repository root, not this folder, whose names would shadow others
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from datasets.label_noise import Step, make_noisy_label, parse_spec
from utils.cli import CommandParser, run_command
from utils.files import write_json
from utils.run_folder import environment_record

SIZE = 256
SIMULATED = ("er_sim", "mito_sim", "nuc_sim")
SPECS = (
    "clean",
    "sample:0.1",
    "sample:0.9",
    "flip:0.45",
    "flip:0.9,0.2",
    "random:0.3",
    "ntm",
    "dilate:3",
    "dilate:15",
    "erode:3",
    "erode:15",
    "skeleton",
    "shift:1",
    "shift:5",
    "missing:0.3",
    "merge:5",
    "wobble:2,1",
    "wobble:2,10",
    "polygon:2",
)
LIMITS_MS = {"wobble": 10.0, "polygon": 10.0}  # the project's bar; 2 ms for every other step
MIN_SPEEDUP = 100.0  # of the shift, against the loop


def main() -> None:
    """Time every step, print the table, write the record."""
    options = parse_options()
    masks = draw_masks(options.masks)
    steps = time_steps(masks, options.seconds)
    shift = time_shift(options.seconds)
    print_table(steps, shift)
    if options.out is not None:
        write_json(options.out, {**environment_record("cpu"), "size": SIZE, "steps": steps, "shift": shift})
        print(f"wrote {options.out}")


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = CommandParser(description="Speed of label noise on 256×256 masks.")
    parser.add_argument("--masks", type=int, default=5, metavar="N", help="simulated masks of each kind")
    parser.add_argument("--seconds", type=float, default=0.2, metavar="S", help="time spent on each step and mask")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    return parser.parse_args()


def draw_masks(count: int) -> dict[str, list[np.ndarray]]:
    """Masks (256, 256) of 0/1 by kind: ``count`` of each simulation, and the full mask."""
    from datasets.simulation import image_rng, simulate_image

    masks = {
        name: [simulate_image(name, image_rng(name, "train", index), SIZE)[1] for index in range(count)]
        for name in SIMULATED
    }
    return {**masks, "full": [np.ones((SIZE, SIZE), np.uint8)]}


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


def time_steps(masks: dict[str, list[np.ndarray]], seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds an image by spec and kind of mask: the mean over masks, and the slowest one."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for spec in SPECS:
        steps = (Step("ntm", (((0.9, 0.1), (0.3, 0.7)),), "ntm"),) if spec == "ntm" else parse_spec(spec)
        table[spec] = {}
        for kind, labels in masks.items():
            times = [median_ms(lambda: make_noisy_label(label, steps, 0, "image"), seconds) for label in labels]  # noqa: B023
            table[spec][kind] = {"mean_ms": float(np.mean(times)), "slowest_ms": max(times)}
    return table


def time_shift(seconds: float) -> dict[str, float]:
    """The shift by 1 on a full mask, vectorised and by a loop over pixels, and how many times faster it is."""
    full = np.ones((SIZE, SIZE), np.uint8)
    steps = parse_spec("shift:1")
    vectorised = median_ms(lambda: make_noisy_label(full, steps, 0, "image"), max(seconds, 1))
    loop = median_ms(lambda: shift_by_loop(full, 1, np.random.default_rng(0)), seconds)
    return {"vectorised_ms": vectorised, "loop_ms": loop, "speedup": loop / vectorised}


def shift_by_loop(mask: np.ndarray, reach: int, rng: np.random.Generator) -> np.ndarray:
    """The shift as one writes it first: pixel by pixel, one draw for each direction."""
    height, width = mask.shape
    shifted = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        new_y = min(max(y + rng.integers(-reach, reach + 1), 0), height - 1)
        new_x = min(max(x + rng.integers(-reach, reach + 1), 0), width - 1)
        shifted[new_y, new_x] = 1
    return shifted


def print_table(steps: dict[str, dict[str, dict[str, float]]], shift: dict[str, float]) -> None:
    """Milliseconds an image: mean over masks and, in brackets, the slowest; beside each step's bar."""
    kinds: Sequence[str] = list(next(iter(steps.values())))
    print(f"{'ms an image, mean (slowest)':<28}" + "".join(f"{kind:>16}" for kind in kinds) + f"{'bar':>6}")
    for spec, row in steps.items():
        limit = LIMITS_MS.get(spec.partition(":")[0], 2.0)
        cells = (f"{row[kind]['mean_ms']:.2f} ({row[kind]['slowest_ms']:.2f})" for kind in kinds)
        print(f"{spec:<28}" + "".join(f"{cell:>16}" for cell in cells) + f"{limit:>6.0f}")
    print(
        f"shift:1 on a full mask: {shift['vectorised_ms']:.2f} ms, by a loop over pixels {shift['loop_ms']:.0f} ms: "
        f"{shift['speedup']:.0f} times faster (bar: {MIN_SPEEDUP:.0f})"
    )


if __name__ == "__main__":
    run_command(main)
