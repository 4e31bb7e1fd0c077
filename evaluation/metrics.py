"""Command: hold score maps against labels; a table, metrics.json, per_image.csv, overlays and report.html."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence
from typing import Any

from utils.cli import CommandParser, channel_list, fraction, run_command, whole_number


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/metrics.py",
        formatter_class=argparse.HelpFormatter,
        description="Score predicted maps against labels.",
    )
    add = parser.add_argument
    maps = "pred/ of a prediction, its parent, or any folder of TIFF or PNG maps"
    add("--prd_dir", required=True, type=Path, metavar="DIR", help=maps)
    labels = "list of images and labels (default: the one that inference recorded)"
    add("--test_data_dir", metavar="LIST", help=labels)
    threshold = "scores at or above it are foreground (default: the recorded one, else 0.5)"
    add("--threshold", type=fraction, metavar="T", help=threshold)
    add("--num_classes", type=whole_number(1, 254), metavar="K", help="1 for binary (default: as recorded)")
    add("--ignore_index", type=whole_number(), metavar="V", help="label value that is ignored (default: as recorded)")
    meaning = "what label values or colours mean (default: as the run decided, else by the labels)"
    add("--label_map", metavar="V:CLASS,…", help=meaning)
    shown = "channels of the images to draw, by number or OME name (default: as recorded)"
    add("--channels", type=channel_list, default=(), metavar="C,…", help=shown)
    truth = "run or audit.json: estimate IoU and F1 against the truth from labels that err as this audit found"
    add("--label_audit", metavar="RUN|FILE", help=truth)
    add("--data_root", metavar="DIR", help="folder that relative paths in the list start from")
    add("--out", type=Path, metavar="DIR", help="where the figures go (default: beside pred/)")
    add("--no_report", action="store_true", help="write no report.html and no overlays")
    return parser.parse_args(arguments)


def evaluate_maps(prd_dir: Path, test_data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """Score the maps of a folder; see `evaluation.pages.evaluate.evaluate_maps`, here without its imports."""
    from evaluation.pages.evaluate import evaluate_maps

    return evaluate_maps(prd_dir, test_data_dir, **settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score what the command line names."""
    options = vars(parse_options(arguments))
    evaluate_maps(report=not options.pop("no_report"), **options)


if __name__ == "__main__":
    run_command(main)
