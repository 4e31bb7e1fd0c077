"""How a run ends that does not come to its end: what is kept, and advice that can be followed."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from training.run.state import has_checkpoint
from utils.cli import RunFailed, UserError
from utils.distributed import is_main, launcher
from utils.files import read_json, write_json
from utils.run_folder import display_path, quoted

if TYPE_CHECKING:
    from training.options import TrainingOptions

CONFIG, DIVERGED = "config.json", "diverged"
MEMORY_ERRORS = re.compile(r"out of memory|can't allocate memory|bad_alloc|Unable to allocate", re.IGNORECASE)


def resume_command(folder: Path) -> str:
    """What to type to go on with a run."""
    return f"{launcher()} main.py --resume {quoted(display_path(folder))}"


def how_to_go_on(folder: Path, saved: int, lr: float | None = None) -> str:
    """What to do after a run ended early.

    Args:
        saved: the last epoch whose checkpoint was handed to the disk.
        lr: a rate to go on with.
    """
    rate = "" if lr is None else f" --lr {lr:.3g}"
    if has_checkpoint(folder) if is_main() else saved > 0:
        return f"finished epochs are kept; go on with: {resume_command(folder)}{rate}"
    return "no epoch was finished, so there is nothing to resume: start the run anew" + (f" with{rate}" if rate else "")


def note_divergence(folder: Path, epoch: int) -> None:
    """Keep with the run that its loss was not finite, after which ``--resume`` takes another ``--lr``."""
    with contextlib.suppress(OSError, UserError):  # what went wrong first is what matters
        write_json(folder / CONFIG, {**read_json(folder / CONFIG), DIVERGED: {"epoch": epoch}})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or the device had no memory left."""
    named = isinstance(error, RuntimeError) and MEMORY_ERRORS.search(str(error)) is not None
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or named


def out_of_memory(error: BaseException, options: TrainingOptions, advice: str) -> RunFailed:
    """The failure that names what to lower."""
    batch, crop = options.optimization.batch_size, options.augmentation.crop
    width = options.network.options.get("width")
    named_width = "--width" if width is None else f"--width {width}"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    failure = RunFailed(
        f"out of memory: lower --batch_size {batch} (or raise --accumulate), --crop {crop} or {named_width}. "
        f"What was said: {reason[:200]}"
    )
    failure.add_note(advice)
    return failure
