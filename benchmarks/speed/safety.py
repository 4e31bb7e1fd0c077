"""What safety costs: checksums of checkpoints, the fingerprint of the data, and the lock, as a share of a quick run."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.speed.record import Figure, Settings, median_ms
from benchmarks.speed.training import in_fresh_process, samples_of, train_fast, training_options

LARGEST_SHARE = 0.01  # of a quick run that all of it may cost
BEST_AND_LAST = 2  # checkpoints an epoch, at most; numbered ones are written beside them


def measure_safety(settings: Settings) -> list[Figure]:
    """CPU seconds of checksums, fingerprint and lock in a run of the quick preset, and their share of the run's."""
    from training.configuration import PRESETS

    quick = PRESETS["quick"]
    checkpoints = quick["epochs"] * BEST_AND_LAST + quick["epochs"] // quick["checkpoint_every"]
    image_ms = in_fresh_process(train_fast, training_options(settings))["cpu_ms"]
    run_s = image_ms * quick["steps"] * quick["batch_size"] / 1000
    checksum_ms = in_fresh_process(checkpoint_checksum_ms, settings)
    fingerprint_ms, lock_ms = fingerprint_and_lock_ms(settings)
    cost_s = (checksum_ms * checkpoints + fingerprint_ms + lock_ms) / 1000
    facts = {
        f"ms of {checkpoints} checksums": checksum_ms * checkpoints,
        "ms of the fingerprint": fingerprint_ms,
        "ms of the lock": lock_ms,
        "CPU s of the run": run_s,
        "share of the run": cost_s / run_s,
    }
    what = f"checksums, fingerprint and lock of a quick run, width {settings.width}"
    return [Figure(what, "s", cost_s, goal=LARGEST_SHARE * run_s, more=facts)]


def checkpoint_checksum_ms(settings: Settings) -> float:
    """CPU milliseconds by which the checksum makes writing a checkpoint longer; the disk has no part."""
    import torch

    from models import build_network
    from utils.checkpoint import HashedFile

    network = build_network("unet", width=settings.width)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.zeros(1, 1, 32, 32)).sum().backward()
    optimizer.step()
    state = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}

    def write() -> None:
        torch.save(state, io.BytesIO())

    def write_hashed() -> None:
        hashed = HashedFile(io.BytesIO())
        torch.save(state, cast(IO[bytes], hashed))
        hashed.close_with_checksum()

    return _cpu_ms(write_hashed, settings) - _cpu_ms(write, settings)


def fingerprint_and_lock_ms(settings: Settings) -> tuple[float, float]:
    """CPU milliseconds of the fingerprint of all images and labels of the training and validation lists, and a lock."""
    from utils.fingerprint import take_fingerprint
    from utils.run_lock import run_lock

    samples = [*samples_of("train/train_gt"), *samples_of("val")]
    files = [file for sample in samples for file in (sample.image, sample.require_label())]

    def own() -> None:
        with run_lock(Path(folder)):
            pass

    with tempfile.TemporaryDirectory() as folder:
        return _cpu_ms(lambda: take_fingerprint(files), settings), _cpu_ms(own, settings)


def _cpu_ms(function: Any, settings: Settings) -> float:
    return median_ms(function, settings.seconds, clock=time.process_time)
