"""What an export is made of: a run's network at a checkpoint, and what its input and output mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from datasets.lists import Sample, find_list, read_list
from evaluation.prediction.settings import MapSettings
from utils.cli import UserError

NORMALIZATION_TEXTS = {
    "zscore": "of every channel subtract the mean and divide by the standard deviation, both over the whole image, "
    "also where it is predicted in tiles",
    "unit": "divide whole numbers by the largest of their type (255, 65535)",
    "local": "of every channel subtract the mean and divide by the standard deviation, over the whole image; then make "
    "every pixel relative to its surroundings, datasets/image_corrections.py, with a sigma of 32 pixels",
}
HOT_PIXELS = "; before that, in images of more than 8 bits, lone pixels far outside the image's range become the "
HOT_PIXELS += "median of their 3×3 neighbourhood (datasets/image_corrections.py)"


@dataclass(frozen=True)
class TrainedModel:
    """A network and all that a format writes of it.

    Args:
        network: on the CPU, in evaluation mode, its batch norms folded into convolutions.
        state: the checkpoint.
        train_list, val_list, data_root: given in place of the run's own, see `listed_samples`; None: the run's own.
        authors, license: as given; of the bioimage.io package.
    """

    network: nn.Module
    settings: MapSettings
    run: Path
    checkpoint: Path
    state: dict[str, Any]
    train_list: str | None = None
    val_list: str | None = None
    data_root: str | None = None
    authors: tuple[str, ...] = ()
    license: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The run's config."""
        return self.state["config"]

    def listed_samples(
        self, option: str, use: str, *, own: str | None = None, labels: str = "optional"
    ) -> tuple[list[Sample], Path]:
        """The samples of one of the run's lists, or of the one that is given in its place, and where that list is.

        Args:
            option: ``train_list`` or ``val_list``, which gives another list.
            use: what the images are for, with which a message begins.
            own: the list of the run, where it is not the one of that name.
            labels: see `read_list`.
        Raises:
            UserError: a list or a file in it is gone; says which option gives others.
        """
        given = getattr(self, option)
        try:
            listed = find_list(given or own or self.config[option], self.config["dataset"])
            return read_list(listed, self.data_root or self.config.get("data_root"), labels=labels), listed
        except UserError as error:
            remedy = "" if given else f"\nPut them back, or give others of the kind: --{option} LIST"
            raise UserError(f"{use}: {error}{remedy}") from None

    def interface(self, is_graph: bool = True) -> dict[str, Any]:
        """What goes in, what comes out and what is done with it, for metadata.

        Args:
            is_graph: whether this is of a graph, which ends in scores, or of the network alone, which ends in logits.
        """
        settings = self.settings
        binary = settings.num_classes == 1
        inversion = "done in the graph" if is_graph else "take 1 − score"
        scores = "float32, 0 to 1" if is_graph else f"float32; their {'sigmoid' if binary else 'softmax'} is the scores"
        rule = "scores at or above the threshold are foreground" if binary else "class of the highest score"
        prepared = NORMALIZATION_TEXTS[settings.normalization]
        return {
            "input": {
                "name": "image",
                "axes": "batch, channel, height, width",
                "type": "float32",
                "channels": settings.in_channels,
                "sizes": f"any; the {'graph' if is_graph else 'network'} pads and crops by itself",
                "normalization": settings.normalization,
                "preprocessing": prepared + ("" if settings.normalization == "unit" else HOT_PIXELS),
            },
            "output": {
                "name": "scores" if is_graph else "logits",
                "axes": "batch, class, height, width",
                "type": scores,
                "classes": settings.num_classes,
                "inversion": inversion if settings.invert else "none",
            },
            "mask": {
                "rule": rule + (" after they are multiplied, as a row, by the matrix" if settings.decoder else ""),
                "threshold": settings.threshold if binary else None,
                "outlines_moved_by_pixels": settings.offset if binary else None,
                "scores_times_matrix_before": settings.decoder.inverse.tolist() if settings.decoder else None,
            },
        }
