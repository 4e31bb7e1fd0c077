"""What is predicted, and how it becomes network input and maps, as the checkpoint and its user decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datasets.image_io import read_image
from datasets.label_maps import LabelMap
from datasets.label_values import LabelReading
from datasets.transforms import NORMALIZATIONS, prepare
from datasets.transition_matrix import ScoreDecoder
from evaluation.prediction.score_maps import MAP_FILES
from evaluation.prediction.tiling import ReadRows
from evaluation.scores import DEFAULT_THRESHOLD
from evaluation.scores.validation import offset_mask
from utils.cli import UserError
from utils.run_folder import display_path

if TYPE_CHECKING:
    from evaluation.scores.platt import PlattScaling


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


def decide_settings(
    checkpoint: dict[str, Any],
    pred_invert: str = "auto",
    *,
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
    invert = {"auto": trained, "on": True, "off": False}.get(pred_invert)
    if invert is None:
        raise UserError(f"pred_invert {pred_invert!r} is unknown; choose from: auto, on, off")
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
    )


def _label_reading(config: dict[str, Any], label_map: str | None) -> LabelReading | None:
    """What the values of labels mean: as given, else as the run decided."""
    if label_map is None:
        return LabelReading.from_json(config.get("label_reading"))
    return LabelReading(
        config["num_classes"], config.get("ignore_index"), LabelMap.parse(label_map, config["num_classes"])
    )
