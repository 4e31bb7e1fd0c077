"""Command-line tool: write the lists of a data set from its folders of images and labels.

python datasets/make_lists.py --dataset er [--source DIR] [--labels labels] [--noisy_labels labels_x]
python datasets/make_lists.py --dataset cityscapes --layout cityscapes --source DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, whose names shadow

import numpy as np

from datasets.catalog import check_name
from datasets.cityscapes import CLASSES, cityscapes_pairs
from datasets.image_io import read_label
from datasets.labels import IGNORE
from datasets.list_pairing import IMAGE_SUFFIXES, Pairing, label_folders, list_images, pair_files
from datasets.lists import CLEAN_LIST, NOISY_LIST, SPLITS, write_list
from utils.cli import CommandParser, UserError, run_command, shortened
from utils.run_folder import REPO_ROOT, display_path, quoted

LISTS = {"train": f"train/{CLEAN_LIST}", "val": "val.txt", "test": "test.txt"}
LAYOUTS = ("folders", "cityscapes")
LABELS_LOOKED_AT = 100
MAX_CLASSES = 32

Say = Callable[[str], object]
Pairs = list[tuple[Path, Path | None]]


def main() -> None:
    """Write the lists that the command line asks for, and say what to type next."""
    options = _parser().parse_args()
    given = (options.dataset, options.source, options.labels, options.noisy_labels)
    written = make_lists(*given, layout=options.layout)
    print(next_step(options.dataset, written, options.layout))


def make_lists(
    dataset: str,
    source: Path | None = None,
    labels: str | None = None,
    noisy_labels: str | None = None,
    root: Path = REPO_ROOT,
    say: Say = print,
    layout: str = "folders",
) -> dict[str, Pairs]:
    """Pair images with labels by stem and write the lists below ``txt/<dataset>``.

    Args:
        dataset: the name that the lists get.
        source: the folder with ``{train,val,test}/{images,labels}`` (default: ``datasets/<dataset>``).
        labels: the folder of the labels beside ``images`` (default: ``labels``). A split without any folder of labels
            is listed by its images alone.
        noisy_labels: the folder of a second, noisy set of training labels, for ``train_noisyLabel.txt``.
        root: the folder that has ``txt`` and ``datasets``.
        say: takes the lines meant for the user: files without partner, missing splits, what was written.
        layout: how images and labels lie below ``source``: ``folders`` as above, or ``cityscapes``, whose labels are
            written anew below ``datasets/<dataset>``, see `datasets.cityscapes`.
    Returns: what each list holds, by its path below ``txt/<dataset>``.
    Raises:
        UserError: no images at all; no such folder of labels; equal stems; images and labels of which no two agree.
    """
    check_name(dataset)
    source = source or root / "datasets" / dataset
    if layout == "cityscapes":
        splits, noisy = cityscapes_pairs(source, root / "datasets" / dataset, labels, noisy_labels, say)
    else:
        splits, noisy = folder_pairs(source, labels or "labels", noisy_labels, say)
    contents = {LISTS[split]: pairs for split, pairs in splits.items()}
    if noisy is not None:
        contents[f"train/{NOISY_LIST}"] = noisy
    for name, pairs in contents.items():
        _write(root / "txt" / dataset / name, pairs, root, say)
    for split in SPLITS:
        if split not in splits:
            say(f"no {LISTS[split]}: there are no images in {display_path(source)} for it")
    return contents


def folder_pairs(
    source: Path, labels: str, noisy_labels: str | None, say: Say
) -> tuple[dict[str, Pairs], Pairs | None]:
    """The samples of every split in ``{train,val,test}/{images,labels}``, and those with noisy training labels."""
    found = [split for split in SPLITS if list_images(source / split / "images")]
    if not found:
        raise UserError(_no_images(source))
    splits = {split: pair_split(source / split, labels, say) for split in found}
    if noisy_labels is None:
        return splits, None
    if "train" not in found:
        raise UserError(f"--noisy_labels {noisy_labels}: no images in {display_path(source / 'train/images')}")
    return splits, _labelled_pairs(source / "train", noisy_labels, say)


def pair_split(folder: Path, labels: str, say: Say) -> Pairs:
    """The samples of one split's folder; images alone where it has no labels at all."""
    if label_folders(folder):
        return _labelled_pairs(folder, labels, say)
    use = "it can be predicted, not scored" if folder.name == "test" else "only label-free training (--igtt) can use it"
    say(f"{display_path(folder / labels)} has no labels: the list names images alone; {use}")
    return [(image, None) for image in list_images(folder / "images")]


