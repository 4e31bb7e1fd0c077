"""What images alone say about labels: whether there is any signal, and, told what the foreground looks like, its sign.

Without clean labels φ cannot be known. Where scores that were fitted to labels of *other* images correlate with the
labels, there is something to learn; how much of it is the truth, images cannot tell: labels that are systematically too
wide are predicted as well as right ones. The direction is beyond images too: labels and their inverse fit equally well.
Labels that no image feature predicts *and* whose neighbouring pixels are unrelated have no spatial density; nothing can
be learned from them. What else images show, in words, is the matter of ``clues``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from datasets.label_summary import ask_outlines
from datasets.labels import IGNORE, label_classes
from datasets.transition_matrix import MIN_PHI
from evaluation.label_audit.by_distance import BANDWIDTH, local_density, window_mean
from evaluation.label_audit.clues import Clues, Positions, find_clues
from evaluation.label_audit.moves import TURNS, Turned, best_turn, possible_turns
from evaluation.label_audit.pixel_classifier import (
    BRIGHTNESS,
    MAX_IMAGES,
    PIXELS,
    PixelLearner,
    image_features,
    sample_positions,
    sample_windows,
)
from evaluation.label_audit.verdict import HOPELESS, Audit
from evaluation.scores import ratio
from evaluation.scores.bootstrap import MIN_IMAGES, counts_interval

WEAK_NEIGHBOURS = 0.003  # below what the weakest labels that teach show: flip:0.45 has 0.004 at 14 % foreground
# Labels on six sets of images have 0.66 to 0.79 of neighbours; images predict them by 0.67 to 0.89, shuffled by 0.25.
STRUCTURE, MATCHED = 0.3, 0.6


@dataclass(frozen=True)
class ImageEvidence:
    """Label signal as far as images show it.

    Args:
        correlation: of labels with scores fitted to other images. low, high: 95 % bounds, NaN
            with too few images.
        neighbours: correlation of labels of pixels up to BANDWIDTH apart in x and y; neighbours_low, neighbours_high:
            95 % bounds.
        direction: 1 not inverted, −1 inverted, None unknown.
        clues: where labels lie beside what images show; None for several classes.
        unannotated: labels that mark nothing, of images that look like those where others mark something.
        turned: where images predict labels far better when these are mirrored or turned back.
        outlines: a question, where labels seem to be outlines that nobody filled.
    """

    correlation: float
    low: float
    high: float
    neighbours: float
    neighbours_low: float
    neighbours_high: float
    direction: int | None
    clues: Clues | None = None
    unannotated: int = 0
    turned: Turned | None = None
    outlines: str = ""

    @property
    def has_signal(self) -> bool:
        """Whether images predict the labels: the interval lies above 0."""
        return self.low > 0 and self.correlation >= MIN_PHI

    @property
    def has_structure(self) -> bool:
        """Whether neighbouring labels agree, so that labels have outlines."""
        return self.neighbours >= STRUCTURE

    @property
    def is_mismatched(self) -> bool:
        """Whether images predict the labels far less than the labels' own neighbours do."""
        return not np.isnan(self.low) and self.has_structure and self.correlation < MATCHED * self.neighbours

    @property
    def has_nothing(self) -> bool:
        """Whether labels are unrelated to the images and to their own neighbours: both intervals hold 0 and are narrow.

        Neighbours correlate by φ² times what they do in the truth, so a bound on φ asks for the square on them.
        """
        if not self.low <= 0 <= self.high:
            return False
        by_image = max(-self.low, self.high) < 2 * MIN_PHI
        return by_image and self.neighbours_low <= 0 <= self.neighbours_high and self.neighbours_high < WEAK_NEIGHBOURS

    @property
    def verdict(self) -> str:
        """The verdict without any reference: the direction is known only if the user said what the foreground shows.

        A bias at boundaries cannot be seen this way, so *learnable* says that signal and direction are right.
        """
        if self.has_nothing:
            return "not learnable"
        if not self.has_signal or self.direction is None or self.turned is not None:
            return "unknown"
        return "learnable" if self.direction > 0 else "inverted"


