"""Finding label issues of a list: match, calibrate, assess and rank its labels, write the worst, say what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.catalog import prepare_dataset
from datasets.image_io import read_image, write_image
from datasets.lists import Sample, default_training_list, find_list, read_list, write_list
from datasets.noise_files import training_command
from evaluation.label_errors.issue_files import REVIEW, LabelIssue, is_issue_folder, read_issues
from evaluation.label_errors.object_issues import describe_issues, judge_objects, write_object_issues
from evaluation.label_errors.ranking import LabelAssessor, Prediction, RankedLabel, choose_predictions, rank_labels
from evaluation.label_errors.sheet import issue_row, write_sheet
from evaluation.scores.label_meaning import read_as_recorded
from evaluation.scores.map_folder import MapFolder, find_maps
from utils.cli import shortened
from utils.files import write_csv, write_json
from utils.output_folder import Writer, replaced_output, try_output
from utils.run_folder import LOG_ROOT, display_path, environment_record

NAMED_FILES = 5
ISSUES = Writer(
    "suspect labels",
    "suspects.json",
    keys=("judged", "stand_out"),
    others=("suspects.csv", "sheet.png", "without_suspects.txt", "issues.csv", "issues.json"),
)
COLUMNS = ("rank", "image", "label", "quality", "stands_out", "kind", "suspect_share", "missing_share")
COLUMNS += ("invented_share", "in_sample", "map", "suspect_map")


def report_provenance(
    samples: Sequence[Sample], predictions: Sequence[Prediction], folders: Sequence[MapFolder]
) -> None:
    """Say which images have no prediction, and which predictions come from networks that knew the label."""
    predicted = {prediction.sample.image for prediction in predictions}
    missing = [sample.image for sample in samples if sample.image not in predicted]
    if missing:
        names = shortened([display_path(path) for path in missing], NAMED_FILES)
        print(f"images without a prediction, not judged ({len(missing)}): {names}")
    known = [prediction for prediction in predictions if prediction.in_sample]
    if known:
        records = [folders[number].record for number in sorted({prediction.folder for prediction in known})]
        runs = sorted({run for record in records for run in record.get("runs", [record.get("run")])})
        print(
            f"WARNING: {len(known)} of {len(predictions)} labels are judged by a network that was trained on them "
            f"({', '.join(runs)}): it may have learned their errors, which then hide. Train with --fold k/K and "
            "predict <run>/held_out.txt."
        )
    unknown = sorted({prediction.folder for prediction in predictions if prediction.in_sample is None})
    for number in unknown:
        print(f"{display_path(folders[number].folder)}: not known whether its network was trained on these labels")


def issue_map_file(rank: int, entry: RankedLabel) -> str:
    """The name of the suspect map of a label, below the output folder."""
    return f"maps/{rank:04d}_{entry.prediction.map_path.stem}.png"


def csv_rows(ranked: Sequence[RankedLabel], drawn: int) -> Iterator[list[Any]]:
    """The lines of suspects.csv, the worst label first."""
    in_sample = {True: "yes", False: "no", None: "unknown"}
    for rank, entry in enumerate(ranked, start=1):
        prediction = entry.prediction
        fractions = (entry.issue_fraction, entry.missing_fraction, entry.invented_fraction)
        yield [
            rank,
            display_path(prediction.sample.image),
            display_path(prediction.sample.require_label()),
            f"{entry.quality:.4f}",
            "yes" if entry.stands_out else "no",
            entry.kind,
            *(f"{fraction:.5f}" for fraction in fractions),
            in_sample[prediction.in_sample],
            display_path(prediction.map_path),
            issue_map_file(rank, entry) if rank <= drawn else "",
        ]


def write_issues(
    folder: Path,
    ranked: Sequence[RankedLabel],
    assessor: LabelAssessor,
    *,
    top: int,
    in_channels: int,
    channels: Sequence[str],
) -> None:
    """Write suspects.csv, the maps and sheet of the worst, and the list of the labels that do not stand out."""
    rows = []
    for rank, entry in enumerate(ranked[:top], start=1):
        label, posterior, assessed, calibration = assessor.assess(entry.prediction)
        write_image(folder / issue_map_file(rank, entry), np.rint(255 * (1 - assessed.quality)).astype(np.uint8))
        image = read_image(entry.prediction.sample.image, in_channels, channels)
        caption = f"{rank}  quality {entry.quality:.3f}  {entry.kind}  {entry.prediction.sample.image.name}"
        rows.append(
            issue_row(image, label, posterior, assessed=assessed, confidence=calibration.confidence, caption=caption)
        )
    if rows:
        worst = sum(entry.stands_out for entry in ranked)
        verdict = (
            f"{worst} of {len(ranked)} labels stand out as worse than the others; the {len(rows)} lowest in quality"
        )
        write_sheet(folder / "sheet.png", rows, verdict)
    write_csv(folder / "suspects.csv", COLUMNS, csv_rows(ranked, top))
    kept = [entry.prediction.sample for entry in ranked if not entry.stands_out]
    write_list(folder / "without_suspects.txt", [(sample.image, sample.label, *sample.more_labels) for sample in kept])


def report_issues(
    folder: Path, ranked: Sequence[RankedLabel], issues: Sequence[LabelIssue], command: str, top: int
) -> None:
    """The issues in numbers, the worst labels, where the files are, and what to do next.

    Args:
        command: trains on the labels that do not stand out.
    """
    print(describe_issues(issues, len(ranked)))
    standing_out = [entry for entry in ranked if entry.stands_out]
    print(f"{len(standing_out)} of {len(ranked)} labels stand out as worse than the others")
    for rank, entry in enumerate(ranked[: min(top, len(standing_out))], start=1):
        label = display_path(entry.prediction.sample.require_label())
        print(f"{rank:4d}  quality {entry.quality:.3f}  {entry.kind:<24}  {label}")
    print(f"written to {display_path(folder)}: issues.csv, crops/, suspects.csv, sheet.png, without_suspects.txt")
    alternative = f", or train without those that stand out:\n{command}" if standing_out else ""
    print(f"next: look at crops/ and sheet.png and correct the labels{alternative}")


def find_label_issues(
    dataset: str,
    prd_dirs: Sequence[Path],
    *,
    train_list: str | None = None,
    top: int = 16,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    label_map: str | None = None,
    channels: tuple[str, ...] = (),
    data_root: str | None = None,
    out: Path | None = None,
    review: bool = False,
) -> Path:
    """Hold the labels of a list against what networks trained without them predict, and write what is found.

    Args:
        prd_dirs: folders of predictions; of an image in several, the first that is out of sample counts.
        train_list: the labels; default: ``train_noisyLabel.txt``, else ``train_gt.txt``.
        top: labels to draw.
        num_classes, ignore_index: default: as recorded with the predictions.
        label_map: what values of labels mean; default: as the run decided, else by the labels.
        channels: of the images that are drawn; default: as recorded.
        out: default: ``train_log/<dataset>/suspects_<list>``.
        review: write review.html, too; of a single folder that holds issues already, it alone.
    Returns: the folder, whose files docs/LABEL_ISSUES.md describes.
    Raises:
        UserError: no list, no predictions, nothing that matches.
    """
    if review and len(prd_dirs) == 1 and is_issue_folder(prd_dirs[0]):
        return review_issues(prd_dirs[0], dataset, channels)
    dataset = prepare_dataset(dataset, train_list)
    list_path = find_list(train_list, dataset) if train_list else default_training_list(dataset)
    samples = read_list(list_path, data_root)
    folder = out or LOG_ROOT / dataset / f"suspects_{list_path.stem}"
    expected = (ISSUES.record, *ISSUES.others)
    try_output(folder, ISSUES, expected=expected, earlier=(REVIEW,))
    folders = [find_maps(folder) for folder in prd_dirs]
    recorded = next((folder.record for folder in folders if folder.record), {})
    classes = num_classes or int(recorded.get("num_classes") or 1)
    ignore_index = recorded.get("ignore_index") if ignore_index is None else ignore_index
    samples = read_as_recorded(
        samples, list_path, recorded, num_classes=classes, ignore_index=ignore_index, label_map=label_map
    )
    predictions = choose_predictions(samples, folders)
    report_provenance(samples, predictions, folders)
    ranked, assessor = rank_labels(predictions, folders, classes, ignore_index=ignore_index)
    channels = channels or tuple(recorded.get("channels") or ())
    how = {"in_channels": len(channels) or recorded.get("in_channels", 1), "channels": channels}
    with replaced_output(folder, ISSUES, expected=expected, earlier=(REVIEW,)) as partial:
        write_issues(partial, ranked, assessor, top=top, **how)
        reading = samples[0].reading
        judged, assessor = judge_objects(assessor, ranked, **how)
        issues = write_object_issues(partial, judged, assessor, list_path=list_path, reading=reading, **how)
        write_json(
            partial / ISSUES.record,
            {
                "list": display_path(list_path),
                "predictions": [display_path(item.folder) for item in folders],
                "judged": len(ranked),
                "stand_out": sum(entry.stands_out for entry in ranked),
                "issues": len(issues),
                "in_sample": sum(bool(prediction.in_sample) for prediction in predictions),
                "without_prediction": len({sample.image for sample in samples}) - len(predictions),
                "confidence": [calibration.confidence for calibration in assessor.calibrations],
                "environment": environment_record("cpu"),
            },
        )
    meaning = {"ignore_index": ignore_index, "label_map": reading and reading.label_map and reading.label_map.text}
    kept = display_path(folder / "without_suspects.txt")
    command = training_command(dataset, kept, num_classes=classes, data_root=data_root, **meaning, **how)
    report_issues(folder, ranked, issues, command, top=top)
    return review_issues(folder, dataset, channels) if review else folder


def review_issues(folder: Path, dataset: str, channels: Sequence[str] = ()) -> Path:
    """Write the review page of a folder of issues into it; ``channels`` are others to show than those recorded."""
    from evaluation.label_errors.review import write_review

    found = read_issues(folder)
    write_review(folder / REVIEW, found, dataset, channels=channels)
    print(f"review: open {display_path(folder / REVIEW)} in a browser; it ends with the command that mends the labels")
    return folder
