"""What every command shares: one clear message for bad input, exit statuses, progress reporting.

Importing this module costs no third-party import, so ``--help`` stays fast.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn, TypeVar

from utils.errors import RunFailed as RunFailed
from utils.errors import UserError as UserError
from utils.paths import REPO_ROOT
from utils.processors import usable_processors
from utils.signals import exit_status, listen_to_stop_signals, make_streams_lasting, received_stop

Item = TypeVar("Item")
Result = TypeVar("Result")

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE = 0, 1, 2
TIME_FOR_OTHERS_S = 30.0  # in which a process that fails as others do leaves it to the first one to say why

OPENCV_REMEDY = (
    "OpenCV could not be loaded ({error}). Install it with 'pip install opencv-python'; on a server without "
    "graphics libraries run 'apt install libgl1 libglib2.0-0' or 'pip install opencv-python-headless' instead."
)
MISSING_PACKAGE = (
    "{name} is not installed for {python}: activate the environment that holds it (source .venv/bin/activate; Windows: "
    ".venv\\Scripts\\activate), or install it: pip install -r requirements.txt"
)


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line instead of a page of usage."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(**kwargs)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, but for values such as ``-1:ignore``, which begin with a minus and are no options."""
        joined: list[str] = []
        for argument in sys.argv[1:] if args is None else args:
            shown = argument.encode(errors="replace").decode()
            if argument.endswith("=--") or shown != argument:
                self.error(f"{shown!r} has no value that can be read")
            if not argument or re.fullmatch(r"--\w+=", argument):
                place = argument or (f"after {joined[-1]}" if joined else "at the beginning")
                self.error(
                    f"there is an empty value, {place}: leave the option out, or is a variable of the shell not set?"
                )
            if joined and re.match(r"-\d+(\.\d+)?:", argument) and joined[-1].startswith("--"):
                joined[-1] += f"={argument}"
            else:
                joined.append(argument)
        return super().parse_known_args(joined, namespace)

    def error(self, message: str) -> NoReturn:
        line = f"{self.prog}: error: {message} (see {self.prog} --help)\n"
        self.exit(EXIT_WRONG_USE, None if _is_said_elsewhere(UserError) else line)


def _is_said_elsewhere(error: UserError | type[UserError]) -> bool:
    """Whether another process has said what this one would. It is waited for: ``torchrun`` ends all once one ends."""
    if not error.said_elsewhere:
        return False
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(TIME_FOR_OTHERS_S)
        return False
    return True


def run_command(main: Callable[[], None]) -> NoReturn:
    """Run a command's ``main`` and exit with the status that users and scripts rely on.

    0 done, 1 failed run (with traceback), 2 wrong use or bad input (one message), 128 + its number when a
    signal stopped it (130 for Ctrl-C).
    """
    try:
        make_streams_lasting()
        listen_to_stop_signals()
        _check_current_folder()
        try:
            main()
        except Exception as error:  # a library may answer a signal by an error of its own
            stop = received_stop()
            if stop is None or isinstance(error, RunFailed):  # in which another process may have said all
                raise
            raise stop from error
        if stop := received_stop():  # what a library has swallowed
            raise stop
    except UserError as error:
        if not _is_said_elsewhere(error):
            _complain(f"error: {error}", error)
        _leave(EXIT_WRONG_USE)
    except RunFailed as failure:
        if str(failure):
            _complain(f"error: {failure}", failure)
        _leave(EXIT_FAILED)
    except ImportError as error:
        if (remedy := _import_remedy(error)) is None:
            raise
        print(f"error: {remedy}", file=sys.stderr)
        sys.exit(EXIT_WRONG_USE)
    except KeyboardInterrupt as stop:
        if not getattr(stop, "said_elsewhere", UserError.said_elsewhere):
            _complain("interrupted" if str(stop) in ("", "SIGINT") else f"stopped by {stop}", stop)
        _leave_at_once(exit_status(stop))
    except OSError as error:  # of a place for output, or of a file that went away
        is_disk = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        if error.filename is None and not is_disk:
            raise
        _complain(f"error: {describe_os_error(error)}", error)
        _leave(EXIT_FAILED if is_disk else EXIT_WRONG_USE)
    except MemoryError as error:
        what = f" ({error})" if str(error) else ""
        _complain(f"error: out of memory{what}: take smaller images, or close what else runs", error)
        _leave(EXIT_FAILED)
    except Exception:
        if not _is_one_of_many():
            raise
        traceback.print_exc()
        _leave(EXIT_FAILED)
    sys.exit(EXIT_DONE)


def _import_remedy(error: ImportError) -> str | None:
    """What a user can do about a package that cannot be imported; None where it is a file of this project."""
    if error.name == "cv2" or "libGL" in str(error) or "libgthread" in str(error):
        return OPENCV_REMEDY.format(error=error)
    package = (error.name or "").partition(".")[0]
    is_own = (REPO_ROOT / package).is_dir() or (REPO_ROOT / f"{package}.py").is_file()
    if not isinstance(error, ModuleNotFoundError) or is_own:
        return None
    return MISSING_PACKAGE.format(name=package, python=sys.executable)


def _check_current_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:  # libraries fail on it in ways of their own
        raise UserError("the current folder was removed or replaced: change to one that exists, cd FOLDER") from None


def _complain(message: str, error: BaseException) -> None:
    """Write a message and below it what was noted on the error on its way up, in one piece: others may write too."""
    sys.stderr.write("\n".join([message, *getattr(error, "__notes__", []), ""]))


