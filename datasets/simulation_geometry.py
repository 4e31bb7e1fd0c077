"""Drawing tools of the simulated specimens: random fields, points and lines, canvases and exact masks.

Lengths are pixels of the final image, brightness is relative to a bright structure in focus (about 1). Shapes are
drawn ``SUPERSAMPLING`` times finer than the image; a pixel is foreground where at least half of it is covered.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SUPERSAMPLING = 3
FIXED_POINT_BITS = 4  # OpenCV draws at fractions of 1/16 of a fine pixel
MARGIN = 40  # shapes start this far outside the image, so that its border is like its middle

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Specimen:
    """A drawn field of view.

    Attributes:
        mask: exact foreground, uint8 0/1, (size, size).
        emission: light of the labelled structures in focus, float32 ≥ 0, (size, size); 0 outside the mask but for
            pixels of the rim that are covered by less than a half.
        glow: light of the thick cell body above and below the focus, float32 in [0, 1], (size, size).
    """

    mask: np.ndarray
    emission: np.ndarray
    glow: np.ndarray


@dataclass(frozen=True, slots=True)
class Curve:
    """A tubule: centre line (N, 2) as x, y; radius in pixels; brightness relative to 1."""

    points: np.ndarray
    radius: float
    brightness: float
    closed: bool = False


def draw_log_uniform(rng: np.random.Generator, limits: Range) -> float:
    """A number between the limits (> 0) whose logarithm is uniform."""
    return float(np.exp(rng.uniform(*np.log(limits))))


def smooth_field(rng: np.random.Generator, size: int, length: float) -> np.ndarray:
    """A Gaussian random field, float32 (size, size), mean 0, deviation about 1, that varies over ``length``."""
    nodes = int(np.ceil(size / length)) + 3
    coarse = rng.standard_normal((nodes, nodes)).astype(np.float32)
    start = 1 + rng.uniform(0, 0.99, 2)
    axis = (np.arange(size) / length).astype(np.float32)
    map_x, map_y = np.meshgrid(axis + np.float32(start[0]), axis + np.float32(start[1]))
    field = cv2.remap(coarse, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return field / np.float32(0.75)  # interpolation between independent nodes lowers the deviation to about 0.75


def shrink(fine: np.ndarray, size: int) -> np.ndarray:
    """Average the fine canvas over the area of each pixel of the image."""
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA)


def draw_tubes(
    curves: list[Curve], sheets: list[tuple[np.ndarray, float]], size: int, depth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw tubules and sheets as bodies of lumen and project them along the optical axis.

    A tubule of radius r is a cylinder, a sheet a slab with a round rim: the projected thickness at distance d from
    the nearest edge is ``sqrt(d · (2·depth − d)) / depth`` for d < ``depth`` and 1 further inside.

    Args:
        curves: the tubules.
        sheets: polygons (N, 2) as x, y with their brightness.
        depth: half the thickness of the slab, pixels.
    Returns: mask uint8 0/1 and emission float32, both (size, size).
    """
    fine = size * SUPERSAMPLING
    body = np.zeros((fine, fine), np.uint8)
    brightness = np.zeros((fine, fine), np.float32)
    for curve in curves:
        points = to_fixed_point(curve.points)
        thickness = max(1, round(2 * curve.radius * SUPERSAMPLING))
        cv2.polylines(body, [points], curve.closed, 255, thickness, shift=FIXED_POINT_BITS)
        cv2.polylines(
            brightness, [points], curve.closed, curve.brightness, thickness + 4 * SUPERSAMPLING, shift=FIXED_POINT_BITS
        )
    for polygon, level in sheets:
        corners = to_fixed_point(polygon)
        cv2.fillPoly(body, [corners], 255, shift=FIXED_POINT_BITS)
        cv2.fillPoly(brightness, [corners], level, shift=FIXED_POINT_BITS)
    body = cv2.GaussianBlur(body, (0, 0), 0.9 * SUPERSAMPLING)  # membrane tension rounds the junctions
    body = (body >= 128).astype(np.uint8)
    inside = cv2.distanceTransform(body, cv2.DIST_L2, cv2.DIST_MASK_5)
    inside /= SUPERSAMPLING * depth  # in place from here on: fresh arrays of this size cost more than the arithmetic
    np.minimum(inside, 1, out=inside)
    inside *= 2 - inside
    emission = np.sqrt(inside, out=inside)
    emission *= brightness
    mask = shrink(body.astype(np.float32), size) >= 0.5
    return mask.astype(np.uint8), shrink(emission, size)


