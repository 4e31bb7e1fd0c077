"""Tables of the study: Markdown by the name of its place in the page, from the trials that are finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.grid import Cell, Record, Tables, key, markdown
from benchmarks.protocol.cells import METHODS, REAL, REAL_SETS, is_bare
from evaluation.scores.bootstrap import bootstrap_mean

Records = dict[str, list[Record]]  # by table
METRICS = {"iou": "IoU", "dice": "Dice", "auc": "AUC", "cldice": "clDice", "object_f1": "object F1"}
# Whose labels, and the real sets that have such.
SITUATIONS = {
    "outlines of cells drawn by a crowd or other experts": ("bubil_cells",),
    "thin vessels drawn by another observer": ("stare", "vessel"),
    "nuclei from a threshold, rough, incomplete or swapped": ("nuc",),
}
MIN_KINDS = 3  # of labels, for an interval
# The paper's sentences: what is trained on, the metric, what it is divided by, and when the sentence holds.
CLAIMS: tuple[tuple[str, str, str, str, Callable[[float], bool]], ...] = (
    (
        "a tenth of the foreground is enough: ≥ 97 % of clean IoU",
        "sample:0.1",
        "oracle_iou",
        "share",
        lambda v: v >= 0.97,
    ),
    ("45 % flipped labels are enough: ≥ 95 % of clean IoU", "flip:0.45", "oracle_iou", "share", lambda v: v >= 0.95),
    (
        "90 % flipped labels teach the inverse: AUC below 0.5 before inversion",
        "flip:0.9",
        "raw_auc",
        "",
        lambda v: v < 0.5,
    ),
    ("random labels teach nothing: AUC from 0.4 to 0.6", "random:0.5", "raw_auc", "", lambda v: 0.4 <= v <= 0.6),
)


def select(records: Iterable[Record], **cell: Any) -> list[Record]:
    """The records whose cell has these values."""
    return [record for record in records if all(record["cell"].get(name) == value for name, value in cell.items())]


def of_shortest(records: Sequence[Record]) -> list[Record]:
    """The trials of the fewest steps."""
    return select(records, steps=min((record["cell"]["steps"] for record in records), default=0))


def value(record: Record, metric: str) -> float:
    """A metric of a trial; ``raw_auc`` is that of the scores before they were inverted."""
    if metric == "raw_auc":
        return 1 - record["auc"] if record["inverted"] else record["auc"]
    return record.get(metric, np.nan)


def shown(values: Sequence[float], digits: int = 3) -> str:
    """``mean ± sd`` over seeds; the mean alone of one, a dash of none."""
    if not len(values):
        return "–"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def make_tables(records: Records) -> Tables:
    """All tables; those without a finished trial say so."""
    widths = widths_table(each_once({name: records[name] for name in ("real", "widths")}))
    records = of_usual_width(records)
    every = each_once(records)
    made = {
        "study methods": methods_by_kind(records["real"] + records["methods"]),
        "study ranking": ranking_table(records["real"]),
        "study sentence": advice_table(records["real"]),
        "study claims": claims_table(records["binary"] + records["random"]),
        "study noise": noise_table(records["binary"] + records["biased"] + records["random"] + records["networks"]),
        "study label-free": label_free_table(records["labelfree"]),
        "study features": features_table(records["features"]),
        "study classes": classes_table(records["multiclass"]),
        "study real": details_table(records["real"]),
        "study audit": audit_table(every),
        "study widths": widths,
    }
    return {name: table or "Not enough trials are finished yet." for name, table in made.items()}


def each_once(records: Records) -> list[Record]:
    """The trials of all tables; of those that differ in what was looked at alone, as curves and features, the first."""
    found: dict[str, Record] = {}
    for record in (record for table in records.values() for record in table):
        trained = {name: given for name, given in record["cell"].items() if name not in ("curve", "features")}
        found.setdefault(key(trained), record)
    return list(found.values())


def of_usual_width(records: Records) -> Records:
    """The trials with networks of the width that most of a table have; others stand in a table of their own."""
    chosen = {}
    for table, found in records.items():
        widths = Counter(record["cell"]["width"] for record in found)
        chosen[table] = select(found, width=max(widths, key=lambda width: widths[width])) if widths else []
    return chosen


def widths_table(records: Sequence[Record]) -> str:
    """IoU at the best threshold of the trials that were made at more widths than one, a column each."""
    names = ("dataset", "labels", "method", "steps", "clean")
    groups = _group([record for record in records if record["cell"]["network"] == "unet"], names)
    widths = sorted({record["cell"]["width"] for record in records})
    rows = []
    for name, own in groups.items():
        found = [[value(record, "oracle_iou") for record in select(own, width=width)] for width in widths]
        if sum(map(bool, found)) > 1:
            rows.append([f"{name[0]} {name[1]}", name[2], str(name[3]), *map(shown, found)])
    return markdown(["labels", "method", "steps", *(f"width {width}" for width in widths)], rows) if rows else ""


def ordered(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names in the order of those known, others behind."""
    present, order = set(names), list(known)
    return [name for name in order if name in present] + sorted(present - set(order))


