"""Run folders: where a run's files lie, how they are found again, and what is recorded beside a result."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.paths import LOG_ROOT as LOG_ROOT
from utils.paths import REPO_ROOT as REPO_ROOT
from utils.paths import display_path as display_path
from utils.paths import quoted as quoted

CROSS_FIT = "folds.json"  # in the folder of a cross-fit
PROBE_BYTES = 2**16
RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "scikit-image", "tifffile")


def create_run_folder(
    dataset: str, network: str, loss: str, optimizer: str, run_name: str | None = None, log_root: Path = LOG_ROOT
) -> Path:
    """Make ``train_log/<dataset>/<run>`` and return it; a name that is taken gets ``-2``, ``-3``, ….

    ``<run>`` is ``run_name`` or ``<network>_<loss>_<optimizer>_<YYYYMMDD-HHMMSS>``. Making the folder is the
    reservation of its name, so runs started in the same second get folders of their own.
    """
    plain_loss = re.sub(r"[^\w.+-]+", "-", loss.replace("*", "x")).strip("-")
    name = plain_name(run_name) or f"{network}_{plain_loss}_{optimizer}_{time.strftime('%Y%m%d-%H%M%S')}"
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


def plain_name(run_name: str | None) -> str | None:
    """``--run_name``, where it can be the name of a folder.

    Raises:
        UserError: it holds a ``/``, or characters that no file can keep.
    """
    if run_name is None:
        return None
    shown = run_name.encode(errors="replace").decode()
    if Path(run_name).name != run_name or run_name in (".", "..") or "\0" in run_name:
        raise UserError(f"--run_name {shown!r} must be a plain folder name without '/'")
    if shown != run_name or not run_name.isprintable():
        raise UserError(f"--run_name {shown!r} has characters that cannot be printed: choose another name")
    return run_name


def check_place(folder: Path, name: str = "") -> None:
    """Try whether files can be written to ``folder``, or to the nearest folder above it that exists.

    Args:
        name: of a folder that is to be made there.
    Raises:
        OSError: read-only, full, no folder, no permission, or too long a name.
    """
    _stat_name(folder / name)
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    probe = place / f".probe.{os.getpid()}.tmp"
    try:
        with open(probe, "wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(place)
        raise
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _stat_name(path: Path) -> None:
    """Raise what the system says of a name that cannot be, such as one too long."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(path)


def find_run(train_dir: str | Path, log_root: Path = LOG_ROOT) -> Path:
    """Find a run folder given as a path, or as ``<dataset>/<run>`` below ``train_log``.

    Raises:
        UserError: no such run; the message lists those that exist.
    """
    for candidate in (Path(train_dir), log_root / train_dir, REPO_ROOT / train_dir):
        if (candidate / "checkpoints").is_dir():
            return candidate.resolve()
    parts = find_cross_fit(train_dir, log_root)
    if parts is not None:
        names = ", ".join(display_path(path.parent) for path in sorted(parts.glob("fold_*/checkpoints")))
        raise UserError(f"{train_dir} is a cross-fit of several runs: name one of them, {names or 'once there is one'}")
    around = next((above for above in Path(train_dir).absolute().parents if (above / "checkpoints").is_dir()), None)
    if around is not None and Path(train_dir).exists():
        raise UserError(
            f"{train_dir} is a part of a run: give the run, {display_path(around)}, and which checkpoint of it by "
            "--test_ckpt_epoch"
        )
    runs = sorted(path.parent for path in log_root.glob("*/*/checkpoints"))
    known = "\n  ".join(str(run.relative_to(log_root)) for run in runs[-20:])
    raise UserError(
        f"{train_dir} is no run folder (it has no checkpoints/)."
        + (f" Runs below {log_root}:\n  {known}" if runs else f" There are no runs below {log_root}: train first.")
    )


def find_cross_fit(train_dir: str | Path, log_root: Path = LOG_ROOT) -> Path | None:
    """The folder of a cross-fit, given as a path or as ``<dataset>/<run>``; None where it is none."""
    if not str(train_dir):
        return None
    places = (Path(train_dir), log_root / train_dir, REPO_ROOT / train_dir)
    return next((place.resolve() for place in places if (place / CROSS_FIT).is_file()), None)


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
