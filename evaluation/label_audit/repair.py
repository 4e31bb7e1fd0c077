r"""What one geometric correction of all labels would win, measured on the images whose clean labels are known.

Two corrections undo what people and tools do to whole label sets: moving a label back by whole pixels (``move:dy,dx``)
and taking another level set of its signed distance (``offset:r``), which widens or narrows every outline. All offsets
are read from one distance transform an image, as counts of truth and label by level; all moves from one Fourier
transform of the labels and the distance near true outlines, which peaks where they lie upon each other, of any width.

A correction must win twice, on images that it was not chosen by, and beyond the error of the gain: in the IoU of the
labels with the truth, and in the IoU of what a network would take from them. The latter is the set

.. math:: \{x : E[\text{label} \mid d(x)] \ge (E_\text{in} + E_\text{out}) / 2\},

with d the signed distance to the true boundary and E_in, E_out the label rates far inside and outside. Flips and
erasures that forget the image lower E inside or raise it outside, but leave this set as it is; closing what they tore
makes labels look better, yet blurs the step of E, and so is no gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.label_noise import make_noisy_label
from datasets.labels import IGNORE, label_classes
from datasets.noise_steps import signed_distance
from datasets.transition_matrix import MIN_PHI, count_transitions
from evaluation.label_audit.alignment import find_alignment
from evaluation.label_audit.estimate import blank_places, estimate_transitions
from evaluation.label_audit.moves import Labels, far_reach, outline_map, shift_covariances
from evaluation.label_audit.structures import find_outlines
from evaluation.scores import ratio
from evaluation.scores.bootstrap import bootstrap_counts, small_sample_reach

MIN_IMAGES = 3  # with a clean label; fewer say nothing of the spread between images
MIN_GAIN = 0.01  # of an IoU, that is worth a correction
MIN_MOVE_GAIN = 0.003  # of the correlation with the truth; in large objects a move by 2 pixels wins no more
MOST_WORSE = 0.25  # of the labels, that an offset may take farther from their clean ones
OFFSETS = np.arange(-32, 33) / 2  # pixels by which outlines are moved; the middle one does nothing
DISTANCES = np.arange(-8.0, 9.0)  # edges of the bins of signed distance to the true boundary, pixels
FAR = 0.05  # part of a class that the farthest bins must hold to tell its label rate


@dataclass(frozen=True)
class Repair:
    """The correction of a label set, or the finding that none is worth it.

    Args:
        spec: in the grammar of ``datasets.label_noise``; None where labels are better left as they are.
        before, after: pooled IoU of the labels with the truth; ``after`` on images that did not choose the offset.
        gain: of what a network would take from the labels, on images that did not choose the offset.
        error: standard error of ``gain`` over images.
        images: with a clean label, those left out that nobody annotated.
        reason: in a sentence, why this and nothing else.
        offset: of ``spec``: by how many pixels it moves outlines outwards.
    """

    spec: str | None
    before: float
    after: float
    gain: float
    error: float
    images: int
    reason: str
    offset: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For ``audit.json`` and ``config.json``."""
        names = ("spec", "before", "after", "gain", "error", "images")
        return {name: getattr(self, name) for name in names}


def choose_repair(labels: Labels, clean: Sequence[np.ndarray | None], num_classes: int = 1) -> Repair:
    """Choose the correction that clean labels of some images show to be worth it.

    Args:
        labels: to be trained on, uint8 (H, W) with 255 ignored.
        clean: of the same images, None where there is none.
        num_classes: 1 for binary labels; of K classes one offset holds for each class ≠ 0.
    """
    pairs = [(label, truth) for label, truth in zip(labels, clean, strict=True) if truth is not None]
    if len(pairs) < MIN_IMAGES:
        reason = f"clean labels of {MIN_IMAGES} images are needed to tell, there are {len(pairs)}"
        return Repair(None, float("nan"), float("nan"), 0.0, float("nan"), len(pairs), reason)
    blank = blank_places(np.stack([count_transitions(truth, label, num_classes) for label, truth in pairs]))
    if len(pairs) - len(blank) >= MIN_IMAGES:  # blank ones cannot be mended
        pairs = [pair for place, pair in enumerate(pairs) if place not in blank]
    own, truths = [label for label, _ in pairs], [truth for _, truth in pairs]
    if num_classes == 1 and (outlines := find_outlines(truths, own)) is not None:
        reason = f"the labels are outlines alone: filled, their IoU with clean ones is {outlines[1]:.3f}"
        return Repair(None, outlines[0], outlines[0], 0.0, float("nan"), len(pairs), reason)
    back = choose_move(own, truths, num_classes)
    if back is None or not _follow(_moved_back(own, back, num_classes), truths, num_classes):
        iou = labels_iou(own, truths, num_classes)
        return Repair(None, iou, iou, 0.0, float("nan"), len(pairs), "the labels do not follow the clean ones")
    if back != (0, 0):
        back = refined_move(own, truths, back, num_classes)
    found = _choose_offset(own, truths, back, num_classes)
    aligned = find_alignment(truths, _moved_back(own, back, num_classes)) if found.offset and num_classes == 1 else None
    if aligned is None or aligned.may_be(-found.offset) or (aligned.is_near and found.offset < 0):
        return found  # widened, displaced labels hold more of the truth, and more beside it
    reason = f"labels lie off the clean ones, each by itself: {aligned.displacement.bias.text()}"
    return Repair(None, found.before, found.before, 0.0, float("nan"), len(pairs), reason)


