"""Predicting images with a trained run: the checkpoint, the images, their maps and the record of both."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from datasets.image_files import PlaneStack, split_plane
from datasets.label_maps import LabelMap
from datasets.label_values import LabelReading
from datasets.list_checks import Expectation, survey, tell_color
from datasets.list_pairing import IMAGE_SUFFIXES, list_images, natural_key
from datasets.lists import Sample, find_list, raise_faults, read_list
from datasets.transition_matrix import ScoreDecoder
from evaluation.prediction.predictor import (
    MapSettings,
    Picture,
    Predictor,
    find_checkpoint,
    load_network,
    predict_pictures,
)
from evaluation.prediction.result_folders import (
    check_chosen_folder,
    describe_images,
    describe_job,
    identify,
    result_folder,
)
from evaluation.prediction.stacks import (
    drop_planes,
    find_stacks,
    join_planes,
    name_maps,
    plane_paths,
    whole_file,
    whole_map,
)
from evaluation.scores import DEFAULT_THRESHOLD
from evaluation.scores.map_folder import METRICS, PREDICTIONS, earlier_files
from models.blocks import fold_batch_norms
from utils.cli import Progress, UserError, counted
from utils.device import choose_device, choose_precision
from utils.files import write_json
from utils.fingerprint import FINGERPRINT, changes, describe_changes, read_fingerprint
from utils.output_folder import replaced_output
from utils.run_folder import REPO_ROOT, display_path, environment_record, find_run, quoted

NAMED_FAILURES = 20
BATCH_SIZE = {"cpu": 4, "cuda": 32, "mps": 32}  # larger batches are slower on a CPU: caches overflow


@dataclass(frozen=True)
class Source:
    """The images to predict.

    Args:
        list_path: the list they come from, if any.
        ending: of the result folder's name.
        inputs: see `identify`.
        stacks: the files whose planes are predicted into one map.
    """

    samples: list[Sample]
    list_path: Path | None
    ending: str
    inputs: list[str]
    stacks: dict[Path, PlaneStack] = field(default_factory=dict)


def choose_images(
    config: dict[str, Any], data_list: str | Path | None, inputs: Sequence[Path], data_root: str | None
) -> Source:
    """The images of ``inputs``, of a list or of the run's test list; an image named twice counts once."""
    if inputs:
        return input_images(inputs, config["in_channels"])
    given = data_list or config.get("test_list")
    if given is None:
        raise UserError("the run's data set has no test list: give --data_list LIST or --input FILES")
    list_path = find_list(given, config["dataset"])
    samples = read_list(list_path, data_root, labels="optional")
    test_list = config.get("test_list")
    is_test = test_list is not None and list_path.resolve() == (REPO_ROOT / test_list).resolve()
    ending = "" if is_test else f"_{list_path.stem}"
    return Source(without_repeats(samples), list_path, ending, identify([list_path]))


def input_images(paths: Sequence[Path], channels: int = 1) -> Source:
    """Image files, and the images directly inside folders, as samples without labels; of stacks every plane."""
    files: list[Path] = []
    for path in expand_patterns(paths):
        if path.is_dir():
            inside = list_images(path)
            if not inside:
                raise UserError(f"--input {path} is a folder without images ({', '.join(IMAGE_SUFFIXES)})")
            files += inside
        elif split_plane(path)[0].is_file():
            files.append(path)
        else:
            raise UserError(f"--input {path} does not exist")
    files = [Path(os.path.abspath(file)) for file in files]
    folder = Path(os.path.commonpath([file.parent for file in files]))
    stacks = find_stacks([file for file in dict.fromkeys(files) if file.is_file()], channels)
    planes = enumerate(plane_paths(files, stacks), start=1)
    samples = [Sample(plane, None, plane.as_posix(), line=line) for line, plane in planes]
    return Source(without_repeats(samples), None, f"_{folder.name or 'input'}", identify(paths), stacks)


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


def make_pictures(source: Source, settings: MapSettings, overlays: int, failed: dict[Path, str]) -> list[Picture]:
    """Check every image's header and name the maps; images that cannot be read are put into ``failed``.

    Raises:
        UserError: every image is broken, or has not the channels that the network takes.
    """
    unlabelled = [replace(sample, label=None) for sample in source.samples]
    expected = Expectation(channels=settings.in_channels, selected=settings.channels)
    found = survey(unlabelled, source.list_path or Path("--input"), expected)
    if all(check.faults for check in found.checks):
        raise_faults(found.path, found.faults())
    tell_color([found], expected)
    names = name_maps([sample.image for sample in source.samples], source.stacks)
    pictures = []
    for number, (sample, name) in enumerate(zip(source.samples, names, strict=True)):
        if found.checks[number].faults:
            failed[sample.image] = found.checks[number].faults[0]
        else:
            size = found.sizes[number]
            pictures.append(Picture(sample.image, name, size, label=sample.label, overlay=number < overlays))
    return pictures


