"""Well-formed binary labels that may be wrong: copied, inverted, boxes, dots, outlines; images that hold labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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

LOOKED_SIDE = 2048  # pixels
COMPARED, MIN_COMPARED = 12, 3  # labels of each kind whose images are looked at
AGREE = 0.9  # of the usual labels, at least, that mark the brighter side, or the darker
CLEAR = 0.5  # standard deviations between foreground and background, that count
ELSEWHERE = 0.1  # most of the other pixels that have the value of a painted area
FILLED, FAR_OFF = 0.001, 20.0  # of the pixels, at least; times the range of all others
DOT = 60  # pixels, at most
BOX_SIDE, MIN_BOXES, BOXES = 4, 10, 0.8  # pixels; in all labels; of the objects, at least, that fill their box

Looked = Sequence[tuple[Row, FileValues]]
"""Images with their labels, and the values of these."""


def doubtful_tiles(tiles: Sequence[Tile], *, is_objects: bool) -> list[str]:
    """Warnings of a contact sheet: labels that are outlines, dots or boxes, images that hold labels or a fill value."""
    pairs = [(_middle(tile.image), _middle(tile.labels[0])) for tile in tiles if tile.labels]
    masks = [((label != 0) & (is_objects | (label != IGNORE))).astype(np.uint8) for _, label in pairs]
    images = [image for image, _ in pairs]
    shape = ask_outlines(masks) or ask_dots(masks) or ask_boxes(masks)
    questions = (shape, ask_masked(images, masks), ask_filled(images))
    return [f"warning: {question}" for question in questions if question]


def _middle(image: np.ndarray) -> np.ndarray:
    """The middle of a large image, which suffices and takes a second at most."""
    down, right = (max(0, side - LOOKED_SIDE) // 2 for side in image.shape[:2])
    return image[down : down + LOOKED_SIDE, right : right + LOOKED_SIDE]


def ask_dots(labels: Sequence[np.ndarray]) -> str:
    """A question, in a line, where nearly all objects are alike, and small; else nothing.

    Args:
        labels: binary, uint8 (H, W) each.
    """
    columns = [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA]
    shapes = Counter[tuple[int, ...]]()
    for label in labels:
        stats = cv2.connectedComponentsWithStats(label, connectivity=8)[2][1:, columns]
        shapes.update(map(tuple, stats.tolist()))
    (width, height, area), alike = shapes.most_common(1)[0] if shapes else ((0, 0, 0), 0)
    if not width * height / 2 < area <= DOT or alike < max(MIN_BOXES, BOXES * shapes.total()):
        return ""
    return (
        f"{alike} of the {shapes.total()} objects that were looked at have the same {area} pixels: are these dots "
        "that mark places? Labels must cover what is to be found"
    )


def ask_masked(images: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> str:
    """A question, in a line, where most images have one value, of its own, in all foreground or background.

    Args:
        images: (H, W) or (H, W, C) each; labels: binary, uint8 (H, W) each.
    """
    pairs = [(image, label) for image, label in zip(images, labels, strict=True) if image.shape[:2] == label.shape]
    pairs = [(image, label) for image, label in pairs if 0 < label.mean() < 1]
    for value, where in ((0, "background"), (1, "foreground")):
        telling = sum(_is_painted(image, label == value) for image, label in pairs)
        if telling > len(pairs) / 2:
            return (
                f"{telling} of the {len(pairs)} images that were looked at have one value wherever their label is "
                f"{where}, and others elsewhere: were labels drawn into the images? Then nothing else is learned"
            )
    return ""


def _is_painted(image: np.ndarray, area: np.ndarray) -> bool:
    """Whether an image has one value in an area, bool (H, W), and hardly anywhere else."""
    value = image[area][0]
    is_value = (image == value).reshape(*area.shape, -1).all(2)
    return bool(is_value[area].all() and is_value[~area].mean() < ELSEWHERE)


def ask_filled(images: Sequence[np.ndarray]) -> str:
    """A line where images hold a value far from all others in many pixels, as where nothing was recorded."""
    filled = [value for image in images if (value := _fill_value(image)) is not None]
    if not filled:
        return ""
    return (
        f"{len(filled)} of the {len(images)} images that were looked at hold {filled[0]:g}, far from all other values, "
        "in many pixels: if it stands where nothing was recorded, put in the mean of the others; scaling takes it along"
    )


def _fill_value(image: np.ndarray) -> float | None:
    found, counts = np.unique(image, return_counts=True)
    for value, count, rest in ((found[0], counts[0], found[1:]), (found[-1], counts[-1], found[:-1])):
        gap = np.abs(rest.astype(float) - float(value)).min() if len(rest) > 1 else 0.0
        if count >= FILLED * image.size and gap > FAR_OFF * float(np.ptp(rest.astype(float)) if len(rest) else 0):
            return float(value)
    return None


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
