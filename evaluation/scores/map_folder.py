"""Folders of score maps: which files are whose, finding them, and which map belongs to which image."""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.image_files import split_plane
from datasets.list_pairing import list_image_tree, list_images, natural_key, pair_by_name, stem
from datasets.lists import Sample, find_list, read_list
from evaluation.prediction.score_maps import MAP_FILES
from utils.cli import UserError
from utils.files import (
    COUNT,
    FRACTION,
    NUMBER,
    NUMBER_BY_TEXT,
    OBJECT,
    POSITIVE,
    SWITCH,
    TEXT,
    TEXT_BY_TEXT,
    TEXTS,
    read_json,
    read_record,
    unique_stems,
)
from utils.fingerprint import digest
from utils.output_folder import Writer, is_unfinished
from utils.paths import REPO_ROOT, absolute_path, display_path
from utils.run_folder import CROSS_FIT

RUN_FILES = ("config.json", CROSS_FIT)  # one of which is in the folder of a run, or of a cross-fit
MAP_SUFFIXES = (".tif", ".tiff", ".png", ".npy")

PREDICTIONS = Writer("predictions", "predictions.json", keys=("maps", "threshold"))
METRICS = Writer("metrics", "metrics.json", keys=("pooled", "n_images"), others=("per_image.csv", "report.html"))
COMPARISON = Writer("comparison", "comparison.json", keys=("folders", "differences"))
RECORD_FIELDS = {"maps": TEXT_BY_TEXT}
OPTIONAL_FIELDS = {
    "num_classes": POSITIVE,
    "in_channels": POSITIVE,
    "ignore_index": COUNT.or_null(),
    "threshold": FRACTION.or_null(),
    "inverted": SWITCH,
    "mask_offset": NUMBER,
    "list": TEXT.or_null(),
    "dataset": TEXT,
    "data_root": TEXT.or_null(),
    "run": TEXT,
    "runs": TEXTS,
    "calibration": OBJECT.or_null(),
    "out_of_fold": SWITCH,
    "sizes": OBJECT,
    "unlike": NUMBER_BY_TEXT.or_null(),
    "instances": OBJECT.or_null(),
    "channels": TEXTS,
    "label_reading": OBJECT.or_null(),
    "results": OBJECT,
    "in_run": SWITCH,
}


