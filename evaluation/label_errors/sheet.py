"""The picture of suspect labels: a row for each, image | label | what is expected | where they contradict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from datasets.image_io import write_image
from evaluation.label_errors.quality import LabelQuality
from utils.overlays import (
    BACKDROP,
    INVENTED,
    MISSED,
    beside,
    caption_strip,
    heading_strip,
    legend_strip,
    show_classes,
    show_image,
    show_scores,
    shrink,
)

SIDE = 224  # pixels of a panel
MIN_WIDTH = 700  # pixels, that the captions need
OTHER = (204, 121, 167)  # a wrong class, neither lacking nor invented
HEADINGS = ("image", "label", "expected", "suspect")
LEGEND = {
    "the label lacks foreground": MISSED,
    "it has too much": INVENTED,
    "it has another class": OTHER,
    "outline of the label": (255, 255, 255),
}


def show_issues(image: np.ndarray, label: np.ndarray, assessed: LabelQuality, confidence: np.ndarray) -> np.ndarray:
    """The dimmed image with the label's outline and, in colour, where the label is suspect; uint8 (H, W, 3)."""
    picture = show_image(image) * BACKDROP
    issues = assessed.issues(confidence)
    stated, predicted = assessed.stated(confidence), assessed.predicted(confidence)
    picture[issues] = OTHER
    picture[issues & (stated == 0)] = MISSED
    picture[issues & (predicted == 0)] = INVENTED
    foreground = (label > 0) & assessed.valid
    inside = cv2.erode(foreground.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    picture[foreground & ~inside] = 255
    return picture.round().astype(np.uint8)


def show_posterior(posterior: np.ndarray) -> np.ndarray:
    """What is expected, P(label = k) (K, H, W): scores of the foreground, or the likeliest classes; uint8 (H, W, 3)."""
    if len(posterior) == 2:
        return show_scores(posterior[1])
    return show_classes(posterior.argmax(0).astype(np.uint8), len(posterior))


def issue_row(
    image: np.ndarray,
    label: np.ndarray,
    posterior: np.ndarray,
    assessed: LabelQuality,
    confidence: np.ndarray,
    caption: str,
) -> np.ndarray:
    """The row of one label under its caption and headings, uint8 (h, w, 3).

    Args:
        image: (H, W) or (H, W, 3), any type.
        label: class indices with 255 ignored, (H, W).
        posterior: P(label = k), (K, H, W).
    """
    classes = len(posterior)
    pictures = [
        show_image(shrink(image, SIDE, average=True)),
        show_classes(shrink(label, SIDE, average=False), 1 if classes == 2 else classes),
        shrink(show_posterior(posterior), SIDE, average=classes == 2),
        shrink(show_issues(image, label, assessed, confidence=confidence), SIDE, average=False),
    ]
    row = beside(pictures)
    row = widened(np.concatenate([heading_strip(HEADINGS, row.shape[1]), row]))
    return np.concatenate([caption_strip(caption, row.shape[1]), row])


def widened(picture: np.ndarray) -> np.ndarray:
    """A picture with white at its right, up to MIN_WIDTH."""
    return np.pad(picture, ((0, 0), (0, max(MIN_WIDTH - picture.shape[1], 0)), (0, 0)), constant_values=255)


def write_sheet(path: Path, rows: Sequence[np.ndarray], verdict: str) -> None:
    """Write the rows below each other, under the verdict and a legend."""
    sheet = beside(list(rows), axis=0)
    width = sheet.shape[1]
    write_image(path, np.concatenate([caption_strip(verdict, width), legend_strip(LEGEND, width), sheet]))
