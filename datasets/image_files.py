"""What all decoders of image files share: what is asked of a file, what it answers, and one way to fail."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError
from utils.paths import display_path

UNSUSPICIOUS_BYTES = 2**30  # of pixels; a broken or malicious header may state a size that would fill the memory
HYPERSTACK_AXES = "TZCYX"  # ImageJ's, in its order
IMAGEJ_DTYPES = ("uint8", "uint16", "float32")
IMAGEJ_BYTES = 2**31  # more than this is written as OME-TIFF, which may exceed 4 GB
MAX_COMPRESSION = 500
NEARLY = 2  # pixels by which sizes differ where borders were cut
MIN_SIDE = 16  # pixels; the networks halve the image four times
FIRST_BYTES = 26
ORIENTATION = 274  # number of the tag, in TIFF and in EXIF, which is TIFF
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BLOCK_PIXELS = 2**20  # at most this many are held as float64 at once
MICROMETRES = {
    "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "å": 1e-4, "pm": 1e-6, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400.0, "in": 25400.0,
}  # fmt: off
PLANE = re.compile(r"(.+)::(\d+)", re.DOTALL)
# A crop's place in its field, at the end of a name: 14_h0_w256.png, cell_y3_x0, QuPath's slide [x=0,y=512,w=512,h=512];
# rows and columns may be those of wells.
CROP = re.compile(
    r"_(?:h\d+_w\d+|y\d+_x\d+|x\d+_y\d+)$| ?\[(?:d=[\d.]+,)?x=-?\d+,y=-?\d+,w=\d+,h=\d+(?:,[zt]=\d+)*\]$", re.IGNORECASE
)


class Wanted(NamedTuple):
    """What is asked of a file.

    Args:
        channels: how many channels the image is to have; 1 takes colour too, which becomes luminance.
        selected: channels by number or OME name; empty takes them all.
        palette_colors: whether palette PNG, GIF and BMP give colours, else their indices. Palette TIFF always gives
            indices, which under a microscope's look-up table are the intensities.
        is_label: whether a label is wanted, which has one channel.
    """

    channels: int = 1
    selected: tuple[str, ...] = ()
    palette_colors: bool = True
    is_label: bool = False


class Header(NamedTuple):
    """What an image file says of itself before its pixels are read; alpha is no channel."""

    height: int
    width: int
    channels: int = 1
    is_color: bool = False
    is_min_is_white: bool = False  # stored in 8 or more bits: an inverting look-up table, which is not applied


class Pixels(NamedTuple):
    """Decoded values, (H, W) or (H, W, S) in native byte order, and what else the file says of them.

    ``alpha`` is (H, W) where the file has it, ``palette`` uint8 (N, 3) where the values are indices into colours.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    palette: np.ndarray | None = None
    is_min_is_white: bool = False


def split_plane(path: Path) -> tuple[Path, int | None]:
    """The file of a path and the number of the plane in it: ``stack.tif::3`` is plane 3 of ``stack.tif``.

    Two colons and digits belong to the name where a file has that very name.
    """
    match = PLANE.fullmatch(str(path))
    if match is None or os.path.isfile(path):
        return path, None
    return Path(match[1]), int(match[2])


def size_doubt(label: tuple[int, int], image: tuple[int, int]) -> str:
    """What may be wrong where a label has another size, (height, width), than its image: the end of a sentence."""
    if label == image[::-1]:
        return ": rows and columns are exchanged, one of them lies on its side"
    if max(abs(one - other) for one, other in zip(label, image, strict=True)) <= NEARLY:
        return ": crop or pad one of them"
    if label[0] * image[1] == label[1] * image[0]:
        return ": was it drawn at another resolution? Resize it without interpolation"
    return ": is it the label of another image?"


def field_names(image_ids: Sequence[str]) -> list[str]:
    """The field of view of every image: its name without ending and without the place of a crop in the field.

    >>> field_names(["a/14_h0_w0.png", "a/14_h0_w256.png", "b [x=0,y=0,w=9,h=9].tif", "cell_3.tif"])
    ['a/14', 'a/14', 'b', 'cell_3.tif']
    """
    stems = [re.sub(r"\.[A-Za-z]+$", "", name) for name in image_ids]
    return [CROP.sub("", stem) if CROP.search(stem) else name for name, stem in zip(image_ids, stems, strict=True)]


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
        if path.exists() and path.stat().st_size == 0:
            raise UserError(f"{display_path(path)} is empty (0 bytes)") from None
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{display_path(path)} cannot be read as an image; broken or truncated? ({reason})") from error


