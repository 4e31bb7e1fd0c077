"""Predicting images that are unlike those trained on: how unlike they are is said, and batch norm can adapt to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.image_files import PlaneStack
from evaluation.prediction.predictor import Predictor
from evaluation.prediction.settings import MapSettings, Picture
from evaluation.prediction.stacks import whole_file
from evaluation.prediction.unlikeness import KINDS, OwnImages, Watch, middle, watching
from evaluation.scores.map_folder import PREDICTIONS
from models.blocks import batch_norms, re_estimate_statistics
from utils.cli import UserError, counted
from utils.files import read_json_if_whole
from utils.run_folder import display_path

IMAGES_FOR_NORM = 64  # at most
TAIL = 0.1  # of a set's images that may lie beyond the limit by chance, before it is said


def recalibrate(
    network: nn.Module,
    pictures: Sequence[Picture],
    settings: MapSettings,
    *,
    device: torch.device,
    precision: str,
    engine: str = "torch",
) -> None:
    """Count the statistics of batch norm anew on the middle of some of the pictures, each as much as any other.

    Raises:
        UserError: the network has no batch norm, or an export computes, whose statistics are fixed.
    """
    if engine != "torch":
        raise UserError(f"--recalibrate_norm changes the network, and --engine {engine} computes from an export of it")
    if not batch_norms(network):
        raise UserError("--recalibrate_norm: the network has no batch norm whose statistics could be counted anew")
    few = pictures[:: -(-len(pictures) // IMAGES_FOR_NORM)]
    batches = [{"image": image} for picture in few for image in _readable(picture, settings)]
    re_estimate_statistics([network], batches, device=device, precision=precision, most=IMAGES_FOR_NORM)


def _readable(picture: Picture, settings: MapSettings) -> list[Tensor]:
    """The middle of a picture as network input (1, C, h, w); nothing where it is broken, which prediction tells."""
    try:
        return [middle(settings.network_input([picture]))]
    except UserError:
        return []


@contextmanager
def watching_own(network: Any, checkpoint: dict[str, Any]) -> Iterator[tuple[OwnImages, Watch] | None]:
    """Watch a network whose checkpoint knows its own images; None for exports, and where it knows too few."""
    if not isinstance(network, nn.Module) or checkpoint.get("own_images") is None:
        yield None
        return
    own = OwnImages.from_json(checkpoint["own_images"])
    with watching(network, own.layers) as watch:
        yield own, watch


def measure_unlikeness(
    own: OwnImages, watch: Watch, pictures: Sequence[Picture], settings: MapSettings, predictor: Predictor
) -> dict[Picture, np.ndarray]:
    """How unlike the network's own images the pictures are, by kind (3,).

    Of those predicted in tiles, or by an interrupted prediction, the middle is seen once more.
    """
    for picture in pictures:
        if picture not in watch.numbers:
            predictor(middle(settings.network_input([picture])))
            watch.note([picture])
    numbers = np.array([watch.numbers[picture] for picture in pictures])
    return dict(zip(pictures, own.unlikeness(numbers), strict=True)) if pictures else {}


def unlike_files(unlike: Mapping[Picture, np.ndarray], stacks: Mapping[Path, PlaneStack]) -> dict[str, float]:
    """The unlikeness of every file, of a stack that of its most unlike plane; for ``predictions.json``."""
    found: dict[str, float] = {}
    for picture, kinds in unlike.items():
        name = display_path(whole_file(picture.image, stacks))
        found[name] = max(round(float(kinds.max()), 3), found.get(name, 0.0))
    return found


def recorded_unlike(folder: Path, finished: Iterable[Path]) -> dict[str, float]:
    """The unlikeness that an earlier prediction in ``folder`` recorded of files whose maps are taken over."""
    record = read_json_if_whole(folder / PREDICTIONS.record)
    known = record.get("unlike") if isinstance(record, dict) else None
    names = [display_path(path) for path in finished]
    return {name: known[name] for name in names if name in known} if isinstance(known, dict) else {}


def describe_unlike(unlike: Mapping[str, float], kinds: Mapping[Picture, np.ndarray]) -> list[str]:
    """A line where more files than chance explains look unlike the network's own.

    Args:
        unlike: of every file.
        kinds: of the pictures that have been measured, (3,) each: what they differ in most is told.
    """
    figures = np.array(list(unlike.values()))
    beyond = int((figures > 1).sum())
    if beyond <= TAIL * len(figures):
        return []
    look = "looks" if beyond == 1 else "look"
    most = f", most in their {KINDS[int(np.median(list(kinds.values()), 0).argmax())]}" if kinds else ""
    return [
        f"warning: {beyond} of {counted(unlike, 'image')} {look} unlike those that the network was trained on{most} "
        f"(unlikeness {np.median(figures):.1f} in the median; 99 of 100 own images stay below 1): scores may be "
        "much worse here; docs/OTHER_LABS.md says what helps"
    ]
