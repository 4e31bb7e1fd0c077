"""``--recipe auto``: what a run decides by the clean labels of some of its images, each with its reason.

In this order: the repair of the labels, which an audit of the repaired ones follows, the loss, the number of steps and
the threshold. An option that is given is not decided. Each decision is a line of the log and stands in config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.lists import Sample
from evaluation.scores.bootstrap import MIN_IMAGES
from training.data import AUTO_REPAIR, make_dataset, training_noise
from training.options import TrainingOptions
from utils.cli import counted
from utils.files import read_json

if TYPE_CHECKING:
    from datasets.segmentation import SegmentationDataset
    from evaluation.label_audit.repair import Repair
    from evaluation.label_audit.verdict import Audit
    from evaluation.label_audit.with_reference import ReferenceAudit

MAX_ERROR_FREE = 0.05  # error rates below it need no corrected loss
ENOUGH_WEIGHT = 0.1  # φ² of labels below which a run takes more steps, in proportion, up to MAX_FACTOR times as many
MAX_FACTOR = 4.0
LEAST_REPAIRED = 0.7  # IoU of widened labels with clean ones, below which clean images among the others teach more
LEAST_CLEAN = 0.05  # of the training images, that must have clean labels for that


@dataclass(frozen=True)
class Decision:
    """One decision: about what, what it is, and why."""

    name: str
    value: Any
    reason: str

    def line(self) -> str:
        """For people."""
        return f"recipe: {self.name} {'none' if self.value is None else self.value}: {self.reason}"


def decide(
    options: TrainingOptions,
    samples: Sequence[Sample],
    root: Path,
    audit_dataset: Callable[[TrainingOptions, SegmentationDataset, Path], Audit],
    previous: Path | None = None,
) -> tuple[TrainingOptions, list[Decision], Audit | None]:
    """Settle the options that are left to the recipe, and ``--label_repair auto``.

    Args:
        samples: of the training list; those with a clean label are what is decided by.
        audit_dataset: audits labels, see ``label_facts``.
        previous: the run that goes on, whose decisions stand.
    Returns: the options with nothing left to decide, what was decided, and the audit that this rests on.
    """
    if previous is not None:
        stored = read_json(previous / "config.json").get("decisions", ())
        return options, [Decision(**decision) for decision in stored], None
    left, decisions = set(options.run.left_to_recipe), []
    if "label_repair" in left or options.noise.label_repair == AUTO_REPAIR:
        decisions.append(decide_repair(options, samples, may_leave="label_repair" in left))
        options = options.replace(label_repair=decisions[-1].value)
    options = options.replace(left_to_recipe=())
    if options.run.recipe != "auto":
        return options, decisions, None
    if not options.loss.audit:
        return options, [*decisions, Decision("loss", options.loss.spec, "there is no audit (--no_audit)")], None
    report = audit_dataset(options, _listed(options, samples), root)
    decisions.append(Decision("audit", report.verdict, _audit_reason(report, options.noise.label_repair)))
    if "loss" in left:
        decisions.append(decide_loss(options, report))
        options = options.replace(loss=decisions[-1].value)
    if "steps" in left and options.optimization.steps is not None:
        decisions.append(decide_steps(options.optimization.steps, report))
        options = options.replace(steps=decisions[-1].value)
    decisions.append(decide_threshold(options, report))
    return options, decisions, report


def decide_repair(options: TrainingOptions, samples: Sequence[Sample], *, may_leave: bool = False) -> Decision:
    """What corrects the labels of the list, by those of its images whose clean labels are known.

    Args:
        may_leave: labels that are too narrow to be repaired well: outlines of clean images that are trained on as well
            raise the scores between narrow and true outlines a little, and a low threshold takes them.
    """
    known = [sample for sample in samples if sample.clean_label is not None]
    if not known:
        return Decision("label_repair", None, "no clean labels are known: --clean_list LIST names them")
    from evaluation.label_audit.repair import choose_repair

    dataset = make_dataset(options.replace(label_repair=None), known, cache="none")
    listed = [dataset.listed_label(place) for place in range(len(known))]
    clean = [dataset.clean_label(place) for place in range(len(known))]
    found = choose_repair(listed, clean, options.data.num_classes)
    is_poor = found.offset > 0 and found.after < LEAST_REPAIRED
    if may_leave and is_poor and len(known) >= LEAST_CLEAN * len(samples):
        reason = (
            f"{found.spec} would bring the labels to an IoU of {found.after:.3f} with the clean ones and no further"
        )
        return Decision("label_repair", None, f"{reason}: a low threshold, chosen by the clean images, does more")
    return Decision("label_repair", found.spec, repair_text(found))


def repair_text(found: Repair) -> str:
    """What a repair wins, in words; why there is none."""
    if found.spec is None:
        return found.reason
    rise = f"the IoU of {found.images} labels with clean ones rises from {found.before:.3f} to {found.after:.3f}"
    return f"{rise}; {found.reason}"


def _listed(options: TrainingOptions, samples: Sequence[Sample]) -> SegmentationDataset:
    """The labels as they will be trained on."""
    return make_dataset(
        options, list(samples), "none", noise=training_noise(options), repair=options.noise.label_repair
    )


def _audit_reason(report: Audit, repair: str | None) -> str:
    what = "repaired labels" if repair else "labels"
    return f"{what} of {counted(report.images, 'image')} against {report.reference}: {report.reason()}"


def _reference_audit(report: Audit) -> ReferenceAudit | None:
    from evaluation.label_audit.with_reference import ReferenceAudit

    return report if isinstance(report, ReferenceAudit) else None


def decide_loss(options: TrainingOptions, report: Audit) -> Decision:
    """Forward correction where errors forget the image and the boundary, since only these Q describes."""
    spec, found = options.loss.spec, _reference_audit(report)
    if found is None:
        return Decision("loss", spec, "how labels err is not known without clean ones")
    if found.verdict == "unknown":
        return Decision("loss", spec, "how the labels err is not known")
    if found.transitions.too_few:
        few = f"{found.transitions.images} of {MIN_IMAGES} images that it takes are known"
        return Decision("loss", spec, f"the transition matrix is not known well enough to correct by it: {few}")
    if not found.errors_forget_image:
        return Decision("loss", spec, f"no transition matrix describes how these labels err ({found.error_kinds()})")
    if "offset" in (options.noise.label_repair or ""):
        return Decision("loss", spec, "what the repair leaves lies at boundaries, which no transition matrix describes")
    if not (found.transitions.matrix.is_complete and found.transitions.invertible):
        return Decision("loss", spec, "the transition matrix is not known well enough to correct by it")
    rows = found.transitions.matrix.rows
    errors = max(1 - rows[place][place] for place in range(len(rows)))
    if errors < MAX_ERROR_FREE:
        return Decision("loss", spec, "the labels hardly err")
    return Decision("loss", "forward", f"errors, up to {errors:.0%} of a class, depend on nothing but the class")


def decide_steps(steps: int, report: Audit) -> Decision:
    """More steps where a label weighs little as evidence, since errors must be averaged out."""
    found = _reference_audit(report)
    if found is None or report.verdict in ("unknown", "not learnable"):
        return Decision("steps", steps, "the preset's: what the labels weigh is not known")
    weight = found.transitions.phi**2
    factor = min(MAX_FACTOR, max(1.0, ENOUGH_WEIGHT / max(weight, 1e-9)))
    said = f"a label weighs φ² = {weight:.2g} of a clean one"
    if factor == 1:
        return Decision("steps", steps, f"the preset's: {said}")
    return Decision("steps", round(steps * factor), f"{factor:.2g} times the preset's, since {said}")


def decide_threshold(options: TrainingOptions, report: Audit) -> Decision:
    """Where the threshold will come from; training decides it, see `training.selection`."""
    if options.data.num_classes > 1:
        return Decision("threshold", None, "the class of the highest score is taken")
    if options.loss.spec == "forward":
        return Decision("threshold", 0.5, "the loss undoes the labels' errors; clean labels may move it")
    found = _reference_audit(report)
    if found is None or found.threshold is None:
        return Decision("threshold", 0.5, "the labels imply none; clean labels may move it")
    value = round(float(found.threshold), 4)
    return Decision("threshold", value, "implied by the labels; clean labels may move it")
