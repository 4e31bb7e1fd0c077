"""Images, labels and score maps: read and written so that no value changes unnoticed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from datasets.image_decoding import Pixels, decode, decode_planes, pillow_module, read_header, tifffile_module
from datasets.labels import IGNORE
from utils.cli import UserError, shortened
from utils.files import atomic_write, read_json
from utils.run_folder import display_path

IGNORE_IN_BINARY_FILES = 128  # between the 0 and 255 of a written binary label
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
LISTED_VALUES = 10
BLOCK_PIXELS = 2**20  # at most this many are held as float64 at once


def read_image(path: Path | str, in_channels: int = 1) -> np.ndarray:
    """Read an image in its own value range.

    TIFF values are taken as stored: MinIsWhite is not inverted and a colour look-up table is not applied, since
    microscopes store intensities under both.

    Args:
        path: a file of any format that tifffile, Pillow or OpenCV reads.
        in_channels: 1 turns colour into luminance, 3 repeats grey; alpha is dropped.
    Returns: (H, W) for one channel, (H, W, 3) for three; uint8 and uint16 stay, bool becomes uint8 0/255, every
        other type float32.
    Raises:
        UserError: the file is missing, broken, truncated or a stack, or holds NaN or infinity; it is named.
    """
    path = Path(path)
    values = _to_image_type(decode(path, in_channels, palette_colors=True).values, path)
    _check_channels(1 if values.ndim == 2 else values.shape[2], path)
    if in_channels == 1 and values.ndim == 3:
        return np.concatenate([_luminance(block) for block in row_blocks(values)])
    if in_channels == 3 and values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2)
    return values


def row_blocks(image: np.ndarray) -> list[np.ndarray]:
    """Views of whole rows that make up an image (H, W) or (H, W, C), each of about BLOCK_PIXELS pixels at most."""
    rows = max(1, BLOCK_PIXELS // image.shape[1])
    return [image[top : top + rows] for top in range(0, len(image), rows)]


def read_shape(path: Path | str, in_channels: int = 1) -> tuple[int, int]:
    """Height and width of an image from the file's header alone.

    Raises:
        UserError: as `read_image`, for what a header can tell.
    """
    path = Path(path)
    header = read_header(path, in_channels)
    _check_channels(header.channels, path)
    return header.height, header.width


def read_label(path: Path | str, num_classes: int = 1, ignore_index: int | None = None) -> np.ndarray:
    """Read a label as class indices.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_label(Path(folder) / "7.png", np.eye(3, dtype=np.uint8))  # 0/255 on disk
    ...     read_label(Path(folder) / "7.png").tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]

    Args:
        path: a label file; the indices of a palette PNG are its values.
        num_classes: 1 is binary: 0 background, anything else foreground. K: values 0…K−1 are classes, 255 is ignored.
        ignore_index: the value that is ignored, unless a ``manifest.json`` in the label's folder states an
            ``ignore_value`` (null: every pixel counts): labels of different origin may then meet in one list.
    Returns: uint8 (H, W), class indices with `IGNORE` (255) where no pixel counts.
    Raises:
        UserError: as `read_image`; also values that are no class, channels that differ.
    """
    path = Path(path)
    values = _one_plane(decode(path, in_channels=1, palette_colors=False), path)
    _check_finite(values, path)
    ignore_index = _stated_ignore_value(path.parent / "manifest.json", ignore_index)
    ignored = np.zeros(values.shape, bool) if ignore_index is None else values == ignore_index
    if num_classes == 1:
        label = (values != 0).astype(np.uint8)
    else:
        ignored |= values == IGNORE
        _check_classes(values, ignored, num_classes, path)
        label = np.where(ignored, 0, values).astype(np.uint8)
    label[ignored] = IGNORE
    return label


def read_scores(path: Path | str) -> np.ndarray:
    """Read a score map that `write_scores` wrote: float32 (H, W) or (C, H, W); errors as `read_image`."""
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


def write_scores(path: Path | str, scores: np.ndarray) -> None:
    """Write scores, (H, W) or (C, H, W), as a float32 TIFF that `read_scores` returns bit for bit."""
    scores = np.ascontiguousarray(scores, np.float32)
    axes = {2: "YX", 3: "CYX"}[scores.ndim]
    with atomic_write(Path(path)) as file:
        tifffile_module().imwrite(file, scores, photometric="minisblack", metadata={"axes": axes})


def write_image(path: Path | str, image: np.ndarray) -> None:
    """Write an image, uint8 or uint16, (H, W) or (H, W, 3), losslessly: ``.png`` (8-bit) or ``.tif``, by suffix."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".png" and image.dtype == np.uint8:
        _write_png(path, image)
    elif suffix in (".tif", ".tiff") and image.dtype in (np.uint8, np.uint16):
        photometric = "minisblack" if image.ndim == 2 else "rgb"
        with atomic_write(path) as file:
            tifffile_module().imwrite(file, image, photometric=photometric, compression="zlib", metadata=None)
    else:
        raise ValueError(f"{path}: {image.dtype} images are not written as {suffix!r}; 8-bit .png, 8/16-bit .tif")


