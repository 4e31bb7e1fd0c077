"""The scores of batches of images, and their maps on disk; reading, computing and writing overlap."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from datasets.image_io import read_image, read_label, write_image, write_label, write_scores
from datasets.image_scale import read_scale
from datasets.label_values import LabelReading
from datasets.transforms import NORMALIZATIONS, prepare
from datasets.transition_matrix import ScoreDecoder
from evaluation.prediction.score_maps import MAP_FILES, band_writer, memory_map
from evaluation.prediction.tiling import ReadRows, predict_bands
from evaluation.scores.mask_offset import offset_mask
from models import build_network, to_scores
from utils.background import WriterPool, in_background, read_ahead
from utils.checkpoint import load_checkpoint
from utils.cli import Progress, UserError
from utils.device import autocast, pinned
from utils.overlays import panels
from utils.run_folder import display_path

if TYPE_CHECKING:
    from evaluation.prediction.unlikeness import Watch
    from evaluation.scores.platt import PlattScaling

Result = TypeVar("Result")
MEGAPIXEL = 10**6
ROTATIONS = [(turns, flip) for flip in (False, True) for turns in range(4)]


def find_checkpoint(run: Path, which: str) -> Path:
    """The checkpoint of a run: ``best``, ``last`` or the number of a completed epoch.

    Raises:
        UserError: there is no such checkpoint; the message lists those that exist.
    """
    folder = run / "checkpoints"
    number = re.fullmatch(r"(?:epoch_)?0*(\d+)", which)
    path = folder / (f"epoch_{number[1]}.pth" if number else f"{which}.pth")
    if (number or which in ("best", "last")) and path.is_file():
        return path
    unnumbered = [folder / f"{name}.pth" for name in ("last", "best") if (folder / f"{name}.pth").is_file()]
    for candidate in unnumbered:
        if number and load_checkpoint(candidate)["epoch"] == int(number[1]):
            return candidate
    names = (re.fullmatch(r"epoch_(\d+)\.pth", file.name) for file in folder.iterdir())
    epochs = sorted(int(name[1]) for name in names if name)
    known = ", ".join([*map(str, epochs), *(path.stem for path in unnumbered)])
    raise UserError(
        f"{display_path(run)} has no checkpoint {which!r}; "
        + (f"--test_ckpt_epoch can be: {known}" if known else "it has none yet: its training ended before an epoch did")
    )


def load_network(
    run: Path, which: str = "best", device: str | torch.device = "cpu"
) -> tuple[nn.Module, dict[str, Any], int]:
    """Rebuild the network of a run as it was at a checkpoint.

    Args:
        run: the run folder.
        which: ``best``, ``last`` or the number of a completed epoch.
        device: where the network goes.
    Returns: the network in evaluation mode, the checkpoint (on the CPU), the completed epoch.
    Raises:
        UserError: no such checkpoint, a broken one, or weights that do not fit the network it names.
    """
    path = find_checkpoint(run, which)
    checkpoint = load_checkpoint(path)
    config = checkpoint["config"]
    try:
        # Pretrained weights would only be fetched to be overwritten.
        options = {name: value for name, value in config["network_options"].items() if name != "pretrained"}
        network = build_network(config["network"], config["in_channels"], config["num_classes"], **options)
        network.load_state_dict(checkpoint["model"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{display_path(path)} does not hold the network that its config names: {reason}") from None
    check_finite_weights(network, path)
    network = network.to(device).to(memory_format=memory_format(torch.device(device)))
    return network.eval(), checkpoint, int(checkpoint["epoch"])


def check_finite_weights(network: nn.Module, path: Path) -> None:
    """Raise a UserError where a weight or running statistic is NaN or infinite."""
    broken = [name for name, value in network.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{display_path(path)} holds weights that are not finite ({broken[0]}): take an earlier checkpoint"
        )


def memory_format(device: torch.device) -> torch.memory_format:
    """How activations are laid out: channels last (a U-Net of width 16 on a CPU: 79 instead of 118 ms an image).

    MPS keeps torch's default.
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


@dataclass(frozen=True)
class Predictor:
    """The scores of a batch of images.

    Args:
        network: in evaluation mode, on ``device``.
        precision: ``fp32``, or ``bf16`` or ``fp16`` for autocast.
        augment: average the scores of the eight flips and rotations.
    """

    network: nn.Module
    device: torch.device
    precision: str = "fp32"
    augment: bool = False

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images float32 (B, C, H, W) → scores float32 (B, K, H, W) on the device, which may lag behind."""
        images = images.to(self.device, non_blocking=True, memory_format=memory_format(self.device))
        if not self.augment:
            return self._scores(images)
        turned = (self._turned_scores(images, *rotation) for rotation in ROTATIONS)
        return functools.reduce(torch.add, turned) / len(ROTATIONS)

    def passes(self, images: Tensor) -> Iterator[Tensor]:
        """The scores of each of the eight flips and rotations where they are averaged, else the scores."""
        images = images.to(self.device, non_blocking=True, memory_format=memory_format(self.device))
        yield from (
            (self._turned_scores(images, *each) for each in ROTATIONS) if self.augment else [self._scores(images)]
        )

    def _turned_scores(self, images: Tensor, turns: int, flip: bool) -> Tensor:
        turned = images.flip(-1) if flip else images
        scores = self._scores(turned.rot90(turns, (-2, -1))).rot90(-turns, (-2, -1))
        return scores.flip(-1) if flip else scores

    def _scores(self, images: Tensor) -> Tensor:
        with autocast(self.device, self.precision):
            return to_scores(self.network(images))


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


def images_per_batch(batch_size: int, height: int, width: int) -> int:
    """How many images of a size take the memory of ``batch_size`` images of 256×256; at least 1."""
    return max(1, min(4 * batch_size, batch_size * 256 * 256 // (height * width)))


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to predict: its file, the name of its map without suffix, its size (H, W), its label if there is one.

    ``overlay`` asks for the panels image | label | score | error.
    """

    image: Path
    name: str
    size: tuple[int, int]
    label: Path | None = None
    overlay: bool = False


