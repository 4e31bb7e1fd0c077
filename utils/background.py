"""Writing that nobody waits for: jobs in a thread of their own; nothing is lost but what a newer one replaces."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

MAX_WAITING = 4  # jobs; each may hold a copy of all weights


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