def next_step(dataset: str, written: dict[str, Pairs], layout: str = "folders") -> str:
    """The command to type after the lists are written."""
    if LISTS["train"] not in written:
        return "next, predict with a trained network: python evaluation/inference.py --help"
    command = f"python main.py --dataset {quoted(dataset)}"
    labels = [label for _, label in written[LISTS["train"]] if label is not None]
    if not labels:
        return f"next: {command} --igtt"
    if layout == "cityscapes":
        return f"next: {command} --num_classes {len(CLASSES)} --in_channels 3"
    values = class_values(labels)
    if len(values) > 2 and values[-1] < MAX_CLASSES:
        return (
            f"next: {command} --num_classes {values[-1] + 1}\n"
            f"(the labels hold {', '.join(map(str, values))}; without --num_classes all but 0 is foreground)"
        )
    return f"next: {command}"


def class_values(labels: Sequence[Path]) -> list[int]:
    """The values below 255 that occur in at most `LABELS_LOOKED_AT` labels, sorted; none if they cannot be classes."""
    found: set[int] = set()
    for label in labels[:: -(-len(labels) // LABELS_LOOKED_AT)]:
        try:
            found.update(np.unique(read_label(label, num_classes=IGNORE)).tolist())
        except UserError:  # instance numbers or a broken file: training checks labels, with list and line
            return []
    return sorted(found - {IGNORE})


def _labelled_pairs(folder: Path, labels: str, say: Say) -> Pairs:
    label_files = list_images(folder / labels)
    if not label_files:
        others = ", ".join(label_folders(folder)) or "none"
        raise UserError(
            f"{display_path(folder / labels)} has no labels; folders of labels in {display_path(folder)}: {others} "
            "(--labels names the one of all splits, --noisy_labels a second one of train)"
        )
    pairing = pair_files(list_images(folder / "images"), label_files)
    if not pairing.pairs:
        image, label = pairing.images_alone[0], pairing.labels_alone[0]
        raise UserError(
            f"no image of {display_path(folder)} has a label of the same name: images/{image.name}, "
            f"{labels}/{label.name}, …; rename the labels after their images"
        )
    _tell_alone(pairing, folder, labels, say)
    return list(pairing.pairs)


def _tell_alone(pairing: Pairing, folder: Path, labels: str, say: Say) -> None:
    for kind, alone, other in (("images", pairing.images_alone, labels), (labels, pairing.labels_alone, "images")):
        if alone:
            names = shortened([file.name for file in alone])
            say(f"{display_path(folder / kind)}: {len(alone)} without partner in {other}, left out: {names}")


def _write(path: Path, pairs: Pairs, root: Path, say: Say) -> None:
    before = " (in place of the list that was there)" if path.exists() else ""
    write_list(path, pairs, root)
    say(f"wrote {display_path(path)}: {len(pairs)} samples{before}")


def _no_images(source: Path) -> str:
    shown = display_path(source)
    there = "" if source.is_dir() else f" ({shown} does not exist)"
    return (
        f"no images found{there}. Put them ({', '.join(IMAGE_SUFFIXES)}) into "
        f"{shown}/{{train,val,test}}/images and their labels, under the same names, into …/labels beside; "
        "or name the folder that has train, val and test with --source"
    )


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Write the lists of a data set, txt/X/train/train_gt.txt, txt/X/val.txt and txt/X/test.txt, from "
        "its folders {train,val,test}/{images,labels}. Images and labels are paired by name without suffix.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("--dataset", required=True, metavar="X", help="name of the data set")
    parser.add_argument(
        "--source", type=Path, metavar="DIR", help="folder that has train, val and test (default: datasets/X)"
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="folders",
        help="how the folders lie: {train,val,test}/{images,labels}, or those of Cityscapes, leftImg8bit and gtFine, "
        "whose label ids become 19 classes (default: folders)",
    )
    parser.add_argument(
        "--labels", metavar="NAME", help="folder of the labels beside images (default: labels; cityscapes: gtFine)"
    )
    parser.add_argument(
        "--noisy_labels",
        metavar="NAME",
        help="folder of noisy training labels beside images, for train_noisyLabel.txt (default: no such list)",
    )
    return parser


if __name__ == "__main__":
    run_command(main)
