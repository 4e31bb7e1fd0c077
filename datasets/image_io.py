"""Images, labels and score maps: read and written so that no value changes unnoticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets import image_decoding
from datasets.image_files import (
    NO_SCALE,
    TIFF_MAGIC,
    Header,
    ImageScale,
    Pixels,
    PlaneStack,
    Wanted,
    first_bytes,
    naming_broken,
    row_blocks,
    scale_options,
    split_plane,
)
from datasets.label_values import LabelReading, read_alone
from datasets.labels import IGNORE
from utils.errors import UserError
from utils.files import atomic_write, read_json
from utils.paths import display_path

WRITTEN = {"ignore_value", "num_classes", "source_list"}  # what the manifest of labels that are written here states
STATED = WRITTEN | {"fusion"}
IGNORE_IN_BINARY_FILES = 128  # between the 0 and 255 of a written binary label
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
HALF_BRIGHT = 128
NUMPY_MAGIC = b"\x93NUMPY"


class Decoder(NamedTuple):
    """How a format tells its size, its pixels and its axes."""

    header: Callable[[Path, int | None, Wanted], Header]
    pixels: Callable[[Path, int | None, Wanted], Pixels]
    stack: Callable[[Path, Wanted], PlaneStack]


def read_image(path: Path | str, channels: int = 1, selected: Sequence[str] = ()) -> np.ndarray:
    """Read an image in its own value range, upright.

    Values of TIFF files are taken as stored, but for 1-bit ones: MinIsWhite is not inverted and a colour look-up table
    is not applied, since microscopes store intensities under both.

    Args:
        path: a file of any format that tifffile, Pillow, OpenCV or NumPy reads, ``::N`` behind it for a plane.
        channels: 1 turns colour into luminance, 3 repeats grey, any other number is that of the file; alpha is dropped.
        selected: channels by number or OME name, as many as ``channels``; empty takes those of the file.
    Returns: (H, W) for one channel, else (H, W, channels); uint8 and uint16 stay, bool becomes uint8 0/255, every
        other type float32.
    Raises:
        UserError: the file is missing, broken, truncated or a stack, or holds NaN or infinity; it is named.
    """
    path = Path(path)
    wanted = Wanted(channels, tuple(selected))
    return to_image(decode(path, wanted).values, wanted, path)


def to_image(values: np.ndarray, wanted: Wanted, path: Path) -> np.ndarray:
    """Decoded values, (H, W) or (H, W, C), as `read_image` returns them; ``path`` names them in errors."""
    channels = wanted.channels
    if values.ndim == 3 and values.shape[2] == 1:
        values = np.ascontiguousarray(values[..., 0])
    values = _to_image_type(values, path)
    _check_channels(1 if values.ndim == 2 else values.shape[2], wanted, path)
    if channels == 1 and values.ndim == 3:
        return np.concatenate([_luminance(block) for block in row_blocks(values)])
    if channels > 1 and values.ndim == 2:
        return np.repeat(values[..., None], channels, axis=2)
    return values


def decode(path: Path, wanted: Wanted) -> Pixels:
    """Read one plane of a file, whose content, not its suffix, tells the format.

    Args:
        path: the file, ``::N`` behind it for plane N of a stack.
        wanted: channels, and what palettes give.
    Returns: values upright, as a viewer turns them, in native byte order.
    Raises:
        UserError: missing, broken, truncated, empty, or a stack without plane; names the file.
    """
    path, plane = split_plane(path)
    with naming_broken(path):
        pixels = _decoder(path).pixels(path, plane, wanted)
        if pixels.values.size == 0:
            raise ValueError("it holds no pixels")
        values = pixels.values
        return pixels._replace(values=np.require(values, values.dtype.newbyteorder("="), ("C", "W")))


def read_header(path: Path, wanted: Wanted) -> Header:
    """Size and channels from a file's header alone; arguments and errors as `decode`."""
    path, plane = split_plane(path)
    with naming_broken(path):
        return _decoder(path).header(path, plane, wanted)


def read_stack(path: Path, channels: int = 1) -> PlaneStack:
    """The axes of a whole file from its header; errors as `decode`.

    Args:
        channels: of its images, by which the axes of a ``.npy`` file are told.
    """
    path, _ = split_plane(path)
    with naming_broken(path):
        return _decoder(path).stack(path, Wanted(channels))


def stored_channels(path: Path) -> int:
    """How many channels an image has on an axis of their own; 1 of a picture in colours, and where it is broken."""
    try:
        return read_stack(path).sizes.get("C", 1)
    except UserError:  # told where it is read
        return 1