def kinds_of(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Data set and labels of trials, real kinds first; clean labels are none."""
    present = {(record["cell"]["dataset"], record["cell"]["labels"]) for record in records}
    simulated = sorted(present - set(REAL))
    return [kind for kind in (*REAL, *simulated) if kind in present and kind[1] != "clean"]


def methods_by_kind(records: Sequence[Record]) -> str:
    """IoU of every method on every kind of labels, by the shortest budget; the best in bold."""
    records = of_shortest(records)
    kinds = kinds_of(records)
    if not kinds:
        return ""
    methods = ordered((record["cell"]["method"] for record in records), METHODS)
    ious = {
        (kind, method): [value(r, "iou") for r in select(records, dataset=kind[0], labels=kind[1], method=method)]
        for kind in kinds
        for method in methods
    }
    rows = []
    for kind in kinds:
        own = select(records, dataset=kind[0], labels=kind[1])
        clean = [value(r, "iou") for r in select(records, dataset=kind[0], labels="clean", method="bce")]
        means = [np.mean(ious[kind, method]) if ious[kind, method] else -1 for method in methods]
        best = max(means) if sum(mean >= 0 for mean in means) > 1 else None  # nothing is best alone
        row = [
            f"**{shown(ious[kind, method])}**" if mean == best else shown(ious[kind, method])
            for method, mean in zip(methods, means, strict=True)
        ]
        rows.append([f"{kind[0]} {kind[1]}", f"{own[0]['label_iou']:.3f}", shown(clean), *row])
    return markdown(["labels", "their own IoU", "bce on clean", *methods], rows)


def advantages(records: Sequence[Record]) -> dict[str, dict[tuple[str, str], float]]:
    """IoU of each method less that of plain training, by the kind of labels, where both were tried."""
    records = of_shortest(records)
    found = {}
    for method in ordered((record["cell"]["method"] for record in records), METHODS):
        pairs = {}
        for kind in kinds_of(records):
            own, plain = (
                [value(r, "iou") for r in select(records, dataset=kind[0], labels=kind[1], method=each)]
                for each in (method, "bce")
            )
            if own and plain:
                pairs[kind] = float(np.mean(own) - np.mean(plain))
        if pairs:
            found[method] = pairs
    return found


def on_common_kinds(found: dict[str, dict[tuple[str, str], float]]) -> dict[str, dict[tuple[str, str], float]]:
    """The same on those kinds alone that all methods with an interval were tried on, so that none has easier ones."""
    tried = [set(pairs) for pairs in found.values() if len(pairs) >= MIN_KINDS]
    common = set.intersection(*tried) if tried else set()
    if len(common) < MIN_KINDS:
        return found
    return {method: {kind: each for kind, each in pairs.items() if kind in common} for method, pairs in found.items()}


def ranking(records: Sequence[Record]) -> list[tuple[str, float, float, float, int, float]]:
    """Method, mean advantage over plain training with its 95 % interval over kinds, kinds, worst; the best first."""
    rows = []
    for method, pairs in on_common_kinds(advantages(records)).items():
        if not pairs:
            continue
        differences, low, high = np.array(list(pairs.values())), np.nan, np.nan
        if len(differences) >= MIN_KINDS and method != "bce":
            low, high = bootstrap_mean(differences, limits=(-1.0, 1.0))[1:]
        rows.append((method, float(differences.mean()), low, high, len(differences), float(differences.min())))
    return sorted(rows, key=lambda row: -row[1])


def ranking_table(records: Sequence[Record]) -> str:
    """The ranking of methods on the real labels that all were tried on, and what each won on all of its own."""
    rows, every = [], advantages(records)
    for method, mean, low, high, kinds, worst in ranking(records):
        interval = f"{low:+.3f} to {high:+.3f}" if np.isfinite(low) else "–"
        own = list(every[method].values())
        rows.append(
            [method, f"{mean:+.3f}", interval, str(kinds), f"{worst:+.3f}", f"{np.mean(own):+.3f} ({len(own)})"]
        )
    header = ["method", "IoU over bce, mean", "95 % interval over kinds", "kinds", "worst", "on all its kinds"]
    return markdown(header, rows) if rows else ""


def advice_table(records: Sequence[Record]) -> str:
    """The method that won most over plain training for each kind of labels, and where ours stands."""
    rows = []
    for situation, names in SITUATIONS.items():
        rows_here = ranking([record for record in of_shortest(records) if record["cell"]["dataset"] in names])
        most = max((row[4] for row in rows_here), default=0)
        rows_here = [row for row in rows_here if row[4] == most]  # tried on all kinds
        if len(rows_here) < 2:
            continue
        place = [row[0] for row in rows_here].index("ours") + 1 if "ours" in [row[0] for row in rows_here] else None
        best = rows_here[0]
        rows.append(
            [situation, best[0], f"{best[1]:+.3f}", "–" if place is None else f"{place} of {len(rows_here)}", str(most)]
        )
    return markdown(["for", "best so far", "IoU over bce", "place of ours", "kinds"], rows) if rows else ""


def claims_table(records: Sequence[Record]) -> str:
    """The paper's sentences by number of steps: mean and range over sets and seeds, and whether they hold in all."""
    if not records:
        return ""
    rows, budgets = [], sorted({record["cell"]["steps"] for record in records})
    for sentence, labels, metric, relative, holds in CLAIMS:
        row = [sentence]
        for steps in budgets:
            found = []
            for record in select(records, labels=labels, steps=steps, method="bce"):
                cell = record["cell"]
                same = {"dataset": cell["dataset"], "seed": cell["seed"], "steps": steps, "width": cell["width"]}
                clean = select(records, labels="clean", method="bce", **same)
                if not relative or clean:
                    found.append(value(record, metric) / (value(clean[0], metric) if relative else 1))
            verdict = f"{sum(map(holds, found))} of {len(found)} hold: {np.mean(found):.2f}" if found else "–"
            row.append(verdict + (f" ({min(found):.2f}–{max(found):.2f})" if len(found) > 1 else ""))
        rows.append(row)
    return markdown(["the paper's sentence", *(f"{steps} steps" for steps in budgets)], rows)


def _group(records: Sequence[Record], names: Sequence[str]) -> dict[tuple[Any, ...], list[Record]]:
    """Records by the values of their cells, which differ in their seed alone."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record["cell"][name] for name in names), []).append(record)
    return groups


def _metrics(records: Sequence[Record]) -> list[str]:
    return [shown([value(record, metric) for record in records]) for metric in METRICS]


def noise_table(records: Sequence[Record]) -> str:
    """Plain training on simulated noise: every metric, and the share of what clean labels reach."""
    rows = []
    for (name, labels, network, steps), own in _group(records, ("dataset", "labels", "network", "steps")).items():
        clean = select(records, dataset=name, labels="clean", network=network, steps=steps)
        share = np.mean([value(r, "iou") for r in own]) / np.mean([value(r, "iou") for r in clean]) if clean else np.nan
        rows.append(
            [f"{name} {labels}", network, str(steps), *_metrics(own), f"{share:.0%}" if clean else "–", str(len(own))]
        )
    header = ["labels", "network", "steps", *METRICS.values(), "of clean", "seeds"]
    return markdown(header, rows) if rows else ""


def details_table(records: Sequence[Record]) -> str:
    """Every metric of methods on real labels."""
    order = {name: place for place, name in enumerate(METHODS)}
    groups = _group(records, ("dataset", "labels", "method", "steps"))
    names = sorted(groups, key=lambda group: (REAL_SETS.index(group[0]), group[1], group[3], order.get(group[2], 99)))
    rows = [[f"{name[0]} {name[1]}", name[2], str(name[3]), *_metrics(groups[name])] for name in names]
    return markdown(["labels", "method", "steps", *METRICS.values()], rows) if rows else ""


def label_free_table(records: Sequence[Record]) -> str:
    """Label-free training beside supervision with few clean labels."""
    rows = [
        [name, "none (`--igtt`)" if method == "igtt" else f"{images} clean images", *_metrics(own)]
        for (name, method, images), own in _group(records, ("dataset", "method", "images")).items()
    ]
    return markdown(["set", "labels", *METRICS.values()], rows) if rows else ""


def features_table(records: Sequence[Record]) -> str:
    """Probe and likeness of every layer, labels by labels; in brackets the probe of the network of clean labels."""
    rows = []
    for (name, labels), own in _group(records, ("dataset", "labels")).items():
        row = []
        for place in range(len(own[0]["layers"])):
            layers = [record["layers"][place] for record in own]
            probe, clean, cka = (np.mean([each[key] for each in layers]) for key in ("probe", "clean_probe", "cka"))
            row.append(f"{probe:.2f} ({clean:.2f}); {cka:.2f}")
        rows.append([f"{name} {labels}", *row])
    return markdown(["labels", *(layer["layer"] for layer in records[0]["layers"])], rows) if rows else ""


def classes_table(records: Sequence[Record]) -> str:
    """Mean IoU with several classes."""
    rows = [
        [f"{name} {labels}", method, shown([value(r, "iou") for r in own])]
        for (name, labels, method), own in _group(records, ("dataset", "labels", "method")).items()
    ]
    return markdown(["labels", "loss", "mean IoU"], rows) if rows else ""


def audited(records: Iterable[Record]) -> list[tuple[float, float, Record]]:
    """Predicted and reached IoU of plain training; what it reaches is what ``metrics.py`` says of the run's end.

    The audit speaks of the quick preset and of labels as they are: of no bare networks and no clean labels among them.
    """
    plain = [r for r in select(records, method="bce") if "oracle_iou" in r and "images" not in r["cell"]]
    plain = [record for record in plain if not is_bare(record["cell"])]
    pairs = [(record["audit"]["predicted_iou"], record["iou"], record) for record in plain]
    return [pair for pair in pairs if pair[0] is not None]


def audit_table(records: Iterable[Record]) -> str:
    """How far the audit's prediction lies from what plain training reaches, for each group of labels and all."""
    found, groups = audited(records), {}
    for said, reached, record in found:
        for name in (_group_of(record["cell"]), "all"):
            error, audit = said - reached, record["audit"]
            covered = audit["predicted_iou_low"] <= reached <= audit["predicted_iou_high"]
            at_best = said - max(reached, record["oracle_iou"])
            groups.setdefault(name, []).append((error, covered, at_best))
    rows = []
    for name in ordered(groups, ("simulated images", "real images, simulated labels", "real labels", "all")):
        errors, covered, at_best = np.array(groups[name], float).T
        rms, rms_at_best = (f"{np.sqrt(np.mean(each**2)):.3f}" for each in (errors, at_best))
        rows.append([name, str(len(errors)), f"{errors.mean():+.3f}", rms, f"{np.mean(covered):.0%}", rms_at_best])
    header = ["labels", "trials", "predicted less reached, mean", "RMS", "reached in the 90 % interval"]
    header += ["RMS at the best threshold"]
    return markdown(header, rows) if rows else ""


def _group_of(cell: Cell) -> str:
    """What a trial's labels are labels of, and whose."""
    if cell["dataset"].endswith("_sim"):
        return "simulated images"
    return "real labels" if (cell["dataset"], cell["labels"]) in REAL else "real images, simulated labels"
