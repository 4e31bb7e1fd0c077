"""Files written so that none is lost: atomically, as strict JSON, lines of JSON or CSV, under names no two share.

JSON files that come back are checked: one message where a file is not what it was written as, whatever the damage.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError
from utils.paths import display_path

SAMPLED_BYTES = 4096  # at the beginning, middle and end of a file, by which equal ones are found
MAX_NAME_BYTES = 255  # of a file's name, on nearly every file system
MAX_STEM_BYTES = 230  # leaves room for suffixes


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` for writing; on success flush it to disk and rename it to ``path``.

    A crash, a full disk or a kill at any moment leaves the old file or the new one, never a part of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = f".{os.getpid()}.tmp"
    temporary = path.with_name(f".{cut_to_bytes(path.name, MAX_NAME_BYTES - len(ending) - 1)}{ending}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # what went wrong first is what matters
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and re.search(r"requested and \d+ written", str(error)):  # NumPy of a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)
        raise
    flush_folder(path.parent)


def check_places(paths: Iterable[Path]) -> None:
    """Raise what the system would say of making, replacing or removing files, before any of it is begun.

    Looked at are permissions: of the nearest folders that exist and, in sticky ones such as /tmp, who owns the files.

    Raises:
        PermissionError: naming the folder, or the file of another user.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    sticky: dict[Path, bool] = {}
    for path in paths:
        parent = next(place for place in path.parents if place.is_dir())
        if parent not in sticky:
            if not os.access(parent, os.W_OK | os.X_OK):
                raise _denied(parent)
            state = parent.stat()
            sticky[parent] = bool(state.st_mode & stat.S_ISVTX) and user not in (0, state.st_uid)
        if sticky[parent] and os.path.lexists(path) and path.lstat().st_uid != user:
            raise _denied(path)


def check_writable(path: Path) -> None:
    """Raise what the system would say of writing to a file, where there is one.

    Raises:
        PermissionError: naming it.
    """
    if path.exists() and not os.access(path, os.W_OK):
        raise _denied(path)


def check_open(folder: Path) -> None:
    """Raise what the system would say of looking into a folder, which `Path.glob` takes for an empty one.

    Raises:
        PermissionError: naming it.
    """
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise _denied(folder)


def _denied(path: Path) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def flush_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, so that a rename outlasts a power cut; where the system can do that."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):  # some network file systems refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cut_to_bytes(text: str, most: int) -> str:
    """The beginning of ``text`` that takes at most ``most`` bytes as part of a file's name."""
    while len(os.fsencode(text)) > most:
        text = text[:-1]
    return text


