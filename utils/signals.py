"""What may cut a command short: signals, the first of which unwinds it; output that nobody takes, which does not."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TextIO

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
SAME_STOP_S = 0.3  # launchers send a signal several times; within this time they mean one stop
HOLD_S = 3.0  # an import, or what is `held_back`, is waited for at most so long
RETRY_S = 0.02
SIGNALLED = 128  # a shell's exit status of a process that a signal stopped is this plus the signal's number


_received: list[Stopped] = []
_holding: list[bool] = []


class Stopped(KeyboardInterrupt):
    """A stop signal arrived."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = int(number)


def exit_status(stop: KeyboardInterrupt) -> int:
    """128 + the number of the signal that ``stop`` stands for; Ctrl-C where it names none."""
    return SIGNALLED + getattr(stop, "number", signal.SIGINT)


def listen_to_stop_signals() -> None:
    """Raise `Stopped` in the main thread at the first stop signal; at a second one exit without waiting for anything.

    Python runs handlers between two of its own instructions. A long step of a library would hold up the second signal
    as well, so a thread of its own counts them. A signal that is ignored already (``nohup``) stays so.
    """
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, _stop)
    if os.name != "nt":
        _exit_at_second_signal({int(number) for number in heard})


def received_stop() -> Stopped | None:
    """What stands for the signal that this process was to stop by, for the caller to raise; None without one."""
    if _received and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    return _received[0] if _received else None


def _stop(number: int, frame: FrameType | None) -> None:
    for heard in STOP_SIGNALS:  # nothing may interrupt what tidies up, but the thread that counts
        if signal.getsignal(heard) == _stop:
            signal.signal(heard, _already_stopping)
    _received.append(Stopped(number))
    _unwind(time.monotonic() + HOLD_S, frame)


def _unwind(deadline: float, frame: FrameType | None) -> None:
    """Raise the stop that was received, but not amid an import, which might swallow it, or abort the process."""
    is_held = _holding or _is_importing(frame)
    if is_held and hasattr(signal, "setitimer") and time.monotonic() < deadline:
        signal.signal(signal.SIGALRM, lambda _, frame: _unwind(deadline, frame))
        signal.setitimer(signal.ITIMER_REAL, RETRY_S)
        return
    raise _received[0]


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


@contextmanager
def held_back() -> Iterator[None]:
    """Let what is to be done as a whole, and takes a moment, be done before a stop signal is answered."""
    _holding.append(True)
    try:
        yield
    finally:
        _holding.pop()


def _already_stopping(number: int, _: object) -> None:
    """Do nothing: the signal has been counted."""


def _exit_at_second_signal(numbers: set[int]) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # Worker processes get the same Ctrl-C from the terminal: theirs are not to be counted here.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))

    def count() -> None:
        first = None
        while received := os.read(reading, 64):
            stops = [number for number in received if number in numbers]
            if not stops:
                continue
            if first is not None and time.monotonic() - first > SAME_STOP_S:
                with contextlib.suppress(OSError):
                    os.write(2, b"stopped at once\n")
                os._exit(SIGNALLED + stops[-1])
            first = first or time.monotonic()

    threading.Thread(target=count, name="signals", daemon=True).start()


class LastingStream:
    """A text stream that goes on into nothing where writing fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write ``text``, or drop it where that fails."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, or drop it where that fails."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, self._stream.fileno())
        except (OSError, ValueError):  # it has no file any more
            self._stream = open(os.devnull, "w")  # noqa: SIM115
        finally:
            os.close(nothing)


def make_streams_lasting() -> None:
    """Let standard output and error go on into nothing where they fail, or are closed from the start."""
    _open_closed_descriptors()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a pipe on Windows may not know every character
            setattr(sys, name, LastingStream(stream))


def _open_closed_descriptors() -> None:
    """Have 0, 1 and 2 lead somewhere: the next file opened would be one of them, and libraries in C write to 2."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
