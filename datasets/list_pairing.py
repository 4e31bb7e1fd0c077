"""Which label belongs to which image: pure functions from folders to pairs of files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.cli import UserError, shortened
from utils.paths import display_path

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".jp2", ".pgm", ".ppm")


@dataclass(frozen=True, slots=True)
class Pairing:
    """Images with their labels, and the files that found no partner; all in natural order."""

    pairs: list[tuple[Path, Path]]
    images_alone: list[Path]
    labels_alone: list[Path]


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """A sort key that puts ``2.tif`` before ``10.tif``, and any number before any letter."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def list_images(folder: Path) -> list[Path]:
    """The image files directly inside a folder, in natural order: suffixes of any case, no hidden files.

    A folder that does not exist holds none.
    """
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    return sorted((file for file in files if file.is_file() and not file.name.startswith(".")), key=natural_key)


def label_folders(split_folder: Path) -> list[str]:
    """The folders beside ``images`` that hold image files: where labels may lie."""
    folders = (folder for folder in split_folder.glob("*") if folder.is_dir() and not folder.name.startswith("."))
    return sorted(folder.name for folder in folders if folder.name != "images" and list_images(folder))


def stem(path: Path) -> str:
    """What an image and its label have in common: ``7`` of ``7.tif``, ``7.png`` and ``7.ome.tif``."""
    return path.stem.removesuffix(".ome")


def pair_files(
    images: Sequence[Path],
    labels: Sequence[Path],
    image_key: Callable[[Path], str] = stem,
    label_key: Callable[[Path], str] = stem,
) -> Pairing:
    """Pair the images and labels whose keys are equal, in the order of the images.

    Raises:
        UserError: several images or several labels have one key; all of them are named.
    """
    label_of = _by_key(labels, label_key)
    keys = _by_key(images, image_key)
    return Pairing(
        pairs=[(image, label_of[key]) for key, image in keys.items() if key in label_of],
        images_alone=[image for key, image in keys.items() if key not in label_of],
        labels_alone=[label for key, label in label_of.items() if key not in keys],
    )


def _by_key(files: Sequence[Path], key_of: Callable[[Path], str]) -> dict[str, Path]:
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(key_of(file), []).append(file)
    clashes = [" and ".join(file.name for file in group) for group in groups.values() if len(group) > 1]
    if clashes:
        raise UserError(
            f"{display_path(files[0].parent)} has files that differ by suffix alone, so that it is open which one "
            f"is meant: {shortened(clashes)}; keep one of each"
        )
    return {key: group[0] for key, group in groups.items()}
