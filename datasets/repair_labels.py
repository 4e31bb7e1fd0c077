"""Command: correct the labels of a list on disk, or make one of those of several annotators; see ``--help``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

from collections.abc import Sequence

from datasets import FUSIONS
from utils.cli import CommandParser, UserError, run_command, whole_number


def make_parser() -> CommandParser:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="datasets/repair_labels.py",
        description="Correct the labels of a list on disk: writes datasets/X/train/labels_repaired_… (with --fusion "
        "labels_fused) with manifest.json, and the list that names them; the old labels stay.",
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="X", help="name of the data set")
    add("--train_list", metavar="LIST", help="labels to correct (default: train_noisyLabel.txt, else train_gt.txt)")
    add("--clean_list", metavar="LIST", help="clean labels of some of the images, which auto chooses by")
    how = "offset:r (wider by r pixels, r < 0: narrower), move:dy,dx, or auto: what helps on the clean labels (default)"
    add("--label_repair", metavar="SPEC|auto", help=how)
    fused = "make one label of those of several annotators, as 8-bit shares of foreground"
    add("--fusion", choices=tuple(FUSIONS), help=fused)
    add("--num_classes", type=whole_number(1, 254), default=1, metavar="K", help="1 for binary labels (default)")
    add("--ignore_index", type=whole_number(0, 65535), metavar="V", help="label value that is ignored")
    add("--label_map", metavar="V:CLASS,…", help='what label values or colours mean: "1:0,2:1,-1:ignore"')
    add("--data_root", metavar="DIR", help="tried first for the lists' relative paths (default: $SEG_ROOT)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Correct the labels that the command line names, and say how to train on them."""
    options = vars(make_parser().parse_args(arguments))
    from datasets.catalog import prepare_dataset
    from evaluation.label_audit.repaired_lists import fuse_list, repair_list

    dataset = prepare_dataset(options.pop("dataset"), options["train_list"])
    train_list, spec, how = (options.pop(name) for name in ("train_list", "label_repair", "fusion"))
    if how is None:
        repair_list(dataset, train_list, spec=spec or "auto", **options)
    elif spec is not None:
        raise UserError("--label_repair and --fusion are different things; --fusion repaired corrects each annotator")
    else:
        fuse_list(dataset, train_list, how=how, **options)


if __name__ == "__main__":
    run_command(main)
