"""TIFF files: which of their pictures, planes and channels is meant, and its pixels.

tifffile decodes, because OpenCV returns ``None`` for several compressions, inverts MinIsWhite and drops channels.
"""

from __future__ import annotations

import logging
import math
import struct
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from datasets.image_files import (
    ORIENTATION,
    Header,
    Pixels,
    PlaneStack,
    Wanted,
    check_plausible,
    choose_channels,
    is_turned,
    naming_broken,
    unnamed_axes,
    upright,
)
from utils.errors import UserError
from utils.paths import display_path

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha
MIN_IS_WHITE, PALETTE = 0, 3
UNNAMED = {"Q", "I", "Y", "X"}  # tifffile's letters for the axes of arrays and of pages, rows and columns
SIDE_SERIES = ("thumbnail", "label", "macro", "overview")  # of whole-slide files, beside the picture itself


@cache
def tifffile_module() -> ModuleType:
    """tifffile, kept from logging about broken files: the error that follows says it once."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    return tifffile


def open_tiff(path: Path) -> TiffFile:
    """Open a file alone, without the others of an OME-TIFF set: each is an image of its own."""
    return tifffile_module().TiffFile(path, _multifile=False)


def decode_planes(path: Path) -> np.ndarray:
    """Read a TIFF of any number of planes, in native byte order.

    Raises:
        UserError: missing, broken or truncated; names the file.
    """
    with naming_broken(path), open_tiff(path) as tiff:
        values = _only_series(tiff, path).asarray(maxworkers=1)
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def read_tiff_header(path: Path, plane: int | None, wanted: Wanted) -> Header:
    """Size and channels from the tags of a file; errors as `decode_tiff`."""
    with open_tiff(path) as tiff:
        series = _only_series(tiff, path)
        stack = _axes(tiff, series, wanted.channels if plane is None else 1)
        stack.check(path, plane, wanted)
        height, width = stack.sizes["Y"], stack.sizes["X"]
        if is_turned(_orientation(series.keyframe)):
            height, width = width, height
        selected = choose_channels(stack.channels, _channel_names(tiff), wanted, path)
        channels = stack.channels - _has_alpha(series, stack, wanted)
        is_color = series.keyframe.photometric == tifffile_module().PHOTOMETRIC.RGB or stack.sizes.get("S", 1) == 3
        inverting = series.keyframe.photometric == MIN_IS_WHITE and series.keyframe.bitspersample > 1
        return Header(height, width, len(selected) if selected else channels, is_color and not selected, inverting)


def read_tiff_stack(path: Path, wanted: Wanted) -> PlaneStack:
    """The axes of a file, from its tags."""
    with open_tiff(path) as tiff:
        return _axes(tiff, _only_series(tiff, path), wanted.channels)


def decode_tiff(path: Path, plane: int | None, wanted: Wanted) -> Pixels:
    """Read one plane.

    1-bit files are read as they are displayed. Others keep their values under MinIsWhite and look-up tables, since
    microscopes store intensities under both.

    Raises:
        UserError: a stack without ``plane``, or a plane or channel that it does not have.
        ValueError: pixels that cannot lie in the file.
    """
    with open_tiff(path) as tiff:
        series = _only_series(tiff, path)
        stack = _axes(tiff, series, wanted.channels if plane is None else 1)
        values = _read_plane(tiff, series, stack, stack.check(path, plane, wanted))
        selected = choose_channels(stack.channels, _channel_names(tiff), wanted, path)
        page = series.keyframe
    if wanted.is_label:
        _check_slices(values, stack, path)
    values = _as_displayed(upright(values, _orientation(page)), page)
    inverting = page.photometric == MIN_IS_WHITE and page.bitspersample > 1
    if selected is not None:
        return Pixels(values[..., selected] if values.ndim == 3 else values, is_min_is_white=inverting)
    if values.ndim == 2 or not _has_alpha(series, stack, wanted):
        return Pixels(values, is_min_is_white=inverting)
    colors, alpha = values[..., :-1], values[..., -1]
    return Pixels(colors[..., 0] if colors.shape[2] == 1 else colors, alpha, is_min_is_white=inverting)


def _read_plane(tiff: TiffFile, series: TiffPageSeries, stack: PlaneStack, plane: int) -> np.ndarray:
    """One plane, (H, W) or (H, W, channels), without decoding the others where the file allows it."""
    leading = [place for place, axis in enumerate(stack.axes) if axis not in "YXS"]
    pages_hold_planes = leading == list(range(len(leading))) and len(series.pages) == math.prod(
        stack.shape[place] for place in leading
    )
    index = stack.index_of(plane)
    if stack.planes == 1:
        values = series.asarray(maxworkers=1).reshape(stack.shape)[index]
    elif series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        whole = tiff.filehandle.memmap_array(dtype, stack.shape, series.dataoffset)
        values = np.array(whole[index])
    elif pages_hold_planes:
        numbers = np.arange(len(series.pages)).reshape([stack.shape[place] for place in leading])
        chosen = np.atleast_1d(numbers[tuple(index[place] for place in leading)])
        pages = [series.pages[int(number)].asarray(maxworkers=1) for number in chosen]
        values = np.stack(pages) if "C" in stack.axes else pages[0]
    else:
        values = series.asarray(maxworkers=1).reshape(stack.shape)[index]
    axes = "".join(axis for axis in stack.axes if axis in "YXCS")
    values = np.moveaxis(values, [axes.index("Y"), axes.index("X")], [0, 1])
    return values if values.ndim == 2 else values.reshape(*values.shape[:2], -1)


def _check_slices(values: np.ndarray, stack: PlaneStack, path: Path) -> None:
    """Refuse a label whose samples are whole planes that differ: tifffile marks a stack of 3 or 4 slices as RGB."""
    is_planar = "S" in stack.axes and stack.axes.index("S") < stack.axes.index("Y")
    if is_planar and (values != values[..., :1]).any():
        shape = "×".join(map(str, stack.shape))
        raise UserError(
            f"label {display_path(path)} has planes that differ, {shape}, which are marked as red, green and blue; "
            "where they are slices, save them with tifffile.imwrite(…, photometric='minisblack'), the image's as well"
        )


def _axes(tiff: TiffFile, series: TiffPageSeries, channels: int = 1) -> PlaneStack:
    """The axes of a series without those of length 1 but rows and columns.

    Args:
        channels: that are asked for, where an axis that the file does not name may hold them.
    """
    axes = series.axes
    if tiff.ome_metadata and series.kind != "ome" and len(series.pages) > 1 and _differ_by_channel(tiff):
        axes = "C" + axes[1:]
    if {*axes} <= UNNAMED and len(axes) > 2:
        named = unnamed_axes(series.shape, channels)
        axes = "".join(new if new in "CSYX" else old for new, old in zip(named, axes, strict=True))
    kept = [(axis, size) for axis, size in zip(axes, series.shape, strict=True) if size != 1 or axis in "YX"]
    return PlaneStack("".join(axis for axis, _ in kept), tuple(size for _, size in kept))


def _differ_by_channel(tiff: TiffFile) -> bool:
    """Whether the pages that a file of an OME-TIFF set holds itself differ by their channel alone."""
    own = []
    for data in ElementTree.fromstring(tiff.ome_metadata or "<OME/>").iter():
        if not data.tag.endswith("TiffData"):
            continue
        files = [entry.attrib.get("FileName", "") for entry in data if entry.tag.endswith("UUID")]
        if files and files[0].lower() == tiff.filename.lower():
            own.append([int(data.attrib.get(f"First{axis}", 0)) for axis in "CZT"])
    return len(own) == len(tiff.pages) == len({c for c, _, _ in own}) and len({(z, t) for _, z, t in own}) == 1


def _channel_names(tiff: TiffFile) -> list[str]:
    if not tiff.ome_metadata:
        return []
    for pixels in ElementTree.fromstring(tiff.ome_metadata).iter():
        if pixels.tag.endswith("Pixels"):
            return [entry.attrib.get("Name", "") for entry in pixels if entry.tag.endswith("Channel")]
    return []


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get(ORIENTATION)
    return 1 if tag is None else int(tag.value)


def _as_displayed(values: np.ndarray, page: TiffPage) -> np.ndarray:
    """1-bit pixels as bool, True for what is shown lighter; others as they are stored.

    tifffile marks every array of booleans as MinIsWhite, so that its masks are shown inverted; whoever wrote one meant
    True, and Python reads it back as True.
    """
    if page.bitspersample != 1 or str(page.software).startswith("tifffile"):
        return values
    lighter = values.astype(bool)
    colors = page.colormap if page.photometric == PALETTE else None
    darker_first = colors is None or colors[:, 0].sum() <= colors[:, 1].sum()
    return lighter if page.photometric != MIN_IS_WHITE and darker_first else ~lighter


def _has_alpha(series: TiffPageSeries, stack: PlaneStack, wanted: Wanted) -> bool:
    """RGB with a fourth sample, or grey with a second one that is declared as alpha; never where it is asked for."""
    extra, samples = series.keyframe.extrasamples, stack.sizes.get("S", 1)
    if wanted.selected or "C" in stack.axes:
        return False
    is_rgb = series.keyframe.photometric == tifffile_module().PHOTOMETRIC.RGB
    is_declared = bool(extra) and extra[-1] in ALPHA
    return (samples == 4 and is_rgb and (is_declared or wanted.channels != 4)) or (samples == 2 and is_declared)


def _only_series(tiff: TiffFile, path: Path) -> TiffPageSeries:
    """The picture that is meant: not a thumbnail, not a smaller copy of a pyramid, not a slide's label."""
    series = [entry for entry in tiff.series if not entry.keyframe.is_reduced] or list(tiff.series)
    series = [entry for entry in series if str(entry.name).lower() not in SIDE_SERIES] or series
    chosen = max(series, key=lambda one: one.keyframe.imagelength * one.keyframe.imagewidth)
    if not all(entry is chosen or _is_smaller_copy(entry, chosen) for entry in series):
        shapes = ", ".join("×".join(map(str, entry.shape)) for entry in series)
        raise UserError(
            f"{display_path(path)} holds {len(series)} pictures ({shapes}) and it is open which one is meant; "
            "save each as a file of its own"
        )
    page = chosen.keyframe
    file_size = tiff.filehandle.size
    bytes_per_pixel = page.samplesperpixel * page.bitspersample / 8
    check_plausible(page.imagelength * page.imagedepth, page.imagewidth, bytes_per_pixel, file_size)
    _check_extent(page, file_size)
    _check_page_chain(tiff)
    return chosen


def _is_smaller_copy(series: TiffPageSeries, of: TiffPageSeries) -> bool:
    """Whether one picture may be another one reduced: one plane of the same proportions, at most half as large."""
    small, large = series.keyframe, of.keyframe
    proportions = large.imagelength * small.imagewidth / (large.imagewidth * small.imagelength)
    return (
        2 * small.imagewidth <= large.imagewidth
        and abs(proportions - 1) <= 2 / min(small.imagewidth, small.imagelength)
        and math.prod(series.shape) == math.prod(small.shape)
    )


def _check_extent(page: TiffPage, file_size: int) -> None:
    """Refuse a page whose pixels cannot lie in the file: tifffile fills what is missing with zeros."""
    end = max((start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
    if end > file_size:
        raise ValueError(f"the file has {file_size} bytes, its pixels reach to byte {end}")
    row_bytes = -(-page.imagewidth * page.samplesperpixel * page.bitspersample // 8)
    needed, stored = row_bytes * page.imagelength * page.imagedepth, sum(page.databytecounts)
    if needed > stored and page.compression == 1:
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
