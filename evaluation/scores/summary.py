"""The content of metrics.json: pooled over pixels and objects, at the oracle's threshold, and as means over images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation import scores as s
from evaluation.objects.matching import THRESHOLDS, class_metrics
from evaluation.scores.bootstrap import bootstrap_mean, unit_values
from evaluation.scores.images import CURVE_METRICS, Scorer, Totals, class_means, mean_object_metrics
from evaluation.scores.validation import unit_names

OBJECT_METRICS = ("object_f1", "object_f1_mean")
OPTIONAL = ("hd95_um",)  # told only where at least one image defines it
OVERLAPS = ("iou", "f1")


def summarize(totals: Totals, scorer: Scorer) -> dict[str, Any]:
    """The content of metrics.json: pooled over pixels, at the oracle's threshold, and as means over images."""
    results = totals.results
    names = [result.sample.image_id for result in results]
    units = unit_names(names)
    apart = names if len(set(units)) == 1 else units  # no other is known, by which to tell how much they differ
    shared = {
        "n_images": len(results),
        "n_units": len(set(units)),
        "n_both_empty": sum(result.both_empty for result in results),
        "num_classes": scorer.num_classes,
    }
    undefined = (*OVERLAPS, *OBJECT_METRICS) if scorer.num_classes == 1 and is_one_sided(totals.sum) else ()
    means = {
        name: _mean_record(
            [math.nan if name in undefined else result.metrics[name] for result in results],
            [result.largest.get(name, 1.0) for result in results],
            apart,
        )
        for name in results[0].metrics
    }
    means = {name: mean for name, mean in means.items() if name not in OPTIONAL or mean["undefined"] < len(results)}
    if scorer.num_classes == 1:
        binary = {**_summarize_binary(totals, scorer.threshold, scorer.offset), **summarize_objects(totals, scorer)}
        return {**binary, **shared, "per_image_mean": means}
    return {**_summarize_classes(totals, scorer), **shared, "per_image_mean": means}


def is_one_sided(histogram: np.ndarray) -> bool:
    """Whether labels are all background or all foreground: an overlap with them means nothing, be it 1."""
    return not histogram.sum(1).all()


def summarize_objects(totals: Totals, scorer: Scorer) -> dict[str, Any]:
    """What metrics.json says of all objects and networks together."""
    numbered = any(result.sample.reading is not None and result.sample.reading.objects for result in totals.results)
    lengths = [sum(result.details[name] for result in totals.results) for name in ("skeleton_px", "skeleton_px_label")]
    return {
        "objects": {
            "label": "numbered" if numbered else "components",
            "mask": scorer.instances if numbered else "components",
            "min_area": scorer.min_area,
            **(dict.fromkeys(OBJECT_METRICS, math.nan) if is_one_sided(totals.sum) else totals.objects.metrics()),
            "labelled": totals.objects.labelled,
            "predicted": totals.objects.predicted,
            "f1_by_iou": {f"{iou:.2f}": f1 for iou, f1 in zip(THRESHOLDS, totals.objects.f1, strict=True)},
        },
        "networks": {"skeleton_px": lengths[0], "skeleton_px_label": lengths[1]},
    }


def _mean_record(values: Sequence[float], largest: Sequence[float], units: Sequence[str]) -> dict[str, Any]:
    undefined = np.isnan(values)
    limit = float(np.mean(np.array(largest)[~undefined])) if not undefined.all() else math.inf
    mean, low, high = bootstrap_mean(unit_values(np.array(values), units), limits=(0.0, limit))
    return {"mean": mean, "low": low, "high": high, "undefined": int(undefined.sum())}


def _summarize_binary(totals: Totals, threshold: float, offset: float) -> dict[str, Any]:
    histogram = totals.sum
    oracle, _ = s.best_threshold(histogram)
    curves = {name: metric(histogram) for name, metric in CURVE_METRICS.items()}

    def metrics(counts: s.Counts) -> dict[str, float]:
        found = {**{name: metric(counts) for name, metric in s.COUNT_METRICS.items()}, **curves}
        return {**found, **dict.fromkeys(OVERLAPS, math.nan)} if is_one_sided(histogram) else found

    return {
        "threshold": threshold,
        "mask_offset": offset,
        "oracle_threshold": oracle,
        "pooled": metrics(sum((result.counts for result in totals.results if result.counts), s.Counts(0, 0, 0, 0))),
        "oracle": metrics(s.counts_at(histogram, oracle)),
        "calibration_error": s.calibration_error(histogram),
    }


def _summarize_classes(totals: Totals, scorer: Scorer) -> dict[str, Any]:
    matrix = totals.sum
    counts, objects = s.class_counts(matrix), class_metrics(totals.class_objects)
    per_class = {"iou": s.class_iou(matrix), "f1": s.class_f1(matrix)}
    per_class.update({name: metric(counts) for name, metric in s.COUNT_METRICS.items() if name not in per_class})
    return {
        "threshold": None,
        "oracle_threshold": None,
        "pooled": {**class_means(matrix), "auc": None, "average_precision": None},
        "oracle": None,
        "classes": [
            {
                "class": index,
                "pixels": int(matrix[index].sum()),
                **{name: row[index] for name, row in per_class.items()},
                **objects[index],
            }
            for index in range(len(matrix))
        ],
        "confusion": matrix,
        "objects": {
            "label": "components",
            "mask": "components",
            "min_area": scorer.min_area,
            **mean_object_metrics(totals.class_objects),
            "labelled": totals.objects.labelled,
            "predicted": totals.objects.predicted,
        },
    }
