"""Every image format but TIFF: from a file's bytes to its pixels, for `datasets.image_io`.

``.npy`` goes through NumPy, everything else through Pillow, which keeps palette indices and raises on truncated files,
except for 16-bit colour PNG, which Pillow would cut to 8 bits and OpenCV reads whole. No other formats are tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from datasets.image_files import (
    ORIENTATION,
    Header,
    Pixels,
    PlaneStack,
    Wanted,
    check_plausible,
    choose_channels,
    first_bytes,
    is_turned,
    unnamed_axes,
    upright,
)
from utils.errors import UserError
from utils.paths import display_path

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "JPEG2000", "PPM")
PNG_MAGIC = b"\x89PNG"
PNG_DEPTH, PNG_COLOR = 24, 25  # byte offsets of bit depth and colour type
PNG_GREY = 0
LFS_POINTER = b"version https://git-lfs"
PNG_END = b"IEND\xaeB`\x82"
PNG_TAIL = 65536  # bytes; EXIF data that were added later lie behind the pixels
PLAIN_MODES = ("1", "L", "LA", "I", "F", "RGB", "RGBA")  # Pillow modes whose arrays are taken as they are
GREY_MODES = ("1", "L", "LA", "La", "I", "F")


# PNG, JPEG and the rest


@cache
def pillow_module() -> ModuleType:
    """Pillow without its limit of pixels: the images are the user's own, and microscopes make large ones."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return Image


@contextmanager
def _open_picture(path: Path, plane: int | None, wanted: Wanted) -> Iterator[Image]:
    from PIL import UnidentifiedImageError

    with open(path, "rb") as file:
        try:
            image = pillow_module().open(file, formats=PICTURE_FORMATS)
        except UnidentifiedImageError:
            if first_bytes(path).startswith(LFS_POINTER):
                raise UserError(
                    f"{display_path(path)} is a pointer of Git LFS: fetch the file with git lfs pull"
                ) from None
            known = ", ".join(("TIFF", ".npy", *PICTURE_FORMATS))
            raise ValueError(f"its content is of no format that is read: {known}") from None
        check_plausible(image.height, image.width, len(image.getbands()), path.stat().st_size)
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph with its preview
        number = PlaneStack("TYX", (frames, image.height, image.width)).check(path, plane, wanted)
        if frames > 1:
            image.seek(number)
        yield image


def read_picture_stack(path: Path, wanted: Wanted) -> PlaneStack:
    """The frames, rows and columns of a picture."""
    with _open_picture(path, 0, wanted) as image:
        return PlaneStack("TYX", (getattr(image, "n_frames", 1), image.height, image.width))


def read_picture_header(path: Path, plane: int | None, wanted: Wanted) -> Header:
    """Size and channels of a picture from its header alone."""
    with _open_picture(path, plane, wanted) as image:
        is_grey = image.mode in GREY_MODES or image.mode.startswith("I;16")
        channels = 1 if is_grey else 3
        selected = choose_channels(channels, (), wanted, path)
        size = (image.width, image.height) if is_turned(_orientation(image, path)) else (image.height, image.width)
        return Header(*size, len(selected) if selected else channels, not is_grey and not selected)


def _orientation(image: Image, path: Path) -> int:
    """The orientation that a camera or an editor noted in the EXIF data; 1: upright."""
    if image.format == "PNG" and "exif" not in image.info:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - PNG_TAIL))
            if b"eXIf" not in file.read():
                return 1
    return int(image.getexif().get(ORIENTATION, 1))


