"""Measuring an annotation budget: plan the trials, train them while time lasts, fit the curve, say what it means."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.budget import curve as budget_curve
from training.budget import report as budget_report
from training.budget.curve import percent
from training.budget.plan import DEFAULT_SHARES, Trial, default_counts, make_grid
from training.budget.trials import Experiment, finish_trial, measure_seconds, open_experiment, tidy_away
from utils.cli import UserError
from utils.files import NUMBER, OBJECT, POSITIVE, check_record, read_record, write_csv, write_json
from utils.run_folder import REPO_ROOT, display_path, environment_record
from utils.run_lock import run_lock

MARGIN = 1.1  # how much longer than foreseen a training may take and still be begun
CELL = {"share": NUMBER, "images": POSITIVE, "repeat": POSITIVE, "score": NUMBER.or_null()}  # of a finished trial
WRITTEN = ("log.txt", "lists", "runs", "table.csv", "curve.png", "curve.json")  # beside cells.json
TITLES = {"f1": "F1", "miou": "mean IoU"}


@dataclass
class Results:
    """The record of finished trials, kept in ``cells.json``."""

    path: Path
    settings: dict[str, Any]
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, experiment: Experiment) -> Results:
        """Open the experiment's record, or begin one, by which a folder is known as ours from then on.

        Raises:
            UserError: the folder holds trials of other settings, or files of others.
        """
        path, settings = experiment.folder / "cells.json", json.loads(json.dumps(experiment.settings()))
        if not path.exists():
            foreign = [name for name in WRITTEN if os.path.lexists(experiment.folder / name)]
            if foreign:
                raise UserError(
                    f"{display_path(experiment.folder)} holds {', '.join(foreign)}, which this command did not write "
                    "and does not overwrite: move or rename that, or give another folder by --out"
                )
            return cls.begin(path, settings)
        record = read_record(path, {"settings": OBJECT, "cells": OBJECT}, remedy="give another folder by --out")
        differing = [name for name in settings if record["settings"].get(name) != settings[name]]
        if differing and not record["cells"]:  # nothing is finished; what was begun is of the former settings
            for run in experiment.unfinished_runs():
                shutil.rmtree(run)
            return cls.begin(path, settings)
        if differing:
            changes = ", ".join(f"{name} {record['settings'].get(name)} → {settings[name]}" for name in differing)
            raise UserError(
                f"{display_path(path)} holds trainings of other settings ({changes}); give another folder by --out"
            )
        for name, row in record["cells"].items():
            check_record(row, f"{path}, {name}", CELL, {"seconds": NUMBER}, remedy="give another folder by --out")
        return cls(path, settings, record["cells"])

    @classmethod
    def begin(cls, path: Path, settings: dict[str, Any]) -> Results:
        """An empty record, on disk."""
        write_json(path, {"settings": settings, "cells": {}})
        return cls(path, settings)

    def add(self, trial: Trial, record: dict[str, Any]) -> None:
        """Keep the record of a finished trial, at once."""
        self.trials[trial.name] = {**asdict(trial), **record}
        write_json(self.path, {"settings": self.settings, "cells": self.trials})


def measure_budget(
    given: dict[str, Any],
    *,
    time_budget: float = 60.0,
    pixel_shares: Sequence[float] | None = None,
    image_counts: Sequence[int] | None = None,
    repeats: int = 3,
    target: float = 0.95,
    steps: int | None = None,
    data_list: str | None = None,
    out: Path | None = None,
    keep_checkpoints: bool = False,
    root: Path = REPO_ROOT,
) -> Path:
    """Train with fractions of the pixels labelled on numbers of images, and fit a curve through the scores.

    Args:
        given: options of main.py that hold for every training.
        time_budget: minutes.
        pixel_shares: fractions of the foreground pixels that are labelled; default: `DEFAULT_SHARES`.
        image_counts: numbers of images; default: all of the list, a third, a ninth, ….
        repeats: trainings of each.
        target: fraction of the full labels' score that is enough.
        steps: of every training; default: those of the preset on the whole list, within bounds.
        data_list: score on this list instead of the validation list.
        out: default: ``train_log/<dataset>/annotation_budget``.
        keep_checkpoints: keep the weights of every training.
    Returns: the folder with curve.json, curve.png and table.csv.
    Raises:
        UserError: no clean list, too many images, not even one training fits into the time; the folder is in use by
            another process, or holds files of others.
    """
    started = time.monotonic()
    experiment = open_experiment(given, steps=steps, data_list=data_list, folder=out, root=root)
    counts = image_counts or default_counts(len(experiment.samples))
    grid = make_grid(pixel_shares or DEFAULT_SHARES, counts, repeats, available=len(experiment.samples))
    experiment.folder.mkdir(parents=True, exist_ok=True)
    with run_lock(experiment.folder):
        results = Results.open(experiment)
        waiting = show_plan(experiment, grid, results)
        for trial in set(grid) - set(waiting):  # a kill may have come between its record and this
            tidy_away(experiment, trial, keep_checkpoints)
        try:
            left_out = run_trials(
                experiment, results, waiting, ends=started + 60 * time_budget, keep_checkpoints=keep_checkpoints
            )
        except KeyboardInterrupt:
            print("interrupted; finished trainings are kept: type the same command again to go on", file=sys.stderr)
            raise
        conclude(experiment, results, left_out, target=target)
    return experiment.folder


def show_plan(experiment: Experiment, grid: Sequence[Trial], results: Results) -> list[Trial]:
    """Say what is going to be trained; returns the trials that are not finished."""
    counts = sorted({trial.images for trial in grid}, reverse=True)
    shares = sorted({trial.share for trial in grid}, reverse=True)
    print(
        f"{len(experiment.samples)} images of {display_path(experiment.train_list)}, "
        f"scores on {display_path(experiment.scored_on)}; "
        f"preset {experiment.options.run.preset}, {experiment.full.steps} steps a training"
    )
    print(
        f"pixels labelled: {', '.join(map(percent, shares))}; images: {', '.join(map(str, counts))}; "
        f"repeats: {max(trial.repeat for trial in grid)}; trainings: {len(grid)}"
    )
    if experiment.data_list is None:
        print(
            "threshold and epoch are chosen on that list too, as in every run: a little flattering, to all alike; "
            "--data_list LIST scores on another"
        )
    for images in counts:
        steps = experiment.length(next(trial for trial in grid if trial.images == images)).steps
        if steps != experiment.full.steps:
            print(f"{images} images cannot be drawn into {experiment.full.steps} steps exactly: {steps} steps")
    waiting = [trial for trial in grid if trial.name not in results.trials]
    if len(waiting) < len(grid):
        print(f"{len(grid) - len(waiting)} trainings are finished and are not repeated")
    return waiting


def name_trials(trials: Sequence[Trial]) -> str:
    """Cells in words, repeats of one kind together: "5 % of the pixels, 40 images, repeat 2 3"."""
    repeats: dict[tuple[float, int], list[int]] = {}
    for trial in sorted(trials, key=lambda trial: (-trial.share, -trial.images, trial.repeat)):
        repeats.setdefault((trial.share, trial.images), []).append(trial.repeat)
    return "; ".join(
        f"{percent(share)} of the pixels, {images} images, repeat {' '.join(map(str, numbers))}"
        for (share, images), numbers in repeats.items()
    )


def show_time(waiting: Sequence[Trial], seconds: float, left: float) -> None:
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
        print(f"the time holds {fitting}; left out, as what tells least: {name_trials(waiting[fitting:])}")


def minutes(seconds: float) -> str:
    """A time for people."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def run_trials(
    experiment: Experiment,
    results: Results,
    waiting: Sequence[Trial],
    ends: float,
    keep_checkpoints: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Train, score and record trials in order while time lasts; returns those left out.

    Args:
        ends: the end of the time budget, in the seconds of ``clock``.
    """
    if not waiting:
        return []
    print("timing an epoch, which is kept …", flush=True)
    seconds = measure_seconds(experiment, waiting[0])
    show_time(waiting, seconds, ends - clock())
    for number, trial in enumerate(waiting):
        if number and ends - clock() < MARGIN * seconds:
            return list(waiting[number:])
        record = finish_trial(experiment, trial)
        results.add(trial, record)
        tidy_away(experiment, trial, keep_checkpoints)
        if number:  # the first one's time lacks the epoch that was trained before
            seconds = record["seconds"]
        figure = (
            "failed: " + record["failed"] if "failed" in record else f"{TITLES[experiment.score]} {record['score']:.3f}"
        )
        print(
            f"[{number + 1}/{len(waiting)}] {name_trials([trial])}: {figure}  ({minutes(record['seconds'])}, "
            f"{minutes(max(ends - clock(), 0))} left)",
            flush=True,
        )
    return []


def conclude(experiment: Experiment, results: Results, left_out: Sequence[Trial], target: float) -> None:
    """Fit the curve, print table and sentences, write curve.json, table.csv and curve.png."""
    scored = [record for record in results.trials.values() if record["score"] is not None]
    if not scored:
        raise UserError(f"no training has a score; what failed is in {display_path(results.path)}")
    data = budget_curve.Scores.of_records(scored)
    resampled = budget_curve.resample(data, seed=experiment.options.run.seed)
    curve = budget_curve.fit_curve(data, resampled)
    rows = budget_report.complete_rows(budget_curve.cell_means(data, resampled), data, curve)
    title = TITLES[experiment.score]
    is_full = budget_curve.most_annotation(data) == (1.0, len(experiment.samples))
    sentences = [budget_curve.cheapest_sentence(rows, target, title, is_full=is_full)]
    sentences += [] if curve is None else budget_curve.outlook_sentences(curve, data, title)
    print("\n" + budget_report.table(rows, title) + "\n")
    if curve is None:
        print("no curve: it needs trainings of three different amounts of annotation")
    elif len(resampled) < 2:
        print("no intervals: every trial was trained once")
    columns = budget_report.COLUMNS
    write_csv(experiment.folder / "table.csv", columns, [[row[name] for name in columns] for row in rows])
    budget_report.draw_curve(experiment.folder / "curve.png", data, curve, target=target, score=title)
    write_json(
        experiment.folder / "curve.json",
        {
            "score": experiment.score,
            "scored_on": display_path(experiment.scored_on),
            "steps": experiment.full.steps,
            "target": target,
            "sentences": sentences,
            "model": budget_report.MODEL,
            "parameters": None if curve is None else curve.parameters(),
            "cells": rows,
            "left_out": [trial.name for trial in left_out],
            "failed": [name for name, record in results.trials.items() if record["score"] is None],
            "settings": results.settings,
            "environment": environment_record(),
        },
    )
    if left_out:
        print(f"skipped, time budget exhausted: {name_trials(left_out)}\ntype the same command again to add them")
    print(f"written to {display_path(experiment.folder)}: curve.png, table.csv, curve.json")
    print("\n".join(sentences))