@dataclass(frozen=True, kw_only=True)
class ImageAudit(Audit):
    """What images alone say.

    Args:
        evidence: the labels' signal in the images.
        foreground: the user's word on what the foreground looks like.
    """

    evidence: ImageEvidence
    foreground: str | None
    reference: str = field(init=False, default="images only")

    def _shows_inverse(self) -> bool:
        return self.verdict == "inverted"

    def warnings(self) -> list[str]:
        """That labels are outlines, mark nothing, or have structure of their own that images hardly predict.

        Noise that forgets the image lowers both correlations; only labels of another place keep their structure.
        """
        lines = [self.evidence.outlines] if self.evidence.outlines else []
        if blank := self.evidence.unannotated:
            lines.append(
                f"{blank} of the {len(self.sampled)} labels that were looked at mark nothing, though their images look "
                "like the others: leave out images that nobody annotated. They teach that all is background."
            )
        has_cause = lines or self.evidence.turned or (self.evidence.clues and self.evidence.clues.by_place)
        if self.evidence.is_mismatched and not has_cause:
            lines.append(
                "simple image features hardly predict the labels, which have structure of their own: are labels and "
                "images mismatched (shuffled, turned or moved)? Where structures show by more than brightness and "
                "edges, go on"
            )
        return lines

    def reason(self) -> str:
        """Why the verdict is what it is, in a sentence."""
        found = self.evidence
        if turned := found.turned:
            return (
                f"The labels seem {turned.what}: taken back, images predict them with a correlation of "
                f"{turned.after:.2f}, as they are {turned.before:.2f}. Undo that, in the files or in their export."
            )
        if not found.has_signal or found.clues is None:
            return self.notes()[-1]
        if not found.has_structure:
            return (
                f"Images predict the labels (correlation {found.correlation:.2f}), which are too speckled to tell "
                "where they lie; their inverse would fit equally well."
            )
        if said := found.clues.lines():
            return " ".join(said)
        if self.evidence.is_mismatched:
            return f"Images hardly predict the labels (correlation {found.correlation:.2f})."
        guess = " They mark the smaller part: a guess is that they are not inverted." if found.direction is None else ""
        return f"Images predict the labels (correlation {found.correlation:.2f}). {found.clues.nothing_found()}{guess}"

    def notes(self) -> list[str]:
        """What can be said without a reference."""
        found = self.evidence
        lines = [f"No clean labels: {len(self.sampled)} labels were compared with their images."]
        if np.isnan(found.low):
            lines.append(f"Too few images ({len(self.sampled)}; {MIN_IMAGES} are needed) to tell signal from chance.")
        elif found.has_nothing:
            lines.append("No image feature predicts the labels, and neighbouring label pixels are unrelated.")
        elif not found.has_signal and not found.has_structure:
            lines.append(
                "Simple image features do not predict the labels, and neighbouring label pixels agree hardly more than "
                "by chance: they may hold nothing; more images would tell."
            )
        elif not found.has_signal:
            lines.append(
                "Simple image features do not predict the labels, but the labels have structure of their own: images "
                "and labels may be mismatched, or what is labelled shows by more than brightness and edges."
            )
        else:
            bounds = f"{found.correlation:.3f} ({found.low:.3f} to {found.high:.3f})"
            lines.append(f"Images predict the labels, with a correlation of {bounds}.")
            if found.direction is None and self.num_classes == 1:
                lines.append(
                    "Whether they are inverted cannot be seen from images: labels and their inverse fit equally well."
                )
            elif found.direction is None:
                lines.append("Which label names which class cannot be seen from images.")
            else:
                lines.append(
                    f"With {self.foreground} foreground they are "
                    f"{'not inverted' if found.direction > 0 else 'inverted'}; whether they are "
                    "biased cannot be known without clean labels."
                )
            lines += found.clues.lines() if found.clues is not None and found.has_structure else []
        return lines

    def advice(self, matrix_file: str | None = None) -> list[str]:
        """What to do without a reference."""
        if self.verdict == "not learnable":
            return [HOPELESS]
        lines = [
            f"Label {MIN_IMAGES} images with care and name them (--clean_list): then the audit says how the labels "
            "err, what they will lead to and what mends them."
        ]
        if self.verdict == "unknown" and self.evidence.has_signal and self.num_classes == 1:
            lines.insert(0, "Say what the foreground looks like: --foreground bright, dark or minority.")
        if self.invert:
            lines.insert(0, "Scores must be inverted (--pred_invert on, or auto, which does it by this audit).")
        return lines

    def _evidence_details(self) -> dict[str, Any]:
        return {"compared": 0, "image_evidence": asdict(self.evidence), "foreground": self.foreground}


