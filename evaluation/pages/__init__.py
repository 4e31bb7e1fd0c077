"""The report of a prediction: one HTML file that needs nothing beside it, with table, curves and examples."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure
from PIL import Image

from datasets.image_io import read_image, read_label, write_image
from evaluation.label_audit.verdict import read_audit
from evaluation.pages import charts
from evaluation.scores.images import TITLES, ImageResult, Scorer, Totals, read_map, show, title_of
from utils.files import atomic_write, read_json, read_jsonl
from utils.overlays import panels
from utils.plots import to_png

EXAMPLES_EACH = 2
RANKS = ("best", "median", "worst")
CARDS = ("iou", "f1", "auc", "accuracy")
CLASS_METRICS = ("iou", "f1", "precision", "sensitivity", "specificity")
SETTINGS = (
    "dataset",
    "network",
    "loss",
    "label_noise",
    "train_list",
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "seed",
)
TEMPLATE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    Path(__file__).with_name("template.html").read_text(encoding="utf-8"), {"show": show}
)


class Example(NamedTuple):
    """An image shown in the report: why, its figures, and its panels, uint8 (h, w, 3)."""

    rank: str
    result: ImageResult
    picture: np.ndarray


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


def write_examples(
    folder: Path, results: Sequence[ImageResult], scorer: Scorer, in_channels: int = 1, channels: tuple[str, ...] = ()
) -> list[Example]:
    """Draw the panels image | label | score | error of the chosen images and write them as PNG into ``folder``."""
    examples = []
    for rank, result in choose_examples(results):
        image = read_image(result.sample.image, in_channels, channels)
        label = read_label(
            result.sample.require_label(), scorer.num_classes, scorer.ignore_index, result.sample.reading
        )
        values = read_map(result.map_path, scorer.num_classes, scorer.scale)
        moved = scorer.mask(values) if scorer.offset else None
        picture = panels(image, label, values, scorer.threshold, scorer.num_classes, mask=moved)
        write_image(folder / f"{rank.replace(' ', '_')}_{result.map_path.stem}.png", picture)
        examples.append(Example(rank, result, picture))
    return examples


def write_report(
    path: Path, summary: dict[str, Any], totals: Totals, examples: Sequence[Example], run: Path | None = None
) -> None:
    """Write the report.

    Args:
        path: the HTML file.
        summary: the content of metrics.json.
        totals: the figures of each image, and the score histogram (2, BINS) or confusion matrix (K, K) of all.
        run: the run folder, whose curves, settings and audit are shown where it has them.
    """
    page = TEMPLATE.render(
        title=f"{run.parent.name}/{run.name}" if run is not None else summary["maps"],
        summary=summary,
        cards=[(title_of(name, summary["num_classes"]), summary["pooled"][name]) for name in CARDS],
        audit=read_audit(run / "audit.json") if run is not None and (run / "audit.json").is_file() else None,
        titles={name: title_of(name, summary["num_classes"]) for name in summary["per_image_mean"]},
        class_metrics={name: TITLES[name] for name in CLASS_METRICS},
        charts=[(name, data_uri(to_png(figure))) for name, figure in draw_charts(summary, totals, run)],
        examples=[(example.rank, example.result, data_uri(encode_png(example.picture))) for example in examples],
        settings=run_settings(run),
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def draw_charts(summary: dict[str, Any], totals: Totals, run: Path | None) -> list[tuple[str, Figure]]:
    """The charts of a report with their captions."""
    counts = totals.sum
    assert counts is not None, "a report has at least one image"
    drawn = [("IoU of the images", charts.iou_distribution([result.metrics["iou"] for result in totals.results]))]
    if summary["num_classes"] > 1:
        drawn.append(("Confusion, as shares of the true class", charts.confusion(counts)))
    else:
        thresholds = (summary["threshold"], summary["oracle_threshold"])
        if counts.sum(1).all():
            drawn += [
                ("Receiver operating characteristic", charts.roc(counts, *thresholds)),
                ("Precision and recall", charts.precision_recall(counts, *thresholds)),
            ]
        drawn.append(("Scores of background and foreground pixels", charts.score_distribution(counts, *thresholds)))
    records = read_jsonl(run / "metrics.jsonl") if run is not None else []
    return drawn + [("Training", figure) for figure in charts.training(records)]


def run_settings(run: Path | None) -> dict[str, Any]:
    """The settings of a run that a reader wants to know; empty without a run."""
    if run is None or not (run / "config.json").is_file():
        return {}
    config = read_json(run / "config.json")
    return {name: config[name] for name in SETTINGS if config.get(name) is not None}


def encode_png(picture: np.ndarray) -> bytes:
    """A picture, uint8 (h, w, 3), as the content of a small PNG file."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG", optimize=True)
    return content.getvalue()


def data_uri(png: bytes) -> str:
    """A PNG file as the address of an image in the page itself."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