def plain(value: Any) -> Any:
    """Turn ``value`` into what strict JSON can hold: paths to text, arrays to lists, NaN and infinity to null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, torch tensors
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return value.as_posix()
    return value


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented strict JSON, atomically."""
    with atomic_write(Path(path)) as file:
        file.write((json.dumps(plain(content), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or broken one is a UserError naming it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def read_json_if_whole(path: Path) -> Any:
    """What a JSON file holds; None where it is missing or broken."""
    try:
        return read_json(path)
    except UserError:
        return None


@dataclass(frozen=True)
class Kind:
    """What the value of a field may be: the word for it, and the test."""

    name: str
    accepts: Callable[[Any], bool]

    def or_null(self) -> Kind:
        """This, or null."""
        return Kind(f"{self.name} or null", lambda value: value is None or self.accepts(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Kind("text", lambda value: isinstance(value, str))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a number", _is_number)
FRACTION = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
COUNT = Kind("a whole number of at least 0", lambda value: _is_number(value) and value == int(value) and value >= 0)
POSITIVE = Kind("a whole number above 0", lambda value: _is_number(value) and value == int(value) and value > 0)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
TEXTS = Kind("a list of texts", lambda value: LIST.accepts(value) and all(map(TEXT.accepts, value)))
NUMBERS = Kind("a list of numbers", lambda value: LIST.accepts(value) and all(map(NUMBER.accepts, value)))
NUMBER_BY_TEXT = Kind(
    "an object of numbers", lambda value: OBJECT.accepts(value) and NUMBERS.accepts([*value.values()])
)
TEXT_BY_TEXT = Kind("an object of texts", lambda value: OBJECT.accepts(value) and TEXTS.accepts([*value.values()]))


def check_record(
    content: Any,
    path: Path | str,
    required: Mapping[str, Kind],
    optional: Mapping[str, Kind] | None = None,
    remedy: str = "",
) -> dict[str, Any]:
    """``content`` where it is an object that has the required fields, and all fields named here are of their kinds.

    Args:
        path: the file it comes from.
        remedy: what to do, at the end of the message.
    Raises:
        UserError: naming the file, the field and what it should be.
    """
    advice = f"; {remedy}" if remedy else ""
    if not isinstance(content, dict):
        raise UserError(f"{display_path(Path(path))} must hold an object, {{…}}, not {_shown(content)}{advice}")
    for name, kind in {**required, **(optional or {})}.items():
        if name not in content:
            if name in required:
                raise UserError(f"{display_path(Path(path))} has no {name!r}, which must be {kind.name}{advice}")
        elif not kind.accepts(content[name]):
            raise UserError(
                f"{display_path(Path(path))}: {name!r} is {_shown(content[name])}, it must be {kind.name}{advice}"
            )
    return content


def read_record(
    path: Path | str, required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, remedy: str = ""
) -> dict[str, Any]:
    """Read a JSON file and check it, see `check_record`."""
    return check_record(read_json(path), path, required, optional, remedy)


def _shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one record as a line of strict JSON."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(plain(record), allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file; a line that is no record, broken or cut by a crash, costs that line alone."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line.decode())
            if isinstance(record, dict):
                records.append(record)
    return records


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table, atomically; floats with six significant digits, undefined ones (NaN) and None empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode(errors="replace"))  # names of files need not be UTF-8


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"


def _plane_as_name(image: Path) -> Path:
    """``stack__p3.tif`` for plane 3 of a stack, ``stack.tif::3``."""
    match = re.fullmatch(r"(.+?)((?:\.\w+)?)::(\d+)", image.name)
    return image if match is None else image.with_name(f"{match[1]}__p{match[3]}{match[2]}")


def unique_stems(images: Sequence[Path]) -> list[str]:
    """A file name without suffix for what is made of each image, none given twice, whatever the case of letters.

    The stem, of a plane ``stack.tif::3`` ``stack__p3``; images of one folder that differ by suffix alone get it
    appended (``7_png``); where names are equal, as many parent folders as needed come before them (``a__7``).
    """
    images = [_plane_as_name(image) for image in images]
    twins = Counter((image.parent, image.stem.casefold()) for image in images)
    bases = [
        f"{image.stem}_{image.suffix.lstrip('.')}" if twins[image.parent, image.stem.casefold()] > 1 else image.stem
        for image in images
    ]
    folders = [[part for part in image.parts[:-1] if part != image.anchor] for image in images]
    depths = [0] * len(images)
    while True:
        names = [
            "__".join([*parents[len(parents) - depth :], base])
            for parents, depth, base in zip(folders, depths, bases, strict=True)
        ]
        taken = Counter(name.casefold() for name in names)
        equal = [index for index, name in enumerate(names) if taken[name.casefold()] > 1]
        growing = [index for index in equal if depths[index] < len(folders[index])]
        if not growing:
            numbered = [f"{name}-{index}" if index in equal else name for index, name in enumerate(names)]
            return [_short_stem(name) for name in numbered]
        for index in growing:
            depths[index] += 1


def same_content(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of different files with the same bytes, each in the order given; links to one file count as two.

    Files of equal size are compared by a few sampled bytes, and only those that agree in these by all of them.
    """
    groups = _groups(paths, lambda path: path.stat().st_size)
    for read in (_sampled_bytes, content_digest):
        groups = [finer for group in groups for finer in _groups(group, read)]
    return groups


def content_mark(path: Path) -> str:
    """16 hexadecimal digits by which a file is known again under another name: of its size and a few sampled bytes."""
    return hashlib.sha256(f"{path.stat().st_size} ".encode() + _sampled_bytes(path)).hexdigest()[:16]


def _groups(paths: Iterable[Path], key_of: Callable[[Path], Any]) -> list[list[Path]]:
    groups: dict[Any, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key_of(path)].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _sampled_bytes(path: Path) -> bytes:
    size, sampled = path.stat().st_size, b""
    with open(path, "rb") as file:
        for place in (0, size // 2, max(0, size - SAMPLED_BYTES)):
            file.seek(place)
            sampled += file.read(SAMPLED_BYTES)
    return hashlib.sha256(sampled).digest()


def content_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short_stem(name: str) -> str:
    """``name``, or what of it fits into a file's name with a digest that tells it from others."""
    if len(os.fsencode(name)) <= MAX_STEM_BYTES:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{cut_to_bytes(name, MAX_STEM_BYTES - 13)}-{digest}"
