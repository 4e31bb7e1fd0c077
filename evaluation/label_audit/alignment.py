"""How far each label lies off the truth by itself: turned, enlarged, mirrored or moved, in every image another way.

Labels are drawn small, taken back every way, and held against the truth at every move. What one half of a chequered
image chooses counts only for what the other half gains by it: labels of other images gain nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from datasets.labels import IGNORE
from evaluation.label_audit.bias import ALL, DEGREES, ON_AVERAGE, PERCENT, TAKEN_BACK, Displacement
from evaluation.label_audit.moves import TURNS, Labels
from evaluation.scores.bootstrap import MIN_IMAGES, bootstrap_mean

# Fixed on simulated sets: turned and moved labels have a correlation of 0.72 to 0.97 once they are taken back, those of
# other images, taken back the best way there is, of 0.24 to 0.31.
SIDE = 96  # pixels along the longer side of the small maps
REACH = SIDE // 4  # of them, up to which labels are looked for beside their place
BLUR = 1.0  # of them: no angle or scale lies between two that are tried
CHEQUERS = 6  # fields of a chequerboard along a side
ANGLES = tuple(float(angle) for angle in range(-90, 91, 2) if angle)  # degrees, clockwise
SCALES = 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3
CERTAIN = 0.97  # correlation of a label with the truth from which on it lies where it should
ALIGNED = 0.6  # the same, of labels that are taken back
LEAST_GAIN = 0.05  # of that, which taking them back must win
LEAST_LABELS = 2, 0.1  # number, and part, of the labels that must lie off
LEAST_SCALED = 0.5  # the same part for labels to be called enlarged: narrow ones of few objects look shrunk
ALIKE = 0.25  # standard deviation, as a part of the mean, up to which they lie off alike
DIFFERENTLY = ("turned", "enlarged or shrunk", "moved")  # what labels are that do not lie off alike
FAR = 8.0  # pixels, beyond which parts of an image show but a piece of how its label lies


@dataclass(frozen=True)
class Placed:
    """How a label lies in its image.

    Args:
        angle: degrees clockwise; scale: as a part of the truth's; mirrored: one of TURNS, or nothing.
        length: of the move besides, pixels.
        before, after: correlation with the truth as it is, and taken back.
        gain: in one half of the image by what the other chose.
    """

    angle: float = 0.0
    scale: float = 1.0
    mirrored: str = ""
    length: float = 0.0
    before: float = 1.0
    after: float = 1.0
    gain: float = 0.0

    @property
    def is_off(self) -> bool:
        """Whether the label, taken back, lies on the truth and did not before, in both halves of the image."""
        return self.after >= ALIGNED and min(self.gain, self.after - self.before) > LEAST_GAIN * self.after

    @property
    def way(self) -> str:
        """What the label is, in a word."""
        if self.mirrored:
            return "mirrored"
        return "turned" if self.angle else "enlarged" if self.scale != 1 else "moved"

    def reach(self, side: float) -> float:
        """How far most of the label lies off, pixels, in an image of a side of so many."""
        if self.mirrored:
            return float("inf")
        return self.length + side / 3 * (np.deg2rad(abs(self.angle)) + abs(self.scale - 1))


@dataclass(frozen=True)
class Aligned:
    """What displaces labels one by one.

    Args:
        displacement: in words, with its size.
        is_near: whether parts of images show it, so that `find_displacement` knows it more exactly.
        growth: mean part by which labels that are enlarged or shrunk are; 0 of others.
    """

    displacement: Displacement
    is_near: bool
    growth: float = 0.0

    def may_be(self, offset: float) -> bool:
        """Whether outlines that are wider (> 0) or narrower look like it, where images show few objects."""
        return self.growth * offset > 0


def find_alignment(truths: Labels, labels: Labels, seed: int = 0) -> Aligned | None:
    """What displaces binary labels, 255 ignored, (H, W) each; None where hardly any lies on the truth once taken back.

    Where labels lie off in several ways, the commonest is told.
    """
    placed = [place_label(*pair) for pair in zip(truths, labels, strict=True)]
    off = {number: place for number, place in enumerate(placed) if place is not None and place.is_off}
    judged = len(placed) - placed.count(None)
    if judged < MIN_IMAGES or len(off) < max(LEAST_LABELS[0], LEAST_LABELS[1] * judged):
        return None
    ways = [place.way for place in off.values()]
    way = max(sorted(set(ways)), key=ways.count)
    chosen = [place for place in off.values() if place.way == way]
    if way == "enlarged" and len(chosen) < LEAST_SCALED * judged:
        return None
    is_all = len(off) >= ALL * judged
    count = "" if len(chosen) >= ALL * judged else f"{len(chosen)} of {len(placed)} labels "
    what, values, unit, limit = _told(way, chosen)
    mean, low, high = bootstrap_mean(values, limits=(0.0, limit), seed=seed)
    found = Displacement(_in_words(what, unit, count), mean, low, high, unit, () if is_all else tuple(off))
    side = float(np.mean([max(truth.shape) for truth in truths]))
    growth = float(np.mean([place.scale - 1 for place in chosen]))
    return Aligned(found, all(place.reach(side) < FAR for place in off.values()), growth)


def _told(way: str, placed: Sequence[Placed]) -> tuple[str, np.ndarray, str, float]:
    """What labels that lie off in one way are, their sizes, the unit of these, and the largest there may be."""
    if way == "mirrored":
        kinds = {place.mirrored for place in placed}
        what = kinds.pop() if len(kinds) == 1 else "mirrored or turned by right angles"
        return what, np.array([place.after for place in placed]), TAKEN_BACK, 1.0
    if way == "moved":
        return way, np.array([place.length for place in placed]), ON_AVERAGE, np.inf
    if way == "turned":
        values, unit, sides = np.array([place.angle for place in placed]), DEGREES, ("clockwise", "counterclockwise")
        way = f"{way} "
    else:
        values, unit, sides = 100 * np.array([place.scale - 1 for place in placed]), PERCENT, ("enlarged", "shrunk")
        way = ""
    if values.std() <= ALIKE * abs(values.mean()):
        return way + sides[int(values.mean() < 0)], np.abs(values), unit, np.inf
    return way.strip() or "enlarged or shrunk", np.abs(values), unit, np.inf


def _in_words(what: str, unit: str, count: str) -> str:
    """``turned differently in every image, on average``, ``3 of 8 labels turned, on average``, or ``turned clockwise``.

    Args:
        what: of `_told`; count: of the labels, ``3 of 8 labels ``, or nothing.
    """
    if what not in DIFFERENTLY:
        return count + what
    average = "" if unit == ON_AVERAGE else " on average"
    if count:
        return f"{count}{what},{average}" if average else f"{count}{what}"
    return f"{what} differently in every image,{average}"


@dataclass(frozen=True)
class _Trial:
    """One way of taking a label back."""

    angle: float = 0.0
    scale: float = 1.0
    mirrored: str = ""

    def undo(self, small: np.ndarray) -> np.ndarray:
        """The map taken back; what comes in is 0."""
        if self.mirrored:
            return np.ascontiguousarray(TURNS[self.mirrored](small))
        if not self.angle and self.scale == 1:
            return small
        height, width = small.shape
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.angle, 1 / self.scale)
        return cv2.warpAffine(small, matrix, (width, height), flags=cv2.INTER_LINEAR)


@lru_cache
def _trials(is_square: bool) -> tuple[_Trial, ...]:
    """All ways that are tried; the first does nothing."""
    shape = (2, 2) if is_square else (2, 3)
    turns = [what for what, undo in TURNS.items() if undo(np.empty(shape)).shape == shape]
    return (
        _Trial(),
        *(_Trial(angle=angle) for angle in ANGLES),
        *(_Trial(scale=scale) for scale in SCALES),
        *(_Trial(mirrored=what) for what in turns),
    )


def place_label(truth: np.ndarray, label: np.ndarray) -> Placed | None:
    """Where a binary label lies, 255 ignored, (H, W) both; None where either shows one class alone."""
    from scipy.fft import irfft2, next_fast_len, rfft2

    known = (truth != IGNORE) & (label != IGNORE)
    factor = SIDE / max(truth.shape)
    fixed, small = (_small_map(item, known, factor) for item in (truth, label))
    energy = float(np.sqrt((fixed**2).sum() * (small**2).sum()))
    if not energy > 0:
        return None
    before = float((fixed * small).sum() / energy)
    if before >= CERTAIN:
        return Placed(before=before, after=before)
    trials = _trials(truth.shape[0] == truth.shape[1])
    shape = [next_fast_len(size + REACH, real=True) for size in fixed.shape]
    rows, columns = (np.arange(size) * CHEQUERS // size for size in fixed.shape)
    chequered = (rows[:, None] + columns) % 2 == 0
    spectra = rfft2(np.stack([trial.undo(small) for trial in trials]), shape)
    around = np.arange(-REACH, REACH + 1)
    one, other = (
        (irfft2(np.conj(rfft2(half, shape)) * spectra, shape)[:, around[:, None], around] / energy).ravel()
        for half in (np.where(chequered, fixed, 0), np.where(chequered, 0, fixed))
    )
    both, here = one + other, 2 * REACH * (REACH + 1)
    best, down, right = np.unravel_index(both.argmax(), (len(trials), len(around), len(around)))
    trial = trials[int(best)]
    return Placed(
        trial.angle,
        trial.scale,
        trial.mirrored,
        length=float(np.hypot(down - REACH, right - REACH)) / factor,
        before=before,
        after=float(both.max()),
        gain=float(other[one.argmax()] - other[here] + one[other.argmax()] - one[here]),
    )


def _small_map(item: np.ndarray, known: np.ndarray, factor: float) -> np.ndarray:
    """A binary label less its mean, 0 where it is not known, drawn small and smoothed; float32."""
    inside = (item == 1).astype(np.float32)
    level = inside[known].mean() if known.any() else 0.0
    size = [max(round(side * factor), 2 * CHEQUERS) for side in item.shape[::-1]]
    small = cv2.resize(np.where(known, inside - level, 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small, (0, 0), BLUR)
