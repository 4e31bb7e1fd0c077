"""One process owns a run: a lock that the kernel releases when its owner dies, and that child processes do not hold."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from utils.cli import RunFailed, UserError

LOCK = ".lock"
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # see utils.files.atomic_write
OWNED = b'{"host"'  # how a lock file begins while its owner lives, or where it was killed; else it is empty
REMEDY = "rename it, or choose another folder"
HELD_BY_OTHERS = (BlockingIOError, PermissionError)  # what the kernel answers where another process has the lock

_owned: dict[Path, os.stat_result] = {}  # folder → its lock file


@contextmanager
def run_lock(folder: Path, say: Callable[[str], object] = print) -> Iterator[None]:
    """Own ``folder`` while the context lasts; the file ``.lock`` in it says who does.

    A POSIX record lock (``msvcrt`` on Windows) belongs to the process: workers that it forks do not hold it, and it is
    gone with the process, however that ends. Where a file system has no locks, the file names host and process, and a
    live process of this host is respected.

    Args:
        say: told once where the file system refuses locks.
    Raises:
        UserError: another process owns the folder; the message names it.
    """
    path = folder / LOCK
    while True:
        with _open(path) as file:
            try:
                _lock(file)
            except HELD_BY_OTHERS:
                raise UserError(_refusal(folder, _read_owner(file))) from None
            except OSError as error:
                owner = _read_owner(file)
                if _is_alive_here(owner):
                    raise UserError(_refusal(folder, owner)) from None
                say(
                    f"the file system of {folder} has no locks ({error.strerror}): do not resume this run twice at once"
                )
            _check_own(file, path)
            if not _lies_at(path, os.fstat(file.fileno())):  # its former owner has removed it meanwhile
                continue
            _write_owner(file)
            _owned[folder] = os.fstat(file.fileno())
            try:
                yield
            finally:
                del _owned[folder]
                file.truncate(0)
            return


def _lies_at(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except FileNotFoundError:
        return False


def check_owned(folder: Path) -> None:
    """Look whether a folder that this process owns is still there, by its lock file.

    The file is not opened: a POSIX lock would be gone when it is closed.

    Raises:
        RunFailed: the folder, or the lock in it, was removed, renamed or replaced.
    """
    if not _lies_at(folder / LOCK, _owned[folder]):
        raise RunFailed(f"{folder}, or the {LOCK} in it, was removed, renamed or replaced while the run went on")


def _open(path: Path) -> BinaryIO:
    """Open a lock file for reading and writing, made where there is none.

    Raises:
        UserError: it is a link or a pipe, through which something else would be written to.
    """
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        raise UserError(f"{path} is a link or no plain file, and a lock is to be there: {REMEDY}")
    return open(path, "r+b" if path.exists() else "w+b")


def _check_own(file: BinaryIO, path: Path) -> None:
    """Raise a UserError where a file holds what no owner of this project wrote, and would be emptied."""
    file.seek(0)
    content = file.read(len(OWNED)).strip(b"\0")  # after a power cut
    if not OWNED.startswith(content):
        raise UserError(f"{path} is a file of something else, and a lock is to be there: {REMEDY}")


def remove_temporary_files(folder: Path) -> None:
    """Remove what processes that were killed while writing have left in a folder that this process owns."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(PermissionError):  # of another user, in a sticky folder
                path.unlink(missing_ok=True)


def _lock(file: BinaryIO) -> None:
    """Lock the file's first byte without waiting; OSError where that is refused."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)


def _write_owner(file: BinaryIO) -> None:
    owner = {"host": platform.node(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.seek(0)
    file.truncate()
    file.write((json.dumps(owner) + "\n").encode())
    file.flush()


def _read_owner(file: BinaryIO) -> dict[str, Any]:
    """Who the lock file names; nobody where it is empty or broken."""
    file.seek(0)
    try:
        owner = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_alive_here(owner: dict[str, Any]) -> bool:
    process = owner.get("process")
    if owner.get("host") != platform.node() or not isinstance(process, int) or process in (0, os.getpid()):
        return False
    return is_running(process)


def is_running(process: int) -> bool:
    """Whether a process of this host, by its number, has not ended."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it exists and belongs to somebody else
        return True
    return True


def _refusal(folder: Path, owner: dict[str, Any]) -> str:
    who = "another process"
    if owner:
        who = f"process {owner.get('process')} on {owner.get('host')}, since {owner.get('since')}"
    return f"{folder} is in use by {who}: wait until that run ends, or stop it first"
