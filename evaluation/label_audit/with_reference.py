"""The audit against a reference: clean labels, or a second annotator's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.transition_matrix import MIN_PHI, TransitionMatrix
from evaluation.label_audit.bias import BY_IMAGE, BY_PLACE, DISPLACED, IN_SOME, Bias, Biases
from evaluation.label_audit.by_distance import DensityAgreement
from evaluation.label_audit.estimate import CLEAR_PHI, Transitions
from evaluation.label_audit.iou_ceiling import Ceiling
from evaluation.label_audit.predicted_iou import PredictedIoU
from evaluation.label_audit.verdict import BIAS_MARGIN, HOPELESS, Audit
from evaluation.scores.bootstrap import MIN_IMAGES
from utils.cli import counted

if TYPE_CHECKING:
    from evaluation.label_audit.error_table import LabelErrors

WORTH_TELLING = 0.01  # of predicted IoU that a repair wins, at the best threshold before and after
CLEAN_ENOUGH = 0.01  # error rates below it need no corrected loss
INTERVAL_GOAL = 0.02  # the half width of φ's interval, or a tenth of φ, that more images are asked for
AS_THEY_ARE = "Train on them as they are."
SECOND = "second annotator"  # the reference where it is another person's labels
BOUNDS = ("phi_low", "phi_high", "contrast_low", "contrast_high", "singular_values", "singular_low", "singular_high")


@dataclass(frozen=True, kw_only=True)
class ReferenceAudit(Audit):
    """What the comparison of labels with a reference found.

    Args:
        prediction: what a network will reach at the best threshold; None where it cannot be predicted.
        validated: the same where clean validation images judge it and labels are wrong at boundaries; else None.
        biases: systematic errors (binary labels); None where they were not looked for.
        bias_cost: share of the clean labels' IoU that they cost whoever does not know of them.
        steps: of the training that the prediction is for; None: as many as it takes.
        repair: the steps of label noise that mend the labels, as found by ``repair``; None where none is known.
        repaired: what a network will reach after it; None where none is known or that cannot be predicted.
        errors: counts of repaired labels by distance, for scores without clean labels; None of several classes.
        displaced: what displaces labels that have nothing to do with the truth where they lie.
        explained: places among the images compared of labels that are displaced, where these are not all.
        transitions: Q and what follows from it, from the images that have a reference label.
        ceiling: IoU of a perfect learner; means nothing where the verdict is *unknown*.
        profile: Q by distance and by depth, see ``by_distance.distance_profile``.
        agreement: of the local densities of labels and reference.
        training_images: images that the predicted IoU supposes a network to be trained on.
    """

    prediction: PredictedIoU | None
    biases: Biases | None
    bias_cost: float | None
    steps: int | None
    repair: str | None = None
    repaired: PredictedIoU | None = None
    validated: PredictedIoU | None = None
    errors: LabelErrors | None = None
    displaced: Bias | None = None
    explained: tuple[int, ...] = ()
    transitions: Transitions
    ceiling: Ceiling
    profile: dict[str, Any]
    agreement: DensityAgreement
    training_images: int

    def _shows_inverse(self) -> bool:
        return self.verdict == "inverted"

    @property
    def matrix(self) -> TransitionMatrix:
        """Q, as far as the reference shows it."""
        return self.transitions.matrix

    @property
    def errors_forget_image(self) -> bool:
        """Whether Q describes the errors."""
        biased = self.is_biased or self._has_biases or self.repair is not None
        return self.verdict in ("learnable", "inverted") and not biased and not self.transitions.too_few

    def error_kinds(self) -> str:
        """What makes errors more than those of a transition matrix, in words."""
        biases = () if self.biases is None else self.biases.found
        what = "; ".join(bias.what for bias in biases) or (f"they want a repair, {self.repair}" if self.repair else "")
        return what or self.verdict

    @property
    def threshold(self) -> float | None:
        """The score threshold that the labels imply, after inversion; None for K classes or without a direction."""
        if self.invert is None:
            return None
        return self.transitions.matrix.threshold() if self.biases is None else self.biases.threshold

    @property
    def expected(self) -> PredictedIoU | None:
        """What a training will end with."""
        return self.prediction if self.validated is None else self.validated

    @property
    def predicted_iou(self) -> float:
        """See `Audit`."""
        return float("nan") if self.expected is None else self.expected.value

    @property
    def iou_ceiling(self) -> float:
        """See `Audit`."""
        return float("nan") if self.verdict == "unknown" else self.ceiling.value

    @property
    def offset(self) -> float | None:
        """By how many pixels outlines are wider (> 0) or narrower; 0 within the error; None where not looked for."""
        return None if self.biases is None else self.biases.offset

    def notes(self) -> list[str]:
        """What stands behind the verdict and how sure it is, a sentence each."""
        return self._noise_notes() + self._ceiling_notes()

    def reason(self) -> str:
        """Why the verdict is what it is, in a sentence."""
        found = self.transitions
        if self.verdict == "unknown":
            return self._noise_notes()[-1]
        if self.verdict == "not learnable":
            return self._nothing_text()
        systematic = f"differ from {self.named_reference} systematically: {self._bias_text()}"
        if self.verdict == "inverted" and self.num_classes > 1:
            exchanged = f"(φ = {found.phi:.3f}): {self._exchanged()}"
            return f"The labels name other classes than {self.named_reference} {exchanged}."
        if self.verdict == "inverted":
            besides = f"; besides, they {systematic}" if self._has_biases else ""
            return f"The labels mark the background of {self.named_reference} (φ = {found.phi:.3f}){besides}."
        if self.is_biased:
            return f"Labels {systematic}{self._cost_text()}.{self._validation_text()}"
        errors = 1 - np.diagonal(found.matrix.block)
        if errors.max() < CLEAN_ENOUGH:
            return f"The labels agree with {self.named_reference}."
        if self._has_biases:
            return f"Labels {systematic}, which costs little at the right threshold{self._share_text()}."
        what = f"Errors ({', '.join(f'{error:.0%}' for error in errors)} of the classes' pixels)"
        if self.prediction is not None and self.prediction.relative < 0.5:
            return f"{what} leave little to be learned{self._share_text()}."
        averaged = self.prediction is None or self.prediction.relative >= 1 - BIAS_MARGIN
        return f"{what} are such that a network averages them out{'' if averaged else ' in part'}{self._share_text()}."

    def _nothing_text(self) -> str:
        """Why labels teach nothing."""
        found, named = self.transitions, self.named_reference
        if found.turned is not None:
            return self._turned_text()
        if found.others.are_most:
            count = f"{len(found.others.places)} of the {found.others.labels} labels that were looked into"
            return f"{count} fit {named} of another image, not those of their own: labels and images were mixed up."
        if self.displaced is not None:
            return f"Labels and {named} have nothing in common where they lie: {self.displaced.text()}."
        if self._marks_nothing:
            return f"{len(found.blank)} of the {found.images} labels that were compared mark nothing where {named} do."
        if found.only_between_images and abs(found.phi) >= MIN_PHI:
            better = "" if found.others.own_fits_better is not False else " more than with those of other images"
            return f"Inside images, labels and {named} have nothing in common{better}: do they belong to other images?"
        return f"Labels and {named} have nothing in common (φ = {found.phi:.3f})."

    @property
    def _marks_nothing(self) -> bool:
        """Whether labels teach nothing since most are empty."""
        return self.verdict == "not learnable" and len(self.transitions.blank) > self.transitions.images / 2

    def _turned_text(self) -> str:
        """That labels were mirrored or turned, and how sure that is."""
        turned = self.transitions.turned
        assert turned is not None
        return (
            f"The labels are {turned.what}: taken back, their correlation with {self.named_reference} is "
            f"{turned.after:.2f}, as they are {turned.before:.2f}. Undo that, in the files or in their export."
        )

    def _exchanged(self) -> str:
        """Which classes are mostly labelled as others."""
        rows = np.nan_to_num(self.transitions.matrix.rows)
        wrong = [(true, int(row.argmax())) for true, row in enumerate(rows) if row.any() and row.argmax() != true]
        told = ", ".join(f"most of class {true} is labelled {label}" for true, label in wrong)
        return told or "most pixels are wrong"

    @property
    def named_reference(self) -> str:
        """What the labels were compared with, within a sentence."""
        return "the second annotator's labels" if self.reference == SECOND else self.reference

    @property
    def _has_biases(self) -> bool:
        return self.biases is not None and bool(self.biases.found)

    def warnings(self) -> list[str]:
        """That some labels are not like the others."""
        found, lines = self.transitions, []
        if found.turned is not None or self.displaced is not None:
            return lines
        compared = f"of the {found.images} labels that were compared"
        if (blank := len(found.blank)) and not self._marks_nothing:
            lines.append(
                f"{blank} {compared} mark nothing where {self.named_reference} do: leave out images that nobody "
                "annotated, also among those that were not compared. They teach that all is background."
            )
        if found.others.places and not found.others.are_most:
            looked = f"of the {found.others.labels} labels that were looked into"
            lines.append(
                f"{len(found.others.places)} {looked} fit {self.named_reference} of another image, not those of "
                "their own: look for labels and images that were mixed up, also among those that were not compared."
            )
        told = [*found.blank.tolist(), *found.others.places, *self.explained]
        if astray := len(np.setdiff1d(found.astray, told)):
            lines.append(
                f"{astray} {compared} have nothing to do with {self.named_reference}, or show the inverse, while most "
                "others agree: look for labels of another image, also among those that were not compared."
            )
        return lines

    def _bias_text(self) -> str:
        found = () if self.biases is None else self.biases.found
        return "; ".join(bias.text() for bias in found) or "wrong near boundaries"

    def _cost_text(self) -> str:
        if self.bias_cost is None:
            return ""
        if self.bias_cost <= BIAS_MARGIN:
            return ", which costs little at the right threshold"
        least = 1 - self.prediction.relative if self.prediction else self.bias_cost
        if self.bias_cost - least < BIAS_MARGIN:
            return f", which costs {self.bias_cost:.0%} of the IoU that clean labels would lead to"
        implied = self.transitions.matrix.threshold()
        return (
            f", which costs {least:.0%} of the IoU that clean labels would lead to at the best threshold, and "
            f"{self.bias_cost:.0%} at the one that the label rates alone imply, {implied:.2g}"
        )

    def _validation_text(self) -> str:
        """What clean validation images win back of the cost, as a sentence."""
        if self.validated is None or self.prediction is None:
            return ""
        if self.validated.relative - self.prediction.relative < BIAS_MARGIN:
            return ""
        return (
            " Clean validation images, which choose the epoch and move the outlines of masks, leave "
            f"{1 - self.validated.relative:.0%} of it lost."
        )

    def _share_text(self) -> str:
        if self.prediction is None:
            return ""
        return f": {self.prediction.relative:.0%} of the IoU that clean labels would lead to"

    def advice(self, matrix_file: str | None = None) -> list[str]:
        """What to do, a sentence each, the most important first; ``matrix_file`` is where Q was written."""
        sentences = [
            self._repair_advice(),
            self._direction_advice(matrix_file),
            self._loss_advice(matrix_file),
            self._image_count_advice(),
        ]
        as_they_are = "Leave these out, or correct them, and train on the others." if self.warnings() else AS_THEY_ARE
        return [sentence for sentence in sentences if sentence] or [as_they_are]

    def _repair_advice(self) -> str | None:
        """What mends biased labels: a repair for all of them, or what to label anew."""
        if self.repair is not None:
            gain = self.repaired.value - self.expected.value if self.repaired and self.expected else 0.0
            change = f"predicted IoU {self.predicted_iou:.2f} → {self.predicted_iou + gain:.2f}"
            if self.validated is not None and gain <= -WORTH_TELLING:
                return (
                    "Train on them as they are: with clean validation images that does more than the best repair, "
                    f"--label_repair {self.repair} ({change})."
                )
            told = f" ({change})" if gain >= WORTH_TELLING else ""
            return f"Repair them all at once: --label_repair {self.repair}{told}."
        if not self.is_biased:
            return None
        if self.biases is not None and self.biases.are_outlines:
            return "Fill the outlines (in Fiji: Process › Binary › Fill Holes) and take the result for labels."
        if self.biases is not None and self.biases.are_dots:
            return "Mark whole structures in some images and train on those: dots tell where they are, not how large."
        found = self.biases.found if self.biases else ()
        if displaced := [bias for bias in found if bias.unit in DISPLACED]:
            return _undo_advice(displaced[0])
        if some := [bias.what for bias in found if bias.unit == IN_SOME]:
            return (
                f"Look for what sets these labels apart ({'; '.join(some)}), another person or tool, and repair them "
                "alone: what differs from label to label no repair of all of them takes back."
            )
        kinds = self.verdict
        if BY_PLACE in kinds:
            return (
                "Mark the parts that were left out as ignored, or label them; till then only the right threshold makes "
                "up for it."
            )
        if BY_IMAGE in kinds:
            which = "; ".join(bias.what for bias in (self.biases.found if self.biases else ()))
            return (
                f"Correct the labels of some images ({which}) and train on those: no loss corrected by Q knows which "
                "structures are wrong."
            )
        return (
            "Have some images labelled more carefully: no loss corrected by Q removes a bias at boundaries; "
            "the right threshold takes part of it back."
        )

    def prediction_basis(self) -> str:
        """What the predicted IoU supposes and rests on."""
        length = f" for {self.steps} steps" if self.steps else ""
        judged = " and judged by clean validation images" if self.validated else ""
        return (
            f"of a network trained on {counted(self.training_images, 'image')}{length}{judged}, estimated from "
            f"{counted(self.sampled, 'image')}"
        )

    def _found(self) -> dict[str, Any]:
        found = self.transitions
        return {
            "iou_ceiling": None if np.isnan(self.iou_ceiling) else self.iou_ceiling,
            "predicted_iou": None if np.isnan(self.predicted_iou) else self.predicted_iou,
            "phi": found.phi,
            "contrast": found.matrix.contrast,
            "Q": found.matrix.rows,
            "Q_low": found.matrix_low,
            "Q_high": found.matrix_high,
            "rank": found.rank,
            "det": found.determinant,
            "threshold": self.threshold,
            "profile": self.profile,
            "predicted_iou_low": None if self.expected is None else self.expected.low,
            "predicted_iou_high": None if self.expected is None else self.expected.high,
            "relative_iou": None if self.expected is None else self.expected.relative,
            "steps": self.steps,
            "bias": None if self.biases is None else [asdict(bias) for bias in self.biases.found],
            "offset": self.offset,
            "repair": self.repair,
        }

    def record(self) -> dict[str, Any]:
        """`to_json`, the predicted IoU after a repair, and the counts that scores without clean labels need."""
        repaired = {} if self.repaired is None else {"repaired_iou": self.repaired.value}
        errors = {} if self.errors is None else {"errors_by_distance": self.errors.to_json()}
        return self.to_json() | repaired | errors

    def _evidence_details(self) -> dict[str, Any]:
        found = self.transitions
        return {
            "compared": found.images,
            "predicted_iou_is": None if np.isnan(self.predicted_iou) else self.prediction_basis(),
            "transitions": {name: getattr(found, name) for name in (*BOUNDS, "merged", "counts", "too_few")},
            "ceiling": None if self.verdict == "unknown" else asdict(self.ceiling),
            "density_agreement": asdict(self.agreement),
        }

    def _noise_notes(self) -> list[str]:
        """How the labels compare with the reference."""
        found = self.transitions
        lines = [f"{self.transitions.images} of {self.images} labels were compared with {self.named_reference}."]
        if found.too_few:
            lines.append(f"Too few images for intervals ({found.images}; {MIN_IMAGES} are needed): values may be off.")
        if not np.isfinite(found.phi):
            return [*lines, "The reference labels show a single class only, so nothing can be compared."]
        if found.contradictory:
            clear = found.image_phi[np.isfinite(found.image_phi)]
            return [
                *lines,
                f"Labels of {(clear > CLEAR_PHI).sum()} images show {self.named_reference}, those of "
                f"{(clear < -CLEAR_PHI).sum()} their inverse: turn these round, or leave them out.",
            ]
        lines.append(
            f"φ = {found.phi:.3f}{_span(found.phi_low, found.phi_high)}, contrast {found.matrix.contrast:.3f}"
            f"{_span(found.contrast_low, found.contrast_high)}, rank {found.rank} of {(found.counts.sum(1) > 0).sum()}."
        )
        if self.verdict == "unknown":
            lines.append(
                "So few images could show such a φ by chance: whether the labels teach anything cannot be said."
            )
        if self.reference == SECOND and found.phi > 0:
            single = np.sqrt(found.phi)
            lines.append(f"Both annotators err: if alike and independently, each has φ = {single:.2f} with the truth.")
        lines += [f"The labels cannot tell classes {', '.join(map(str, group))} apart." for group in found.merged]
        near_zero = found.phi_low < MIN_PHI and found.phi_high > -MIN_PHI
        if near_zero and self.verdict != "not learnable":
            lines.append(f"The interval of φ reaches below {MIN_PHI} in size: the verdict is uncertain.")
        return lines

    def _ceiling_notes(self) -> list[str]:
        """What the ceiling means."""
        if self.verdict == "unknown":
            return []
        ceiling = self.ceiling
        what = "IoU" if self.num_classes == 1 else "mean IoU"
        if ceiling.nothing_differs:
            mask = "the all-foreground mask" if self.num_classes == 1 else "the most frequent class everywhere"
            return [f"Nothing differs between the classes' labels: the ceiling is the {what} of {mask}."]
        lines = [
            f"A perfect learner of these labels reaches {what} {ceiling.value:.3f}{_span(ceiling.low, ceiling.high)}; "
            f"were they equally wrong at every distance from the boundary, {ceiling.distance_free:.3f}."
        ]
        gap = ceiling.distance_free - ceiling.value
        if gap > BIAS_MARGIN:
            lines.append("A network is blurred and may get past this ceiling; see the predicted IoU.")
        if ceiling.low < ceiling.distance_free - BIAS_MARGIN < ceiling.high:
            lines.append(
                f"The gap of {gap:.3f} is within its error of {BIAS_MARGIN}: the bias at boundaries is uncertain."
            )
        return lines

    def _direction_advice(self, matrix_file: str | None) -> str | None:
        """Inversion, decoding and the threshold to expect."""
        found = self.transitions
        if self.is_undecided:
            return None
        if self.num_classes > 1:
            if found.matrix.is_complete and found.matrix.needs_decoding and found.invertible:
                how = f": give training --transition_matrix {matrix_file}" if matrix_file else ""
                return f"Scores must be decoded by Q⁻¹ before the argmax{how}."
            return None
        parts = []
        if self.invert:
            parts.append("scores must be inverted (--pred_invert auto does it by this audit or by validation labels)")
        if self.threshold is not None and abs(self.threshold - 0.5) > 0.02:
            after = " after inversion" if self.invert else ""
            unrepaired = "unrepaired and " if self.repair else ""
            parts.append(
                f"{unrepaired}without clean validation labels use the threshold {self.threshold:.3f}{after}, not 0.5"
            )
        return f"{'; '.join(parts)}.".capitalize() if parts else None

    def _loss_advice(self, matrix_file: str | None) -> str | None:
        """Whether a corrected loss helps."""
        found = self.transitions
        if found.turned is not None or self.displaced is not None:
            undone = "Audit them again once that is undone: as they are, they teach next to nothing."
            return undone if self.displaced is None else f"{_undo_advice(self.displaced)} {undone}"
        if found.others.are_most:
            return "Find the image of each label, then audit them again: as they are, they teach next to nothing."
        if self.verdict == "not learnable":
            return HOPELESS
        if self.verdict == "unknown":
            return None if np.isfinite(found.phi) else "Give clean labels of images that show every class."
        if self.reference != "clean labels" or not self.errors_forget_image:
            return None
        errors = 1 - np.diagonal(found.matrix.block)
        if matrix_file is None or errors.max() < CLEAN_ENOUGH or not found.invertible:
            return None
        instead = "Or take neither: " if self.invert else ""
        return (
            f"{instead}--loss forward with --transition_matrix {matrix_file} makes the scores those of the truth, "
            "not inverted and with an even threshold."
        )

    def _image_count_advice(self) -> str | None:
        """How many more reference labels would make φ sure; intervals shrink with the root of their number."""
        found = self.transitions
        if found.turned is not None or found.others.are_most or self.displaced is not None:
            return None
        if found.too_few:
            return f"Give {self.named_reference} of at least {counted(MIN_IMAGES - found.images, 'more image')}."
        if np.isnan(found.phi_low):
            return None
        half = (found.phi_high - found.phi_low) / 2
        uncertain = found.no_association and abs(found.phi) >= MIN_PHI
        goal = abs(found.phi) if uncertain else max(INTERVAL_GOAL, abs(found.phi) / 10)
        if half <= goal:
            return None
        more, left = int(np.ceil(found.images * ((half / goal) ** 2 - 1))), self.images - found.images
        if left <= 0:
            return None
        if more >= left:
            more, goal = left, half * np.sqrt(found.images / self.images)
        which = "one more image" if more == 1 else f"{'all ' if more == left else 'about '}{more} more images"
        return f"{self.named_reference[0].upper()}{self.named_reference[1:]} of {which} would narrow φ to ± {goal:.2f}."


def _undo_advice(displaced: Bias) -> str:
    """What to do about labels that lie off by no common move."""
    words = ("mirrored", "turned", "transposed", "enlarged", "shrunk", "moved")
    how = next((word for word in words if word in displaced.what), "displaced")
    return (
        f"Look for what {how} them against the images (export, cropping, registration) and undo it there: what differs "
        "from place to place or from image to image no repair here takes back."
    )


def _span(low: float, high: float) -> str:
    return "" if np.isnan(low) else f" ({low:.3f} to {high:.3f})"