def _follow(labels: Labels, truths: Labels, num_classes: int) -> bool:
    """Whether labels are associated with the truth: widening others may fit it better, but teaches nothing."""
    counts = [count_transitions(truth, label, num_classes) for label, truth in zip(labels, truths, strict=True)]
    return not estimate_transitions(counts).no_association


def moved_iou(labels: Labels, truths: Labels, furthest: float) -> float:
    """IoU of binary labels with the truth, where all outlines are moved by what fits best, up to so many pixels."""
    found = _pooled_iou(_OffsetTable.of(labels, truths, 1).plain().sum(0))
    return float(found[np.abs(OFFSETS) <= furthest].max())


def choose_move(labels: Labels, truths: Labels, num_classes: int = 1) -> tuple[int, int] | None:
    """The move (down, right) that takes labels to the truth, (0, 0) where none wins beyond its error.

    Of the pooled correlations with the truth, which independent errors weaken at every move alike, the largest counts.

    Returns: None where that is no association worth the name, or a negative one: labels that show the inverse.
    """
    far = far_reach(truths)
    tables = np.stack([_correlations(*pair, num_classes, far) for pair in zip(labels, truths, strict=True)])
    flat = tables.reshape(len(tables), -1)
    pooled, middle, gains = flat.sum(0), flat.shape[1] // 2, []
    best, reach = int(pooled.argmax()), small_sample_reach(len(flat))
    if pooled[best] < -pooled.min() or pooled[best] <= max(MIN_PHI * len(flat), reach * _error_of_sum(flat[:, best])):
        return None
    for own in flat:
        elsewhere = int((pooled - own).argmax())
        gains.append(own[elsewhere] - own[middle])
    if sum(gains) <= max(MIN_MOVE_GAIN * pooled[best], reach * _error_of_sum(np.array(gains))):
        return 0, 0
    down, right = divmod(best, 2 * far + 1)
    return far - down, far - right


def _moved_back(labels: Labels, back: tuple[int, int], num_classes: int) -> Labels:
    if back == (0, 0):
        return labels
    return [make_noisy_label(label, _move_step(back), 0, "", num_classes) for label in labels]


def _move_step(back: tuple[int, int]) -> str:
    return f"move:{back[0]},{back[1]}"


def refined_move(labels: Labels, truths: Labels, back: tuple[int, int], num_classes: int = 1) -> tuple[int, int]:
    """Of a move and its neighbours, the one that labels at their best offset lie nearest to the truth after.

    What the border of an image hides draws the correlation of wide labels aside by a pixel.
    """
    around = [(back[0] + down, back[1] + right) for down in (0, -1, 1) for right in (0, -1, 1)]
    plain = [_OffsetTable.of(_moved_back(labels, move, num_classes), truths, num_classes).plain() for move in around]
    return around[int(np.argmax([_pooled_iou(counts.sum(0)).max() for counts in plain]))]


def find_move_back(labels: Labels, truths: Labels, guess: tuple[int, int]) -> tuple[int, int]:
    """The move that takes binary labels to the truth, near a guess; without one, as `choose_repair` finds it."""
    if guess == (0, 0):
        guess = choose_move(labels, truths) or guess
    return guess if guess == (0, 0) else refined_move(labels, truths, guess)


