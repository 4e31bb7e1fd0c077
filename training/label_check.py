"""What a run knows of its labels before the first step: the audit's line, and the noise to decide by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.image_io import read_label
from datasets.label_noise import spec_transition_matrix
from datasets.lists import list_folder, read_list
from datasets.segmentation import SegmentationDataset
from datasets.transition_matrix import read_matrix
from evaluation.audit_report import AuditReport
from evaluation.label_audit import audit_labels
from training.loss_optimum import degenerate_optimum
from training.losses import needs_transition_matrix
from training.options import TrainingOptions
from utils.cli import UserError
from utils.run_folder import read_json, write_json

AUDITED_IMAGES = 60  # at the start of a training; audit_labels.py counts them all
IMAGES_LOOKED_INTO = 24  # for ceiling and prediction


@dataclass(frozen=True)
class LabelKnowledge:
    """What is known of the training labels.

    Args:
        matrix: the transition matrix Q (K, K) that holds wherever a pixel lies; None where it is unknown or where the
            noise depends on the place.
        invert: whether the labels teach the inverse; None where the direction is not known.
        lines: what to tell the user.
        audit: the report behind it, if there was one.
    """

    matrix: np.ndarray | None = None
    invert: bool | None = None
    lines: tuple[str, ...] = ()
    audit: AuditReport | None = None


class _Lazy(Sequence):
    """A sequence whose items are made when asked for."""

    def __init__(self, make: Callable[[int], np.ndarray | None], indices: Sequence[int]) -> None:
        self.make, self.indices = make, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> np.ndarray | None:
        return self.make(self.indices[place])


def stated_matrix(options: TrainingOptions, dataset: SegmentationDataset) -> np.ndarray | None:
    """Q as it is stated, without a look at the labels: Q (K, K), rows = truth, or None.

    From ``--transition_matrix``, else from ``--label_noise``, else from the manifest that ``make_noisy_labels.py``
    left beside the labels. Noise that depends on the place has no such matrix.
    """
    if options.transition_matrix is not None:
        return read_matrix(options.transition_matrix, options.num_classes)
    if options.label_noise is not None:
        return spec_transition_matrix(options.label_noise, options.num_classes, options.unlabelled)
    folders = {sample.label.parent for sample in dataset.samples if sample.label is not None}
    manifests = [folder / "manifest.json" for folder in folders]
    if len(manifests) != 1 or not manifests[0].exists():
        return None
    theory = read_json(manifests[0]).get("transition_matrix", {}).get("theory")
    return None if theory is None else np.asarray(theory, np.float64)


def clean_labels(options: TrainingOptions, dataset: SegmentationDataset, root: Path) -> dict[int, Path]:
    """The clean label of every training image that has one, by index.

    With ``--label_noise`` the list itself is the clean one; else images are looked up in ``train_gt.txt``.
    """
    if options.label_noise is not None:
        return {index: sample.label for index, sample in enumerate(dataset.samples)}
    path = list_folder(options.dataset, root) / "train" / "train_gt.txt"
    if not path.exists():
        return {}
    try:
        clean = {sample.image_id: sample.label for sample in read_list(path, options.data_root, root)}
    except UserError:  # a list that this run does not read may be out of date
        return {}
    pairs = ((index, clean.get(sample.image_id)) for index, sample in enumerate(dataset.samples))
    return {index: label for index, label in pairs if label is not None}


def examine_labels(options: TrainingOptions, dataset: SegmentationDataset, root: Path) -> LabelKnowledge:
    """Audit the labels of a run, in seconds, and settle what it will decide by.

    Raises:
        UserError: the loss needs a transition matrix and none is known.
    """
    if options.igtt:
        return LabelKnowledge()
    matrix = stated_matrix(options, dataset)
    report = _audit(options, dataset, clean_labels(options, dataset, root)) if options.audit else None
    found = None if report is None else report.transitions
    place_free = found is not None and report.verdict in ("learnable", "inverted") and found.phi_low is not None
    if matrix is None and place_free and np.isfinite(found.matrix).all():
        matrix = found.matrix
    if matrix is None and needs_transition_matrix(options.loss):
        raise UserError(
            f"--loss {options.loss} needs the labels' transition matrix: give --transition_matrix FILE; "
            f"python evaluation/audit_labels.py --dataset {options.dataset} writes one where clean labels exist"
        )
    lines = []
    if report is not None:
        lines.append(_audit_line(report))
        shares = found.counts.sum(1) / found.counts.sum() if found is not None and found.counts.sum() else None
        warning = None if matrix is None or shares is None else degenerate_optimum(options.loss, matrix, shares)
        lines += [f"warning: {warning}"] if warning else []
    invert = None if report is None else report.invert
    if len(matrix if matrix is not None else ()) == 2:
        invert = bool(matrix[1][1] < matrix[0][1])
    return LabelKnowledge(matrix, invert, tuple(lines), report)


def _audit(options: TrainingOptions, dataset: SegmentationDataset, clean: dict[int, Path]) -> AuditReport:
    """Audit up to AUDITED_IMAGES labels, those with a clean label first."""
    rng = np.random.default_rng(options.seed)
    indices = sorted(clean) or list(range(len(dataset)))
    indices = sorted(rng.permutation(indices)[:AUDITED_IMAGES].tolist())
    truth = None
    if clean:
        truth = _Lazy(lambda i: read_label(clean[i], dataset.num_classes, dataset.ignore_index), indices)
    return audit_labels(
        _Lazy(dataset.label, indices), truth, _Lazy(dataset.image, indices), options.num_classes,
        seed=options.seed, max_images=IMAGES_LOOKED_INTO,
    )  # fmt: skip


def _audit_line(report: AuditReport) -> str:
    expected = "" if report.predicted_iou is None else f", predicted IoU {report.predicted_iou:.2f}"
    return f"audit of {report.images} labels against {report.reference}: {report.line()}{expected}"


def write_audit(report: AuditReport | None, run: Path) -> None:
    """Keep the audit in the run folder, for its report."""
    if report is not None:
        write_json(run / "audit.json", report.to_json())
