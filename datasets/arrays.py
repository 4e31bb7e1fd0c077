"""Images in memory: what counts as one, whether an array holds one or several, and where its channels stand."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch

from datasets.image_decoding import picture_array, pillow_module
from datasets.image_files import MIN_SIDE, Wanted
from datasets.image_io import to_image
from utils.cli import UserError

EXPECTED = {1: "(H, W), or (H, W, 3) in colour", 3: "(H, W, 3), or (H, W) of grey"}  # by the run's channels
OF_ITEMS = "UTO"  # kinds of arrays that hold paths or images, not pixels


def is_file(item: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether an image is given by its path."""
    return isinstance(item, (str, os.PathLike))


def is_in_memory(item: Any) -> bool:
    """Whether it is an array, or what can become one: a tensor, a table, a picture of Pillow."""
    return hasattr(item, "__array__") or isinstance(item, pillow_module().Image)


def check_iterable(items: Any) -> None:
    """Refuse what does not hold images, one after the other."""
    if isinstance(items, Mapping):
        advice = ": give list(x.values())"
    elif isinstance(items, (bytes, bytearray, memoryview)) or hasattr(items, "read"):
        advice = ": give the path of the file"
    elif isinstance(items, Iterable):
        return
    else:
        advice = ""
    raise UserError(f"predict takes arrays, files, or several of them, not {type(items).__name__}{advice}")


def as_array(item: Any, name: str, palette_colors: bool = True) -> np.ndarray:
    """An image in memory as an array, not copied where it need not be.

    Args:
        name: what errors call it.
        palette_colors: whether palettes give colours, else their indices, as of labels.
    Raises:
        UserError: it is none, or pixels of it are masked.
    """
    if isinstance(item, torch.Tensor):
        dense = item.detach().cpu().to_dense()
        return (dense.float() if dense.is_floating_point() else dense).numpy()
    if np.ma.is_masked(item):
        raise UserError(f"{name} has masked pixels, which a network would see: give x.filled(value), or x.data")
    if isinstance(item, pillow_module().Image):
        return picture_array(item, palette_colors)
    if not (hasattr(item, "__array__") or isinstance(item, Sequence)) or isinstance(item, bytes):
        raise UserError(f"{name} is of type {type(item).__name__}: an array or the path of a file is expected")
    try:
        return np.asarray(item)
    except ValueError:  # lists in lists of different lengths
        raise UserError(f"{name} is no array: its rows have different lengths") from None


def holds_several(shape: tuple[int, ...], channels: int) -> bool:
    """Whether an array holds several images, as a file of it would; see `datasets.image_decoding`.

    Args:
        channels: that the run reads.
    """
    is_one = channels not in EXPECTED or (channels > 1 and has_channels_first(shape, channels))  # grey is none of two
    return len(shape) == 4 or (len(shape) == 3 and MIN_SIDE <= shape[2] != channels and not is_one)


def has_channels_first(shape: tuple[int, ...], channels: int) -> bool:
    """Whether an image is (C, H, W), as microscopes' files have it, with as many channels as the run reads."""
    return len(shape) == 3 and shape[0] == channels and MIN_SIDE <= shape[2] != channels


def as_read(values: np.ndarray, channels: int, name: str, selected: Sequence[str] = ()) -> np.ndarray:
    """An array as the same pixels in a file are read, (H, W) or (H, W, C) of native byte order.

    Args:
        selected: channels that are read from files, by number or name; an array holds these alone.
    Raises:
        UserError: it is no image with the channels that the run reads, or no finite numbers.
    """
    shape, are_any = values.shape, not selected
    if has_channels_first(shape, channels) or (are_any and channels == 3 and has_channels_first(shape, 1)):
        values = np.moveaxis(values, 0, -1)
    found = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or values.size == 0 or not (found == channels or (are_any and _fits(found, channels))):
        exact = "(H, W)" if channels == 1 else f"(H, W, {channels})"
        expected = EXPECTED.get(channels, exact) if are_any else exact
        remedy = shape_remedy(shape, channels, selected)
        raise UserError(f"{name} has the shape {shape}, expected is {expected}{remedy}")
    if found == 4 and channels in (1, 3):
        values = values[..., :3]  # alpha
    return to_image(values.astype(values.dtype.newbyteorder("="), copy=False), Wanted(channels), Path(name))


def _fits(found: int, channels: int) -> bool:
    """Whether so many channels become those that the run reads: colours become grey, and grey stands for colours."""
    return found == channels or (found, channels) in ((1, 3), (3, 1), (4, 1), (4, 3))


def shape_remedy(shape: tuple[int, ...], channels: int, selected: Sequence[str] = ()) -> str:
    """What makes images of a shape that does not fit ones that do, where there is something; x is what was given.

    Args:
        selected: see `as_read`.
    """
    if 0 in shape or len(shape) not in (3, 4):
        return ""
    if len(shape) == 4:
        return ": several images are given one by one, [*x]"
    if max(shape[1:]) < MIN_SIDE:
        return ": several small images are given as a list, [*x]"
    is_first = shape[0] < MIN_SIDE <= shape[2]
    count, last = (shape[0], "np.moveaxis(x, -3, -1)") if is_first else (shape[2], "x")
    if count >= MIN_SIDE:
        return ": several images are given one by one, [*x]" if channels in EXPECTED else ""
    planes = "; of planes, x.reshape(-1, *x.shape[-2:])" if is_first and channels in EXPECTED else ""
    if is_first and not selected and _fits(count, channels):
        return f": of channels that stand first, give {last}{planes}"
    numbers = [int(name) for name in selected if name.isdecimal()] or list(range(channels))
    if count <= max(channels, *numbers) or not all(name.isdecimal() for name in selected):
        return (f": of its channels, give {', '.join(selected)}" if selected else "") + planes
    return f": of {count} channels, give {last}[..., {numbers[0] if channels == 1 else numbers}]{planes}"