def read_predictions(path: Path) -> dict[str, Any]:
    """The content of a predictions.json.

    Raises:
        UserError: it is broken, or names maps outside its folder.
    """
    record = read_record(path, RECORD_FIELDS, OPTIONAL_FIELDS, remedy="run evaluation/inference.py again")
    outside = [name for name in record["maps"].values() if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise UserError(f"{display_path(path)} names a map outside its folder: {outside[0]}")
    return record | _moved_runs(record, path.parent)


def _moved_runs(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The runs of a record where they are now: results below their run's folder, or a cross-fit's, move with it."""
    joint = bool(record.get("out_of_fold"))
    home = folder.absolute().parent if joint else folder.absolute().parent.parent
    runs = record.get("runs", [])
    before = Path(runs[0]).parent if joint and runs else Path(record.get("run", ""))
    is_home = joint or record.get("in_run", not (REPO_ROOT / before).is_dir())  # earlier versions did not say
    if not is_home or not any((home / name).is_file() for name in RUN_FILES):
        return {}

    def moved(run: str) -> str:
        return display_path(home / Path(run).relative_to(before)) if Path(run).is_relative_to(before) else run

    found = {"runs": [moved(run) for run in runs]} if runs else {}
    return found | ({"run": moved(record["run"])} if "run" in record else {})


def earlier_files(folder: Path) -> set[str]:
    """What an earlier version wrote with a prediction into ``folder``, by predictions.json."""
    try:
        maps = read_predictions(folder / PREDICTIONS.record)["maps"].values()
    except UserError:
        return set()
    stems = [Path(name).stem for name in maps]
    beside = {f"{kind}/{stem}{suffix}" for stem in stems for kind, suffix in MAP_FILES.items()}
    return {PREDICTIONS.record, *maps, *(name for name in beside if (folder / name).is_file())}


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
    """The maps of ``pred/`` or of the folder above it, or any folder of TIFF, PNG or ``.npy`` maps.

    Raises:
        UserError: no such folder, or none with maps in it; the message lists the results beside it.
    """
    prd_dir = Path(prd_dir)
    for folder in (prd_dir, prd_dir.parent if prd_dir.name == "pred" else prd_dir):
        if (folder / "predictions.json").is_file():
            return MapFolder(folder, folder / "pred", read_predictions(folder / "predictions.json"))
        if is_unfinished(folder):
            raise UserError(
                f"--prd_dir {display_path(folder)}: its prediction was stopped on the way; run the same "
                "evaluation/inference.py command again, which goes on with it"
            )
    from evaluation.label_errors.issue_files import is_issue_folder

    if is_issue_folder(prd_dir):
        raise UserError(
            f"--prd_dir {display_path(prd_dir)} holds label issues, not predictions: look at them by "
            "evaluation/suspect_labels.py --review, or give the folders of predictions that they were found from"
        )
    inside, has_results = list_images(prd_dir), any(prd_dir.glob("*/predictions.json"))
    trees = [(prd_dir, inside), (prd_dir / "pred", list_image_tree(prd_dir / "pred"))]
    for folder, files in [*trees, (prd_dir, [] if has_results else list_image_tree(prd_dir))]:
        if any(file.suffix.lower() in MAP_SUFFIXES for file in files):
            return MapFolder(folder.parent if folder.name == "pred" else folder, folder, {})
    empty = f"holds no predictions.json and no maps ({', '.join(MAP_SUFFIXES)})"
    empty += f"; {inside[0].name} is of another format: save it as one of these" if inside else ""
    reason = empty if prd_dir.is_dir() else "does not exist"
    results = [parent for parent in prd_dir.parents if parent.name == "results" and parent.is_dir()][:1]
    results += [prd_dir, prd_dir / "results"]  # of a cross-fit out_of_fold/ lies beside results/
    known = sorted((path.parent for root in results for path in root.glob("*/predictions.json")), key=natural_key)
    hint = f"; predictions of this run: {', '.join(map(display_path, known))}" if known else "; run inference.py first"
    raise UserError(f"--prd_dir {display_path(prd_dir)} {reason}{hint}")


@dataclass(frozen=True)
class Matches:
    """Which sample has which map, and what has no partner."""

    pairs: list[tuple[Sample, Path]]
    images_without_map: list[Path]
    maps_without_image: list[Path]


def match_maps(samples: Sequence[Sample], folder: MapFolder) -> Matches:
    """Find the map of every sample: by predictions.json, else by the name inference would give it, else by stem.

    Where no stem agrees, maps of other programs are found as labels are (``7_cp_masks.png``), and it is said.

    Raises:
        UserError: two maps of one stem, a stem that several images share, or no map that belongs to an image.
    """
    recorded: dict[Path, Path] = {}
    if folder.record:
        recorded = {absolute_path(image): folder.folder / name for image, name in folder.record["maps"].items()}
        known = list(recorded.values())
    else:
        known = [file for file in list_image_tree(folder.maps) if file.suffix.lower() in MAP_SUFFIXES]
    found = [_recorded_map(sample.image, recorded) for sample in samples]
    if not any(found):  # no record, or the images have moved since
        named = dict(zip(unique_stems([file.relative_to(folder.maps) for file in known]), known, strict=True))
        if len({file.with_suffix("") for file in known}) < len(known):
            raise UserError(f"{display_path(folder.maps)} has maps that differ by suffix alone: keep one of each")
        images = [sample.image for sample in samples]
        top = os.path.commonpath([image.parent for image in images])
        in_tree = unique_stems([image.relative_to(top) for image in images])
        by_stem = _by_stem(named)
        found = [
            by_stem(name) or by_stem(below) or _plane_of(by_stem(image.stem), image)
            for name, below, image in zip(unique_stems(images), in_tree, images, strict=True)
        ]
        if not any(found) and not recorded:
            found = _matches_but_for_endings(images, known)
        _check_shared(samples, found)
        _tell_other_images(samples, found, {path: image for image, path in recorded.items()})
    pairs = [(sample, path) for sample, path in zip(samples, found, strict=True) if path is not None]
    if not pairs:
        raise UserError(
            f"none of the {len(known)} maps in {display_path(folder.maps)} belongs to an image of the list: the first "
            f"map is {known[0].name}, the first image {display_path(samples[0].image)}; name maps after their images"
        )
    used = {file for _, path in pairs for file in (path, split_plane(path)[0])}
    missing = [sample.image for sample, path in zip(samples, found, strict=True) if path is None]
    return Matches(pairs, missing, [path for path in known if path not in used])


def changed_maps(maps: Iterable[Path], folder: MapFolder) -> list[Path]:
    """The maps that are not those which inference wrote, by the size and digest that it recorded of them."""
    known = {folder.folder / name: written for name, written in folder.record.get("results", {}).items()}

    def has_changed(path: Path) -> bool:
        state, written = path.stat(), known.get(path)
        if not isinstance(written, list) or len(written) != 3 or written[:2] == [state.st_size, state.st_mtime_ns]:
            return False
        return state.st_size != written[0] or digest(path) != written[2]

    return [path for path in dict.fromkeys(split_plane(path)[0] for path in maps) if has_changed(path)]


def _matches_but_for_endings(images: Sequence[Path], maps: Sequence[Path]) -> list[Path | None]:
    """The map of every image whose name continues the image's or has another beginning, said once; None without one."""
    map_of = dict(pair_by_name(list(dict.fromkeys(images)), maps).pairs)
    for image, path in list(map_of.items())[:1]:
        print(f"names of maps differ from those of images: {path.name} is taken for the map of {image.name}")
    return [map_of.get(image) for image in images]


def _by_stem(named: Mapping[str, Path]) -> Callable[[str], Path | None]:
    """What finds the map of a name without suffix, else the one whose name is the same but for ``.ome`` or accents."""
    plain: dict[str, list[Path]] = defaultdict(list)
    for name, path in named.items():
        plain[stem(Path(f"{name}.tif"))].append(path)

    def find(name: str) -> Path | None:
        alike = plain.get(stem(Path(f"{name}.tif")), [])
        return named.get(name) or (alike[0] if len(alike) == 1 else None)

    return find


def _recorded_map(image: Path, recorded: dict[Path, Path]) -> Path | None:
    return recorded.get(image) or _plane_of(recorded.get(split_plane(image)[0]), image)


def _plane_of(whole: Path | None, image: Path) -> Path | None:
    """The plane of a stack of maps, ``map.tif::3``, that belongs to a plane of a stack of images."""
    _, plane = split_plane(image)
    return whole if whole is None or plane is None else Path(f"{whole}::{plane}")


def _tell_other_images(samples: Sequence[Sample], found: Sequence[Path | None], predicted: Mapping[Path, Path]) -> None:
    """Warn where maps that match by name were made of files that are still there, and are others than the list's.

    Args:
        predicted: map → the image that it was made of.
    """
    for sample, path in zip(samples, found, strict=True):
        before = None if path is None else predicted.get(split_plane(path)[0])
        if before is None:
            continue
        files = [split_plane(image)[0] for image in (before, sample.image)]
        if all(file.is_file() for file in files) and len({digest(file) for file in files}) > 1:
            print(
                f"warning: maps and images match by name alone: {path.name} was made of {display_path(files[0])}, and "
                f"the list's image is {display_path(files[1])}"
            )
            return


def _check_shared(samples: Sequence[Sample], found: Sequence[Path | None]) -> None:
    first: dict[Path, Sample] = {}
    for sample, path in zip(samples, found, strict=True):
        if path is not None and first.setdefault(path, sample).image != sample.image:
            raise UserError(
                f"the map {path.name} could belong to {display_path(first[path].image)} and to "
                f"{display_path(sample.image)}: name maps of equal stems <folder>__<stem>"
            )


def trained_pairs(record: dict[str, Any]) -> set[tuple[Path, Path | None]] | None:
    """The images and labels that the networks of a prediction were trained on; None where a run is not known.

    Args:
        record: the content of predictions.json.
    """
    if record.get("out_of_fold"):
        return set()
    if "runs" in record:
        known = [trained_pairs({"run": run}) for run in record["runs"]]
        return None if None in known else set().union(*(pairs for pairs in known if pairs is not None))
    run = REPO_ROOT / record["run"] if "run" in record else None
    if run is None or not (run / "config.json").is_file():
        return None
    try:
        config = read_json(run / "config.json")
        if config.get("igtt"):
            return set()  # label-free: it saw the images alone
        read = functools.partial(read_list, data_root=config.get("data_root"), say=lambda line: None)
        samples = read(find_list(config["train_list"], config["dataset"]), labels="optional")
        left_out = read(run / "held_out.txt") if config.get("fold") else []
    except (AttributeError, KeyError, TypeError, UserError):  # damaged, or its list is gone
        return None
    known = {(sample.image, sample.label) for sample in left_out}
    return {(sample.image, sample.label) for sample in samples} - known
