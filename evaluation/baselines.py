"""Command: segment images by methods that learn from no label, and score them like networks.

python evaluation/baselines.py --dataset nuc_sim
python evaluation/baselines.py --dataset er --data_list val --methods otsu ridge dfc --dfc iterations=300
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence

from datasets.labels import FOREGROUNDS
from evaluation.classical import BASELINES
from utils.cli import CommandParser, channel_list, run_command, whole_number


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/baselines.py", description="Segmentation without training labels, scored like networks."
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME", help="data set, or whose lists to look in")
    images = "list of images; labels are used for the table alone (default: test)"
    add("--data_list", default="test", metavar="LIST", help=images)
    add("--data_root", metavar="DIR", help="folder that relative paths in the list start from")
    add("--ignore_index", type=whole_number(), metavar="V", help="label value that is ignored")
    add("--label_map", metavar="V:CLASS,…", help='what label values or colours mean: "1:0,2:1,-1:ignore"')
    averaged = "channels to read and average, by number or OME name: 0,2"
    add("--channels", type=channel_list, default=(), metavar="C,…", help=averaged)
    add(
        "--foreground",
        default="auto",
        choices=("auto", *FOREGROUNDS),
        help="what structures look like; auto: bright or dark, by the skewness of the images; "
        "minority: the smaller part of each (default: auto)",
    )
    add(
        "--methods",
        nargs="+",
        default=list(BASELINES),
        choices=[*BASELINES, "dfc"],
        metavar="METHOD",
        help=f"of: {', '.join(BASELINES)} (default: all of these), dfc (differentiable feature clustering)",
    )
    add(
        "--dfc",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="settings of dfc, such as iterations=300, scope=set, seed=1; see evaluation/classical/dfc.py",
    )
    add("--out", type=Path, metavar="DIR", help="where the maps go (default: train_log/NAME/baselines/LIST/METHOD)")
    options = parser.parse_args(arguments)
    if options.dfc and "dfc" not in options.methods:
        parser.error("--dfc has settings of a method that is not among --methods")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the methods that the command line names."""
    options = vars(parse_options(arguments))
    from evaluation.classical.runner import run_methods

    run_methods(options.pop("dataset"), options.pop("methods"), dfc_settings=options.pop("dfc"), **options)


if __name__ == "__main__":
    run_command(main)
