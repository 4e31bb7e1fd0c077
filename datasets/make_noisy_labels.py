"""Command: put label noise on the clean labels of a data set, on disk.

python datasets/make_noisy_labels.py --dataset er --label_noise flip:0.45,0.2
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, whose names shadow

import argparse
from collections.abc import Sequence

from utils.cli import CommandParser, run_command, whole_number
from utils.run_folder import display_path


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    from datasets.label_noise import STEPS, UNLABELLED
    from datasets.list_files import NOISY_LIST
    from datasets.noise_files import SOURCE_LIST

    steps = ", ".join("ntm:FILE.json" if name == "ntm" else rule.form(name) for name, rule in STEPS.items())
    parser = CommandParser(
        prog="datasets/make_noisy_labels.py",
        description="Put label noise on the clean training labels of a data set, on disk: writes "
        "datasets/X/train/labels_NAME with manifest.json, and txt/X/train/train_NAME.txt.",
        epilog=f"Steps, joined by '+': {steps}.",
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="X", help="name of the data set")
    add("--label_noise", required=True, metavar="SPEC", help="e.g. flip:0.3 or skeleton+shift:1")
    another = "another seed draws others (default: 0)"
    add("--seed", type=whole_number(0, 2**63 - 1), default=0, metavar="S", help=another)
    binary = "classes; 1 is binary (default: 1)"
    add("--num_classes", type=whole_number(1, 254), default=1, metavar="K", help=binary)
    ignored = "label value that is ignored (default: none for binary labels, 255 for K classes)"
    add("--ignore_index", type=whole_number(0, 65535), metavar="V", help=ignored)
    add("--label_map", metavar="V:CLASS,…", help='what label values or colours mean: "1:0,2:1,-1:ignore"')
    dropped = "what sampling drops becomes (default: background)"
    add("--unlabelled", choices=UNLABELLED, default="background", help=dropped)
    clean = f"clean labels, name or path (default: {SOURCE_LIST})"
    add("--source_list", metavar="LIST", help=clean)
    default = f"let training read the new list by default: {NOISY_LIST} is made equal to it"
    add("--make_default", action="store_true", help=default)
    add("--data_root", metavar="DIR", help="tried first for the list's relative paths (default: $SEG_ROOT)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the noisy labels that the command line asks for, and say how to train on them."""
    options = vars(parse_options(arguments))
    from datasets.catalog import prepare_dataset
    from datasets.label_noise import parse_spec
    from datasets.list_files import NOISY_LIST, default_training_list
    from datasets.noise_files import SOURCE_LIST, channels_of_list, training_command, write_noisy_labels
    from datasets.simulation import SIMULATED

    spec = options.pop("label_noise")
    parse_spec(spec, options["num_classes"])  # a slip is told before a data set is simulated
    dataset = prepare_dataset(options.pop("dataset"), options["source_list"])
    source_list = options.pop("source_list") or SOURCE_LIST
    options["make_default"] |= dataset in SIMULATED and default_training_list(dataset).name != NOISY_LIST
    new_list = write_noisy_labels(dataset, spec, source_list=source_list, **options)
    equal = f"; {NOISY_LIST} beside it is now equal to it" if options["make_default"] else ""
    print(f"wrote {display_path(new_list)}{equal}")
    read = {name: options[name] for name in ("num_classes", "ignore_index", "label_map", "data_root")}
    read["in_channels"] = channels_of_list(new_list, options["data_root"])
    print(f"train on it with: {training_command(dataset, new_list.stem, **read)}")


if __name__ == "__main__":
    run_command(main)
