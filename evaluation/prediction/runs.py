"""Predicting images with a trained run: the checkpoint, the images, their maps and the record of both."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.image_files import PlaneStack, split_plane
from datasets.label_maps import LabelMap
from datasets.label_values import LabelReading
from datasets.list_checks import Expectation, survey, tell_color
from datasets.lists import raise_faults
from datasets.transition_matrix import ScoreDecoder
from evaluation.prediction.ensemble import find_members, join_predictors, joint_decisions
from evaluation.prediction.other_labs import (
    describe_unlike,
    measure_unlikeness,
    recalibrate,
    recorded_unlike,
    unlike_files,
    watching_own,
)
from evaluation.prediction.predictor import (
    MEGAPIXEL,
    MapSettings,
    Picture,
    Predictor,
    find_checkpoint,
    load_network,
    predict_pictures,
)
from evaluation.prediction.record import describe_course, describe_maps, failure_text, summarize
from evaluation.prediction.result_folders import (
    check_chosen_folder,
    describe_images,
    describe_job,
    finished_results,
    job_digest,
    keep_finished,
    recorded_images,
    result_folder,
)
from evaluation.prediction.sources import Source, choose_images
from evaluation.prediction.stacks import drop_planes, join_planes, joined_name, name_maps, whole_file, whole_map
from evaluation.prediction.unlikeness import Watch
from evaluation.scores import DEFAULT_THRESHOLD
from evaluation.scores.map_folder import COMPARISON, METRICS, PREDICTIONS, earlier_files
from models.blocks import fold_batch_norms
from utils.cli import Progress, UserError
from utils.device import choose_device, choose_precision
from utils.files import write_json
from utils.fingerprint import FINGERPRINT, changes, describe_changes, read_fingerprint
from utils.output_folder import replaced_output
from utils.run_folder import display_path

LARGE = 4  # megapixels of an image from which on progress is told in megapixels
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
    names = name_maps([sample.image for sample in source.samples], source.stacks, source.places)
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
    ensemble: Sequence[str | Path] = (),
    data_list: str | Path | None = None,
    inputs: Sequence[Path] = (),
    data_root: str | None = None,
    pred_invert: str = "auto",
    tta: bool = False,
    recalibrate_norm: bool = False,
    batch_size: int | None = None,
    tile: int = 512,
    overlap: int = 64,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "torch",
    masks: bool = False,
    overlays: int = 0,
    save_scores: bool = False,
    spread: bool = False,
    calibrate: bool = False,
    channels: tuple[str, ...] = (),
    label_map: str | None = None,
    instances: str | None = None,
    min_area: int = 1,
    out: Path | None = None,
) -> Path:
    """Predict images with a trained run, write their maps below its ``results/`` and record what was done.

    Args:
        train_dir: run folder, a path or ``<dataset>/<run>``; that of a cross-fit is the ensemble of its runs.
        which: its checkpoint: ``best``, ``last`` or the number of a completed epoch.
        ensemble: further runs, whose scores are averaged with its own.
        data_list: list of images; default: the run's test list.
        inputs: image files, or folders of them, instead of a list.
        data_root: folder that relative paths in the list start from; default: the run's.
        pred_invert: ``on``, ``off`` or ``auto``, as validation decided.
        tta: average the scores of the eight flips and rotations.
        recalibrate_norm: count the statistics of batch norm anew on these images.
        batch_size: images of 256×256 at once, others count by their area; default: by the device.
        tile, overlap: images with a longer side are predicted in tiles of this side, with at least this overlap.
        precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``: fp32 if the run was told so, else by the device.
        engine: what computes, a key of ``evaluation.model_formats.ENGINES``; all but ``torch`` need an export.
        masks: also write 8-bit masks.
        overlays: number of images of which panels are written.
        save_scores: K classes: also write the scores of every class.
        spread: also write the standard deviation of the scores of all runs, flips and rotations.
        calibrate: put scores right by Platt scaling, fitted on the run's validation images; masks stay the same.
        channels: of the images, by number or OME name; default: the run's.
        label_map: what values of labels mean; default: as the run decided.
        instances: also write the objects told apart by a method of `evaluation.objects.INSTANCES`, and their tables.
        min_area: of these objects, in pixels; smaller ones are left out.
        out: the folder to write to; default: one of the input's own below ``results/``.
    Returns: the folder with ``pred/`` and ``predictions.json``.
    Raises:
        UserError: no such run or checkpoint, settings that do not fit; or images that cannot be read, when the maps of
            the others are complete.
    """
    (home, runs), target = find_members(train_dir, ensemble), torch.device(choose_device(device))
    networks, checkpoints, epochs = zip(*(load_network(run, which, target) for run in runs), strict=True)
    is_joint = len(runs) > 1
    checkpoint = joint_decisions(home, runs, checkpoints) if is_joint else checkpoints[0]
    config = checkpoint["config"]
    data_root = data_root or config.get("data_root")
    source = choose_images(config, data_list, inputs, data_root)
    tell_changes(runs)
    settings = decide_settings(
        checkpoint, pred_invert, masks=masks, save_scores=save_scores, channels=channels, label_map=label_map
    )
    settings = replace(settings, spread=spread)
    if calibrate:
        from evaluation.prediction.calibration import calibrated, fit_calibration, validation_list

        judged = predict_run(
            train_dir,
            which,
            ensemble=ensemble,
            data_list=validation_list(config.get("val_list"), settings.num_classes),
            data_root=data_root,
            pred_invert=pred_invert,
            tta=tta,
            recalibrate_norm=recalibrate_norm,
            tile=tile,
            overlap=overlap,
            device=device,
            precision=precision,
            engine=engine,
            channels=channels,
            label_map=label_map,
        )
        settings = calibrated(settings, fit_calibration(judged))
    pictures, failed = make_pictures(source, settings, overlays)
    precision = used_precision(precision, config, target)
    inputs = [*source.inputs, *(f"with {display_path(run)}" for run in runs[1:])]
    folder = choose_folder(out, home, "ensemble" if is_joint else f"epoch_{epochs[0]}", source.ending, inputs)
    if recalibrate_norm:
        for network in networks:
            recalibrate(network, pictures, settings, device=target, precision=precision, engine=engine)
    predictors = [
        choose_predictor(network, target, precision, tta=tta, engine=engine, run=run, checkpoint=which)
        for network, run in zip(networks, runs, strict=True)
    ]
    predictor = join_predictors(predictors, checkpoints, spread) if is_joint or spread else predictors[0]
    precision = predictor.precision
    how = {"tta": tta, "precision": precision, "tile": tile, "overlap": overlap, "device": str(target)}
    how |= {"engine": engine, "recalibrate_norm": recalibrate_norm}
    files = [find_checkpoint(run, which) for run in runs]
    origin = {
        "run": display_path(home),
        "epoch": epochs[0],
        "list": None if source.list_path is None else display_path(source.list_path),
        "input": inputs,
        "dataset": config["dataset"],
        "data_root": data_root,
        "checkpoint": display_path(files[0]),
    }
    if is_joint:
        origin |= {"runs": [display_path(run) for run in runs], "epochs": epochs}
    images = describe_images([split_plane(picture.image)[0] for picture in pictures])
    counted_on = images if recalibrate_norm else None  # other images would give these another map
    job = describe_job(files, inputs, how=how, settings=asdict(settings), images=images, counted_on=counted_on)
    finished = find_finished(folder, pictures, settings, source=source, job=job)
    with open_results(folder, pictures, settings, job, finished=finished) as partial:
        started = time.monotonic()
        left = [picture for picture in pictures if whole_file(picture.image, source.stacks) not in finished]
        tell_finished(len(pictures) - len(left), len(left))
        batch = batch_size or BATCH_SIZE[target.type]
        with watching_own(predictor.network, checkpoint) as watched:
            sizes = {"batch_size": batch, "tile": tile, "overlap": overlap}
            failed |= write_maps(partial, left, settings, predictor, **sizes, watch=watched and watched[1])
            kept = [picture for picture in left if picture.image not in failed]
            kinds = {} if watched is None else measure_unlikeness(*watched, kept, settings, predictor)
        unlike = recorded_unlike(folder, finished) | unlike_files(kinds, source.stacks)
        pictures, stacks = join_stacks(partial, pictures, source.stacks, failed=failed, finished=finished)
        record = {**origin, **how, **describe_course(len(left), time.monotonic() - started, target, failed)}
        record |= describe_maps(pictures, settings, stacks) | ({"unlike": unlike} if unlike else {})
        if instances is not None:
            record["instances"] = {"method": instances, "min_area": min_area}
            record["instances"]["objects"] = measure_objects(partial, pictures, stacks, settings, record, failed)
        write_json(partial / PREDICTIONS.record, {**record, "job": job_digest(job), "images": images})
    print(summarize(pictures, folder, record), flush=True)
    for line in describe_unlike(unlike, kinds):
        print(line, flush=True)
    if failed:
        raise UserError(failure_text(failed, len(pictures)))
    return folder


def used_precision(asked: str, config: dict[str, Any], device: torch.device) -> str:
    """The arithmetic of a prediction: as asked, and for ``auto`` fp32 if the run was told so, else by the device."""
    told_fp32 = asked == "auto" and config.get("precision") == "fp32"
    return "fp32" if told_fp32 else choose_precision(asked, device)


def choose_predictor(
    network: nn.Module, device: torch.device, precision: str, *, tta: bool, engine: str, run: Path, checkpoint: str
) -> Predictor:
    """What computes scores: the network itself, or an export of the run's checkpoint in another engine."""
    if engine == "torch":
        return Predictor(fold_batch_norms(network), device, precision, augment=tta)
    from evaluation.prediction.engines import load_engine

    return load_engine(engine, run, find_checkpoint(run, checkpoint), device=device, precision=precision, tta=tta)


