"""Where the repository lies, and paths as people type them."""

from __future__ import annotations

import re
from pathlib import Path

REPO_ROOT = Path(__file__).resolve().parents[1]
LOG_ROOT = REPO_ROOT / "train_log"


def display_path(path: Path) -> str:
    """A path as a user would type it from the repository root."""
    path = Path(path)
    return path.relative_to(REPO_ROOT).as_posix() if path.is_relative_to(REPO_ROOT) else path.as_posix()


def quoted(text: str | Path) -> str:
    """A path or name as an argument of a command to paste, in any shell."""
    return str(text) if re.fullmatch(r"[\w./:+=-]+", str(text)) else f'"{text}"'
