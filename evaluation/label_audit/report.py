"""What an audit says: one line, ``audit.json``, the reasons behind the verdict, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from evaluation.label_audit.by_distance import DensityAgreement
from evaluation.label_audit.estimate import MIN_PHI, Transitions
from evaluation.label_audit.iou_ceiling import Ceiling
from evaluation.label_audit.without_reference import ImageEvidence
from evaluation.scores.bootstrap import MIN_IMAGES

VERDICTS = ("not learnable", "inverted", "biased at boundaries", "learnable", "unknown")
REFERENCES = ("clean labels", "second annotator", "images only")
BIAS_MARGIN = 0.03  # by how much a ceiling may fall below the distance-free one before boundaries count as biased
CLEAN_ENOUGH = 0.01  # error rates below it need no corrected loss
ENOUGH_WEIGHT = 0.9  # φ² above which more training images are not worth a word
INTERVAL_GOAL = 0.02  # the half width of φ's interval, or a tenth of φ, that more images are asked for


@dataclass(frozen=True)
class AuditReport:
    """What the audit found. Figures that the evidence cannot give are None.

    Args:
        verdict: one of VERDICTS.
        num_classes: 1 for binary labels.
        reference: what the labels were compared with, one of REFERENCES.
        images: labels audited; compared: those with a clean or second label.
        transitions: Q and its derived figures.
        ceiling: IoU of a perfect learner.
        predicted_iou: expected IoU (K classes: mean IoU) of a trained network; None without images.
        invert: whether training should invert binary scores; None where the direction is not known.
        threshold: the score threshold that the noise implies, after inversion; binary only.
        profile: Q by distance and by depth, see ``label_density.distance_profile``.
        agreement: of the local densities of labels and reference.
        evidence: what the images alone say, where there is no reference.
        foreground: the user's word on what the foreground looks like, for the same case.
        sampled: places of the images that everything but Q was estimated from.
        training_images: images that the predicted IoU supposes a network to be trained on.
    """

    verdict: str
    num_classes: int
    reference: str
    images: int
    compared: int
    transitions: Transitions | None = None
    ceiling: Ceiling | None = None
    predicted_iou: float | None = None
    invert: bool | None = None
    threshold: float | None = None
    profile: dict[str, Any] | None = None
    agreement: DensityAgreement | None = None
    evidence: ImageEvidence | None = None
    foreground: str | None = None
    sampled: list[int] = field(default_factory=list)
    training_images: int | None = None

    def line(self) -> str:
        """The audit in one line, ``verdict: learnable (IoU ceiling 0.93)``."""
        ceiling = "unknown" if self.ceiling is None else f"{self.ceiling.value:.2f}"
        return f"verdict: {self.verdict} (IoU ceiling {ceiling})"

    def notes(self) -> list[str]:
        """What stands behind the verdict and how sure it is, a sentence each."""
        sentences = _image_notes(self) if self.transitions is None else _noise_notes(self) + _ceiling_notes(self)
        return [sentence for sentence in sentences if sentence]

    def advice(self, matrix_file: str | None = None) -> list[str]:
        """What to do, a sentence each.

        Args:
            matrix_file: where Q was written, for options that take it; None if it was not.
        """
        if self.transitions is None:
            return _image_advice(self)
        sentences = [
            _direction_advice(self, matrix_file),
            _loss_advice(self, matrix_file),
            _training_size_advice(self),
            _image_count_advice(self),
        ]
        return [sentence for sentence in sentences if sentence]

    def prediction_basis(self) -> str:
        """What the predicted IoU supposes and rests on."""
        return f"of a network trained on {self.training_images} images, estimated from {len(self.sampled)} images"

    def to_json(self) -> dict[str, Any]:
        """The content of ``audit.json``; without a reference φ is null, `details` has the images' bound on its size."""
        found = self.transitions
        return {
            "verdict": self.verdict,
            "iou_ceiling": self.ceiling.value if self.ceiling else None,
            "predicted_iou": self.predicted_iou,
            "phi": found.phi if found else None,
            "contrast": found.matrix.contrast if found else None,
            "Q": found.matrix.rows if found else None,
            "Q_low": found.matrix_low if found else None,
            "Q_high": found.matrix_high if found else None,
            "rank": found.rank if found else None,
            "det": found.determinant if found else None,
            "invert": self.invert,
            "threshold": self.threshold,
            "profile": self.profile,
        }

    def details(self, matrix_file: str | None = None) -> dict[str, Any]:
        """Everything else, for ``audit_details.json``; ``matrix_file`` as for `advice`."""
        found = self.transitions
        derived = (
            "phi_low",
            "phi_high",
            "contrast_low",
            "contrast_high",
            "singular_values",
            "singular_low",
            "singular_high",
            "merged",
            "counts",
            "too_few",
        )
        return {
            "reference": self.reference,
            "num_classes": self.num_classes,
            "images": self.images,
            "compared": self.compared,
            "predicted_iou_is": None if self.predicted_iou is None else self.prediction_basis(),
            "transitions": {name: getattr(found, name) for name in derived} if found else None,
            "ceiling": asdict(self.ceiling) if self.ceiling else None,
            "density_agreement": asdict(self.agreement) if self.agreement else None,
            "image_evidence": asdict(self.evidence) if self.evidence else None,
            "foreground": self.foreground,
            "notes": self.notes(),
            "advice": self.advice(matrix_file),
        }


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None else f" ({low:.3f} to {high:.3f})"