def tell_changes(runs: Sequence[Path]) -> None:
    """Say which data have changed since the runs read them."""
    lines = [
        line for run in runs for line in describe_changes(changes(read_fingerprint(run / FINGERPRINT) or {})[0], [], [])
    ]
    for line in dict.fromkeys(lines):
        print(f"note: {line}", flush=True)


def choose_folder(out: Path | None, run: Path, name: str, ending: str, inputs: Sequence[str]) -> Path:
    """The folder given, if it holds nothing else, or the input's own below the run's ``results/``."""
    if out is None:
        return result_folder(run, name, ending, inputs)
    check_chosen_folder(out, run, inputs)
    return out


def find_finished(
    folder: Path, pictures: Sequence[Picture], settings: MapSettings, *, source: Source, job: dict[str, Any]
) -> dict[Path, list[str]]:
    """The files, a stack as one, whose results in ``folder`` are those of this very prediction: their names there."""
    wanted: dict[Path, list[str]] = defaultdict(list)
    for picture in pictures:
        wanted[whole_file(picture.image, source.stacks)] += map(joined_name, settings.files(picture))
    for picture in pictures:
        if picture.overlay:  # with its label, which may have changed
            wanted.pop(whole_file(picture.image, source.stacks), None)
    return finished_results(folder, wanted, job["images"], digest=job_digest(job))