def _decoder(path: Path) -> Decoder:
    start = first_bytes(path)
    if start[:4] in TIFF_MAGIC:
        from datasets.image_tiff import decode_tiff, read_tiff_header, read_tiff_stack

        return Decoder(read_tiff_header, decode_tiff, read_tiff_stack)
    if start.startswith(NUMPY_MAGIC):
        return Decoder(image_decoding.read_array_header, image_decoding.decode_array, image_decoding.read_array_stack)
    return Decoder(image_decoding.read_picture_header, image_decoding.decode_picture, image_decoding.read_picture_stack)


def read_image_header(path: Path | str, channels: int = 1, selected: Sequence[str] = ()) -> Header:
    """What an image file says of itself, from its header alone; arguments and errors as `read_image`."""
    path, wanted = Path(path), Wanted(channels, tuple(selected))
    header = read_header(path, wanted)
    _check_channels(header.channels, wanted, path)
    return header


def read_shape(path: Path | str, channels: int = 1, selected: Sequence[str] = ()) -> tuple[int, int]:
    """Height and width of an image from the file's header alone; arguments and errors as `read_image`."""
    header = read_image_header(path, channels, selected)
    return header.height, header.width


class StoredLabel(NamedTuple):
    """A label as it is stored: values (H, W), colours as 0xRRGGBB, and where no pixel counts, bool (H, W).

    ``is_written`` is whether this project wrote it, as the manifest beside it says; shares are cut already. ``palette``
    is the colours, 0xRRGGBB, of the entries that are used, where values are indices into a palette.
    """

    values: np.ndarray
    ignored: np.ndarray
    is_color: bool = False
    is_min_is_white: bool = False
    is_written: bool = False
    palette: Mapping[int, int] | None = None

    def classes(self, reading: LabelReading, path: Path) -> np.ndarray:
        """uint8 class indices, see `LabelReading.classes`; ``reading`` is for other files than those written here."""
        if self.is_written:
            reading = LabelReading(reading.num_classes, reading.ignore_index)
        return reading.classes(self.values, self.ignored, path, self.is_color)


def read_label(
    path: Path | str, num_classes: int = 1, ignore_index: int | None = None, reading: LabelReading | None = None
) -> np.ndarray:
    """Read a label as class indices.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_label(Path(folder) / "7.png", np.eye(3, dtype=np.uint8))  # 0/255 on disk
    ...     read_label(Path(folder) / "7.png").tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]

    Args:
        path: a label file; the indices of a palette PNG are its values, unless its colours are greys.
        num_classes: 1 is binary: 0 background, one other value foreground; values between are cut half way, see
            `datasets.label_values.read_alone`. K: values 0…K−1 are classes, 255 is ignored.
        ignore_index: the value that is ignored, unless a ``manifest.json`` in the label's folder states an
            ``ignore_value`` (null: every pixel counts): labels of different origin may then meet in one list.
        reading: what was decided for all labels of a run; the arguments above then do not matter.
    Returns: uint8 (H, W), class indices with `IGNORE` (255) where no pixel counts.
    Raises:
        UserError: as `read_image`; also values that are no class, channels that differ.
    """
    path = Path(path)
    stored = read_stored_label(path, reading or LabelReading(num_classes, ignore_index))
    if reading is None:
        alone = num_classes == 1 and not stored.is_color
        reading = read_alone(stored.values, stored.ignored, path) if alone else LabelReading(num_classes)
    return stored.classes(reading, path)


def read_stored_label(path: Path, reading: LabelReading) -> StoredLabel:
    """Read a label's values as they are stored, for whatever they mean.

    Args:
        reading: says whether palettes give colours and which value is ignored.
    Raises:
        UserError: as `read_image`; also a mask in the alpha channel, or a type that no label has.
    """
    by_color = reading.label_map is not None and bool(reading.label_map.colors)
    pixels = decode(path, Wanted(palette_colors=by_color, is_label=True))
    if pixels.values.dtype.kind not in "biuf":
        raise UserError(f"label {display_path(path)} holds {pixels.values.dtype} values; whole numbers are expected")
    values = _by_brightness(pixels) if reading.num_classes == 1 else pixels.values
    palette = _used_colors(pixels) if values is pixels.values else None
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(_value_of_white(reading))
    values, is_color = _one_plane(values, pixels.alpha, path)
    _check_finite(values, path)
    stated = _stated(split_plane(path)[0].parent / "manifest.json")
    are_shares = "fusion" in stated and stated.get("num_classes") == 1
    if are_shares:  # of annotators, as repair_labels.py --fusion writes them
        values = np.where(values >= HALF_BRIGHT, 255, 0).astype(np.uint8)
    ignore_index = stated.get("ignore_value", reading.ignore_index)
    skips = ignore_index is None or is_color or are_shares
    ignored = np.zeros(values.shape, bool) if skips else values == ignore_index
    is_written = are_shares or stated.keys() >= WRITTEN
    if reading.label_map is not None and not (reading.is_told or is_written or is_color):
        values, ignored = reading.label_map.settle(values, ignored)
    return StoredLabel(values, ignored, is_color, pixels.is_min_is_white, is_written, palette)


