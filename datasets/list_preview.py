"""A contact sheet of a data set: a dozen images, each beside itself with the outline of its label drawn in.

A wrong pairing, a moved or an inverted label is seen at a glance; the lines below an image say what its label holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.image_decoding import pillow_module
from datasets.image_io import StoredLabel, read_image, read_stored_label
from datasets.label_maps import listed
from datasets.label_values import LabelReading
from datasets.labels import IGNORE
from datasets.list_pairing import stem
from utils.cli import UserError
from utils.files import atomic_write
from utils.overlays import GAP, IGNORED, beside, class_colors, show_image, shrink

SAMPLES = 12
COLUMNS = 3
PANEL = 256  # pixels: the longer side of every picture
MAX_ENLARGED = 4
TEXT_SIZE, LINE_HEIGHT = 12, 17
PAPER, INK, PALE_INK = (255, 255, 255), (20, 20, 20), (110, 110, 110)
OUTLINES = ((255, 170, 0), (0, 200, 255), (255, 60, 200), (120, 255, 60))  # of the labels of several annotators
QUALITY = 90
LISTED_VALUES = 6


@dataclass(frozen=True, slots=True)
class Tile:
    """An image of the sheet.

    Attributes:
        image: (H, W) or (H, W, 3), any type.
        labels: whole numbers (h, w): 0 background, `IGNORE` where no pixel counts (in labels of classes), else classes
            or objects; none, one, or those of several annotators.
        is_objects: numbers are objects: all outlines in one colour, IGNORE a number like others.
        name, facts: the two lines of text below.
    """

    image: np.ndarray
    labels: Sequence[np.ndarray]
    is_objects: bool
    name: str
    facts: str


def read_tile(
    row: Sequence[Path],
    part: str,
    *,
    reading: LabelReading,
    classes: Sequence[int],
    void: Sequence[int],
    in_channels: int,
    channels: Sequence[str] = (),
) -> Tile:
    """Read an image and its labels for the sheet; a file that cannot be read is an empty picture that says so.

    Args:
        part: the name of the list.
        reading: how labels are read.
        classes: values of the classes, ascending, the background first; empty: all but 0 is foreground.
        void: values that count nowhere.
        in_channels, channels: as of `read_image`.
    """
    image, labels, facts = np.zeros((PANEL, PANEL), np.uint8), [], []
    try:
        image = read_image(row[0], in_channels, channels)
        if image.ndim == 3 and image.shape[2] != 3:
            image = image[..., 0]
        for path in row[1:]:
            stored = read_stored_label(path, reading)
            labels.append(to_numbers(stored, reading, classes, void, path))
            facts.append(label_facts(stored, labels[-1], reading))
            if labels[-1].shape != image.shape[:2]:
                facts.append(f"size {'×'.join(map(str, labels[-1].shape))} ≠ {'×'.join(map(str, image.shape[:2]))}")
    except UserError as error:
        facts.append(str(error))
    other = [path.name for path in row[1:] if stem(path) != stem(row[0])]
    name = "  ".join([f"{part}:", row[0].name, *(f"+ {label}" for label in other)])
    return Tile(image, labels, reading.objects, name, "  |  ".join(facts) or "no label")


def to_numbers(
    stored: StoredLabel, reading: LabelReading, classes: Sequence[int], void: Sequence[int], path: Path
) -> np.ndarray:
    """A label's values as whole numbers, int64 (H, W): 0 background, objects or classes, void values `IGNORE`."""
    if reading.is_told:
        return stored.classes(reading, path).astype(np.int64)
    if reading.objects:
        return np.where(stored.ignored, 0, stored.values).astype(np.int64)
    if reading.cut is not None:
        numbers = (stored.values >= reading.cut).astype(np.int64)
    elif classes:
        numbers = np.searchsorted(np.asarray(classes), stored.values)
    else:
        numbers = (stored.values != 0).astype(np.int64)
    return np.where(stored.ignored | np.isin(stored.values, list(void)), IGNORE, numbers)


def label_facts(stored: StoredLabel, numbers: np.ndarray, reading: LabelReading) -> str:
    """The values of a label, and what share of its pixels is foreground."""
    found = np.unique(stored.values[~stored.ignored] if reading.objects else stored.values)
    if reading.objects:
        values = f"{len(found[found != 0])} objects"
    elif len(found) > LISTED_VALUES:
        values = f"{len(found)} values {found[0]:g} to {found[-1]:g}"
    else:
        values = f"values {listed(found, stored.is_color)}"
    counting = numbers[(numbers != IGNORE) | reading.objects]
    share = (counting != 0).mean() if counting.size else 0
    return f"{values}, {share:.1%} foreground"


