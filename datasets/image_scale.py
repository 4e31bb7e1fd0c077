"""The pixel size, unit and kind of a TIFF, so that a map of an image says of itself what the image says.

ImageJ's and OME's own fields are kept as they are; of other TIFF files the resolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from datasets.image_files import (
    NO_SCALE,
    ORIENTATION,
    TIFF_MAGIC,
    ImageScale,
    first_bytes,
    is_turned,
    naming_broken,
    split_plane,
)
from datasets.image_tiff import open_tiff

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

IMAGEJ_FIELDS = ("unit", "yunit", "zunit", "tunit", "spacing", "finterval", "fps", "xorigin", "yorigin", "zorigin")
OME_FIELDS = ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ", "TimeIncrement")
RESOLUTION_TAGS = ("XResolution", "YResolution")
MICROMETRE = 1e-6  # metres


def read_scale(path: Path) -> ImageScale:
    """The scale of an image file, ``::N`` behind it or not; an empty one of files that are no TIFF.

    Raises:
        UserError: missing or broken; names the file.
    """
    path, _ = split_plane(path)
    with naming_broken(path):
        if first_bytes(path)[:4] not in TIFF_MAGIC:
            return NO_SCALE
        with open_tiff(path) as tiff:
            page = tiff.pages.first
            resolution = _resolution(page)
            unit = int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 1
            if tiff.is_imagej:
                known = tiff.imagej_metadata or {}
                fields = tuple((name, _ascii(known[name])) for name in IMAGEJ_FIELDS if name in known)
                return ImageScale("imagej", fields, resolution, unit)
            if tiff.is_ome:
                return ImageScale("ome", _ome_fields(tiff.ome_metadata or "<OME/>"), resolution, unit)
            if tiff.is_lsm:
                return _lsm_scale(tiff)
            return ImageScale("", (), resolution, unit)


def _resolution(page: TiffPage) -> tuple[float, float] | None:
    ratios = [page.tags[name].value for name in RESOLUTION_TAGS if name in page.tags]
    if len(ratios) != 2 or not all(isinstance(ratio, tuple) and all(ratio) for ratio in ratios):
        return None
    (across, unit_across), (down, unit_down) = ratios
    x, y = across / unit_across, down / unit_down
    orientation = int(page.tags[ORIENTATION].value) if ORIENTATION in page.tags else 1
    return (y, x) if is_turned(orientation) else (x, y)


def _ascii(value: object) -> object:
    return value.encode("ascii", "backslashreplace").decode() if isinstance(value, str) else value


def _ome_fields(metadata: str) -> tuple[tuple[str, Any], ...]:
    """The sizes and units of the first picture that an OME-XML describes."""
    pixels = next((entry for entry in ElementTree.fromstring(metadata).iter() if entry.tag.endswith("}Pixels")), None)
    stated = {} if pixels is None else pixels.attrib
    sizes = [(name, float(stated[name])) for name in OME_FIELDS if name in stated]
    units = [(unit, stated[unit]) for name, _ in sizes if (unit := f"{name}Unit") in stated]
    return (*sizes, *units)


def _lsm_scale(tiff: TiffFile) -> ImageScale:
    """Of a Zeiss LSM file, whose sizes are in metres."""
    known = tiff.lsm_metadata or {}
    sizes = [float(known.get(f"VoxelSize{axis}") or 0) / MICROMETRE for axis in "XYZ"]
    if not sizes[0] or not sizes[1]:
        return ImageScale("imagej")
    fields = (("unit", "micron"), *([("spacing", sizes[2])] if sizes[2] else []))
    return ImageScale("imagej", fields, (1 / sizes[0], 1 / sizes[1]))
