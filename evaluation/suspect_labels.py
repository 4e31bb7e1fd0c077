"""Command: which labels are suspect? Ranks a list's labels by what networks trained without them predict."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from utils.cli import CommandParser, run_command, shortened, whole_number
from utils.files import write_csv, write_json
from utils.run_folder import LOG_ROOT, display_path, environment_record, quoted

if TYPE_CHECKING:
    from datasets.lists import Sample
    from evaluation.label_errors.ranking import LabelJudge, Prediction, Verdict
    from evaluation.scores.map_folder import MapFolder

NAMED_FILES = 5
COLUMNS = (
    "rank",
    "image",
    "label",
    "quality",
    "stands_out",
    "kind",
    "suspect_share",
    "missing_share",
    "invented_share",
    "in_sample",
    "map",
    "suspect_map",
)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/suspect_labels.py",
        formatter_class=argparse.HelpFormatter,
        description="Which labels are suspect? Ranks labels by predictions of networks that never saw them: train "
        "with main.py --fold k/K, predict each run's held_out.txt, and give all the folders of predictions.",
    )
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME", help="name of the data set: datasets/NAME and txt/NAME")
    add("--train_list", metavar="LIST", help="labels to judge (default: train_noisyLabel.txt, else train_gt.txt)")
    add(
        "--prd_dir",
        required=True,
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folders of predictions; of an image in several, the first that is out of sample counts",
    )
    add("--top", type=whole_number(), default=16, metavar="N", help="labels to draw (default: 16)")
    add("--num_classes", type=whole_number(1, 254), metavar="K", help="1 for binary labels (default: as recorded)")
    add("--ignore_index", type=whole_number(), metavar="V", help="value that is ignored (default: as recorded)")
    add("--data_root", metavar="DIR", help="folder that relative paths in the list start from (default: $SEG_ROOT)")
    add("--out", type=Path, metavar="DIR", help="where the files go (default: train_log/NAME/suspects_<list>)")
    return parser.parse_args(arguments)


def tell_provenance(samples: Sequence[Sample], predictions: Sequence[Prediction], folders: Sequence[MapFolder]) -> None:
    """Say which images have no prediction, and which predictions come from networks that knew the label."""
    predicted = {prediction.sample.image for prediction in predictions}
    missing = [sample.image for sample in samples if sample.image not in predicted]
    if missing:
        names = shortened([display_path(path) for path in missing], NAMED_FILES)
        print(f"images without a prediction, not judged ({len(missing)}): {names}")
    known = [prediction for prediction in predictions if prediction.in_sample]
    if known:
        runs = sorted({folders[prediction.folder].record["run"] for prediction in known})
        print(
            f"WARNING: {len(known)} of {len(predictions)} labels are judged by a network that was trained on them "
            f"({', '.join(runs)}): it may have learned their errors, which then hide. Train with --fold k/K and "
            "predict <run>/held_out.txt."
        )
    unknown = sorted({prediction.folder for prediction in predictions if prediction.in_sample is None})
    for number in unknown:
        print(f"{display_path(folders[number].folder)}: not known whether its network was trained on these labels")


# What is written


def map_file(rank: int, verdict: Verdict) -> str:
    """The name of the suspect map of a label, below the output folder."""
    return f"maps/{rank:04d}_{verdict.prediction.map_path.stem}.png"


def csv_rows(verdicts: Sequence[Verdict], drawn: int) -> Iterator[list[Any]]:
    """The lines of suspects.csv, the worst label first."""
    in_sample = {True: "yes", False: "no", None: "unknown"}
    for rank, verdict in enumerate(verdicts, start=1):
        prediction = verdict.prediction
        shares = (verdict.suspect_share, verdict.missing_share, verdict.invented_share)
        yield [
            rank,
            display_path(prediction.sample.image),
            display_path(prediction.sample.label),
            f"{verdict.quality:.4f}",
            "yes" if verdict.stands_out else "no",
            verdict.kind,
            *(f"{share:.5f}" for share in shares),
            in_sample[prediction.in_sample],
            display_path(prediction.map_path),
            map_file(rank, verdict) if rank <= drawn else "",
        ]


def write_suspects(folder: Path, verdicts: Sequence[Verdict], judge: LabelJudge, top: int, in_channels: int) -> None:
    """Write suspects.csv, the maps and sheet of the worst, and the list of the labels that do not stand out."""
    import shutil

    import numpy as np

    from datasets.image_io import read_image, write_image
    from datasets.lists import write_list
    from evaluation.label_errors.sheet import suspect_row, write_sheet

    shutil.rmtree(folder / "maps", ignore_errors=True)  # an earlier ranking's ranks are not this one's
    rows = []
    for rank, verdict in enumerate(verdicts[:top], start=1):
        label, posterior, judgement, calibration = judge.judge(verdict.prediction)
        write_image(folder / map_file(rank, verdict), np.rint(255 * (1 - judgement.quality)).astype(np.uint8))
        image = read_image(verdict.prediction.sample.image, in_channels)
        caption = f"{rank}  quality {verdict.quality:.3f}  {verdict.kind}  {verdict.prediction.sample.image.name}"
        rows.append(suspect_row(image, label, posterior, judgement, calibration.confidence, caption))
    if rows:
        write_sheet(folder / "sheet.png", rows)
    write_csv(folder / "suspects.csv", COLUMNS, csv_rows(verdicts, top))
    kept = [verdict.prediction.sample for verdict in verdicts if not verdict.stands_out]
    write_list(folder / "without_suspects.txt", [(sample.image, sample.label) for sample in kept])


def tell(folder: Path, verdicts: Sequence[Verdict], dataset: str, top: int) -> None:
    """The worst labels, where the files are, and what to do next."""
    standing_out = [verdict for verdict in verdicts if verdict.stands_out]
    print(f"{len(standing_out)} of {len(verdicts)} labels stand out as worse than the others")
    for rank, verdict in enumerate(verdicts[: min(top, len(standing_out))], start=1):
        print(
            f"{rank:4d}  quality {verdict.quality:.3f}  {verdict.kind:<24}  "
            f"{display_path(verdict.prediction.sample.label)}"
        )
    print(f"written to {display_path(folder)}: suspects.csv, sheet.png, maps/, without_suspects.txt")
    print("next: look at sheet.png and correct the labels at the head of suspects.csv, or train without them:")
    kept = quoted(display_path(folder / "without_suspects.txt"))
    print(f"python main.py --dataset {quoted(dataset)} --train_list {kept}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Match, calibrate, judge, rank, write, tell."""
    options = parse_options(arguments)
    from datasets.catalog import prepare_dataset
    from datasets.lists import default_training_list, find_list, read_list
    from evaluation.label_errors.ranking import choose_predictions, rank_labels
    from evaluation.scores.map_folder import find_maps

    dataset = prepare_dataset(options.dataset, options.train_list)
    list_path = find_list(options.train_list, dataset) if options.train_list else default_training_list(dataset)
    samples = read_list(list_path, options.data_root)
    folders = [find_maps(folder) for folder in options.prd_dir]
    records = [folder.record for folder in folders if folder.record]
    recorded = records[0] if records else {}
    num_classes = options.num_classes or recorded.get("num_classes") or 1
    ignore_index = recorded.get("ignore_index") if options.ignore_index is None else options.ignore_index
    predictions = choose_predictions(samples, folders)
    tell_provenance(samples, predictions, folders)
    verdicts, judge = rank_labels(predictions, folders, num_classes, ignore_index)
    folder = options.out or LOG_ROOT / dataset / f"suspects_{list_path.stem}"
    write_suspects(folder, verdicts, judge, options.top, recorded.get("in_channels", 1))
    write_json(
        folder / "suspects.json",
        {
            "list": display_path(list_path),
            "predictions": [display_path(item.folder) for item in folders],
            "judged": len(verdicts),
            "stand_out": sum(verdict.stands_out for verdict in verdicts),
            "in_sample": sum(bool(prediction.in_sample) for prediction in predictions),
            "without_prediction": len({sample.image for sample in samples}) - len(predictions),
            "confidence": [calibration.confidence for calibration in judge.calibrations],
            "environment": environment_record("cpu"),
        },
    )
    tell(folder, verdicts, dataset, options.top)


if __name__ == "__main__":
    run_command(main)
