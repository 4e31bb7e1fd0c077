"""A run has one owner: the process that trains it holds its lock, and tidies up what a killed one has left."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from utils.run_lock import remove_temporary_files, run_lock

WRITTEN_FOLDERS = ("", "checkpoints")


def own_run(folder: Path, until: ExitStack) -> Path:
    """Hold the lock of a run until ``until`` ends, and remove temporary files of processes that died.

    Raises:
        UserError: another process owns the run; the message names it.
    """
    until.enter_context(run_lock(folder))
    for name in WRITTEN_FOLDERS:
        remove_temporary_files(folder / name)
    return folder
