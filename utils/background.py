"""Work beside the computation: reading ahead, making items and writing in threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
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


class BackgroundWriter:
    """Does jobs one after the other in a thread, in the order in which they were last put.

    A job that has not begun gives way to a newer one of its name, so that a slow disk slows nothing but itself. An
    error ends its own job only; it is raised by the next ``put`` or ``wait``.

    As a context, it is left when every job is done, also after an error or Ctrl-C; a second Ctrl-C does not wait.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Callable[[], None]] = {}
        self._is_busy = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, name: str, job: Callable[[], None]) -> None:
        """Have ``job`` done; where ``MAX_WAITING`` others wait, return when one of them has begun.

        Raises:
            Exception: whatever an earlier job raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: name in self._waiting or len(self._waiting) < MAX_WAITING)
            self._raise_error()
            others = {other: waiting for other, waiting in self._waiting.items() if other != name}
            self._waiting = {**others, name: job}  # in one go: Ctrl-C finds the old job or the new one
            if self._thread is None:  # not before: worker processes are forked from one thread
                self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when every job is done.

        Raises:
            Exception: whatever a job raised.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_busy)
            self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                job = self._waiting.pop(next(iter(self._waiting)))
                self._is_busy = True
                self._changed.notify_all()
            try:
                job()
            except BaseException as error:
                self._error = self._error or error
            del job  # and the copy of the weights that it may hold

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.wait()
        except Exception as writing_error:
            if error is None:
                raise
            error.add_note(f"besides, writing failed: {type(writing_error).__name__}: {writing_error}")
