"""Scoring the maps of a folder: a table, metrics.json, per_image.csv, overlays and report.html."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from datasets.image_io import stored_channels
from datasets.lists import Sample, find_list, read_list
from evaluation.pages.report import write_examples, write_report
from evaluation.pages.results import RunResults, classic_methods
from evaluation.scores import DEFAULT_THRESHOLD, calibration_error
from evaluation.scores.images import (
    NUMBERED,
    TITLE_WIDTH,
    TITLES,
    ImageResult,
    Scorer,
    Totals,
    score_maps,
    show,
    title_of,
)
from evaluation.scores.label_meaning import read_as_recorded
from evaluation.scores.map_folder import METRICS, MapFolder, Matches, changed_maps, find_maps, match_maps, trained_pairs
from evaluation.scores.maps import WholeNumbers, whole_numbers
from evaluation.scores.summary import summarize
from utils.cli import Progress, UserError, counted, shortened
from utils.files import write_csv, write_json
from utils.output_folder import replaced_output, try_output
from utils.run_folder import REPO_ROOT, display_path, environment_record

NAMED_FILES = 5
CLASS_FIGURES = ("iou", "f1", "precision", "sensitivity", "object_f1")  # in the printed line of a class


class ScoringOptions(TypedDict, total=False):
    """How maps, labels and images are read, see `score_folder`; what is absent, as inference recorded it."""

    threshold: float | None
    num_classes: int | None
    ignore_index: int | None
    label_map: str | None
    channels: tuple[str, ...]
    data_root: str | None
    instances: str | None


def evaluate_maps(
    prd_dir: Path,
    test_data_dir: str | None = None,
    *,
    out: Path | None = None,
    report: bool = True,
    label_audit: str | Path | None = None,
    **options: Unpack[ScoringOptions],
) -> dict[str, Any]:
    """Score the maps of a folder and write every file of metrics.

    Args:
        out: where the files go; default: beside the maps.
        report: whether report.html and overlays are written too.
        label_audit: of labels that err like these; IoU and F1 against the truth are estimated by it.
        options: see `score_folder`.
    Returns: the content of metrics.json.
    Raises:
        UserError: as `score_folder`; also an audit that is not there.
    """
    expected = (METRICS.record, *METRICS.others)
    try_output(out or find_maps(prd_dir).folder, METRICS, expected=expected)
    folder, results = score_folder(prd_dir, test_data_dir, **options)
    summary = results.summary
    stated = None
    if label_audit is not None:
        from evaluation.label_audit.true_scores import scores_against_truth

        stated = scores_against_truth(results.totals.results, results.scorer, label_audit)
        summary["against_truth"] = stated.to_json()
    if report:
        summary["classic"] = classic_methods(results)
    target = out or folder.folder
    with replaced_output(target, METRICS, expected=expected) as partial:
        write_per_image(partial / "per_image.csv", results.totals.results, folder.record.get("unlike"))
        if report:
            write_examples(partial / "overlays", results)
            write_report(partial / "report.html", [results])
        write_json(partial / METRICS.record, summary)
    print_table(summary)
    if stated is not None:
        print(stated.line())
    tell_low_maps(results.totals.sum, results.scorer, of_other_programs=not folder.record)
    print(f"figures: {display_path(target / ('report.html' if report else 'metrics.json'))}")
    return summary


def score_folder(
    prd_dir: Path,
    test_data_dir: str | None = None,
    *,
    threshold: float | None = None,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    label_map: str | None = None,
    channels: tuple[str, ...] = (),
    data_root: str | None = None,
    instances: str | None = None,
) -> tuple[MapFolder, RunResults]:
    """Score the maps of a folder and write nothing.

    Args:
        test_data_dir: the list with the labels; default: the one that inference recorded.
        threshold, num_classes, ignore_index: default: as inference recorded them.
        label_map: what values of labels mean; default: as the run decided, else by the labels.
        channels: of the images that are drawn; default: as inference recorded them.
        instances: how objects of masks are told apart where labels number theirs, see `evaluation.objects.INSTANCES`;
            default: as inference recorded it, or as maps number them, else by components.
    Raises:
        UserError: no maps, no labels, nothing that matches, files that cannot be read or sizes that differ.
    """
    folder = find_maps(prd_dir)
    samples, list_path = labelled_samples(folder, test_data_dir, data_root)
    record = folder.record
    classes = num_classes or record.get("num_classes") or 1
    if threshold is not None and classes > 1:
        raise UserError(f"--threshold {threshold:g} is for scores of two classes; these are maps of {classes}")
    ignore_index = record.get("ignore_index") if ignore_index is None else ignore_index
    samples = read_as_recorded(
        samples, list_path, record, num_classes=classes, ignore_index=ignore_index, label_map=label_map
    )
    matches = match_maps(samples, folder)
    maps = [path for _, path in matches.pairs]
    tell_unmatched(matches)
    if changed := changed_maps(maps, folder):
        print(f"maps that are not as inference wrote them ({len(changed)}): {_named(changed)}")
    tell_trained(matches, record)
    scorer = make_scorer(
        record, maps, num_classes=classes, ignore_index=ignore_index, threshold=threshold, instances=instances
    )
    with Progress(len(matches.pairs), "scoring") as progress:
        totals = score_maps(matches.pairs, scorer, tick=progress.update)
    reading = {"ignore_index": ignore_index, "label_map": label_map, "channels": list(channels)}
    summary = {
        **summarize(totals, scorer),
        "maps": display_path(folder.maps),
        "list": display_path(list_path),
        "images_without_map": [display_path(path) for path in matches.images_without_map],
        "reading": {**reading, "data_root": data_root, "instances": instances},
        "environment": environment_record(),
        **calibration_before(record, totals, classes),
    }
    channels = channels or tuple(record.get("channels") or ())
    in_channels = len(channels) or record.get("in_channels") or stored_channels(matches.pairs[0][0].image)
    return folder, collect_results(folder, summary, totals, scorer, in_channels=in_channels, channels=channels)


def calibration_before(record: dict[str, Any], totals: Totals, num_classes: int) -> dict[str, float]:
    """The calibration error of the scores as they were before inference calibrated them; empty where it did not."""
    if not record.get("calibration") or num_classes > 1:
        return {}
    from evaluation.scores.platt import PlattScaling

    scores_before = PlattScaling(**record["calibration"]).undone().histogram(totals.sum)
    return {"calibration_error_before": calibration_error(scores_before)}


def collect_results(
    folder: MapFolder,
    summary: dict[str, Any],
    totals: Totals,
    scorer: Scorer,
    *,
    in_channels: int,
    channels: tuple[str, ...],
) -> RunResults:
    """Figures with what inference recorded of the run, or the runs, that made the maps."""
    record = folder.record
    run = REPO_ROOT / record["run"] if "run" in record else None
    parts = [REPO_ROOT / part for part in record.get("runs", ())] if record.get("out_of_fold") else []
    origin = parts[0].parent if parts else run
    return RunResults(
        display_path(folder.maps) if origin is None else f"{origin.parent.name}/{origin.name}",
        summary,
        totals,
        scorer,
        run=run,
        parts=parts,
        in_channels=in_channels,
        channels=channels,
        unlike=record.get("unlike") or {},
    )


def make_scorer(
    record: dict[str, Any],
    maps: Sequence[Path],
    *,
    num_classes: int,
    ignore_index: int | None,
    threshold: float | None,
    instances: str | None,
) -> Scorer:
    """The scorer of maps by what is given, else by what inference recorded; a threshold given moves no outlines."""
    binary, recorded = num_classes == 1, record.get("instances") or {}
    meaning = whole_numbers(maps) if binary else WholeNumbers()
    by_default = NUMBERED if meaning.number_objects else recorded.get("method", "components")
    return Scorer(
        num_classes,
        ignore_index,
        resolve_threshold(threshold, record, num_classes),
        scale=meaning.scale,
        offset=float(record.get("mask_offset", 0.0)) if binary and threshold is None else 0.0,
        instances=instances or by_default,
        min_area=int(recorded.get("min_area", 1)),
    )


def labelled_samples(folder: MapFolder, given: str | None, data_root: str | None) -> tuple[list[Sample], Path]:
    """The samples with labels of the list given, else of the one that inference recorded."""
    name = given or folder.record.get("list")
    if name is None:
        reason = "has no predictions.json" if not folder.record else "was made with --input"
        raise UserError(
            f"{display_path(folder.folder)} {reason}: give the list with the labels by --test_data_dir LIST"
        )
    list_path = find_list(name, folder.record.get("dataset", ""))
    samples = read_list(list_path, data_root or folder.record.get("data_root"), labels="optional")
    labelled = [sample for sample in samples if sample.label is not None]
    if not labelled:
        raise UserError(f"{display_path(list_path)} has no labels: give a list that does by --test_data_dir LIST")
    if len(labelled) < len(samples):
        print(f"images without a label, left out: {len(samples) - len(labelled)} of {len(samples)}")
    return labelled, list_path


def resolve_threshold(given: float | None, record: dict[str, Any], num_classes: int) -> float:
    """The threshold given, else the one that inference recorded, else one half, which is said."""
    if given is not None:
        return given
    if record.get("threshold") is not None:
        return float(record["threshold"])
    if num_classes == 1:
        print(f"no threshold is recorded and none is given: {DEFAULT_THRESHOLD} is used")
    return DEFAULT_THRESHOLD


def tell_unmatched(matches: Matches) -> None:
    """Name what has no partner."""
    for paths, what in (
        (matches.images_without_map, "labelled images without a map, left out"),
        (matches.maps_without_image, "maps without a labelled image, left out"),
    ):
        if paths:
            print(f"{what} ({len(paths)}): {_named(paths)}")


def tell_trained(matches: Matches, record: dict[str, Any]) -> None:
    """Warn of images that the network was trained on with these very labels, where that is known."""
    trained = trained_pairs(record) or set()
    seen = [sample for sample, _ in matches.pairs if (sample.image, sample.label) in trained]
    if seen:
        several = f"{len(seen)} of {counted(matches.pairs, 'image')} {'was' if len(seen) == 1 else 'were'}"
        print(f"warning: {several} trained on with these very labels: figures of such images say little of others")


def _named(paths: Sequence[Path]) -> str:
    return shortened([display_path(path) for path in paths], NAMED_FILES)


def tell_low_maps(histogram: np.ndarray, scorer: Scorer, of_other_programs: bool) -> None:
    """Say that no map reaches the threshold, as percentages do where they pass for shares of a type's range."""
    if scorer.num_classes > 1:
        return
    occupied = np.flatnonzero(histogram.sum(0))
    highest = (occupied[-1] + 1) / histogram.shape[1]
    if highest <= scorer.threshold:
        why = "every mask is empty"
        if of_other_programs:
            why = "whole numbers are taken as shares of their type's range (255, 65535); save others as real numbers "
            why += "from 0 to 1"
        print(f"no map reaches the threshold {scorer.threshold:.4f}, their highest score is about {highest:.4f}: {why}")


