"""Command: audit the labels of a list, before training on them; verdict, figures, advice, a picture."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.cli import CommandParser, UserError, run_command, whole_number
from utils.files import write_json
from utils.lazy import LazySequence
from utils.run_folder import LOG_ROOT, REPO_ROOT, display_path, environment_record, quoted

if TYPE_CHECKING:
    import numpy as np

    from datasets.lists import Sample
    from evaluation.label_audit.report import AuditReport
    from evaluation.label_audit.statistics import LabelStatistics

FOREGROUNDS = ("bright", "dark", "minority")
CACHE_BYTES = 2**29  # decoded images and labels kept in memory, for each kind
SHOWN = 3
MATRIX_FILE = "transition_matrix.json"


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/audit_labels.py",
        formatter_class=argparse.HelpFormatter,
        description="Say what labels will teach, before training on them.",
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME", help="name of the data set: datasets/NAME and txt/NAME")
    add("--train_list", metavar="LIST", help="labels to audit (default: train_noisyLabel.txt, else train_gt.txt)")
    truth = parser.add_argument_group("what the labels are held against; nothing: the images alone")
    reference = truth.add_mutually_exclusive_group()
    reference.add_argument(
        "--clean_list", metavar="LIST", help="clean labels of some or all of the images (default: train_gt.txt)"
    )
    reference.add_argument("--second_annotator", metavar="LIST", help="another person's labels of the images")
    reference.add_argument(
        "--label_noise", metavar="SPEC", help="put noise on the list's labels, e.g. flip:0.3, and audit the result"
    )
    truth.add_argument(
        "--foreground",
        choices=FOREGROUNDS,
        help="what the foreground looks like: settles the direction without clean labels",
    )
    add("--num_classes", type=whole_number(1, 254), default=1, metavar="K", help="1 for binary labels (default)")
    add("--ignore_index", type=whole_number(), metavar="V", help="label value that is ignored")
    add("--in_channels", type=int, choices=(1, 3), default=1, help="1 reads images as grey (default), 3 as RGB")
    add("--data_root", metavar="DIR", help="folder that relative paths in lists start from (default: $SEG_ROOT)")
    add(
        "--unlabelled",
        choices=("background", "ignore"),
        default="background",
        help="what sampling in --label_noise drops becomes (default: background)",
    )
    add(
        "--max_images",
        type=whole_number(1),
        default=200,
        metavar="N",
        help="images for profile, ceiling and prediction; Q counts all (default: 200)",
    )
    add("--seed", type=whole_number(), default=0, metavar="S", help="of noise, bootstrap and choice of images (0)")
    add("--out", type=Path, metavar="DIR", help="where the files go (default: train_log/NAME/audit_<list>)")
    return parser.parse_args(arguments)


def read_samples(name: str | Path, options: argparse.Namespace, dataset: str) -> tuple[Path, list[Sample]]:
    """Find, read and check a list; every fault of it in one UserError."""
    from datasets.lists import check_samples, find_list, read_list

    path = find_list(name, dataset)
    samples = read_list(path, options.data_root)
    check_samples(samples, path, options.num_classes, options.ignore_index, options.in_channels)
    return path, samples


def match_reference(samples: Sequence[Sample], others: Sequence[Sample], path: Path) -> list[Path | None]:
    """The label in another list for the image of every sample, None where that list has none or the very same file.

    Raises:
        UserError: the lists have no image in common.
    """
    labels = {sample.image.resolve(): sample.label for sample in others}
    matched = [labels.get(sample.image.resolve()) for sample in samples]
    if not any(matched):
        raise UserError(
            f"{display_path(path)} has labels for none of the images to audit: it names for example "
            f"{display_path(others[0].image)}, the audited list {display_path(samples[0].image)}; "
            "both lists must name the same image files"
        )
    own = [sample.label.resolve() for sample in samples]
    return [None if label and label.resolve() == same else label for label, same in zip(matched, own, strict=True)]


def reference_labels(options: argparse.Namespace, samples: Sequence[Sample], dataset: str) -> list[Path | None] | None:
    """The label to hold each one against: of the list asked for, else of train_gt.txt; None where there is nothing."""
    from datasets.lists import CLEAN_LIST, list_folder

    name = options.second_annotator or options.clean_list
    default = list_folder(dataset) / "train" / CLEAN_LIST
    if name is None and not default.is_file():
        return None
    try:
        path, others = read_samples(name or default, options, dataset)
        matched = match_reference(samples, others, path)
    except UserError as error:
        if name is not None:
            raise
        print(f"no clean labels in {display_path(default)}: {error}")  # a list that nobody asked for
        return None
    if not any(matched):
        print(f"these are the labels of {path.name}: nothing to compare with")
        return None
    return matched


def load_sequences(
    options: argparse.Namespace, samples: Sequence[Sample], dataset: str
) -> tuple[LazySequence, LazySequence | None, LazySequence, str]:
    """Labels to audit, reference labels, images, and what the reference is."""
    from datasets.image_io import read_image, read_label
    from datasets.label_noise import make_noisy_label, parse_spec

    def label_of(path: Path | None) -> np.ndarray | None:
        return None if path is None else read_label(path, options.num_classes, options.ignore_index)

    count = len(samples)
    labels = LazySequence(lambda place: label_of(samples[place].label), count, CACHE_BYTES)
    images = LazySequence(lambda place: read_image(samples[place].image, options.in_channels), count, CACHE_BYTES)
    if options.label_noise:
        steps = parse_spec(options.label_noise, options.num_classes)

        def noisy(place: int) -> np.ndarray:
            return make_noisy_label(
                labels[place],
                steps,
                options.seed,
                samples[place].image_id,
                options.num_classes,
                unlabelled=options.unlabelled,
            )

        return LazySequence(noisy, count, CACHE_BYTES), labels, images, "clean labels"
    matched = reference_labels(options, samples, dataset)
    if matched is None:
        return labels, None, images, "images only"
    reference = "second annotator" if options.second_annotator else "clean labels"
    return labels, LazySequence(lambda place: label_of(matched[place]), count, CACHE_BYTES), images, reference


def write_audit(
    folder: Path,
    report: AuditReport,
    statistics: LabelStatistics,
    names: Sequence[str],
    sequences: tuple[LazySequence, LazySequence | None, LazySequence],
) -> str | None:
    """Write audit.json, audit_details.json, audit.png and, where Q is known in full, transition_matrix.json.

    Returns: where the matrix lies, as a command would name it; None where it was not written.
    """
    from evaluation.label_audit.plot import draw_audit
    from utils.plots import write_figure

    matrix_path = folder / MATRIX_FILE
    matrix_path.unlink(missing_ok=True)  # an earlier audit's matrix must not pass for this one's
    named = None
    if report.transitions is not None and report.transitions.matrix.is_complete:
        report.transitions.matrix.write(matrix_path)
        named = quoted(display_path(matrix_path))
    write_json(folder / "audit.json", report.to_json())
    found = {"statistics": statistics.to_json(names), "environment": environment_record("cpu")}
    write_json(folder / "audit_details.json", {**report.details(named), **found})
    shown = report.sampled[:SHOWN]
    examples = [None if items is None else [items[place] for place in shown] for items in sequences]
    write_figure(folder / "audit.png", draw_audit(report, *examples))
    return named


def output_folder(options: argparse.Namespace, dataset: str, list_path: Path) -> Path:
    """Where the files of this audit go."""
    from datasets.label_noise import spec_folder_name

    if options.out is not None:
        return options.out
    noise = f"_{spec_folder_name(options.label_noise)}" if options.label_noise else ""
    return LOG_ROOT / dataset / f"audit_{list_path.stem}{noise}"


def main() -> None:
    """Audit, print, save."""
    options = parse_options()
    from datasets.catalog import prepare_dataset
    from datasets.lists import default_training_list
    from evaluation.label_audit import audit_labels
    from evaluation.label_audit.statistics import label_statistics
    from evaluation.label_audit.text import figure_lines

    if options.foreground and options.num_classes > 1:
        raise UserError("--foreground is for binary labels; give --clean_list for several classes")
    dataset = prepare_dataset(options.dataset, options.train_list, root=REPO_ROOT)
    audited = options.train_list or default_training_list(dataset, clean=bool(options.label_noise))
    list_path, samples = read_samples(audited, options, dataset)
    labels, truth, images, reference = load_sequences(options, samples, dataset)
    names = [sample.image_id for sample in samples]
    print(f"{display_path(list_path)}: {len(samples)} images")
    statistics = label_statistics(labels, images, options.num_classes)
    print("\n".join(statistics.lines(names)))
    report = audit_labels(
        labels,
        truth,
        images,
        options.num_classes,
        options.seed,
        options.foreground,
        options.max_images,
        reference,
        training_images=len(samples),
    )
    print("\n".join([*report.notes(), *figure_lines(report)]))
    if report.predicted_iou is not None:
        print(f"predicted IoU {report.predicted_iou:.2f}, {report.prediction_basis()}")
    print(report.line())
    folder = output_folder(options, dataset, list_path)
    matrix_file = write_audit(folder, report, statistics, names, (labels, truth, images))
    print("\n".join(report.advice(matrix_file)))
    print(
        f"written to {display_path(folder)}: audit.json, audit_details.json, audit.png"
        + (f", {MATRIX_FILE}" if matrix_file else "")
    )


if __name__ == "__main__":
    run_command(main)