def check_plausible(height: int, width: int, bytes_per_pixel: float, file_size: int) -> None:
    """Refuse a header whose pixels no honest file of this size holds, before memory is taken for them."""
    stated = height * width * bytes_per_pixel
    if stated > max(UNSUSPICIOUS_BYTES, MAX_COMPRESSION * file_size):
        raise ValueError(
            f"a size of {height}×{width} is stated, {stated / 2**30:.1f} GiB of pixels, more than a file of "
            f"{file_size / 1e6:.1f} MB can be trusted to hold"
        )


def first_bytes(path: Path) -> bytes:
    """As many bytes as tell the format of a file, and of a PNG its depth and kind of colour."""
    with open(path, "rb") as file:
        return file.read(FIRST_BYTES)


def row_blocks(image: np.ndarray) -> list[np.ndarray]:
    """Views of whole rows that make up an image (H, W) or (H, W, C), each of about BLOCK_PIXELS pixels at most."""
    rows = max(1, BLOCK_PIXELS // image.shape[1])
    return [image[top : top + rows] for top in range(0, len(image), rows)]


class PlaneStack(NamedTuple):
    """The axes of a file: a letter for each (Y, X, S samples, C channels, any other) and their lengths."""

    axes: str
    shape: tuple[int, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every axis."""
        return dict(zip(self.axes, self.shape, strict=True))

    @property
    def plane_axes(self) -> str:
        """The axes that planes are numbered along: all but rows, columns, channels and samples."""
        return "".join(axis for axis in self.axes if axis not in "YXCS")

    @property
    def plane_shape(self) -> tuple[int, ...]:
        """Lengths of the axes that planes are numbered along."""
        return tuple(size for axis, size in zip(self.axes, self.shape, strict=True) if axis not in "YXCS")

    @property
    def planes(self) -> int:
        """How many planes there are."""
        return math.prod(self.plane_shape)

    @property
    def channels(self) -> int:
        """How many values a pixel has."""
        return self.sizes.get("C", 1) * self.sizes.get("S", 1)

    def index_of(self, plane: int) -> tuple[int | slice, ...]:
        """What cuts plane number ``plane`` out of the array of the whole file."""
        places = iter(np.unravel_index(plane, self.plane_shape) if self.plane_shape else ())
        return tuple(slice(None) if axis in "YXCS" else int(next(places)) for axis in self.axes)

    def check(self, path: Path, plane: int | None, wanted: Wanted) -> int:
        """The number of the plane that is meant.

        Raises:
            UserError: a stack without a plane's number, or a number that it does not have; the message gives its shape.
        """
        shown, shape = display_path(path), f"shape {'×'.join(map(str, self.shape))} ({self.axes})"
        if "Y" not in self.axes or "X" not in self.axes:
            raise UserError(f"{shown} has {shape}; height × width is expected")
        if plane is None and self.planes > 1:
            raise UserError(
                f"{shown} is a stack of {shape}; name one of its {self.planes} planes, {shown}::0 to "
                f"::{self.planes - 1}, in the list (make_lists.py writes such lines), or save each plane as a file"
            )
        channels = self.sizes.get("C", 1)
        if channels > 1 and wanted.is_label:
            raise UserError(
                f"label {shown} is a stack of {shape}: a label has one channel; where these are slices, exchange "
                "channels and slices and save it again (in ImageJ with Image > Properties)"
            )
        if channels > 1 and not wanted.selected and wanted.channels != channels:
            raise UserError(
                f"{shown} is a stack of {shape}, {channels} channels, where {wanted.channels} is expected: choose "
                f"among them, for example --channels 0, or train with --in_channels {channels}"
            )
        if plane is not None and plane >= self.planes:
            last = "it has one plane, ::0" if self.planes == 1 else f"its planes are ::0 to ::{self.planes - 1}"
            raise UserError(f"{shown} has no plane {plane}: it is of {shape}, {last}")
        return plane or 0


def unnamed_axes(shape: tuple[int, ...], channels: int) -> str:
    """What the axes of an array mean where nothing says it, as in ``.npy`` files and TIFFs written from arrays.

    Two are rows and columns. Of more, the last are samples where it is too short for columns (1 as Keras keeps it, 3
    of RGB), or as long as channels are asked for; else the first where it has as many as asked for; all others number
    planes.

    >>> unnamed_axes((64, 64, 5), 1), unnamed_axes((5, 64, 64), 1), unnamed_axes((5, 64, 64), 5)
    ('YXS', 'AYX', 'CYX')
    """
    if len(shape) < 3:
        return "YX"[2 - len(shape) :]
    others = "ABDEFGHIJKLMNOPQRTUVWZ"
    if shape[-1] < MIN_SIDE or (channels > 1 and shape[-1] == channels):
        return others[: len(shape) - 3] + "YXS"
    first = "C" if channels > 1 and len(shape) == 3 and shape[0] == channels else others[0]
    return first + others[1 : len(shape) - 2] + "YX"


def choose_channels(count: int, names: Sequence[str], wanted: Wanted, path: Path) -> list[int] | None:
    """The numbers of the channels that are asked for, None for all as they are.

    Raises:
        UserError: a channel that the file does not have; the message lists those that exist.
    """
    if not wanted.selected:
        return None
    chosen = []
    for entry in wanted.selected:
        if entry in names:
            chosen.append(list(names).index(entry))
        elif entry.isdecimal() and int(entry) < count:
            chosen.append(int(entry))
        else:
            known = f"0 to {count - 1}" if count > 1 else "0"
            named = f" or {', '.join(names)}" if any(names) else ""
            raise UserError(f"{display_path(path)} has no channel {entry!r}: --channels can be {known}{named}")
    return chosen


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (H, W, …) as the tag Orientation of EXIF and TIFF says (1 to 8; anything else: as it is).

    >>> upright(np.array([[1, 2], [3, 4]]), 6)  # a camera held upright: turned clockwise
    array([[3, 1],
           [4, 2]])
    """
    turns = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
    quarter_turns, mirrored = turns.get(orientation, (0, False))
    turned = np.rot90(pixels, quarter_turns)
    return turned[:, ::-1] if mirrored else turned


def is_turned(orientation: int) -> bool:
    """Whether an orientation exchanges height and width."""
    return 5 <= orientation <= 8


class ImageScale(NamedTuple):
    """What a TIFF says of its pixels.

    Args:
        kind: ``imagej``, ``ome``, or empty for any other.
        fields: what ImageJ or OME say of size, unit and time, name and value.
        resolution: pixels in a unit along x and y; None where it is not stated.
        unit: the tag ResolutionUnit (1: none of its own, 2: inch, 3: centimetre).
    """

    kind: str = ""
    fields: tuple[tuple[str, Any], ...] = ()
    resolution: tuple[float, float] | None = None
    unit: int = 1

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Height and width of a pixel in µm, as ImageJ or OME say; None where they do not, or in a unit of no length.

        The resolution of other files is that of a print or screen.

        >>> ImageScale("imagej", (("unit", "micron"),), (5.0, 4.0)).pixel_size
        (0.25, 0.2)
        """
        fields = dict(self.fields)
        if self.kind == "ome":
            sides = [(fields.get(f"PhysicalSize{axis}"), fields.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "YX"]
        elif self.kind == "imagej" and self.resolution is not None:
            unit, across, down = fields.get("unit"), *self.resolution
            sides = [(1 / down, fields.get("yunit", unit)), (1 / across, unit)]
        else:
            return None
        height, width = ((size or 0) * MICROMETRES.get(_plain_unit(unit), 0) for size, unit in sides)
        return (height, width) if height > 0 and width > 0 else None


NO_SCALE = ImageScale()


def _plain_unit(unit: object) -> str:
    """A unit of length as a key of MICROMETRES, whichever sign for micro it has."""
    return str(unit).replace("\\u00B5", "µ").replace("\u03bc", "µ").strip().lower()


def scale_options(scale: ImageScale, axes: str, num_bytes: int, dtype: str = "float32") -> dict[str, Any]:
    """The arguments of ``tifffile.imwrite`` that write an array of ``axes`` with a scale.

    Args:
        axes: a letter for each axis of the array, ``YX`` last.
        num_bytes, dtype: of the array; one that ImageJ has no type for, or that is too large, is written as OME.

    >>> scale_options(ImageScale("ome", (("PhysicalSizeX", 0.2),)), "ZYX", 10**6)
    {'metadata': {'axes': 'ZYX', 'PhysicalSizeX': 0.2}, 'ome': True}
    """
    options: dict[str, Any] = {"metadata": {"axes": axes}}
    if scale.resolution is not None:
        options |= {"resolution": scale.resolution, "resolutionunit": scale.unit}
    in_order = "".join(axis for axis in HYPERSTACK_AXES if axis in axes)
    if not scale.kind or sorted(in_order) != sorted(axes):  # axes that ImageJ and OME have no name for
        return options
    if scale.kind == "imagej" and in_order == axes and num_bytes <= IMAGEJ_BYTES and dtype in IMAGEJ_DTYPES:
        return {**options, "metadata": {"axes": axes, **dict(scale.fields)}, "imagej": True}
    fields = dict(scale.fields) if scale.kind == "ome" else {}
    if scale.kind == "imagej" and scale.pixel_size is not None:
        fields = dict(zip(("PhysicalSizeY", "PhysicalSizeX"), scale.pixel_size, strict=True))
    return {**options, "metadata": {"axes": axes, **fields}, "ome": True}
