"""Binary labels that are well-formed and may be wrong all the same: copied, inverted in part, boxes, outlines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from datasets.image_files import split_plane
from datasets.image_io import read_image, read_stored_label
from datasets.label_summary import FileValues, ask_outlines
from datasets.label_values import LabelReading
from datasets.labels import IGNORE
from datasets.list_pairing import Row
from datasets.list_preview import Tile, spread
from utils.cli import UserError, counted, shortened
from utils.files import same_content

COMPARED, MIN_COMPARED = 12, 3  # labels of each kind whose images are looked at
AGREE = 0.9  # of the usual labels, at least, that mark the brighter side, or the darker
CLEAR = 0.5  # standard deviations between foreground and background, that count
BOX_SIDE, MIN_BOXES, BOXES = 4, 10, 0.8  # pixels; in all labels; of the objects, at least, that fill their box

Looked = Sequence[tuple[Row, FileValues]]
"""Images with their labels, and the values of these."""


def doubtful_shapes(tiles: Iterable[Tile], *, is_objects: bool) -> list[str]:
    """Warnings where the labels on a contact sheet are outlines or boxes."""
    labels = [label for tile in tiles for label in tile.labels[:1]]
    masks = [((label != 0) & (is_objects | (label != IGNORE))).astype(np.uint8) for label in labels]
    return [f"warning: {question}" for question in (ask_outlines(masks), ask_boxes(masks)) if question]


def ask_boxes(labels: Sequence[np.ndarray]) -> str:
    """A question, in a line, where nearly all objects are upright rectangles; else nothing.

    Args:
        labels: binary, uint8 (H, W) each.
    """
    boxes = objects = 0
    for label in labels:
        stats = cv2.connectedComponentsWithStats(label, connectivity=4)[2][1:]
        stats = stats[(stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]] >= BOX_SIDE).all(1)]
        area = stats[:, cv2.CC_STAT_WIDTH] * stats[:, cv2.CC_STAT_HEIGHT]
        boxes, objects = boxes + int((stats[:, cv2.CC_STAT_AREA] == area).sum()), objects + len(stats)
    if boxes < max(MIN_BOXES, BOXES * objects):
        return ""
    return (
        f"{boxes} of the {objects} objects that were looked at are upright rectangles: are these boxes, drawn for "
        "detection? Labels must follow outlines"
    )


def copied_labels(looked: Looked) -> list[str]:
    """A warning where labels that mark something have the same content, and their images have not."""
    marked = {row[1]: row[0] for row, values in looked if 0 < len(values.foreground) < len(values.values)}
    plain = {label: image for label, image in marked.items() if split_plane(label)[1] is None}
    copied = [group for group in same_content(plain) if not same_content({plain[label] for label in group})]
    if not copied:
        return []
    shown = shortened([" = ".join(label.name for label in group[:3]) for group in copied], 3)
    return [
        f"warning: {sum(map(len, copied))} labels have the content of another, though their images differ ({shown}): "
        "were they copied by mistake?"
    ]


def partly_inverted(looked: Looked, reading: LabelReading) -> list[str]:
    """A warning where some labels mark the larger part, and what is dark where nearly all others mark what is bright.

    Or the other way round: the smaller part, where most mark the larger.
    """
    shares = [(reading.foreground_share(values), row) for row, values in looked]
    small = [row for share, row in shares if 0 < share <= 0.5]
    large = [row for share, row in shares if 0.5 < share < 1]
    usual, others, part = (small, large, "more") if len(small) >= len(large) else (large, small, "less")
    sides = [side for row in _some(usual) if (side := _brighter_side(row, reading))] if others else []
    side = 1 if sum(sides) > 0 else -1
    if len(sides) < MIN_COMPARED or sides.count(side) < AGREE * len(sides):
        return []
    turned = [row[1].name for row in _some(others) if _brighter_side(row, reading) == -side]
    marked, other = ("dark", "bright") if side > 0 else ("bright", "dark")
    return [
        f"warning: {len(turned)} of the {counted(_some(others), 'label')} looked at that mark {part} than half of an "
        f"image mark what is {marked} in it, the others what is {other} ({shortened(turned, 3)}): are they inverted?"
        for _ in turned[:1]
    ]


def _some(rows: Sequence[Row]) -> list[Row]:
    return [rows[index] for index in spread(len(rows), COMPARED)]


def _brighter_side(row: Row, reading: LabelReading) -> int:
    """1 where a label's foreground is clearly the brighter part of its image, −1 the darker, else 0."""
    try:
        image, stored = read_image(row[0]).astype(np.float32), read_stored_label(row[1], reading)
        label = stored.classes(reading, row[1])
    except UserError:  # it is told where all files are looked at
        return 0
    inside, outside = (label == 1, label == 0)
    if label.shape != image.shape or not (inside.any() and outside.any()):
        return 0
    gap = float(image[inside].mean() - image[outside].mean())
    spread_within = np.sqrt((image[inside].var() + image[outside].var()) / 2)
    return int(np.sign(gap)) if abs(gap) > CLEAR * spread_within else 0