def _error_of_sum(values: np.ndarray) -> float:
    return float(values.std(ddof=1) * np.sqrt(len(values)))


def _correlations(label: np.ndarray, truth: np.ndarray, num_classes: int, reach: int) -> np.ndarray:
    """Correlations of truth(x), as its `outline_map`, and label(x + d), for |d| ≤ reach.

    Returns: (2·reach + 1, 2·reach + 1), the mean over the classes ≠ 0 that both show; 0 where there is none.
    """
    known = (label != IGNORE) & (truth != IGNORE)
    found = []
    for value in range(1, label_classes(num_classes)):
        masks = [np.where(known, item == value, False).view(np.uint8) for item in (truth, label)]
        if not all(0 < mask.sum() < known.sum() for mask in masks):
            continue
        truth_map = np.where(known, outline_map(-signed_distance(masks[0])), np.nan)
        found.append(shift_covariances(truth_map, masks[1].astype(np.float32), reach))
    return np.mean(found, axis=0) if found else np.zeros((2 * reach + 1, 2 * reach + 1))


@dataclass(frozen=True)
class _OffsetTable:
    """Pixels of images by signed distance to the truth, and how many of them carry the label after each offset.

    Args:
        total: (n, B) pixels; labelled: (n, B, offsets). The first half of the B bins is background.
    """

    total: np.ndarray
    labelled: np.ndarray

    @staticmethod
    def of(labels: Labels, truths: Labels, num_classes: int) -> _OffsetTable:
        """Count; of K classes each class ≠ 0 by itself, its counts one behind the other along B."""
        rows = [_count_offsets(*pair, num_classes) for pair in zip(labels, truths, strict=True)]
        total, labelled = (np.stack(part).astype(float) for part in zip(*rows, strict=True))
        return _OffsetTable(total, labelled)

    @property
    def is_true(self) -> np.ndarray:
        """Whether a bin lies inside the truth, (B,)."""
        side = np.repeat([True, False], (len(DISTANCES) + 1) // 2)
        return np.tile(side, self.total.shape[1] // len(side))

    def plain(self) -> np.ndarray:
        """True positives, false positives and false negatives of the labels, (n, offsets, 3)."""
        inside = self.is_true
        hit = self.labelled[:, inside].sum(1)
        return np.stack([hit, self.labelled[:, ~inside].sum(1), self.total[:, inside].sum(1)[:, None] - hit], -1)

    def taught(self, place: int, offset: int) -> np.ndarray:
        """The same of what all other images' labels would teach about image ``place`` at one offset, (3,)."""
        inside = self.is_true
        total = self.total.sum(0) - self.total[place]
        rate = ratio(self.labelled[..., offset].sum(0) - self.labelled[place, :, offset], total, np.nan)
        chosen = np.zeros(len(rate), bool)
        width = len(DISTANCES) + 1
        for start in range(0, len(rate), width):  # class by class
            own = slice(start, start + width)
            chosen[own] = _upper_half(rate[own], total[own])
        own = self.total[place]
        return np.array([own[inside & chosen].sum(), own[~inside & chosen].sum(), own[inside & ~chosen].sum()])


def _upper_half(rate: np.ndarray, total: np.ndarray) -> np.ndarray:
    """The bins whose label rate is above the middle between far inside and far outside, (B,)."""
    half = len(rate) // 2  # bins go from deep inside to far outside
    levels = []
    for side in (slice(None, half), slice(None, half - 1, -1)):  # each from its far end
        count = np.cumsum(total[side])
        if not count.size or count[-1] == 0:
            return np.zeros(len(rate), bool)
        far = np.searchsorted(count, FAR * count[-1]) + 1
        levels.append(ratio((rate[side] * total[side])[:far][total[side][:far] > 0].sum(), total[side][:far].sum()))
    return np.nan_to_num(rate, nan=-1.0) >= sum(levels) / 2 if levels[0] > levels[1] else np.ones(len(rate), bool)


def _count_offsets(label: np.ndarray, truth: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (B,) of an image by signed distance to the truth, and those labelled after every offset (B, offsets)."""
    known = (label != IGNORE) & (truth != IGNORE)
    ignored, bins, levels = (label == IGNORE).view(np.uint8), len(DISTANCES) + 1, len(OFFSETS) + 1
    totals, labelled = [], []
    for value in range(1, label_classes(num_classes)):
        place = np.searchsorted(DISTANCES, signed_distance((truth == value).view(np.uint8))[known])
        level = np.searchsorted(OFFSETS, signed_distance((label == value).view(np.uint8), ignored)[known])
        table = np.bincount(place * levels + level, minlength=bins * levels).reshape(bins, levels)
        totals.append(table.sum(1))
        labelled.append(table.cumsum(1)[:, :-1])
    return np.concatenate(totals), np.concatenate(labelled)


def _pooled_iou(counts: np.ndarray) -> np.ndarray:
    """IoU of summed (…, 3) true positives, false positives and false negatives."""
    return ratio(counts[..., 0], counts.sum(-1), 0.0)


def _best_offset(counts: np.ndarray) -> int:
    """The index of the offset of the highest IoU, of equal ones the smallest move; counts (offsets, 3)."""
    found = _pooled_iou(counts)
    equal = np.flatnonzero(found >= found.max() - 1e-9)
    return int(equal[np.abs(OFFSETS[equal]).argmin()])


def labels_iou(labels: Labels, truths: Labels, num_classes: int) -> float:
    """Pooled IoU of labels with the truth; of K classes over all pixels of the classes ≠ 0."""
    counts = sum(count_transitions(truth, label, num_classes) for label, truth in zip(labels, truths, strict=True))
    hit = counts.diagonal()[1:].sum()
    return ratio(hit, counts[1:].sum() + counts[:, 1:].sum() - hit, 0.0)


def _choose_offset(labels: Labels, truths: Labels, back: tuple[int, int], num_classes: int) -> Repair:
    """The offset to take after a move, by leaving out one image at a time."""
    table = _OffsetTable.of(_moved_back(labels, back, num_classes), truths, num_classes)
    zero, plain = len(OFFSETS) // 2, table.plain()
    kept, won = [], []  # true positives, false positives, false negatives: of labels, of what they teach
    for place in range(len(labels)):
        best = _best_offset(plain.sum(0) - plain[place])
        kept.append([plain[place, zero], plain[place, best]])
        won.append([table.taught(place, zero), table.taught(place, best)])
    plain_gain, plain_error = _gain(np.array(kept))
    gain, error = _gain(np.array(won))
    best, reach = _best_offset(plain.sum(0)), small_sample_reach(len(labels))
    is_beyond_error = gain > reach * error
    changes = np.diff(_pooled_iou(np.array(kept)), axis=1)
    worse = int((changes < -MIN_GAIN).sum())
    is_sure = min(plain_gain, gain) > MIN_GAIN and is_beyond_error and plain_gain > reach * plain_error
    is_sure &= worse <= MOST_WORSE * len(labels)
    offset = float(OFFSETS[best]) if is_sure else 0.0
    steps = [_move_step(back)] * (back != (0, 0)) + [f"offset:{offset:g}"] * (offset != 0)
    at = np.array(kept).sum(0)[int(offset != 0)]
    held_out = f"{gain:+.3f} ± {error:.3f} in what a network would take from the labels"
    if steps:
        reason = "found on the clean labels" + (f": {held_out}" if offset else ": labels lie beside the truth")
    elif best == zero:
        reason = "no move and no offset brings the labels nearer to the clean ones"
    else:
        nearer = f"{plain_gain:+.3f} ± {plain_error:.3f} in the IoU of labels with clean ones: too little"
        reason = f"the best one, offset:{OFFSETS[best]:g}, wins {held_out}"
        reason += f", and {nearer}" if is_beyond_error else ": not beyond its error"
        if worse > MOST_WORSE * len(labels):
            reason = f"the best one, offset:{OFFSETS[best]:g}, makes {worse} of {len(labels)} labels worse"
    return Repair(
        spec="+".join(steps) or None,
        before=labels_iou(labels, truths, num_classes),
        after=float(_pooled_iou(at)),
        gain=float(gain) if offset else 0.0,
        error=float(error),
        images=len(labels),
        reason=reason,
        offset=offset,
    )


def _gain(counts: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Gain in pooled IoU of the second of two counts over the first, and its standard error over images.

    Args:
        counts: (n, 2, 3).
    """
    found = _pooled_iou(counts.sum(0))
    resampled = _pooled_iou(bootstrap_counts(counts, seed))
    return float(found[1] - found[0]), float((resampled[:, 1] - resampled[:, 0]).std())
