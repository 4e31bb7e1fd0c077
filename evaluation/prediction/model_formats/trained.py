"""What an export is made of: a run's network at a checkpoint, and what its input and output mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from datasets.lists import Sample, find_list, read_list
from datasets.transforms import needs_preparation
from evaluation.prediction.model_formats import SCALES_BY_ITSELF, WITHOUT_GRAPH
from evaluation.prediction.settings import MapSettings
from utils.errors import told_with
from utils.files import content_digest
from utils.run_folder import environment_record

NORMALIZATION_TEXTS = {
    "zscore": "of every channel subtract the mean and divide by the standard deviation, both over the whole image, "
    "also where it is predicted in tiles",
    "unit": "divide whole numbers by the largest of their type (255, 65535)",
    "local": "of every channel subtract the mean and divide by the standard deviation, over the whole image; then make "
    "every pixel relative to its surroundings, datasets/image_corrections.py, with a sigma of 32 pixels",
}
HOT_PIXELS = "in images of more than 8 bits, lone pixels far outside the image's range become the median of their 3×3 "
HOT_PIXELS += "neighbourhood (datasets/image_corrections.py)"


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
        remedy = "" if given else f"Put them back, or give others of the kind: --{option} LIST"
        with told_with(use, remedy):
            listed = find_list(given or own or self.config[option], self.config["dataset"])
            return read_list(listed, self.data_root or self.config.get("data_root"), labels=labels), listed

    def describe(self, to: str) -> dict[str, Any]:
        """What an export in the format ``to`` is made of, and what goes in and comes out; for its card."""
        return {
            "format": to,
            "epoch": int(self.state["epoch"]),
            "checkpoint": self.checkpoint.name,
            "checkpoint_sha256": content_digest(self.checkpoint),
            "scores_inverted": self.settings.invert,
            "interface": self.interface(to),
            "license": self.license,
            "authors": list(self.authors),
            "versions": environment_record()["versions"],  # a model that travels does not tell where it was made
        }

    def interface(self, to: str) -> dict[str, Any]:
        """What goes in, what comes out and what is done with it, for metadata in the format ``to``."""
        settings = self.settings
        binary, is_graph = settings.num_classes == 1, to not in WITHOUT_GRAPH
        inversion = "done in the graph" if is_graph else "take 1 − score"
        scores = "float32, 0 to 1" if is_graph else f"float32; their {'sigmoid' if binary else 'softmax'} is the scores"
        rule = "scores at or above the threshold are foreground" if binary else "class of the highest score"
        return {
            "input": {
                "name": "image",
                "axes": "batch, channel, height, width",
                "type": "float32",
                "channels": settings.in_channels,
                "sizes": f"any; the {'graph' if is_graph else 'network'} pads and crops by itself",
                "normalization": settings.normalization,
                "preprocessing": _preprocessing(settings.normalization, to),
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


def _preprocessing(normalization: str, to: str) -> str:
    """What is done with an image before it goes in, and what of that a package does by itself."""
    is_scaled = to in SCALES_BY_ITSELF and not needs_preparation(normalization)
    scaling = f"{'the package does this by itself: ' if is_scaled else ''}{NORMALIZATION_TEXTS[normalization]}"
    if normalization == "unit":
        return scaling
    return f"{scaling}; before that{', left to do' if is_scaled else ''}, {HOT_PIXELS}"
