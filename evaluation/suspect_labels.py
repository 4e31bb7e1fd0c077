"""Command: which labels are suspect? Ranks a list's labels by what networks trained without them predict."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence

from utils.cli import CommandParser, channel_list, run_command, whole_number


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/suspect_labels.py",
        description="Which labels are suspect? Ranks labels by predictions of networks that never saw them: train "
        "with main.py --fold k/K, predict each run's held_out.txt, and give all the folders of predictions.",
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME", help="name of the data set: datasets/NAME and txt/NAME")
    add("--train_list", metavar="LIST", help="labels to judge (default: train_noisyLabel.txt, else train_gt.txt)")
    folders = "folders of predictions; of an image in several, the first that is out of sample counts"
    add("--prd_dir", required=True, nargs="+", type=Path, metavar="DIR", help=folders)
    add("--top", type=whole_number(), default=16, metavar="N", help="labels to draw (default: 16)")
    add("--num_classes", type=whole_number(1, 254), metavar="K", help="1 for binary labels (default: as recorded)")
    add("--ignore_index", type=whole_number(), metavar="V", help="value that is ignored (default: as recorded)")
    meaning = "what label values or colours mean (default: as the run decided, else by the labels)"
    add("--label_map", metavar="V:CLASS,…", help=meaning)
    shown = "channels of the images to draw, by number or OME name (default: as recorded)"
    add("--channels", type=channel_list, default=(), metavar="C,…", help=shown)
    add("--data_root", metavar="DIR", help="folder that relative paths in the list start from (default: $SEG_ROOT)")
    add("--out", type=Path, metavar="DIR", help="where the files go (default: train_log/NAME/suspects_<list>)")
    page = "write review.html, on which issues are looked at and decided; --prd_dir may be a folder of issues"
    add("--review", action="store_true", help=page)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Look for label issues in the list that the command line names."""
    options = vars(parse_options(arguments))
    from evaluation.label_errors.issues import find_label_issues

    find_label_issues(options.pop("dataset"), options.pop("prd_dir"), **options)


if __name__ == "__main__":
    run_command(main)
