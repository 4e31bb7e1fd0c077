"""A layer below a run's files: the write, close, flush or rename of a given number fails, as disks make them fail."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = ("write", "close", "fsync", "replace")
ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO, "interrupted": errno.EINTR}
FAULTS = {call: tuple(ERRORS) for call in CALLS} | {"write": (*ERRORS, "short")}
CHECKPOINT = ".pth"


class DiskFault:
    """Where and how the disk fails.

    Args:
        folder: the files below it are concerned.
        call: one of CALLS.
        at: the number of the call that fails, counted from 1.
        fault: ``broken`` and ``interrupted`` fail once; ``full`` writes half, and from then on nothing more is taken;
            ``short`` writes half and says so, which is no error.
        with_checkpoints: whether files of checkpoints count.
    """

    def __init__(self, folder: Path, call: str, at: int, fault: str, with_checkpoints: bool = True) -> None:
        self.folder, self.call, self.at, self.fault = folder, call, at, fault
        self.with_checkpoints, self.reached = with_checkpoints, False
        self._numbers = itertools.count(1)  # safe with the thread that writes

    def concerns(self, path: Any) -> bool:
        """Whether a file is one of those that fail."""
        if not isinstance(path, (str, os.PathLike)):
            return False
        is_left_out = not self.with_checkpoints and CHECKPOINT in os.path.basename(path)
        return Path(path).is_relative_to(self.folder) and not is_left_out

    def is_due(self, call: str) -> bool:
        """Count a call; whether it is to fail."""
        if call != self.call:
            return False
        number = next(self._numbers)
        self.reached = self.reached or number == self.at
        return number == self.at or (self.fault == "full" and call == "write" and number > self.at)

    def error(self) -> OSError:
        """What the failing call raises."""
        number = ERRORS[self.fault]
        return OSError(number, os.strerror(number))


class FaultyFile(io.FileIO):
    """A file on the disk, below Python's buffers: its calls are those of the operating system."""

    def __init__(self, path: Any, mode: str, disk: DiskFault) -> None:
        super().__init__(path, mode)
        self.disk = disk

    def write(self, content: Any) -> int:
        """As of `io.RawIOBase`: how many bytes were taken."""
        if not self.disk.is_due("write"):
            return super().write(content)
        half = memoryview(content).cast("B")[: max(1, memoryview(content).nbytes // 2)]
        if self.disk.fault == "short":
            return super().write(half)
        if self.disk.fault == "full":
            super().write(half)
        raise self.disk.error()

    def close(self) -> None:
        """Close, and fail then: the descriptor is gone whatever the system answers."""
        is_open = not self.closed
        super().close()
        if is_open and self.disk.is_due("close"):
            raise self.disk.error()


@contextmanager
def failing(disk: DiskFault) -> Iterator[DiskFault]:
    """Have ``disk`` fail while the context lasts."""
    real_open = builtins.open

    def open_faulty(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None, newline: Any = None
    ) -> Any:
        if not disk.concerns(file) or not set(mode) & set("wax+"):
            return real_open(file, mode, buffering, encoding, errors, newline)
        raw = FaultyFile(file, mode.replace("b", "").replace("t", ""), disk)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def faulty(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(first: Any, *others: Any) -> Any:
            counts = name == "fsync" or disk.concerns(first)
            if counts and disk.is_due(name):
                raise disk.error()
            return real(first, *others)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(module, "open", open_faulty)
        for name in ("fsync", "replace"):
            patch.setattr(os, name, faulty(name))
        yield disk
