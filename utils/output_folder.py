"""Folders that commands write into: what one wrote is replaced by what it writes next, and nothing else is touched."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli import UserError, shortened
from utils.files import check_places, check_writable, flush_folder, plain, read_json_if_whole, write_json
from utils.paths import display_path
from utils.run_folder import check_place
from utils.run_lock import LOCK, TEMPORARY, is_running, run_lock
from utils.signals import held_back

WRITTEN = ".written.json"  # which command wrote which files of a folder
PARTIAL = ".partial"
JOB = "job.json"  # in a partial folder that a later command may go on with
NAMED_FILES = 5
SWAP_ATTEMPTS = 10
# A folder that is being filled, or one that it takes the place of.
UNFINISHED = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<process>\d+)-[0-9a-f]{8}\.(?P<kind>tmp|old)")


@dataclass(frozen=True)
class Writer:
    """A command that writes into folders.

    Args:
        name: its key in the record of a folder.
        record: the JSON file that describes the others; it is put in place last.
        keys: in that file; folders of earlier versions are known by them.
        others: files that it always or sometimes writes beside.
    """

    name: str
    record: str
    keys: tuple[str, ...]
    others: tuple[str, ...] = ()

    def written(self, folder: Path) -> set[str]:
        """The files in ``folder`` that this command wrote, by its record."""
        known = read_json_if_whole(folder / WRITTEN)
        if isinstance(known, dict) and isinstance(known.get(self.name), list):
            return {str(name) for name in known[self.name]}
        if (folder / "checkpoints").is_dir():  # a run's own files are those of no command
            return set()
        described = read_json_if_whole(folder / self.record)
        if isinstance(described, dict) and set(self.keys) <= set(described):  # of an earlier version
            return {self.record, *self.others}
        return set()


def written_names(folder: Path) -> set[str]:
    """All files in ``folder`` that commands wrote, by its record."""
    known = read_json_if_whole(folder / WRITTEN)
    lists = known.values() if isinstance(known, dict) else ()
    return {str(name) for names in lists if isinstance(names, list) for name in names}


@contextmanager
def replaced_output(
    folder: Path,
    writer: Writer,
    *,
    expected: Iterable[str] = (),
    earlier: Iterable[str] = (),
    outdated: Sequence[Writer] = (),
    job: dict[str, Any] | None = None,
) -> Iterator[Path]:
    """Fill a folder beside the files of ``folder``, and in the end let these take the place of the previous ones.

    Until then the previous output stays whole, and where the work fails a folder that was made for it goes again. Files
    that the record of ``folder`` does not name are never removed and never overwritten.

    Args:
        expected: names, below ``folder``, known before the work begins; they are checked at once.
        earlier: further names that the previous output is known to have.
        outdated: other commands whose files describe the previous output, and go with it.
        job: what is being done. A partial folder of an equal job is gone on with; it is kept where the work fails.
    Yields: the partial folder.
    Raises:
        UserError: another process writes into ``folder``, or a file is in the way that this command did not write.
    """
    with _own(folder):
        owned = _check_names(folder, writer, list(expected), earlier, outdated)
        partial = folder / (PARTIAL if job is not None else f"{PARTIAL}-{writer.name}")
        _open_partial(partial, job)
        try:
            yield partial
            with held_back():
                _swap_in(folder, partial, writer, owned, outdated)
        except BaseException:
            if job is None:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(partial, ignore_errors=True)


def try_output(
    folder: Path,
    writer: Writer,
    *,
    expected: Iterable[str] = (),
    earlier: Iterable[str] = (),
    outdated: Sequence[Writer] = (),
) -> None:
    """Raise what `replaced_output` would at its beginning, long before it, and leave all as it was; see there.

    Raises:
        UserError: as there; OSError: nothing can be written.
    """
    with _own(folder, as_trial=True):
        check_place(folder)
        _check_names(folder, writer, list(expected), earlier, outdated)


def _check_names(
    folder: Path, writer: Writer, expected: Sequence[str], earlier: Iterable[str], outdated: Sequence[Writer]
) -> set[str]:
    """Raise where the files of ``folder`` cannot be replaced; else the names of those that the command owns."""
    check_output(folder, writer, [*expected, *earlier], outdated)
    owned = writer.written(folder) | set(earlier)
    _refuse_foreign(folder, expected, owned)
    return owned


def check_output(folder: Path, writer: Writer, names: Iterable[str] = (), outdated: Sequence[Writer] = ()) -> None:
    """Raise what the system would say of writing files into ``folder``, before any work is done for them.

    Args:
        names: of the files, as far as they are known; `replaced_output` has ``outdated``, too.
    Raises:
        PermissionError: another user's folder, or files in it that cannot be replaced.
    """
    check_writable(folder / LOCK)
    written = {name for each in (writer, *outdated) for name in each.written(folder)}
    check_places(folder / name for name in sorted({*names, *written, writer.record, WRITTEN}))


@contextmanager
def _own(folder: Path, as_trial: bool = False) -> Iterator[None]:
    """Hold the lock of ``folder``; where the work fails, a lock file and folders that were made for it go again.

    Args:
        as_trial: they go in any case.
    """
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    has_lock = os.path.lexists(folder / LOCK)
    folder.mkdir(parents=True, exist_ok=True)
    with run_lock(folder, say=str if as_trial else print):
        try:
            yield
        except BaseException:
            _undo(folder, made, has_lock)
            raise
        if as_trial:
            _undo(folder, made, has_lock)


def _undo(folder: Path, made: Iterable[Path], has_lock: bool) -> None:
    with contextlib.suppress(OSError):  # others may have put something there meanwhile
        if not has_lock and not is_unfinished(folder):
            (folder / LOCK).unlink()
        for place in made:
            place.rmdir()


def _refuse_foreign(folder: Path, names: Iterable[str], owned: set[str]) -> None:
    """Refuse names that others have taken: a file that is not owned, a folder, or a file in the place of a folder."""
    names = list(names)
    foreign = [name for name in names if os.path.lexists(folder / name) and name not in owned]
    foreign += [name for name in names if name in owned and os.path.isdir(folder / name)]
    above = sorted({parent for name in names for parent in Path(name).parents})
    foreign += [str(place) for place in above if os.path.lexists(folder / place) and not (folder / place).is_dir()]
    if foreign:
        raise UserError(
            f"{display_path(folder)} holds {shortened(foreign, NAMED_FILES)}, which this command did not write and "
            "does not overwrite: move or rename that, or choose another folder"
        )
    apart = [place for place in above if os.path.isdir(folder / place) and _disk(folder / place) != _disk(folder)]
    if apart:
        raise UserError(
            f"{display_path(folder / apart[0])} lies on another disk, and what is written is put in place as a whole: "
            f"have all of {display_path(folder)} there, or choose another folder"
        )


def _disk(folder: Path) -> int:
    return folder.stat().st_dev


def _open_partial(partial: Path, job: dict[str, Any] | None) -> None:
    """Make the partial folder, empty unless it belongs to an equal job; the job in it says that it is ours."""
    wanted = None if job is None else json.loads(json.dumps(plain(job)))
    if os.path.lexists(partial):
        is_folder = partial.is_dir() and not partial.is_symlink()
        inside = [path.name for path in partial.iterdir()] if is_folder else [partial.name]
        if not all(map(TEMPORARY.fullmatch, inside)) and JOB not in inside:
            raise UserError(
                f"{display_path(partial)} holds {shortened(inside, NAMED_FILES)} and no {JOB}: remove it if it is what "
                "a command that was stopped has left, or choose another folder"
            )
        if wanted is None or read_json_if_whole(partial / JOB) != wanted:
            shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    write_json(partial / JOB, job)


def files_below(folder: Path) -> list[str]:
    """The files of a partial folder, relative to it, in order; temporary ones and the job are left out."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not (path.name.startswith(".") and path.name.endswith(".tmp")) and path.name != JOB
    )