def spread(count: int, most: int = SAMPLES) -> list[int]:
    """Which of ``count`` samples to show: at most ``most``, evenly spread, the first among them.

    >>> spread(5, 3), spread(2, 12)
    ([0, 1, 3], [0, 1])
    """
    shown = min(count, most)
    return [index * count // shown for index in range(shown)]


Words = tuple[str, tuple[int, int, int]]
"""Text and its colour."""


def write_sheet(path: Path, tiles: Sequence[Tile], title: str, legend: Sequence[Words] = ()) -> None:
    """Write the sheet of some tiles as a JPEG, atomically; ``legend`` names the outlines' colours behind the title."""
    pictures = [draw_tile(tile) for tile in tiles]
    if any((label == IGNORE).any() for tile in tiles if not tile.is_objects for label in tile.labels):
        legend = [*legend, ("not counted", IGNORED)]
    rows = [beside(pictures[start : start + COLUMNS]) for start in range(0, len(pictures), COLUMNS)]
    sheet = beside(rows, axis=0)
    head = np.full((LINE_HEIGHT + 2 * GAP, max(sheet.shape[1], 2 * PANEL), 3), PAPER, np.uint8)
    sheet = beside([_with_text(head, [[(title, INK), *legend]]), sheet], axis=0)
    sheet = np.pad(sheet, ((GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    with atomic_write(path) as file:
        pillow_module().fromarray(sheet).save(file, format="JPEG", quality=QUALITY)


def legend_of(kinds: Sequence[str], classes: Sequence[object]) -> list[Words]:
    """The colours of annotators, if there are several, else those of classes."""
    if len(kinds) > 1:
        return [(kind, OUTLINES[index % len(OUTLINES)]) for index, kind in enumerate(kinds)]
    if len(classes) < 3:
        return []
    colors = class_colors(len(classes)).tolist()
    return [(str(name), tuple(color)) for name, color in list(zip(classes, colors, strict=True))[1:]]


def draw_tile(tile: Tile) -> np.ndarray:
    """The image, beside it with outlines and grey where no pixel counts, two lines of text below; uint8 (h, w, 3)."""
    plain = to_panel(show_image(shrink(tile.image, 4 * PANEL, average=True)), smooth=True)
    outlined = plain.copy()
    for number, label in enumerate(tile.labels):
        label = to_panel(label, smooth=False, size=plain.shape[:2])
        if not tile.is_objects:
            outlined[label == IGNORE] = IGNORED
        draw_outline(outlined, label, _colors(tile, number, label))
    pictures = [_centred(plain), _centred(outlined)] if tile.labels else [_centred(plain)]
    row = beside(pictures)
    text = np.full((2 * LINE_HEIGHT + GAP, row.shape[1], 3), PAPER, np.uint8)
    text = _with_text(text, [[(tile.name, INK)], [(tile.facts, PALE_INK)]])
    return np.pad(np.concatenate([row, text]), ((0, GAP), (0, 2 * GAP), (0, 0)), constant_values=255)


def draw_outline(picture: np.ndarray, label: np.ndarray, colors: np.ndarray) -> None:
    """Draw the inner border of every region of a label into a picture, uint8 (H, W, 3).

    Args:
        label: whole numbers (H, W), 0 background.
        colors: uint8 (H, W, 3), the colour of every pixel's border.
    """
    padded = np.pad(label, 1, mode="edge")
    center = padded[1:-1, 1:-1]
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    border = (above != center) | (below != center) | (left != center) | (right != center)
    border &= center != 0
    picture[border] = colors[border]


def to_panel(array: np.ndarray, smooth: bool, size: tuple[int, int] | None = None) -> np.ndarray:
    """Resize (H, W[, 3]) until its longer side is PANEL, small ones by whole factors, or to a given (height, width)."""
    if size is None:
        scale = PANEL / max(array.shape[:2])
        scale = min(MAX_ENLARGED, int(scale)) if scale >= 1 else scale
        size = (max(1, round(array.shape[0] * scale)), max(1, round(array.shape[1] * scale)))
    shrinks = size[0] < array.shape[0]
    if not smooth:
        rows = np.arange(size[0]) * array.shape[0] // size[0]
        columns = np.arange(size[1]) * array.shape[1] // size[1]
        return array[rows[:, None], columns]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
    return cv2.resize(np.ascontiguousarray(array), size[::-1], interpolation=how)


def _colors(tile: Tile, annotator: int, label: np.ndarray) -> np.ndarray:
    """The colour of every pixel's border: one for an annotator or for objects, else one a class."""
    if len(tile.labels) > 1 or tile.is_objects or label.max(initial=0) <= 1:
        colors = np.empty((*label.shape, 3), np.uint8)
        colors[:] = OUTLINES[annotator % len(OUTLINES)]
    else:
        colors = class_colors(IGNORE)[np.minimum(label, IGNORE - 1)]
    if not tile.is_objects:
        colors[label == IGNORE] = IGNORED
    return colors


def _centred(picture: np.ndarray) -> np.ndarray:
    """A picture in the middle of a square of PANEL, on pale grey."""
    square = np.full((PANEL, PANEL, 3), 235, np.uint8)
    top, left = (PANEL - picture.shape[0]) // 2, (PANEL - picture.shape[1]) // 2
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square


def _with_text(picture: np.ndarray, lines: Sequence[Sequence[Words]]) -> np.ndarray:
    """A picture with lines of text, each of words in several colours; what is too long loses its beginning."""
    from matplotlib import get_data_path
    from PIL import ImageDraw, ImageFont

    # Pillow's own font has neither accents nor µ, × and ≠
    font = ImageFont.truetype(str(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")), TEXT_SIZE)
    canvas = pillow_module().fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        left = GAP
        for text, color in line:
            while len(text) > 2 and left + draw.textlength(text, font) > picture.shape[1] - GAP:
                text = f"…{text.lstrip('…')[1:]}"  # the end of a path tells more than its beginning
            draw.text((left, GAP + number * LINE_HEIGHT), text, fill=color, font=font)
            left += int(draw.textlength(f"{text}    ", font))
    return np.asarray(canvas)
