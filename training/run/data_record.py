"""The fingerprint of a run's data: taken when it begins, held against the files when it goes on or predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets.image_files import split_plane
from training.data import TrainingData
from utils.files import write_json
from utils.fingerprint import (
    FINGERPRINT,
    changes,
    combined_digest,
    describe_changes,
    read_fingerprint,
    take_fingerprint,
)
from utils.paths import display_path


def data_files(data: TrainingData) -> list[Path]:
    """The lists, images and labels of a run."""
    samples = [*data.train.samples, *(data.val.samples if data.val is not None else [])]
    files = [file for sample in samples for file in (sample.image, sample.label) if file is not None]
    lists = [path for path in (data.train_list, data.val_list) if path is not None]
    return [*lists, *(split_plane(file)[0] for file in files)]


def keep_fingerprint(run: Path, data: TrainingData) -> tuple[dict[str, Any], list[str]]:
    """Write the fingerprint of a run that begins; of one that goes on, find what has changed since.

    Returns: what config.json holds of it, and lines to tell the user.
    """
    path, files = run / FINGERPRINT, data_files(data)
    before, lines = read_fingerprint(path), []
    if before is None:
        before = take_fingerprint(files)
        write_json(path, before)
    else:
        changed, gone = changes(before)
        added = sorted({display_path(file) for file in files} - set(before))
        lines = describe_changes(changed, gone, added)
    return {"files": len(before), "digest": combined_digest(before)}, lines
