"""What files hold, so that a later command can say what has changed: size, time of change and a digest of each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from utils.cli import shortened
from utils.files import LIST, read_json_if_whole, write_json
from utils.paths import REPO_ROOT, display_path

FINGERPRINT = "data_fingerprint.json"  # in a run folder
WHOLE_BYTES = 2**22  # up to this size all of a file is read; of larger ones samples, and the time of change counts
SAMPLES, SAMPLE_BYTES = 16, 2**16
NAMED_FILES = 5


def digest(path: Path) -> str:
    """A digest of a file's content; of a large file, of its size and samples spread over it."""
    found = hashlib.blake2b(digest_size=12)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if size <= WHOLE_BYTES:
            found.update(file.read())
        else:
            found.update(str(size).encode())
            for number in range(SAMPLES):
                file.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                found.update(file.read(SAMPLE_BYTES))
    return found.hexdigest()


def _describe(path: Path) -> list[Any] | None:
    try:
        state = os.stat(path)
        return [state.st_size, state.st_mtime_ns, digest(path)]
    except OSError:
        return None


def take_fingerprint(paths: Iterable[Path]) -> dict[str, list[Any]]:
    """Size in bytes, time of change and digest of every file, by its path; files that are not there are left out."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor() as pool:
        described = zip(unique, pool.map(_describe, unique), strict=True)
        return {display_path(path): found for path, found in described if found is not None}


def _has_changed(path: Path, before: list[Any]) -> bool | None:
    """Whether a file holds something else than before; None where it is not there."""
    try:
        state = os.stat(path)
        if state.st_size != before[0]:
            return True
        is_large = before[0] > WHOLE_BYTES
        return (is_large and state.st_mtime_ns != before[1]) or digest(path) != before[2]
    except OSError:
        return None


def changes(before: Mapping[str, list[Any]]) -> tuple[list[str], list[str]]:
    """The files that hold something else than when their fingerprint was taken, and those that are gone."""
    names = list(before)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda name: _has_changed(REPO_ROOT / name, before[name]), names))
    changed = [name for name, answer in zip(names, found, strict=True) if answer]
    return changed, [name for name, answer in zip(names, found, strict=True) if answer is None]


def describe_changes(changed: list[str], gone: list[str], added: list[str]) -> list[str]:
    """A line for each kind of change."""
    kinds = (("changed", changed), ("gone", gone), ("new", added))
    return [
        f"since the run began, {len(names)} of its files {'is' if len(names) == 1 else 'are'} {kind}: "
        f"{shortened(names, NAMED_FILES)}"
        for kind, names in kinds
        if names
    ]


def combined_digest(fingerprint: Mapping[str, list[Any]]) -> str:
    """One digest of all names and contents."""
    lines = sorted(f"{name}\0{content}" for name, (_, _, content) in fingerprint.items())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def keep_fingerprint(folder: Path, paths: Iterable[Path]) -> tuple[dict[str, Any], list[str]]:
    """Write the fingerprint of files into a folder; where it holds one already, find what has changed since.

    Returns: number and combined digest, and lines to tell the user.
    """
    paths, lines = list(paths), []
    before = read_fingerprint(folder / FINGERPRINT)
    if before is None:
        before = take_fingerprint(paths)
        write_json(folder / FINGERPRINT, before)
    else:
        changed, gone = changes(before)
        added = sorted({display_path(path) for path in paths} - set(before))
        lines = describe_changes(changed, gone, added)
    return {"files": len(before), "digest": combined_digest(before)}, lines


def read_fingerprint(path: Path) -> dict[str, list[Any]] | None:
    """The fingerprint that a file holds; None where there is none, or a broken one."""
    found = read_json_if_whole(path)
    is_whole = isinstance(found, dict) and all(LIST.accepts(each) and len(each) == 3 for each in found.values())
    return found if is_whole else None
