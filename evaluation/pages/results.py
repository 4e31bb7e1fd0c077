"""What a page tells of a run: its figures, how they were made, and where its files are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_corrections import without_hot_pixels
from datasets.image_io import read_image, read_label, read_shape
from datasets.lists import Sample
from evaluation.label_audit.verdict import read_audit
from evaluation.scores.images import ImageResult, Scorer, Totals
from evaluation.scores.maps import read_map
from evaluation.scores.summary import is_one_sided
from utils.background import LazySequence
from utils.errors import UserError
from utils.files import POSITIVE, read_json, read_jsonl
from utils.paths import display_path

CLASSIC_IMAGES = 24  # on which classic methods are tried beside the network


@dataclass(frozen=True)
class RunResults:
    """The scored maps of a run, or of a folder of maps.

    Args:
        name: what to call it.
        summary: the content of metrics.json.
        totals: the metrics of each image, and the score histogram (2, BINS) or confusion matrix (K, K) of all.
        scorer: how maps are read and held against labels.
        run: the run folder, if there is one.
        parts: the run folders of a cross-fit, whose maps these are together.
        channels: of the images, by number or OME name.
        unlike: how unlike the network's own images each is, by displayed path, where inference knew.
    """

    name: str
    summary: dict[str, Any]
    totals: Totals
    scorer: Scorer
    run: Path | None = None
    parts: Sequence[Path] = ()
    in_channels: int = 1
    channels: tuple[str, ...] = ()
    unlike: Mapping[str, float] = field(default_factory=dict)

    @property
    def binary(self) -> bool:
        """Whether there are scores, rather than classes."""
        return self.scorer.num_classes == 1

    @cached_property
    def audits(self) -> dict[str, dict[str, Any]]:
        """The audits of the training labels by the names of their runs: of a cross-fit one a part; empty without."""
        runs = self.parts if self.run is None else [self.run]
        paths = {run.name: run / "audit.json" for run in runs}
        return {name: read_audit(path) for name, path in paths.items() if path.is_file()}

    @cached_property
    def foretold(self) -> dict[str, float]:
        """``predicted_iou`` with ``_low`` and ``_high``, and ``iou_ceiling``, as far as the audits know them.

        Of several audits the means, and the bounds that hold those of all.
        """
        joined: dict[str, Callable[..., Any]] = {"predicted_iou": np.mean, "iou_ceiling": np.mean}
        joined |= {"predicted_iou_low": min, "predicted_iou_high": max}
        values = {name: [audit.get(name) for audit in self.audits.values()] for name in joined}
        known = {name: [value for value in each if value is not None] for name, each in values.items()}
        return {name: float(joined[name](each)) for name, each in known.items() if each}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings of the run; empty without a run."""
        path = None if self.run is None else self.run / "config.json"
        return read_json(path) if path is not None and path.is_file() else {}

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The records of training, one an epoch."""
        records = [] if self.run is None else read_jsonl(self.run / "metrics.jsonl")
        return [record for record in records if POSITIVE.accepts(record.get("epoch"))]

    def image(self, sample: Sample) -> np.ndarray:
        """The image of a sample, (H, W) or (H, W, C).

        Raises:
            UserError: it has another size than its label, as it had not when it was predicted.
        """
        image = read_image(sample.image, self.in_channels, self.channels)
        height, width = read_shape(sample.require_label())
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{display_path(sample.image)} is {image.shape[0]}×{image.shape[1]}, its label {height}×{width}: the "
                "image was changed since it was predicted"
            )
        return image

    def label(self, sample: Sample) -> np.ndarray:
        """The label of a sample, class indices with IGNORE, (H, W)."""
        return read_label(
            sample.require_label(), self.scorer.num_classes, self.scorer.ignore_index, reading=sample.reading
        )

    def map(self, result: ImageResult) -> np.ndarray:
        """The scores (H, W) in [0, 1] or class indices (H, W) of an image."""
        return read_map(result.map_path, self.scorer.num_classes, self.scorer.scale)


def classic_methods(results: RunResults) -> dict[str, Any] | None:
    """What cheap classic methods reach on some of the images, and the network on the same; None where undefined.

    Returns: ``{"images": n, "iou": {method: IoU}, "network_iou": IoU}``, pooled over pixels.
    """
    from evaluation.classical.methods import cheap_methods
    from evaluation.scores import Counts, iou

    if not results.binary or is_one_sided(results.totals.sum):
        return None
    every = results.totals.results
    places = np.unique(np.linspace(0, len(every) - 1, min(len(every), CLASSIC_IMAGES)).round().astype(int))
    chosen = [every[place] for place in places.tolist()]
    counts = sum((each.counts for each in chosen if each.counts), Counts(0, 0, 0, 0))
    if counts.tp + counts.fn == 0:
        return None
    images = LazySequence(lambda place: without_hot_pixels(results.image(chosen[place].sample)), len(chosen))
    labels = LazySequence(lambda place: results.label(chosen[place].sample), len(chosen))
    return {"images": len(chosen), "iou": cheap_methods(images, labels), "network_iou": float(iou(counts))}
