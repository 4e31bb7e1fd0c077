"""The picture of suspect labels: a row for each, image | label | what is expected | where they contradict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from datasets.image_io import write_image
from evaluation.label_errors.quality import LabelQuality
from utils.overlays import BACKDROP, INVENTED, MISSED, beside, show_classes, show_image, show_scores, shrink

SIDE = 224  # pixels of a panel
STRIP = 20  # pixels of a caption
OTHER = (204, 121, 167)  # a wrong class, neither lacking nor invented
LEGEND = "image | label | expected | suspect: blue lacks foreground, orange has too much, pink is another class"


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


def caption_strip(text: str, width: int) -> np.ndarray:
    """A strip with black text on white, uint8 (STRIP, width, 3); what OpenCV's font lacks becomes a question mark."""
    strip = np.full((STRIP, width, 3), 255, np.uint8)
    plain = text.encode("ascii", "replace").decode()
    return cv2.putText(strip, plain, (4, STRIP - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)


def issue_row(
    image: np.ndarray,
    label: np.ndarray,
    posterior: np.ndarray,
    assessed: LabelQuality,
    confidence: np.ndarray,
    caption: str,
) -> np.ndarray:
    """The row of one label under its caption, uint8 (h, w, 3).

    Args:
        image: (H, W) or (H, W, 3), any type.
        label: class indices with 255 ignored, (H, W).
        posterior: P(label = k), (K, H, W).
    """
    classes = len(posterior)
    expected = (
        show_scores(posterior[1]) if classes == 2 else show_classes(posterior.argmax(0).astype(np.uint8), classes)
    )
    pictures = [
        show_image(shrink(image, SIDE, average=True)),
        show_classes(shrink(label, SIDE, average=False), 1 if classes == 2 else classes),
        shrink(expected, SIDE, average=classes == 2),
        shrink(show_issues(image, label, assessed, confidence=confidence), SIDE, average=False),
    ]
    row = beside(pictures)
    return np.concatenate([caption_strip(caption, row.shape[1]), row])


def write_sheet(path: Path, rows: Sequence[np.ndarray]) -> None:
    """Write the rows below each other, under a legend."""
    sheet = beside(list(rows), axis=0)
    write_image(path, np.concatenate([caption_strip(LEGEND, sheet.shape[1]), sheet]))
