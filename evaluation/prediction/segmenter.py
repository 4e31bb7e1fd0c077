"""Prediction from Python: arrays or files in, scores and masks out, as ``evaluation/inference.py`` computes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.arrays import OF_ITEMS, as_array, as_read, check_iterable, holds_several, is_file, is_in_memory
from datasets.image_io import read_image
from evaluation.prediction.members import BATCH_SIZE, Members
from evaluation.prediction.predictor import Predictor, check_finite, images_per_batch
from evaluation.prediction.settings import MapSettings, decide_settings
from evaluation.prediction.stacks import find_stacks, plane_paths
from evaluation.prediction.tiling import ReadRows, predict_bands
from utils.background import read_ahead
from utils.cli import UserError, channel_names
from utils.run_folder import display_path

Image = np.ndarray | torch.Tensor | str | os.PathLike[str]  # also all else that `datasets.arrays` takes
READERS = 4  # threads


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image.

    Args:
        scores: in [0, 1], after inversion, float32 (H, W); of K classes (K, H, W), those of the noisy labels
            where the run's card says so.
        mask: uint8 (H, W), 0/1 at the run's threshold and mask offset; of K classes their indices, with known label
            noise undone.
    """

    scores: np.ndarray
    mask: np.ndarray


class _Opened(NamedTuple):
    """An image that was read: what errors call it, its size, its rows as the network takes them."""

    name: str
    size: tuple[int, int]
    rows: ReadRows