def _label_reading(config: dict[str, Any], label_map: str | None) -> LabelReading | None:
    """What the values of labels mean: as given, else as the run decided."""
    if label_map is None:
        return LabelReading.from_json(config.get("label_reading"))
    return LabelReading(
        config["num_classes"], config.get("ignore_index"), LabelMap.parse(label_map, config["num_classes"])
    )


def decide_settings(
    checkpoint: dict[str, Any],
    pred_invert: str,
    *,
    masks: bool,
    save_scores: bool,
    channels: tuple[str, ...] = (),
    label_map: str | None = None,
) -> MapSettings:
    """Direction, threshold and offset from the checkpoint; turning the direction round by hand mirrors both."""
    config = checkpoint["config"]
    if config["num_classes"] > 1 and pred_invert == "on":
        raise UserError("--pred_invert on is for binary labels; this run has several classes")
    trained = bool(checkpoint["pred_invert"])
    invert = {"auto": trained, "on": True, "off": False}[pred_invert]
    offset = float(checkpoint.get("mask_offset", 0.0))
    threshold = DEFAULT_THRESHOLD if checkpoint["threshold"] is None else float(checkpoint["threshold"])
    return MapSettings(
        num_classes=config["num_classes"],
        in_channels=config["in_channels"],
        channels=channels or tuple(config.get("channels") or ()),
        reading=_label_reading(config, label_map),
        ignore_index=config.get("ignore_index"),
        normalization=config["normalization"],
        threshold=threshold if invert == trained else 1 - threshold,
        offset=offset if invert == trained else -offset,
        invert=invert,
        decoder=ScoreDecoder.of_config(config),
        masks=masks,
        save_scores=save_scores,
    )


def predict_run(
    train_dir: str | Path,
    which: str = "best",
    *,
    data_list: str | Path | None = None,
    inputs: Sequence[Path] = (),
    data_root: str | None = None,
    pred_invert: str = "auto",
    tta: bool = False,
    batch_size: int | None = None,
    tile: int = 512,
    overlap: int = 64,
    device: str = "auto",
    precision: str = "auto",
    masks: bool = False,
    overlays: int = 0,
    save_scores: bool = False,
    channels: tuple[str, ...] = (),
    label_map: str | None = None,
    out: Path | None = None,
) -> Path:
    """Predict images with a trained run, write their maps below its ``results/`` and record what was done.

    Args:
        train_dir: run folder, a path or ``<dataset>/<run>``.
        which: its checkpoint: ``best``, ``last`` or the number of a completed epoch.
        data_list: list of images; default: the run's test list.
        inputs: image files, or folders of them, instead of a list.
        data_root: folder that relative paths in the list start from; default: the run's.
        pred_invert: ``on``, ``off`` or ``auto``, as validation decided.
        tta: average the scores of the eight flips and rotations.
        batch_size: images of 256×256 at once, others count by their area; default: by the device.
        tile, overlap: images with a longer side are predicted in tiles of this side, with at least this overlap.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``: fp32 if the run was told so, else by the device.
        masks: also write 8-bit masks.
        overlays: number of images of which panels are written.
        save_scores: K classes: also write the scores of every class.
        channels: of the images, by number or OME name; default: the run's.
        label_map: what values of labels mean; default: as the run decided.
        out: the folder to write to; default: one of the input's own below ``results/``.
    Returns: the folder with ``pred/`` and ``predictions.json``.
    Raises:
        UserError: no such run or checkpoint, settings that do not fit; or images that cannot be read, when the maps of
            the others are complete.
    """
    run, target = find_run(train_dir), torch.device(choose_device(device))
    network, checkpoint, epoch = load_network(run, which, target)
    config = checkpoint["config"]
    data_root = data_root or config.get("data_root")
    source = choose_images(config, data_list, inputs, data_root)
    for line in describe_changes(changes(read_fingerprint(run / FINGERPRINT) or {})[0], [], []):
        print(f"note: {line}", flush=True)
    if channels and len(channels) != config["in_channels"]:
        raise UserError(f"--channels {','.join(channels)} are {len(channels)}, the run reads {config['in_channels']}")
    settings = decide_settings(
        checkpoint, pred_invert, masks=masks, save_scores=save_scores, channels=channels, label_map=label_map
    )
    failed: dict[Path, str] = {}
    pictures = make_pictures(source, settings, overlays, failed)
    told_fp32 = precision == "auto" and config.get("precision") == "fp32"
    precision = "fp32" if told_fp32 else choose_precision(precision, target)
    folder = out or result_folder(run, epoch, source.ending, source.inputs)
    if out is not None:
        check_chosen_folder(out, run, source.inputs)
    how = {"tta": tta, "precision": precision, "tile": tile, "overlap": overlap, "device": str(target)}
    record = {
        "run": display_path(run),
        "epoch": epoch,
        "list": None if source.list_path is None else display_path(source.list_path),
        "input": source.inputs,
        "dataset": config["dataset"],
        "data_root": data_root,
        "checkpoint": display_path(find_checkpoint(run, which)),
        **how,
    }
    images = describe_images([split_plane(picture.image)[0] for picture in pictures])
    job = describe_job(find_checkpoint(run, which), source.inputs, how=how, settings=asdict(settings), images=images)
    written = {name for picture in pictures for name in settings.files(replace(picture, name=whole_map(picture.name)))}
    with replaced_output(
        folder, PREDICTIONS, expected=written, earlier=earlier_files(folder), outdated=[METRICS], job=job
    ) as partial:
        started = time.monotonic()
        with Progress(len(pictures), "predicting") as progress:
            broken = predict_pictures(
                Predictor(fold_batch_norms(network), target, precision, augment=tta),
                pictures,
                settings,
                folder=partial,
                batch_size=batch_size or BATCH_SIZE[target.type],
                window=tile,
                overlap=overlap,
                progress=progress,
            )
        failed |= {picture.image: reason for picture, reason in broken.items()}
        lost = {whole_file(image, source.stacks) for image in failed}  # of a stack every plane, or none
        drop_planes(partial, [picture.name for picture in pictures if whole_file(picture.image, source.stacks) in lost])
        pictures = [picture for picture in pictures if whole_file(picture.image, source.stacks) not in lost]
        if not pictures:
            raise UserError(failure_text(failed, 0))
        stacks = {path: stack for path, stack in source.stacks.items() if path not in lost}
        join_planes(partial, {picture.image: picture.name for picture in pictures}, stacks)
        seconds = max(time.monotonic() - started, 1e-9)
        timing = {"images": len(pictures), "seconds": seconds, "images_per_second": len(pictures) / seconds}
        record |= {"timing": timing, "environment": environment_record(str(target))}
        record |= {"failed": {display_path(image): reason for image, reason in failed.items()}}
        record |= describe_maps(pictures, settings, stacks)
        write_json(partial / PREDICTIONS.record, record)
    print(summarize(pictures, folder, record), flush=True)
    if failed:
        raise UserError(failure_text(failed, len(pictures)))
    return folder