@contextmanager
def open_results(
    folder: Path,
    pictures: Sequence[Picture],
    settings: MapSettings,
    job: dict[str, Any],
    *,
    finished: Mapping[Path, Sequence[str]],
) -> Iterator[Path]:
    """The folder to write in, which replaces the results in ``folder`` at the end; metrics of those go.

    Args:
        finished: what `find_finished` told; it is taken over, and where that is all, metrics stay.
    """
    written = {joined_name(name) for picture in pictures for name in settings.files(picture)}
    is_same = finished.keys() == {Path(path) for path in recorded_images(folder)} and len(finished) == len(
        job["images"]
    )
    outdated = [] if is_same else [METRICS, COMPARISON]
    with replaced_output(
        folder, PREDICTIONS, expected=written, earlier=earlier_files(folder), outdated=outdated, job=job
    ) as partial:
        keep_finished(folder, partial, [name for names in finished.values() for name in names])
        yield partial


def measure_objects(
    folder: Path,
    pictures: Sequence[Picture],
    stacks: Mapping[Path, PlaneStack],
    settings: MapSettings,
    record: dict[str, Any],
    failed: dict[Path, str],
) -> int:
    """Write the objects of all maps as the record says; what cannot be measured is added to ``failed``."""
    from evaluation.prediction.instances import Measuring, ObjectSettings, write_instances

    how = ObjectSettings(record["instances"]["method"], record["instances"]["min_area"])
    maps = {whole_file(picture.image, stacks): whole_map(picture.name) for picture in pictures}
    count, unmeasured = write_instances(Measuring(folder, stacks, settings, how), maps)
    failed.update(unmeasured)
    return count


def tell_finished(finished: int, left: int) -> None:
    """Say how many images need not be predicted again."""
    if finished:
        print(f"{finished} of {finished + left} images are predicted already, by this checkpoint and in this way")


def write_maps(
    folder: Path,
    pictures: Sequence[Picture],
    settings: MapSettings,
    predictor: Predictor,
    *,
    batch_size: int,
    tile: int,
    overlap: int,
    watch: Watch | None = None,
) -> dict[Path, str]:
    """Predict the pictures into ``folder``; the images that failed, with the reason."""
    megapixels = sum(math.prod(picture.size) for picture in pictures) / MEGAPIXEL
    is_large = any(math.prod(picture.size) >= LARGE * MEGAPIXEL for picture in pictures)
    how = (megapixels, "predicting", "megapixel") if is_large else (len(pictures), "predicting")
    with Progress(*how) as progress:
        failed = predict_pictures(
            predictor,
            pictures,
            settings,
            folder=folder,
            batch_size=batch_size,
            window=tile,
            overlap=overlap,
            progress=progress,
            watch=watch,
        )
    return {picture.image: reason for picture, reason in failed.items()}


def join_stacks(
    folder: Path,
    pictures: Sequence[Picture],
    stacks: Mapping[Path, PlaneStack],
    *,
    failed: Mapping[Path, str],
    finished: Container[Path],
) -> tuple[list[Picture], dict[Path, PlaneStack]]:
    """Make one map of a stack's planes, unless it is ``finished``; of a stack every plane is kept, or none.

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
    left = {path: stack for path, stack in whole.items() if path not in finished}
    join_planes(folder, {picture.image: picture.name for picture in kept}, left)
    return kept, whole
