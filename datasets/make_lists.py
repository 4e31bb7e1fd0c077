"""Command-line tool: write the lists of a data set from the folders of images and labels that you have.

python datasets/make_lists.py --dataset NAME [FOLDER ...] [--labels NAME ...] [--split 70/15/15]
python datasets/make_lists.py --dataset cityscapes --layout cityscapes --source DIR
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, whose names shadow

from utils.cli import CommandParser, channel_list, run_command, whole_number

EPILOG = """Layouts: {train,val,test}/{images,labels}, images/ and masks/ without split, imagesTr/ and labelsTr/,
train/ and train_masks/, one folder with 7.png and 7_mask.png, folders within folders, a file an object. Look at
txt/NAME/preview.jpg afterwards: a wrong pairing is seen there at a glance."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the lists that the command line asks for, and say what to type next."""
    options = vars(make_parser().parse_intermixed_args(arguments))
    from datasets.list_building import make_lists  # --help waits for no reader of images

    folders = [*options.pop("folders"), *options.pop("source")]
    make_lists(options.pop("dataset"), folders, **options)


def make_parser() -> CommandParser:
    """The options of the command."""
    from datasets.list_layouts import LAYOUTS
    from datasets.list_splits import DEFAULT_SPLIT

    parser = CommandParser(
        prog="datasets/make_lists.py",
        description="Write the lists of a data set, txt/X/train/train_gt.txt, txt/X/val.txt and txt/X/test.txt, from "
        "folders of images and labels, and a contact sheet of them. Images and labels are paired by name.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="X", help="name of the data set")
    add("folders", nargs="*", type=Path, metavar="FOLDER", help="where images and labels lie (default: datasets/X)")
    add("--source", nargs="+", type=Path, default=[], metavar="DIR", help="the same as FOLDER")
    columns = "folder of the labels, its name or path; several: a column each, for several annotators"
    add("--labels", nargs="+", default=[], metavar="NAME", help=columns)
    add("--noisy_labels", metavar="NAME", help="folder of noisy training labels, for train_noisyLabel.txt")
    marks = "what the labels' names end with, such as _mask, mask.png, or begin with, such as mask_"
    add("--label_suffix", nargs="+", default=[], metavar="END", help=marks)
    add("--split", metavar="A/B/C", help=f"parts of train, val and test where no folder divides ({DEFAULT_SPLIT})")
    together = "images in whose path it finds the same text stay in one part: '(cell[0-9]+)_'"
    add("--group_by", metavar="REGEX", help=together)
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="S", help="of the split (default: 0)")
    add("--label_map", metavar="V:CLASS,…", help='what label values or colours mean: "1:0,2:1,-1:ignore"')
    add("--channels", type=channel_list, default=(), metavar="C,…", help="channels to read, by number or OME name: 0,2")
    add("--overwrite", action="store_true", help="replace lists that were changed by hand; they are kept as .bak")
    streets = "cityscapes: leftImg8bit and gtFine, whose label ids become 19 classes (default: folders)"
    add("--layout", choices=LAYOUTS, default="folders", help=streets)
    return parser


if __name__ == "__main__":
    run_command(main)
