"""Labels in a file an object, as those of the Data Science Bowl 2018: merged into one label of numbered objects.

``<id>/images/<id>.png`` has ``<id>/masks/*.png``, each the mask of one nucleus.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.image_io import read_label, write_image
from datasets.list_layouts import MERGED, Found
from datasets.list_pairing import LABEL_BEGINNINGS, LABEL_ENDINGS, stem, without_affix
from utils.cli import UserError, map_with_progress
from utils.files import unique_stems, write_json
from utils.run_folder import display_path

MAX_OBJECTS = 2**16 - 1
MOST_OVERLAP = 0.5  # of the masks' pixels; masks that overlap more are no objects but slices, frames or annotators
NUMBER = re.compile(r"[_-]\d+$")


def objects_by_image(images: Sequence[Found], labels: Sequence[Found]) -> dict[Path, list[Path]]:
    """The masks of every image, if there is a file an object; else nothing.

    They lie in the folder of the only image, or in one that is named after it, or are named after it with a number,
    ``7_1.png``. A single folder counts only where its files are called so, ``images.tif`` and ``masks.tif``.
    """
    image_of: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    masks_of: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for found in images:
        image_of[found.place].append(found.path)
    for found in labels:
        masks_of[found.place].append(found.path)
    shared = image_of.keys() & masks_of.keys()
    by_name = all(found.kind == stem(found.path) for found in labels)
    if len(shared) < (1 if by_name else 2) or any(len(image_of[place]) != 1 for place in shared):
        return _objects_by_name(images, labels)
    return {image_of[place][0]: masks_of[place] for place in image_of if place in shared}


def _objects_by_name(images: Sequence[Found], labels: Sequence[Found]) -> dict[Path, list[Path]]:
    names = [(found, name) for found in images for name in (stem(found.path), found.path.name)]
    image_of = {(*found.place, name): found.path for found, name in names}
    masks: dict[Path, list[Path]] = defaultdict(list)
    for found in labels:
        name = without_affix(NUMBER.sub("", stem(found.path)), LABEL_BEGINNINGS, LABEL_ENDINGS)
        image = image_of.get(found.place) or image_of.get((*found.place, name))
        if image is not None:
            masks[image].append(found.path)
    return masks if len(masks) > 1 else {}


def merge_object_masks(
    masks: Mapping[Path, Sequence[Path]], folder: Path, say: Callable[[str], object]
) -> dict[Path, Path]:
    """Write one label for every image, 16-bit TIFF of object numbers, later masks over earlier ones.

    Numbers run on from image to image, so that nobody takes them for classes, which recur.

    Args:
        masks: image → the masks of its objects.
        folder: where the labels go.
    Returns: image → label.
    Raises:
        UserError: masks that cannot be read, differ in size, or lie upon each other.
    """
    targets = [folder / f"{name}.tif" for name in unique_stems(list(masks))]
    firsts = np.cumsum([0, *map(len, masks.values())])[:-1]
    jobs = list(zip(masks.values(), targets, firsts.tolist(), strict=True))
    map_with_progress(_merge, jobs, f"merging masks into {display_path(folder)}")
    write_json(folder / MERGED, {"made_of": "masks of single objects", "labels": len(jobs)})
    count = sum(map(len, masks.values()))
    say(f"merged {count} masks of single objects into {len(jobs)} labels of numbered objects in {display_path(folder)}")
    return dict(zip(masks, targets, strict=True))


def _merge(job: tuple[Sequence[Path], Path, int]) -> None:
    paths, target, first = job
    if len(paths) > MAX_OBJECTS:
        raise UserError(f"{display_path(paths[0].parent)} has {len(paths)} masks; at most {MAX_OBJECTS} are merged")
    label: np.ndarray | None = None
    pixels = hidden = 0
    for number, path in enumerate(paths, start=first):
        mask = read_label(path)
        if label is None:
            label = np.zeros(mask.shape, np.uint16)
        if mask.shape != label.shape:
            raise UserError(f"{display_path(path)} is {mask.shape}, the masks beside it {label.shape}")
        inside = mask != 0
        pixels, hidden = pixels + np.count_nonzero(inside), hidden + np.count_nonzero(label[inside])
        label[inside] = number % MAX_OBJECTS + 1
    if hidden > MOST_OVERLAP * pixels:
        raise UserError(
            f"{display_path(paths[0])} and the {len(paths) - 1} masks beside it lie upon each other in {hidden} of "
            f"{pixels} pixels: they seem to be slices, frames or annotators, no objects; name the one that is meant "
            "after its image"
        )
    write_image(target, label)
