"""Labels that lie off by no common move: turned, enlarged or bent alike in every image, or moved anew in every image.

Where labels lie is found in TILES × TILES parts of each image, by covariance with the truth. A displacement counts only
where parts that did not choose it gain by it: the same part of other images, or the other parts of the same image.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from evaluation.label_audit.bias import ALL, DEGREES, ON_AVERAGE, PERCENT, Displacement
from evaluation.label_audit.moves import REACH, Labels, best_shifts, is_gain_beyond_chance, shift_covariances
from evaluation.scores.bootstrap import MIN_IMAGES, bootstrap_mean, counts_interval

TILES = 3  # along each side of an image
LEAST_TILE = 24  # pixels along the side of a part; labels of smaller images are not looked into
LEAST_FIELD = 40  # the same for displacements that differ from part to part: smaller ones hide them
MOST_OF_FIELD = 0.5  # part of the squared displacements that is a turn, or an enlargement, for it to be called one


def find_displacement(firsts: Labels, seconds: Labels, seed: int = 0) -> Displacement | None:
    """How the second maps lie off the first, which have no move in common; None where that is not beyond chance.

    Args:
        firsts, seconds: maps in which NaN counts nowhere, (H, W) each, such as `outline_map` of truths, and labels.
    """
    sides = [min(item.shape) / TILES for item in firsts]
    if not sides or min(sides) < LEAST_TILE or len(sides) < MIN_IMAGES:
        return None
    tables = np.stack([_tile_covariances(*pair) for pair in zip(firsts, seconds, strict=True)])
    centers = np.mean([_tile_centers(item.shape) for item in firsts], axis=0)
    found = _same_in_all_images(tables, centers, seed) if min(sides) >= LEAST_FIELD else None
    return found or _another_in_each_image(tables, seed)


def _tile_covariances(truth: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Covariances by shift, as flat tables, of each part of an image, weighted by how much of the truth it shows."""
    tables = []
    rows, columns = (np.linspace(0, size, TILES + 1).astype(int) for size in truth.shape)
    for top, bottom in pairwise(rows.tolist()):
        for left, right in pairwise(columns.tolist()):
            pair = [item[top:bottom, left:right] for item in (truth, label)]
            known = pair[0][np.isfinite(pair[0])]
            tables.append(shift_covariances(*pair).ravel() * (known.std() if known.size else 0.0))
    return np.stack(tables)


def _tile_centers(shape: tuple[int, ...]) -> np.ndarray:
    """Rows and columns of the middles of the parts, from the middle of the image; (TILES², 2)."""
    along = (np.arange(TILES) + 0.5) / TILES - 0.5
    return np.stack([item.ravel() for item in np.meshgrid(along, along, indexing="ij")], 1) * shape


def _same_in_all_images(tables: np.ndarray, centers: np.ndarray, seed: int) -> Displacement | None:
    """A field of displacements that depends on the place alone.

    Args:
        tables: covariances of the parts of each image by shift, (n, TILES², shifts).
    """
    pooled, parts, middle = tables.sum(0), np.arange(tables.shape[1]), tables.shape[2] // 2
    gains = [float((own[parts, (pooled - own).argmax(-1)] - own[:, middle]).sum()) for own in tables]
    if not is_gain_beyond_chance(np.array(gains), float(pooled.max(-1).sum())):
        return None
    spread = (centers**2).sum()

    def turned(sums: np.ndarray) -> np.ndarray:
        field = best_shifts(sums)
        return (field[..., 0] * centers[:, 1] - field[..., 1] * centers[:, 0]).sum(-1) / spread

    def enlarged(sums: np.ndarray) -> np.ndarray:
        return (best_shifts(sums) * centers).sum((-1, -2)) / spread

    def bent(sums: np.ndarray) -> np.ndarray:
        return np.sqrt((best_shifts(sums) ** 2).sum(-1).mean(-1))

    whole = float((best_shifts(pooled) ** 2).sum())
    half = 0.5 / float(np.sqrt(spread / len(centers)))  # of a pixel, at the usual distance from the middle
    angle, growth = float(turned(pooled)), float(enlarged(pooled))
    if angle**2 * spread >= MOST_OF_FIELD * whole:
        way = "clockwise" if angle > 0 else "counterclockwise"
        return _sized(f"turned {way}", turned, tables, unit=DEGREES, scale=180 / np.pi, error=half, seed=seed)
    if growth**2 * spread >= MOST_OF_FIELD * whole:
        return _sized(
            "enlarged" if growth > 0 else "shrunk", enlarged, tables, unit=PERCENT, scale=100, error=half, seed=seed
        )
    return _sized("moved differently at every place,", bent, tables, unit=ON_AVERAGE, scale=1, error=0.5, seed=seed)


def _sized(
    what: str,
    measure: Callable[[np.ndarray], np.ndarray],
    tables: np.ndarray,
    *,
    unit: str,
    scale: float,
    error: float,
    seed: int,
) -> Displacement:
    """The displacement with its bounds, which reach further by what the grid of pixels hides, ``error``."""
    size = float(measure(tables.sum(0)))
    low, high = sorted(np.sign(size) * bound for bound in counts_interval(measure, tables, seed, 200))
    return Displacement(what, scale * abs(size), scale * max(low - error, 0.0), scale * (high + error), unit)


def _another_in_each_image(tables: np.ndarray, seed: int) -> Displacement | None:
    """Moves that differ from image to image, each seen in both halves of a chequered image."""
    halves = [tables[:, start::2].sum(1) for start in (0, 1)]
    images, middle = np.arange(len(tables)), tables.shape[2] // 2
    gains = [other[images, one.argmax(-1)] - other[:, middle] for one, other in (halves, halves[::-1])]
    both = halves[0] + halves[1]
    if not is_gain_beyond_chance(gains[0] + gains[1], float(both.max(-1).sum())):
        return None
    lengths = np.hypot(*np.moveaxis(best_shifts(both), -1, 0))
    off = np.flatnonzero(lengths)
    if len(off) >= ALL * len(lengths):
        off, what = images, "moved differently in every image,"
    else:
        what = f"{len(off)} of {len(lengths)} labels moved"
    mean, low, high = bootstrap_mean(lengths[off], limits=(0.0, float(np.hypot(REACH, REACH))), seed=seed)
    places = () if len(off) == len(lengths) else tuple(off.tolist())
    return Displacement(what, mean, low, high, ON_AVERAGE, places)
