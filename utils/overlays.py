"""Pictures of segmentations as plain arrays: image | label | score | error, for TensorBoard, inference and reports.

Colours keep apart for colour-blind eyes: what was found is white, what was missed blue, what was invented orange.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

# Background, then the colours of Okabe and Ito (Color Universal Design, 2008), dark ones late.
NAMED_COLORS = (
    (0, 0, 0),
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
IGNORE = 255  # in class maps, as in datasets/labels.py, which stands above this file
FOUND, MISSED, INVENTED, IGNORED = (255, 255, 255), (0, 114, 255), (255, 120, 0), (110, 110, 110)
SCORE_COLORS = ((0, 0, 0), (70, 15, 105), (180, 40, 100), (250, 140, 20), (255, 255, 200))  # at 0, ¼, ½, ¾, 1
BACKDROP = 0.45  # brightness of the image behind the error colours
DISPLAY_PERCENTILES = (0.5, 99.5)  # single hot pixels must not darken the picture
GAP = 4  # white pixels between panels


def class_colors(num_classes: int) -> np.ndarray:
    """A colour for every class, uint8 (K, 3); class 0 is black. Beyond eight, hues a golden ratio apart."""
    count = max(num_classes, 2)
    extra = [
        [round(255 * value) for value in colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.55, 0.95)]
        for index in range(len(NAMED_COLORS), count)
    ]
    return np.array([*NAMED_COLORS[:count], *extra], np.uint8)


def show_image(image: np.ndarray) -> np.ndarray:
    """Stretch an image of any type, (H, W) or (H, W, C), between its percentiles; uint8 (H, W, 3).

    Of other numbers of channels than three the mean is shown.
    """
    values = image.astype(np.float32)
    values = values.mean(axis=2) if values.ndim == 3 and values.shape[2] != 3 else values
    low, high = np.percentile(values, DISPLAY_PERCENTILES)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    shown = np.clip((values - low) * (255 / max(high - low, 1e-12)), 0, 255).round().astype(np.uint8)
    return shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)


def show_classes(label: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """Colours of class indices (H, W), IGNORE grey, binary foreground white; uint8 (H, W, 3)."""
    table = np.full((256, 3), IGNORED, np.uint8)
    table[: max(num_classes, 2)] = class_colors(num_classes) if num_classes > 1 else ((0, 0, 0), FOUND)
    return table[label]


def show_scores(scores: np.ndarray) -> np.ndarray:
    """Colours of scores (H, W) in [0, 1], black – purple – orange – cream; uint8 (H, W, 3)."""
    steps = np.linspace(0, 255, len(SCORE_COLORS))
    table = np.stack([np.interp(np.arange(256), steps, channel) for channel in zip(*SCORE_COLORS, strict=True)], axis=1)
    return table.round().astype(np.uint8)[np.clip(scores * 255, 0, 255).round().astype(np.uint8)]


def show_errors(image: np.ndarray, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The dimmed image under the errors: found white, missed blue, invented or a wrong class orange, ignored grey.

    Args:
        image: as in `show_image`.
        prediction, label: class indices (H, W), the label with IGNORE.
    Returns: uint8 (H, W, 3).
    """
    picture = show_image(image) * BACKDROP
    right, valid = prediction == label, label != IGNORE
    found = right & (label != 0)
    picture[found] = 0.5 * picture[found] + 0.5 * np.array(FOUND)
    picture[valid & ~right] = INVENTED
    picture[valid & ~right & (prediction == 0)] = MISSED
    picture[~valid] = IGNORED
    return picture.round().astype(np.uint8)


def show_mask(image: np.ndarray, prediction: np.ndarray, num_classes: int = 1) -> np.ndarray:
    """The image under the half-transparent colours of predicted classes (H, W); uint8 (H, W, 3)."""
    picture = show_image(image).astype(np.float32)
    colors = class_colors(max(num_classes, 2))[prediction]
    inside = prediction != 0
    picture[inside] = 0.5 * picture[inside] + 0.5 * colors[inside]
    return picture.round().astype(np.uint8)


