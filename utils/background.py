"""Work beside the computation, in threads: reading ahead, writing; and sequences whose items are made on demand."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice, repeat
from types import TracebackType
from typing import TypeVar

MAX_WAITING = 4  # jobs; each may hold a copy of all weights
Item = TypeVar("Item")
Result = TypeVar("Result")


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
    source = iter(items)
    for found in read_ahead(lambda _: list(islice(source, 1)), repeat(None), ahead=1, workers=1):
        if not found:
            return
        yield found[0]


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


class BackgroundWriter:
    """Does jobs one after the other in a thread, in the order in which they were last put.

    A job that has not begun gives way to a newer one of its name, so that a slow disk slows nothing but itself. An
    error ends its own job only; it is raised by the next ``put`` or ``wait``.

    As a context, it is left when every job is done, also after an error or Ctrl-C; a second Ctrl-C waits for nothing
    but the job that has begun.
    """

    def __init__(self) -> None:
        self._pool, self._lock = ThreadPoolExecutor(1, "writer"), threading.Lock()
        self._waiting: dict[str, Callable[[], None]] = {}
        self._turns: list[Future[None]] = []  # each does the oldest job that waits; of a replaced one, nothing

    def put(self, name: str, job: Callable[[], None]) -> None:
        """Have ``job`` done; where ``MAX_WAITING`` others wait, return when one of them has begun.

        Raises:
            Exception: whatever an earlier job raised.
        """
        while name not in self._waiting and len(self._waiting) >= MAX_WAITING:
            wait([turn for turn in self._turns if not turn.done()], return_when=FIRST_COMPLETED)
        self._raise_error()
        with self._lock:
            others = {other: waiting for other, waiting in self._waiting.items() if other != name}
            self._waiting = {**others, name: job}  # in one go: Ctrl-C finds the old job or the new one
        self._turns.append(self._pool.submit(self._do_oldest))

    def _do_oldest(self) -> None:
        with self._lock:
            job = self._waiting.pop(next(iter(self._waiting))) if self._waiting else None
        if job is not None:
            job()

    def wait(self) -> None:
        """Return when every job is done.

        Raises:
            Exception: whatever a job raised.
        """
        left = len(self._waiting)  # more than turns where Ctrl-C came amid a ``put``
        self._turns += [self._pool.submit(self._do_oldest) for _ in range(left)]
        wait(self._turns)
        self._raise_error()

    def _raise_error(self) -> None:
        done = [turn for turn in self._turns if turn.done()]
        self._turns = [turn for turn in self._turns if turn not in done]
        for error in filter(None, (turn.exception() for turn in done)):
            raise error

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.wait()
        except Exception as writing_error:
            if error is None:
                raise
            error.add_note(f"besides, writing failed: {type(writing_error).__name__}: {writing_error}")
        except BaseException:
            self._waiting = {}
            raise


class LazySequence(Sequence[Item]):
    """``load(0)``, ``load(1)``, …, each made whenever it is asked for.

    Args:
        load: makes the item of a place.
        length: number of items.
        keep_bytes: items are kept while their arrays take no more memory than this in all.
    """

    def __init__(self, load: Callable[[int], Item], length: int, keep_bytes: int = 0) -> None:
        self._load, self._length, self._room = load, length, keep_bytes
        self._kept: dict[int, Item] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> Item:  # type: ignore[override]  # no slices
        if not 0 <= place < self._length:
            raise IndexError(place)
        if place in self._kept:
            return self._kept[place]
        item = self._load(place)
        size = getattr(item, "nbytes", 0)
        if size <= self._room:
            self._room -= size
            self._kept[place] = item
        return item
