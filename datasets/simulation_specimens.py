"""What lies under the simulated microscope: a tubule network, mitochondria, nuclei, each with its exact mask.

Lengths are pixels of the final image, brightness is relative to a bright structure in focus (about 1). No optics
happen here: the mask depends on the shapes alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from datasets.simulation_geometry import (
    MARGIN,
    SUPERSAMPLING,
    Curve,
    Range,
    Specimen,
    bent_lines,
    draw_log_uniform,
    draw_places,
    draw_tubes,
    loop_line,
    move_to_outline,
    sample,
    scatter_points,
    shrink,
    smooth_field,
    wandering_line,
)


@dataclass(frozen=True, slots=True)
class TubuleNetwork:
    """Endoplasmic reticulum: a polygonal network of curved tubules with three-way junctions and some sheets.

    The network is the Voronoi diagram of scattered points in the part of the field that a cell covers; edges bend,
    some are missing; polygons near the nucleus close to sheets, and there the network is brighter and denser.

    Attributes:
        spacing: mean distance of neighbouring polygon centres, pixels.
        spacing_spread: deviation of the logarithm of the local spacing.
        radius: radius of the image's tubules, pixels; single tubules differ by ``radius_spread`` (relative).
        bend: deviation of the sideways offset of a tubule's middle, relative to its length.
        missing: share of tubules left out.
        sheet_share: highest chance of a polygon near the nucleus to be a sheet.
        brightness_spread: deviation of the logarithm of single tubules' brightness.
        patchiness: deviation of the logarithm of the brightness along tubules and over sheets, 7 pixels apart.
        nucleus_distance: from the nucleus to the middle of the field, pixels.
        cell_radius: from the nucleus to the cell's edge, pixels; the outline wavers by ``outline_waver`` pixels.
        fall_off: distance from the nucleus, pixels, over which brightness falls e-fold towards ``periphery``.
        periphery: brightness far from the nucleus, relative to that beside it.
    """

    spacing: Range = (15.0, 28.0)
    spacing_spread: float = 0.3
    radius: Range = (2.0, 3.1)
    radius_spread: float = 0.12
    bend: float = 0.08
    missing: float = 0.08
    sheet_share: float = 0.25
    brightness_spread: float = 0.3
    patchiness: float = 0.2
    nucleus_distance: Range = (110.0, 230.0)
    cell_radius: Range = (140.0, 300.0)
    outline_waver: float = 20.0
    fall_off: Range = (70.0, 160.0)
    periphery: float = 0.45

    def draw(self, rng: np.random.Generator, size: int) -> Specimen:
        """Draw one field of ``size``² pixels."""
        span = size + 2 * MARGIN
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(*self.nucleus_distance)
        nucleus = span / 2 + distance * np.array([np.cos(angle), np.sin(angle)])
        axis = np.arange(span, dtype=np.float32)
        from_nucleus = np.hypot(axis[None] - nucleus[0], axis[:, None] - nucleus[1]).astype(np.float32)
        inward = rng.uniform(*self.cell_radius) - from_nucleus + self.outline_waver * smooth_field(rng, span, 80)
        near = np.exp(-np.maximum(from_nucleus - 50, 0) / draw_log_uniform(rng, self.fall_off))
        texture = np.exp(self.spacing_spread * smooth_field(rng, span, 35).clip(-2, 2))
        points = scatter_points(rng, draw_log_uniform(rng, self.spacing) * (1.1 - 0.45 * near) * texture)
        level = (self.periphery + (1 - self.periphery) * near) * np.exp(0.2 * smooth_field(rng, span, 40))
        curves, sheets = self._shapes(rng, points, inward, near, level)
        mask, emission = draw_tubes(curves, sheets, size, depth=self.radius[1])
        emission *= np.exp(self.patchiness * smooth_field(rng, size, 7))
        field = slice(MARGIN, MARGIN + size)
        glow = (self.periphery + (1 - self.periphery) * near) * np.clip(inward / 24, 0, 1)
        return Specimen(mask, emission, cv2.GaussianBlur(glow[field, field], (0, 0), 6))

    def _shapes(
        self, rng: np.random.Generator, points: np.ndarray, inward: np.ndarray, near: np.ndarray, level: np.ndarray
    ) -> tuple[list[Curve], list[tuple[np.ndarray, float]]]:
        """The tubules and sheets of the Voronoi diagram of ``points`` inside the cell (``inward`` > 0)."""
        from scipy.spatial import Voronoi

        diagram = Voronoi(points)
        in_cell = sample(inward, points) > 0
        is_sheet = in_cell & (rng.random(len(points)) < self.sheet_share * sample(near, points) ** 2)
        levels = sample(level, points)
        edges = np.array(diagram.ridge_vertices)
        finite = edges.min(axis=1) >= 0
        kept = finite & in_cell[diagram.ridge_points].any(axis=1) & (rng.random(len(edges)) >= self.missing)
        vertices = diagram.vertices.copy()
        rim = np.unique(edges[finite & (in_cell[diagram.ridge_points].sum(axis=1) == 1)])
        vertices[rim] = move_to_outline(vertices[rim], inward)
        ends = vertices[edges[kept]] - MARGIN
        bend, thickness, brightness = rng.standard_normal((3, len(ends))).clip(-2, 2)
        radius = rng.uniform(*self.radius) * (1 + self.radius_spread * thickness)
        light = sample(level, ends.mean(axis=1) + MARGIN) * np.exp(self.brightness_spread * brightness)
        lines = bent_lines(ends, self.bend * bend)
        sheets = []
        for index in np.flatnonzero(is_sheet):
            region = diagram.regions[diagram.point_region[index]]
            if region and -1 not in region:
                sheets.append((vertices[region] - MARGIN, 0.9 * float(levels[index])))
        curves = [Curve(*tubule) for tubule in zip(lines, radius.tolist(), light.tolist(), strict=True)]
        return curves, sheets


@dataclass(frozen=True, slots=True)
class Mitochondria:
    """Mitochondria: short curved rods, some branched, and loops, in the part of the field that a cell covers.

    Attributes:
        foreground: share of the field they are to cover, about; crowded fields stay below.
        radius: radius of the image's rods, pixels; single ones differ by ``radius_spread`` (relative).
        length: of a rod, pixels.
        curvature: deviation of a rod's curvature, radians per pixel.
        loop_share, loop_radius: share of closed loops and their radius, pixels.
        branch_share: share of rods that carry a side branch.
        brightness_spread: deviation of the logarithm of single rods' brightness.
        patchiness: deviation of the logarithm of the brightness along a rod, 7 pixels apart.
        nucleus_radius: radius of the nucleus, which holds no rods, pixels.
        fall_off: distance from the nucleus, pixels, over which the density of rods falls e-fold.
    """

    foreground: Range = (0.07, 0.22)
    radius: Range = (2.2, 3.4)
    radius_spread: float = 0.12
    length: Range = (10.0, 55.0)
    curvature: float = 0.03
    loop_share: float = 0.1
    loop_radius: Range = (5.5, 9.0)
    branch_share: float = 0.15
    brightness_spread: float = 0.3
    patchiness: float = 0.2
    nucleus_radius: Range = (35.0, 55.0)
    fall_off: Range = (60.0, 200.0)

    def draw(self, rng: np.random.Generator, size: int) -> Specimen:
        """Draw one field of ``size``² pixels."""
        nucleus = rng.uniform(-0.1 * size, 1.1 * size, 2)
        nucleus_radius = rng.uniform(*self.nucleus_radius)
        axis = np.arange(size, dtype=np.float32)
        from_nucleus = np.hypot(axis[None] - nucleus[0], axis[:, None] - nucleus[1]).astype(np.float32)
        cytoplasm = from_nucleus - nucleus_radius + 6 * smooth_field(rng, size, 50)
        density = np.exp(-np.maximum(cytoplasm, 0) / draw_log_uniform(rng, self.fall_off))
        chance = density * np.exp(0.7 * smooth_field(rng, size, 45)) * (cytoplasm > 4)
        curves = self._rods(rng, chance, nucleus, size)
        mask, emission = draw_tubes(curves, [], size, depth=self.radius[1])
        emission *= np.exp(self.patchiness * smooth_field(rng, size, 7))
        glow = density * np.clip(cytoplasm / 12, 0.3, 1)
        return Specimen(mask, emission, cv2.GaussianBlur(glow, (0, 0), 6))

    def _rods(self, rng: np.random.Generator, chance: np.ndarray, nucleus: np.ndarray, size: int) -> list[Curve]:
        """Rods and loops that keep clear of each other, as dense as ``chance``, until the drawn share is covered."""
        wanted = rng.uniform(*self.foreground)
        radius = rng.uniform(*self.radius)
        taken = np.zeros((size, size), np.uint8)  # rods and the gap around them
        curves: list[Curve] = []
        covered = 0.0
        for start in draw_places(rng, chance, 1500):
            if covered >= wanted:
                break
            own = radius * (1 + self.radius_spread * float(np.clip(rng.standard_normal(), -2, 2)))
            group = self._rod_or_loop(rng, start, nucleus, own)
            if max(sample(taken, curve.points).mean() for curve in group) > 0.15:
                continue
            for curve in group:
                points = np.round(curve.points).astype(np.int32)[:, None]
                cv2.polylines(taken, [points], curve.closed, 1, round(2 * own + 5))
                covered += 2 * own * np.hypot(*np.diff(curve.points, axis=0).T).sum() / size**2
            curves += group
        return curves

    def _rod_or_loop(
        self, rng: np.random.Generator, start: np.ndarray, nucleus: np.ndarray, radius: float
    ) -> list[Curve]:
        """A loop, or a rod that points roughly away from or towards the nucleus, perhaps with a side branch."""
        light = float(np.exp(self.brightness_spread * rng.standard_normal()))
        if rng.random() < self.loop_share:
            return [Curve(loop_line(rng, start, rng.uniform(*self.loop_radius)), radius, light, closed=True)]
        heading = np.arctan2(*(start - nucleus)[::-1]) + rng.choice([0, np.pi]) + 0.7 * rng.standard_normal()
        line = wandering_line(rng, start, heading, draw_log_uniform(rng, self.length), self.curvature)
        rod = [Curve(line, radius, light)]
        if rng.random() < self.branch_share:
            aside = heading + rng.choice([-1, 1]) * rng.uniform(0.7, 1.4)
            length = draw_log_uniform(rng, self.length) / 2
            rod.append(Curve(wandering_line(rng, line[len(line) // 2], aside, length, self.curvature), radius, light))
        return rod


@dataclass(frozen=True, slots=True)
class Nuclei:
    """Nuclei: textured ellipses with dented outlines, some touching, of one size class per image.

    Attributes:
        diameter: typical diameter of the image's nuclei, pixels (logarithm uniform); single ones differ by
            ``diameter_spread`` (deviation of the logarithm).
        foreground: share of the field they are to cover; the last nucleus may pass it.
        elongation: long over short axis.
        dents: deviation of the outline's distance from an ellipse, relative.
        touching: chance of a nucleus to be placed against an earlier one.
        overlap: deepest overlap of two nuclei, relative to the sum of their radii.
        brightness_spread: deviation of the logarithm of single nuclei's brightness (the image's own is drawn).
        bright_share, bright: share of condensed (mitotic) nuclei, at most two thirds as wide, and their brightness.
        texture: deviation of the logarithm of the brightness of chromatin, which varies over ``grain`` diameters.
    """

    diameter: Range = (11.0, 52.0)
    diameter_spread: float = 0.16
    foreground: Range = (0.02, 0.28)
    elongation: Range = (1.0, 1.8)
    dents: float = 0.07
    touching: float = 0.25
    overlap: float = 0.12
    brightness_spread: Range = (0.12, 0.6)
    bright_share: float = 0.03
    bright: Range = (1.6, 3.0)
    texture: float = 0.2
    grain: float = 0.08

    def draw(self, rng: np.random.Generator, size: int) -> Specimen:
        """Draw one field of ``size``² pixels."""
        fine = size * SUPERSAMPLING
        diameter = draw_log_uniform(rng, self.diameter)
        spread = rng.uniform(*self.brightness_spread)
        covered = np.zeros((fine, fine), bool)
        light = np.zeros((fine, fine), np.float32)
        for centre, radius, is_bright in self._places(rng, diameter, size):
            level = float(np.exp(spread * rng.standard_normal())) * (rng.uniform(*self.bright) if is_bright else 1)
            self._add_nucleus(rng, covered, light, centre, radius, level)
        mask = shrink(covered.astype(np.float32), size) >= 0.5
        chromatin = smooth_field(rng, size, max(2.5, self.grain * diameter))
        emission = shrink(light, size) * np.exp(self.texture * chromatin)
        glow = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.6 * diameter)
        return Specimen(mask.astype(np.uint8), emission, glow)

    def _places(self, rng: np.random.Generator, diameter: float, size: int) -> list[tuple[np.ndarray, float, bool]]:
        """Centres (x, y), radii and brightness classes of nuclei until the drawn share of the field is covered."""
        wanted = rng.uniform(*self.foreground) * size**2
        centres, radii, places = np.empty((0, 2)), np.empty(0), []
        area = 0.0
        for _ in range(4000):
            if area >= wanted:
                break
            is_bright = bool(rng.random() < self.bright_share)
            radius = diameter / 2 * float(np.exp(self.diameter_spread * rng.standard_normal()))
            radius *= rng.uniform(0.45, 0.67) if is_bright else 1
            centre = rng.uniform(-radius / 2, size + radius / 2, 2)
            reach = radii + radius
            if len(places) and rng.random() < self.touching:
                partner, angle = rng.integers(len(places)), rng.uniform(0, 2 * np.pi)
                centre = centres[partner] + reach[partner] * np.array([np.cos(angle), np.sin(angle)])
                reach = (1 - self.overlap) * reach
            else:
                reach = 1.15 * reach
            if (np.hypot(*(centres - centre).T) < reach).any():
                continue
            centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
            places.append((centre, radius, is_bright))
            area += np.pi * radius**2 * ((centre > 0) & (centre < size)).all()
        return places

    def _add_nucleus(
        self,
        rng: np.random.Generator,
        covered: np.ndarray,
        light: np.ndarray,
        centre: np.ndarray,
        radius: float,
        level: float,
    ) -> None:
        """Add one nucleus to the fine canvases: ``covered`` (bool) and ``light`` (float32), both in place."""
        stretch = np.sqrt(rng.uniform(*self.elongation))
        tilt = rng.uniform(0, np.pi)
        phases, depths = rng.uniform(0, 2 * np.pi, 3), self.dents * rng.standard_normal(3)
        reach = 1.5 * radius * SUPERSAMPLING
        middle = (centre + 0.5) * SUPERSAMPLING - 0.5
        low = np.clip(middle - reach, 0, len(light)).astype(int)
        high = np.clip(middle + reach + 1, 0, len(light)).astype(int)
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(np.float32)
        x, y = (x - middle[0]) / (radius * SUPERSAMPLING), (y - middle[1]) / (radius * SUPERSAMPLING)
        along = (x * np.cos(tilt) + y * np.sin(tilt)) / stretch
        across = (y * np.cos(tilt) - x * np.sin(tilt)) * stretch
        angle = np.arctan2(across, along)
        waves = np.sin(np.array([2, 3, 4])[:, None, None] * angle + phases[:, None, None])
        outline = 1 + np.tensordot(depths / (1, 2, 3), waves, axes=1)
        squared = (along**2 + across**2) / outline**2
        window = (slice(low[1], high[1]), slice(low[0], high[0]))
        covered[window] |= squared <= 1
        light[window] += level * np.clip(1 - squared, 0, 1) ** 0.25  # a flattened body, thinner at its rim
