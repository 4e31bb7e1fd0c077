"""Command: write a trained run's network in a format that other programs read, with a model card."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence

from evaluation.prediction.model_formats import FORMATS
from utils.cli import CommandParser, run_command


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/export.py", description="Write a trained run's network in a format that other programs read."
    )
    add = parser.add_argument
    add("--train_dir", required=True, metavar="RUN", help="run folder: a path or <dataset>/<run>")
    add("--to", required=True, choices=tuple(FORMATS), help="format; each has its folder in the run's export/")
    add("--test_ckpt_epoch", default="best", metavar="N|best|last", help="checkpoint of the run (default: best)")
    add("--train_list", metavar="LIST", help="images that openvino-int8 is calibrated on (default: the run's)")
    judged = "images that openvino-int8 is judged by and bioimageio shows one of (default: the run's validation list)"
    add("--val_list", metavar="LIST", help=judged)
    add("--data_root", metavar="DIR", help="folder that relative paths in these lists start from (default: the run's)")
    add("--authors", nargs="+", default=(), metavar="NAME", help="who made the model, for its card")
    add("--license", metavar="SPDX", help="licence of the model, such as CC-BY-4.0, for its card")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Export what the command line names."""
    options = vars(parse_options(arguments))
    from evaluation.prediction.model_formats.exporting import export_run

    export_run(options.pop("train_dir"), options.pop("to"), options.pop("test_ckpt_epoch"), **options)


if __name__ == "__main__":
    run_command(main)
