"""Objects of predicted maps on disk: label TIFFs, tables of objects and of networks, and outlines for ImageJ."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_files import ImageScale, PlaneStack, Wanted, split_plane
from datasets.image_io import decode, read_image, read_stack
from datasets.image_scale import read_scale
from evaluation.objects.measuring import measure_objects, trace_outlines
from evaluation.objects.networks import measure_network
from evaluation.objects.splitting import label_objects
from evaluation.prediction.score_maps import band_writer
from evaluation.prediction.settings import MapSettings
from utils.background import read_ahead
from utils.cli import Progress, UserError
from utils.files import atomic_write, write_csv
from utils.processors import usable_processors
from utils.run_folder import display_path

LABELS, OBJECTS, NETWORKS, OUTLINES = "instances", "objects.csv", "networks.csv", "rois.zip"
DTYPES = ("uint16", "uint32")  # of label TIFFs: the first that holds all numbers
KEYS = ["image", "plane", "class", "label"]  # of objects


@dataclass(frozen=True)
class ObjectSettings:
    """How objects are told apart: a method of `evaluation.objects.INSTANCES`, and the least area in pixels."""

    method: str = "components"
    min_area: int = 1


@dataclass
class Measured:
    """What is found in an image or stack: columns of objects, plane by plane, rows of networks, and ROI files."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)
    outlines: list[tuple[str, bytes]] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class Measuring:
    """Tells apart and measures the objects of maps below a folder of results, and writes their label TIFFs.

    Args:
        folder: of results, with the maps in it.
        stacks: the images of which all planes lie in one map.
    """

    folder: Path
    stacks: Mapping[Path, PlaneStack]
    settings: MapSettings
    how: ObjectSettings

    def __call__(self, image: Path, name: str) -> Measured:
        """Measure the map ``pred/<name>.tif`` of an image; numbers run on through the planes of a stack.

        Raises:
            UserError: a file that cannot be read.
        """
        stack = self.stacks.get(image)
        scale, target = read_scale(image), self.folder / LABELS / f"{name}.tif"
        for dtype in DTYPES:
            found = Measured()
            planes = self._planes(image, name, stack, found, scale=scale)
            first = next(planes)
            shape = (*(stack.plane_shape if stack else ()), *first.shape)
            axes = f"{stack.plane_axes if stack else ''}YX"
            with band_writer(target, shape, dtype, scale=scale, axes=axes) as write:
                write(0, first)
                for number, labels in enumerate(planes, start=1):
                    write(0, labels, number)
            if found.count <= np.iinfo(dtype).max:
                break
        return found

    def _planes(
        self, image: Path, name: str, stack: PlaneStack | None, found: Measured, *, scale: ImageScale
    ) -> Iterator[np.ndarray]:
        """The numbered objects of every plane, int32 (H, W); what is measured of them goes into ``found``."""
        path, own_plane = split_plane(image)
        for plane in range(stack.planes if stack else 1):
            ending = f"::{plane}" if stack else ""
            result = read_image(Path(f"{self.folder / 'pred' / name}.tif{ending}"))
            channels = _channels(Path(f"{image}{ending}"), self.settings.in_channels)
            place = {"image": display_path(path), "plane": plane if stack else own_plane}
            labels = np.zeros(result.shape, np.int32)
            for kind, mask in self._masks(result):
                if kind is not None:
                    place["class"] = kind
                numbers = label_objects(mask, self.how.method, self.how.min_area)
                found.networks.append({**place, **network_row(numbers > 0, scale.pixel_size)})
                scores = result if self.settings.num_classes == 1 else None
                columns = measure_objects(numbers, scores, channels, pixel_size=scale.pixel_size)
                found.objects.append({**place, **columns, "label": columns["label"] + found.count})
                for number, corners in trace_outlines(numbers):
                    where = (stack.plane_axes, np.unravel_index(plane, stack.plane_shape)) if stack else ("", ())
                    title = utf8(f"{name.replace('/', '__')}_{number + found.count:04d}")
                    found.outlines.append((f"{title}.roi", roi_bytes(corners, title, *where, plane=plane)))
                labels[numbers > 0] = numbers[numbers > 0] + found.count
                found.count += int(numbers.max())
            yield labels

    def _masks(self, result: np.ndarray) -> Iterator[tuple[int | None, np.ndarray]]:
        """The mask of a binary map, or those of every class but 0, with the class."""
        classes = self.settings.to_mask(result)
        if self.settings.num_classes == 1:
            yield None, classes
        else:
            yield from ((kind, classes == kind) for kind in range(1, self.settings.num_classes))


