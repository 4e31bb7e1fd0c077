"""The grid of an annotation budget: which trials there are, their images and steps, and in which order they tell most.

A trial is a share of the labelled pixels, a number of images and a repeat. Trials differ in annotation alone: all take
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
SET_HERE = {  # options of main.py that this tool sets itself → what to give instead
    "label_noise": "--pixel_shares",
    "label_noise_refresh": "--pixel_shares",
    "transition_matrix": "--pixel_shares",
    "epochs": "--steps",
    "repeat": "--steps",
    "stop_after": "--steps",
    "fold": "--image_counts",
    "group_by": "--image_counts",
    "run_name": "--out",
    "config": "the options themselves",
    "resume": "the same command again, which goes on",
    "checkpoint_every": "--keep_checkpoints",
    "tensorboard": "the folder's curve.png",
    "igtt": "main.py: it needs no annotation",
}


@dataclass(frozen=True, order=True)
class Trial:
    """A training of the grid: share of the foreground pixels labelled, number of images, repeat from 1."""

    share: float
    images: int
    repeat: int

    @property
    def name(self) -> str:
        """The trial in file names and records."""
        return f"p{self.share:g}_n{self.images}_r{self.repeat}"


@dataclass(frozen=True)
class Length:
    """How long a trial trains: epochs, draws of every image in each, and the steps that makes."""

    epochs: int
    repeat: int
    steps: int


def default_counts(images: int) -> tuple[int, ...]:
    """Numbers of images to try: all, a third, a ninth, … of at least four; 120 → 120, 40, 13, 4."""
    counts = [images]
    while len(counts) < MAX_COUNTS and round(images / IMAGE_STEP ** len(counts)) >= MIN_IMAGES:
        counts.append(round(images / IMAGE_STEP ** len(counts)))
    return tuple(counts)


def make_grid(shares: Sequence[float], counts: Sequence[int], repeats: int, available: int) -> list[Trial]:
    """Every trial, the most informative first; see `information_order`.

    Raises:
        UserError: a number of images above that of the list.
    """
    if max(counts) > available:
        raise UserError(f"--image_counts {max(counts)}: the training list has only {available} images")
    trials = [
        Trial(share, images, repeat)
        for share in sorted(set(shares))
        for images in sorted(set(counts))
        for repeat in range(1, repeats + 1)
    ]
    return information_order(trials)


def information_order(trials: Sequence[Trial]) -> list[Trial]:
    """Cells in the order in which they should be trained while time lasts.

    The edges of the grid (all pixels, or all images) carry the curve: they come first, twice, since a single
    repeat has no interval; then the inside, twice; then further repeats. Within a round the corners come first,
    the full labels before all, then larger shares and numbers.
    """
    shares, counts = ([getattr(trial, name) for trial in trials] for name in ("share", "images"))

    def key(trial: Trial) -> tuple:
        inside = trial.share < max(shares) and trial.images < max(counts)
        rounds = trial.repeat - 1 + 2 * inside if trial.repeat <= 2 else 2 * (trial.repeat - 1) + inside
        corner = trial.share in (min(shares), max(shares)) and trial.images in (min(counts), max(counts))
        full = trial.share == max(shares) and trial.images == max(counts)
        return rounds, not full, not corner, -trial.share, -trial.images

    return sorted(trials, key=key)


def epoch_steps(images: int, repeat: int, batch_size: int) -> int:
    """Optimizer steps of an epoch; the last partial batch counts."""
    return math.ceil(images * repeat / batch_size)


def full_length(images: int, batch_size: int, epochs: int, min_steps: int, max_steps: int) -> Length:
    """The length of a training on the whole list: the preset's epochs, with ``min_steps`` to ``max_steps`` in all.

    A short list is drawn several times an epoch; a long one gets fewer epochs.
    """
    repeat = 1
    while epochs * epoch_steps(images, repeat, batch_size) < min_steps:
        repeat += 1
    steps = epoch_steps(images, repeat, batch_size)
    epochs = max(1, min(epochs, round(max_steps / steps)))
    return Length(epochs, repeat, epochs * steps)


def trial_length(images: int, batch_size: int, full: Length) -> Length:
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
    """Indices of the images of a trial, ascending; within a repeat, fewer images are part of more."""
    order = np.random.default_rng(np.random.SeedSequence([seed, repeat])).permutation(available)
    return sorted(order[:images].tolist())