def to_fixed_point(points: np.ndarray) -> np.ndarray:
    """Image coordinates (N, 2) → OpenCV's fixed-point coordinates on the fine canvas, int32 (N, 1, 2)."""
    fine = (points + 0.5) * SUPERSAMPLING - 0.5
    return np.round(fine * 2**FIXED_POINT_BITS).astype(np.int32)[:, None]


def scatter_points(rng: np.random.Generator, spacing: np.ndarray) -> np.ndarray:
    """Throw points, (N, 2) as x, y, no nearer to each other than the local ``spacing`` (span, span)."""
    from scipy.spatial import cKDTree

    span = len(spacing)
    candidates = rng.uniform(0, span, (int(5 * span**2 / spacing.mean() ** 2), 2))
    neighbours = cKDTree(candidates).query_ball_point(candidates, sample(spacing, candidates))
    kept = np.zeros(len(candidates), bool)
    for index, near in enumerate(neighbours):
        kept[index] = not kept[near].any()  # later candidates are not kept yet
    return candidates[kept]


def move_to_outline(points: np.ndarray, inward: np.ndarray) -> np.ndarray:
    """Move points (N, 2) as x, y along the gradient of ``inward`` to where it is about 0: the cell's edge."""
    slope_y, slope_x = np.gradient(inward)
    slope = np.stack([sample(slope_x, points), sample(slope_y, points)], axis=1)
    step = -sample(inward, points)[:, None] * slope / np.maximum((slope**2).sum(axis=1, keepdims=True), 0.25)
    return points + np.clip(step, -20, 20)


def sample(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of ``field`` (H, W) at points (N, 2) as x, y; outside, the nearest border value."""
    cells = np.clip(np.round(points), 0, field.shape[0] - 1).astype(int)
    return field[cells[:, 1], cells[:, 0]]


def bent_lines(ends: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """Parabolas between two ends, (N, 2, 2), whose middles lie aside by ``bend`` (N,) times their length; (N, 9, 2)."""
    t = np.linspace(0, 1, 9)[None, :, None]
    chord = ends[:, 1:] - ends[:, :1]  # (N, 1, 2)
    normal = chord[..., ::-1] * np.array([-1, 1])
    return ends[:, :1] + t * chord + 4 * t * (1 - t) * bend[:, None, None] * normal


def draw_places(rng: np.random.Generator, chance: np.ndarray, count: int) -> np.ndarray:
    """Points (count, 2) as x, y, whose density is proportional to ``chance`` (size, size) ≥ 0."""
    rising = np.cumsum(chance, dtype=np.float64)
    pixels = np.searchsorted(rising, rng.uniform(0, rising[-1], count))
    y, x = np.divmod(np.minimum(pixels, chance.size - 1), len(chance))
    return np.stack([x, y], axis=1) + rng.uniform(-0.5, 0.5, (count, 2))


def wandering_line(
    rng: np.random.Generator, start: np.ndarray, heading: float, length: float, curvature: float
) -> np.ndarray:
    """A line (N, 2) of ``length`` pixels in steps of about 2 whose curvature (radians per pixel) drifts slowly."""
    steps = max(3, round(length / 2))
    turns = curvature * (rng.standard_normal() + 0.5 * np.cumsum(rng.standard_normal(steps)) / np.sqrt(steps))
    headings = heading + np.cumsum(turns) * length / steps
    path = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / steps
    return start + np.concatenate([np.zeros((1, 2)), np.cumsum(path, axis=0)])


def loop_line(rng: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    """A closed, slightly squeezed and dented circle, (24, 2)."""
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    tilt, squeeze = rng.uniform(0, np.pi), rng.uniform(0.75, 1)
    distance = radius * (1 + 0.1 * np.sin(3 * angle + rng.uniform(0, 2 * np.pi)))
    x, y = distance * np.cos(angle), squeeze * distance * np.sin(angle)
    turned = np.stack([x * np.cos(tilt) - y * np.sin(tilt), x * np.sin(tilt) + y * np.cos(tilt)], axis=1)
    return centre + turned
