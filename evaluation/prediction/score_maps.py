"""Score maps as files: their names, and reading and writing beside the computation."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import TypeVar

import numpy as np

from utils.files import atomic_write

Item, Result = TypeVar("Item"), TypeVar("Result")


def map_names(images: Sequence[Path]) -> list[str]:
    """A file name without suffix for the map of each image, none given twice, whatever the case of letters.

    The stem; images of one folder that differ by suffix alone get it appended (``7_png``); where names are equal,
    as many parent folders as needed come before them (``a__7``).
    """
    twins = Counter((image.parent, image.stem.casefold()) for image in images)
    bases = [
        f"{image.stem}_{image.suffix.lstrip('.')}" if twins[image.parent, image.stem.casefold()] > 1 else image.stem
        for image in images
    ]
    folders = [[part for part in image.parts[:-1] if part != image.anchor] for image in images]
    depths = [0] * len(images)
    while True:
        names = [
            "__".join([*parents[len(parents) - depth :], base])
            for parents, depth, base in zip(folders, depths, bases, strict=True)
        ]
        taken = Counter(name.casefold() for name in names)
        equal = [index for index, name in enumerate(names) if taken[name.casefold()] > 1]
        growing = [index for index in equal if depths[index] < len(folders[index])]
        if not growing:
            return [f"{name}-{index}" if index in equal else name for index, name in enumerate(names)]
        for index in growing:
            depths[index] += 1


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], ahead: int, workers: int) -> Iterator[Result]:
    """``map(read, items)`` in order, with up to ``ahead`` results read in advance by threads."""
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_background(items: Iterable[Result]) -> Iterator[Result]:
    """The items in order, made by a thread while the one before is worked on."""
    source, end = iter(items), object()
    for item in read_ahead(lambda _: next(source, end), repeat(None), ahead=1, workers=1):
        if item is end:
            return
        yield item


class WriterPool:
    """Runs jobs in threads, at most ``ahead`` waiting; what a job raises comes out of a later call or of the end."""

    def __init__(self, workers: int, ahead: int) -> None:
        self.pool, self.ahead = ThreadPoolExecutor(workers), ahead
        self.waiting: deque[Future] = deque()

    def submit(self, job: Callable[..., object], *arguments: object) -> None:
        """Queue ``job(*arguments)``; blocks while the queue is full."""
        while len(self.waiting) >= self.ahead:
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(job, *arguments))

    def __enter__(self) -> WriterPool:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            while self.waiting:
                self.waiting.popleft().result()
        self.pool.shutdown(cancel_futures=True)


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
        start, _ = tifffile.imwrite(file, shape=shape, dtype=dtype, photometric="minisblack", returnoffset=True)

        def write(top: int, rows: np.ndarray) -> None:
            for number, plane in enumerate(rows.reshape(-1, *rows.shape[-2:])):
                file.seek(start + (number * height + top) * width * plane.itemsize)
                file.write(np.ascontiguousarray(plane, dtype))

        yield write


def memory_map(path: Path) -> np.ndarray:
    """The map that `band_writer` wrote, read from disk where it is used."""
    import tifffile

    return tifffile.memmap(path, mode="r")