def _value_of_white(reading: LabelReading) -> int:
    """What the lighter pixels of a 1-bit file are: 1, but 255, as viewers show them, where that is what is meant."""
    if reading.label_map is None:
        return 255 if reading.num_classes == 1 else 1
    named = reading.label_map.grey_values()
    return 255 if 255 in named and 1 not in named else 1


def _used_colors(pixels: Pixels) -> dict[int, int] | None:
    """Index → 0xRRGGBB of the palette entries that are used; None without a palette."""
    if pixels.palette is None:
        return None
    used = np.flatnonzero(np.bincount(pixels.values.ravel(), minlength=1))
    colors = pixels.palette.astype(int) @ (0x10000, 0x100, 1)
    return {int(index): int(colors[index]) for index in used if index < len(colors)}


def _by_brightness(pixels: Pixels) -> np.ndarray:
    """The values of a binary label: the brightness of palettes whose used entries are all greys, else the indices."""
    if pixels.palette is None or not len(pixels.palette):
        return pixels.values
    used = np.flatnonzero(np.bincount(pixels.values.ravel(), minlength=1))
    if used[-1] >= len(pixels.palette) or np.ptp(pixels.palette[used], axis=1).any():
        return pixels.values
    brightness = pixels.palette[:, 0]
    if len(used) > 1 and not np.ptp(brightness[used]):  # one grey tells nothing apart
        return pixels.values
    values = brightness[pixels.values]
    is_ramp = bool((brightness[used] == used).all())
    is_parted = brightness[used].min() < HALF_BRIGHT <= brightness[used].max()
    return np.where(values >= HALF_BRIGHT, 255, 0).astype(np.uint8) if is_parted and not is_ramp else values


def read_scores(path: Path | str) -> np.ndarray:
    """Read a score map that `write_scores` wrote: float32 (H, W) or (C, H, W); errors as `read_image`."""
    from datasets.image_tiff import decode_planes

    path = Path(path)
    scores = decode_planes(path)
    if scores.dtype != np.float32 or scores.ndim not in (2, 3) or scores.size == 0:
        shape = "×".join(map(str, scores.shape))
        raise UserError(
            f"{display_path(path)} is no score map: it holds {scores.dtype} of shape {shape}, "
            "a score map float32 of H×W or C×H×W"
        )
    _check_finite(scores, path)
    return scores


def write_label(path: Path | str, label: np.ndarray, num_classes: int = 1) -> None:
    """Write class indices, uint8 (H, W), as an 8-bit PNG.

    Binary labels become 0/255 with `IGNORE` as 128; of K classes the indices are written, with `IGNORE` as 255.
    """
    bad = np.unique(label[(label >= max(num_classes, 2)) & (label != IGNORE)])
    if label.dtype != np.uint8 or label.ndim != 2 or bad.size:
        raise ValueError(f"no uint8 (H, W) label of {num_classes} classes: {label.dtype} {label.shape}, values {bad}")
    if num_classes == 1:
        label = np.where(label == IGNORE, IGNORE_IN_BINARY_FILES, label * np.uint8(255)).astype(np.uint8)
    _write_png(Path(path), label)


def write_scores(path: Path | str, scores: np.ndarray, scale: ImageScale = NO_SCALE) -> None:
    """Write scores, (H, W) or (C, H, W), as a float32 TIFF that `read_scores` returns bit for bit.

    Args:
        scale: pixel size and kind of TIFF, as those of the image.
    """
    from datasets.image_tiff import tifffile_module

    scores = np.ascontiguousarray(scores, np.float32)
    axes = {2: "YX", 3: "CYX"}[scores.ndim]
    with atomic_write(Path(path)) as file:
        options = scale_options(scale, axes, scores.nbytes)
        tifffile_module().imwrite(file, scores, photometric="minisblack", **options)


