"""From an image file's bytes to its pixels, for `datasets.image_io`: one decoder per format, one way to fail.

TIFF goes through tifffile, because OpenCV returns ``None`` for several of its compressions, inverts MinIsWhite
and drops channels. Everything else goes through Pillow, which keeps palette indices and raises on truncated files,
except for 16-bit colour PNG, which Pillow would cut to 8 bits and OpenCV reads whole.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.errors import UserError
from utils.paths import display_path

if TYPE_CHECKING:
    from PIL.Image import Image
    from tifffile import TiffFile, TiffPage, TiffPageSeries

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
UNSUSPICIOUS_BYTES = 2**28  # a broken header may state a size that would fill the memory
MAX_COMPRESSION = 5000
TIFF_ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha
PNG_MAGIC = b"\x89PNG"
PNG_DEPTH, PNG_COLOR = 24, 25  # byte offsets of bit depth and colour type
PNG_GREY = 0
PNG_END = b"IEND\xaeB`\x82"
PLAIN_MODES = ("1", "L", "LA", "I", "F", "RGB", "RGBA")  # Pillow modes whose arrays are taken as they are
GREY_MODES = ("1", "L", "LA", "La", "I", "F")


class Header(NamedTuple):
    """What an image file says of itself before its pixels are read; alpha is no channel."""

    height: int
    width: int
    channels: int


class Pixels(NamedTuple):
    """Decoded values, (H, W) or (H, W, S) in native byte order, and alpha (H, W) where the file has it."""

    values: np.ndarray
    alpha: np.ndarray | None = None


def decode(path: Path, in_channels: int, palette_colors: bool) -> Pixels:
    """Read a whole file.

    Args:
        path: the file; its content, not its suffix, tells the format.
        in_channels: with 3, a TIFF of three channel planes counts as one colour image, not as a stack.
        palette_colors: whether palette PNG, GIF and BMP give colours, else their indices. Palette TIFF always gives
            indices, which under a microscope's look-up table are the intensities.
    Raises:
        UserError: missing, broken, truncated, empty or a stack; names the file.
    """
    with naming_broken(path):
        start = _first_bytes(path)
        if start[:4] in TIFF_MAGIC:
            values, alpha = _decode_tiff(path, in_channels)
        else:
            values, alpha = _decode_picture(path, start, palette_colors)
        if values.size == 0:
            raise ValueError("it holds no pixels")
        return Pixels(np.require(values, values.dtype.newbyteorder("="), ("C", "W")), alpha)


def read_header(path: Path, in_channels: int) -> Header:
    """Size and channels from a file's header alone; arguments and errors as `decode`."""
    with naming_broken(path):
        if _first_bytes(path)[:4] in TIFF_MAGIC:
            return _tiff_header(path, in_channels)
        return _picture_header(path)