@dataclass(frozen=True)
class MapSettings:
    """How images become network input and scores become maps.

    Args:
        channels: to read, by number or OME name; empty: those that there are.
        reading: what the values of labels mean, as the run decided.
        threshold: scores at or above it are foreground, after inversion.
        offset: pixels by which the outlines of masks are moved outwards.
        invert: write 1 − score.
        decoder: K classes: what corrects scores before the argmax.
        masks: also write 8-bit masks.
        save_scores: K classes: also write the scores.
        calibration: applied to scores of two classes, after inversion; the threshold counts after it.
        spread: write the standard deviation of scores, which comes behind them as a further channel.
    """

    num_classes: int = 1
    in_channels: int = 1
    channels: tuple[str, ...] = ()
    ignore_index: int | None = None
    reading: LabelReading | None = None
    normalization: str = "zscore"
    threshold: float = 0.5
    offset: float = 0.0
    invert: bool = False
    decoder: ScoreDecoder | None = None
    masks: bool = False
    save_scores: bool = False
    spread: bool = False
    calibration: PlattScaling | None = None

    def open_rows(self, picture: Picture) -> ReadRows:
        """Decode the image; what is returned gives its rows as training saw them, made when they are asked for."""
        image = read_image(picture.image, self.in_channels, self.channels)
        if image.shape[:2] != picture.size:
            raise UserError(f"{display_path(picture.image)} is {image.shape[:2]}, its header says {picture.size}")
        return self.scaled_rows(image)

    def scaled_rows(self, image: np.ndarray) -> ReadRows:
        """The same of an image that `read_image` or `to_image` returned."""
        pixels = prepare(image, self.normalization)
        scaling = NORMALIZATIONS[self.normalization](pixels)
        return lambda top, bottom: torch.from_numpy(scaling(pixels[top:bottom]))

    def network_input(self, pictures: Sequence[Picture]) -> Tensor:
        """Images of one size as training saw them, float32 (B, C, H, W)."""
        return torch.stack([self.open_rows(picture)(0, picture.size[0]) for picture in pictures])

    def to_map(self, scores: np.ndarray) -> np.ndarray:
        """Scores float32 (K, H, W) → what is written: float32 scores (H, W), or uint8 classes (H, W) for K > 1."""
        if self.num_classes == 1:
            directed = 1 - scores[0] if self.invert else scores[0]
            return directed if self.calibration is None else self.calibration(directed)
        if self.decoder is not None:
            scores = self.decoder(scores)
        return scores.argmax(0).astype(np.uint8)

    def to_mask(self, result: np.ndarray) -> np.ndarray:
        """What `to_map` gave of a whole image → uint8 classes (H, W); binary: the mask at threshold and offset."""
        return offset_mask(result >= self.threshold, self.offset) if self.num_classes == 1 else result

    def files(self, picture: Picture) -> list[str]:
        """What is written of an image, below the folder of results, in this order."""
        wanted = {"pred": True, "scores": self.writes_scores, "spread": self.spread}
        wanted |= {"masks": self.masks, "overlays": picture.overlay}
        return [f"{kind}/{picture.name}{MAP_FILES[kind]}" for kind, is_wanted in wanted.items() if is_wanted]

    @property
    def writes_scores(self) -> bool:
        """Whether scores are written beside the maps; of binary labels the map holds them."""
        return self.save_scores and self.num_classes > 1


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


def check_finite(scores: np.ndarray, name: str) -> None:
    """Raise a UserError where a score of image ``name`` is NaN or infinite: such a map would pass for one."""
    if not np.isfinite(scores).all():
        raise UserError(
            f"{name}: the network's scores are not finite; try --precision fp32, or look at the image's values"
        )


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
        _save_pictures(
            result, settings.to_mask(result) if settings.masks else None, picture, settings=settings, folder=folder
        )


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
    result = memory_map(target)
    _save_pictures(
        result, settings.to_mask(result) if settings.masks else None, picture, settings=settings, folder=folder
    )


def _save_pictures(
    result: np.ndarray, mask: np.ndarray | None, picture: Picture, settings: MapSettings, folder: Path
) -> None:
    if mask is not None:
        write_label(folder / "masks" / f"{picture.name}.png", mask, settings.num_classes)
    if picture.overlay:
        image = read_image(picture.image, settings.in_channels, settings.channels)
        how = (settings.num_classes, settings.ignore_index, settings.reading)
        label = picture.label and read_label(picture.label, *how)
        moved = settings.to_mask(result) if settings.offset else None
        view = panels(image, label, result, settings.threshold, settings.num_classes, mask=moved)
        write_image(folder / "overlays" / f"{picture.name}.png", view)
