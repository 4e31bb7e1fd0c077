"""Pictures that stand in a page itself: image, label and score map of every image, as large as the page can bear."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from evaluation.pages.results import RunResults
from evaluation.scores.images import ImageResult
from utils.overlays import BACKDROP, FOUND, IGNORED, INVENTED, MISSED, SCORE_COLORS, class_colors, show_image, shrink

SIDES = (256, 192, 160, 128, 96, 64, 48)  # pixels of the longer side
PAGE_BYTES = 4_300_000  # of all pictures of a page, as text
MAX_PICTURES = 1000  # images of a page with more are in its table, without pictures
LEVELS = 255  # steps of an 8-bit score
JPEG_QUALITY = 75


def encode_png(picture: np.ndarray) -> str:
    """A picture, uint8 (h, w) or (h, w, 3), as the address of a PNG file in the page itself."""
    return _encode(picture, "png", optimize=True)


def encode_jpeg(picture: np.ndarray) -> str:
    """A picture, uint8 (h, w, 3), as the address of a JPEG file in the page itself; in grey where it has no colour."""
    grey = (picture == picture[..., :1]).all()
    return _encode(np.ascontiguousarray(picture[..., 0]) if grey else picture, "jpeg", quality=JPEG_QUALITY)


def _encode(picture: np.ndarray, kind: str, **options: Any) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def quantize_scores(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores in LEVELS steps, rounded down; none changes its side of the threshold.

    Args:
        scores: (H, W) in [0, 1].
    Returns: uint8 (H, W); ``value >= LEVELS * threshold`` exactly where ``scores >= threshold``.
    """
    levels = np.floor(scores.astype(np.float64) * LEVELS)
    above = scores >= threshold
    levels[above] = np.maximum(levels[above], np.ceil(LEVELS * threshold))
    return levels.astype(np.uint8)


def embed_image(shown: Sequence[tuple[RunResults, ImageResult] | None], side: int) -> dict[str, Any]:
    """What the page draws an image from, at most ``side`` pixels wide and high.

    Args:
        shown: of each run its result for the image, None where it has none.
    Returns: addresses of ``image`` (JPEG) and ``label`` (class indices), and for each run of ``maps`` (scores in
        LEVELS steps, or class indices) and ``masks`` (where they are not what reaches the threshold, else None).
    """
    present = [each for each in shown if each is not None]
    run, result = present[0]
    label = run.label(result.sample)
    maps, masks = [], []
    for each in shown:
        values = None if each is None else each[0].map(each[1])
        scorer = run.scorer if each is None else each[0].scorer
        if values is None or scorer.num_classes > 1:
            maps.append(None if values is None else encode_png(shrink(values, side, average=False)))
            masks.append(None)
            continue
        scores = quantize_scores(shrink(values, side, average=True), scorer.threshold)
        maps.append(encode_png(scores))
        moved = scorer.mask(values) if scorer.offset else None
        masks.append(None if moved is None else encode_png(shrink(moved, side, average=False)))
    return {
        "image": encode_jpeg(shrink(show_image(run.image(result.sample)), side, average=True)),
        "label": encode_png(shrink(label, side, average=False)),
        "maps": maps,
        "masks": masks,
        "size": list(label.shape),
    }


def embed_all(
    images: Sequence[Sequence[tuple[RunResults, ImageResult] | None]], first: Sequence[int]
) -> list[dict[str, Any] | None]:
    """What the page draws all images from, together at most PAGE_BYTES of text.

    Each image has its part of the room and is as large as it fits into that; the images of ``first`` come large.

    Args:
        images: of each image, of each run its result, see `embed_image`.
        first: places of images that are shown before all others.
    """
    embedded: dict[int, dict[str, Any]] = {place: embed_image(images[place], SIDES[0]) for place in first}
    others = [place for place in range(len(images)) if place not in embedded][: MAX_PICTURES - len(embedded)]
    room = PAGE_BYTES - sum(map(text_length, embedded.values()))
    fitted = fit_pictures([partial(embed_image, images[place]) for place in others], room)
    embedded |= dict(zip(others, fitted, strict=True))
    return [embedded.get(place) for place in range(len(images))]


def fit_pictures(makers: Sequence[Callable[[int], dict[str, Any]]], room: float) -> Iterator[dict[str, Any]]:
    """Make pictures in turn, each as large as its part of the room allows.

    Args:
        makers: of each the function that makes its pictures, at most so many pixels wide and high.
        room: characters for all of them.
    """
    start = 0
    for make in makers:
        pictures: dict[str, Any] = {}
        # Images of a list are alike: one goes on with the size before that of its predecessor.
        for number in range(max(start - 1, 0), len(SIDES)):
            pictures, start = make(SIDES[number]), number
            if text_length(pictures) <= room / len(makers):
                break
        yield pictures


def text_length(pictures: dict[str, Any]) -> int:
    """Characters that pictures take in the page."""
    parts = [part for value in pictures.values() for part in (value if isinstance(value, list) else [value])]
    return sum(len(part) for part in parts if isinstance(part, str))


def drawing_colors(num_classes: int) -> dict[str, Any]:
    """What ``pictures.js`` draws with."""
    return {
        "levels": LEVELS,
        "backdrop": BACKDROP,
        "colors": {"found": FOUND, "missed": MISSED, "invented": INVENTED, "ignored": IGNORED},
        "scoreColors": SCORE_COLORS,
        "classColors": class_colors(num_classes),
    }
