"""Command: audit the labels of a list, before training on them; verdict, metrics, advice, a picture."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

from collections.abc import Sequence
from functools import partial

from datasets.labels import FOREGROUNDS
from utils.cli import CommandParser, channel_list, run_command, whole_number


def make_parser() -> CommandParser:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/audit_labels.py", description="Say what labels will teach, before training on them."
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME", help="name of the data set: datasets/NAME and txt/NAME")
    add("--train_list", metavar="LIST", help="labels to audit (default: train_noisyLabel.txt, else train_gt.txt)")
    truth = parser.add_argument_group("what the labels are held against, where there is nothing the images alone")
    reference = truth.add_mutually_exclusive_group()
    reference.add_argument(
        "--clean_list", metavar="LIST", help="clean labels of some or all of the images (default: train_gt.txt)"
    )
    reference.add_argument("--second_annotator", metavar="LIST", help="another person's labels of the images")
    reference.add_argument(
        "--label_noise",
        metavar="SPEC",
        help="put noise, e.g. flip:0.3, on the list (default: train_gt.txt) and audit the result",
    )
    looks = "what the foreground looks like: settles the direction without clean labels"
    truth.add_argument("--foreground", choices=FOREGROUNDS, help=looks)
    add("--num_classes", type=whole_number(1, 254), default=1, metavar="K", help="1 for binary labels (default)")
    add("--ignore_index", type=whole_number(), metavar="V", help="label value that is ignored")
    add("--label_map", metavar="V:CLASS,…", help='what label values or colours mean: "1:0,2:1,-1:ignore"')
    add("--in_channels", type=whole_number(1, 1024), metavar="N", help="1 reads images as grey (default), 3 as RGB")
    add("--channels", type=channel_list, default=(), metavar="C,…", help="channels to read, by number or OME name: 0,2")
    add("--data_root", metavar="DIR", help="folder that relative paths in lists start from (default: $SEG_ROOT)")
    becomes = "what sampling in --label_noise drops becomes (default: background)"
    add("--unlabelled", choices=("background", "ignore"), default="background", help=becomes)
    counted = "images for profile, ceiling and prediction; Q counts all (default: 200)"
    add("--max_images", type=whole_number(1), default=200, metavar="N", help=counted)
    length = "optimizer steps of the training that the predicted IoU is for (default: of this machine's preset)"
    add("--steps", type=whole_number(1), metavar="N", help=length)
    sharper = "train for a tenth of the steps and extend its learning curve: a sharper predicted IoU"
    add("--pilot", action="store_true", help=sharper)
    add("--details", action="store_true", help="print everything that was found, not only what is read first")
    add("--seed", type=whole_number(), default=0, metavar="S", help="of noise, bootstrap and choice of images (0)")
    add("--out", type=Path, metavar="DIR", help="where the files go (default: train_log/NAME/audit_<list>)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Audit, print, save."""
    options = vars(make_parser().parse_args(arguments))
    from evaluation.label_audit.lists import audit_list
    from training.budget.pilot import make_pilot
    from training.configuration.resolve import resolve_options
    from training.data import run_steps
    from utils.device import accelerator

    steps = options["steps"] or partial(run_steps, resolve_options({}, has_accelerator=accelerator() != "cpu"))
    pilot = make_pilot(options) if options["pilot"] else None
    audit_list(**{**options, "steps": steps, "pilot": pilot})


if __name__ == "__main__":
    run_command(main)
