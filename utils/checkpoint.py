"""Checkpoints that survive crashes and are safe to load: plain tensors and containers, written atomically.

A checkpoint is a zip file as ``torch.save`` writes it. Its archive comment is the SHA-256 of all bytes before, so that
a single changed bit is noticed and other tools read the file as ever.
"""

from __future__ import annotations

import copy
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from utils.cli import UserError
from utils.files import atomic_write

CHECKPOINT_KEYS = ("model", "optimizer", "scheduler", "scaler", "epoch", "best", "threshold", "pred_invert", "rng")
CHECKPOINT_KEYS += ("config",)
COMMENT = b"sha256:"
START_OF_ARCHIVE = b"PK\x03\x04"
END_OF_ARCHIVE = b"PK\x05\x06"  # begins the 22 bytes at the end of a zip file without comment
BLOCK = 1 << 20
# Of runs whose masks have an offset, that are over, with --ema, with several networks, with a method.
OPTIONAL_KEYS = ("mask_offset", "own_images", "student", "teacher_updates", "memory")


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


class HashedFile:
    """A file for ``torch.save`` that keeps the SHA-256 of what is written, less the last two bytes.

    These are the length of the archive comment, which `close_with_checksum` replaces.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.held = b""
        self.hash = hashlib.sha256()

    def write(self, content: bytes) -> int:
        """Write all but the last two bytes so far; what is large is neither copied nor held."""
        view = memoryview(content).cast("B")
        cut = len(self.held) + len(view) - 2
        parts = (self.held[: max(cut, 0)], view[: max(cut - len(self.held), 0)])
        for part in parts:
            self.hash.update(part)
            self.file.write(part)
        self.held = self.held[len(parts[0]) :] + bytes(view[len(parts[1]) :])
        return len(view)

    def flush(self) -> None:
        """Hand on what has been written."""
        self.file.flush()

    def close_with_checksum(self) -> None:
        """End the archive with a comment that holds the checksum."""
        comment = COMMENT + self.hash.hexdigest().encode()
        self.file.write(struct.pack("<H", len(comment)) + comment)


def verify_checksum(path: Path) -> bool:
    """Whether a checkpoint carries a checksum; older ones, and files of another kind, carry none.

    Raises:
        UserError: the content is not what was written.
    """
    comment_size = len(COMMENT) + 64
    left = max(os.path.getsize(path) - 2 - comment_size, 0)
    content = hashlib.sha256()
    with open(path, "rb") as file:
        start = file.read(len(START_OF_ARCHIVE))
        file.seek(left)
        tail = file.read()
        is_foreign = start != START_OF_ARCHIVE and COMMENT not in tail
        if is_foreign or (tail[-22:].startswith(END_OF_ARCHIVE) and tail.endswith(b"\0\0")):
            return False
        file.seek(0)
        while block := file.read(min(BLOCK, left)):
            content.update(block)
            left -= len(block)
    comment = COMMENT + content.hexdigest().encode()
    if tail != struct.pack("<H", len(comment)) + comment:
        raise UserError(
            f"checkpoint {path} is damaged: its content does not match its checksum. Take another checkpoint of the "
            "run, or a copy of this one"
        )
    return True


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
        hashed = HashedFile(file)
        torch.save(state, cast(IO[bytes], hashed))
        hashed.close_with_checksum()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint without executing anything that it may contain.

    Raises:
        UserError: missing, broken, damaged or foreign file, or one that holds more than plain tensors and containers.
    """
    state = load_tensors(path, what="checkpoint", verify=True)
    if not isinstance(state, dict) or not set(CHECKPOINT_KEYS) <= set(state):
        raise UserError(f"{path} is not a checkpoint of this project: expected the keys {', '.join(CHECKPOINT_KEYS)}")
    return state


def load_tensors(path: Path, *, what: str = "file", verify: bool = False) -> Any:
    """What a file of ``torch.save`` holds, tensors on the CPU and plain containers only; nothing in it is executed.

    Args:
        what: the word for such a file in messages.
        verify: whether a checksum must be right; a file without one is loaded with a note.
    Raises:
        UserError: missing, unreadable, damaged or foreign file, or one that holds more.
    """
    try:
        if verify and not verify_checksum(path):
            print(f"note: {what} {path} has no checksum (it was written by an earlier version)", flush=True)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of damaged files the unpickler raises nearly every kind
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "weights_only" in reason:  # torch's advice is to load what may execute code
            reason = "it is no file of tensors and plain containers"
        raise UserError(f"{what} {path} cannot be loaded safely: {reason}") from None
