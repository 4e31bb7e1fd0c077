"""The audit of labels, from arrays: what is measured, and how the verdict follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from datasets.labels import FOREGROUNDS, IGNORE, label_classes
from datasets.transition_matrix import count_transitions
from evaluation.label_audit.bias import AT_BOUNDARIES, BY_IMAGE, BY_PLACE, DISPLACED, IN_SOME, OF_ERRORS, Bias, Biases
from evaluation.label_audit.by_distance import (
    DensityAgreement,
    density_agreement,
    distance_profile,
    inward_distance,
    location_counts,
    location_table,
)
from evaluation.label_audit.estimate import CLEAR_PHI, Transitions, estimate_transitions, find_turn, may_be_chance
from evaluation.label_audit.iou_ceiling import Ceiling, iou_ceiling
from evaluation.label_audit.moves import TURNED_IMAGES, as_maps, find_move, outline_map
from evaluation.label_audit.other_images import find_other_images
from evaluation.label_audit.pixel_classifier import MAX_IMAGES, sample_windows
from evaluation.label_audit.predicted_iou import IoUPredictor, PredictedIoU
from evaluation.label_audit.structures import find_outlines
from evaluation.label_audit.verdict import BIAS_MARGIN, Audit
from evaluation.label_audit.with_reference import SECOND, ReferenceAudit
from evaluation.scores import defined_mean
from evaluation.scores.bootstrap import MIN_IMAGES
from utils.cli import UserError, one_of

if TYPE_CHECKING:
    from evaluation.label_audit.error_table import LabelErrors

Labels = Sequence[np.ndarray]


def check_foreground(foreground: str | None, num_classes: int) -> None:
    """Refuse, by a UserError, an unknown word for the foreground's looks, or one for several classes."""
    if foreground is None:
        return
    one_of(foreground, FOREGROUNDS, "--foreground")
    if num_classes > 1:
        raise UserError(
            f"--foreground is for binary labels; with --num_classes {num_classes} give clean labels of some images"
        )


