"""Predicting images with a trained run: the checkpoint, the images, their maps and the record of both."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from datasets.image_files import PlaneStack, split_plane
from datasets.label_maps import LabelMap
from datasets.label_values import LabelReading
from datasets.list_checks import Expectation, survey, tell_color
from datasets.lists import raise_faults
from datasets.transition_matrix import ScoreDecoder
from evaluation.prediction.predictor import (
    MapSettings,
    Picture,
    Predictor,
    find_checkpoint,
    load_network,
    predict_pictures,
)
from evaluation.prediction.result_folders import check_chosen_folder, describe_images, describe_job, result_folder
from evaluation.prediction.sources import Source, choose_images
from evaluation.prediction.stacks import drop_planes, join_planes, name_maps, whole_file, whole_map
from evaluation.scores import DEFAULT_THRESHOLD
from evaluation.scores.map_folder import METRICS, PREDICTIONS, earlier_files
from models.blocks import fold_batch_norms
from utils.cli import Progress, UserError, counted
from utils.device import choose_device, choose_precision
from utils.files import write_json
from utils.fingerprint import FINGERPRINT, changes, describe_changes, read_fingerprint
from utils.output_folder import replaced_output
from utils.run_folder import display_path, environment_record, find_run, quoted

NAMED_FAILURES = 20
BATCH_SIZE = {"cpu": 4, "cuda": 32, "mps": 32}  # larger batches are slower on a CPU: caches overflow


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
        raise_faults(found.path, found.faults())
    tell_color([found], expected)
    names = name_maps([sample.image for sample in source.samples], source.stacks)
    pictures, failed = [], {}
    for number, (sample, name) in enumerate(zip(source.samples, names, strict=True)):
        if found.checks[number].faults:
            failed[sample.image] = found.checks[number].faults[0]
        else:
            size = found.sizes[number]
            pictures.append(Picture(sample.image, name, size, label=sample.label, overlay=number < overlays))
    return pictures, failed


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
    """Direction, threshold and offset from the checkpoint; turning the direction round by hand mirrors both.

    Raises:
        UserError: an inversion of several classes, or channels that are not as many as the network takes.
    """
    config = checkpoint["config"]
    if channels and len(channels) != config["in_channels"]:
        raise UserError(f"--channels {','.join(channels)} are {len(channels)}, the run reads {config['in_channels']}")
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
    tell_changes(run)
    settings = decide_settings(
        checkpoint, pred_invert, masks=masks, save_scores=save_scores, channels=channels, label_map=label_map
    )
    pictures, failed = make_pictures(source, settings, overlays)
    told_fp32 = precision == "auto" and config.get("precision") == "fp32"
    precision = "fp32" if told_fp32 else choose_precision(precision, target)
    folder = choose_folder(out, run, epoch, source)
    how = {"tta": tta, "precision": precision, "tile": tile, "overlap": overlap, "device": str(target)}
    origin = {
        "run": display_path(run),
        "epoch": epoch,
        "list": None if source.list_path is None else display_path(source.list_path),
        "input": source.inputs,
        "dataset": config["dataset"],
        "data_root": data_root,
        "checkpoint": display_path(find_checkpoint(run, which)),
    }
    images = describe_images([split_plane(picture.image)[0] for picture in pictures])
    job = describe_job(find_checkpoint(run, which), source.inputs, how=how, settings=asdict(settings), images=images)
    with open_results(folder, pictures, settings, job) as partial:
        started = time.monotonic()
        predictor = Predictor(fold_batch_norms(network), target, precision, augment=tta)
        batch = batch_size or BATCH_SIZE[target.type]
        failed |= write_maps(partial, pictures, settings, predictor, batch_size=batch, tile=tile, overlap=overlap)
        pictures, stacks = join_stacks(partial, pictures, source.stacks, failed)
        record = {**origin, **how, **describe_course(len(pictures), time.monotonic() - started, target, failed)}
        record |= describe_maps(pictures, settings, stacks)
        write_json(partial / PREDICTIONS.record, record)
    print(summarize(pictures, folder, record), flush=True)
    if failed:
        raise UserError(failure_text(failed, len(pictures)))
    return folder


def tell_changes(run: Path) -> None:
    """Say which data have changed since the run read them."""
    for line in describe_changes(changes(read_fingerprint(run / FINGERPRINT) or {})[0], [], []):
        print(f"note: {line}", flush=True)


def choose_folder(out: Path | None, run: Path, epoch: int, source: Source) -> Path:
    """The folder given, if it holds nothing else, or the input's own below the run's ``results/``."""
    if out is None:
        return result_folder(run, epoch, source.ending, source.inputs)
    check_chosen_folder(out, run, source.inputs)
    return out


def open_results(
    folder: Path, pictures: Sequence[Picture], settings: MapSettings, job: dict[str, Any]
) -> AbstractContextManager[Path]:
    """The folder to write in, which replaces the results in ``folder`` at the end; metrics of those go."""
    written = {name for picture in pictures for name in settings.files(replace(picture, name=whole_map(picture.name)))}
    return replaced_output(
        folder, PREDICTIONS, expected=written, earlier=earlier_files(folder), outdated=[METRICS], job=job
    )


def write_maps(
    folder: Path,
    pictures: Sequence[Picture],
    settings: MapSettings,
    predictor: Predictor,
    *,
    batch_size: int,
    tile: int,
    overlap: int,
) -> dict[Path, str]:
    """Predict the pictures into ``folder``; the images that failed, with the reason."""
    with Progress(len(pictures), "predicting") as progress:
        failed = predict_pictures(
            predictor,
            pictures,
            settings,
            folder=folder,
            batch_size=batch_size,
            window=tile,
            overlap=overlap,
            progress=progress,
        )
    return {picture.image: reason for picture, reason in failed.items()}


def join_stacks(
    folder: Path, pictures: Sequence[Picture], stacks: Mapping[Path, PlaneStack], failed: Mapping[Path, str]
) -> tuple[list[Picture], dict[Path, PlaneStack]]:
    """Make one map of a stack's planes; of a stack every plane is kept, or none.

    Returns: the pictures and the stacks that have maps.
    Raises:
        UserError: no picture has one.
    """
    lost = {whole_file(image, stacks) for image in failed}
    drop_planes(folder, [picture.name for picture in pictures if whole_file(picture.image, stacks) in lost])
    kept = [picture for picture in pictures if whole_file(picture.image, stacks) not in lost]
    if not kept:
        raise UserError(failure_text(failed, 0))
    whole = {path: stack for path, stack in stacks.items() if path not in lost}
    join_planes(folder, {picture.image: picture.name for picture in kept}, whole)
    return kept, whole


def failure_text(failed: Mapping[Path, str], succeeded: int) -> str:
    """Which images could not be predicted, and why."""
    lines = list(failed.values())[:NAMED_FAILURES]
    more = [f"… and {len(failed) - NAMED_FAILURES} more"] if len(failed) > NAMED_FAILURES else []
    rest = "; the maps of the others are complete" if succeeded else ""
    head = f"{len(failed)} of {len(failed) + succeeded} images could not be predicted{rest}:"
    return "\n".join([head, *lines, *more])


def describe_course(images: int, seconds: float, device: torch.device, failed: Mapping[Path, str]) -> dict[str, Any]:
    """How long the prediction of so many images took, on what, and which others failed."""
    seconds = max(seconds, 1e-9)
    return {
        "timing": {"images": images, "seconds": seconds, "images_per_second": images / seconds},
        "environment": environment_record(str(device)),
        "failed": {display_path(image): reason for image, reason in failed.items()},
    }


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
