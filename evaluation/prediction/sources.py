"""Which images are predicted: those of a list, or image files, folders and stacks named one by one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets.image_files import PlaneStack, split_plane
from datasets.list_checks import Expectation, survey, tell_color
from datasets.list_pairing import IMAGE_SUFFIXES, list_image_tree, natural_key
from datasets.list_parser import LISTED_FAULTS
from datasets.lists import Sample, find_list, raise_faults, read_list
from evaluation.prediction.result_folders import identify
from evaluation.prediction.settings import MapSettings, Picture
from evaluation.prediction.stacks import find_stacks, name_maps, plane_paths
from utils.cli import UserError
from utils.errors import told_with
from utils.run_folder import REPO_ROOT


@dataclass(frozen=True)
class Source:
    """The images to predict.

    Args:
        list_path: the list they come from, if any.
        ending: of the result folder's name.
        inputs: see `identify`.
        stacks: the files whose planes are predicted into one map.
        places: file → its folder below the folder that was given; the maps lie in the same tree.
    """

    samples: list[Sample]
    list_path: Path | None
    ending: str
    inputs: list[str]
    stacks: dict[Path, PlaneStack] = field(default_factory=dict)
    places: dict[Path, Path] = field(default_factory=dict)


def choose_images(
    config: dict[str, Any], data_list: str | Path | None, inputs: Sequence[Path], data_root: str | None
) -> Source:
    """The images of ``inputs``, of a list or of the run's test list; an image named twice counts once."""
    if inputs:
        return input_images(inputs, config["in_channels"])
    given = data_list or config.get("test_list")
    if given is None:
        raise UserError("the run's data set has no test list: give --data_list LIST or --input FILES")
    remedy = "" if data_list else "Put it back, or give --data_list LIST, or --input FILES"
    with told_with(f"--data_list {data_list}" if data_list else "the run's test list", remedy):
        list_path = find_list(given, config["dataset"])
        samples = read_list(list_path, data_root, labels="optional")
    test_list = config.get("test_list")
    is_test = test_list is not None and list_path.resolve() == (REPO_ROOT / test_list).resolve()
    ending = "" if is_test else f"_{list_path.stem}"
    return Source(without_repeats(samples), list_path, ending, identify([list_path]))


def input_images(paths: Sequence[Path], channels: int = 1) -> Source:
    """Image files, and the images inside folders and those below, as samples without labels; of stacks every plane."""
    files: list[Path] = []
    places: dict[Path, Path] = {}
    for path in expand_patterns(paths):
        if path.is_dir():
            inside = list_image_tree(path)
            tell_unread(path, inside)
            if not inside:
                raise UserError(f"--input {path} is a folder without images ({', '.join(IMAGE_SUFFIXES)})")
            files += inside
            places |= {Path(os.path.abspath(file)): file.parent.relative_to(path) for file in inside}
        elif path.suffix.lower() == ".txt":
            raise UserError(f"--input {path}: images are expected; a list of them is given by --data_list")
        elif split_plane(path)[0].is_file():
            files.append(path)
        else:
            raise UserError(f"--input {path} does not exist")
    files = [Path(os.path.abspath(file)) for file in files]
    folder = Path(os.path.commonpath([file.parent for file in files]))
    stacks = find_stacks([file for file in dict.fromkeys(files) if file.is_file()], channels)
    planes = enumerate(plane_paths(files, stacks), start=1)
    samples = [Sample(plane, None, plane.as_posix(), line=line) for line, plane in planes]
    return Source(without_repeats(samples), None, f"_{folder.name or 'input'}", identify(paths), stacks, places)


def tell_unread(folder: Path, images: Sequence[Path]) -> None:
    """Say which images in a folder are in formats of microscopes and others that are not read, and what to do.

    Args:
        images: those that are read; the files that these were made from need no word.
    """
    from datasets.list_foreign import UNREAD_IMAGES, tell_foreign

    foreign, made = defaultdict(list), {image.with_suffix("") for image in images}
    for file in list_image_tree(folder, lambda file: file.suffix.lower() in UNREAD_IMAGES):
        if file.with_suffix("") not in made:
            foreign[file.suffix.lower()].append(file)
    tell_foreign(foreign, print)


def expand_patterns(paths: Sequence[Path]) -> list[Path]:
    """The paths, those with ``*`` or ``?`` that no file has as its name replaced by what they match.

    Shells do so, but for those of Windows.
    """
    found: list[Path] = []
    for path in paths:
        is_pattern = not path.exists() and any(mark in path.name for mark in "*?")
        matches = sorted(path.parent.glob(path.name), key=natural_key) if is_pattern else []
        found += matches or [path]
    return found


def without_repeats(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, each image once."""
    return list({sample.image: sample for sample in reversed(samples)}.values())[::-1]


def make_pictures(source: Source, settings: MapSettings, overlays: int) -> tuple[list[Picture], dict[Path, str]]:
    """Check every image's header and name the maps.

    Args:
        overlays: how many of the first images get a panel.
    Returns: the pictures, and why other images cannot be read.
    Raises:
        UserError: every image is broken, or has not the channels that the network takes.
    """
    unlabelled = [replace(sample, label=None) for sample in source.samples]
    expected = Expectation(channels=settings.in_channels, selected=settings.channels)
    found = survey(unlabelled, source.list_path or Path("--input"), expected)
    if all(check.faults for check in found.checks):
        if source.list_path is None:
            raise UserError("--input: " + "\n".join(fault for _, fault in found.faults()[:LISTED_FAULTS]))
        raise_faults(source.list_path, found.faults())
    tell_color([found], expected)
    names = name_maps([sample.image for sample in source.samples], source.stacks, source.places)
    pictures, failed = [], {}
    for number, (sample, name) in enumerate(zip(source.samples, names, strict=True)):
        if found.checks[number].faults:
            failed[sample.image] = found.checks[number].faults[0]
        else:
            size = found.sizes[number]
            pictures.append(Picture(sample.image, name, size, label=sample.label, overlay=number < overlays))
    return pictures, failed
