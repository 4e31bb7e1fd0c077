"""Tables of ``benchmarks/label_free/methods.py``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.grid import Record, Tables, markdown

NAMES = {
    "ours": "**ours** (`--igtt`)",
    "published": "iGTT as published",
    "no_ems": "iGTT without EMS",
    "dfc": "DFC",
    "vote": "vote (ours, untrained)",
}
TRAINED = ("supervised", "ours", "published", "no_ems", "dfc")
FIRST_LABELS = "vote"  # what ours starts from, so no rival of it
METRICS = {"dice": "Dice", "oracle_dice": "*oracle* Dice", "iou": "IoU", "oracle_iou": "*oracle* IoU", "auc": "AUC"}
GOALS = ("set", "ours", "supervised", "ratio", "best classic", "ours, untrained", "published", "without EMS")


def values_of(records: Sequence[Record], method: str, dataset: str, metric: str) -> list[float]:
    """A metric of a method on a data set, seed by seed."""
    cells = [(record["cell"]["method"], record["cell"]["dataset"]) for record in records]
    return [record[metric] for record, cell in zip(records, cells, strict=True) if cell == (method, dataset)]


def best_classic(records: Sequence[Record], dataset: str) -> tuple[str, float]:
    """The classic method with the best Dice on the test labels of a data set, and that Dice; the vote is not one."""
    rivals = {record["cell"]["method"] for record in records} - {*TRAINED, FIRST_LABELS}
    found = [(values[0], name) for name in rivals if (values := values_of(records, name, dataset, "dice"))]
    value, name = max(found, default=(float("nan"), "–"))
    return name.replace("_", " "), value


def tables(records: list[Record]) -> Tables:
    """Ours beside what it is to reach, every metric of every method, and the long trainings."""
    short = [record for record in records if record["cell"]["epochs"] == 5]
    long = [record for record in records if record["cell"]["epochs"] == 100]
    methods = list(dict.fromkeys(record["cell"]["method"] for record in short))
    methods = [name for name in TRAINED if name in methods] + [name for name in methods if name not in TRAINED]
    datasets = list(dict.fromkeys(record["cell"]["dataset"] for record in short))
    made = {"label_free goals": goals(short, datasets)}
    for metric in METRICS:
        rows = [method_row(short, method, datasets, metric) for method in methods]
        made[f"label_free {metric}"] = markdown(["", *(f"`{name}`" for name in datasets)], rows)
    return {**made, "label_free 100_epochs": long_trainings(long, short)} if long else made


def method_row(records: Sequence[Record], method: str, datasets: Sequence[str], metric: str) -> list[str]:
    """A metric of a method on every data set: ``0.912 ± 0.004``, or one value where there is one seed."""
    row = [NAMES.get(method, method.replace("_", " "))]
    for dataset in datasets:
        values = values_of(records, method, dataset, metric)
        mean = f"{np.mean(values):.3f}" if values else "missing"
        row.append(f"{mean} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else mean)
    return row


def goals(records: Sequence[Record], datasets: Sequence[str]) -> str:
    """Ours beside what it is to reach, set by set; means over the seeds."""
    rows = []
    for dataset in datasets:
        names = ("ours", "supervised", FIRST_LABELS, "published", "no_ems")
        found = {name: values_of(records, name, dataset, "dice") for name in names}
        mean = {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}
        classic, best = best_classic(records, dataset)
        ours, supervised, *others = (f"{value:.3f}" for value in mean.values())
        ratio = f"{mean['ours'] / mean['supervised']:.1%}"
        rows.append([f"`{dataset}`", ours, supervised, ratio, f"{best:.3f} ({classic})", *others])
    return markdown(GOALS, rows)


def long_trainings(records: Sequence[Record], short: Sequence[Record]) -> str:
    """Dice of trainings of 100 epochs, in brackets at the best threshold, beside the best classic method."""
    methods = {"supervised": "supervised", "ours": "ours", "no_ems": "without EMS", "published": "published"}
    rows = []
    for dataset in dict.fromkeys(record["cell"]["dataset"] for record in records):
        pairs = [[values_of(records, name, dataset, metric) for metric in ("dice", "oracle_dice")] for name in methods]
        said = [f"{dice[0]:.3f} ({oracle[0]:.3f})" if dice else "missing" for dice, oracle in pairs]
        rows.append([f"`{dataset}`", *said, f"{best_classic(short, dataset)[1]:.3f}"])
    return markdown(["", *methods.values(), "best classic"], rows)
