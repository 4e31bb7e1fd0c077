"""Stopping: the first signal unwinds the program, so that nothing finished is lost; a second one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import NoReturn

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
SAME_STOP_S = 0.3  # launchers send a signal several times; within this time they mean one stop
SIGNALLED = 128  # a shell's exit status of a process that a signal stopped is this plus the signal's number


_received: list[Stopped] = []


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
    """What stands for the signal that this process was to stop by; None where there was none."""
    return _received[0] if _received else None


def _stop(number: int, _: object) -> NoReturn:
    for heard in STOP_SIGNALS:  # nothing may interrupt what tidies up, but the thread that counts
        if signal.getsignal(heard) == _stop:
            signal.signal(heard, _already_stopping)
    _received.append(Stopped(number))
    raise _received[0]


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
