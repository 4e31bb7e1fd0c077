"""Measurements of numbered objects: size, shape, place and brightness, in pixels and where known in µm; outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

SHAPES = {
    "area": "area",
    "perimeter": "perimeter",
    "axis_major": "axis_major_length",
    "axis_minor": "axis_minor_length",
    "centroid_y": "centroid-0",
    "centroid_x": "centroid-1",
}  # column → what scikit-image calls it
UNITS = {name: "px2" if name == "area" else "px" for name in SHAPES}
PROPERTIES = ("label", "bbox", "area", "perimeter", "axis_major_length", "axis_minor_length", "centroid")


def measure_objects(
    numbers: np.ndarray,
    scores: np.ndarray | None = None,
    channels: np.ndarray | None = None,
    pixel_size: tuple[float, float] | None = None,
) -> dict[str, np.ndarray]:
    """The properties of every object, in the order of their numbers.

    Args:
        numbers: objects, integers (H, W), 0 is background.
        scores: foreground scores, (H, W).
        channels: of the image, (H, W) or (H, W, C).
        pixel_size: height and width of a pixel in µm. Where they differ, the perimeter in µm is not defined.
    Returns: column → values, float or int (objects,). ``area_px2``, ``perimeter_px``, ``axis_major_px``,
        ``axis_minor_px`` (of the ellipse with the same second moments), ``centroid_y_px``, ``centroid_x_px``, the same
        in µm, ``touches_border``, ``mean_score``, and ``intensity_C``, the mean of channel C.
    Source: scikit-image, `regionprops`.
    """
    from skimage.measure import regionprops_table

    table = regionprops_table(numbers, properties=PROPERTIES)
    height, width = numbers.shape
    touches = [table["bbox-0"] == 0, table["bbox-1"] == 0, table["bbox-2"] == height, table["bbox-3"] == width]
    measured = {"label": table["label"], **{f"{name}_{UNITS[name]}": table[key] for name, key in SHAPES.items()}}
    measured["touches_border"] = np.any(touches, axis=0).astype(int)
    if scores is not None:
        measured["mean_score"] = _means(numbers, scores)[table["label"]]
    for number, channel in enumerate(_as_channels(channels)):
        measured[f"intensity_{number}"] = _means(numbers, channel)[table["label"]]
    return {**measured, **_in_micrometres(numbers, table, pixel_size)}


def _as_channels(values: np.ndarray | None) -> Sequence[np.ndarray]:
    if values is None:
        return ()
    return [values] if values.ndim == 2 else list(np.moveaxis(values, -1, 0))


def _means(numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    flat = numbers.reshape(-1)
    sums = np.bincount(flat, values.reshape(-1).astype(np.float64))
    return sums / np.maximum(np.bincount(flat), 1)


def _in_micrometres(
    numbers: np.ndarray, table: dict[str, np.ndarray], pixel_size: tuple[float, float] | None
) -> dict[str, np.ndarray]:
    """The columns of SHAPES in µm; NaN where the pixel size is not known."""
    if pixel_size is None:
        values = {name: np.full(len(table["label"]), np.nan) for name in SHAPES}
    elif np.isclose(*pixel_size):
        size = pixel_size[1]
        values = {name: table[key] * (size**2 if name == "area" else size) for name, key in SHAPES.items()}
    else:
        from skimage.measure import regionprops_table

        defined = [name for name in PROPERTIES if name not in ("perimeter", "bbox")]
        scaled = regionprops_table(numbers, properties=defined, spacing=pixel_size)
        undefined = np.full(len(table["label"]), np.nan)
        values = {name: undefined if name == "perimeter" else scaled[key] for name, key in SHAPES.items()}
    return {f"{name}_{'um2' if name == 'area' else 'um'}": value for name, value in values.items()}


def trace_outlines(numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The outer outline of every object along the edges of its pixels, so that the polygon has the object's area.

    Holes are not cut out. Pixel (y, x) is the square from (x, y) to (x + 1, y + 1), as in ImageJ.

    >>> [(number, outline.tolist()) for number, outline in trace_outlines(np.array([[0, 0], [1, 1]]))]
    [(1, [[0, 1], [0, 2], [2, 2], [2, 1]])]

    Args:
        numbers: objects, integers (H, W); each is connected by 8 neighbours.
    Yields: (number, corners int32 (n, 2), x and y).
    """
    from scipy.ndimage import find_objects

    for number, box in enumerate(find_objects(numbers), start=1):
        if box is not None:
            yield number, _outline(numbers[box] == number) + np.array([box[1].start, box[0].start], np.int32)


def _outline(mask: np.ndarray) -> np.ndarray:
    """The corners of the outer outline of a mask, int32 (n, 2).

    OpenCV walks along the pixels of a boundary. On a grid of half pixels, where a pixel is a square of 3×3, that
    boundary is the edges of pixels; it only cuts across the corner of a notch, which is put back.
    """
    height, width = mask.shape
    squares = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    rows, columns = np.nonzero(mask)
    for down in range(3):
        for right in range(3):
            squares[2 * rows + down, 2 * columns + right] = 1
    found, _ = cv2.findContours(squares, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    path = max(found, key=len)[:, 0]  # (n, 2), x and y
    after = np.roll(path, -1, axis=0)
    cut = np.flatnonzero((path != after).all(1))
    corners = np.stack([path[:, 0], after[:, 1]], 1)[cut]
    is_corner = (corners % 2 == 0).all(1, keepdims=True)
    corners = np.where(is_corner, corners, np.stack([after[:, 0], path[:, 1]], 1)[cut])
    path = np.insert(path, cut + 1, corners, axis=0)
    path = path[(path % 2 == 0).all(1)] // 2
    turns = (np.roll(path, 1, axis=0) - path != path - np.roll(path, -1, axis=0)).any(1)
    return path[turns].astype(np.int32)
