"""Which folder the maps of an input go to: its own again, and never that of another input."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from evaluation.scores.map_folder import PREDICTIONS, read_predictions
from utils.cli import UserError
from utils.files import content_digest, cut_to_bytes, plain, read_json_if_whole
from utils.fingerprint import digest
from utils.output_folder import JOB, PARTIAL, files_below, is_free
from utils.run_folder import REPO_ROOT, display_path, environment_record

MAX_ENDING_BYTES = 200  # of a folder's name


def identify(paths: Sequence[Path]) -> list[str]:
    """What tells one input from another: the resolved paths of its list, or of its files and folders."""
    return sorted({path.resolve().as_posix() for path in paths})


def result_folder(run: Path, name: str, ending: str, inputs: Sequence[str]) -> Path:
    """``results/<name><ending>`` of a run, or ``…_2``, ``…_3`` where other inputs of that name have the former.

    Args:
        name: such as ``epoch_3``.
        inputs: see `identify`.
    """
    name = f"{name}{cut_to_bytes(ending, MAX_ENDING_BYTES)}"
    for number in count(1):
        folder = run / "results" / (name if number == 1 else f"{name}_{number}")
        if is_free(folder) or _inputs_of(folder) == list(inputs):
            return folder
    raise AssertionError


def check_chosen_folder(folder: Path, run: Path, inputs: Sequence[str]) -> None:
    """Refuse a folder given by ``--out`` that holds predictions of other images, or of another run.

    Raises:
        UserError: naming what it holds.
    """
    path = folder / PREDICTIONS.record
    if not path.is_file():
        return
    record = read_predictions(path)
    if _inputs_of(folder) != list(inputs) or (REPO_ROOT / record.get("run", "")).resolve() != run.resolve():
        raise UserError(
            f"--out {display_path(folder)} holds predictions of other images or of another run: choose another folder"
        )


def _inputs_of(folder: Path) -> list[str]:
    """The inputs whose maps ``folder`` holds or was to hold; of an unknown record none."""
    record = read_json_if_whole(folder / PREDICTIONS.record)
    if not isinstance(record, dict):
        record = read_json_if_whole(folder / PARTIAL / JOB)
    if not isinstance(record, dict):
        return []
    if isinstance(record.get("input"), list):
        return record["input"]
    # Earlier versions recorded the list, and of images given one by one only the images themselves.
    names = [record["list"]] if isinstance(record.get("list"), str) else record.get("maps") or {}
    return sorted({(REPO_ROOT / name).resolve().as_posix() for name in names})


def job_digest(job: dict[str, Any]) -> str:
    """What tells one way of predicting an image from another: checkpoint, settings and version, not the images."""
    same = {name: value for name, value in job.items() if name not in ("input", "images")}
    text = json.dumps(plain({**same, "version": environment_record()["git_commit"]}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def finished_results(
    folder: Path, files: Mapping[Path, Sequence[str]], images: Mapping[str, Sequence[int]], digest: str
) -> dict[Path, list[str]]:
    """Those of ``files`` whose results in ``folder`` are whole and would come out the same again.

    Args:
        files: image file → the results wanted of it, below ``folder``.
        images: what `describe_images` says of the image files now.
        digest: see `job_digest`.
    """
    known = recorded_images(folder, digest)
    if not known:
        return {}
    stamps = (read_json_if_whole(folder / PREDICTIONS.record) or {}).get("results")
    written = (folder / PREDICTIONS.record).stat().st_mtime_ns

    def is_whole(name: str) -> bool:  # and nobody has changed it since; no clock that is set back hides that
        if not (folder / name).is_file():
            return False
        now = stamp(folder / name)
        if not isinstance(stamps, dict):
            return now[1] <= written  # of earlier versions
        known = stamps.get(name)
        return isinstance(known, list) and known[:2] == now

    return {
        image: list(names)
        for image, names in files.items()
        if images.get(image.as_posix()) == known.get(image.as_posix(), ()) and all(map(is_whole, names))
    }


def recorded_images(folder: Path, digest: str | None = None) -> dict[str, Any]:
    """What `describe_images` said of the images whose maps ``folder`` holds; nothing where ``digest`` is another."""
    record = read_json_if_whole(folder / PREDICTIONS.record)
    images = record.get("images") if isinstance(record, dict) and digest in (None, record.get("job")) else None
    return images if isinstance(images, dict) else {}


def keep_finished(folder: Path, partial: Path, names: Iterable[str]) -> None:
    """Have finished results in the partial folder too: as links, or as copies where the file system has none."""
    for name in names:
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        if not (partial / name).exists():
            try:
                os.link(folder / name, partial / name)
            except OSError:
                shutil.copy2(folder / name, partial / name)


def describe_images(paths: Sequence[Path]) -> dict[str, list[int]]:
    """Size in bytes and time of change of image files, by which a changed one is noticed."""
    return {path.as_posix(): stamp(path) for path in dict.fromkeys(paths) if path.is_file()}


def describe_results(folder: Path) -> dict[str, list[Any]]:
    """The same of the files that a prediction has written into a partial folder, and a digest, by their names there."""
    return {name: [*stamp(folder / name), digest(folder / name)] for name in files_below(folder)}


def stamp(path: Path) -> list[int]:
    """Size in bytes and time of change of a file."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def describe_job(checkpoints: Sequence[Path], inputs: Sequence[str], **settings: Any) -> dict[str, Any]:
    """What must be equal for a prediction that was stopped to be gone on with."""
    digests = [content_digest(checkpoint) for checkpoint in checkpoints]
    return {"checkpoint": digests[0] if len(digests) == 1 else digests, "input": list(inputs), **settings}