def _noise_notes(report: AuditReport) -> list[str]:
    """How the labels compare with the reference."""
    found = report.transitions
    lines = [f"{report.compared} of {report.images} labels were compared with {report.reference}."]
    if found.too_few:
        lines.append(f"Too few images for intervals ({found.images}; {MIN_IMAGES} are needed): figures may be off.")
    if not np.isfinite(found.phi):
        return [*lines, "The reference labels show a single class only, so nothing can be compared."]
    lines.append(
        f"φ = {found.phi:.3f}{_span(found.phi_low, found.phi_high)}, contrast {found.matrix.contrast:.3f}"
        f"{_span(found.contrast_low, found.contrast_high)}, rank {found.rank} of {(found.counts.sum(1) > 0).sum()}."
    )
    if report.verdict == "unknown":
        lines.append("So few images could show such a φ by chance: whether the labels teach anything cannot be said.")
    if report.verdict not in ("not learnable", "unknown") and abs(found.phi) < 0.7:
        lines.append(f"As evidence such a label weighs about φ² = {found.phi**2:.1%} of a clean one.")
    if report.reference == "second annotator" and found.phi > 0:
        lines.append(
            f"Both annotators err: if alike and independently, each has φ = {np.sqrt(found.phi):.2f} with the truth."
        )
    lines += [f"The labels cannot tell classes {', '.join(map(str, group))} apart." for group in found.merged]
    near_zero = found.phi_low is not None and found.phi_low < MIN_PHI and found.phi_high > -MIN_PHI
    if near_zero and report.verdict != "not learnable":
        lines.append(f"The interval of φ reaches below {MIN_PHI} in size: the verdict is uncertain.")
    return lines


def _ceiling_notes(report: AuditReport) -> list[str]:
    """What the ceiling means."""
    ceiling = report.ceiling
    if ceiling is None:
        return []
    what = "IoU" if report.num_classes == 1 else "mean IoU"
    if ceiling.nothing_differs:
        mask = "the all-foreground mask" if report.num_classes == 1 else "the most frequent class everywhere"
        return [f"Nothing differs between the classes' labels: the ceiling is the {what} of {mask}."]
    lines = [
        f"A perfect learner of these labels reaches {what} {ceiling.value:.3f}{_span(ceiling.low, ceiling.high)}; were "
        f"they equally wrong at every distance from the boundary, {ceiling.distance_free:.3f}."
    ]
    gap = ceiling.distance_free - ceiling.value
    if gap > BIAS_MARGIN:
        lines.append("A network is blurred and may get past this ceiling; see the predicted IoU.")
    if ceiling.low is not None and ceiling.low < ceiling.distance_free - BIAS_MARGIN < ceiling.high:
        lines.append(f"The gap of {gap:.3f} is within its error of {BIAS_MARGIN}: the bias at boundaries is uncertain.")
    return lines


def _image_notes(report: AuditReport) -> list[str]:
    """What can be said without a reference."""
    found = report.evidence
    lines = [f"No clean labels: {len(report.sampled)} labels were compared with their images."]
    if found.low is None:
        lines.append(f"Too few images ({len(report.sampled)}; {MIN_IMAGES} are needed) to tell signal from chance.")
    elif found.has_nothing:
        lines.append("No image feature predicts the labels, and neighbouring label pixels are unrelated.")
    elif not found.has_signal:
        lines.append(
            "Simple image features do not predict the labels, but the labels have structure of their own: images and "
            "labels may be mismatched, or what is labelled shows by more than brightness and edges."
        )
    else:
        lines.append(
            f"Images predict the labels: |φ| is at least {found.correlation:.3f}{_span(found.low, found.high)}."
        )
        if found.direction is None and report.num_classes == 1:
            lines.append("Which way up they are cannot be seen from images: labels and their inverse fit equally well.")
        elif found.direction is None:
            lines.append("Which label names which class cannot be seen from images.")
        else:
            lines.append(
                f"With {report.foreground} foreground they are "
                f"{'not inverted' if found.direction > 0 else 'inverted'}; a bias at boundaries "
                "cannot be seen without clean labels."
            )
    return lines