def write_image(path: Path | str, image: np.ndarray, scale: ImageScale = NO_SCALE) -> None:
    """Write an image, uint8 or uint16, (H, W) or (H, W, 3), losslessly: ``.png`` (8-bit) or ``.tif``, by suffix.

    Args:
        scale: pixel size and kind of a TIFF.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png" and image.dtype == np.uint8:
        _write_png(path, image)
    elif suffix in (".tif", ".tiff") and image.dtype in (np.uint8, np.uint16):
        from datasets.image_tiff import tifffile_module

        photometric, axes = ("minisblack", "YX") if image.ndim == 2 else ("rgb", "YXS")
        options = {"metadata": None} if scale == NO_SCALE else scale_options(scale, axes, image.nbytes)
        with atomic_write(path) as file:
            tifffile_module().imwrite(file, image, photometric=photometric, compression="zlib", **options)
    else:
        raise ValueError(f"{path}: {image.dtype} images are not written as {suffix!r}; 8-bit .png, 8/16-bit .tif")


def _write_png(path: Path, image: np.ndarray) -> None:
    with atomic_write(path) as file:
        image_decoding.pillow_module().fromarray(np.ascontiguousarray(image)).save(file, format="PNG")


def _luminance(colors: np.ndarray) -> np.ndarray:
    grey = colors @ np.asarray(LUMINANCE)
    return (grey if colors.dtype == np.float32 else np.rint(grey)).astype(colors.dtype)


def _to_image_type(values: np.ndarray, path: Path) -> np.ndarray:
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind not in "iuf":
        raise UserError(f"{display_path(path)} holds {values.dtype} values; an image has whole or real numbers")
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
        values = values.astype(np.float32, copy=False)
    _check_finite(values, path)
    return values


def _check_finite(values: np.ndarray, path: Path) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise UserError(f"{display_path(path)} holds NaN or infinity in {count} of {values.size} pixels; replace them")


def _check_channels(found: int, wanted: Wanted, path: Path) -> None:
    """Refuse a number of channels that is not the one asked for; grey passes for colour, colour for grey."""
    if found == wanted.channels or (found, wanted.channels) == (1, 3):
        return
    if (found, wanted.channels) == (3, 1) and not wanted.selected:
        return
    asked = "--in_channels 1 is grey" if wanted.channels == 1 else f"{wanted.channels} are asked for (--in_channels)"
    raise UserError(
        f"{display_path(path)} has {found} channel{'s' * (found > 1)}, {asked}: choose some, --channels 0, or train "
        f"with --in_channels {found}"
    )


def _one_plane(values: np.ndarray, alpha: np.ndarray | None, path: Path) -> tuple[np.ndarray, bool]:
    """The single plane (H, W) of a label, and whether it holds colours, 0xRRGGBB, since its channels differ."""
    is_color = False
    if values.ndim == 3:
        is_color = bool((values != values[..., :1]).any())
        if is_color and (values.shape[2] != 3 or values.dtype != np.uint8):
            raise UserError(
                f"label {display_path(path)} has {values.shape[2]} channels of {values.dtype} that differ; one channel "
                "of class values is expected, or 8-bit colours (see --label_map)"
            )
        values = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32) if is_color else values[..., 0]
    if alpha is not None and np.ptp(values) == 0 and np.ptp(alpha) > 0:
        raise UserError(
            f"{display_path(path)} is a label whose colour is the same everywhere and whose transparency varies: "
            "the mask seems to lie in the alpha channel; save it as grey values"
        )
    return values, is_color


def _stated(manifest: Path) -> dict[str, Any]:
    """What a manifest says of how the labels beside it were written; nothing where there is none."""
    try:
        changed = manifest.stat().st_mtime_ns
    except OSError:
        return {}
    return _read_stated(manifest, changed)


@lru_cache(maxsize=64)
def _read_stated(manifest: Path, changed: int) -> dict[str, Any]:
    """Those entries of a manifest; ``changed``, its time stamp, makes a new one read anew."""
    content = read_json(manifest)
    stated = {name: content[name] for name in STATED & content.keys()} if isinstance(content, dict) else {}
    value = stated.get("ignore_value")
    if value is not None and not isinstance(value, int):
        raise UserError(f"{display_path(manifest)}: ignore_value is {value!r}, expected a whole number or null")
    return stated
