"""What the network makes of a few images, as pictures for TensorBoard."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from datasets.segmentation import SegmentationDataset
from datasets.transforms import normalize
from evaluation.overlays import beside, panels
from evaluation.scores import decode_scores
from models import to_scores
from training.selection import Selection
from utils.device import autocast

IMAGES_SHOWN = 4
MAX_SIDE = 256
WINDOW = 512  # pixels of an image that are predicted


def _middle(array: np.ndarray) -> np.ndarray:
    """The middle window of an image or label that is larger than WINDOW."""
    height, width = array.shape[:2]
    top, left = max(height - WINDOW, 0) // 2, max(width - WINDOW, 0) // 2
    return array[top : top + WINDOW, left : left + WINDOW]


@torch.inference_mode()
def picture_of(
    network: nn.Module,
    dataset: SegmentationDataset,
    selection: Selection,
    transition: np.ndarray | None,
    device: torch.device,
    precision: str,
) -> np.ndarray:
    """Rows image | label | score | error of images spread over a data set, uint8 (h, w, 3).

    The labels are those that the data set gives, so a training set shows its noise.

    Args:
        transition: for several classes, the noise transition matrix (K, K) by which scores are corrected first.
    """
    network.eval()
    rows = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, IMAGES_SHOWN).round().astype(int)):
        image, label = (_middle(array) for array in (dataset.image(int(index)), dataset.label(int(index))))
        with autocast(device, precision):
            logits = network(torch.from_numpy(normalize(image, dataset.normalization))[None].to(device))
        scores = to_scores(logits)[0].cpu().numpy()  # (C, H, W)
        if dataset.num_classes == 1:
            shown = 1 - scores[0] if selection.invert else scores[0]
        else:
            decoded = scores if transition is None else decode_scores(scores, transition)
            shown = decoded.argmax(0).astype(np.uint8)
        threshold = 0.5 if selection.threshold is None else selection.threshold
        rows.append(panels(
            image, label, shown, threshold, dataset.num_classes, MAX_SIDE
        ))  # fmt: skip
    return beside(rows, axis=0)
