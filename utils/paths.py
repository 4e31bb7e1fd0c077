"""Where the repository lies, and paths as people type them."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[1]
LOG_ROOT = REPO_ROOT / "train_log"


def display_path(path: Path) -> str:
    """A path as a user would type it from the repository root; never like an option, which begins with a dash."""
    path = Path(path)
    shown = path.relative_to(REPO_ROOT).as_posix() if path.is_relative_to(REPO_ROOT) else path.as_posix()
    return f"./{shown}" if shown.startswith("-") else shown


def absolute_path(name: str | Path) -> Path:
    """The path that `display_path` shows as ``name``; links stay."""
    return Path(os.path.abspath(REPO_ROOT / name))


def quoted(text: str | Path, windows: bool = os.name == "nt") -> str:
    """A path or name as an argument of a command to paste.

    Args:
        windows: for PowerShell and cmd, whose file names hold no quotes, else for a POSIX shell.
    """
    if windows:
        return str(text) if re.fullmatch(r"[\w./:+=-]+", str(text)) else f'"{text}"'
    return shlex.quote(str(text))
