r"""In which ways labels err systematically: moved, off the boundary, by what the image shows, by place.

Labels are held against the reference in nested steps, :math:`E[\text{label} \mid \text{truth}, \text{outline}, \text{
image}, \text{place}]`: first the whole label is moved back if it lies off by some pixels; then the share of labels is
read by signed distance to the true boundary, where a step beside 0 is an outline drawn too wide or too narrow; then the
curvature of the true outline, the image's features and the place in the image may predict what is left. Each of these
is fitted on one half of the images, read on the other, and believed only where it explains a part of the errors that
is both material and beyond the spread between images, which pixels of one image would feign.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from datasets.labels import IGNORE
from datasets.transition_matrix import count_transitions
from evaluation.label_audit.alignment import find_alignment
from evaluation.label_audit.bias import (
    ACROSS,
    AT_BOUNDARIES,
    BY_IMAGE,
    BY_PLACE,
    FILLED,
    IN_SOME,
    OF_ERRORS,
    OF_LABELS,
    Bias,
    Biases,
    Displacement,
)
from evaluation.label_audit.by_distance import bin_shares, inward_distance, location_counts, location_table
from evaluation.label_audit.displaced import find_displacement
from evaluation.label_audit.geometry import (
    MIN_EXPLAINED,
    find_offset,
    offsets_of_some,
    smoother_outlines,
    uneven_outlines,
)
from evaluation.label_audit.moves import SLOPE, Labels, Moved, as_maps, find_move, outline_map
from evaluation.label_audit.pixel_classifier import BRIGHTNESS, PixelLearner, image_features
from evaluation.label_audit.structures import LeftOut, find_dots, find_left_out, level_auc
from evaluation.label_audit.threshold import blurred_outline, network_blur
from evaluation.scores import ratio
from evaluation.scores.bootstrap import MIN_IMAGES, counts_interval

# Fixed on simulated sets: no kind is found there under flips, sampling and dilation with ten images.
MIN_AUC = 0.6  # what the lower bound of the AUC must exceed
PIXELS = 1500  # of every image
RESIDUAL_RIDGE = 3e-2  # errors are fitted more cautiously than labels: most sets have none to be predicted


class ResidualAnalysis:
    """Errors of labels at sampled pixels, and what of them outline, image and place predict.

    Args:
        truths, labels: binary with 255 ignored, (H, W) each; images: (H, W) or (H, W, C) each, or None.
        expected: E[label | truth, distance, depth] of every pixel, (H, W) each.
        skipped: what counts nowhere, bool (H, W) each.
    """

    def __init__(
        self,
        truths: Labels,
        labels: Labels,
        images: Labels | None,
        *,
        expected: Labels,
        skipped: Labels | None = None,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.places = [_stratified(truth, rng) for truth in truths]
        self.truth = self._at(truths) == 1
        self.areas = [sum(int((truth == side).sum()) for truth in truths) for side in (0, 1)]
        label = self._at(labels)
        self.used = label != IGNORE if skipped is None else (label != IGNORE) & ~self._at(skipped)
        self.label = (label == 1).astype(np.float32)
        self.image = np.repeat(np.arange(len(truths)), [len(place[0]) for place in self.places])
        self.rest = np.where(self.used, self.label - self._at(expected), 0).astype(np.float32)
        rate = [self.label[self.used & (self.truth == side)].mean() for side in (False, True)]
        self.variance = float(((self.label - np.where(self.truth, rate[1], rate[0]))[self.used] ** 2).sum())
        outline = image_features([(truth == 1).astype(np.float32) for truth in truths], self.places)
        outlined = self._fit([np.c_[own, t] for own, t in zip(outline, self._split(self.truth), strict=True)], seed)
        if self._part(outlined) > 0:
            self.rest = self.rest - outlined
        self.image_bias = self.place_bias = None
        self.imitation = 1.0
        if images is not None:
            shown = image_features(images, self.places)
            self.brightness = np.concatenate([item[:, BRIGHTNESS] for item in shown])
            joined = [np.c_[own, own * t[:, None], t] for own, t in zip(shown, self._split(self.truth), strict=True)]
            predicted = self._fit(joined, seed + 1)
            self.image_bias = self._bias(BY_IMAGE, predicted, seed)
            if self.image_bias is not None:
                self.imitation = self._imitation(predicted)
                self.rest = self.rest - predicted
        where = [
            np.stack([rows / truth.shape[0], columns / truth.shape[1]], 1)
            for (rows, columns), truth in zip(self.places, truths, strict=True)
        ]
        placed = [np.c_[own, own * t[:, None], t] for own, t in zip(where, self._split(self.truth), strict=True)]
        self.place_bias = self._bias(BY_PLACE, self._fit(placed, seed + 2), seed)

    def _at(self, maps: Labels) -> np.ndarray:
        return np.concatenate([item[place] for item, place in zip(maps, self.places, strict=True)])

    def _split(self, values: np.ndarray) -> list[np.ndarray]:
        ends = np.cumsum([len(place[0]) for place in self.places])[:-1]
        return np.split(values, ends)

    def _fit(self, features: Sequence[np.ndarray], seed: int) -> np.ndarray:
        """What the features predict of the rest, fitted to the other half of the images, (P,)."""
        return PixelLearner([item.astype(np.float32) for item in features], seed).scores(
            self.rest, self.used.astype(np.float32), ridge=RESIDUAL_RIDGE
        )

    def _part(self, predicted: np.ndarray) -> float:
        """The part of the label errors' variance that a prediction of the rest explains; < 0: it does harm."""
        won = self.rest**2 - (self.rest - predicted) ** 2
        return float(won[self.used].sum() / max(self.variance, 1e-6))

    def _bias(self, kind: str, predicted: np.ndarray, seed: int) -> Bias | None:
        """The bias that a prediction of the rest shows, where it is material and tells wrong labels from right ones."""
        if len(self.places) < MIN_IMAGES or self._part(predicted) < MIN_EXPLAINED:
            return None
        auc, low, high = self.auc(predicted, seed)
        if not low > MIN_AUC:
            return None
        what = self._structures(predicted) if kind == BY_IMAGE else "a part of the image left out or added"
        return Bias(kind, what, auc, low, high, "AUC")

    def _imitation(self, predicted: np.ndarray) -> float:
        """IoU with the truth of labels as outline and image predict them: what a perfect imitator would draw."""
        drawn = self.label - self.rest + predicted >= 0.5
        sampled = [max(int((self.truth == side).sum()), 1) for side in (False, True)]
        weight = np.where(self.truth, self.areas[1] / sampled[1], self.areas[0] / sampled[0]) * self.used
        return float(weight[drawn & self.truth].sum() / max(weight[drawn | self.truth].sum(), 1e-6))

    def auc(self, predicted: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
        """How well a prediction tells labels above their expectation from those below, of one true class.

        Of the classes, the one in which it explains more. Returns: (AUC, low, high).
        """
        won = np.where(self.used, self.rest**2 - (self.rest - predicted) ** 2, 0)
        inside = self.truth if won[self.truth].sum() > won[~self.truth].sum() else ~self.truth
        use = self.used & inside
        cuts = np.quantile(predicted[use], np.linspace(0, 1, 65)[1:-1])
        level = np.searchsorted(cuts, predicted)
        index = self.image * 64 + level
        sides = [np.clip(sign * self.rest, 0, None) * use for sign in (-1, 1)]
        table = np.stack([np.bincount(index, side, len(self.places) * 64).reshape(-1, 64) for side in sides], 1)
        return float(level_auc(table.sum(0))), *counts_interval(level_auc, table, seed, 400)

    def _structures(self, predicted: np.ndarray) -> str:
        """Which structures the image-dependent errors concern, in words."""
        use = self.used
        missed = float(np.clip(-predicted, 0, None)[use & self.truth].sum())
        added = float(np.clip(predicted, 0, None)[use & ~self.truth].sum())
        inside = use & (self.truth if missed >= added else ~self.truth)
        toward = np.corrcoef(self.brightness[inside], predicted[inside])[0, 1]
        if missed >= added:
            return f"{'dim' if toward > 0 else 'bright'} structures missed"
        return f"{'bright' if toward > 0 else 'dim'} background marked"


def _stratified(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of PIXELS pixels, half of each true class where there are so many."""
    chosen = []
    for value in (0, 1):
        flat = np.flatnonzero(truth == value)
        chosen.append(rng.choice(flat, min(len(flat), PIXELS // 2), replace=False))
    rows, columns = np.divmod(np.concatenate(chosen), truth.shape[1])
    return rows, columns


def find_biases(
    truths: Labels,
    labels: Labels,
    images: Labels | None,
    seed: int = 0,
    clean_iou: float = 1.0,
    *,
    filled: float | None = None,
    is_clean: bool = True,
    astray: Sequence[int] = (),
    refine: Callable[[Labels, Labels, tuple[int, int]], tuple[int, int]] | None = None,
) -> Biases:
    """Hold binary labels, right way up, against the truth.

    Args:
        truths, labels: binary with 255 ignored, (H, W) each; images: (H, W) or (H, W, C) each, or None.
        clean_iou: that a network would reach with clean labels.
        filled: IoU with the truth of labels that are outlines alone, when they are filled; None: they are none.
        is_clean: whether the truth is; outlines of another person err themselves, and images tell that, too.
        astray: places of labels that have nothing to do with the truth where they lie; they may be displaced.
        refine: the move to take back, of labels, truths and a first guess; see ``repair.find_move_back``.
    """
    distances = [inward_distance(truth) for truth in truths]
    outlines = [outline_map(distance) for distance in distances]
    moved, offset, bounds, displaced, some, off = Moved(), 0.0, [0.0, 0.0], None, [], ()
    if filled is None:
        moved = find_move(outlines, as_maps(labels), seed)
        if refine is not None:
            down, right = refine(labels, truths, (-moved.down, -moved.right))
            moved = moved.at(-down, -right)
    back = [moved.undo(label) for label in labels] if moved else list(labels)
    if filled is None:
        displaced = _displacement(truths, back, distances, outlines, seed)
        off = () if displaced is None else displaced.places
        placed = without(back, {*off, *astray})
        offset, *bounds = find_offset(distances, placed, seed)
        if off and offset or not offset and (off or displaced is None):
            some, offset = offsets_of_some(distances, placed, seed), 0.0
    back = without(back, astray)
    bins, table = location_table(truths, back)
    shares = bin_shares(table)[:, 1]
    expected = [np.where(item >= 0, shares[item], np.nan).astype(np.float32) for item in bins]
    skipped = None if is_clean else [np.abs(distance) <= SLOPE for distance in distances]
    errors = ResidualAnalysis(truths, back, images, expected=expected, skipped=skipped, seed=seed)
    found = _geometric_biases(moved, offset, bounds, displaced)
    if errors.image_bias is None:  # else structures that some images have fewer labels of
        found += [Bias(AT_BOUNDARIES, *own, IN_SOME) for own in some]
    across = None if filled is not None else find_dots(truths, back)
    if across is not None:  # whatever step they show
        found = [bias for bias in found if bias.kind != AT_BOUNDARIES]
        found.append(Bias(AT_BOUNDARIES, "only dots drawn", across, np.nan, np.nan, ACROSS))
    imitation = errors.imitation
    if filled is not None:
        found.append(Bias(AT_BOUNDARIES, "only outlines drawn", filled, np.nan, np.nan, FILLED))
    elif displaced is None and across is None and offset >= 0:
        left_out = find_left_out(truths, back)
        if not offset and not some and errors.image_bias is None:
            found += _outline_biases(truths, back, bins, left_out)
        found += _structure_biases(errors, left_out, off=any(bias.unit in (OF_ERRORS, IN_SOME) for bias in found))
        if errors.image_bias is None and any(bias.kind == BY_IMAGE for bias in found):
            imitation = 1 - left_out.area
    else:
        found += [bias for bias in (errors.image_bias, None if displaced else errors.place_bias) if bias is not None]
    counts = np.sum([count_transitions(*pair) for pair in zip(truths, labels, strict=True)], axis=0)
    prior = float(np.nan_to_num(ratio(counts[:, 1], counts.sum(1))).mean())
    outline = blurred_outline(distances, expected, network_blur(distances, clean_iou), moved.length, wide=offset > 0)
    return Biases(
        found=tuple(found),
        moved=moved,
        offset=offset,
        labels=back,
        threshold=outline.threshold if found else prior,
        cost=outline.cost(prior) if found else 0.0,
        overlap=outline.overlap,
        imitation=imitation,
        displaced=off,
    )


def without(labels: Labels, places: Collection[int]) -> list[np.ndarray]:
    """Labels, of which those at some places are ignored."""
    return [np.full_like(label, IGNORE) if at in places else label for at, label in enumerate(labels)]


def _displacement(
    truths: Labels, labels: Labels, distances: Labels, outlines: Labels, seed: int
) -> Displacement | None:
    """What displaces labels that have no move in common."""
    aligned = find_alignment(truths, labels, seed)
    if aligned is not None and aligned.may_be(find_offset(distances, labels, seed)[0]):
        aligned = None
    if aligned is not None and not aligned.is_near:
        return aligned.displacement
    return find_displacement(outlines, as_maps(labels), seed) or (aligned and aligned.displacement)


def _geometric_biases(
    moved: Moved, offset: float, bounds: Sequence[float], displaced: Displacement | None
) -> list[Bias]:
    """Where labels lie, and how wide they are."""
    found = []
    if moved:
        what = f"moved by ({moved.down}, {moved.right})"
        found.append(Bias(what, "moved", moved.length, moved.low, moved.high))
    if offset:
        least, most = sorted(abs(bound) for bound in bounds)
        found.append(Bias(AT_BOUNDARIES, "wider" if offset > 0 else "narrower", abs(offset), least, most))
    if displaced is not None:
        found.append(displaced.bias)
    return found


def _outline_biases(truths: Labels, labels: Labels, bins: Labels, left_out: LeftOut) -> list[Bias]:
    """What outlines are beside no common offset; structures that were left out have none."""
    smoother = smoother_outlines(truths, labels, left_out.zones)
    if smoother is not None:
        return [Bias(AT_BOUNDARIES, *smoother, OF_LABELS)]
    drawn = [np.where(zone, IGNORE, label) for label, zone in zip(labels, left_out.zones, strict=True)]
    uneven = uneven_outlines(np.stack([location_counts(*pair) for pair in zip(bins, drawn, strict=True)]))
    return [] if uneven is None else [Bias(AT_BOUNDARIES, *uneven, OF_ERRORS)]


def _structure_biases(errors: ResidualAnalysis, left_out: LeftOut, *, off: bool) -> list[Bias]:
    """Which structures err, and where.

    Args:
        off: whether outlines lie off to either side, so that small structures may lie beside their labels.
    """
    image, place = errors.image_bias, errors.place_bias
    if left_out.kind is not None and not off:
        size = (left_out.what, left_out.size, left_out.low, left_out.high, "AUC")
        if not left_out.by_size:
            place = Bias(BY_PLACE, *size)
        elif place is None:
            image = image or Bias(BY_IMAGE, *size)
    return [bias for bias in (image, place) if bias is not None]