def _swap_in(folder: Path, partial: Path, writer: Writer, owned: set[str], outdated: Sequence[Writer]) -> None:
    """Remove the previous output and move the new one into its place, the describing file last."""
    new = files_below(partial)
    _refuse_foreign(folder, new, owned)
    check_output(folder, writer, new, outdated)
    stale = (owned | {name for other in outdated for name in other.written(folder)}) - set(new)
    _write_record(folder, writer, owned | set(new), outdated)
    # From here to the end the folder has no describing file, so that no half of one passes for a whole.
    (folder / writer.record).unlink(missing_ok=True)
    for name in sorted(stale):
        _remove(folder, name)
    for name in sorted(new, key=lambda name: name == writer.record):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial / name, target)
    for parent in {(folder / name).parent for name in new}:
        flush_folder(parent)
    _write_record(folder, writer, set(new), outdated)


def _remove(folder: Path, name: str) -> None:
    """Remove a file that a record names, and the folders that this leaves empty."""
    path = folder / name
    if not Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)) or path.is_dir():
        return
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for parent in path.relative_to(folder).parents[:-1]:
            (folder / parent).rmdir()


def _write_record(folder: Path, writer: Writer, names: set[str], outdated: Sequence[Writer]) -> None:
    known = read_json_if_whole(folder / WRITTEN)
    known = known if isinstance(known, dict) else {}
    gone = {other.name for other in outdated}
    kept = {name: files for name, files in known.items() if name not in gone}
    write_json(folder / WRITTEN, {**kept, writer.name: sorted(names)})


def is_unfinished(folder: Path) -> bool:
    """Whether a command that was to fill ``folder`` was stopped on the way."""
    return (folder / PARTIAL / JOB).is_file()


def is_free(folder: Path) -> bool:
    """Whether nothing lies in ``folder``, or it does not exist."""
    return not folder.exists() or all(path.name == LOCK for path in folder.iterdir())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder to fill, which in the end takes the place of ``folder`` as a whole; on failure it vanishes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    tidy_after_kills(folder.parent)
    fresh = folder.with_name(f".{folder.name}.{_this_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    fresh.mkdir()
    try:
        yield fresh
        with held_back():
            _take_place(fresh, folder, fresh.with_suffix(".old"))
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def tidy_after_kills(parent: Path) -> None:
    """Put back labels that a killed process of this host had moved aside, and remove what it had not finished.

    What belongs to another user stays: it is his to tidy up.
    """
    for path in sorted(parent.glob(".*-*-*")):
        parts = UNFINISHED.fullmatch(path.name)
        if parts is None or parts["host"] != _this_host() or is_running(int(parts["process"])):
            continue
        place = path.with_name(parts["name"])
        with contextlib.suppress(PermissionError):
            if parts["kind"] == "old" and not place.exists():
                path.rename(place)
            else:
                shutil.rmtree(path)


def _this_host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _take_place(fresh: Path, folder: Path, old: Path) -> None:
    for attempt in range(1, SWAP_ATTEMPTS + 1):  # another process may be putting the same labels in place
        try:
            if folder.exists():
                os.rename(folder, old)
            os.rename(fresh, folder)
            break
        except OSError:
            if old.exists() and not folder.exists():
                os.rename(old, folder)
            if attempt == SWAP_ATTEMPTS:
                raise
    shutil.rmtree(old, ignore_errors=True)
