"""Making the report of a run anew from its files, or one of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os.path import getmtime
from pathlib import Path

from evaluation.label_errors.issue_files import is_issue_folder
from evaluation.pages.evaluate import score_folder
from evaluation.pages.report import write_report
from evaluation.pages.results import RunResults, classic_methods
from evaluation.prediction.out_of_fold import OUT_OF_FOLD
from evaluation.scores.map_folder import METRICS, read_predictions
from utils.cli import UserError
from utils.files import COUNT, NUMBER, OBJECT, POSITIVE, TEXT, TEXTS, check_places, check_record, read_record
from utils.paths import LOG_ROOT, REPO_ROOT, display_path, quoted

PAGE_MARK = b'<meta name="generator" content="evaluation/report.py">'
# What is read of metrics.json, and of its "reading".
FIGURES = {"num_classes": POSITIVE, "n_images": COUNT, "list": TEXT, "threshold": NUMBER.or_null()}
OPTIONAL_FIGURES = {"mask_offset": NUMBER, "reading": OBJECT, "classic": OBJECT.or_null()}
READING = {"ignore_index": COUNT.or_null(), "label_map": TEXT.or_null(), "channels": TEXTS}
READING |= {"data_root": TEXT.or_null(), "instances": TEXT.or_null()}


def rebuild_report(train_dirs: Sequence[str], *, results: str | None = None, out: Path | None = None) -> Path:
    """Score the maps of runs again, as their metrics were, and write one report.

    Args:
        train_dirs: run folders, paths or ``<dataset>/<run>``; also folders of a prediction.
        results: name of the folder below ``results/``; default: of each run the latest that has metrics.
        out: default: report.html beside the metrics of a run, for several ``train_log/<dataset>/report.html``.
    Returns: the file.
    Raises:
        UserError: no such run, or none of its predictions was scored; a file of others in the place of the page.
    """
    folders = [find_results(name, results) for name in train_dirs]
    if len(set(folders)) < len(folders):
        raise UserError("--train_dir names a run more than once")
    path = out or figures_of(folders[0]).with_name("report.html")
    if out is None and len(folders) > 1:
        dataset = read_predictions(folders[0] / "predictions.json").get("dataset", "")
        path = LOG_ROOT / dataset / "report.html"
    if out is not None and path.is_file() and PAGE_MARK not in path.read_bytes():
        raise UserError(
            f"--out {display_path(path)} exists and is no report of this command: rename it, or give another name"
        )
    if path.is_dir():
        raise UserError(f"--out {display_path(path)} is a folder: give the name of a file, such as report.html in it")
    check_places([path])
    runs = [score_again(folder) for folder in folders]
    check_comparable(runs)
    write_report(path, name_apart(runs))
    print(f"report: {display_path(path)}")
    return path


def find_results(train_dir: str, results: str | None = None) -> Path:
    """The folder with the metrics of a run.

    Raises:
        UserError: no such run, no such folder, or nothing scored; the message names what there is to do.
    """
    places = [Path(train_dir), LOG_ROOT / train_dir, REPO_ROOT / train_dir]
    run = next((place.resolve() for place in places if place.is_dir()), None)
    if run is None:
        raise UserError(
            f"--train_dir {train_dir} does not exist, and neither does {display_path(LOG_ROOT / train_dir)}"
        )
    known = {path.parent.name: path.parent for path in run.glob("results/*/predictions.json")}
    known |= {path.parent.name: path.parent for path in run.glob(f"{OUT_OF_FOLD}/predictions.json")}
    if (run / "predictions.json").is_file():
        known = {run.name: run}
    if results is not None:
        if results not in known:
            raise UserError(f"--results {results}: {display_path(run)} has {', '.join(sorted(known)) or 'none'}")
        known = {results: known[results]}
    if not known and is_issue_folder(run):
        raise UserError(
            f"--train_dir {display_path(run)} holds label issues, whose page evaluation/suspect_labels.py --review "
            f"writes; give the run or cross-fit, {display_path(run.parent)}"
        )
    if not known:
        raise UserError(
            f"{display_path(run)} has no predictions; make some first: python evaluation/inference.py "
            f"--train_dir {quoted(display_path(run))} --test_ckpt_epoch best"
        )
    scored = [folder for folder in known.values() if figures_of(folder).is_file()]
    if not scored:
        newest = max(known.values(), key=lambda folder: getmtime(folder / "predictions.json"))
        raise UserError(
            f"{results or 'no prediction'} of {display_path(run)} was {'not ' if results else ''}scored; do so first: "
            f"python evaluation/metrics.py --prd_dir {quoted(display_path(newest / 'pred'))}"
        )
    latest = max(scored, key=lambda folder: getmtime(figures_of(folder)))
    if len(scored) > 1:
        print(f"of {len(scored)} scored predictions the one dated last: {latest.name} (--results NAME takes another)")
    return latest


def figures_of(folder: Path) -> Path:
    """The metrics.json of a folder of maps; that of a cross-fit stands above its ``out_of_fold``."""
    above = folder.parent / METRICS.record
    return above if folder.name == OUT_OF_FOLD and above.is_file() else folder / METRICS.record


def check_comparable(runs: Sequence[RunResults]) -> None:
    """Refuse runs whose figures are of different images, and say where some images are not of all runs.

    Raises:
        UserError: no image was predicted by all runs.
    """
    images = [{result.sample.image for result in run.totals.results} for run in runs]
    shared, every = set.intersection(*images), set.union(*images)
    if not shared:
        raise UserError(
            f"no image was predicted by all of {', '.join(run.name for run in runs)}: side by side their figures would "
            "mislead; predict the same list with each, or choose the folder by --results"
        )
    if len(shared) < len(every):
        print(
            f"{len(every) - len(shared)} of {len(every)} images were not predicted by all runs: figures are not equal"
        )


def score_again(folder: Path) -> RunResults:
    """Score the maps of a folder as its metrics.json was made."""
    path = figures_of(folder)
    before = read_record(path, FIGURES, OPTIONAL_FIGURES, remedy="run evaluation/metrics.py again")
    record = read_predictions(folder / "predictions.json")
    stated = check_record(before.get("reading", {}), path, {}, READING, remedy="run evaluation/metrics.py again")
    reading = {name: stated[name] for name in READING if name in stated}
    reading["channels"] = tuple(reading.get("channels", ()))
    drawn = [(each.get("threshold"), each.get("mask_offset", 0.0)) for each in (before, record)]
    own = before["num_classes"] > 1 or drawn[0] == drawn[1]
    _, results = score_folder(
        folder,
        before["list"],
        threshold=None if own else before["threshold"],
        num_classes=before["num_classes"],
        **reading,
    )
    kept = before.get("classic") if before["n_images"] == results.summary["n_images"] else None
    return replace(results, summary={**results.summary, "classic": kept or classic_methods(results)})


def name_apart(runs: Sequence[RunResults]) -> list[RunResults]:
    """The runs with names that no two share, and without the data set where all have the same."""
    if len({run.name.partition("/")[0] for run in runs}) == 1 < len(runs):
        runs = [replace(run, name=run.name.partition("/")[2] or run.name) for run in runs]
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return list(runs)
    return [replace(run, name=f"{run.name} ({Path(run.summary['maps']).parent.name})") for run in runs]
