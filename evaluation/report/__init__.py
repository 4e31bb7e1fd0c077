"""The report of a prediction: one HTML file that needs nothing beside it, with table, curves and examples."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.image_io import read_image, read_label, write_image
from evaluation.report import charts
from evaluation.scores.images import TITLES, ImageResult, Scorer, Totals, read_map, show, title_of
from utils.files import atomic_write, read_json, read_jsonl
from utils.overlays import panels

EXAMPLES_EACH = 2
RANKS = ("best", "median", "worst")
CARDS = ("iou", "f1", "auc", "accuracy")
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

STYLE = """
:root { --ink: #1c2733; --soft: #5b6b7b; --line: #dfe5ea; --paper: #ffffff; --wash: #f5f7f9; --accent: #0b6fa4; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 36px 0 12px; }
p { margin: 6px 0; color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 12px 18px; }
.card { min-width: 150px; }
.card b { display: block; font-size: 26px; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
.verdict { background: var(--paper); border-left: 4px solid var(--accent); padding: 10px 16px; color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--paper); border: 1px solid var(--line); width: 100%; }
th, td { padding: 6px 14px; text-align: right; border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--soft); font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 12px; }
figure { margin: 0; background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 13px; padding-top: 6px; overflow-wrap: anywhere; }
.examples figure { margin-bottom: 12px; }
.examples img { image-rendering: pixelated; }
.key { display: inline-block; width: 11px; height: 11px; border: 1px solid #99a; margin: 0 4px 0 10px; }
footer { margin-top: 40px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
"""
KEYS = (("#ffffff", "found"), ("#0072ff", "missed"), ("#ff7800", "invented or wrong class"), ("#6e6e6e", "not counted"))


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


def write_examples(folder: Path, results: Sequence[ImageResult], scorer: Scorer, in_channels: int = 1) -> list[Example]:
    """Draw the panels image | label | score | error of the chosen images and write them as PNG.

    Args:
        folder: where they go; examples of an earlier report are removed from it.
    """
    for name in RANKS if folder.is_dir() else ():
        for old in folder.glob(f"{name}_[0-9]_*.png"):
            old.unlink()
    examples = []
    for rank, result in choose_examples(results):
        image = read_image(result.sample.image, in_channels)
        label = read_label(result.sample.label, scorer.num_classes, scorer.ignore_index)
        values = read_map(result.map_path, scorer.num_classes, scorer.scale)
        picture = panels(image, label, values, scorer.threshold, scorer.num_classes)
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
    parts = [
        _head(summary, run),
        _cards(summary),
        _verdict(run),
        "<h2>Figures</h2>",
        _table(summary),
        _class_table(summary),
        "<h2>Curves</h2>",
        _charts(summary, totals, run),
        "<h2>Best, median and worst images</h2>",
        _examples(examples, summary),
        _footer(summary, run),
    ]
    title = escape(_title(summary, run))
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n{chr(10).join(part for part in parts if part)}\n</main>\n</body>\n</html>\n"
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def _title(summary: dict[str, Any], run: Path | None) -> str:
    return f"{run.parent.name}/{run.name}" if run is not None else summary["maps"]


def _head(summary: dict[str, Any], run: Path | None) -> str:
    threshold = "" if summary["threshold"] is None else f" · threshold {summary['threshold']:.4f}"
    return (
        f"<h1>{escape(_title(summary, run))}</h1>\n"
        f"<p>{summary['n_images']} images of {escape(summary['list'])} · maps {escape(summary['maps'])}{threshold}</p>"
    )


def _cards(summary: dict[str, Any]) -> str:
    cards = [
        (title_of(name, summary["num_classes"]), summary["pooled"][name])
        for name in CARDS
        if summary["pooled"][name] is not None
    ]
    inside = "\n".join(
        f'<div class="card"><b>{show(value)}</b><span>{name}, pooled</span></div>' for name, value in cards
    )
    return f'<div class="cards">\n{inside}\n</div>'


def _verdict(run: Path | None) -> str:
    if run is None or not (run / "audit.json").is_file():
        return ""
    audit = read_json(run / "audit.json")
    ceiling = audit.get("iou_ceiling")
    known = "" if ceiling is None else f" (IoU ceiling {ceiling:.2f})"
    verdict = escape(f"verdict: {audit.get('verdict')}{known}")
    return f'<p class="verdict">Audit of the training labels: <b>{verdict}</b></p>'


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def _table(summary: dict[str, Any]) -> str:
    oracle = summary["oracle"]
    rows = []
    for name, mean in summary["per_image_mean"].items():
        interval = f"{show(mean['low'])} – {show(mean['high'])}"
        row = [
            title_of(name, summary["num_classes"]),
            show(summary["pooled"].get(name)),
            show(mean["mean"]),
            interval,
            str(mean["undefined"] or ""),
        ]
        rows.append([*row, show(oracle.get(name))] if oracle else row)
    header = ["", "pooled", "mean of images", "95 % interval", "undefined"]
    notes = []
    if summary["n_both_empty"]:
        notes.append(
            f"Images with neither foreground nor a prediction of it (IoU = F1 = 1): {summary['n_both_empty']}."
        )
    if oracle:
        header.append("*oracle*")
        notes.append(f"*oracle*: at threshold {summary['oracle_threshold']:.4f}, the best on these very labels.")
        notes.append(f"Expected calibration error of the scores: {show(summary['calibration_error'])}.")
    return f"{_rows(header, rows)}\n<p>{' '.join(notes)}</p>"


def _class_table(summary: dict[str, Any]) -> str:
    names = ("iou", "f1", "precision", "sensitivity", "specificity")
    rows = [
        [str(row["class"]), *(show(row[name]) for name in names), f"{row['pixels']:,}"]
        for row in summary.get("classes", ())
    ]
    return "<br>" + _rows(["class", *(TITLES[name] for name in names), "pixels"], rows) if rows else ""


def _charts(summary: dict[str, Any], totals: Totals, run: Path | None) -> str:
    drawn = [("IoU of the images", charts.iou_distribution([result.metrics["iou"] for result in totals.results]))]
    if summary["num_classes"] > 1:
        drawn.append(("Confusion, as shares of the true class", charts.confusion(totals.sum)))
    else:
        thresholds = (summary["threshold"], summary["oracle_threshold"])
        if totals.sum.sum(1).all():
            drawn += [
                ("Receiver operating characteristic", charts.roc(totals.sum, *thresholds)),
                ("Precision and recall", charts.precision_recall(totals.sum, *thresholds)),
            ]
        drawn.append(("Scores of background and foreground pixels", charts.score_distribution(totals.sum, *thresholds)))
    records = read_jsonl(run / "metrics.jsonl") if run is not None else []
    drawn += [("Training", figure) for figure in charts.training(records)]
    figures = "\n".join(
        f'<figure><img alt="{title}" src="{_png(figure)}"><figcaption>{title}</figcaption></figure>'
        for title, figure in drawn
    )
    return f'<div class="grid">\n{figures}\n</div>'


def _examples(examples: Sequence[Example], summary: dict[str, Any]) -> str:
    prediction = "score" if summary["num_classes"] == 1 else "prediction"
    keys = "".join(f'<span class="key" style="background:{color}"></span>{name}' for color, name in KEYS)
    figures = "\n".join(
        f'<figure><img alt="{escape(rank)}" src="{_picture(picture)}"><figcaption>{escape(rank)}: '
        f"{escape(result.sample.image_id)} · IoU {show(result.metrics['iou'])}</figcaption></figure>"
        for rank, result, picture in examples
    )
    return f'<p>image | label | {prediction} | error:{keys}</p>\n<div class="examples">\n{figures}\n</div>'


def _footer(summary: dict[str, Any], run: Path | None) -> str:
    lines = []
    if run is not None and (run / "config.json").is_file():
        config = read_json(run / "config.json")
        lines.append(" · ".join(f"{name} {config[name]}" for name in SETTINGS if config.get(name) is not None))
    made = summary["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items() if version)
    lines += [" ".join(["python", *made["command"]]), f"commit {made['git_commit']} · {versions} · {made['time']}"]
    return "<footer>" + "<br>\n".join(escape(line) for line in lines) + "</footer>"


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _picture(picture: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
