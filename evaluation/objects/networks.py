"""Networks of thin structures: their skeleton as a graph, its length, junctions, end points, loops; Betti numbers."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Betti(NamedTuple):
    """Connected pieces of a mask (β0) and holes in them (β1)."""

    pieces: int
    holes: int


class Network(NamedTuple):
    """What a skeleton is made of, counted; its length in pixels, or in the unit of the pixel size."""

    length: float
    junctions: int
    end_points: int
    loops: int
    pieces: int


def betti_numbers(mask: np.ndarray) -> Betti:
    """Pieces and holes of a mask, bool (H, W).

    Foreground is connected by 8 neighbours, background by 4. What lies outside the image is background, so an opening
    that the image's edge cuts is no hole.

    >>> betti_numbers(np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], bool))
    Betti(pieces=1, holes=1)
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    pieces = cv2.connectedComponents(padded, connectivity=8)[0] - 1
    holes = cv2.connectedComponents(1 - padded, connectivity=4)[0] - 2  # without foreground and the outside
    return Betti(pieces, holes)


def measure_network(skeleton: np.ndarray, pixel_size: tuple[float, float] = (1.0, 1.0)) -> Network:
    """Length, junctions, end points and loops of a skeleton of one pixel's width.

    Its pixels are the nodes of a graph. Neighbours along rows and columns are joined, and across corners those that no
    third pixel joins, so that a step of a staircase is no junction. Length is that of all edges. Pixels of three or
    more edges are junctions, adjacent ones together a single one; pixels of one edge are end points.

    Args:
        skeleton: bool (H, W), as of `skimage.morphology.skeletonize`.
        pixel_size: height and width of a pixel.
    """
    padded = np.pad(skeleton, 1)
    down, right = padded[:-1] & padded[1:], padded[:, :-1] & padded[:, 1:]
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    falling, rising = a & d & ~b & ~c, b & c & ~a & ~d
    degree = np.zeros(padded.shape, np.uint8)
    for edges, ends in (
        (down, (np.s_[:-1], np.s_[1:])),
        (right, (np.s_[:, :-1], np.s_[:, 1:])),
        (falling, (np.s_[:-1, :-1], np.s_[1:, 1:])),
        (rising, (np.s_[:-1, 1:], np.s_[1:, :-1])),
    ):
        for end in ends:
            degree[end] += edges
    height, width = pixel_size
    steps = [int(np.count_nonzero(edges)) for edges in (down, right, falling, rising)]
    length = steps[0] * height + steps[1] * width + (steps[2] + steps[3]) * float(np.hypot(height, width))
    junctions = cv2.connectedComponents((degree > 2).astype(np.uint8), connectivity=8)[0] - 1
    pieces, loops = betti_numbers(skeleton)
    return Network(length, junctions, int(np.count_nonzero(degree == 1)), loops, pieces)


def network_metrics(
    mask: np.ndarray, label: np.ndarray, skeletons: tuple[np.ndarray, np.ndarray]
) -> tuple[dict[str, float], dict[str, float]]:
    """How the topology and the skeleton of a mask differ from those of its label, bool (H, W).

    Returns: the metrics, ``betti0_error`` and ``betti1_error``, the absolute differences of Betti numbers, and
        ``skeleton_length_error``, that of lengths as a share of the label's (NaN where that has none); and the lengths
        in pixels that they come from.
    Source: Hu et al., Topology-preserving deep image segmentation, NeurIPS 2019 (Betti error, here of whole images).
    """
    found, truth = betti_numbers(mask), betti_numbers(label)
    length, length_of_label = (measure_network(skeleton).length for skeleton in skeletons)
    error = abs(length - length_of_label) / length_of_label if length_of_label else float("nan")
    metrics = {
        "betti0_error": float(abs(found.pieces - truth.pieces)),
        "betti1_error": float(abs(found.holes - truth.holes)),
        "skeleton_length_error": error,
    }
    return metrics, {"skeleton_px": length, "skeleton_px_label": length_of_label}
