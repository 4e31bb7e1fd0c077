"""What a run knows of its labels before the first step: the audit's line, and the noise to decide by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.image_io import read_label
from datasets.labels import label_classes
from datasets.lists import CLEAN_LIST, corrected_samples, list_folder, read_list
from datasets.segmentation import SegmentationDataset
from datasets.transition_matrix import TransitionMatrix
from training.data import class_counts, run_steps
from training.losses import needs_transition_matrix, parse_loss
from training.options import TrainingOptions
from training.selection import LabelNoiseFacts
from utils.background import LazySequence
from utils.cli import UserError, counted
from utils.files import OBJECT, TEXT, read_record
from utils.run_folder import display_path, quoted

if TYPE_CHECKING:
    from evaluation.label_audit.verdict import Audit

MANIFEST_FIELDS = {"spec": TEXT, "source_list": TEXT, "transition_matrix": OBJECT}
AUDITED_IMAGES = 60  # at the start of a training; audit_labels.py counts them all
IMAGES_LOOKED_INTO = 24  # for ceiling and prediction


@dataclass(frozen=True)
class LabelKnowledge:
    """What is known of the training labels.

    Args:
        noise: their transition matrix and direction, as far as they are known.
        lines: what to tell the user.
        audit: the report behind it, if there was one.
    """

    noise: LabelNoiseFacts = LabelNoiseFacts()
    lines: tuple[str, ...] = ()
    audit: Audit | None = None


def stated_matrix(options: TrainingOptions, dataset: SegmentationDataset) -> TransitionMatrix | None:
    """Q as it is stated, without a look at the labels, or None.

    From ``--transition_matrix``, else from the manifest that ``make_noisy_labels.py`` left beside the labels and from
    ``--label_noise``: noise on noise is the product of both. Noise that depends on the place has no such matrix.
    """
    if options.loss.transition_matrix is not None:
        return TransitionMatrix.read(options.loss.transition_matrix, options.data.num_classes)
    if any(sample.fusion is not None for sample in dataset.samples):
        return None
    folders = {sample.label.parent for sample in dataset.samples if sample.label is not None}
    manifests = [folder / "manifest.json" for folder in folders if (folder / "manifest.json").exists()]
    if options.noise.label_repair is not None:
        return None
    listed = None
    if manifests:
        listed = _matrix_of(manifests[0], options.data.num_classes) if len(folders) == 1 else None
    elif options.noise.label_noise is not None:  # the list is taken as clean
        listed = TransitionMatrix.identity(options.data.num_classes)
    if listed is None or options.noise.label_noise is None:
        return listed
    from datasets.label_noise import spec_transition_matrix

    added = spec_transition_matrix(options.noise.label_noise, options.data.num_classes, options.noise.unlabelled)
    return None if added is None else listed @ added


def read_manifest(path: Path) -> dict[str, Any]:
    """What a folder of noisy labels says about itself.

    Raises:
        UserError: the file is broken.
    """
    remedy = "write the labels anew, or remove the file if they are no simulated ones"
    return read_record(path, {}, MANIFEST_FIELDS, remedy=remedy)


def _matrix_of(manifest_path: Path, num_classes: int) -> TransitionMatrix | None:
    """The matrix in theory of labels that were made from clean ones; None where the manifest has none."""
    manifest = read_manifest(manifest_path)
    if Path(str(manifest.get("source_list"))).name != CLEAN_LIST:
        return None
    theory = manifest.get("transition_matrix", {}).get("theory")
    try:
        if theory is None or np.shape(theory) != (label_classes(num_classes),) * 2:
            return None
        return TransitionMatrix(theory)
    except (TypeError, ValueError) as error:
        raise UserError(f"{display_path(manifest_path)}: transition_matrix.theory: {error}") from None


def clean_labels(options: TrainingOptions, dataset: SegmentationDataset, root: Path) -> dict[int, Path]:
    """The clean label of every training image that has one, by index.

    Images are looked up in ``--clean_list``, else in ``train_gt.txt``; with ``--label_noise`` the labels that it lacks
    are taken as clean themselves. Without, a label is never compared with itself, nor with what it was corrected from.
    """
    if options.data.clean_list is not None:
        known = ((index, sample.clean_label) for index, sample in enumerate(dataset.samples))
        return {index: label for index, label in known if label is not None}
    path = list_folder(options.data.dataset, root) / "train" / CLEAN_LIST
    clean = _listed_labels(path, options.data.data_root, root)
    for name in corrected_samples((sample for sample in dataset.samples if sample.image_id in clean), path, root):
        del clean[name]
    if options.noise.label_noise is not None:
        return {
            index: clean.get(sample.image_id, sample.require_label()) for index, sample in enumerate(dataset.samples)
        }
    pairs = (
        (index, clean.get(sample.image_id), sample.require_label()) for index, sample in enumerate(dataset.samples)
    )
    return {index: label for index, label, own in pairs if label is not None and label.resolve() != own.resolve()}


def _listed_labels(path: Path, data_root: str | None, root: Path) -> dict[str, Path]:
    """The labels of a list by image id; none where it is absent or, since this run does not read it, out of date."""
    if not path.exists():
        return {}
    try:
        listed = read_list(path, data_root, root, say=lambda line: None)
    except UserError:
        return {}
    return {sample.image_id: sample.label for sample in listed if sample.label is not None}


def examine_labels(
    options: TrainingOptions,
    dataset: SegmentationDataset,
    root: Path,
    report: Audit | None = None,
    *,
    validated: bool = False,
) -> LabelKnowledge:
    """Audit the labels of a run, in seconds, and settle what it will decide by.

    Args:
        report: of an audit that was made already.
        validated: see `audit_labels`, for an audit that is made here.
    Raises:
        UserError: the loss needs a transition matrix and none is known.
    """
    if options.label_free.igtt:
        return LabelKnowledge()
    matrix = stated_matrix(options, dataset)
    found = prior = None
    if options.loss.audit:
        report = report or audit_dataset(options, dataset, root, validated=validated)
        found = report.matrix
        if matrix is None and found is not None:
            matrix = found if report.errors_forget_image and found.is_complete else None
            prior = report.threshold if matrix is None else None
    if matrix is None and needs_transition_matrix(options.loss.spec):
        raise UserError(
            f"--loss {options.loss.spec} needs the labels' transition matrix: give --transition_matrix FILE; "
            f"python evaluation/audit_labels.py --dataset {quoted(options.data.dataset)} writes one where clean labels "
            "exist"
        )
    lines = []
    if report is not None:
        lines += [_audit_line(report), *(f"warning: {warning}" for warning in report.warnings())]
    noise = found if matrix is None else matrix
    if noise is not None and noise.is_complete:
        lines += _warnings(options.loss.spec, noise, dataset)
    invert = None if report is None else report.invert
    if matrix is not None and options.data.num_classes == 1:
        invert = matrix.inverts
    return LabelKnowledge(LabelNoiseFacts(matrix, invert, prior), tuple(lines), report)


def _warnings(loss_spec: str, noise: TransitionMatrix, dataset: SegmentationDataset) -> list[str]:
    """A line where the loss is least at scores that merge classes which the labels keep apart."""
    if all(part.term.proper for part in parse_loss(loss_spec)):
        return []
    from training.losses.optimum import degenerate_optimum

    counts = class_counts(dataset, AUDITED_IMAGES)
    shares = noise.true_shares(counts / max(counts.sum(), 1), lowest=1e-6)
    warning = degenerate_optimum(loss_spec, noise, shares, binary=dataset.num_classes == 1)
    return [f"warning: {warning}"] if warning else []


def audit_dataset(
    options: TrainingOptions, dataset: SegmentationDataset, root: Path, *, validated: bool = False
) -> Audit:
    """Audit up to AUDITED_IMAGES labels, those with a clean label first; ``validated``: see `audit_labels`."""
    clean = clean_labels(options, dataset, root)
    rng = np.random.default_rng(options.run.seed)
    indices = sorted(clean) or list(range(len(dataset)))
    indices = sorted(rng.permutation(indices)[:AUDITED_IMAGES].tolist())

    def chosen(make: Callable[[int], np.ndarray | None]) -> LazySequence:
        return LazySequence(lambda place: make(indices[place]), len(indices))

    listed, images, num_classes = chosen(dataset.listed_label), chosen(dataset.image), options.data.num_classes
    if not clean:
        from evaluation.label_audit.without_reference import audit_by_images

        return audit_by_images(listed, images, num_classes, seed=options.run.seed, max_images=IMAGES_LOOKED_INTO)
    from evaluation.label_audit.audit import audit_labels

    return audit_labels(
        listed,
        chosen(lambda i: _read_clean(clean[i], dataset, dataset.image(i).shape[:2])),
        images,
        num_classes,
        seed=options.run.seed,
        max_images=IMAGES_LOOKED_INTO,
        training_images=len(dataset),
        steps=run_steps(options, len(dataset)),
        validated=validated,
    )


def _read_clean(path: Path, dataset: SegmentationDataset, shape: tuple[int, int]) -> np.ndarray | None:
    """A clean label, or None where it is broken: this run is not trained on it."""
    try:
        reading = dataset.samples[0].reading
        said = reading if reading is not None and reading.label_map is not None else None
        label = read_label(path, dataset.num_classes, dataset.ignore_index, said)
    except UserError:
        return None
    return label if label.shape == shape else None


def _audit_line(report: Audit) -> str:
    """The verdict; where labels are biased, teach nothing, or nothing is known, why."""
    line = f"audit of {counted(report.images, 'label')} against {report.reference}: {report.line()}"
    return f"{line}. {report.reason()}" if report.is_undecided or report.is_biased else line
