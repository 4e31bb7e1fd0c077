"""Score maps as files: their names, and those too large for memory, which are written and read band by band."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from datasets.image_files import NO_SCALE, ImageScale, scale_options
from utils.files import atomic_write

# Folder → suffix, as written.
MAP_FILES = {"pred": ".tif", "scores": ".tif", "spread": ".tif", "masks": ".png", "overlays": ".png"}


@contextmanager
def band_writer(
    path: Path, shape: tuple[int, ...], dtype: str, scale: ImageScale = NO_SCALE, axes: str | None = None
) -> Iterator[Callable[..., None]]:
    """Write a map too large to be held in memory as an uncompressed TIFF, renamed into place at the end.

    Args:
        shape: of the whole map, (H, W), (K, H, W) or more.
        dtype: of its values.
        scale: pixel size and kind of TIFF, as those of the image.
        axes: a letter for each axis; None: of rows, columns and, before them, classes.
    Yields: ``write(top, rows, first=0)``, which puts rows of the map (…, rows, W) where they belong; ``first`` is the
        number of their first plane among all.
    """
    import tifffile

    height, width = shape[-2:]
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    options = scale_options(scale, axes or "CYX"[-len(shape) :], num_bytes, dtype)
    with atomic_write(path) as file:
        place = tifffile.imwrite(file, shape=shape, dtype=dtype, photometric="minisblack", returnoffset=True, **options)
        start = place[0] if place else 0

        def write(top: int, rows: np.ndarray, first: int = 0) -> None:
            planes = np.ascontiguousarray(rows, dtype).reshape(-1, *rows.shape[-2:])
            for number, plane in enumerate(planes, start=first):
                file.seek(start + (number * height + top) * width * plane.itemsize)
                file.write(plane.data)

        yield write


def memory_map(path: Path) -> np.ndarray:
    """The map that `band_writer` wrote, read from disk where it is used."""
    import tifffile

    return tifffile.memmap(path, mode="r")
