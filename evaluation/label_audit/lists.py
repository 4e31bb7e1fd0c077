"""The audit of a list of a data set: read, compared, told, written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.catalog import prepare_dataset
from datasets.image_io import read_image, read_label
from datasets.label_fusion import with_fusion
from datasets.label_noise import make_noisy_label, parse_spec, spec_folder_name
from datasets.label_values import LabelReading
from datasets.list_checks import Expectation
from datasets.lists import (
    CLEAN_LIST,
    Sample,
    corrected_samples,
    default_training_list,
    find_list,
    list_folder,
    read_list,
    survey_samples,
)
from evaluation.label_audit.audit import audit_labels, check_foreground
from evaluation.label_audit.plot import EXAMPLES, draw_audit
from evaluation.label_audit.statistics import label_statistics
from evaluation.label_audit.text import audit_lines, first_lines
from evaluation.label_audit.verdict import Audit
from evaluation.label_audit.with_reference import SECOND, ReferenceAudit
from evaluation.scores.validation import can_choose
from utils.background import LazySequence
from utils.cli import UserError, counted
from utils.files import write_json
from utils.output_folder import Writer, replaced_output, try_output
from utils.plots import write_figure
from utils.run_folder import REPO_ROOT, display_path, environment_record, quoted

if TYPE_CHECKING:
    from evaluation.label_audit.pilot import Pilot

CACHE_BYTES = 2**29  # decoded images and labels kept in memory, for each kind
MATRIX_FILE = "transition_matrix.json"
AUDIT_FILES = ("audit_details.json", "audit.png")
AUDIT = Writer("audit", "audit.json", keys=("verdict", "profile"), others=(*AUDIT_FILES, MATRIX_FILE))


@dataclass(frozen=True)
class Reader:
    """How the lists, images and labels of a data set are read."""

    dataset: str
    root: Path
    expected: Expectation = Expectation()
    data_root: str | None = None

    @property
    def num_classes(self) -> int:
        """1 for binary labels."""
        return self.expected.reading.num_classes

    def samples(self, name: str | Path, known: LabelReading | None = None) -> tuple[Path, list[Sample]]:
        """Find, read and check a list; every fault of it in one UserError.

        Args:
            known: how the labels it is held against are read: a few numbered objects alone look like classes.
        """
        path = find_list(name, self.dataset, self.root)
        samples = read_list(path, self.data_root, self.root)
        try:
            return path, survey_samples(samples, path, self.expected).samples
        except UserError:
            if known is None or not known.objects:
                raise
            return path, survey_samples(samples, path, replace(self.expected, reading=known, is_decided=True)).samples

    def annotated(self, name: str | Path) -> tuple[Path, list[Sample]]:
        """The same of a list whose lines may name labels of several annotators, which become one by vote."""
        path = find_list(name, self.dataset, self.root)
        samples = read_list(path, self.data_root, self.root, fusion="vote")
        found = survey_samples(samples, path, self.expected, fusion="vote")
        return path, with_fusion(found.samples, "vote")

    def labels(self, samples: Sequence[Sample | None]) -> LazySequence:
        """The labels of samples, of several annotators what most of them say; None where there is none."""

        def load(place: int) -> np.ndarray | None:
            sample = samples[place]
            if sample is None or sample.fusion is None:
                return None if sample is None else read_label(sample.require_label(), reading=sample.reading)
            paths = (sample.require_label(), *sample.more_labels)
            return sample.fusion.majority(
                [read_label(path, reading=sample.reading) for path in paths], self.num_classes
            )

        return LazySequence(load, len(samples), CACHE_BYTES)

    def images(self, samples: Sequence[Sample]) -> LazySequence[np.ndarray]:
        """The images of samples."""
        how = (self.expected.channels, self.expected.selected)
        return LazySequence(lambda place: read_image(samples[place].image, *how), len(samples), CACHE_BYTES)


def match_reference(samples: Sequence[Sample], others: Sequence[Sample], path: Path) -> list[Sample | None]:
    """The sample of another list for the image of every sample, None where it has none, or the very same label.

    Raises:
        UserError: the lists have no image in common.
    """
    labels = {sample.image.resolve(): sample for sample in others if sample.label is not None}
    matched = [labels.get(sample.image.resolve()) for sample in samples]
    if not any(matched):
        raise UserError(
            f"{display_path(path)} has labels for none of the images to audit: it names for example "
            f"{display_path(others[0].image)}, the audited list {display_path(samples[0].image)}; "
            "both lists must name the same image files"
        )
    own = [sample.require_label().resolve() for sample in samples]
    return [
        None if other and other.require_label().resolve() == same else other
        for other, same in zip(matched, own, strict=True)
    ]


def reference_labels(
    reader: Reader, samples: Sequence[Sample], name: str | Path | None, say: Callable[[str], object]
) -> list[Sample | None] | None:
    """The sample to hold each one against: of the list asked for, else of train_gt.txt; None where there is nothing."""
    default = list_folder(reader.dataset, reader.root) / "train" / CLEAN_LIST
    if name is None and not default.is_file():
        return None
    try:
        path, others = reader.samples(name or default, samples[0].reading)
        matched = match_reference(samples, others, path)
    except UserError as error:
        if name is not None:
            raise
        say(f"no clean labels in {display_path(default)}: {error}")  # a list that nobody asked for
        return None
    corrected = corrected_samples(samples, path, reader.root) if name is None else ()
    if corrected:
        say(f"labels that were corrected from those of {path.name} are not held against them")
        pairs = zip(samples, matched, strict=True)
        matched = [None if sample.image_id in corrected else other for sample, other in pairs]
        return matched if any(matched) else None
    if not any(matched):
        say(f"these are the labels of {path.name}: nothing to compare with")
        return None
    return matched


def audit_list(
    dataset: str,
    train_list: str | Path | None = None,
    *,
    clean_list: str | Path | None = None,
    second_annotator: str | Path | None = None,
    label_noise: str | None = None,
    unlabelled: str = "background",
    foreground: str | None = None,
    num_classes: int = 1,
    ignore_index: int | None = None,
    label_map: str | None = None,
    in_channels: int | None = None,
    channels: Sequence[str] = (),
    data_root: str | None = None,
    max_images: int = 200,
    steps: int | Callable[[int], int] | None = None,
    pilot: Pilot | None = None,
    details: bool = False,
    seed: int = 0,
    out: Path | None = None,
    root: Path = REPO_ROOT,
    say: Callable[[str], object] = print,
) -> Path:
    """Audit the labels of a list, say what was found and write it; what ``evaluation/audit_labels.py`` does.

    Args:
        train_list: labels to audit; None: train_noisyLabel.txt, else train_gt.txt.
        clean_list, second_annotator: the labels to compare with, at most one of them; None: train_gt.txt.
        label_map: what values of labels mean.
        in_channels, channels: of the images, see `datasets.image_io.read_image`.
        label_noise: a noise spec put on the labels, which are then the clean ones.
        foreground, max_images, seed: see `audit_labels`.
        steps: see there, or what gives them for a number of images.
        pilot: a short training that sharpens the predicted IoU, see `evaluation.label_audit.pilot`.
        details: say everything that was found, not only what is read first.
        out: where the files go; None: ``train_log/<dataset>/audit_<list>``.
    Returns: the folder with audit.json, audit_details.json, audit.png and, where Q is known, transition_matrix.json.
    Raises:
        UserError: lists, files or options that do not fit.
    """
    check_foreground(foreground, num_classes)
    dataset = prepare_dataset(dataset, train_list, root=root)
    how_many = in_channels or len(channels) or 1
    expected = Expectation.of(num_classes, ignore_index, label_map, how_many, channels)
    reader = Reader(dataset, root, expected, data_root)
    list_path, samples = reader.annotated(train_list or default_training_list(dataset, label_noise is not None, root))
    noise = f"_{spec_folder_name(label_noise)}" if label_noise else ""
    folder = out or root / "train_log" / dataset / f"audit_{list_path.stem}{noise}"
    try_output(folder, AUDIT, expected=(AUDIT.record, *AUDIT_FILES))
    images = reader.images(samples)
    if label_noise is not None:
        truth, matched = reader.labels(samples), samples
        labels = with_noise(truth, samples, label_noise, num_classes, seed=seed, unlabelled=unlabelled)
    else:
        matched = reference_labels(reader, samples, second_annotator or clean_list, say)
        labels, truth = reader.labels(samples), None if matched is None else reader.labels(matched)
    say(f"{display_path(list_path)}: {counted(samples, 'image')}")
    if pilot is not None:
        from evaluation.label_audit.pilot import split_for_pilot, with_pilot

        split_for_pilot(samples, matched or (), seed)  # too few clean labels are told before the audit
    statistics = label_statistics(labels, images, num_classes)
    audit = audit_labels(
        labels,
        truth,
        images,
        num_classes,
        seed=seed,
        foreground=foreground,
        max_images=max_images,
        steps=steps(len(samples)) if callable(steps) else steps,
        validated=_is_validated(reader),
        reference=SECOND if second_annotator else "clean labels",
    )
    if pilot is not None:
        audit = with_pilot(audit, pilot, samples, matched or (), seed=seed, say=say)
    judged = judge_annotators(samples, truth, num_classes, seed=seed, say=say) if label_noise is None else []
    names = [sample.image_id for sample in samples]
    with replaced_output(folder, AUDIT, expected=(AUDIT.record, *AUDIT_FILES)) as partial:
        matrix_file = write_audit(partial, folder, audit, statistics.to_json(names), judged)
        write_examples(partial / "audit.png", audit, names, labels, images, truth)
    found = audit_lines(audit) if details else []
    say("\n".join([*statistics.lines(names), *found, *first_lines(audit, matrix_file)]))
    written = [AUDIT.record, *AUDIT_FILES, *([MATRIX_FILE] if matrix_file else [])]
    say(f"written to {display_path(folder)}: {', '.join(written)}")
    return folder


def _is_validated(reader: Reader) -> bool:
    """Whether the data set has a validation list that a training would choose by."""
    path = list_folder(reader.dataset, reader.root) / "val.txt"
    if not path.is_file():
        return False
    try:
        samples = read_list(path, reader.data_root, reader.root, say=lambda line: None)
    except UserError:  # a list that nobody asked for
        return False
    return can_choose([sample.image_id for sample in samples if sample.label is not None])


def write_examples(
    path: Path,
    audit: Audit,
    names: Sequence[str],
    labels: Sequence[np.ndarray],
    images: Sequence[np.ndarray],
    truth: Sequence[np.ndarray | None] | None,
) -> None:
    """Draw what was found and the first of the images that were looked at."""
    shown = audit.sampled[:EXAMPLES]
    columns = (names, labels, images, truth)
    shown_names, *examples = ([each[at] for at in shown] for each in columns if each is not None)
    write_figure(path, draw_audit(audit, *examples, names=shown_names))


def judge_annotators(
    samples: Sequence[Sample],
    truth: Sequence[np.ndarray | None] | None,
    num_classes: int,
    *,
    seed: int,
    say: Callable[[str], object],
) -> list[dict[str, Any]]:
    """What is found of each annotator, which is said and returned for audit.json; nothing of one label an image."""
    if not any(sample.more_labels for sample in samples):
        return []
    from evaluation.label_audit.annotators import annotator_lines, judge_samples

    judged = judge_samples(samples, lambda place: None if truth is None else truth[place], num_classes, seed=seed)
    say("\n".join(annotator_lines(judged)))
    return [annotator.to_json() for annotator in judged]


def with_noise(
    labels: Sequence[np.ndarray], samples: Sequence[Sample], spec: str, num_classes: int, *, seed: int, unlabelled: str
) -> LazySequence[np.ndarray]:
    """Noise on labels, as training would put it there."""
    steps = parse_spec(spec, num_classes)

    def noisy(place: int) -> np.ndarray:
        image_id = samples[place].image_id
        return make_noisy_label(labels[place], steps, seed, image_id, num_classes, unlabelled=unlabelled)

    return LazySequence(noisy, len(samples), CACHE_BYTES)


def write_audit(
    partial: Path, folder: Path, audit: Audit, statistics: dict[str, Any], annotators: Sequence[dict[str, Any]] = ()
) -> str | None:
    """Write audit.json, audit_details.json and, where Q is known in full, transition_matrix.json.

    Args:
        partial: where they are written.
        folder: where they will lie.
        annotators: what was found of each, for audit.json.
    Returns: where the matrix lies, as a command would name it; None where it was not written.
    """
    named = None
    if isinstance(audit, ReferenceAudit) and audit.transitions.matrix.is_complete:
        audit.transitions.matrix.write(partial / MATRIX_FILE)
        named = quoted(display_path(folder / MATRIX_FILE))
    write_json(partial / "audit.json", {**audit.record(), **({"annotators": list(annotators)} if annotators else {})})
    found = {"statistics": statistics, "environment": environment_record("cpu")}
    write_json(partial / "audit_details.json", {**audit.details(named), **found})
    return named
