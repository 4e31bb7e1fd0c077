"""Command-line tool: put label noise on the clean labels of a data set, on disk.

python datasets/make_noisy_labels.py --dataset er --label_noise flip:0.45,0.2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, whose names shadow

from datasets.catalog import prepare_dataset
from datasets.label_noise import STEPS, UNLABELLED, parse_spec
from datasets.lists import NOISY_LIST
from datasets.noise_files import write_noisy_labels
from utils.cli import CommandParser, run_command, whole_number
from utils.run_folder import display_path, quoted

SOURCE_LIST = "train_gt"

__all__ = ["main", "write_noisy_labels"]


def main() -> None:
    """Make the noisy labels that the command line asks for, and say how to train on them."""
    options = _parser().parse_args()
    parse_spec(options.label_noise, options.num_classes)  # a slip is told before a data set is simulated
    dataset = prepare_dataset(options.dataset, options.source_list)
    new_list = write_noisy_labels(
        dataset,
        options.label_noise,
        options.seed,
        options.num_classes,
        options.unlabelled,
        options.source_list or SOURCE_LIST,
        ignore_index=options.ignore_index,
        data_root=options.data_root,
    )
    print(f"wrote {display_path(new_list)}; {NOISY_LIST} beside it is now equal to it")
    classes = "" if options.num_classes == 1 else f" --num_classes {options.num_classes}"
    ignored = "" if options.ignore_index is None else f" --ignore_index {options.ignore_index}"  # of the other lists
    command = f"python main.py --dataset {quoted(dataset)}{classes}{ignored} --train_list {quoted(new_list.stem)}"
    print(f"train on it with: {command}")


def _parser() -> CommandParser:
    steps = ", ".join("ntm:FILE.json" if name == "ntm" else rule.form(name) for name, rule in STEPS.items())
    parser = CommandParser(
        description="Put label noise on the clean training labels of a data set, on disk: writes "
        "datasets/X/train/labels_NAME with manifest.json, and txt/X/train/train_NAME.txt, to which "
        f"{NOISY_LIST} is made equal.",
        epilog=f"Steps, joined by '+': {steps}.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("--dataset", required=True, metavar="X", help="name of the data set")
    parser.add_argument("--label_noise", required=True, metavar="SPEC", help="e.g. flip:0.3 or skeleton+shift:1")
    parser.add_argument(
        "--seed", type=whole_number(0, 2**63 - 1), default=0, metavar="S", help="another seed draws others (default: 0)"
    )
    parser.add_argument(
        "--num_classes", type=whole_number(1, 254), default=1, metavar="K", help="classes; 1 is binary (default: 1)"
    )
    parser.add_argument(
        "--ignore_index",
        type=whole_number(0, 65535),
        metavar="V",
        help="label value that is ignored (default: none for binary labels, 255 for K classes)",
    )
    parser.add_argument(
        "--unlabelled",
        choices=UNLABELLED,
        default="background",
        help="what sampling drops becomes (default: background)",
    )
    parser.add_argument("--source_list", metavar="LIST", help=f"clean labels, name or path (default: {SOURCE_LIST})")
    parser.add_argument(
        "--data_root", metavar="DIR", help="tried first for the list's relative paths (default: $SEG_ROOT)"
    )
    return parser


if __name__ == "__main__":
    run_command(main)
