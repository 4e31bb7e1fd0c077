"""What may be wrong with a suspect label: moved, mirrored, inverted, another image's, objects missing or invented, ….

A guess to look at first, not a proof. Explanations of the whole label are tried before its parts: one is taken where,
undone, it removes at least half of the divergence between the label and what the predictions make of its image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from datasets.labels import IGNORE
from evaluation.label_audit.moves import TURNS
from evaluation.label_errors.quality import FLOOR, LabelQuality

GRID = 128  # cells along the longer side of the grid on which movements are tried
REACH = 10  # cells that a label may have been moved
COARSE = 32  # cells along each side of the grid on which labels are compared with other images
EXPLAINED = 0.5  # share of the divergence that an explanation must remove
OVERLAP = 0.12  # share of an object, as against the usual foreground, up to which the other side has nothing of it
MIN_OBJECT = 12  # pixels
ONE_SIDED = 3  # how many times as many issues on one side make a label too large or too small
SPECKLED = 0.02  # how much larger than three times the usual a label's share of lone pixels must be


def on_grid(label: np.ndarray, posterior: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Densities of a label and of what is expected of it on a coarser grid, float32 (K, *size) each.

    Ignored pixels count as expected ones.
    """
    masks = np.stack([label == index for index in range(len(posterior))]).astype(np.float32)
    masks = np.where(label == IGNORE, posterior, masks).astype(np.float32)
    shrink = [
        np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_AREA) for plane in planes])
        for planes in (masks, posterior.astype(np.float32))
    ]
    return shrink[0], np.maximum(shrink[1], FLOOR)


def divergence(given: np.ndarray, expected: np.ndarray) -> float:
    """Mean Kullback–Leibler divergence, nats, of densities (K, …)."""
    ratio = np.log(np.maximum(given, 1e-12) / expected)
    return float(np.where(given > 0, given * ratio, 0).sum(0).mean())


@dataclass(frozen=True)
class Others:
    """All labels and what is expected of all images on a coarse grid, (n, K · COARSE²) each.

    Args:
        given, expected: densities.
        names: what to call the images.
    """

    given: np.ndarray
    expected: np.ndarray
    names: Sequence[str]

    def better(self, place: int) -> str | None:
        """The image that a label fits so much better than its own that it is likely to be that one's, or None."""
        given = self.given[place]
        entropy = (given * np.log(np.maximum(given, 1e-12))).sum()
        misfit = entropy - np.log(self.expected) @ given
        best = int(misfit.argmin())
        return self.names[best] if misfit[best] <= (1 - EXPLAINED) * misfit[place] and best != place else None