def _write_png(path: Path, image: np.ndarray) -> None:
    with atomic_write(path) as file:
        pillow_module().fromarray(np.ascontiguousarray(image)).save(file, format="PNG")


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


def _check_channels(channels: int, path: Path) -> None:
    if channels not in (1, 3):
        raise UserError(
            f"{display_path(path)} has {channels} channels; an image is grey (1) or RGB (3, with alpha or not)"
        )


def _one_plane(pixels: Pixels, path: Path) -> np.ndarray:
    """The single plane of a label whose channels all say the same."""
    values, alpha = pixels
    if values.ndim == 3:
        differing = np.count_nonzero((values != values[..., :1]).any(axis=2))
        if differing:
            raise UserError(
                f"{display_path(path)} is a label in colours: its {values.shape[2]} channels differ in {differing} "
                "pixels; save one channel of class values (grey or palette PNG)"
            )
        values = values[..., 0]
    if alpha is not None and np.ptp(values) == 0 and np.ptp(alpha) > 0:
        raise UserError(
            f"{display_path(path)} is a label whose colour is the same everywhere and whose transparency varies: "
            "the mask seems to lie in the alpha channel; save it as grey values"
        )
    return values


def _check_classes(values: np.ndarray, ignored: np.ndarray, num_classes: int, path: Path) -> None:
    is_class = (values >= 0) & (values < num_classes)
    if values.dtype.kind == "f":
        is_class &= values == np.rint(values)
    wrong = values[~(is_class | ignored)]
    if wrong.size:
        found = np.unique(wrong)
        listed = shortened([f"{value:g}" for value in found], LISTED_VALUES)
        raise UserError(
            f"{display_path(path)} holds values that are no class: {listed}, in {wrong.size} pixels; "
            f"expected 0…{num_classes - 1} for {num_classes} classes, 255 for ignored"
        )


def _stated_ignore_value(manifest: Path, otherwise: int | None) -> int | None:
    try:
        changed = manifest.stat().st_mtime_ns
    except OSError:
        return otherwise
    stated, value = _ignore_value_of(manifest, changed)
    return value if stated else otherwise


@lru_cache(maxsize=64)
def _ignore_value_of(manifest: Path, changed: int) -> tuple[bool, int | None]:
    """Whether a manifest has an ``ignore_value``, and which; ``changed``, its time stamp, makes a new one read anew."""
    content = read_json(manifest)
    stated = isinstance(content, dict) and "ignore_value" in content
    value = content["ignore_value"] if stated else None
    if value is not None and not isinstance(value, int):
        raise UserError(f"{display_path(manifest)}: ignore_value is {value!r}, expected a whole number or null")
    return stated, value
