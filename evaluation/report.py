"""Command: make the report of a run anew, or one page of several runs side by side.

python evaluation/report.py --train_dir nuc/unet nuc/hrnet
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence

from utils.cli import CommandParser, run_command


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/report.py",
        description="Write report.html from the predictions and metrics of a run; of several runs a page that shows "
        "them side by side. The page needs nothing beside it.",
    )
    add = parser.add_argument
    runs = "paths, or <dataset>/<run> below train_log; each must have been predicted and scored"
    add("--train_dir", required=True, nargs="+", metavar="RUN", help=runs)
    add("--results", metavar="NAME", help="folder below results/ (default: the latest that has metrics)")
    place = "the page (default: beside the metrics of the run, of several train_log/<dataset>/report.html)"
    add("--out", type=Path, metavar="FILE", help=place)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report that the command line asks for."""
    options = vars(parse_options(arguments))
    from evaluation.pages.rebuild import rebuild_report

    rebuild_report(options.pop("train_dir"), **options)


if __name__ == "__main__":
    run_command(main)
