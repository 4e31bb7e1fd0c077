"""Labels in a file an object, as those of the Data Science Bowl 2018: merged into one label of numbered objects.

``<id>/images/<id>.png`` has ``<id>/masks/*.png``, each the mask of one nucleus.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.image_io import read_label, write_image
from datasets.list_layouts import MERGED, Found
from datasets.list_pairing import stem
from utils.cli import UserError, map_with_progress
from utils.files import unique_stems, write_json
from utils.run_folder import display_path

MAX_OBJECTS = 2**16 - 1


def objects_by_image(images: Sequence[Found], labels: Sequence[Found]) -> dict[Path, list[Path]]:
    """The masks of every image, if every folder holds one image and the masks of its objects; else nothing.

    A single folder counts only where its files are called so, ``images.tif`` and ``masks.tif``.
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
        return {}
    return {image_of[place][0]: masks_of[place] for place in image_of if place in shared}


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
        UserError: masks that cannot be read, or that differ in size.
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
    for number, path in enumerate(paths, start=first):
        mask = read_label(path)
        if label is None:
            label = np.zeros(mask.shape, np.uint16)
        if mask.shape != label.shape:
            raise UserError(f"{display_path(path)} is {mask.shape}, the masks beside it {label.shape}")
        label[mask != 0] = number % MAX_OBJECTS + 1
    write_image(target, label)