def coarse_pair(label: np.ndarray, posterior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image's rows of `Others`, float32 (K · COARSE²,) each."""
    given, expected = on_grid(label, posterior, (COARSE, COARSE))
    return given.reshape(-1), expected.reshape(-1)


def speckle(label: np.ndarray) -> float:
    """Share of pixels that differ from the median of their 3×3 neighbours: 0.3 of flipped pixels give about 0.3."""
    valid = label != IGNORE
    return float((label != cv2.medianBlur(label, 3))[valid].mean()) if valid.any() else 0.0


def guess_kind(
    label: np.ndarray,
    posterior: np.ndarray,
    assessed: LabelQuality,
    confidence: np.ndarray,
    others: Others | None = None,
    place: int = 0,
    usual_speckle: float = 0.0,
) -> str:
    """In words, what may be wrong with a label that stands out.

    Args:
        label: class indices with 255 ignored, (H, W).
        posterior: P(label = k), (K, H, W).
        confidence: usual posterior of each class, see `label_quality.Calibration`.
        others, place: the other images of the list, and this one's place among them.
        usual_speckle: that of the list's labels.
    """
    issues = assessed.issues(confidence)
    if issues.any() and not (label[assessed.valid] > 0).any():
        return "empty"
    if issues.any() and (label[assessed.valid] > 0).all():
        return "no background"
    if speckle(label) > 3 * usual_speckle + SPECKLED:
        return "scattered errors"
    whole = explain_whole(label, posterior)
    if whole is not None:
        return whole
    other = None if others is None else others.better(place)
    if other is not None:
        return f"label of another image ({other})"
    return explain_parts(label, posterior, assessed, issues=issues, confidence=confidence)


def explain_whole(label: np.ndarray, posterior: np.ndarray) -> str | None:
    """Inverted, mirrored, turned or moved: whatever, undone, removes most of the divergence; None if too little."""
    height, width = label.shape
    scale = min(1.0, GRID / max(height, width))
    given, expected = on_grid(label, posterior, (max(1, round(height * scale)), max(1, round(width * scale))))
    own = divergence(given, expected)
    found = {}
    if len(posterior) == 2:
        found["inverted"] = divergence(given[::-1], expected)
    for name, turn in TURNS.items():
        turned = turn(given)
        if turned.shape == expected.shape:
            found[name] = divergence(turned, expected)
    name, least = min(found.items(), key=lambda item: item[1])
    (down, right), remaining = best_shift(given, expected)
    if remaining < least and (down or right):
        name, least = f"shifted by {round(down / scale)} down, {round(right / scale)} right", remaining
    return name if least <= (1 - EXPLAINED) * own else None


def best_shift(given: np.ndarray, expected: np.ndarray) -> tuple[tuple[int, int], float]:
    """How far (down, right), in cells, a label seems to have been moved, and its divergence with that undone.

    The divergence is taken where both overlap; the least overlap is three quarters of each side.
    """
    _, height, width = given.shape
    entropy, logs = (given * np.log(np.maximum(given, 1e-12))).sum(0), np.log(expected)
    best = ((0, 0), float("inf"))
    up, side = min(REACH, height // 4), min(REACH, width // 4)
    for down in range(-up, up + 1):
        for right in range(-side, side + 1):
            here = np.s_[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
            there = np.s_[..., max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
            overlap = (height - abs(down)) * (width - abs(right))
            value = float(entropy[here].sum() - np.vdot(given[here], logs[there])) / overlap
            if value < best[1]:
                best = ((down, right), value)
    return best


def explain_parts(
    label: np.ndarray, posterior: np.ndarray, assessed: LabelQuality, issues: np.ndarray, confidence: np.ndarray
) -> str:
    """Objects missing or invented, drawn too large or too small, or classes confused."""
    if not issues.any():
        return "unusual density"
    stated, predicted = assessed.stated(confidence), assessed.predicted(confidence)
    missing, invented = issues & (stated == 0), issues & (predicted == 0)
    if 2 * (issues & ~missing & ~invented).sum() > issues.sum():
        pairs = stated[issues].astype(int) * len(confidence) + predicted[issues]
        drawn, right = divmod(int(np.bincount(pairs).argmax()), len(confidence))
        return f"class {right} drawn as {drawn}"
    expected = 1 - posterior[0]
    outside, inside = (expected[mask].mean() if mask.any() else 0.0 for mask in (predicted == 0, predicted > 0))
    least = outside + OVERLAP * max(inside - outside, 0)
    drawn = ((label > 0) & assessed.valid).astype(np.float32)
    for mask, filling, name in ((predicted > 0, drawn, "missing"), (stated > 0, expected, "invented")):
        count, area = lone_objects(mask, filling, least, issues=issues)
        if count and 2 * area >= issues.sum():
            return f"{count} {name} object{'s' if count > 1 else ''}"
    if invented.sum() > ONE_SIDED * missing.sum():
        return "drawn too large"
    return "drawn too small" if missing.sum() > ONE_SIDED * invented.sum() else "outlines differ"


def lone_objects(mask: np.ndarray, filling: np.ndarray, least: float, issues: np.ndarray) -> tuple[int, int]:
    """Objects of one side that the other side has nothing of: their number, and how many suspect pixels are in them.

    Args:
        mask: objects, bool (H, W).
        filling: foreground of the other side, in [0, 1], (H, W).
        least: mean filling from which on the other side has something of an object.
    """
    count, objects = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    objects = np.asarray(objects, np.intp)
    flat = objects.reshape(-1)
    areas = np.bincount(flat, minlength=count)
    alone = (np.bincount(flat, filling.reshape(-1), minlength=count) < least * areas) & (areas >= MIN_OBJECT)
    alone[0] = False
    return int(alone.sum()), int((alone[objects] & issues).sum())
