"""Run folders: where a run's files lie, how they are found again, and how they are written so that none is lost."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from utils.cli import UserError

REPO_ROOT = Path(__file__).resolve().parents[1]
LOG_ROOT = REPO_ROOT / "train_log"
RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "scikit-image", "tifffile")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` for writing; on success flush it to disk and rename it to ``path``.

    A crash, a full disk or a kill at any moment leaves the old file or the new one, never a part of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented strict JSON, atomically."""
    with atomic_write(Path(path)) as file:
        file.write((json.dumps(plain(content), indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a UserError naming it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one record as a line of strict JSON."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(plain(record), allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read all whole lines of a JSONL file; a last line cut by a crash is left out. Missing file: no records."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def create_run_folder(
    dataset: str, network: str, loss: str, optimizer: str, run_name: str | None = None, log_root: Path = LOG_ROOT
) -> Path:
    """Make ``train_log/<dataset>/<run>`` and return it; a name that is taken gets ``-2``, ``-3``, ….

    ``<run>`` is ``run_name`` or ``<network>_<loss>_<optimizer>_<YYYYMMDD-HHMMSS>``. Making the folder is the
    reservation of its name, so runs started in the same second get folders of their own.
    """
    plain_loss = re.sub(r"[^\w.+-]+", "-", loss.replace("*", "x")).strip("-")
    name = run_name or f"{network}_{plain_loss}_{optimizer}_{time.strftime('%Y%m%d-%H%M%S')}"
    if Path(name).name != name or name in (".", ".."):
        raise UserError(f"--run_name {name!r} must be a plain folder name without '/'")
    parent = log_root / dataset
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
            continue
        (folder / "checkpoints").mkdir()
        return folder


def find_run(train_dir: str | Path, log_root: Path = LOG_ROOT) -> Path:
    """Find a run folder given as a path, or as ``<dataset>/<run>`` below ``train_log``.

    Raises:
        UserError: no such run; the message lists those that exist.
    """
    for candidate in (Path(train_dir), log_root / train_dir, REPO_ROOT / train_dir):
        if (candidate / "checkpoints").is_dir():
            return candidate.resolve()
    runs = sorted(path.parent for path in log_root.glob("*/*/checkpoints"))
    known = "\n  ".join(str(run.relative_to(log_root)) for run in runs[-20:])
    raise UserError(
        f"{train_dir} is no run folder (it has no checkpoints/)."
        + (f" Runs below {log_root}:\n  {known}" if runs else f" There are no runs below {log_root}: train first.")
    )


def display_path(path: Path) -> str:
    """A path as a user would type it from the repository root."""
    path = Path(path)
    return path.relative_to(REPO_ROOT).as_posix() if path.is_relative_to(REPO_ROOT) else path.as_posix()


def quoted(text: str | Path) -> str:
    """A path or name as an argument of a command to paste, in any shell."""
    return str(text) if re.fullmatch(r"[\w./:+=-]+", str(text)) else f'"{text}"'


def _git_commit() -> str | None:
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=REPO_ROOT, capture_output=True, text=True
    )
    return answer.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment_record(device: str | None = None) -> dict[str, Any]:
    """What a result needs beside it to be believed: command line, git commit, versions, host and device."""
    try:
        commit = _git_commit()
    except OSError:  # git is not installed
        commit = None
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": commit,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in RECORDED_PACKAGES}},
        "host": {
            "name": platform.node(),
            "system": f"{platform.system()} {platform.machine()}",
            "cpus": os.cpu_count(),
        },
        "device": device,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
