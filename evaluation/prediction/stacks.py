"""Stacks predicted plane by plane into one map each, with the axes, pixel size and unit of the file."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.image_files import PlaneStack, split_plane
from datasets.image_io import read_image, read_scores, read_stack
from datasets.image_scale import read_scale
from evaluation.prediction.score_maps import band_writer
from utils.cli import UserError, map_with_progress
from utils.files import unique_stems

PLANES = ".planes"
JOINED = ("pred", "scores", "spread", "masks")  # folders of results in which a stack becomes one file


def find_stacks(files: Sequence[Path], channels: int) -> dict[Path, PlaneStack]:
    """The files that hold several planes, with their axes; broken ones are left to whoever reads them.

    Args:
        channels: of the images, by which the axes of arrays are told.
    """

    def stack_of(path: Path) -> PlaneStack | None:
        try:
            return read_stack(path, channels)
        except UserError:
            return None

    found = zip(files, map_with_progress(stack_of, files, "looking for stacks"), strict=True)
    return {path: stack for path, stack in found if stack is not None and stack.planes > 1}


def plane_paths(files: Sequence[Path], stacks: Mapping[Path, PlaneStack]) -> list[Path]:
    """The files, a stack as its planes: ``stack.tif::0`` and so on."""
    return [
        plane
        for path in files
        for plane in ([Path(f"{path}::{n}") for n in range(stacks[path].planes)] if path in stacks else [path])
    ]


def whole_file(image: Path, stacks: Mapping[Path, PlaneStack]) -> Path:
    """The stack that a plane belongs to; any other image is itself."""
    path, _ = split_plane(image)
    return path if path in stacks else image


def name_maps(
    images: Sequence[Path], stacks: Mapping[Path, PlaneStack], places: Mapping[Path, Path] | None = None
) -> list[str]:
    """The name of every image's map without suffix; those of a stack's planes lie in a folder until they are joined.

    Args:
        places: file → the folder below ``pred/`` that its map belongs in; others lie in ``pred/`` itself.

    >>> name_maps([Path("a.tif"), Path("b.tif::0"), Path("b.tif::1")], {Path("b.tif"): PlaneStack("ZYX", (2, 9, 9))})
    ['a', 'b.planes/0', 'b.planes/1']
    """
    by_place: dict[Path, list[Path]] = defaultdict(list)
    for file in dict.fromkeys(whole_file(image, stacks) for image in images):
        by_place[(places or {}).get(file, Path())].append(file)
    names = {
        file: (place / stem).as_posix()
        for place, files in by_place.items()
        for file, stem in zip(files, unique_stems(files), strict=True)
    }
    return [
        names[image] if image in names else f"{names[whole_file(image, stacks)]}{PLANES}/{split_plane(image)[1]}"
        for image in images
    ]


def whole_map(name: str) -> str:
    """The name of the map that the map of a plane becomes part of; any other is itself.

    >>> whole_map("b.planes/1"), whole_map("a")
    ('b', 'a')
    """
    folder, is_plane, _ = name.rpartition(f"{PLANES}/")
    return folder if is_plane else name


def join_planes(folder: Path, maps: Mapping[Path, str], stacks: Mapping[Path, PlaneStack]) -> None:
    """Join the maps of every stack's planes to one, ``<kind>/<name>.tif``, and remove those of the planes.

    Args:
        folder: of results, with ``pred/`` and the others in it.
        maps: image → name of its map, as `name_maps` gave it.
    """
    names = {split_plane(image)[0]: whole_map(name) for image, name in maps.items()}
    for path, stack in stacks.items():
        for kind in JOINED:
            planes = folder / kind / f"{names[path]}{PLANES}"
            if planes.is_dir():
                _join(planes, folder / kind / f"{names[path]}.tif", stack, source=path)
                shutil.rmtree(planes)


def joined_name(name: str) -> str:
    """Where a file of results, ``<kind>/<name>``, lies once the planes of stacks are joined.

    >>> joined_name("masks/b.planes/1.png"), joined_name("overlays/b.planes/1.png")
    ('masks/b.tif', 'overlays/b.planes/1.png')
    """
    kind = name.partition("/")[0]
    whole = whole_map(name)
    return f"{whole}.tif" if whole != name and kind in JOINED else name


def drop_planes(folder: Path, names: Sequence[str]) -> None:
    """Remove the maps of planes whose stack cannot be joined."""
    for place in {Path(name).parent for name in names if PLANES in name}:
        for kind in folder.iterdir():
            shutil.rmtree(kind / place, ignore_errors=True)


def _join(planes: Path, target: Path, stack: PlaneStack, source: Path) -> None:
    files = [next(planes.glob(f"{number}.*")) for number in range(stack.planes)]
    read = read_scores if planes.parent.name == "scores" else read_image
    first = read(files[0])
    axes = stack.plane_axes + ("CYX" if first.ndim == 3 else "YX")
    shape = (*stack.plane_shape, *first.shape)
    with band_writer(target, shape, str(first.dtype), scale=read_scale(source), axes=axes) as write:
        for number, file in enumerate(files):
            values: np.ndarray = read(file)
            write(0, values, number * (len(values) if values.ndim == 3 else 1))
