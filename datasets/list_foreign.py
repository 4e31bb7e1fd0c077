"""Files that people have beside images and that are not read: of what kind they are, and what to do with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

from datasets.list_pairing import is_image_file, natural_key, stem
from utils.cli import counted, shortened

CONVERT = "save them as TIFF, in Fiji (File > Save As) or with bfconvert"
SLICES = "save the slices as TIFF, a file or a stack each: in Fiji, or with nibabel or SimpleITK and tifffile"
FRAMES = "save their frames as TIFF or PNG, with Fiji or ffmpeg"
PICKLED = "pickled .npy"  # Cellpose's _seg.npy
BROKEN = "broken link"
LABEL_TEXT = "label .txt"  # outlines as YOLO has them
PARTS_TEXT = "train or test .txt"  # the parts of sets that are published undivided
REGIONS = "export regions as TIFF, in QuPath with File > Export images"
POLYGONS = "outlines in such files are not read: export masks"
UNPACK = "unpack them first; of ImageJ's RoiSet.zip export masks"
FOREIGN = {
    **dict.fromkeys(
        (".czi", ".nd2", ".lif", ".lsm", ".oib", ".oif", ".oir", ".vsi", ".ims", ".dv", ".r3d", ".stk"), CONVERT
    ),
    **dict.fromkeys((".avi", ".mp4", ".mov", ".mkv", ".wmv"), FRAMES),
    **dict.fromkeys((".svs", ".ndpi", ".scn", ".mrxs", ".qptiff"), REGIONS),
    **dict.fromkeys((".nii", ".gz", ".mha", ".mhd", ".nrrd", ".dcm"), SLICES),
    **dict.fromkeys((".h5", ".hdf5", ".zarr", ".n5"), "export TIFF, in Ilastik with Export > tiff"),
    **dict.fromkeys((".json", ".geojson", ".xml", ".roi"), POLYGONS),
    **dict.fromkeys((".zip", ".tar", ".7z", ".rar"), UNPACK),
    **dict.fromkeys((".mat", ".npz"), "save their arrays as .npy or TIFF"),
    BROKEN: "they lead nowhere",
    LABEL_TEXT: POLYGONS,
    PARTS_TEXT: "if they name the images of each part, sort these into folders train, val and test, which are kept",
    PICKLED: "save the masks alone, in Cellpose with File > Save masks as PNG",
    **dict.fromkeys((".heic", ".psd", ".svg", ".cr2", ".nef"), "save them as PNG or TIFF"),
}
"""Suffixes of files that people have and this project does not read, and what to do."""
UNREAD_IMAGES = {suffix for suffix, how in FOREIGN.items() if suffix[0] == "." and how not in (POLYGONS, UNPACK)} - {
    ".gz"
}


def tell_foreign(foreign: Mapping[str, Sequence[Path]], say: Callable[[str], object]) -> None:
    """Say which files are left out because of their kind, and how to have them read.

    Args:
        foreign: by suffix, or by another key of FOREIGN.
    """
    plain: list[str] = []
    for suffix, files in sorted((suffix, files) for suffix, files in foreign.items() if files):
        if suffix in FOREIGN:
            noun = suffix if suffix == BROKEN else f"{suffix} file"
            say(f"left out: {counted(files, noun)} ({_names(files, 3)}); {FOREIGN[suffix]}")
        else:
            plain.append(f"{len(files)} {suffix or 'without suffix'}")
    if plain:
        say(f"left out: files of other kinds: {', '.join(plain)}")


def is_read(path: Path) -> bool:
    """Whether a file is an image that can be read, by its name; not a pickled array or a link that leads nowhere."""
    return is_image_file(path) and path.is_file() and not (path.suffix.lower() == ".npy" and _is_pickled(path))


def foreign_kind(path: Path, images: Set[str], is_part: Callable[[str], bool]) -> str:
    """The key of FOREIGN, or the suffix, of a file that is not read.

    Args:
        images: the stems of the images beside it.
        is_part: whether a name is that of a part: train, val or test.
    """
    suffix = path.suffix.lower()
    if path.is_symlink() and not path.exists():
        return BROKEN
    if suffix == ".txt" and is_part(path.stem):
        return PARTS_TEXT
    if suffix == ".txt" and stem(path) in images:
        return LABEL_TEXT
    return PICKLED if suffix == ".npy" else suffix


def _is_pickled(path: Path) -> bool:
    """Whether a NumPy file holds Python objects instead of numbers."""
    from numpy.lib import format as npy

    try:
        with open(path, "rb") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            return read(file)[2].hasobject
    except (ValueError, OSError):
        return False


def _names(files: Sequence[Path], most: int) -> str:
    return shortened([file.name for file in sorted(files, key=natural_key)], most)
