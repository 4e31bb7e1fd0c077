"""Output that nobody takes, because its pipe is closed or its disk full, does not end a command's work."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO


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
