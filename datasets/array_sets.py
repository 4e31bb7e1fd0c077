"""Arrays as a data set on disk: a file each, named by its content, and a list of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.image_files import MIN_SIDE
from datasets.lists import write_list
from utils.cli import UserError
from utils.files import atomic_write
from utils.run_folder import REPO_ROOT

ArrayOrPath = np.ndarray | str | Path


def write_array_list(
    images: Sequence[ArrayOrPath], labels: Sequence[ArrayOrPath] | None, name: str, root: Path = REPO_ROOT, of: str = ""
) -> Path:
    """Write arrays below ``datasets/<name>/arrays`` and a list of them below ``txt/<name>``.

    What is there already under a name of its content is left as it is, so that equal arrays are written once.

    Args:
        images, labels: arrays (H, W), (1, H, W) or (H, W, C), or files, which are listed where they lie; labels
            may be None.
        name: of the data set.
        of: what errors call images and labels beside that, such as ``validation ``.
    Returns: the list, which is named by the content as well.
    Raises:
        UserError: not as many labels as images, none at all, or an array of another shape, or not of finite numbers.
    """
    for what, given in (("images", images), ("labels", [] if labels is None else labels)):
        if not isinstance(given, (Sequence, np.ndarray)) or isinstance(given, (str, bytes)):
            raise UserError(
                f"{of}{what}: a list of arrays or files, or an array of several, is expected, not {given!r:.60}"
            )
    if labels is not None and len(labels) != len(images):
        raise UserError(f"{len(images)} {of}images and {len(labels)} labels: as many are expected")
    if not len(images):
        raise UserError(f"no {of}images: at least one is needed")
    folder = root / "datasets" / name / "arrays"
    image_files = [_as_file(image, folder, f"{of}image {number}") for number, image in enumerate(images)]
    label_files: list[Path | None] = [None] * len(image_files)
    if labels is not None:
        label_files = [_as_file(label, folder, f"{of}label {number}") for number, label in enumerate(labels)]
    rows = list(zip(image_files, label_files, strict=True))
    listed = root / "txt" / name / f"arrays_{_digest(repr(rows).encode())}.txt"
    write_list(listed, rows, root)
    return listed


def _as_file(item: ArrayOrPath, folder: Path, what: str) -> Path:
    if isinstance(item, (str, Path)):
        return Path(os.path.abspath(item))
    values = np.ascontiguousarray(item)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    is_channels_first = values.ndim == 3 and values.shape[0] < MIN_SIDE <= values.shape[2]
    if values.ndim not in (2, 3) or values.size == 0 or is_channels_first:
        raise UserError(f"{what} has the shape {values.shape}, expected is (H, W) or (H, W, channels)")
    if values.dtype.kind not in "biuf":
        raise UserError(f"{what} holds {values.dtype} values; whole or real numbers are expected")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise UserError(f"{what} holds NaN or infinity in {count} of {values.size} pixels; replace them")
    file = folder / f"{_digest(f'{values.dtype}{values.shape}'.encode() + values.tobytes())}.npy"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as target:
            np.save(target, values)
    return file


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
