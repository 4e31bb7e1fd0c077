"""Score maps too large for memory, as files: written band by band, read where they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.files import atomic_write


@contextmanager
def band_writer(path: Path, shape: tuple[int, ...], dtype: str) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Write a map too large to be held in memory as an uncompressed TIFF, renamed into place at the end.

    Args:
        shape: of the whole map, (H, W) or (K, H, W).
        dtype: of its values.
    Yields: ``write(top, rows)``, which puts rows of the map (…, rows, W) where they belong.
    """
    import tifffile

    height, width = shape[-2:]
    with atomic_write(path) as file:
        place = tifffile.imwrite(file, shape=shape, dtype=dtype, photometric="minisblack", returnoffset=True)
        start = place[0] if place else 0

        def write(top: int, rows: np.ndarray) -> None:
            for number, plane in enumerate(rows.reshape(-1, *rows.shape[-2:])):
                file.seek(start + (number * height + top) * width * plane.itemsize)
                file.write(np.ascontiguousarray(plane, dtype).data)

        yield write


def memory_map(path: Path) -> np.ndarray:
    """The map that `band_writer` wrote, read from disk where it is used."""
    import tifffile

    return tifffile.memmap(path, mode="r")