def decode_picture(path: Path, plane: int | None, wanted: Wanted) -> Pixels:
    """Read one picture of a file, upright."""
    palette, start = None, first_bytes(path)
    with _open_picture(path, plane, wanted) as image:
        orientation = _orientation(image, path)
        if start[:4] == PNG_MAGIC and start[PNG_DEPTH] == 16 and start[PNG_COLOR] != PNG_GREY:
            image.verify()  # OpenCV hides that a file is truncated
            values = _decode_deep_color(path)
            mode = "RGBA" if values.shape[-1] == 4 else "RGB"
        else:
            if image.mode in ("P", "PA") and not wanted.palette_colors:
                palette = _palette(image)
            else:
                image = _in_plain_mode(image)
            values, mode = np.asarray(image), image.mode
    values = upright(values, orientation)
    values, alpha = _without_alpha(values, mode)
    selected = choose_channels(1 if values.ndim == 2 else values.shape[2], (), wanted, path)
    if selected is not None and values.ndim == 3:
        values = values[..., selected]
    return Pixels(values, alpha, palette)


def picture_array(image: Image, palette_colors: bool = True) -> np.ndarray:
    """A picture that Pillow holds, as its file is read: upright, without alpha, palettes as colours or indices."""
    plain = image if image.mode == "P" and not palette_colors else _in_plain_mode(image)
    return _without_alpha(upright(np.asarray(plain), int(image.getexif().get(ORIENTATION, 1))), plain.mode)[0]


def _in_plain_mode(image: Image) -> Image:
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    return image if image.mode.startswith("I;16") or image.mode in PLAIN_MODES else image.convert("RGB")


def _without_alpha(values: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of a picture in a mode of Pillow without its alpha, and that."""
    if mode not in ("LA", "PA", "RGBA"):
        return values, None
    return (values[..., 0] if values.shape[2] == 2 else values[..., :3]), values[..., -1]


def _palette(image: Image) -> np.ndarray:
    image.load()  # a GIF has its palette only then
    colors = np.frombuffer(bytes(image.getpalette("RGB") or ()), np.uint8)
    return colors.reshape(-1, 3)


def _decode_deep_color(path: Path) -> np.ndarray:
    """A 16-bit colour PNG, which Pillow would cut to 8 bits: (H, W, 3) or (H, W, 4)."""
    import cv2

    content = path.read_bytes()
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if PNG_END in content else None
    if values is None:
        raise ValueError("the file is not whole")
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2)
    return values[..., [2, 1, 0, 3][: values.shape[2]]]


# Arrays


def _open_array(path: Path, plane: int | None, wanted: Wanted) -> tuple[np.ndarray, PlaneStack, int]:
    """An array that is mapped, not read, its axes, and the number of the plane that is meant."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.kind not in "biufc":
        raise UserError(f"{display_path(path)} holds {array.dtype} values; an image has whole or real numbers")
    stack = PlaneStack(unnamed_axes(array.shape, wanted.channels), array.shape)
    return array, stack, stack.check(path, plane, wanted)


def read_array_stack(path: Path, wanted: Wanted) -> PlaneStack:
    """The axes of an array, see `unnamed_axes`."""
    return _open_array(path, 0, wanted)[1]


def read_array_header(path: Path, plane: int | None, wanted: Wanted) -> Header:
    """Size and channels of a ``.npy`` file from its header alone."""
    _, stack, _ = _open_array(path, plane, wanted)
    selected = choose_channels(stack.channels, (), wanted, path)
    channels = 3 if stack.channels == 4 and wanted.channels != 4 else stack.channels
    is_color = stack.sizes.get("S") in (3, 4) and not selected
    return Header(stack.sizes["Y"], stack.sizes["X"], len(selected) if selected else channels, is_color)


def decode_array(path: Path, plane: int | None, wanted: Wanted) -> Pixels:
    """Read one plane of a ``.npy`` file; the others are not read."""
    array, stack, number = _open_array(path, plane, wanted)
    values = np.array(array[stack.index_of(number)])
    if "C" in stack.axes:
        values = np.moveaxis(values, 0, -1)
    selected = choose_channels(stack.channels, (), wanted, path)
    if selected is not None:
        return Pixels(values[..., selected] if values.ndim == 3 else values)
    if values.ndim == 3 and values.shape[2] == 4 and wanted.channels != 4:
        return Pixels(values[..., :3], values[..., 3])
    return Pixels(values)