def _correlation(moments: np.ndarray) -> np.ndarray:
    """Correlation from summed moments (…, K, 6): count, Σs, Σy, Σsy, Σss, Σyy; classes pooled."""
    count, s, y, sy, ss, yy = np.moveaxis(np.asarray(moments, float), -1, 0)
    count = np.maximum(count, 1)
    covariance = (sy / count - s * y / count**2).sum(-1)
    variances = (ss / count - (s / count) ** 2).sum(-1) * (yy / count - (y / count) ** 2).sum(-1)
    return np.nan_to_num(ratio(covariance, np.sqrt(np.maximum(variances, 0))))


def _with_interval(moments: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Pooled correlation of moments per image (n, K, 6) and its bounds from resampling images."""
    return float(_correlation(moments.sum(0))), *counts_interval(_correlation, moments, seed)


def _moments(s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Count, Σs, Σy, Σsy, Σss, Σyy of two (P, K) arrays; (K, 6)."""
    count = np.full(s.shape[1], len(s))
    return np.stack([count, s.sum(0), y.sum(0), (s * y).sum(0), (s * s).sum(0), (y * y).sum(0)], 1).astype(float)


def neighbour_moments(label: np.ndarray, classes: int) -> np.ndarray:
    """Moments of the class indicators of all pairs of labelled pixels up to BANDWIDTH apart, (classes − 1, 6)."""
    area = (2 * BANDWIDTH + 1) ** 2

    def others(values: np.ndarray) -> np.ndarray:
        return np.rint(window_mean(values, BANDWIDTH) * area) - values

    known = label != IGNORE
    partners, found = others(known), []
    for label_class in range(1, classes):
        marked = label == label_class
        count, single, both = partners[known].sum(), partners[marked].sum(), others(marked)[marked].sum()
        found.append([count, single, single, both, single, single])  # an indicator is its own square
    return np.array(found, float)


def _direction(scores: np.ndarray, brightness: np.ndarray, foreground: str | None) -> int | None:
    """1 where the score is high in what the user calls foreground, −1 where it is low, None without a statement."""
    if foreground is None:
        return None
    if foreground == "minority":
        from skimage.filters import threshold_otsu

        return 1 if (scores > threshold_otsu(scores)).mean() < 0.5 else -1
    bright_is_high = np.cov(scores, brightness)[0, 1] > 0
    return 1 if bright_is_high == (foreground == "bright") else -1


def audit_by_images(
    labels: Sequence[np.ndarray],
    images: Sequence[np.ndarray],
    num_classes: int = 1,
    *,
    seed: int = 0,
    foreground: str | None = None,
    max_images: int = MAX_IMAGES,
) -> ImageAudit:
    """Audit labels by the images alone; the arguments are those of `audit_labels`."""
    rng = np.random.default_rng(seed)
    sampled = sorted(int(i) for i in rng.permutation(len(labels))[:max_images])
    looked_into, shown = sample_windows(rng, sampled, labels, images)
    evidence = image_evidence(looked_into, shown, num_classes, foreground, seed)
    return ImageAudit(
        verdict=evidence.verdict,
        num_classes=num_classes,
        images=len(labels),
        sampled=sampled,
        evidence=evidence,
        foreground=foreground,
    )


def image_evidence(
    noisy: Sequence[np.ndarray],
    images: Sequence[np.ndarray],
    num_classes: int = 1,
    foreground: str | None = None,
    seed: int = 0,
) -> ImageEvidence:
    """Look for the labels' signal in the images.

    Args:
        noisy: labels with 255 ignored, (H, W) each; images: any dtype, (H, W) or (H, W, C) each.
        foreground: ``bright``, ``dark`` or ``minority`` (the smaller part of the image), for binary labels.
    """
    classes = label_classes(num_classes)
    rng = np.random.default_rng(seed)
    positions = [sample_positions(label.shape, PIXELS, rng) for label in noisy]
    learner = PixelLearner(image_features(images, positions), seed)
    label = np.concatenate([item[place] for item, place in zip(noisy, positions, strict=True)])
    target = np.stack(
        [
            np.concatenate([local_density(item, BANDWIDTH, m)[p] for item, p in zip(noisy, positions, strict=True)])
            for m in range(1, classes)
        ],
        axis=1,
    )
    scores = learner.scores(np.nan_to_num(target), np.asarray(np.isfinite(target).all(1))).astype(float)
    indicator = (label[:, None] == np.arange(1, classes)).astype(float)
    chosen = [(learner.image == image) & (label != IGNORE) for image in range(len(images))]
    moments = np.stack([_moments(scores[use], indicator[use]) for use in chosen])
    neighbours = np.stack([neighbour_moments(item, classes) for item in noisy])
    binary = classes == 2
    direction = _direction(scores[:, 0], learner.design[:, BRIGHTNESS], foreground) if binary else None
    clues = find_clues(noisy, images, learner, scores[:, 0], positions=positions, seed=seed) if binary else None
    marked = [((label > 0) & (label != IGNORE))[use] for use in chosen]
    found = ImageEvidence(
        *_with_interval(moments, seed),
        *_with_interval(neighbours, seed),
        direction=direction,
        clues=clues,
        unannotated=_unannotated(marked, [scores[use].sum(1) for use in chosen]),
        outlines=ask_outlines(noisy) if binary else "",
    )
    return replace(found, turned=_find_turn(noisy, learner, positions)) if found.is_mismatched else found


def _find_turn(noisy: Sequence[np.ndarray], learner: PixelLearner, positions: Positions) -> Turned | None:
    """Whether images predict labels, fitted to other images, better when these are mirrored or turned back."""
    undone, targets = possible_turns(noisy), []
    for label, place in zip(noisy, positions, strict=True):
        density = np.nan_to_num(local_density(((label > 0) & (label != IGNORE)).astype(np.uint8)))
        targets.append(np.stack([density[place], *(TURNS[what](density)[place] for what in undone)], 1))
    target = np.concatenate(targets).astype(np.float32)
    scores = learner.scores(target)
    table = []
    for image in range(len(noisy)):
        own = learner.image == image
        pairs = zip(scores[own].T, target[own].T, strict=True)
        table.append([np.corrcoef(*pair)[0, 1] if min(map(np.ptp, pair)) > 0 else np.nan for pair in pairs])
    return best_turn(np.array(table), undone)


def _unannotated(marked: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> int:
    """How many images have no mark, but scores as high as half of what the marked part of usual images has.

    Args:
        marked: whether sampled pixels are labelled, (P,) each; scores: of the same, fitted to other images.
    """
    share = np.array([own.mean() if len(own) else np.nan for own in marked])
    if not (share > 0).any():
        return 0
    high = np.array([np.quantile(own, 1 - np.median(share[share > 0]) / 2) if len(own) else 0 for own in scores])
    return int(((share == 0) & (high >= np.median(high[share > 0]) / 2)).sum())
