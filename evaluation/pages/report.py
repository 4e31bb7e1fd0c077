"""The report: one HTML file that needs nothing beside it, of a run or of several side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from datasets.image_io import write_image
from evaluation.pages.charts import draw_charts
from evaluation.pages.pictures import LEVELS, drawing_colors, embed_all
from evaluation.pages.results import RunResults
from evaluation.pages.sentences import bias_text, elide, first_sentence, what_is_wrong
from evaluation.pages.template import embed_json, page_template
from evaluation.scores import BINS, counts_at_all
from evaluation.scores.images import TITLES, ImageResult, show, title_of
from utils.files import atomic_write, plain
from utils.overlays import FOUND, IGNORED, INVENTED, MISSED, panels
from utils.plots import to_svg
from utils.run_folder import display_path

EXAMPLES_EACH = 2
RANKS = ("best", "median", "worst")
FIRST = 5  # images to look at first
CARDS = ("iou", "f1", "auc", "accuracy")
CLASS_METRICS = ("iou", "f1", "precision", "sensitivity", "specificity", "object_f1", "object_f1_mean")
SHOWN_METRICS = ("iou", "f1", "precision", "sensitivity")  # of an image, in the table of a single run
SETTINGS = ("dataset", "network", "loss", "label_noise", "train_list", "epochs", "batch_size", "optimizer", "lr")
SETTINGS += ("seed",)


def choose_examples(results: Sequence[ImageResult], each: int = EXAMPLES_EACH) -> list[tuple[str, ImageResult]]:
    """The best, median and worst images by IoU, ``each`` of them, no image twice: [("best 1", …), …]."""
    order = sorted(
        (result for result in results if not math.isnan(result.metrics["iou"])),
        key=lambda result: -result.metrics["iou"],
    )
    middle = max(0, (len(order) - each) // 2)
    places = dict(
        zip(RANKS, (range(each), range(middle, middle + each), range(len(order) - each, len(order))), strict=True)
    )
    chosen: dict[int, str] = {}
    for name, numbers in places.items():
        for count, place in enumerate((place for place in numbers if 0 <= place < len(order)), start=1):
            chosen.setdefault(place, f"{name} {count}")
    return [(name, order[place]) for place, name in chosen.items()]


def write_examples(folder: Path, results: RunResults) -> None:
    """Draw the panels image | label | score | error of the chosen images and write them as PNG into ``folder``."""
    scorer = results.scorer
    for rank, result in choose_examples(results.totals.results):
        image, label, values = results.image(result.sample), results.label(result.sample), results.map(result)
        moved = scorer.mask(values) if scorer.offset else None
        picture = panels(image, label, values, scorer.threshold, scorer.num_classes, mask=moved)
        write_image(folder / f"{rank.replace(' ', '_')}_{result.map_path.stem}.png", picture)


def write_report(path: Path, runs: Sequence[RunResults]) -> None:
    """Write the report of a run, or of several on the same images."""
    images = align_images(runs)
    first, typical = worth_a_look(images)
    folder, names = short_names([name_of(image) for image in images])
    titles = {name: title_of(name, run.scorer.num_classes) for run in runs for name in run.summary["per_image_mean"]}
    page = page_template("report.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side",
        runs=runs,
        bias_text=bias_text,
        elide=elide,
        pooled=lambda summary: {**summary.get("objects", {}), **summary["pooled"]},
        sentence=first_sentence(runs),
        folder=folder,
        first=[(place, names[place], why(images[place])) for place in first],
        typical=None if typical is None else (typical, names[typical], why(images[typical])),
        cards=[(title_of(name, runs[0].scorer.num_classes), runs[0].summary["pooled"].get(name)) for name in CARDS],
        titles=titles,
        class_metrics={name: TITLES[name] for name in CLASS_METRICS},
        charts=[(caption, Markup(to_svg(figure, caption))) for caption, figure in draw_charts(runs)],
        columns=table_columns(runs),
        rows=[(place, names[place], row_values(image)) for place, image in enumerate(images)],
        settings=[
            (run.name, {name: run.config[name] for name in SETTINGS if run.config.get(name) is not None})
            for run in runs
            if run.config
        ],
        colors={"found": FOUND, "missed": MISSED, "invented": INVENTED, "not counted": IGNORED},
        data=embed_json(page_data(runs, images, first if typical is None else [*first, typical])),
    )
    with atomic_write(path) as file:
        file.write(page.encode(errors="replace"))


Aligned = Sequence[tuple[RunResults, ImageResult] | None]


def align_images(runs: Sequence[RunResults]) -> list[Aligned]:
    """Of each image, in the order of the runs' lists, of each run its result; None where it has none."""
    found = [{result.sample.image: (run, result) for result in run.totals.results} for run in runs]
    return [
        [results.get(image) for results in found] for image in dict.fromkeys(image for each in found for image in each)
    ]