def write_per_image(path: Path, results: Sequence[ImageResult], unlike: dict[str, float] | None = None) -> None:
    """A line per image: image, label, map, every figure (empty where undefined) and the confusion counts.

    Args:
        unlike: how unlike the network's own images each is, where inference knew.
    """
    counted = ("tp", "fp", "fn", "tn") if results[0].counts is not None else ()
    rows = []
    for result in results:
        names = [display_path(file) for file in (result.sample.image, result.sample.require_label(), result.map_path)]
        row = [*names, *result.metrics.values(), *(getattr(result.counts, name) for name in counted)]
        row += result.details.values()
        rows.append(row if unlike is None else [*row, unlike.get(names[0], math.nan)])
    last = [*results[0].details, *([] if unlike is None else ["unlike"])]
    write_csv(path, ["image", "label", "map", *results[0].metrics, *counted, *last], rows)


def print_table(summary: dict[str, Any]) -> None:
    """The figures for people."""
    at = "" if summary["threshold"] is None else f", threshold {summary['threshold']:.4f}"
    at += f", mask offset {summary['mask_offset']:+g} px" if summary.get("mask_offset") else ""
    images = counted(summary["n_images"], "image")
    print(f"\n{images} of {summary['list']}{at}; maps: {summary['maps']}")
    oracle = summary["oracle"]
    print(
        f"{'':{TITLE_WIDTH}}{'pooled':>8}   {'mean of images [95 % interval]':32}{'undefined':>9}"
        + (f"{'*oracle*':>11}" if oracle else "")
    )
    pooled = {**summary.get("objects", {}), **summary["pooled"]}
    for name, mean in summary["per_image_mean"].items():
        interval = f"[{show(mean['low'])}, {show(mean['high'])}]"
        undefined = f"{mean['undefined']}" if mean["undefined"] else ""
        title = title_of(name, summary["num_classes"])
        line = f"{title:{TITLE_WIDTH}}{show(pooled.get(name)):>8}   {show(mean['mean']):8}{interval:24}"
        print(f"{line}{undefined:>9}" + (f"{show(oracle.get(name)):>11}" if oracle else ""))
    if summary["n_units"] == 1 < summary["n_images"]:
        print("intervals are of parts of one field of view, and tell nothing of others")
    elif summary["n_units"] < summary["n_images"]:
        print(f"intervals count parts of one field of view or stack together: {summary['n_units']} of these")
    for row in summary.get("classes", ()):
        figures = "  ".join(f"{TITLES[name]} {show(row[name])}" for name in CLASS_FIGURES)
        print(f"class {row['class']:<3} {figures}  ({row['pixels']} pixels)")
    for line in describe_objects(summary):
        print(line)
    if "calibration_error_before" in summary:
        before, after = summary["calibration_error_before"], summary["calibration_error"]
        print(f"calibration error before/after: {before:.4f} / {after:.4f} (Platt scaling, fitted on validation)")
    if summary["n_both_empty"]:
        print(f"images with neither foreground nor a prediction of it (IoU = F1 = 1): {summary['n_both_empty']}")
    if oracle:
        plain = ", of scores without the mask offset" if summary.get("mask_offset") else ""
        print(f"*oracle*: at threshold {summary['oracle_threshold']:.4f}, the best on these very labels{plain}")


def describe_objects(summary: dict[str, Any]) -> list[str]:
    """How many objects there are and how they were told apart, and how long networks are."""
    if "objects" not in summary:
        return []
    found = summary["objects"]
    told = "components"
    if found["label"] == "numbered":
        of_masks = "as their maps number them" if found["mask"] == NUMBERED else f"by {found['mask']}"
        told = f"numbered by the labels; of masks {of_masks}"
    lines = [f"objects ({told}): {found['labelled']} in labels, {found['predicted']} in masks"]
    if networks := summary.get("networks"):
        lengths = [show(networks[name]) for name in ("skeleton_px_label", "skeleton_px")]
        lines.append(f"skeletons: {lengths[0]} px in labels, {lengths[1]} px in masks")
    return lines
