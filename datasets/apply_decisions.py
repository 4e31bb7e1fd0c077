"""Command: mend the labels of a list as decided on the review page of suspect_labels.py; see ``--help``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

from collections.abc import Sequence

from utils.cli import CommandParser, run_command


def make_parser() -> CommandParser:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="datasets/apply_decisions.py",
        description="Mend the labels of a list as decided on the page that suspect_labels.py --review writes: "
        "datasets/X/train/labels_mended with manifest.json, and txt/X/train/train_mended.txt; the old labels stay.",
    )
    add = parser.add_argument
    add("decisions", type=Path, metavar="decisions.json", help="what the review page gave for download")
    add("--dataset", required=True, metavar="X", help="name of the data set")
    add("--train_list", metavar="LIST", help="the list that was reviewed (default: as the decisions say)")
    folder = "folder with the issues, as the review page names it (default: where the decisions fit)"
    add("--prd_dir", type=Path, metavar="DIR", help=folder)
    add("--data_root", metavar="DIR", help="tried first for the list's relative paths (default: $SEG_ROOT)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Mend the labels that the command line names, and say how to train on them."""
    options = vars(make_parser().parse_args(arguments))
    from evaluation.label_errors.decisions import apply_decisions

    apply_decisions(options.pop("dataset"), options.pop("decisions"), **options)


if __name__ == "__main__":
    run_command(main)