def describe_os_error(error: OSError) -> str:
    """What the operating system refused, with the file and what to do about it."""
    remedies = {
        errno.ENOSPC: "make room on the disk",
        errno.EFBIG: "the place takes no files of this size: choose another",
        errno.EDQUOT: "your quota is used up: make room, or choose another place",
        errno.EROFS: "choose a place that can be written",
        errno.EACCES: "change its permissions, or choose another place",
        errno.EPERM: "change its permissions, or choose another place",
        errno.ENOTDIR: "a part of the path is a file: remove or rename it, or choose another place",
        errno.EISDIR: "a file is needed here, not a folder",
        errno.EEXIST: "remove or rename what is there, or choose another place",
        errno.ENAMETOOLONG: "use a shorter name",
    }
    remedy = remedies.get(error.errno or 0)
    name = error.filename if error.filename2 is None else error.filename2  # where a finished file was to go
    place = f"{shorten_middle(str(name))}: " if name is not None else ""
    return f"{place}{error.strerror}" + (f"; {remedy}" if remedy else "")


def shorten_middle(text: str, most: int = 160) -> str:
    """A long name without its middle."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"


def _is_one_of_many() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _leave(status: int) -> NoReturn:
    """End a failed process; one of many at once, since taking down what joins it to lost ones hangs or aborts."""
    if _is_one_of_many():
        _leave_at_once(status)
    sys.exit(status)


def _leave_at_once(status: int) -> NoReturn:
    """End a process without waiting for threads; what had to be tidied up has been on the way here."""
    import multiprocessing

    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def one_of(value: str, choices: Sequence[str], what: str) -> str:
    """Return ``value`` if it is among ``choices``; else raise a UserError that names value and choices."""
    if value not in choices:
        raise UserError(f"{what} {value!r} is unknown; choose from: {', '.join(choices)}")
    return value


def shortened(names: Sequence[str], most: int = 10) -> str:
    """Names joined by commas, the first few and the number of the rest: ``a, b and 7 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def channel_list(text: str) -> tuple[str, ...]:
    """An argparse type: channels by number or name, ``0,2`` or ``DAPI,GFP``."""
    channels = tuple(part.strip() for part in text.split(","))
    if not all(channels):
        raise argparse.ArgumentTypeError(f"{text!r} must be channels by number or name, separated by commas: 0,2")
    return channels


def channel_names(given: str | int | Iterable[str | int]) -> tuple[str, ...]:
    """Channels as `channel_list` has them, from what is given in Python; UserError where one has no name.

    >>> channel_names("0,2"), channel_names((0, 2)), channel_names(["DAPI"]), channel_names(1)
    (('0', '2'), ('0', '2'), ('DAPI',), ('1',))
    """
    if isinstance(given, Iterable) and not isinstance(given, str):
        return tuple(map(str, given))
    try:
        return channel_list(f"{given}")
    except argparse.ArgumentTypeError as error:
        raise UserError(f"channels: {error}") from None


def counted(items: Sized | int, noun: str) -> str:
    """How many there are, with the noun: ``1 image``, ``2 images``."""
    count = items if isinstance(items, int) else len(items)
    return f"{count} {noun}{'' if count == 1 else 's'}"


def whole_number(lowest: int = 0, highest: int | None = None) -> Callable[[str], int]:
    """An argparse type: whole numbers within limits."""
    limits = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"

    def parse(text: str) -> int:
        is_number = text.isascii() and text.isdecimal()
        if not is_number or int(text) < lowest or (highest is not None and int(text) > highest):
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number {limits}")
        return int(text)

    return parse


def fraction(text: str) -> float:
    """An argparse type: a number from 0 to 1, also as a percentage (``5%`` is 0.05)."""
    value = _parse_fraction(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1, such as 0.05 or 5%")
    return value


def positive_fraction(text: str) -> float:
    """An argparse type: a number above 0 and up to 1, also as a percentage."""
    value = _parse_fraction(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0 and up to 1, such as 0.05 or 5%")
    return value


def _parse_fraction(text: str) -> float:
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return float("nan")


class Progress:
    """A tqdm bar on a terminal; elsewhere a plain line every ``every_s`` seconds.

    Args:
        total: number of items in all, or the amount in ``unit``.
        description: what is being done.
        unit: the word for an item, e.g. ``image``.
        every_s: seconds between plain lines when standard error is no terminal.
    """

    def __init__(self, total: float, description: str, unit: str = "image", every_s: float = 20.0) -> None:
        self.total, self.description, self.unit, self.every_s = total, description, unit, every_s
        self.done: float = 0
        self.started = time.monotonic()
        self.last_line = self.started
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            is_amount = isinstance(total, float)
            self.bar = tqdm(
                total=total, desc=description, unit=unit, unit_scale=is_amount, leave=False, dynamic_ncols=True
            )

    def update(self, count: float = 1, **figures: float) -> None:
        """Advance by ``count`` items and show ``figures`` (name → number) beside the rate."""
        self.done += count
        shown = {name: f"{value:.4g}" for name, value in figures.items()}
        if self.bar is not None:
            if shown:
                self.bar.set_postfix(shown, refresh=False)
            self.bar.update(count)
            return
        now = time.monotonic()
        if now - self.last_line >= self.every_s:
            self.last_line = now
            rate = self.done / max(now - self.started, 1e-9)
            extra = "".join(f"  {name} {value}" for name, value in shown.items())
            print(
                f"{self.description}: {self.done:.0f}/{self.total:.0f} {self.unit}s{extra}  {rate:.1f} {self.unit}s/s",
                flush=True,
            )

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def map_with_progress(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    description: str,
    unit: str = "image",
    workers: int | None = None,
) -> list[Result]:
    """``function`` of every item, in their order, made by ``workers`` threads (default: one a processor)."""
    results = []
    with (
        ThreadPoolExecutor(workers or usable_processors()) as pool,
        Progress(len(items), description, unit) as progress,
    ):
        for result in pool.map(function, items):
            results.append(result)
            progress.update()
    return results