def _channels(image: Path, in_channels: int) -> np.ndarray:
    """All channels of an image, also those that the network does not read, (H, W) or (H, W, C)."""
    return decode(image, Wanted(read_stack(image, in_channels).channels)).values


def network_row(mask: np.ndarray, pixel_size: tuple[float, float] | None) -> dict[str, Any]:
    """What networks.csv says of a mask."""
    from skimage.morphology import skeletonize

    skeleton = skeletonize(mask)
    network, area = measure_network(skeleton), int(np.count_nonzero(mask))
    row = {
        "area_px2": area,
        "pieces": network.pieces,
        "skeleton_length_px": network.length,
        "junctions": network.junctions,
        "end_points": network.end_points,
        "loops": network.loops,
    }
    if pixel_size is None:
        return {**row, "area_um2": None, "skeleton_length_um": None}
    length = measure_network(skeleton, pixel_size).length
    return {**row, "area_um2": area * pixel_size[0] * pixel_size[1], "skeleton_length_um": length}


def roi_bytes(corners: np.ndarray, name: str, axes: str, index: Sequence[int], *, plane: int) -> bytes:
    """An outline as an ImageJ ROI at its place in a stack.

    Args:
        axes: of the planes of the stack, and ``index`` the place along each.
        plane: its number among all.
    """
    from roifile import ImagejRoi

    place: dict[str, int] = {"position": plane} if axes else {}
    if len(axes) > 1 and set(axes) <= set("TZ"):
        place = {axis.lower(): int(number) for axis, number in zip(axes, index, strict=True)}
    return ImagejRoi.frompoints(corners, name=name, **place).tobytes()


def write_instances(measure: Measuring, maps: Mapping[Path, str]) -> tuple[int, dict[Path, str]]:
    """Write ``instances/<name>.tif`` of every map, objects.csv, networks.csv and rois.zip.

    Args:
        maps: image → the name of its map.
    Returns: the number of objects, and the images that cannot be measured, with the reason.
    """
    failed: dict[Path, str] = {}
    tables = []

    def tried(item: tuple[Path, str]) -> Measured | None:
        try:
            return measure(*item)
        except UserError as error:
            failed[item[0]] = str(error)
            return None

    workers = min(4, usable_processors())
    with (
        Progress(len(maps), "measuring objects") as progress,
        atomic_write(measure.folder / OUTLINES) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as outlines,
    ):
        for found in read_ahead(tried, maps.items(), ahead=workers, workers=workers):
            progress.update()
            if found is not None:
                tables.append(found)
                for entry, content in found.outlines:
                    outlines.writestr(archive_entry(entry), content)
                found.outlines.clear()
    write_tables(measure.folder, tables)
    return sum(found.count for found in tables), failed


def archive_entry(name: str) -> zipfile.ZipInfo:
    """A file of an archive that every user may read, dated 1980: of clocks further back archives hold no time."""
    entry = zipfile.ZipInfo(name)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry


def utf8(name: str) -> str:
    """A file's name where ROIs and archives hold it: bytes that are no UTF-8 are spelled out."""
    return name.encode(errors="backslashreplace").decode().replace("\\ud", "%ud")


def is_micrometres(column: str) -> bool:
    """Whether a column is in µm; such columns are left out where no pixel size is known."""
    return column.endswith(("_um", "_um2"))


def write_tables(folder: Path, tables: Sequence[Measured]) -> None:
    """Write objects.csv, a line an object, and networks.csv, a line a plane, or a class of one."""
    planes = [plane for found in tables for plane in found.objects]
    columns = list(dict.fromkeys(name for plane in planes for name in plane))
    measures = [name for name in columns if name not in KEYS and not is_micrometres(name)]
    in_um = [
        name for name in columns if is_micrometres(name) and not all(np.isnan(plane[name]).all() for plane in planes)
    ]
    columns = [*(name for name in KEYS if name in columns), *measures, *in_um]

    def cell(value: Any, row: int) -> Any:  # of a column, or the same for all objects of a plane
        return value[row] if isinstance(value, np.ndarray) else value

    rows = ([cell(plane.get(name), row) for name in columns] for plane in planes for row in range(len(plane["label"])))
    write_csv(folder / OBJECTS, columns or KEYS, rows)
    lines = [line for found in tables for line in found.networks]
    known = any(line["area_um2"] is not None for line in lines)
    lines = [{name: value for name, value in line.items() if known or not is_micrometres(name)} for line in lines]
    write_csv(folder / NETWORKS, list(lines[0]) if lines else KEYS, (list(line.values()) for line in lines))
