"""The systematic errors of labels: what they are called, how large they are, what they cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluation.label_audit.moves import FAR_REACH, Moved

AT_BOUNDARIES, BY_IMAGE, BY_PLACE, MOVED = "at boundaries", "by image", "by place", "moved"
OF_LABELS, OF_ERRORS = "of label rate", "of error rate"
# what a difference of rates is of
RATES = {
    OF_LABELS: "where outlines are hollow {} more labels are set than where they bulge",
    OF_ERRORS: "{} more labels are wrong than elsewhere",
}
ON_AVERAGE, DEGREES, PERCENT = "px on average", "°", "%"
FILLED = "IoU when filled"  # of outlines
ACROSS = "px across"  # of dots
TAKEN_BACK = "taken back, a correlation of"
DISPLACED = (ON_AVERAGE, DEGREES, PERCENT, TAKEN_BACK)  # units of displacements that no common move undoes
IN_SOME = "px in some labels"
MEASURES = {"px": " px", IN_SOME: " px", ON_AVERAGE: " px on average", DEGREES: "°", PERCENT: "%"}

ALL = 0.8  # of the labels, from which on it is not said how many are displaced
FARTHEST = 10.0  # pixels up to which outlines are looked for beside their place


@dataclass(frozen=True)
class Bias:
    """One systematic error.

    Args:
        kind: AT_BOUNDARIES, BY_IMAGE, BY_PLACE or ``moved by (dy, dx)``.
        what: in words: ``wider``, ``dim structures missed`` …
        size: pixels (outline, move), or how well image or place tell wrong labels from right ones, as an AUC.
        low, high: 95 % bounds of the size; NaN with too few images.
        unit: of the size: one of MEASURES, ``AUC``, FILLED, ACROSS, TAKEN_BACK, or of label rates what RATES says.
    """

    kind: str
    what: str
    size: float
    low: float
    high: float
    unit: str = "px"

    def text(self) -> str:
        """``wider by 2.0 px (1.5 to 2.5)``."""
        if self.unit in MEASURES:
            farthest = FAR_REACH if self.kind.startswith(MOVED) else FARTHEST
            more = " or more" if self.unit == "px" and self.high >= farthest else ""
            bounds = "" if np.isnan(self.low) else f" ({self.low:.1f} to {self.high:.1f}{more})"
            return f"{self.what} by {self.size:.1f}{MEASURES[self.unit]}{bounds}"
        if self.unit == ACROSS:
            return f"{self.what}, {self.size:.0f} {ACROSS}"
        if self.unit == FILLED:
            return f"{self.what} (filled, an IoU of {self.size:.2f})"
        if self.unit in RATES:
            return f"{self.what}: {RATES[self.unit].format(f'{self.size:.0%} ({self.low:.0%} to {self.high:.0%})')}"
        bounds = "" if np.isnan(self.low) else f", {self.low:.2f} to {self.high:.2f}"
        return f"{self.what} ({self.unit} {self.size:.2f}{bounds})"


@dataclass(frozen=True)
class Displacement:
    """What displaces labels, in words, with its size in a unit and 95 % bounds.

    Args:
        places: of the labels that it displaces, where these are not all.
    """

    what: str
    size: float
    low: float
    high: float
    unit: str
    places: tuple[int, ...] = ()

    @property
    def bias(self) -> Bias:
        """The same as a systematic error."""
        return Bias(AT_BOUNDARIES, self.what, self.size, self.low, self.high, self.unit)


@dataclass(frozen=True)
class Biases:
    """What was found of a label set.

    Args:
        found: every bias, the largest cause first: moved, at boundaries, by image, by place.
        moved: by how many pixels whole labels lie off.
        offset: by how many pixels outlines are wider (> 0) or narrower; 0 where it is within its error.
        labels: the labels, moved back.
        cost: share of the IoU that outlines and moves cost whoever takes the threshold that noise alone would imply.
        threshold: that draws the true outline after training on the labels, see ``threshold.py``.
        overlap: the share of IoU that is left where labels lie off as far as these do.
        imitation: IoU with the truth of labels as the image predicts them; 1 where it predicts no errors.
        displaced: places of the labels that lie off by no common move, where these are not all.
    """

    found: tuple[Bias, ...]
    moved: Moved
    offset: float
    labels: list[np.ndarray]
    cost: float
    threshold: float
    overlap: float
    imitation: float
    displaced: tuple[int, ...] = ()

    @property
    def are_outlines(self) -> bool:
        """Whether labels are outlines that nobody filled."""
        return any(bias.unit == FILLED for bias in self.found)

    @property
    def are_dots(self) -> bool:
        """Whether labels are dots in what they mark."""
        return any(bias.unit == ACROSS for bias in self.found)

    def has(self, kind: str) -> bool:
        """Whether a bias of a kind was found."""
        return any(bias.kind == kind for bias in self.found)
