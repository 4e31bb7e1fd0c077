"""The ladder of an annotation budget: which cells there are, their images and steps, and in which order they tell most.

A cell is a share of the labelled pixels, a number of images and a repeat. Cells differ in annotation alone: all take
the same number of steps, and a repeat's smaller image sets lie within its larger ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.cli import UserError

DEFAULT_SHARES = (1.0, 0.25, 0.05, 0.01)
MIN_IMAGES = 4
IMAGE_STEP = 3  # the default numbers of images are the list's, a third of it, a ninth, …
MAX_COUNTS = 4


@dataclass(frozen=True, order=True)
class Cell:
    """A training of the ladder: share of the foreground pixels labelled, number of images, repeat from 1."""

    share: float
    images: int
    repeat: int

    @property
    def name(self) -> str:
        """The cell in file names and records."""
        return f"p{self.share:g}_n{self.images}_r{self.repeat}"

    @property
    def amount(self) -> float:
        """What is annotated, in fully labelled images."""
        return self.share * self.images


@dataclass(frozen=True)
class Length:
    """How long a cell trains: epochs, draws of every image in each, and the steps that makes."""

    epochs: int
    repeat: int
    steps: int


def default_counts(images: int) -> tuple[int, ...]:
    """Numbers of images to try: all, a third, a ninth, … of at least four; 120 → 120, 40, 13, 4."""
    counts = [images]
    while len(counts) < MAX_COUNTS and round(images / IMAGE_STEP ** len(counts)) >= MIN_IMAGES:
        counts.append(round(images / IMAGE_STEP ** len(counts)))
    return tuple(counts)


def make_ladder(shares: Sequence[float], counts: Sequence[int], repeats: int, available: int) -> list[Cell]:
    """Every cell, the most informative first; see `information_order`.

    Raises:
        UserError: a number of images above that of the list.
    """
    if max(counts) > available:
        raise UserError(f"--image_counts {max(counts)}: the training list has only {available} images")
    cells = [
        Cell(share, images, repeat)
        for share in sorted(set(shares))
        for images in sorted(set(counts))
        for repeat in range(1, repeats + 1)
    ]
    return information_order(cells)


def information_order(cells: Sequence[Cell]) -> list[Cell]:
    """Cells in the order in which they should be trained while time lasts.

    The edges of the ladder (all pixels, or all images) carry the curve: they come first, twice, since a single
    repeat has no interval; then the inside, twice; then further repeats. Within a round the corners come first,
    the full labels before all, then larger shares and numbers.
    """
    shares, counts = ([getattr(cell, name) for cell in cells] for name in ("share", "images"))

    def key(cell: Cell) -> tuple:
        inside = cell.share < max(shares) and cell.images < max(counts)
        rounds = cell.repeat - 1 + 2 * inside if cell.repeat <= 2 else 2 * (cell.repeat - 1) + inside
        corner = cell.share in (min(shares), max(shares)) and cell.images in (min(counts), max(counts))
        full = cell.share == max(shares) and cell.images == max(counts)
        return rounds, not full, not corner, -cell.share, -cell.images

    return sorted(cells, key=key)


def epoch_steps(images: int, repeat: int, batch_size: int) -> int:
    """Optimizer steps of an epoch; the last partial batch counts."""
    return math.ceil(images * repeat / batch_size)


def full_length(images: int, batch_size: int, epochs: int, least_steps: int, most_steps: int) -> Length:
    """The length of a training on the whole list: the preset's epochs, with ``least_steps`` to ``most_steps`` in all.

    A short list is drawn several times an epoch; a long one gets fewer epochs.
    """
    repeat = 1
    while epochs * epoch_steps(images, repeat, batch_size) < least_steps:
        repeat += 1
    steps = epoch_steps(images, repeat, batch_size)
    epochs = max(1, min(epochs, round(most_steps / steps)))
    return Length(epochs, repeat, epochs * steps)


def cell_length(images: int, batch_size: int, full: Length) -> Length:
    """Epochs and draws that give ``images`` images the steps of the full training, with like numbers of epochs.

    Exact wherever some number of epochs from half to twice the full one allows; else the nearest.
    """
    candidates = []
    for epochs in range(max(1, full.epochs // 2), 2 * full.epochs + 1):
        most = full.steps // epochs * batch_size // images
        for repeat in {max(1, most), most + 1}:
            steps = epochs * epoch_steps(images, repeat, batch_size)
            distance = abs(math.log(epochs / full.epochs))
            candidates.append((abs(steps - full.steps), distance, Length(epochs, repeat, steps)))
    return min(candidates, key=lambda candidate: candidate[:2])[2]


def choose_images(available: int, images: int, repeat: int, seed: int) -> list[int]:
    """Indices of the images of a cell, ascending; within a repeat, fewer images are part of more."""
    order = np.random.default_rng(np.random.SeedSequence([seed, repeat])).permutation(available)
    return sorted(order[:images].tolist())