def failure_text(failed: dict[Path, str], succeeded: int) -> str:
    """Which images could not be predicted, and why."""
    lines = list(failed.values())[:NAMED_FAILURES]
    more = [f"… and {len(failed) - NAMED_FAILURES} more"] if len(failed) > NAMED_FAILURES else []
    rest = "; the maps of the others are complete" if succeeded else ""
    head = f"{len(failed)} of {len(failed) + succeeded} images could not be predicted{rest}:"
    return "\n".join([head, *lines, *more])


def describe_maps(
    pictures: Sequence[Picture], settings: MapSettings, stacks: Mapping[Path, PlaneStack]
) -> dict[str, Any]:
    """What reading the maps needs to know; a stack has one map, whose axes are recorded."""
    sizes: dict[Path, list[int]] = {}
    names: dict[Path, str] = {}
    for picture in pictures:
        path = whole_file(picture.image, stacks)
        names[path] = whole_map(picture.name)
        sizes[path] = [*(stacks[path].plane_shape if path in stacks else ()), *picture.size]
    return {
        "num_classes": settings.num_classes,
        "in_channels": settings.in_channels,
        "channels": settings.channels,
        "label_reading": settings.reading and settings.reading.to_json(),
        "ignore_index": settings.ignore_index,
        "threshold": settings.threshold if settings.num_classes == 1 else None,
        "mask_offset": settings.offset,
        "inverted": settings.invert,
        "maps": {display_path(path): f"pred/{name}.tif" for path, name in names.items()},
        "sizes": {display_path(path): size for path, size in sizes.items()},
        "stacks": {display_path(path): f"{stack.plane_axes}YX" for path, stack in stacks.items()},
    }


def summarize(pictures: Sequence[Picture], folder: Path, record: dict[str, Any]) -> str:
    """What was written where, and the command that scores it."""
    threshold = "" if record["threshold"] is None else f", threshold {record['threshold']:.4f}"
    threshold += f", mask offset {record['mask_offset']:+g} px" if record["mask_offset"] else ""
    inverted = ", inverted" if record["inverted"] else ""
    speed = record["timing"]["images_per_second"]
    images = "1 image" if len(pictures) == 1 else f"{len(pictures)} images"
    images += f" ({counted(record['stacks'], 'stack')}, plane by plane)" if record["stacks"] else ""
    labelled = any(picture.label for picture in pictures)
    labels = "" if labelled else " --test_data_dir LIST_WITH_LABELS"
    return (
        f"{images} of epoch {record['epoch']} → {display_path(folder / 'pred')}{threshold}{inverted}"
        f" ({speed:.1f} images/s on {record['device']})\n"
        f"python evaluation/metrics.py --prd_dir {quoted(display_path(folder / 'pred'))}{labels}"
    )