@dataclass(frozen=True)
class Segmenter:
    """A trained run that predicts arrays and files; make one with `load`.

    Args:
        predictor: images to scores.
        settings: how images become network input and scores become masks.
        batch_size: images of 256×256 at once, others count by their area.
        tile, overlap: images with a longer side are predicted in tiles of this side, with at least this overlap.
    """

    predictor: Predictor = field(repr=False)  # a page of layers
    settings: MapSettings
    batch_size: int
    tile: int = 512
    overlap: int = 64

    @classmethod
    def load(
        cls,
        run: str | Path,
        checkpoint: str | int = "best",
        device: str = "auto",
        precision: str = "auto",
        *,
        engine: str = "torch",
        tta: bool = False,
        tile: int = 512,
        overlap: int = 64,
        batch_size: int | None = None,
        pred_invert: str = "auto",
        threshold: float | None = None,
        channels: str | int | Iterable[str | int] = (),
        ensemble: Sequence[str | Path] = (),
    ) -> Segmenter:
        """Load a run's network; the arguments are those of ``evaluation/inference.py``.

        Args:
            run: run folder, a path or ``<dataset>/<run>``; that of a cross-fit stands for all of its runs.
            checkpoint: ``best``, ``last`` or the number of a completed epoch.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
            engine: what computes, a key of ``model_formats.ENGINES``; all but ``torch`` need an export.
            tta: average the scores of the eight flips and rotations.
            tile, overlap, batch_size: see the class.
            pred_invert: ``auto``, as validation decided, ``on`` or ``off``.
            threshold: scores at or above it are foreground, and no outline is moved; default: the run's own.
            channels: to read from files, by number or OME name; default: the run's.
            ensemble: further runs, whose scores are averaged with this one's.
        Raises:
            UserError: no such run or checkpoint, or settings that do not fit.
        """
        check_numbers({"tile": tile, "overlap": overlap, "batch_size": batch_size}, Integral, "a whole number")
        check_numbers({"threshold": threshold}, Real, "a number")
        if tile < 1 or not 0 <= 2 * overlap <= tile:
            raise UserError(f"overlap {overlap} must be at least 0 and at most half of the tile, {tile}, of 1 or more")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size {batch_size} must be at least 1, or None")
        others = (ensemble,) if isinstance(ensemble, (str, Path)) else ensemble
        members = Members.load(
            run, str(checkpoint), ensemble=others, device=device, precision=precision, engine=engine, tta=tta
        )
        settings = decide_settings(members.decisions, pred_invert, channels=channel_names(channels))
        if threshold is not None:
            if not 0 <= threshold <= 1:
                raise UserError(f"threshold {threshold} must be a number from 0 to 1")
            if settings.num_classes > 1:
                raise UserError(f"threshold {threshold} is for scores of two classes; this run has several")
            settings = replace(settings, threshold=float(threshold), offset=0.0)  # which belongs to the run's own
        return cls(members.predictor(), settings, batch_size or BATCH_SIZE[members.device.type], tile, overlap)

    def predict(self, x: Image | Iterable[Image]) -> Prediction | list[Prediction] | Iterator[Prediction]:
        """Predict an image, several, or a stream of them.

        Args:
            x: an image, as an array (H, W), (H, W, C) or (C, H, W) of any type, a tensor, a picture of Pillow, or as a
                file, ``::N`` behind it for a plane; a file of several planes counts as several images. Several: a list,
                or an array with one axis more. Of three axes, the last are channels where it is too short for columns
                or as long as the run reads channels, else the first where the run reads so many, more than one. A
                generator is read as far ahead as a batch needs.
        Returns: a `Prediction`; of several images a list of them, of a generator a generator.
        Raises:
            UserError: an image that cannot be read, has not the run's channels or holds NaN; it is named.
        """
        if is_file(x):
            path = Path(x)
            if path.is_dir():
                raise UserError(
                    f"{display_path(path)} is a folder: give its files, sorted(Path({str(path)!r}).iterdir())"
                )
            stacks = find_stacks([path], self.settings.in_channels) if path.is_file() else {}  # no plane of a stack
            planes = plane_paths([path], stacks)
            return self.predict(planes) if planes != [path] else next(self._stream([path]))
        if is_in_memory(x):
            values = as_array(x, "x")
            if values.dtype.kind in OF_ITEMS and values.ndim < 2:
                return self.predict(values.tolist())
            if not holds_several(values.shape, self.settings.in_channels):
                return next(self._stream([values]))
            return list(self._stream(values, f" of the array {values.shape}"))
        check_iterable(x)
        if isinstance(x, Sequence):
            return list(self._stream(x))
        return self._stream(  # a copy, since an iterator may fill one array again and again
            image if is_file(image) else np.array(as_array(image, f"image {number}")) for number, image in enumerate(x)
        )

    def _stream(self, images: Iterable[Image], of: str = "") -> Iterator[Prediction]:
        """Predict images one after the other; ``of`` says in errors what they are parts of."""
        ahead = images_per_batch(self.batch_size, 256, 256)
        named = zip((f"image {number}{of}" for number in count()), images, strict=False)
        for batch in self._batches(read_ahead(self._open, named, ahead=ahead, workers=READERS)):
            if len(batch) == 1 and max(batch[0].size) > self.tile:
                found = [self._tiled_scores(batch[0])]
            else:
                inputs = torch.stack([image.rows(0, image.size[0]) for image in batch])
                found = list(self.predictor(inputs).cpu().numpy())
            yield from (self._finish(image, scores) for image, scores in zip(batch, found, strict=True))

    def _open(self, item: tuple[str, Image]) -> _Opened:
        (name, image), settings = item, self.settings
        if is_file(image):
            name = display_path(Path(image))
            values = read_image(Path(image), settings.in_channels, settings.channels)
        else:
            values = as_read(as_array(image, name), settings.in_channels, name, settings.channels)
        return _Opened(name, (values.shape[0], values.shape[1]), settings.scaled_rows(values))

    def _batches(self, opened: Iterator[_Opened]) -> Iterator[list[_Opened]]:
        """Neighbours of one size, as many as a batch holds; larger than a tile each by itself."""
        batch: list[_Opened] = []
        for image in opened:
            most = 1 if max(image.size) > self.tile else images_per_batch(self.batch_size, *image.size)
            if batch and (batch[0].size != image.size or len(batch) >= most):
                yield batch
                batch = []
            batch.append(image)
        if batch:
            yield batch

    def _tiled_scores(self, image: _Opened) -> np.ndarray:
        tiles = images_per_batch(self.batch_size, self.tile, self.tile)
        bands = predict_bands(
            self.predictor,
            image.rows,
            image.size,
            window=self.tile,
            overlap=self.overlap,
            batch=tiles,
            device=self.predictor.device,
        )
        return torch.cat([scores for _, scores in bands], dim=1).cpu().numpy()

    def _finish(self, image: _Opened, scores: np.ndarray) -> Prediction:
        check_finite(scores, image.name)
        result = self.settings.to_map(scores)
        binary = self.settings.num_classes == 1
        return Prediction(result if binary else scores, self.settings.to_mask(result).astype(np.uint8, copy=False))


def check_numbers(given: dict[str, Any], kind: type, expected: str) -> None:
    """Raise a UserError that names what is given and neither of this kind of numbers nor None."""
    for name, value in given.items():
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise UserError(f"{name} {value!r} must be {expected}")
