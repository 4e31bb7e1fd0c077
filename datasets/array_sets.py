"""Arrays as a data set on disk: a file each, named by its content, and a list of them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.arrays import as_array, is_file, is_in_memory, shape_remedy
from datasets.image_files import MIN_SIDE
from datasets.list_parser import parse_list
from datasets.lists import write_list
from utils.cli import UserError
from utils.files import atomic_write
from utils.run_folder import REPO_ROOT, display_path

ARRAYS = "arrays"  # the folder of a data set that keeps them
ArrayOrPath = np.ndarray | torch.Tensor | str | os.PathLike[str]  # and all else that `datasets.arrays` takes


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
    images = _as_list(images, f"{of}images")
    labels = None if labels is None else _as_list(labels, f"{of}labels")
    if labels is not None and len(labels) != len(images):
        raise UserError(f"{len(images)} {of}images and {len(labels)} labels: as many are expected")
    if not len(images):
        raise UserError(f"no {of}images: at least one is needed")
    folder = root / "datasets" / name / ARRAYS
    image_files = [_as_file(image, folder, f"{of}image {number}") for number, image in enumerate(images)]
    label_files: list[Path | None] = [None] * len(image_files)
    if labels is not None:
        label_files = [_as_file(label, folder, f"{of}label {number}", True) for number, label in enumerate(labels)]
    rows = list(zip(image_files, label_files, strict=True))
    listed = root / "txt" / name / f"arrays_{_digest(repr(rows).encode())}.txt"
    write_list(listed, rows, root)
    return listed


@contextmanager
def numbering_arrays(lists: Mapping[str, Path], root: Path = REPO_ROOT) -> Iterator[None]:
    """Put behind the files that errors name which image or label each is: their names say nothing.

    Args:
        lists: what errors call the images and labels of each list, such as ``validation ``, and the list.
    """
    try:
        yield
    except UserError as error:
        names: dict[str, str] = {}
        for of, listed in lists.items():
            for number, sample in enumerate(parse_list(listed, None, root, label_required=False).samples):
                for kind, file in (("image", sample.image), ("label", sample.label)):
                    if file is not None and file.parent.name == ARRAYS:
                        names.setdefault(display_path(file), f"{display_path(file)} ({of}{kind} {number})")
        parts = re.split(f"({'|'.join(map(re.escape, names))})", str(error)) if names else [str(error)]
        error.args = ("".join(names.get(part, part) for part in parts),)
        raise


def channels_of(item: ArrayOrPath) -> int | None:
    """How many channels an array has, without an alpha that says nothing; None of files, and of grey."""
    if is_file(item):
        return None
    values = as_array(item, "image 0")
    if values.ndim != 3 or values.shape[0] == 1:
        return None
    has_alpha = values.shape[2] == 4 and values.dtype.kind == "u"
    is_opaque = has_alpha and bool((values[..., 3] == np.iinfo(values.dtype).max).all())
    return 3 if is_opaque else values.shape[2]


def _as_list(items: Any, what: str) -> Sequence[ArrayOrPath]:
    if is_in_memory(items):
        return list(as_array(items, what))
    if isinstance(items, Sequence) and not isinstance(items, (str, bytes)):
        return items
    raise UserError(
        f"{what}: a list of arrays or files, or an array of several, is expected, not {type(items).__name__}"
    )


def _as_file(item: ArrayOrPath, folder: Path, what: str, is_label: bool = False) -> Path:
    if is_file(item):
        return Path(os.path.abspath(item))
    values = np.ascontiguousarray(as_array(item, what, palette_colors=not is_label))
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    _check_shape(values.shape, what, is_label)
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


def _check_shape(shape: tuple[int, ...], what: str, is_label: bool) -> None:
    """Raise where an array is no image (H, W) or (H, W, C), or a label that holds a class in every channel."""
    is_channels_first = len(shape) == 3 and shape[0] < MIN_SIDE <= shape[2]
    is_one_hot = is_label and len(shape) == 3 and (is_channels_first or shape[2] not in (1, 3, 4))
    if len(shape) in (2, 3) and 0 not in shape and not (is_channels_first or is_one_hot):
        return
    if is_one_hot:
        remedy = f": of a channel for each class, give x.argmax({-3 if is_channels_first else -1})"
    else:
        remedy = shape_remedy(shape, shape[0]) if len(shape) > 2 else ""
    expected = "(H, W)" if is_label else "(H, W) or (H, W, channels)"
    raise UserError(f"{what} has the shape {shape}, expected is {expected}{remedy}")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()