def shrink(array: np.ndarray, max_side: int, average: bool) -> np.ndarray:
    """Reduce an array (H, W[, 3]) to at most ``max_side`` pixels a side, by averages or by nearest pixels."""
    scale = max_side / max(array.shape[:2])
    if scale >= 1:
        return np.asarray(array)
    size = (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale)))
    return cv2.resize(np.asarray(array), size, interpolation=cv2.INTER_AREA if average else cv2.INTER_NEAREST)


def panels(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray,
    threshold: float = 0.5,
    num_classes: int = 1,
    max_side: int = 512,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """The row image | label | score | error, or image | score | mask where there is no label.

    Args:
        image: (H, W) or (H, W, 3), any type.
        label: class indices (H, W) with IGNORE, or None.
        prediction: binary: scores (H, W) in [0, 1]; K classes: class indices (H, W), shown in place of the score.
        threshold: scores at or above it are foreground.
        max_side: larger images are reduced.
        mask: binary: what is foreground, 0/1 (H, W), where that is not what reaches the threshold.
    Returns: uint8 (h, w, 3).
    """
    image = shrink(image, max_side, average=True)
    prediction = shrink(prediction, max_side, average=num_classes == 1)
    classes = (prediction >= threshold).astype(np.uint8) if num_classes == 1 else prediction
    classes = classes if mask is None else shrink(mask, max_side, average=False)
    score = show_scores(prediction) if num_classes == 1 else show_classes(prediction, num_classes)
    if label is None:
        return beside([show_image(image), score, show_mask(image, classes, num_classes)])
    label = shrink(label, max_side, average=False)
    return beside([show_image(image), show_classes(label, num_classes), score, show_errors(image, classes, label)])


def beside(pictures: list[np.ndarray], axis: int = 1) -> np.ndarray:
    """Pictures uint8 (h, w, 3) in a row (axis 1) or column (axis 0), with white gaps, filled up with white."""
    across = max(picture.shape[1 - axis] for picture in pictures)
    parts = []
    for picture in pictures:
        fill = [(0, 0), (0, 0), (0, 0)]
        fill[1 - axis] = (0, across - picture.shape[1 - axis])
        fill[axis] = (0, GAP)
        parts.append(np.pad(picture, fill, constant_values=255))
    return np.concatenate(parts, axis=axis)[: -GAP if axis == 0 else None, : -GAP if axis == 1 else None]


STRIP = 20  # pixels of a line of text


def caption_strip(text: str, width: int) -> np.ndarray:
    """A strip with black text on white, uint8 (STRIP, width, 3); what OpenCV's font lacks becomes a question mark."""
    strip = np.full((STRIP, width, 3), 255, np.uint8)
    plain = text.encode("ascii", "replace").decode()
    return cv2.putText(strip, plain, (4, STRIP - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)


def heading_strip(names: Sequence[str], width: int) -> np.ndarray:
    """Names above as many panels of equal width, uint8 (STRIP, width, 3)."""
    edges = np.linspace(0, width + GAP, len(names) + 1).round().astype(int)
    strips = [caption_strip(name, end - start) for name, start, end in zip(names, edges, edges[1:], strict=False)]
    return np.concatenate(strips, axis=1)[:, :width]


def legend_strip(entries: Mapping[str, tuple[int, int, int]], width: int) -> np.ndarray:
    """Squares of colours with what they mean beside them, in as many lines as it takes; uint8 (n · STRIP, width, 3)."""
    lines, left = [caption_strip("", width)], 4
    for name, color in entries.items():
        needed = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0] + STRIP + 14
        if left + needed > width and left > 4:
            lines.append(caption_strip("", width))
            left = 4
        cv2.rectangle(lines[-1], (left, 5), (left + 11, STRIP - 5), color, -1)
        cv2.rectangle(lines[-1], (left, 5), (left + 11, STRIP - 5), (120, 120, 120), 1)
        room = caption_strip(name, max(width - left - 14, 1))
        lines[-1][:, left + 14 :] = room[:, : width - left - 14]
        left += needed
    return np.concatenate(lines)
