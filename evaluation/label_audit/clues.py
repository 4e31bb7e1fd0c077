"""What images alone say of binary labels beyond their strength: do they lie off, where are edges, what is left out.

None of it needs clean labels. Where all labels lie off by some pixels, images predict labels that were moved back
better than those as they are: the stand-in is fitted to each of the shifts, on other images than it is read on. The
image's own edges show at a distance from outlines that were drawn too wide or too narrow; as what an annotator means
need not end at an edge, that is a guess. Parts of images that were never annotated have scores without labels, in the
same place of every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.labels import IGNORE
from datasets.noise_steps import signed_distance
from evaluation.label_audit.by_distance import local_density
from evaluation.label_audit.moves import Moved, best_move
from evaluation.label_audit.pixel_classifier import PixelLearner, as_grey
from evaluation.scores import ratio
from evaluation.scores.bootstrap import MIN_IMAGES, counts_interval, small_sample_reach

SHIFTS = 6  # pixels by which labels may lie off, each way
EDGE_SIGMA, EDGE_REACH, EDGE_STEP = (1.0, 8.0, 0.5)  # pixels: of the gradient, how far edges are looked for, and step
MIN_EDGE = 1.0  # pixels from the outline from which on an edge is worth a word
CLEAR_EDGE = 1.2  # times the median gradient that the edge must have
BESIDE = 2.0  # times the gradient as far on the other side of the outline; labels that lie off to either side have 1.8
LEAST_AT_EDGE = 0.1  # of the pixels at the outline, that a distance must have for an edge to be looked for there
LEFT_OUT = 0.25  # of the error variance that the place must explain; cells in the middle of each image reach 0.13

Labels = Sequence[np.ndarray]
Positions = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Clues:
    """What was found.

    Args:
        moved: by how many pixels the labels lie off the images.
        edge: how far outside (> 0) of the labels' outlines the images' edges lie, pixels; edge_low, edge_high: its 95 %
            interval. NaN where there is no clear edge.
        by_place: whether a part of every image lacks labels that the images predict.
        guess: 1 where the labels mark the smaller part of the images, −1 the larger: a guess that they are inverted.
    """

    moved: Moved
    edge: float
    edge_low: float
    edge_high: float
    by_place: bool
    guess: int

    def lines(self) -> list[str]:
        """What was found, in words, a sentence each."""
        found = []
        if self.moved:
            found.append(self._moved_line())
        if self.has_clear_edge:
            side, drawn = ("outside", "narrow") if self.edge > 0 else ("inside", "wide")
            low, high = sorted((abs(self.edge_low), abs(self.edge_high)))
            found.append(
                f"The images' edges lie {abs(self.edge):.1f} pixels ({low:.1f} to {high:.1f}) {side} the labels' "
                f"outlines: if structures end at an edge, the labels are drawn too {drawn}."
            )
        if self.by_place:
            found.append(
                "A part of every image lacks labels that the images predict: it may never have been annotated."
            )
        if self.guess < 0:
            found.append("The labels mark the larger part of the images: a guess is that they are inverted.")
        return found

    def _moved_line(self) -> str:
        """Which way the labels lie off; at the farthest place that was looked at, they may lie off farther."""
        ways = ((self.moved.down, "below", "above"), (self.moved.right, "right of", "left of"))
        sides = [f"{abs(by)} px {more if by > 0 else less}" for by, more, less in ways if by]
        line = f"The labels lie {' and '.join(sides)} what the images show"
        if max(abs(self.moved.down), abs(self.moved.right)) >= SHIFTS:
            return f"{line}, or farther."
        return f"{line} (move:{-self.moved.down},{-self.moved.right} takes them back)."

    def nothing_found(self) -> str:
        """That no clue speaks against the labels, for those of which `lines` says nothing."""
        if np.isnan(self.edge):
            return (
                "They are not moved all alike, and no part was left out in all images; no clear edge there tells how "
                "exactly their outlines lie."
            )
        return (
            f"They lie where the images show them, within {abs(self.edge):.1f} pixels of their edges, and no part was "
            "left out in all images."
        )

    @property
    def has_clear_edge(self) -> bool:
        """Whether edges lie beside the outlines beyond their error."""
        return abs(self.edge) >= MIN_EDGE and bool(self.edge_low > 0 or self.edge_high < 0)


def find_clues(
    labels: Labels, images: Labels, learner: PixelLearner, scores: np.ndarray, *, positions: Positions, seed: int = 0
) -> Clues:
    """Look for what images say of binary labels.

    Args:
        labels: with 255 ignored, (H, W) each; images: (H, W) or (H, W, C) each.
        learner: the stand-in of the images at the positions.
        scores: that it gives, where fitted to the labels, never to those of the same image, (P,).
        positions: (rows, columns) of every image.
    """
    moved = best_move(_covariances_by_shift(labels, learner, positions), seed)
    split = np.split(scores, np.cumsum([len(rows) for rows, _ in positions])[:-1])
    edge, low, high = (np.nan, np.nan, np.nan) if moved else _edge_position(labels, images, seed)
    share = sum(int((label == 1).sum()) for label in labels) / max(
        sum(int((label != IGNORE).sum()) for label in labels), 1
    )
    guess = 1 if share < 0.5 else -1
    return Clues(moved, edge, low, high, _left_out(labels, split, positions, seed), guess)


def _covariances_by_shift(labels: Labels, learner: PixelLearner, positions: Positions) -> np.ndarray:
    """Covariance of labels at every shift with what images predict of them; (n, 2·SHIFTS + 1, 2·SHIFTS + 1)."""
    around = np.arange(-SHIFTS, SHIFTS + 1)
    down, right = (item.ravel() for item in np.meshgrid(around, around, indexing="ij"))
    targets = []
    for label, (rows, columns) in zip(labels, positions, strict=True):
        density = np.nan_to_num(local_density(label)).astype(np.float32)
        at_rows = np.clip(rows[:, None] + down, 0, label.shape[0] - 1)
        at_columns = np.clip(columns[:, None] + right, 0, label.shape[1] - 1)
        targets.append(density[at_rows, at_columns])
    target = np.concatenate(targets)
    scores = learner.scores(target)
    tables = []
    for image in range(len(labels)):
        own = learner.image == image
        tables.append(((scores[own] - scores[own].mean(0)) * (target[own] - target[own].mean(0))).sum(0))
    return np.array(tables, float).reshape(len(labels), len(around), len(around))


def _edge_position(labels: Labels, images: Labels, seed: int) -> tuple[float, float, float]:
    """Where the images' gradient is largest, by signed distance to the labels' outlines, with its interval."""
    edges = np.arange(-EDGE_REACH, EDGE_REACH + EDGE_STEP, EDGE_STEP)
    tables = []
    for label, image in zip(labels, images, strict=True):
        smooth = cv2.GaussianBlur(as_grey(image), (0, 0), EDGE_SIGMA)
        gradient = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
        distance = signed_distance((label == 1).astype(np.uint8))
        near = (np.abs(distance) < EDGE_REACH) & (label != IGNORE)
        place = np.searchsorted(edges, distance[near], side="right") - 1
        sums = [np.bincount(place, weights, len(edges)) for weights in (gradient[near], np.ones(int(near.sum())))]
        tables.append(sums)
    table = np.array(tables)
    middle = len(edges) // 2
    rare = table.sum(0)[1] < LEAST_AT_EDGE * table.sum(0)[1, middle - 1 : middle + 1].max()
    table[..., rare] = 0

    def peak(sums: np.ndarray) -> np.ndarray:
        mean = ratio(sums[..., 0, :], sums[..., 1, :], 0.0)
        strong = np.clip(mean - 0.9 * mean.max(-1, keepdims=True), 0, None)
        return (strong * (edges + EDGE_STEP / 2)).sum(-1) / np.maximum(strong.sum(-1), 1e-9)

    pooled = ratio(table.sum(0)[0], table.sum(0)[1])
    if len(table) < MIN_IMAGES or not np.nanmax(pooled) > CLEAR_EDGE * np.nanmedian(pooled):
        return np.nan, np.nan, np.nan
    found = float(peak(table.sum(0)))
    here, opposite = (np.interp(side * found, (edges + EDGE_STEP / 2)[~rare], pooled[~rare]) for side in (1, -1))
    if abs(found) >= MIN_EDGE and here < BESIDE * opposite:
        return np.nan, np.nan, np.nan
    return found, *counts_interval(peak, table, seed, 400)


def _left_out(labels: Labels, scores: Sequence[np.ndarray], positions: Positions, seed: int) -> bool:
    """Whether the place explains a part of what labels lack against their scores, in every half of the images."""
    if len(labels) < MIN_IMAGES:
        return False
    where, rest, used = [], [], []
    for label, own, (rows, columns) in zip(labels, scores, positions, strict=True):
        place = np.stack([rows / label.shape[0], columns / label.shape[1]], 1)
        where.append(np.c_[place, place * own[:, None], own].astype(np.float32))
        rest.append((label[rows, columns] == 1) - own)
        used.append(label[rows, columns] != IGNORE)
    rest, used = np.concatenate(rest), np.concatenate(used)
    learner = PixelLearner(where, seed)
    plain = PixelLearner([item[:, -1:] for item in where], seed).scores(rest.astype(np.float32), used)
    placed = learner.scores(rest.astype(np.float32), used)
    won = np.where(used, (rest - plain) ** 2 - (rest - placed) ** 2, 0)
    per_image = np.bincount(learner.image, won, len(labels))
    error = per_image.std(ddof=1) * np.sqrt(len(per_image))
    part = per_image.sum() / max(float(((rest - plain)[used] ** 2).sum()), 1e-9)
    return bool(part > LEFT_OUT and per_image.sum() > small_sample_reach(len(per_image)) * error)
