"""The folder layout of Cityscapes, and its 34 label ids turned into the 19 classes that it is scored on.

``leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png`` has its label in ``gtFine/<split>/<city>/<frame>_gtFine_labelIds
.png``, or, drawn more coarsely, in ``gtCoarse``. Images stay where they are; labels are written anew as class indices,
since training reads nothing but class indices.

Source: Cordts et al., *The Cityscapes Dataset for Semantic Urban Scene Understanding*, CVPR 2016, and its class
definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datasets.image_io import read_label, write_label
from datasets.labels import IGNORE
from datasets.list_files import SPLITS
from datasets.list_pairing import list_images, pair_files
from utils.cli import UserError, map_with_progress, shortened
from utils.paths import display_path

IMAGES, FINE = "leftImg8bit", "gtFine"
LABEL_IDS = 34  # 0…33; the licence plate's −1 is 255 in an 8-bit file
CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Class name → label id, in the order of the class indices 0…18; every other id is ignored."""

Say = Callable[[str], object]
Pairs = list[tuple[Path, Path | None]]


def class_table() -> np.ndarray:
    """Label id → class index 0…18, else IGNORE; uint8 (256,)."""
    table = np.full(256, IGNORE, np.uint8)
    table[list(CLASSES.values())] = np.arange(len(CLASSES))
    return table


def cityscapes_pairs(
    source: Path, target: Path, labels: str | None, noisy_labels: str | None, say: Say
) -> tuple[dict[str, Pairs], Pairs | None]:
    """Pair the images of every split with class labels that are written below ``target``.

    Args:
        source: the folder that has ``leftImg8bit`` and ``gtFine``.
        target: labels go to ``<split>/labels`` below it, noisy ones to ``train/labels_<noisy_labels>``.
        labels: the folder of the labels beside ``leftImg8bit`` (default: ``gtFine``).
        noisy_labels: that of noisy training labels, such as ``gtCoarse``.
        say: takes the lines meant for the user.
    Returns: the pairs of the splits that exist, and those of the noisy training labels. A split without labels, or
        whose labels show none of the classes, as those published of the test split, is paired with None.
    Raises:
        UserError: no such layout, or a label file that cannot be read or holds other ids.
    """
    kind = labels or FINE
    images = {split: frames(source / IMAGES / split, IMAGES) for split in SPLITS}
    found = [split for split in SPLITS if images[split]]
    if not found:
        raise UserError(
            f"no images in {display_path(source / IMAGES)}/{{{','.join(SPLITS)}}}/<city>/*_{IMAGES}.png; unpack "
            f"{IMAGES}_trainvaltest.zip and {FINE}_trainvaltest.zip into the folder that --source names"
        )
    splits = {
        split: _pair(images[split], source / kind / split, kind, target=target / split / "labels", say=say)
        for split in found
    }
    noisy = None
    if noisy_labels is not None:
        folder = source / noisy_labels / "train"
        noisy = _pair(
            images["train"], folder, noisy_labels, target=target / "train" / f"labels_{noisy_labels}", say=say
        )
    every = [pair for pairs in splits.values() for pair in pairs]
    for option, name, pairs in (("--labels", labels, every), ("--noisy_labels", noisy_labels, noisy)):
        if name is not None and not any(label for _, label in pairs):
            raise UserError(
                f"{option} {name}: no image has a label {display_path(source / name)}/<split>/<city>/"
                f"*_{name}_labelIds.png that shows a class"
            )
    return splits, noisy


def frames(folder: Path, kind: str, ending: str = "") -> list[Path]:
    """The files ``<city>/*_<kind><ending>.png`` of a split, in natural order of city and name."""
    cities = sorted(city for city in folder.glob("*") if city.is_dir())
    return [file for city in cities for file in list_images(city) if file.stem.endswith(f"_{kind}{ending}")]


def convert(path: Path, target: Path) -> bool:
    """Write a label of ids as a label of classes.

    Returns: whether it shows any of the classes.
    Raises:
        UserError: unreadable, or ids that Cityscapes does not have.
    """
    ids = read_label(path, num_classes=IGNORE)
    other = np.unique(ids[(ids >= LABEL_IDS) & (ids != IGNORE)])
    if other.size:
        raise UserError(
            f"{display_path(path)} holds {shortened([str(value) for value in other])}, which are no label ids of "
            f"Cityscapes (0…{LABEL_IDS - 1}, 255)"
        )
    label = class_table()[ids]
    write_label(target, label, num_classes=len(CLASSES))
    return bool((label != IGNORE).any())


def _pair(images: Sequence[Path], folder: Path, kind: str, target: Path, say: Say) -> Pairs:
    """Pair images with the labels of ``folder`` and write these as class indices into ``target``."""
    pairing = pair_files(
        images,
        frames(folder, kind, "_labelIds"),
        image_key=partial(_frame, ending=f"_{IMAGES}"),
        label_key=partial(_frame, ending=f"_{kind}_labelIds"),
    )
    if not pairing.pairs:
        say(f"{display_path(folder)} has no labels of these images: the list names images alone")
        return [(image, None) for image in images]
    for what, alone in (("images without label", pairing.images_alone), ("labels without image", pairing.labels_alone)):
        if alone:
            names = shortened([file.name for file in alone])
            say(f"{display_path(folder)}: {len(alone)} {what}, left out: {names}")
    written = [target / f"{_frame(image, f'_{IMAGES}')}.png" for image, _ in pairing.pairs]
    jobs = [(label, file) for (_, label), file in zip(pairing.pairs, written, strict=True)]
    shown = map_with_progress(lambda job: convert(*job), jobs, f"labels of {display_path(folder)}")
    if not any(shown):
        say(f"{display_path(folder)}: the labels show none of the classes: the list names images alone")
        return [(image, None) for image, _ in pairing.pairs]
    say(f"wrote {len(written)} labels of {len(CLASSES)} classes to {display_path(target)}")
    return [(image, label) for (image, _), label in zip(pairing.pairs, written, strict=True)]


def _frame(path: Path, ending: str) -> str:
    """What the image and the labels of a frame have in common: ``aachen_000000_000019``."""
    return path.stem.removesuffix(ending)
