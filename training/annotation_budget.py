"""Command: how much annotation is enough? Trains on shares of the pixels and of the images, and fits a curve."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence
from typing import Any

from training.options import make_parser
from utils.cli import CommandParser, positive_fraction, run_command
from utils.option_fields import positive_float, positive_int
from utils.run_folder import REPO_ROOT


def parse_options(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The tool's own options, and the options of main.py that were given; see ``--help``."""
    parser = CommandParser(
        prog="training/annotation_budget.py",
        description="How much annotation is enough? Trains with shares of the pixels labelled on numbers of images, "
        "and says what reaches the score of the full labels.",
        epilog="The options of main.py hold for every training: --dataset NAME, --train_list LIST (default: "
        "train_gt.txt), --val_list LIST, --preset (default here: quick), --network, --seed, --device, …; "
        "see python main.py --help. This tool sets the length of a training (--steps) and the folder itself.",
    )
    add = parser.add_argument
    add("--time_budget", type=positive_float, default=60.0, metavar="MINUTES", help="time to use (default: 60)")
    pixels = "fractions of the foreground pixels that are labelled (default: 1 0.25 0.05 0.01)"
    add("--pixel_shares", type=positive_fraction, nargs="+", metavar="P", help=pixels)
    images = "numbers of images (default: all of the list, a third, a ninth, …)"
    add("--image_counts", type=positive_int, nargs="+", metavar="N", help=images)
    add("--repeats", type=positive_int, default=3, metavar="N", help="trainings of each (default: 3)")
    enough = "fraction of the full labels' score that is enough (default: 0.95)"
    add("--target", type=positive_fraction, default=0.95, metavar="P", help=enough)
    steps = "steps of every training (default: those of the preset on the whole list, within 100 and 300)"
    add("--steps", type=positive_int, metavar="N", help=steps)
    add("--data_list", metavar="LIST", help="score on this list instead of the validation list")
    add("--out", type=Path, metavar="DIR", help="folder of the results (default: train_log/NAME/annotation_budget)")
    add("--keep_checkpoints", action="store_true", help="keep the weights of every training")
    own, rest = parser.parse_known_args(arguments)
    training = make_parser()
    training.prog = parser.prog
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(training.parse_args(rest)).items()
    }
    from training.budget.plan import SET_HERE

    for name in sorted(SET_HERE.keys() & given.keys()):
        parser.error(f"--{name} is set by this tool; use {SET_HERE[name]}")
    return own, {"preset": "quick", **given}


def main(arguments: Sequence[str] | None = None, root: Path = REPO_ROOT) -> None:
    """Measure what the command line asks for."""
    own, given = parse_options(arguments)
    from training.budget.session import measure_budget

    measure_budget(given, root=root, **vars(own))


if __name__ == "__main__":
    run_command(main)
