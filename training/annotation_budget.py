"""Command: how much annotation is enough? Trains on shares of the pixels and of the images, and fits a curve."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from training.options import make_parser, positive_float, positive_int
from utils.cli import CommandParser, UserError, run_command
from utils.files import write_csv, write_json
from utils.run_folder import REPO_ROOT, display_path, environment_record

if TYPE_CHECKING:
    from training.budget.plan import Cell
    from training.budget.trials import Book, Study

MARGIN = 1.1  # how much longer than foreseen a training may take and still be begun
TITLES = {"f1": "F1", "miou": "mean IoU"}
SET_HERE = {  # options of main.py that this tool sets itself → what to give instead
    "label_noise": "--pixel_shares",
    "label_noise_refresh": "--pixel_shares",
    "noise_seed": "--seed",
    "transition_matrix": "--pixel_shares",
    "epochs": "--steps",
    "repeat": "--steps",
    "stop_after": "--steps",
    "fold": "--image_counts",
    "run_name": "--out",
    "resume": "the same command again, which goes on",
    "checkpoint_every": "--keep_checkpoints",
    "checkpoint_from": "--keep_checkpoints",
    "tensorboard": "the folder's curve.png",
    "igtt": "main.py: it needs no annotation",
}


def share(text: str) -> float:
    """An argparse type: a share above 0 up to 1; 5% is 0.05."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a share above 0 and up to 1, such as 0.05 or 5%")
    return value


def parse_options(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The tool's own options, and the options of main.py that were given; see ``--help``."""
    parser = CommandParser(
        prog="training/annotation_budget.py",
        formatter_class=argparse.HelpFormatter,
        description="How much annotation is enough? Trains with shares of the pixels labelled on numbers of images, "
        "and says what reaches the score of the full labels.",
        epilog="The options of main.py hold for every training: --dataset NAME, --train_list LIST (default: "
        "train_gt.txt), --val_list LIST, --preset (default here: quick), --network, --seed, --device, …; "
        "see python main.py --help.",
    )
    add = parser.add_argument
    add("--time_budget", type=positive_float, default=60.0, metavar="MINUTES", help="time to use (default: 60)")
    add(
        "--pixel_shares",
        type=share,
        nargs="+",
        metavar="P",
        help="shares of the foreground pixels that are labelled (default: 1 0.25 0.05 0.01)",
    )
    add(
        "--image_counts",
        type=positive_int,
        nargs="+",
        metavar="N",
        help="numbers of images (default: all of the list, a third, a ninth, …)",
    )
    add("--repeats", type=positive_int, default=3, metavar="N", help="trainings of each cell (default: 3)")
    add(
        "--target",
        type=share,
        default=0.95,
        metavar="P",
        help="share of the full labels' score that is enough (default: 0.95)",
    )
    add(
        "--steps",
        type=positive_int,
        metavar="N",
        help="steps of every training (default: those of the preset on the whole list, within 100 and 300)",
    )
    add("--data_list", metavar="LIST", help="score on this list instead of the validation list")
    add("--out", type=Path, metavar="DIR", help="folder of the results (default: train_log/NAME/annotation_budget)")
    add("--keep_checkpoints", action="store_true", help="keep the weights of every training")
    own, rest = parser.parse_known_args(arguments)
    training = make_parser()
    training.prog = parser.prog
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(training.parse_args(rest)).items()
    }
    for name in sorted(SET_HERE.keys() & given.keys()):
        parser.error(f"--{name} is set by this tool; use {SET_HERE[name]}")
    return own, {"preset": "quick", **given}


def show_plan(study: Study, ladder: Sequence[Cell], book: Book) -> list[Cell]:
    """Say what is going to be trained; returns the cells that are not finished."""
    from training.budget.curve import percent

    counts = sorted({cell.images for cell in ladder}, reverse=True)
    shares = sorted({cell.share for cell in ladder}, reverse=True)
    print(
        f"{len(study.samples)} images of {display_path(study.train_list)}, scores on {display_path(study.scored_on)}"
        f"; preset {study.options.run.preset}, {study.full.steps} steps a training"
    )
    print(
        f"pixels labelled: {', '.join(map(percent, shares))}; images: {', '.join(map(str, counts))}; "
        f"repeats: {max(cell.repeat for cell in ladder)}; trainings: {len(ladder)}"
    )
    if study.data_list is None:
        print(
            "threshold and epoch are chosen on that list too, as in every run: a little flattering, to all alike; "
            "--data_list LIST scores on another"
        )
    for images in counts:
        steps = study.length(next(cell for cell in ladder if cell.images == images)).steps
        if steps != study.full.steps:
            print(f"{images} images cannot be drawn into {study.full.steps} steps exactly: {steps} steps")
    waiting = [cell for cell in ladder if cell.name not in book.cells]
    if len(waiting) < len(ladder):
        print(f"{len(ladder) - len(waiting)} trainings are finished and are not repeated")
    return waiting


def name_cells(cells: Sequence[Cell]) -> str:
    """Cells in words, repeats of one kind together: "5 % of the pixels, 40 images, repeat 2 3"."""
    from training.budget.curve import percent

    repeats: dict[tuple[float, int], list[int]] = {}
    for cell in sorted(cells, key=lambda cell: (-cell.share, -cell.images, cell.repeat)):
        repeats.setdefault((cell.share, cell.images), []).append(cell.repeat)
    return "; ".join(
        f"{percent(share)} of the pixels, {images} images, repeat {' '.join(map(str, numbers))}"
        for (share, images), numbers in repeats.items()
    )


