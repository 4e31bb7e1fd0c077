"""The maps of pictures on disk; reading, computing and writing overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from datasets.image_io import read_image, read_label, write_image, write_label, write_scores
from datasets.image_scale import read_scale
from evaluation.prediction.predictor import Predictor, check_finite, images_per_batch
from evaluation.prediction.score_maps import band_writer, memory_map
from evaluation.prediction.settings import MapSettings, Picture
from evaluation.prediction.tiling import predict_bands
from utils.background import WriterPool, in_background, read_ahead
from utils.cli import Progress, UserError
from utils.device import pinned
from utils.overlays import panels
from utils.run_folder import display_path

if TYPE_CHECKING:
    from evaluation.prediction.unlikeness import Watch

Result = TypeVar("Result")
MEGAPIXEL = 10**6


def predict_pictures(
    predictor: Predictor,
    pictures: Sequence[Picture],
    settings: MapSettings,
    folder: Path,
    *,
    batch_size: int = 16,
    window: int = 512,
    overlap: int = 64,
    workers: int = 4,
    progress: Progress,
    watch: Watch | None = None,
) -> dict[Picture, str]:
    """Write ``pred/<name>.tif`` of every picture below ``folder``, and masks/, scores/ and overlays/ where asked for.

    What has all its files already is left as it is. A picture that cannot be read, or whose scores are not finite,
    costs no other one.

    Args:
        batch_size: images of 256×256 at once; larger ones count by their area.
        window: images with a longer side are predicted in tiles of this side.
        overlap: least overlap of neighbouring tiles.
        workers: threads that read, and as many that write.
        watch: of the network, is told which picture it saw as a whole.
    Returns: the pictures that failed, with the reason.
    """
    done = [picture for picture in pictures if all((folder / name).is_file() for name in settings.files(picture))]
    _advance(progress, done)
    batches, large = batches_by_size([picture for picture in pictures if picture not in set(done)], batch_size, window)
    device, failed = predictor.device, {}

    def read_batch(batch: Sequence[Picture]) -> tuple[list[Picture], Tensor | None]:
        opened = {picture: _tried(settings.network_input, [picture], failed) for picture in batch}
        images = {picture: image for picture, image in opened.items() if image is not None}
        return list(images), pinned(torch.cat(list(images.values())), device) if images else None

    with WriterPool(workers, ahead=2 * workers) as writer:
        for batch, images in read_ahead(read_batch, batches, ahead=workers, workers=workers):
            if images is not None:
                scores = predictor(images)
                if watch is not None:
                    watch.note(batch)
                writer.submit(_save_batch, scores, batch, settings, folder, failed)
                _advance(progress, batch)
    count = images_per_batch(batch_size, window, window)
    opened = read_ahead(lambda picture: _tried(settings.open_rows, picture, failed), large, ahead=1, workers=1)
    for picture, read_rows in zip(large, opened, strict=True):
        if read_rows is None:
            continue
        bands = predict_bands(
            predictor, read_rows, picture.size, window=window, overlap=overlap, batch=count, device=device
        )
        try:
            _save_large(in_background(bands), picture, settings, folder=folder, progress=progress)
        except UserError as error:
            failed[picture] = str(error)
        if watch is not None:
            watch.passes.clear()  # of tiles, which are no images
        if progress.unit != "megapixel":
            progress.update()
    return failed


def batches_by_size(
    pictures: Sequence[Picture], batch_size: int, window: int
) -> tuple[list[list[Picture]], list[Picture]]:
    """Deal out pictures to batches of one size each; those larger than ``window`` are left for tiling."""
    by_size: dict[tuple[int, int], list[Picture]] = {}
    for picture in pictures:
        by_size.setdefault(picture.size, []).append(picture)
    batches, large = [], []
    for size, group in by_size.items():
        if max(size) > window:
            large += group
            continue
        count = images_per_batch(batch_size, *size)
        batches += [group[start : start + count] for start in range(0, len(group), count)]
    return batches, large


def _advance(progress: Progress, pictures: Sequence[Picture]) -> None:
    """Tell progress in whatever it counts, images or megapixels."""
    is_area = progress.unit == "megapixel"
    progress.update(sum(math.prod(picture.size) for picture in pictures) / MEGAPIXEL if is_area else len(pictures))


def _tried(read: Callable[[Any], Result], what: Any, failed: dict[Picture, str]) -> Result | None:
    """What ``read`` returns; None, and the reason kept, where the picture ``what``, or the one in it, is broken."""
    try:
        return read(what)
    except UserError as error:
        failed[what[0] if isinstance(what, list) else what] = str(error)
        return None


def _save_batch(
    scores: Tensor, batch: Sequence[Picture], settings: MapSettings, folder: Path, failed: dict[Picture, str]
) -> None:
    for picture, picture_scores in zip(batch, scores.cpu().numpy(), strict=True):
        try:
            check_finite(picture_scores, display_path(picture.image))
        except UserError as error:
            failed[picture] = str(error)
            continue
        scale, spread = read_scale(picture.image), picture_scores[settings.num_classes :]
        picture_scores = picture_scores[: settings.num_classes]
        result = settings.to_map(picture_scores)
        write = write_scores if settings.num_classes == 1 else write_image
        write(folder / "pred" / f"{picture.name}.tif", result, scale)
        if settings.writes_scores:
            write_scores(folder / "scores" / f"{picture.name}.tif", picture_scores, scale)
        if settings.spread:
            write_scores(folder / "spread" / f"{picture.name}.tif", spread[0], scale)
        _save_pictures(result, picture, settings, folder)


def _save_large(
    bands: Iterator[tuple[int, Tensor]], picture: Picture, settings: MapSettings, *, folder: Path, progress: Progress
) -> None:
    """As `_save_batch`, band by band, so that the scores of a huge image never lie in memory as a whole."""
    target = folder / "pred" / f"{picture.name}.tif"
    scale = read_scale(picture.image)
    with ExitStack() as files:
        dtype = "float32" if settings.num_classes == 1 else "uint8"
        write_map = files.enter_context(band_writer(target, picture.size, dtype, scale))
        write_all = write_spread = None
        if settings.spread:
            place = folder / "spread" / f"{picture.name}.tif"
            write_spread = files.enter_context(band_writer(place, picture.size, "float32", scale))
        if settings.writes_scores:
            source, shape = folder / "scores" / f"{picture.name}.tif", (settings.num_classes, *picture.size)
            write_all = files.enter_context(band_writer(source, shape, "float32", scale))
        for top, scores in bands:
            rows = scores.cpu().numpy()
            check_finite(rows, display_path(picture.image))
            if write_spread is not None:
                write_spread(top, rows[settings.num_classes])
            rows = rows[: settings.num_classes]
            result = settings.to_map(rows)
            write_map(top, result)
            if write_all is not None:
                write_all(top, rows)
            if progress.unit == "megapixel":
                progress.update(rows[0].size / MEGAPIXEL)
    _save_pictures(memory_map(target), picture, settings, folder)


def _save_pictures(result: np.ndarray, picture: Picture, settings: MapSettings, folder: Path) -> None:
    if settings.masks:
        write_label(folder / "masks" / f"{picture.name}.png", settings.to_mask(result), settings.num_classes)
    if picture.overlay:
        image = read_image(picture.image, settings.in_channels, settings.channels)
        how = (settings.num_classes, settings.ignore_index, settings.reading)
        label = picture.label and read_label(picture.label, *how)
        moved = settings.to_mask(result) if settings.offset else None
        view = panels(image, label, result, settings.threshold, settings.num_classes, mask=moved)
        write_image(folder / "overlays" / f"{picture.name}.png", view)
