"""What the network makes of a few images, as pictures for TensorBoard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from datasets.label_fusion import class_indices
from datasets.segmentation import SegmentationDataset
from datasets.transition_matrix import ScoreDecoder
from evaluation.scores.validation import offset_mask
from models import to_scores
from training.selection import Selection
from utils.device import autocast
from utils.overlays import FOUND, IGNORED, INVENTED, MISSED, beside, heading_strip, legend_strip, panels

IMAGES_SHOWN = 4
MAX_SIDE = 256
LEGEND = {"found": FOUND, "missed": MISSED, "invented or a wrong class": INVENTED, "not counted": IGNORED}
WINDOW = 512  # pixels of an image that are predicted


def _middle(array: np.ndarray) -> np.ndarray:
    """The middle window of an image or label that is larger than WINDOW."""
    height, width = array.shape[:2]
    top, left = max(height - WINDOW, 0) // 2, max(width - WINDOW, 0) // 2
    return array[top : top + WINDOW, left : left + WINDOW]


@dataclass(frozen=True)
class Shown:
    """What a picture is made of: an image, its label (H, W) and its scores (C, H, W)."""

    image: np.ndarray
    label: np.ndarray
    scores: np.ndarray


@torch.inference_mode()
def predict_some(network: nn.Module, dataset: SegmentationDataset, device: torch.device, precision: str) -> list[Shown]:
    """Predict images spread over a data set, with the labels that it gives: those of a training set show its noise."""
    network.eval()
    shown = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, IMAGES_SHOWN).round().astype(int)):
        pixels, scaling = dataset.scaled_pixels(int(index))
        image, label = (_middle(array) for array in (dataset.image(int(index)), dataset.label(int(index))))
        with autocast(device, precision):
            logits = network(torch.from_numpy(scaling(_middle(pixels)))[None].to(device))
        shown.append(Shown(image, class_indices(label), to_scores(logits)[0].cpu().numpy()))
    return shown


def picture_of(shown: list[Shown], num_classes: int, selection: Selection, decoder: ScoreDecoder | None) -> np.ndarray:
    """Rows image | label | score | error with their headings, and a legend below; uint8 (h, w, 3).

    Args:
        decoder: for several classes, what corrects scores before the argmax.
    """
    threshold = 0.5 if selection.threshold is None else selection.threshold
    headings = [
        "image",
        "label",
        f"score, mask from {threshold:.2f} on" if num_classes == 1 else "prediction",
        "errors",
    ]
    rows = []
    for each in shown:
        if num_classes == 1:
            found = 1 - each.scores[0] if selection.invert else each.scores[0]
        else:
            decoded = each.scores if decoder is None else decoder(each.scores)
            found = decoded.argmax(0).astype(np.uint8)
        mask = offset_mask(found >= threshold, selection.offset) if selection.offset else None
        row = panels(each.image, each.label, found, threshold, num_classes, MAX_SIDE, mask)
        rows.append(np.concatenate([heading_strip(headings, row.shape[1]), row]))
    picture = beside(rows, axis=0)
    return np.concatenate([picture, legend_strip(LEGEND, picture.shape[1])])