def show_time(waiting: Sequence[Cell], seconds: float, left: float) -> None:
    """Say how long it will take, and what the time budget leaves out.

    Args:
        seconds: that a training takes.
        left: seconds of the time budget.
    Raises:
        UserError: not even one training fits.
    """
    fitting = int(left / seconds) if seconds else len(waiting)
    print(
        f"a training takes about {minutes(seconds)}, the {len(waiting)} to do {minutes(seconds * len(waiting))}; "
        f"{minutes(left)} are left"
    )
    if fitting < 1:
        raise UserError(
            f"one training takes about {minutes(seconds)}, more than the {minutes(left)} left of --time_budget: "
            "raise it, or lower --steps"
        )
    if fitting < len(waiting):
        print(f"the time holds {fitting}; left out, as what tells least: {name_cells(waiting[fitting:])}")


def minutes(seconds: float) -> str:
    """A time for people."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def run_cells(
    study: Study,
    book: Book,
    waiting: Sequence[Cell],
    ends: float,
    keep_checkpoints: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[Cell]:
    """Train, score and record cells in order while time lasts; returns those left out.

    Args:
        ends: the end of the time budget, in the seconds of ``clock``.
    """
    from training.budget.trials import finish_cell, measure_seconds, tidy_away

    if not waiting:
        return []
    print("timing an epoch, which is kept …", flush=True)
    seconds = measure_seconds(study, waiting[0])
    show_time(waiting, seconds, ends - clock())
    for number, cell in enumerate(waiting):
        if number and ends - clock() < MARGIN * seconds:
            return list(waiting[number:])
        record = finish_cell(study, cell)
        book.add(cell, record)
        tidy_away(study, cell, keep_checkpoints)
        if number:  # the first one's time lacks the epoch that was trained before
            seconds = record["seconds"]
        figure = "failed: " + record["failed"] if "failed" in record else f"{TITLES[study.score]} {record['score']:.3f}"
        print(
            f"[{number + 1}/{len(waiting)}] {name_cells([cell])}: {figure}  ({minutes(record['seconds'])}, "
            f"{minutes(max(ends - clock(), 0))} left)",
            flush=True,
        )
    return []


def conclude(study: Study, book: Book, left_out: Sequence[Cell], target: float) -> None:
    """Fit the curve, print table and sentences, write curve.json, table.csv and curve.png."""
    from training.budget import curve as budget_curve
    from training.budget import report as budget_report

    scored = [record for record in book.cells.values() if record["score"] is not None]
    if not scored:
        raise UserError(f"no training has a score; what failed is in {display_path(book.path)}")
    data = budget_curve.Scores.of_records(scored)
    resampled = budget_curve.resample(data, seed=study.options.run.seed)
    curve = budget_curve.fit_curve(data, resampled)
    rows = budget_report.complete_rows(budget_curve.cell_means(data, resampled), data, curve)
    title = TITLES[study.score]
    is_full = budget_curve.most_annotation(data) == (1.0, len(study.samples))
    sentences = [budget_curve.cheapest_sentence(rows, target, title, is_full)]
    sentences += [] if curve is None else budget_curve.outlook_sentences(curve, data, title)
    print("\n" + budget_report.table(rows, title) + "\n")
    if curve is None:
        print("no curve: it needs trainings of three different amounts of annotation")
    elif len(resampled) < 2:
        print("no intervals: every cell was trained once")
    columns = budget_report.COLUMNS
    write_csv(study.folder / "table.csv", columns, [[row[name] for name in columns] for row in rows])
    budget_report.draw_curve(study.folder / "curve.png", data, curve, target, title)
    write_json(
        study.folder / "curve.json",
        {
            "score": study.score,
            "scored_on": display_path(study.scored_on),
            "steps": study.full.steps,
            "target": target,
            "sentences": sentences,
            "model": budget_report.MODEL,
            "parameters": None if curve is None else curve.parameters(),
            "cells": rows,
            "left_out": [cell.name for cell in left_out],
            "failed": [name for name, record in book.cells.items() if record["score"] is None],
            "settings": book.settings,
            "environment": environment_record(),
        },
    )
    if left_out:
        print(f"skipped, time budget exhausted: {name_cells(left_out)}\ntype the same command again to add them")
    print(f"written to {display_path(study.folder)}: curve.png, table.csv, curve.json")
    print("\n".join(sentences))


def main(arguments: Sequence[str] | None = None, root: Path = REPO_ROOT) -> None:
    """Plan, train, fit, tell."""
    started = time.monotonic()
    own, given = parse_options(arguments)
    from training.budget.plan import DEFAULT_SHARES, default_counts, make_ladder
    from training.budget.trials import Book, open_study

    study = open_study(given, own.steps, own.data_list, own.out, root)
    counts = own.image_counts or default_counts(len(study.samples))
    ladder = make_ladder(own.pixel_shares or DEFAULT_SHARES, counts, own.repeats, len(study.samples))
    book = Book.open(study)
    waiting = show_plan(study, ladder, book)
    try:
        left_out = run_cells(study, book, waiting, started + 60 * own.time_budget, own.keep_checkpoints)
    except KeyboardInterrupt:
        print("interrupted; finished trainings are kept: type the same command again to go on", file=sys.stderr)
        raise
    conclude(study, book, left_out, own.target)


if __name__ == "__main__":
    run_command(main)
