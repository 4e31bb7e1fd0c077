"""Command: hold score maps against labels; a table, metrics.json, per_image.csv, overlays and report.html."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence
from typing import Any

from evaluation.objects import INSTANCES
from utils.cli import CommandParser, channel_list, fraction, run_command, whole_number


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(prog="evaluation/metrics.py", description="Score predicted maps against labels.")
    add = parser.add_argument
    maps = "pred/ of a prediction, its parent, or any folder of TIFF or PNG maps"
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--prd_dir", type=Path, metavar="DIR", help=maps)
    several = "two or more such folders: paired differences to the first, tested, with intervals"
    which.add_argument("--compare", nargs="+", type=Path, metavar="DIR", help=several)
    group = "with --compare: images in whose path a regular expression finds the same text count once"
    add("--group_by", metavar="REGEX", help=group)
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
    objects = "how objects of masks are told apart where labels number theirs (default: as recorded, or as maps do)"
    add("--instances", choices=[*INSTANCES], help=objects)
    add("--out", type=Path, metavar="DIR", help="where the figures go (default: beside pred/)")
    add("--no_report", action="store_true", help="write no report.html and no overlays")
    options = parser.parse_args(arguments)
    if options.group_by is not None and options.compare is None:
        parser.error("--group_by belongs to --compare: the table of a single folder is by image")
    if options.label_audit is not None and options.compare is not None:
        parser.error("--label_audit belongs to --prd_dir")
    return options


def evaluate_maps(prd_dir: Path, test_data_dir: str | None = None, **settings: Any) -> dict[str, Any]:
    """Score the maps of a folder; see `evaluation.pages.evaluate.evaluate_maps`, here without its imports."""
    from evaluation.pages.evaluate import evaluate_maps

    return evaluate_maps(prd_dir, test_data_dir, **settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score what the command line names."""
    options = vars(parse_options(arguments))
    report, folders, group_by = not options.pop("no_report"), options.pop("compare"), options.pop("group_by")
    if folders is None:
        evaluate_maps(report=report, **options)
        return
    from evaluation.pages.compare import compare_maps

    which = {name: value for name, value in options.items() if name not in ("prd_dir", "label_audit")}
    compare_maps(folders, group_by=group_by, **which)


if __name__ == "__main__":
    run_command(main)
