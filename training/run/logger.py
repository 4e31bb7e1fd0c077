"""The record of a run: log.txt, metrics.jsonl and TensorBoard; written by the main process alone."""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
from pathlib import Path
from typing import Any

from utils.distributed import is_main
from utils.files import POSITIVE, append_jsonl, atomic_write, read_jsonl

METRICS = "metrics.jsonl"
CLOSING_S = 1.0
EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)")


class RunLogger:
    """Lines for people, records for programs, curves for TensorBoard.

    Args:
        run: the run folder.
        tensorboard: write ``tensorboard/``.
        completed: epochs that a resumed run keeps; newer records are discarded.
    """

    def __init__(self, run: Path, tensorboard: bool, completed: int = 0) -> None:
        self.run, self.writer = run, None
        if not is_main():
            return
        keep_records(run / METRICS, completed)
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            put_before(run / "tensorboard", int(time.time()))
            self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=completed + 1 if completed else None)

    def log(self, line: str) -> None:
        """Print a line and keep it in log.txt."""
        if is_main():
            print(line, flush=True)
            with open(self.run / "log.txt", "a", encoding="utf-8") as log:
                log.write(line + "\n")

    def log_metrics(self, epoch: int, metrics: dict[str, Any]) -> None:
        """Add an epoch's metrics, ``{"train/loss": 0.3, …}``, to metrics.jsonl and the curves."""
        if not is_main():
            return
        append_jsonl(self.run / METRICS, {"epoch": epoch, **metrics})
        if self.writer is not None:
            for name, value in metrics.items():
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self.writer.add_scalar(name, value, epoch)

    def log_picture(self, name: str, panel: Any, epoch: int) -> None:
        """Show an RGB picture, uint8 (H, W, 3), in TensorBoard."""
        if self.writer is not None:
            self.writer.add_image(name, panel, epoch, dataformats="HWC")

    def log_hparams(self, settings: dict[str, Any], metrics: dict[str, float]) -> None:
        """Show what a run was made with beside what it reached, in TensorBoard's table of runs (HPARAMS).

        Args:
            settings: by name; those that are no number, text or switch are left out.
            metrics: ``{"best/val": 0.8}``; undefined ones are left out.
        """
        if self.writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        plain = {name: value for name, value in settings.items() if isinstance(value, (bool, int, float, str))}
        known = {name: value for name, value in metrics.items() if math.isfinite(value)}
        for summary in hparams(plain, known):  # SummaryWriter.add_hparams would make a run of its own
            self.writer._get_file_writer().add_summary(summary)
        for name, value in known.items():
            self.writer.add_scalar(name, value)

    def records(self) -> list[dict[str, Any]]:
        """The records of all epochs so far."""
        return read_metrics(self.run / METRICS)

    def close(self) -> None:
        """Hand everything to the disk; the curves have no more than ``CLOSING_S`` for that.

        TensorBoard's own thread may hold a lock for minutes where an interrupt came amid its work.
        """
        if self.writer is not None:
            closing = threading.Thread(target=self._close_curves, name="closing curves", daemon=True)
            closing.start()
            closing.join(CLOSING_S)

    def _close_curves(self) -> None:
        with contextlib.suppress(OSError):  # a full disk costs the curves their end
            self.writer.close()


def put_before(curves: Path, second: int) -> None:
    """Rename files of curves whose names lie at or after ``second``, a time in their names, in order and before it.

    TensorBoard reads files in the order of their names. Where the clock was set back, what a resumed run discards
    came last and took the place of its new curves.
    """
    files = [(int(name[1]), path) for path in curves.glob("events.out.*") if (name := EVENTS.match(path.name))]
    for begun, path in sorted(files, reverse=True):
        second = min(begun, second - 1)
        if second < begun:
            with contextlib.suppress(OSError):  # on Windows TensorBoard may have it open
                path.rename(path.with_name(EVENTS.sub(f"events.out.tfevents.{second:010d}", path.name)))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; lines that are broken or name no epoch are left out."""
    return [record for record in read_jsonl(path) if POSITIVE.accepts(record.get("epoch"))]


def keep_records(path: Path, completed: int) -> None:
    """Drop the records of epochs after ``completed`` from a metrics file, and lines that are none."""
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record["epoch"] <= completed]
    with atomic_write(path) as file:
        file.writelines((json.dumps(record) + "\n").encode() for record in kept)