@contextmanager
def naming_broken(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a missing or broken file into a UserError that names the file."""
    try:
        yield
    except (UserError, ImportError):
        raise
    except FileNotFoundError:
        raise UserError(f"{display_path(path)} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{display_path(path)} is a folder, not a file") from None
    except PermissionError:
        raise UserError(f"{display_path(path)} may not be read: permission denied") from None
    except Exception as error:  # decoders raise anything at all on broken bytes
        if path.stat().st_size == 0:
            raise UserError(f"{display_path(path)} is empty (0 bytes)") from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{display_path(path)} cannot be read as an image; broken or truncated? ({reason})") from error


@cache
def tifffile_module() -> ModuleType:
    """tifffile, kept from logging about broken files: the error that follows says it once."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(PNG_COLOR + 1)


def _stack_error(path: Path, shape: tuple[int, ...], axes: str) -> UserError:
    return UserError(
        f"{display_path(path)} is a stack of shape {'×'.join(map(str, shape))} ({axes}); "
        "one plane of height × width is expected: save each plane as a file of its own"
    )


def _is_implausible(stated_bytes: int, file_size: int) -> bool:
    return stated_bytes > max(UNSUSPICIOUS_BYTES, MAX_COMPRESSION * file_size)


# TIFF


def decode_planes(path: Path) -> np.ndarray:
    """Read a TIFF of any number of planes, in native byte order; errors as `decode`."""
    with naming_broken(path), tifffile_module().TiffFile(path) as tiff:
        values = _only_series(tiff, path).asarray(maxworkers=1)
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def _only_series(tiff: TiffFile, path: Path) -> TiffPageSeries:
    full_size = [series for series in tiff.series if not series.keyframe.is_reduced]
    if len(full_size) > 1:
        raise UserError(f"{display_path(path)} holds {len(full_size)} images of different sizes; one is expected")
    _check_extent(tiff.series[0].keyframe, tiff.filehandle.size)
    _check_page_chain(tiff)
    return tiff.series[0]


def _check_extent(page: TiffPage, file_size: int) -> None:
    """Refuse a page whose pixels cannot lie in the file: tifffile fills what is missing with zeros."""
    end = max((start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
    if end > file_size:
        raise ValueError(f"the file has {file_size} bytes, its pixels reach to byte {end}")
    row_bytes = -(-page.imagewidth * page.samplesperpixel * page.bitspersample // 8)
    needed, stored = row_bytes * page.imagelength * page.imagedepth, sum(page.databytecounts)
    if needed > stored and (page.compression == 1 or _is_implausible(needed, file_size)):
        raise ValueError(f"a size of {page.imagelength}×{page.imagewidth} is stated, but only {stored} bytes of pixels")


def _check_page_chain(tiff: TiffFile) -> None:
    """Refuse a stack that was cut within: tifffile returns the pages that are left."""
    file, layout = tiff.filehandle, tiff.tiff
    file.seek(tiff.pages[-1].offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(tags * layout.tagsize, 1)
    (next_page,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
    if next_page != 0:
        raise ValueError(f"page {len(tiff.pages) + 1}, at byte {next_page} of {file.size}, is missing or broken")


def _plane_axes(series: TiffPageSeries, path: Path, in_channels: int) -> str:
    """The axes that are left without those of length 1: YX, or Y, X and one channel axis."""
    axes = "".join(axis for axis, size in zip(series.axes, series.shape, strict=True) if size != 1 or axis in "YX")
    channel = axes.replace("Y", "").replace("X", "")
    is_composite = channel == "C" and in_channels == 3 and series.shape[series.axes.index("C")] == 3
    if "Y" not in axes or "X" not in axes or not (channel in ("", "S") or is_composite):
        raise _stack_error(path, series.shape, series.axes)
    return axes


def _has_alpha(series: TiffPageSeries, samples: int) -> bool:
    """RGB with a fourth sample, or grey with a second one that is declared as alpha."""
    extra = series.keyframe.extrasamples
    is_rgb = series.keyframe.photometric == tifffile_module().PHOTOMETRIC.RGB
    return (samples == 4 and is_rgb) or (samples == 2 and bool(extra) and extra[0] in TIFF_ALPHA)


def _decode_tiff(path: Path, in_channels: int) -> tuple[np.ndarray, np.ndarray | None]:
    with tifffile_module().TiffFile(path) as tiff:
        series = _only_series(tiff, path)
        axes = _plane_axes(series, path, in_channels)
        values = series.asarray(maxworkers=1)
        values = values.reshape([size for axis, size in zip(series.axes, series.shape, strict=True) if axis in axes])
        if len(axes) == 2:
            return values, None
        values = np.moveaxis(values, [axes.index("Y"), axes.index("X")], [0, 1])
        if not _has_alpha(series, values.shape[2]):
            return values, None
    return (values[..., 0] if values.shape[2] == 2 else values[..., :3]), values[..., -1]


def _tiff_header(path: Path, in_channels: int) -> Header:
    with tifffile_module().TiffFile(path) as tiff:
        series = _only_series(tiff, path)
        axes = _plane_axes(series, path, in_channels)
        sizes = dict(zip(series.axes, series.shape, strict=True))
        channels = 1 if len(axes) == 2 else sizes[next(axis for axis in axes if axis not in "YX")]
        return Header(sizes["Y"], sizes["X"], channels - _has_alpha(series, channels))


# PNG, JPEG and the rest


@cache
def pillow_module() -> ModuleType:
    """Pillow without its limit of pixels: the images are the user's own, and microscopes make large ones."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    return Image


@contextmanager
def _open_picture(path: Path) -> Iterator[Image]:
    from PIL import UnidentifiedImageError

    with open(path, "rb") as file:
        try:
            image = pillow_module().open(file)
        except UnidentifiedImageError:
            raise ValueError("its content is of no image format that is known") from None
        if _is_implausible(image.width * image.height, path.stat().st_size):
            raise ValueError(f"a size of {image.height}×{image.width} is stated, more than the file can hold")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # MPO: a photograph with its preview
            raise _stack_error(path, (frames, image.height, image.width), "frames, height, width")
        yield image


def _picture_header(path: Path) -> Header:
    with _open_picture(path) as image:
        is_grey = image.mode in GREY_MODES or image.mode.startswith("I;16")
        return Header(image.height, image.width, 1 if is_grey else 3)


def _decode_picture(path: Path, start: bytes, palette_colors: bool) -> tuple[np.ndarray, np.ndarray | None]:
    with _open_picture(path) as image:
        if start[:4] == PNG_MAGIC and start[PNG_DEPTH] == 16 and start[PNG_COLOR] != PNG_GREY:
            image.verify()  # OpenCV hides that a file is truncated
            return _decode_deep_color(path)
        if image.mode in ("P", "PA") and palette_colors:
            image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
        elif not image.mode.startswith("I;16") and image.mode not in (*PLAIN_MODES, "P", "PA"):
            image = image.convert("RGB")
        values = np.asarray(image)
    if image.mode not in ("LA", "PA", "RGBA"):
        return values, None
    return (values[..., 0] if values.shape[2] == 2 else values[..., :3]), values[..., -1]


def _decode_deep_color(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A 16-bit colour PNG, which Pillow would cut to 8 bits."""
    import cv2

    content = path.read_bytes()
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if PNG_END in content else None
    if values is None:
        raise ValueError("the file is not whole")
    if values.ndim == 2:
        return values, None
    return values[..., 2::-1], values[..., 3] if values.shape[2] == 4 else None