def _direction_advice(report: AuditReport, matrix_file: str | None) -> str | None:
    """Inversion, decoding and the threshold to expect."""
    found = report.transitions
    if report.verdict in ("not learnable", "unknown"):
        return None
    if report.num_classes > 1:
        if found.matrix.is_complete and found.matrix.needs_decoding and found.invertible:
            how = f": give training --transition_matrix {matrix_file}" if matrix_file else ""
            return f"Scores must be decoded by Q⁻¹ before the argmax{how}."
        return None
    parts = []
    if report.invert:
        parts.append("scores must be inverted (--pred_invert auto does it by this audit or by validation labels)")
    if report.threshold is not None and abs(report.threshold - 0.5) > 0.02:
        after = " after inversion" if report.invert else ""
        parts.append(f"without clean validation labels use the threshold {report.threshold:.3f}{after}, not 0.5")
    return f"{'; '.join(parts)}.".capitalize() if parts else None


def _loss_advice(report: AuditReport, matrix_file: str | None) -> str | None:
    """Whether a corrected loss helps."""
    found = report.transitions
    if report.verdict == "not learnable":
        return "Training on these labels teaches nothing: get other labels, or train without any (--igtt)."
    if report.verdict == "unknown":
        return None if np.isfinite(found.phi) else "Give clean labels of images that show every class."
    if report.verdict == "biased at boundaries":
        return (
            "No loss corrected by Q removes a bias at boundaries: have some images labelled more carefully, "
            "and choose the threshold on clean validation labels."
        )
    errors = 1 - np.diagonal(found.matrix.block)
    if matrix_file is None or errors.max() < CLEAN_ENOUGH or not found.invertible:
        return None
    return (
        f"--loss forward with --transition_matrix {matrix_file} makes the scores those of the truth, "
        "not inverted and with an even threshold."
    )


def _training_size_advice(report: AuditReport) -> str | None:
    r"""How many training images with such labels carry what clean labels would: :math:`1 / \varphi^2` times as many.

    To first order a label that correlates with the truth by φ carries φ² of the information of the truth itself, so
    that n of them have the effective sample size :math:`n \varphi^2`. It holds for errors that are independent of the
    image; a bias at boundaries stays however many images there are.
    Source: Pritchard & Przeworski, American RunLogger of Human Genetics 69, 2001 (a marker that stands for a gene).
    """
    weight = report.transitions.phi**2
    if report.verdict not in ("learnable", "inverted") or weight > ENOUGH_WEIGHT:
        return None
    clean = report.training_images or report.images
    return (
        f"{clean} training images with these labels carry about as much as {_count(clean * weight)} "
        f"with clean labels; to carry what {clean} clean ones do takes {1 / weight:.3g} times as many, about "
        f"{_count(clean / weight)} (effective sample size n·φ²)."
    )


def _count(number: float) -> str:
    """A number of images to two digits: 9300, 61, 4; below one, "a part of one"."""
    return "a part of one" if number < 1 else f"{float(f'{number:.2g}'):,.0f}"


def _image_count_advice(report: AuditReport) -> str | None:
    """How many more reference labels would make φ sure; intervals shrink with the root of their number."""
    found = report.transitions
    if found.too_few:
        return f"Give {report.reference} of at least {MIN_IMAGES - found.images} more images."
    if not np.isfinite(found.phi) or found.phi_low is None:
        return None
    half = (found.phi_high - found.phi_low) / 2
    uncertain = found.no_association and abs(found.phi) >= MIN_PHI
    goal = abs(found.phi) if uncertain else max(INTERVAL_GOAL, abs(found.phi) / 10)
    if half <= goal:
        return None
    more = int(np.ceil(found.images * ((half / goal) ** 2 - 1)))
    return f"{report.reference.capitalize()} of about {more} more images would narrow φ to ± {goal:.2f}."


def _image_advice(report: AuditReport) -> list[str]:
    """What to do without a reference."""
    if report.verdict == "not learnable":
        return ["Training on these labels teaches nothing: get other labels, or train without any (--igtt)."]
    lines = [
        f"Give clean labels of some images (--clean_list), {MIN_IMAGES} at least: then Q, the ceiling and the "
        "predicted IoU can be estimated."
    ]
    if report.verdict == "unknown" and report.evidence.has_signal and report.num_classes == 1:
        lines.insert(0, "Say what the foreground looks like: --foreground bright, dark or minority.")
    if report.invert:
        lines.insert(0, "Scores must be inverted (--pred_invert on, or auto, which does it by this audit).")
    return lines
