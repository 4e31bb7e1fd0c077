"""Folders of score maps: finding them, which map belongs to which image, and clearing what an earlier command wrote."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.image_files import split_plane
from datasets.list_pairing import natural_key
from datasets.lists import Sample
from utils.cli import UserError
from utils.files import read_json, unique_stems
from utils.run_folder import REPO_ROOT, display_path

MAP_SUFFIXES = (".tif", ".tiff", ".png")
RESULT_FOLDERS = ("pred", "masks", "scores", "overlays")
RESULT_FILES = ("predictions.json", "metrics.json", "per_image.csv", "report.html")


def clear_results(folder: Path) -> None:
    """Remove what an earlier prediction into the same folder wrote, its record first and its figures with it."""
    for name in RESULT_FILES:
        (folder / name).unlink(missing_ok=True)
    for name in RESULT_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


@dataclass(frozen=True)
class MapFolder:
    """Score maps on disk.

    Args:
        folder: where the figures of these maps go.
        maps: the folder of the maps themselves.
        record: the content of predictions.json; empty for maps from elsewhere.
    """

    folder: Path
    maps: Path
    record: dict[str, Any]


def find_maps(prd_dir: Path) -> MapFolder:
    """The maps of ``pred/`` or of the folder above it, or any folder of TIFF or PNG maps.

    Raises:
        UserError: no such folder, or none with maps in it; the message lists the results beside it.
    """
    prd_dir = Path(prd_dir)
    for folder in (prd_dir, prd_dir.parent if prd_dir.name == "pred" else prd_dir):
        if (folder / "predictions.json").is_file():
            return MapFolder(folder, folder / "pred", read_json(folder / "predictions.json"))
    for folder in (prd_dir, prd_dir / "pred"):
        if folder.is_dir() and any(file.suffix.lower() in MAP_SUFFIXES for file in folder.iterdir()):
            return MapFolder(folder.parent if folder.name == "pred" else folder, folder, {})
    reason = "holds no predictions.json and no maps" if prd_dir.is_dir() else "does not exist"
    results = [parent for parent in prd_dir.parents if parent.name == "results" and parent.is_dir()][:1]
    known = sorted((path.parent for root in results for path in root.glob("*/predictions.json")), key=natural_key)
    hint = f"; predictions of this run: {', '.join(map(display_path, known))}" if known else "; run inference.py first"
    raise UserError(f"--prd_dir {display_path(prd_dir)} {reason} ({', '.join(MAP_SUFFIXES)}){hint}")


@dataclass(frozen=True)
class Matches:
    """Which sample has which map, and what has no partner."""

    pairs: list[tuple[Sample, Path]]
    images_without_map: list[Path]
    maps_without_image: list[Path]


def match_maps(samples: Sequence[Sample], folder: MapFolder) -> Matches:
    """Find the map of every sample: by predictions.json, else by the name inference would give it, else by stem.

    Raises:
        UserError: two maps of one stem, a stem that several images share, or no map that belongs to an image.
    """
    recorded: dict[Path, Path] = {}
    if folder.record:
        recorded = {_absolute(image): folder.folder / name for image, name in folder.record["maps"].items()}
        known = list(recorded.values())
    else:
        known = sorted((file for file in folder.maps.iterdir() if file.suffix.lower() in MAP_SUFFIXES), key=natural_key)
    found = [_recorded_map(sample.image, recorded) for sample in samples]
    if not any(found):  # no record, or the images have moved since
        by_stem = {file.stem: file for file in known}
        if len(by_stem) < len(known):
            raise UserError(f"{display_path(folder.maps)} has maps that differ by suffix alone: keep one of each")
        names = unique_stems([sample.image for sample in samples])
        found = [
            by_stem.get(name) or _plane_of(by_stem.get(sample.image.stem), sample.image)
            for name, sample in zip(names, samples, strict=True)
        ]
        _check_shared(samples, found)
    pairs = [(sample, path) for sample, path in zip(samples, found, strict=True) if path is not None]
    if not pairs:
        raise UserError(
            f"none of the {len(known)} maps in {display_path(folder.maps)} belongs to an image of the list: the first "
            f"map is {known[0].name}, the first image {display_path(samples[0].image)}; they are matched by stem"
        )
    used = {file for _, path in pairs for file in (path, split_plane(path)[0])}
    missing = [sample.image for sample, path in zip(samples, found, strict=True) if path is None]
    return Matches(pairs, missing, [path for path in known if path not in used])


def _recorded_map(image: Path, recorded: dict[Path, Path]) -> Path | None:
    return recorded.get(image) or _plane_of(recorded.get(split_plane(image)[0]), image)


def _plane_of(whole: Path | None, image: Path) -> Path | None:
    """The plane of a stack of maps, ``map.tif::3``, that belongs to a plane of a stack of images."""
    _, plane = split_plane(image)
    return whole if whole is None or plane is None else Path(f"{whole}::{plane}")


def _absolute(image: str) -> Path:
    return Path(os.path.abspath(REPO_ROOT / image))


def _check_shared(samples: Sequence[Sample], found: Sequence[Path | None]) -> None:
    first: dict[Path, Sample] = {}
    for sample, path in zip(samples, found, strict=True):
        if path is not None and first.setdefault(path, sample).image != sample.image:
            raise UserError(
                f"the map {path.name} could belong to {display_path(first[path].image)} and to "
                f"{display_path(sample.image)}: name maps of equal stems <folder>__<stem>"
            )
