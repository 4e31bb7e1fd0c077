"""Checkpoints that survive crashes and are safe to load: plain tensors and containers, written atomically."""

from __future__ import annotations

import copy
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from utils.cli import UserError
from utils.files import atomic_write

CHECKPOINT_KEYS = (
    "model",
    "optimizer",
    "scheduler",
    "scaler",
    "epoch",
    "best",
    "threshold",
    "pred_invert",
    "rng",
    "config",
)
OPTIONAL_KEYS = ("loss", "student", "teacher_updates")  # of losses that learn, of runs with --ema


def take_snapshot(state: dict[str, Any], device: torch.device) -> Callable[[], dict[str, Any]]:
    """Copy ``state`` to the host, so that training may go on and change it.

    A CUDA device copies into pinned memory as soon as it has done what it was told before, and nobody waits here.

    Returns: a function that waits for the copy, if need be, and returns it; for any thread.
    """
    held = _on_host(state)
    if device.type != "cuda":
        return lambda: held
    with torch.cuda.device(device):
        copied = torch.cuda.Event(blocking=True)
        copied.record()

    def wait() -> dict[str, Any]:
        copied.synchronize()
        return held

    return wait


def _on_host(value: Any) -> Any:
    """A copy of nested containers, their tensors copied to the host."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", non_blocking=value.is_cuda, copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # an OrderedDict of torch's has attributes
        copied.update((key, _on_host(item)) for key, item in value.items())
        return copied
    return type(value)(map(_on_host, value)) if isinstance(value, (list, tuple)) else value


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` through a temporary file in the same folder, flushed and renamed.

    Args:
        state: the keys of ``CHECKPOINT_KEYS``, and of ``OPTIONAL_KEYS`` those that the run has; tensors, numbers, text
            and containers of them.
    Raises:
        ValueError: a key is missing or unknown.
    """
    if set(state) - set(OPTIONAL_KEYS) != set(CHECKPOINT_KEYS):
        raise ValueError(f"checkpoint keys differ: {sorted(set(state) - set(OPTIONAL_KEYS) ^ set(CHECKPOINT_KEYS))}")
    with atomic_write(Path(path)) as file:
        torch.save(state, file)


def load_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Load a checkpoint without executing anything that it may contain.

    Raises:
        UserError: missing, broken or foreign file, or one that holds more than plain tensors and containers.
    """
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint {path} cannot be loaded safely: {reason}") from None
    if not isinstance(state, dict) or not set(CHECKPOINT_KEYS) <= set(state):
        raise UserError(f"{path} is no checkpoint of this project: expected the keys {', '.join(CHECKPOINT_KEYS)}")
    return state
