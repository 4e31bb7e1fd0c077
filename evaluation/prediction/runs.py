"""Predicting images with a trained run: the checkpoint, the images, their maps and the record of both."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets.image_files import PlaneStack, split_plane
from evaluation.prediction import other_labs
from evaluation.prediction.members import BATCH_SIZE, Members
from evaluation.prediction.pictures import MEGAPIXEL, predict_pictures
from evaluation.prediction.plan import Plan, known_files, make_plan, planned_validation
from evaluation.prediction.predictor import Predictor
from evaluation.prediction.record import describe_course, describe_maps, failure_text, summarize
from evaluation.prediction.result_folders import (
    describe_images,
    describe_job,
    describe_results,
    finished_results,
    job_digest,
    keep_finished,
    recorded_images,
)
from evaluation.prediction.settings import MapSettings, Picture, decide_settings
from evaluation.prediction.sources import Source, choose_images
from evaluation.prediction.stacks import drop_planes, join_planes, joined_name, whole_file, whole_map
from evaluation.prediction.unlikeness import Watch
from evaluation.scores.map_folder import COMPARISON, METRICS, PREDICTIONS
from utils.cli import Progress, UserError
from utils.errors import told_with
from utils.files import write_json
from utils.fingerprint import FINGERPRINT, changes, describe_changes, read_fingerprint
from utils.output_folder import replaced_output
from utils.run_folder import display_path

LARGE = 4  # megapixels of an image from which on progress is told in megapixels


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
        engine: what computes, a key of ``model_formats.ENGINES``; all but ``torch`` need an export.
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
    members = Members.load(
        train_dir, which, ensemble=ensemble, device=device, precision=precision, engine=engine, tta=tta
    )
    if save_scores and members.config["num_classes"] == 1:
        raise UserError("--save_scores does nothing for two classes, whose maps are the scores: leave it out")
    data_root = data_root or members.config.get("data_root")
    source = choose_images(members.config, data_list, inputs, data_root)
    tell_changes(members.runs)
    plain = decide_settings(members.decisions, pred_invert, channels=channels, label_map=label_map)
    settings = replace(plain, masks=masks, save_scores=save_scores, spread=spread)
    plan = make_plan(members, source, settings, overlays=overlays, out=out)
    batch_size = batch_size or BATCH_SIZE[members.device.type]
    shared = {"recalibrate_norm": recalibrate_norm, "batch_size": batch_size, "tile": tile, "overlap": overlap}
    predict = partial(predict_source, members, data_root=data_root, **shared)
    if calibrate:
        from evaluation.prediction.calibration import calibrated, fit_calibration, validation_list

        val_list = validation_list(members.config.get("val_list"), plain.num_classes)
        with told_with("--calibrate needs the run's validation images", "Put them back, or leave --calibrate out"):
            validation = choose_images(members.config, val_list, (), data_root)
        with planned_validation(members, validation, plain, has_place=out is not None) as validated:
            judged = predict(validated, plain)
            settings = calibrated(settings, fit_calibration(judged, members.config.get("val_labels") == "noisy"))
    return predict(plan, settings, objects=None if instances is None else (instances, min_area))


def predict_source(
    members: Members,
    plan: Plan,
    settings: MapSettings,
    *,
    data_root: str | None,
    recalibrate_norm: bool,
    batch_size: int,
    tile: int,
    overlap: int,
    objects: tuple[str, int] | None = None,
) -> Path:
    """Predict images with loaded runs, write what the settings say and record it; see `predict_run`.

    Args:
        objects: method and least area of the objects that are told apart, if they are.
    """
    source, inputs, folder, pictures, failed = plan.source, plan.inputs, plan.folder, plan.pictures, plan.failed
    if recalibrate_norm:
        members.recalibrate(pictures, settings)
    predictor = members.predictor(settings.spread)
    how = {"tta": members.tta, "precision": predictor.precision, "tile": tile, "overlap": overlap}
    how |= {"device": str(members.device), "engine": members.engine, "recalibrate_norm": recalibrate_norm}
    images = describe_images([split_plane(picture.image)[0] for picture in pictures])
    counted_on = images if recalibrate_norm else None  # other images would give these another map
    job = describe_job(members.files, inputs, how=how, settings=asdict(settings), images=images, counted_on=counted_on)
    finished = find_finished(folder, pictures, settings, source=source, job=job)
    with open_results(folder, pictures, settings, job, finished=finished) as partial_folder:
        started = time.monotonic()
        left = [picture for picture in pictures if whole_file(picture.image, source.stacks) not in finished]
        tell_finished(len(pictures) - len(left), len(left))
        sizes = {"batch_size": batch_size, "tile": tile, "overlap": overlap}
        with other_labs.watching_own(predictor.network, members.decisions) as watched:
            failed |= write_maps(partial_folder, left, settings, predictor, **sizes, watch=watched and watched[1])
            kept = [picture for picture in left if picture.image not in failed]
            kinds = {} if watched is None else other_labs.measure_unlikeness(*watched, kept, settings, predictor)
        unlike = other_labs.recorded_unlike(folder, finished) | other_labs.unlike_files(kinds, source.stacks)
        pictures, stacks = join_stacks(partial_folder, pictures, source.stacks, failed=failed, finished=finished)
        record = {**members.describe(), "list": source.list_path and display_path(source.list_path)}
        record |= {"in_run": folder.parent.resolve() == (members.home / "results").resolve()}
        record |= {"input": inputs, "data_root": data_root, **how}
        record |= describe_course(len(left), time.monotonic() - started, members.device, failed)
        record |= describe_maps(pictures, settings, stacks) | ({"unlike": unlike} if unlike else {})
        if objects is not None:
            record["instances"] = measure_objects(partial_folder, pictures, stacks, settings, objects, failed)
        record |= {"job": job_digest(job), "images": images, "results": describe_results(partial_folder)}
        write_json(partial_folder / PREDICTIONS.record, record)
    for line in (summarize(pictures, folder, record), *other_labs.describe_unlike(unlike, kinds)):
        print(line, flush=True)
    if failed:
        raise UserError(failure_text(failed, len(pictures)))
    return folder


def tell_changes(runs: Sequence[Path]) -> None:
    """Say which data have changed since the runs read them."""
    lines = [
        line for run in runs for line in describe_changes(changes(read_fingerprint(run / FINGERPRINT) or {})[0], [], [])
    ]
    for line in dict.fromkeys(lines):
        print(f"note: {line}", flush=True)


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
    is_same = finished.keys() == {Path(path) for path in recorded_images(folder)} and len(finished) == len(
        job["images"]
    )
    outdated = [] if is_same else [METRICS, COMPARISON]
    known = known_files(folder, pictures, settings)
    with replaced_output(folder, PREDICTIONS, **known, outdated=outdated, job=job) as partial:
        keep_finished(folder, partial, [name for names in finished.values() for name in names])
        yield partial


def measure_objects(
    folder: Path,
    pictures: Sequence[Picture],
    stacks: Mapping[Path, PlaneStack],
    settings: MapSettings,
    objects: tuple[str, int],
    failed: dict[Path, str],
) -> dict[str, Any]:
    """Write the objects of all maps and record how many; what cannot be measured is added to ``failed``."""
    from evaluation.prediction.instances import Measuring, ObjectSettings, write_instances

    how = ObjectSettings(*objects)
    maps = {whole_file(picture.image, stacks): whole_map(picture.name) for picture in pictures}
    count, unmeasured = write_instances(Measuring(folder, stacks, settings, how), maps)
    failed.update(unmeasured)
    return {**asdict(how), "objects": count}


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
