"""The label audit: what labels will teach a network, said before training.

Given labels and, for some of their images, clean labels (or a second annotator's, or the images alone), `audit_labels`
estimates the transition matrix, reads it by distance to the true boundary, and gives a verdict, the IoU of a perfect
learner, the IoU to expect from a real network, and what to do. The steps live in files of their own:
``estimate`` (Q and its error), ``by_distance`` (Q by place), ``iou_ceiling``, ``predicted_iou``,
``without_reference`` (no clean labels), ``report`` (what is said about it).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np

from datasets.labels import label_classes
from datasets.transition_matrix import count_transitions
from evaluation.label_audit.by_distance import DensityAgreement, density_agreement, distance_profile, location_table
from evaluation.label_audit.estimate import Transitions, association, estimate_transitions
from evaluation.label_audit.iou_ceiling import Ceiling, iou_ceiling
from evaluation.label_audit.predicted_iou import IoUPredictor
from evaluation.label_audit.report import BIAS_MARGIN, AuditReport
from evaluation.label_audit.without_reference import FOREGROUNDS, ImageEvidence, image_evidence
from utils.cli import UserError, one_of

MAX_IMAGES = 60  # images that everything but Q is estimated from
SHIFTS, CHANCE = 200, 0.005  # few images: of so many random placements of the labels, this share may do as well
MAX_SIDE = 512  # of larger images a window of this size is used for the same

Labels = Sequence[np.ndarray]


def decide(transitions: Transitions, ceiling: Ceiling, chance: bool = False) -> str:
    """The verdict from Q and the ceiling, in the order of precedence.

    *not learnable*: |φ| < 0.02, or its interval holds 0. *inverted*: negative contrast (two classes: φ < 0; more: the
    diagonal of Q below its off-diagonal). *biased at boundaries*: the ceiling is more than 0.03 below that of the
    distance-free Q. Else *learnable*. *unknown*: the truth shows a single class, so that nothing can be compared,
    or there are too few images for an interval and what they show may be ``chance``.
    """
    if not np.isfinite(transitions.phi):
        return "unknown"
    if transitions.no_association:
        return "not learnable"
    if chance:
        return "unknown"
    if transitions.phi < 0:
        return "inverted"
    if ceiling.distance_free - ceiling.value > BIAS_MARGIN:
        return "biased at boundaries"
    return "learnable"


def decide_by_images(evidence: ImageEvidence) -> str:
    """The verdict without any reference: the direction is known only if the user said what the foreground looks like.

    A bias at boundaries cannot be seen this way, so *learnable* says that signal and direction are right.
    """
    if evidence.has_nothing:
        return "not learnable"
    if not evidence.has_signal or evidence.direction is None:
        return "unknown"
    return "learnable" if evidence.direction > 0 else "inverted"


def audit_labels(
    noisy: Labels,
    truth: Sequence[np.ndarray | None] | None = None,
    images: Labels | None = None,
    num_classes: int = 1,
    seed: int = 0,
    foreground: str | None = None,
    max_images: int = MAX_IMAGES,
    reference: str = "clean labels",
    training_images: int | None = None,
    workers: int = 4,
) -> AuditReport:
    """Audit a label set. Sequences are read item by item and may load from disk.

    Args:
        noisy: the labels to be trained on, classes with 255 ignored, uint8 (H, W) each.
        truth: clean labels of the same images, None for images that have none.
        images: of the same length, any dtype, (H, W) or (H, W, C) each; without them there is no predicted IoU.
        num_classes: 1 for binary labels, else K.
        seed: of bootstraps, halves and the choice of images.
        foreground: ``bright``, ``dark`` or ``minority``: settles the direction where no truth does.
        max_images: images from which profile, ceiling and prediction are estimated; Q counts all.
        training_images: how many images the network will be trained on, for the predicted IoU; None: ``len(noisy)``.
        reference: ``second annotator`` where ``truth`` is another person's label.
    Raises:
        UserError: neither truth nor images; foreground with several classes or an unknown word.
    """
    if foreground is not None:
        one_of(foreground, FOREGROUNDS, "--foreground")
        if num_classes > 1:
            raise UserError(
                "--foreground settles the direction of binary labels; --num_classes is "
                f"{num_classes}: give clean labels of some images instead"
            )
    rng = np.random.default_rng(seed)
    counts, known = _count(noisy, truth, num_classes, workers)
    if not known and images is None:
        raise UserError("an audit needs clean labels, a second annotator's labels or the images; there are none")
    pool = known or list(range(len(noisy)))
    sampled = sorted(int(i) for i in rng.permutation(pool)[:max_images])
    if not known:
        sample = [_window(rng, noisy[i], images[i]) for i in sampled]
        evidence = image_evidence(*_columns(sample), num_classes, foreground, seed)
        verdict = decide_by_images(evidence)
        directed = num_classes == 1 and verdict in ("inverted", "learnable")
        invert = verdict == "inverted" if directed else None
        return AuditReport(
            verdict,
            num_classes,
            "images only",
            len(noisy),
            0,
            invert=invert,
            evidence=evidence,
            foreground=foreground,
            sampled=sampled,
        )
    parts = [_window(rng, noisy[i], truth[i], *([] if images is None else [images[i]])) for i in sampled]
    transitions = estimate_transitions(counts, seed)
    trained_on = training_images or len(noisy)
    return _report(transitions, _columns(parts), num_classes, seed, reference, len(noisy), sampled, trained_on)


def _report(
    transitions: Transitions,
    sample: Sequence[Labels],
    num_classes: int,
    seed: int,
    reference: str,
    images: int,
    sampled: list[int],
    training_images: int,
) -> AuditReport:
    """The audit against a reference.

    Args:
        sample: labels, reference labels and, where there are any, images of the sampled places.
    """
    labels, truths = sample[0], sample[1]
    binary = num_classes == 1
    bins, table = location_table(truths, labels, num_classes)
    inverted = not transitions.no_association and transitions.phi < 0
    ceiling = iou_ceiling(table, transitions, inverted and binary, seed, num_classes)
    chance = transitions.too_few and may_be_chance(truths, labels, num_classes, seed)
    verdict = decide(transitions, ceiling, chance)
    predicted = None
    if verdict == "not learnable":
        predicted = ceiling.value
    elif verdict != "unknown" and len(sample) > 2:
        outlook = IoUPredictor(sample[2], truths, bins, num_classes, seed, training_images=training_images)
        predicted = outlook.iou(outlook.scores(labels, table), transitions, inverted and binary)
    decided = verdict not in ("unknown", "not learnable")
    return AuditReport(
        verdict=verdict,
        num_classes=num_classes,
        reference=reference,
        images=images,
        compared=transitions.images,
        transitions=transitions,
        ceiling=None if verdict == "unknown" else ceiling,
        predicted_iou=predicted,
        invert=inverted if decided and binary else None,
        threshold=transitions.matrix.threshold() if decided and binary else None,
        profile=distance_profile(table, seed),
        agreement=_agreement(labels, truths, num_classes),
        sampled=sampled,
        training_images=training_images,
    )


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
    found = [asdict(density_agreement(labels, truths, label_class=m)) for m in present]
    means = {name: np.array([item[name] for item in found]) for name in found[0]}
    known = {name: values[np.isfinite(values)] for name, values in means.items()}
    return DensityAgreement(
        **{name: float(values.mean()) if values.size else float("nan") for name, values in known.items()}
        | {"bandwidth": found[0]["bandwidth"]}
    )


def may_be_chance(truths: Labels, labels: Labels, num_classes: int = 1, seed: int = 0) -> bool:
    """Whether labels that know nothing of the truth would often be associated with it as much as these are.

    The labels are moved around each image (what leaves on one side comes back on the other) by random offsets. That
    leaves their structure and the truth's as they are, but breaks whatever ties them. φ is no chance where at most
    CHANCE of SHIFTS offsets reach it. Meant for few images, whose spread cannot be known; large sets have intervals.

    Args:
        truths, labels: classes with 255 ignored, (H, W) each.
    Source: the toroidal shift test of spatial statistics (Lotwick & Silverman, J. R. Statist. Soc. B 44, 1982).
    """
    rng = np.random.default_rng(seed)

    def strength(move: bool) -> float:
        offsets = [tuple(rng.integers(0, label.shape)) if move else (0, 0) for label in labels]
        moved = [np.roll(label, offset, (0, 1)) for label, offset in zip(labels, offsets, strict=True)]
        counts = sum(count_transitions(*pair, num_classes) for pair in zip(truths, moved, strict=True))
        return float(np.nan_to_num(np.abs(association(counts))))

    observed = strength(move=False)
    return sum(strength(move=True) >= observed for _ in range(SHIFTS)) > CHANCE * SHIFTS


def _window(rng: np.random.Generator, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same random window of at most MAX_SIDE² pixels of label, reference and image."""
    height, width = arrays[0].shape[:2]
    top = int(rng.integers(0, max(height - MAX_SIDE, 0) + 1))
    left = int(rng.integers(0, max(width - MAX_SIDE, 0) + 1))
    return tuple(item[top : top + MAX_SIDE, left : left + MAX_SIDE] for item in arrays)


def _columns(rows: list[tuple[np.ndarray, ...]]) -> list[list[np.ndarray]]:
    return [list(column) for column in zip(*rows, strict=True)]