def audit_labels(
    noisy: Labels,
    truth: Sequence[np.ndarray | None] | None = None,
    images: Labels | None = None,
    num_classes: int = 1,
    *,
    seed: int = 0,
    foreground: str | None = None,
    max_images: int = MAX_IMAGES,
    reference: str = "clean labels",
    training_images: int | None = None,
    steps: int | None = None,
    validated: bool = False,
    workers: int = 4,
) -> Audit:
    """Audit a label set. Sequences are read item by item and may load from disk.

    >>> truth = [(np.add(*np.indices((64, 64))) // 16 + i).astype(np.uint8) % 2 for i in range(6)]  # stripes
    >>> rng = np.random.default_rng(0)
    >>> noisy = [np.where(rng.random(label.shape) < 0.3, 1 - label, label) for label in truth]  # 30 % flipped
    >>> audit = audit_labels(noisy, truth)
    >>> audit.line(), audit.transitions.matrix.rows.round(1).tolist()
    ('verdict: learnable (predicted IoU unknown, IoU ceiling 1.00)', [[0.7, 0.3], [0.3, 0.7]])

    >>> truth = [np.kron(np.eye(8, dtype=np.uint8), np.ones((8, 8), np.uint8)) for _ in range(4)]
    >>> audit_labels([1 - label for label in truth], truth).verdict
    'inverted'

    Args:
        noisy: the labels to be trained on, classes with 255 ignored, uint8 (H, W) each.
        truth: clean labels of the same images, None for images that have none.
        images: of the same length, any dtype, (H, W) or (H, W, C) each; without them there is no predicted IoU.
        num_classes: 1 for binary labels, else K.
        seed: of bootstraps, halves and the choice of images.
        foreground: ``bright``, ``dark`` or ``minority``: settles the direction where no truth does.
        max_images: images from which profile, ceiling and prediction are estimated; Q counts all.
        reference: ``second annotator`` where ``truth`` is another person's label.
        training_images: how many images the network will be trained on, for the predicted IoU; None: ``len(noisy)``.
        steps: optimizer steps that it will be trained for; None: as many as it takes.
        validated: whether clean validation images will choose its epoch and threshold, and move the outlines of masks.
    Returns: a `ReferenceAudit`, or an `ImageAudit` where no image has a truth.
    Raises:
        UserError: neither truth nor images; foreground with several classes or an unknown word.
    """
    check_foreground(foreground, num_classes)
    counts, known = _count(noisy, truth, num_classes, workers)
    if truth is None or not known:
        if images is None:
            raise UserError("an audit needs clean labels, a second annotator's labels or the images; there are none")
        from evaluation.label_audit.without_reference import audit_by_images

        return audit_by_images(noisy, images, num_classes, seed=seed, foreground=foreground, max_images=max_images)
    rng = np.random.default_rng(seed)
    sampled = sorted(int(i) for i in rng.permutation(known)[:max_images])
    windows = sample_windows(rng, sampled, noisy, truth, *([] if images is None else [images]))
    transitions = estimate_transitions(counts, seed)
    if abs(transitions.phi) < CLEAR_PHI:
        few = sampled[:: -(-len(sampled) // TURNED_IMAGES)]  # whole: a window of a turned label shows another place
        turned = find_turn([truth[i] for i in few], [noisy[i] for i in few], num_classes)
        transitions = replace(transitions, turned=turned)
    if not (transitions.image_phi > CLEAR_PHI).all():
        others = find_other_images([truth[i] for i in sampled], [noisy[i] for i in sampled])
        places = tuple(known.index(sampled[at]) for at in others.places)
        transitions = replace(transitions, others=replace(others, places=places))
    if num_classes == 1 and transitions.no_association and transitions.turned is None:
        transitions = replace(transitions, moved=_lie_off_alike(*windows[:2], seed))
    return _compare(
        transitions,
        num_classes,
        *windows,
        places=[known.index(i) for i in sampled],
        seed=seed,
        reference=reference,
        images=len(noisy),
        sampled=sampled,
        training_images=training_images or len(noisy),
        steps=steps,
        is_validated=validated,
    )


def _compare(
    transitions: Transitions,
    num_classes: int,
    labels: Labels,
    truths: Labels,
    shown: Labels | None = None,
    *,
    places: Sequence[int],
    seed: int,
    reference: str,
    images: int,
    sampled: list[int],
    training_images: int,
    steps: int | None,
    is_validated: bool,
) -> ReferenceAudit:
    """The audit against a reference.

    Args:
        labels, truths, shown: labels, reference labels and, where there are any, images of the sampled places.
        places: of these among the images that were counted.
    """
    outlines = find_outlines(truths, labels) if num_classes == 1 and np.isfinite(transitions.phi) else None
    turned = transitions.inverted and num_classes == 1 and outlines is None
    related = outlines is not None or not (transitions.no_association or transitions.contradictory)
    comparable = np.isfinite(transitions.phi) and related
    bins, table = location_table(truths, labels, num_classes)
    predictor = biases = None
    if comparable and shown is not None:
        predictor = IoUPredictor(shown, truths, bins, num_classes, seed, training_images=training_images, steps=steps)
    placed = labels
    if num_classes == 1 and comparable and len(labels) >= MIN_IMAGES:
        is_clean = reference != SECOND
        biases = _biases(
            labels,
            truths,
            shown,
            table,
            predictor,
            turned=turned,
            odd=_odd(transitions, places),
            seed=seed,
            outlines=outlines,
            is_clean=is_clean,
        )
        if biases.moved:
            placed = _turned(biases.labels) if turned else biases.labels
            table = np.stack([location_counts(*pair) for pair in zip(bins, placed, strict=True)])
    ceiling = iou_ceiling(table, transitions, turned, seed, num_classes)
    if biases is not None and biases.moved:
        ceiling = replace(ceiling, value=ceiling.value * biases.overlap, low=np.nan, high=np.nan)
    prediction = None
    if predictor is not None:
        prediction = _predict(predictor, placed, table, transitions, biases=biases, invert=turned)
    elif transitions.no_association:
        prediction = PredictedIoU(*(ceiling.value,) * 3, relative=np.nan, clean=np.nan)
    validated = None
    if is_validated and not turned and predictor and prediction and biases and biases.has(AT_BOUNDARIES):
        validated = predictor.validated(
            prediction, placed, table, transitions, moved_iou=_moved_iou(placed, truths), overlap=biases.overlap
        )
    cost = None if biases is None else bias_cost(biases, prediction)
    kinds = () if biases is None else tuple(dict.fromkeys(bias.kind for bias in biases.found))
    chance = transitions.too_few and may_be_chance(truths, labels, num_classes, seed)
    verdict = decide(transitions, ceiling, chance=chance, kinds=kinds, cost=cost, outlines=outlines is not None)
    repair = _repair(labels, truths, num_classes) if comparable and not transitions.inverted else None
    repaired = None
    if repair is not None and biases is not None and predictor is not None and shown is not None:
        repaired = _predict_repaired(
            predictor, labels, truths, shown=shown, bins=bins, transitions=transitions, repair=repair, seed=seed
        )
    return ReferenceAudit(
        verdict=verdict,
        num_classes=num_classes,
        images=images,
        sampled=sampled,
        reference=reference,
        prediction=None if verdict == "unknown" else prediction,
        validated=None if verdict == "unknown" else validated,
        biases=biases,
        bias_cost=cost,
        steps=steps,
        repair=repair,
        repaired=repaired,
        errors=_label_errors(labels, truths, repair, None if turned else shown)
        if num_classes == 1 and comparable
        else None,
        displaced=None if comparable or num_classes > 1 else _displaced(transitions, truths, labels, seed),
        explained=() if biases is None else tuple(places[at] for at in biases.displaced),
        transitions=transitions,
        ceiling=ceiling,
        profile=distance_profile(table, seed),
        agreement=_agreement(placed, truths, num_classes),
        training_images=training_images,
    )


def _odd(transitions: Transitions, places: Sequence[int]) -> tuple[list[int], list[int]]:
    """Which labels mark nothing or are those of other images, and which have nothing to do with the truth.

    Where hardly any others are left, none.

    Args:
        places: of the labels among the images that were counted.
    """
    empty = np.union1d(transitions.blank, transitions.others.places)
    astray = np.setdiff1d(transitions.astray, empty)
    found = tuple([at for at, place in enumerate(places) if place in odd] for odd in (empty, astray))
    return found if len(places) - sum(map(len, found)) >= MIN_IMAGES else ([], [])


def _biases(
    labels: Labels,
    truths: Labels,
    shown: Labels | None,
    table: np.ndarray,
    predictor: IoUPredictor | None,
    *,
    turned: bool,
    odd: tuple[list[int], list[int]] = ([], []),
    seed: int,
    outlines: tuple[float, float] | None = None,
    is_clean: bool = True,
) -> Biases:
    """Systematic errors of binary labels; the threshold of those that depend on image or place is the stand-in's."""
    from evaluation.label_audit.bias_search import find_biases, without
    from evaluation.label_audit.repair import find_move_back

    upright = _turned(labels) if turned else labels
    clean_iou = 1.0 if predictor is None else predictor.clean
    filled = None if outlines is None else outlines[1]
    left_out, astray = odd
    biases = find_biases(
        truths,
        without(upright, left_out),
        shown,
        seed,
        clean_iou,
        filled=filled,
        is_clean=is_clean,
        astray=astray,
        refine=find_move_back,
    )
    if left_out or astray:
        back = [biases.moved.undo(label) if biases.moved else label for label in upright]
        biases = replace(biases, labels=back)
    if predictor is None or turned or biases.moved or not (biases.has(BY_IMAGE) or biases.has(BY_PLACE)):
        return biases
    return replace(biases, threshold=predictor.threshold(labels, table))


def _lie_off_alike(labels: Labels, truths: Labels, seed: int) -> bool:
    """Whether binary labels, 255 ignored, lie on the truth once they are all moved alike."""
    outlines = [outline_map(inward_distance(truth)) for truth in truths]
    return bool(find_move(outlines, as_maps(labels), seed))


def _displaced(transitions: Transitions, truths: Labels, labels: Labels, seed: int) -> Bias | None:
    """What displaces binary labels, 255 ignored, that hardly follow the truth where they lie."""
    if transitions.turned is not None or transitions.others.are_most or not np.isfinite(transitions.phi):
        return None
    from evaluation.label_audit.alignment import find_alignment

    aligned = find_alignment(truths, labels, seed)
    return None if aligned is None else aligned.displacement.bias


def _predict(
    predictor: IoUPredictor,
    labels: Labels,
    table: np.ndarray,
    transitions: Transitions,
    *,
    biases: Biases | None,
    invert: bool,
) -> PredictedIoU:
    """What a network trained on labels, moved back if they lay off, will reach."""
    if biases is None:
        return predictor.prediction(labels, table, transitions, invert=invert)
    return predictor.prediction(
        labels,
        table,
        transitions,
        invert=invert,
        biased=bool(biases.found),
        imitation=biases.imitation,
        threshold=biases.threshold,
        overlap=biases.overlap,
        offset=biases.offset,
    )


def _moved_iou(labels: Labels, truths: Labels) -> float:
    """IoU of binary labels with the truth once their outlines are moved, as far as validation moves those of masks."""
    from evaluation.label_audit.repair import moved_iou
    from evaluation.scores.validation import OFFSETS

    return moved_iou(labels, truths, float(OFFSETS.max()))


def _predict_repaired(
    predictor: IoUPredictor,
    labels: Labels,
    truths: Labels,
    *,
    shown: Labels,
    bins: Labels,
    transitions: Transitions,
    repair: str,
    seed: int,
) -> PredictedIoU:
    """What a network trained on upright binary labels will reach after their repair.

    Half way between what it reaches where it averages out the errors that are left, and what it reaches where it learns
    them: they hang together over whole objects.
    """
    from evaluation.label_audit.error_table import repaired
    from evaluation.label_audit.repair import labels_iou

    mended = [repaired(label, repair) for label in labels]
    table = np.stack([location_counts(*pair) for pair in zip(bins, mended, strict=True)])
    biases = _biases(mended, truths, shown, table, predictor, turned=False, seed=seed)
    if biases.moved:
        table = np.stack([location_counts(*pair) for pair in zip(bins, biases.labels, strict=True)])
    placed = biases.labels if biases.moved else mended
    averaged = _predict(predictor, placed, table, transitions, biases=biases, invert=False)
    learned = min(labels_iou(mended, truths, 1), averaged.value)
    return PredictedIoU.of(averaged.clean, (averaged.value + learned) / 2 / max(averaged.clean, 1e-9))


def _repair(labels: Labels, truths: Labels, num_classes: int) -> str | None:
    """The steps of label noise that mend moved labels or wrong outlines, as ``--label_repair auto`` chooses them."""
    from evaluation.label_audit.repair import choose_repair

    return choose_repair(labels, truths, num_classes).spec


def _label_errors(labels: Labels, truths: Labels, repair: str | None, shown: Labels | None) -> LabelErrors:
    """Counts of binary labels, repaired, by distance to the truth, and what predictions that learn them are like."""
    from evaluation.label_audit.error_table import LabelErrors

    errors = LabelErrors.of(truths, labels, repair)
    if shown is None or len(labels) < MIN_IMAGES:
        return errors
    from evaluation.label_audit.stand_in import stand_in_masks

    return replace(errors, stand_in=stand_in_masks(shown, truths, [errors.repaired(label) for label in labels]))


def bias_cost(biases: Biases, prediction: PredictedIoU | None) -> float:
    """The share of the clean labels' IoU that systematic errors cost whoever does not know of them.

    Outlines that lie off to either side cost what training does not average out.
    """
    if prediction is None or not biases.found:
        return biases.cost
    if all(bias.unit in (OF_ERRORS, IN_SOME, *DISPLACED) for bias in biases.found):
        return 1 - prediction.relative
    return max(biases.cost, 1 - prediction.relative) if biases.has(BY_IMAGE) else biases.cost


def _turned(labels: Labels) -> list[np.ndarray]:
    """Binary labels with foreground and background exchanged."""
    return [np.where(label == IGNORE, IGNORE, 1 - label).astype(np.uint8) for label in labels]


def _count(
    noisy: Labels, truth: Sequence[np.ndarray | None] | None, num_classes: int, workers: int
) -> tuple[np.ndarray, list[int]]:
    """Transition counts (n, K, K) of the images with a reference label, and the places of these images."""
    classes = label_classes(num_classes)
    if truth is None:
        return np.zeros((0, classes, classes), np.int64), []

    def count(place: int) -> np.ndarray | None:
        reference = truth[place]
        return None if reference is None else count_transitions(reference, noisy[place], num_classes)

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(count, range(len(noisy))))
    known = [place for place, counts in enumerate(found) if counts is not None and counts.sum() > 0]
    return np.array([found[place] for place in known]).reshape(-1, classes, classes), known


def _agreement(labels: Labels, truths: Labels, num_classes: int) -> DensityAgreement:
    """How alike the densities are: of the foreground, of K classes the mean over those in the truth."""
    if num_classes == 1:
        return density_agreement(labels, truths)
    present = [m for m in range(num_classes) if any((truth == m).any() for truth in truths)]
    found = [density_agreement(labels, truths, label_class=m) for m in present]
    names = ("correlation", "mean_first", "mean_second", "rms_difference", "sampling_error")
    means = (defined_mean(np.array([getattr(item, name) for item in found])) for name in names)
    return DensityAgreement(found[0].bandwidth, *means)


def decide(
    transitions: Transitions,
    ceiling: Ceiling,
    *,
    chance: bool = False,
    kinds: Sequence[str] = (),
    cost: float | None = None,
    outlines: bool = False,
) -> str:
    """The verdict, in the order of precedence.

    *not learnable*: |φ| < 0.02, or its interval holds 0, or labels follow the truth from image to image alone.
    *inverted*: negative contrast (two classes: φ < 0; more: the diagonal of Q below its off-diagonal). *biased*:
    systematic errors cost more than BIAS_MARGIN of what clean labels lead to, or depend on the place in the image; the
    kinds that were found are named. Else *learnable*. *unknown*: the truth shows a single class, so that nothing can be
    compared, or labels of some images the inverse of those of others, or there are too few images for an interval and
    what they show may be ``chance``.

    Args:
        kinds: of systematic errors that were found.
        outlines: whether labels are outlines alone, which may have little to do with the truth, or show its inverse.
        cost: share of the clean IoU that systematic errors cost; None where it is not known (no images, or several
            classes): then the gap of the ceiling decides, and boundaries are what it knows of.
    """
    if outlines:
        return f"biased {AT_BOUNDARIES}"
    if not np.isfinite(transitions.phi) or transitions.contradictory:
        return "unknown"
    if transitions.no_association:
        return "not learnable"
    if chance:
        return "unknown"
    if transitions.inverted:
        return "inverted"
    if cost is None:
        cost, kinds = ceiling.distance_free - ceiling.value, kinds or (AT_BOUNDARIES,)
    if kinds and (cost > BIAS_MARGIN or BY_PLACE in kinds):
        return f"biased {' and '.join(kinds)}"
    return "learnable"
