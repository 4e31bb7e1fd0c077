"""What a report says first, in plain sentences: what the labels teach, what the network reaches, what to look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.pages.charts import METHODS
from evaluation.pages.results import RunResults
from evaluation.scores.images import ImageResult, show

TEACHES = {
    "learnable": "The labels teach the structure",
    "inverted": "The labels teach the inverse of the structure",
    "not learnable": "The labels teach nothing",
    "unknown": "What the labels teach could not be told beforehand",
}
CLOSE = 0.02  # of IoU, below which neither of two is called better


def labels_teach(results: RunResults) -> str:
    """What the audits say of the training labels, as a sentence without its end; of a cross-fit's parts together."""
    if not results.audits:
        return "What the labels teach was not audited"
    told = Counter(teaching(str(audit["verdict"])) for audit in results.audits.values()).most_common()
    (teaches, agreed), parts = told[0], len(results.parts)
    if parts and agreed == parts:
        teaches += f", by the audits of {parts} parts"
    elif parts:
        each = ", ".join(f"in {count} of {parts} parts {said[0].lower()}{said[1:]}" for said, count in told)
        teaches = each[0].upper() + each[1:]
    foretold = results.foretold
    if "predicted_iou" not in foretold:
        return teaches
    low, high = foretold.get("predicted_iou_low"), foretold.get("predicted_iou_high")
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    truth = " with the truth" if parts else ""
    return f"{teaches}: an IoU of {foretold['predicted_iou']:.2f}{interval}{truth} was to be expected"


def teaching(verdict: str) -> str:
    """What labels of that verdict teach."""
    kind = next((name for name in TEACHES if verdict.startswith(name)), None)
    return f"The labels teach the structure with an error of their own ({verdict})" if kind is None else TEACHES[kind]


def network_reaches(results: RunResults) -> str:
    """What the network reaches on how many images.

    A cross-fit is held against the labels that it learns from, so that nothing foretold of the truth is compared.
    """
    mean = results.summary["per_image_mean"]["iou"]
    kind = "an IoU" if results.binary else "a mean IoU"
    images = results.summary["n_images"]
    reached = results.summary["pooled"]["iou"]
    if reached is None or math.isnan(reached):
        return f"of the network no IoU can be told on {images} images: there is nothing to find in the labels"
    interval = f"95 % interval {show(mean['low'], 3)} to {show(mean['high'], 3)}"
    where = f"on {images} images (their mean: {show(mean['mean'], 3)}, {interval})"
    if results.parts:
        return f"against these very labels the network reaches {kind} of {show(reached, 3)} {where}"
    return f"the network reaches {kind} of {show(reached, 3)} {where}{than_expected(reached, results.foretold)}"


def than_expected(reached: float, foretold: Mapping[str, float]) -> str:
    """Whether that is outside what the audits foretold; empty where it is inside, or nothing was foretold."""
    low, high = (foretold.get(f"predicted_iou_{bound}") for bound in ("low", "high"))
    if low is not None and reached < low:
        return ", less than that"
    return ", more than that" if high is not None and reached > high else ""


def classic_reaches(results: RunResults) -> str | None:
    """What the best classic method reaches beside the network; None where none was tried."""
    classic = results.summary.get("classic")
    if not classic:
        return None
    best = max(classic["iou"], key=classic["iou"].__getitem__)
    reached, own = classic["iou"][best], classic["network_iou"]
    same = classic["images"] == results.summary["n_images"]
    where = "" if same else f" on {classic['images']} of them, where the network has {show(own, 3)}"
    said = f"the best quick classic method, {METHODS.get(best, best)}, reaches {show(reached, 3)}{where}"
    if reached > own + CLOSE:
        return f"{said}: it wins without any training"
    return f"{said}: hardly a difference" if reached > own - CLOSE else said


def first_sentence(runs: Sequence[RunResults]) -> str:
    """The sentence that a report begins with."""
    if len(runs) == 1:
        parts = [labels_teach(runs[0]), network_reaches(runs[0]), classic_reaches(runs[0])]
        return "; ".join(part for part in parts if part) + "."
    reached = {run.name: run.summary["pooled"]["iou"] for run in runs}
    known = {name: value for name, value in reached.items() if value is not None and not math.isnan(value)}
    if not known:
        return f"Of {len(runs)} runs no IoU can be told: there is nothing to find in the labels."
    (best, highest), *others = sorted(known.items(), key=lambda item: -item[1])
    told = "".join(f", {name} {show(value, 3)}" for name, value in others)
    what = "IoU" if runs[0].binary else "mean IoU"
    return f"Of {len(runs)} runs {best} reaches the highest {what}, {show(highest, 3)}{told}."


def what_is_wrong(result: ImageResult) -> str:
    """Why an image is worth a look, in a few words."""
    counts = result.counts
    if counts is None:
        return f"mean IoU {show(result.metrics['iou'], 3)}"
    said = f"IoU {show(result.metrics['iou'], 3)}"
    if counts.fp + counts.fn == 0:
        return f"{said}: nothing is wrong"
    if counts.fn > counts.fp:
        return f"{said}: misses {percent(counts.fn, counts.tp + counts.fn)} of the foreground"
    return f"{said}: {percent(counts.fp, counts.tp + counts.fp)} of what it finds is not in the label"


def percent(part: float, whole: float) -> str:
    """A share in per cent; of nothing a dash.

    >>> percent(1, 8), percent(1, 0)
    ('12 %', '–')
    """
    return f"{round(100 * part / whole)} %" if whole else "–"


def bias_text(bias: dict[str, Any]) -> str:
    """A bias of audit.json in words: ``wider by 2.0 px``."""
    size, unit = bias.get("size"), bias.get("unit", "px")
    what = str(bias.get("what") or bias.get("kind"))
    if size is None:
        return what
    return f"{what} by {size:.1f} px" if unit == "px" else f"{what} ({unit} {size:.2f})"


def elide(name: str, most: int = 30) -> str:
    """A name with its middle left out where it is long.

    >>> elide("7.png"), elide("0123456789abcdefghij.png", most=13)
    ('7.png', '012345…ij.png')
    """
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"
