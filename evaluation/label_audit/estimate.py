r"""The transition matrix as counts show it: how sure it is, and what a learner of the labels can still tell apart.

Every interval comes from resampling images, see ``evaluation.scores.bootstrap``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datasets.transition_matrix import MIN_PHI, TransitionMatrix, contrast, count_transitions, normalize_rows
from evaluation.label_audit.moves import TURNED_SIDE, TURNS, Turned, best_turn, possible_turns
from evaluation.label_audit.other_images import OtherImages
from evaluation.scores import ratio
from evaluation.scores.bootstrap import (
    CONFIDENCE,
    MIN_IMAGES,
    RESAMPLES,
    bootstrap_counts,
    percentile_interval,
    small_sample_reach,
    student_reach,
)

CLEAR_PHI, WEAK_PHI = 0.5, 0.2  # of one image, and of all: what says for sure, or hardly, that labels follow the truth
MIN_ANNOTATED = 3  # images with a label of two classes, that tell what labels have to do with the truth
ASTRAY = 0.1  # φ of a label below it is not like the others', most of which are clear
SHIFTS, CHANCE = 200, 0.005  # few images: of so many random placements of the labels, this fraction may do as well
MIN_SINGULAR = 0.001  # smaller singular values count as 0 even where exact shares leave no error between images


def residuals(counts: np.ndarray) -> np.ndarray:
    r"""Standardized deviations from independence, :math:`R_{jm} = (P_{jm} - P_{j\cdot}P_{\cdot m}) /
    \sqrt{P_{j\cdot}P_{\cdot m}}`; 0 where a margin is empty. Shape (…, K, K)."""
    counts = np.asarray(counts, float)
    total = np.maximum(counts.sum((-2, -1), keepdims=True), 1)
    joint = counts / total
    expected = joint.sum(-1, keepdims=True) * joint.sum(-2, keepdims=True)
    root = np.sqrt(expected)
    return np.divide(joint - expected, root, out=np.zeros_like(joint), where=root > 0)


def association(counts: np.ndarray) -> np.ndarray:
    r"""φ, the correlation of label and truth, carrying the sign of the contrast.

    .. math:: \varphi = \operatorname{sign}(c) \sqrt{\textstyle\sum_{jm} R_{jm}^2 \,/\, (K' - 1)}

    with K' the number of classes that occur in the truth. For two classes this is the Pearson correlation of two 0/1
    variables; for more it is Cramér's V, 0 exactly where label and truth are independent. Constant labels give 0.

    Args:
        counts: (…, K, K), rows = truth.
    Returns: (…,) in [−1, 1]; NaN where the truth has fewer than two classes.
    """
    freedom = (np.asarray(counts).sum(-1) > 0).sum(-1) - 1
    strength = np.sqrt(ratio((residuals(counts) ** 2).sum((-2, -1)), freedom))
    direction = np.where(contrast(normalize_rows(np.asarray(counts))) < 0, -1.0, 1.0)
    return direction * strength


def association_interval(counts: np.ndarray, replicates: np.ndarray, images: int) -> tuple[float, float]:
    r"""The 95 % interval of φ: bootstrap percentiles, made to hold 0 where φ may be chance.

    For more than two classes Cramér's V can never reach 0 in a sample, nor can its replicates. Chance alone, the spread
    between images, gives a V of about :math:`s = \sqrt{\sum_{jm} \operatorname{Var}_B R_{jm} / (K' - 1)}`; where V is
    not larger than the same multiple of s that makes a 95 % interval, the interval is extended to hold 0.

    Args:
        counts: pooled counts (K, K); replicates: of resampled images, (B, K, K).
    """
    low, high = (float(bound) for bound in percentile_interval(association(replicates), small_sample_reach(images)))
    freedom = int((counts.sum(-1) > 0).sum()) - 1
    if counts.shape[-1] == 2 or freedom < 1:
        return low, high
    chance = np.sqrt(residuals(replicates).var(0).sum() / freedom)
    if abs(float(association(counts))) > small_sample_reach(images) * chance:
        return low, high
    return min(low, 0.0), max(high, 0.0)


def holds_nothing(value: float, low: float, high: float) -> bool:
    """Whether φ is as good as 0: below MIN_PHI in size, or with an interval that holds 0."""
    return abs(value) < MIN_PHI or low <= 0 <= high


def rank_given_error(matrix: np.ndarray, replicates: np.ndarray | None) -> int:
    r"""How many singular values of Q stand out of the error of its estimate.

    With :math:`Q = U S V^\top` the error that can feign the last singular values is that of the block
    :math:`U_{\ge r}^\top (Q_b - Q) V_{\ge r}` over the bootstrap replicates b. r is the rank if :math:`s_r` exceeds the
    95 % quantile of that block's largest singular value (and MIN_SINGULAR), tried from r = K downward.

    Args:
        matrix: Q of the classes that occur, (K, K) without NaN.
        replicates: resampled Q, (B, K, K); None (too few images) counts singular values above MIN_SINGULAR.
    """
    left, singular, right = np.linalg.svd(matrix)
    if replicates is None:
        return int((singular > MIN_SINGULAR).sum())
    errors = left.T @ (replicates[np.isfinite(replicates).all((-2, -1))] - matrix) @ right.T
    for rank in range(len(singular), 1, -1):
        block = errors[:, rank - 1 :, rank - 1 :]
        noise = np.quantile(np.linalg.norm(block, 2, axis=(-2, -1)), CONFIDENCE) if len(block) else 0.0
        if singular[rank - 1] > max(noise, MIN_SINGULAR):
            return rank
    return 1


def merging_classes(counts: np.ndarray, replicates: np.ndarray | None, images: int) -> list[list[int]]:
    """Groups of classes whose rows of Q coincide within the error: labels cannot tell them apart.

    Two rows coincide where φ of label and truth *among these two classes*, each weighted equally, is as good as 0.
    Rank alone does not say it: [[1, 0, 0], [½, ½, 0], [0, 1, 0]] has rank 2 and three distinct rows.

    Args:
        counts: pooled counts (K, K); replicates: of resampled images, (B, K, K) or None.
    Returns: groups of two or more class indices, ascending.
    """
    group = list(range(len(counts)))
    present = np.flatnonzero(counts.sum(-1) > 0)
    rows = normalize_rows(counts)
    for place, first in enumerate(present):
        for second in present[place + 1 :]:
            pair = [first, second]
            strength = np.sqrt((residuals(rows[pair]) ** 2).sum())
            error = 0.0
            if replicates is not None:
                spread = residuals(np.nan_to_num(normalize_rows(replicates[:, pair]))).var(0).sum()
                error = 1.96 * np.sqrt(spread * images / (images - 1))
            if strength < max(MIN_PHI, error):
                old, new = group[second], group[first]
                group = [new if value == old else value for value in group]
    members = [[int(j) for j in present if group[j] == g] for g in sorted(set(group))]
    return [classes for classes in members if len(classes) > 1]


@dataclass(frozen=True)
class Transitions:
    """Everything that pooled class counts say about label noise.

    Args:
        counts: pooled counts (K, K), rows = truth.
        images: images counted.
        matrix: Q.
        matrix_low, matrix_high: 95 % bounds of Q; None with fewer than MIN_IMAGES images ("too few").
        phi, phi_low, phi_high: association of label and truth; bounds NaN with too few images.
        contrast_low, contrast_high: 95 % bounds of the matrix's contrast.
        determinant: of the rows and columns of classes that occur.
        singular_values: of the same, descending; singular_low, singular_high: 95 % bounds.
        rank: number of singular values that stand out of the error; at most the number of distinct rows.
        merged: groups of classes that the labels cannot tell apart.
        image_phi: φ of every image; NaN where its truth shows a single class, (n,).
        blank: places of the images whose labels are all background though their truth is not.
        turned: where labels show the truth mirrored or turned, see `find_turn`.
        others: how labels fit the truth of other images; its places are of images counted.
        moved: whether labels lie off so far, all alike, that φ says nothing of them.
    """

    counts: np.ndarray
    images: int
    matrix: TransitionMatrix
    matrix_low: np.ndarray | None
    matrix_high: np.ndarray | None
    phi: float
    phi_low: float
    phi_high: float
    contrast_low: float
    contrast_high: float
    determinant: float
    singular_values: np.ndarray
    singular_low: np.ndarray | None
    singular_high: np.ndarray | None
    rank: int
    merged: list[list[int]]
    image_phi: np.ndarray
    blank: np.ndarray
    turned: Turned | None = None
    others: OtherImages = OtherImages()
    moved: bool = False

    @property
    def too_few(self) -> bool:
        """Whether there are too few images for intervals."""
        return self.images < MIN_IMAGES

    @property
    def invertible(self) -> bool:
        """Whether noise can be undone among the classes that occur: Q stands out of its error and is invertible."""
        return self.rank == len(self.matrix.present) and self.matrix.is_invertible

    @property
    def inverted(self) -> bool:
        """Whether labels and truth are associated, but the wrong way round."""
        return not (self.no_association or self.contradictory) and self.phi < 0

    @property
    def no_association(self) -> bool:
        """Whether φ is as good as 0, or labels are turned, of other images, or follow the truth between images alone.

        Not where most annotated images show it: of few, some that nobody annotated, or with labels of other images, let
        the interval of φ reach 0.
        """
        if self.turned is not None or self.others.are_most:
            return True
        if self.contradictory or self.moved or (not self.too_few and abs(usual_phi(self.image_phi)) > CLEAR_PHI):
            return False
        return holds_nothing(self.phi, self.phi_low, self.phi_high) or self.only_between_images

    @property
    def contradictory(self) -> bool:
        """Whether φ is as good as 0 though the labels of single images show the truth, or its inverse."""
        is_clear = (self.image_phi > CLEAR_PHI).any() and (self.image_phi < -CLEAR_PHI).any()
        return bool(is_clear) and holds_nothing(self.phi, self.phi_low, self.phi_high)

    @property
    def only_between_images(self) -> bool:
        """Whether labels are more where the truth is more, image by image, but know no better where it is inside them.

        Or no better than they know it of other images, which may be alike. That makes φ of turned or shuffled labels,
        which nothing can be learned from.
        """
        known = self.image_phi[np.isfinite(self.image_phi)]
        if self.too_few or len(known) < MIN_IMAGES or not abs(self.phi) < WEAK_PHI:
            return False
        if self.others.own_fits_better is False:
            return True
        reach = student_reach(len(known)) * float(known.std(ddof=1)) / float(np.sqrt(len(known)))
        return abs(float(known.mean())) <= reach

    @property
    def astray(self) -> np.ndarray:
        """Places of the images whose labels do not follow the truth, or show its inverse, where most others' do."""
        return np.zeros(0, int) if self.too_few else astray_places(self.image_phi)


def usual_phi(image_phi: np.ndarray) -> float:
    """The median of the φ of images, without those that nobody annotated where enough are left; 0 where none has one.

    A label of one class alone has a φ of exactly 0.
    """
    known = image_phi[np.isfinite(image_phi)]
    annotated = known[known != 0]
    known = annotated if len(annotated) >= MIN_ANNOTATED else known
    return float(np.median(known)) if len(known) else 0.0


def astray_places(image_phi: np.ndarray) -> np.ndarray:
    """Images whose labels do not follow the truth, or show its inverse, where most others' do."""
    usual = usual_phi(image_phi)
    return np.flatnonzero(image_phi * np.sign(usual) < ASTRAY) if abs(usual) >= CLEAR_PHI else np.zeros(0, int)


def estimate_transitions(
    counts: Sequence[np.ndarray] | np.ndarray, seed: int = 0, replicates: int = RESAMPLES
) -> Transitions:
    """Transition matrix, what follows from it and their bootstrap intervals from counts per image.

    Args:
        counts: ``count_transitions`` of every image, each (K, K), or the array (n, K, K); rows = truth. The same
            function serves two annotators: rows are then the second annotator's classes.
        seed: of the bootstrap.
    Raises: ValueError without any image.
    """
    tables = np.asarray(counts)
    if tables.ndim != 3 or not len(tables):
        raise ValueError(f"counts must be (images, K, K) with at least one image, not {tables.shape}")
    images, pooled = len(tables), tables.sum(0)
    matrix = TransitionMatrix.from_counts(pooled)
    present, inner = matrix.present, matrix.block
    unknown: tuple[Any, Any] = (None, None)
    bounds = {"matrix": unknown, "singular": unknown, "phi": (np.nan, np.nan), "contrast": (np.nan, np.nan)}
    resampled = inner_resampled = None
    if images >= MIN_IMAGES:
        resampled = bootstrap_counts(tables, seed, replicates)
        reach, matrices = small_sample_reach(images), normalize_rows(resampled)
        inner_resampled = matrices[:, present][:, :, present]
        singular = np.linalg.svd(np.nan_to_num(inner_resampled), compute_uv=False)
        bounds["matrix"] = percentile_interval(matrices, reach)
        bounds["phi"] = association_interval(pooled, resampled, images)
        bounds["contrast"] = percentile_interval(contrast(matrices), reach)
        bounds["singular"] = percentile_interval(singular, reach)
    merged = merging_classes(pooled, resampled, images)
    distinct = len(present) - sum(len(group) - 1 for group in merged)
    return Transitions(
        counts=pooled,
        images=images,
        matrix=matrix,
        matrix_low=bounds["matrix"][0],
        matrix_high=bounds["matrix"][1],
        phi=float(association(pooled)),
        phi_low=float(bounds["phi"][0]),
        phi_high=float(bounds["phi"][1]),
        contrast_low=float(bounds["contrast"][0]),
        contrast_high=float(bounds["contrast"][1]),
        determinant=float(np.linalg.det(inner)) if len(present) else float("nan"),
        singular_values=np.linalg.svd(inner, compute_uv=False),
        singular_low=bounds["singular"][0],
        singular_high=bounds["singular"][1],
        rank=min(rank_given_error(inner, inner_resampled), distinct) if len(present) else 0,
        merged=merged,
        image_phi=np.array([association(table) if len(table) == 2 else np.nan for table in tables], float),
        blank=blank_places(tables),
    )


def blank_places(counts: np.ndarray) -> np.ndarray:
    """Places of images whose labels are all background though their truth is not; counts (n, K, K), rows = truth."""
    return np.flatnonzero((counts[:, 1:].sum((1, 2)) > 0) & (counts[:, :, 1:].sum((1, 2)) == 0))


def find_turn(truths: Sequence[np.ndarray], labels: Sequence[np.ndarray], num_classes: int = 1) -> Turned | None:
    """Whether labels show the truth mirrored or turned; classes with 255 ignored, (H, W) each."""
    pairs = list(zip(truths, labels, strict=True))
    if any(truth.shape != label.shape for truth, label in pairs):
        return None
    undone = possible_turns(labels)

    def strengths(truth: np.ndarray, label: np.ndarray) -> np.ndarray:
        some = (slice(None, None, -(-max(truth.shape) // TURNED_SIDE)),) * 2
        tried = [label, *(TURNS[what](label) for what in undone)]
        return association(np.stack([count_transitions(truth[some], each[some], num_classes) for each in tried]))

    return best_turn(np.stack([strengths(*pair) for pair in pairs]), undone)


def may_be_chance(
    truths: Sequence[np.ndarray], labels: Sequence[np.ndarray], num_classes: int = 1, seed: int = 0
) -> bool:
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
        counts = np.sum([count_transitions(*pair, num_classes) for pair in zip(truths, moved, strict=True)], axis=0)
        return float(np.nan_to_num(np.abs(association(counts))))

    observed = strength(move=False)
    return sum(strength(move=True) >= observed for _ in range(SHIFTS)) > CHANCE * SHIFTS