def name_of(image: Aligned) -> str:
    """What to call an image."""
    return next(each[1].sample.image_id for each in image if each is not None)


def short_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """The folder that all names begin with, and the names without it.

    >>> short_names(["a/b/1.png", "a/b/c/2.png"])
    ('a/b', ['1.png', 'c/2.png'])
    """
    folder = os.path.commonpath([os.path.dirname(name) for name in names])
    return folder, [os.path.relpath(name, folder) if folder else name for name in names]


def mean_iou_of(image: Aligned) -> float:
    """The mean IoU that the runs reach on an image; NaN where it is undefined."""
    values = [each[1].metrics["iou"] for each in image if each is not None]
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def worth_a_look(images: Sequence[Aligned]) -> tuple[list[int], int | None]:
    """The places of the FIRST images with the lowest IoU, and of the median image if it is another."""
    known = [(mean_iou_of(image), place) for place, image in enumerate(images)]
    order = [place for _, place in sorted(pair for pair in known if not math.isnan(pair[0]))]
    middle = len(order) // 2
    return order[:FIRST], order[middle] if middle >= FIRST else None


def why(image: Aligned) -> str:
    """Why an image is among the first to look at."""
    present = [each for each in image if each is not None]
    if len(present) == 1:
        return what_is_wrong(present[0][1])
    what = "IoU " if present[0][0].binary else "mean IoU "
    return what + ", ".join(f"{run.name} {show(result.metrics['iou'], 3)}" for run, result in present)


def table_columns(runs: Sequence[RunResults]) -> list[str]:
    """The headings of `row_values`."""
    if len(runs) > 1:
        return [run.name for run in runs]
    return [TITLES[name] for name in SHOWN_METRICS] + (["unlike"] if runs[0].unlike else [])


def row_values(image: Aligned) -> list[float | None]:
    """The numbers of an image in the table: of a single run its metrics and unlikeness, of several their IoU."""
    if len(image) == 1 and image[0] is not None:
        run, result = image[0]
        unlike = [run.unlike.get(display_path(result.sample.image))] if run.unlike else []
        return [plain(result.metrics[name]) for name in SHOWN_METRICS] + unlike
    return [None if each is None else plain(each[1].metrics["iou"]) for each in image]


def page_data(runs: Sequence[RunResults], images: Sequence[Aligned], first: Sequence[int]) -> dict[str, Any]:
    """What the script of the page works with: colours, the counts of every threshold, and the pictures."""
    return {
        **drawing_colors(max(run.scorer.num_classes for run in runs)),
        "runs": [
            {
                "name": run.name,
                "classes": run.scorer.num_classes,
                "threshold": run.scorer.threshold,
                "offset": run.scorer.offset,
                "counts": threshold_counts(run.totals.sum) if run.binary else None,
            }
            for run in runs
        ],
        "images": embed_all(images, first),
    }


def threshold_counts(histogram: np.ndarray) -> dict[str, list[int]]:
    """Pooled counts ``tp``, ``fp`` and ``fn`` at the thresholds k / LEVELS of a score histogram (2, BINS)."""
    places = np.ceil(np.arange(LEVELS + 1) / LEVELS * BINS).astype(int)
    counts = counts_at_all(histogram)
    return {
        name: np.append(getattr(counts, name), at_end)[places].tolist()
        for name, at_end in (("tp", 0), ("fp", 0), ("fn", histogram[1].sum()))
    }
