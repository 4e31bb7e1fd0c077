"""What the study tries: data sets, kinds of labels, methods, and the tables that are made of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.grid import Cell, on_datasets

STEPS = (300, 1000, 3000)  # budgets; most tables have the first alone
WIDTH = 8  # of the U-Net's first level, which a CPU affords
CLEAN_IMAGES = 10  # whose clean labels every method of a comparison gets, to train on as to decide by

# method → options of the run; "" in the place of a file: the audit's Q
METHODS: dict[str, dict[str, Any]] = {
    "bce": {},
    "ours": {"recipe": "auto"},
    "forward": {"loss": "forward", "transition_matrix": ""},
    "coteaching": {"method": "coteaching"},
    "adele": {"method": "adele"},
    "clslsr": {"method": "clslsr"},
    "gce": {"loss": "gce"},
    "trinet": {"method": "trinet"},
    "spatial": {"method": "spatial"},
    "dast": {"method": "dast"},
    "sce": {"loss": "sce"},
    "backward": {"loss": "backward", "transition_matrix": ""},
    "nce+rce": {"loss": "nce+rce"},
    "nr_dice": {"loss": "nr_dice"},
    "tloss": {"loss": "tloss"},
}
SETS = ("nuc", "er_ernet")  # that simulated noise is put on
SIMULATED = ("er_sim", "mito_sim", "nuc_sim")  # that the audit is held against besides
HEADLINES = ("clean", "sample:0.1", "flip:0.45", "dilate:5")

# Real labels of real images. ``A>B`` is trained on A and scored against B.
REAL: tuple[tuple[str, str], ...] = (
    ("bubil_cells", "labels_crowd"),
    ("stare", "labels_2nd_observer"),
    ("nuc", "otsu"),
    ("bubil_cells", "labels_experts_union"),
    ("nuc", "bright"),
    ("vessel", "labels_2nd_observer"),
    ("nuc", "polygon:3"),
    ("nuc", "swapped"),
    ("bubil_cells", "labels_crowd_majority"),
    ("bubil_cells", "labels_expert_worst"),
    ("bubil_cells", "staple"),
    ("stare", "labels>labels_2nd_observer"),
    ("vessel", "labels>labels_2nd_observer"),
)
REAL_SETS = tuple(dict.fromkeys(name for name, _ in REAL))

BINARY = ("clean", "sample:0.5", "sample:0.1", "sample:0.02")
BINARY += ("flip:0.1", "flip:0.3", "flip:0.45", "flip:0.7", "flip:0.9", "flip:0.45,0", "flip:0,0.45")
BIASED = ("dilate:5", "erode:5", "skeleton", "wobble:3,8", "shift:3", "polygon:3", "missing:0.3", "merge:6")
RANDOM = ("random:0.1", "random:0.5")
CLASSES = ("clean", "sample:0.1", "flip:0.5", "flip:0.7")
FEW = (1, 3, 10, 30)  # images with clean labels that label-free training is held against
SEEN = ("sample:0.1", "flip:0.45", "dilate:5", "random:0.5")  # by a network, layer by layer
FORETOLD = ("clean", "sample:0.1", "flip:0.45", "flip:0.9", "random:0.5", *BIASED)
CURVES = ("clean", "sample:0.1", "flip:0.45", "dilate:5", "random:0.5")


def cell(dataset: str, labels: str, method: str = "bce", **other: Any) -> Cell:
    """A trial; what is not said is as in most: a U-Net, no clean labels, 300 steps, the first seed."""
    common = {"network": "unet", "clean": 0, "steps": STEPS[0], "seed": 0}
    return {"dataset": dataset, "labels": labels, "method": method, **common, **other}


def is_bare(cell: Cell) -> bool:
    """Whether networks neither average weights nor see local contrast: no other paper's do, and few methods can."""
    return bool(cell["clean"] or cell.get("bare"))


def _noise(specs: Sequence[str]) -> Callable[[int, Sequence[int]], list[Cell]]:
    """Plain training on simulated noise, the shortest budget first, then seed after seed."""

    def make(seeds: int, budgets: Sequence[int]) -> list[Cell]:
        grid = itertools.product(budgets, range(seeds), specs, SETS)
        return [cell(name, spec, steps=steps, seed=seed) for steps, seed, spec, name in grid]

    return make


def _networks(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    grid = itertools.product(range(seeds), ("deeplabv3plus", "hrnet"), HEADLINES, SETS)
    return [cell(name, spec, network=network, seed=seed, steps=budgets[0]) for seed, network, spec, name in grid]


def _methods(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    grid = itertools.product(range(seeds), METHODS, HEADLINES, SETS)
    common = {"clean": CLEAN_IMAGES, "steps": budgets[0]}
    return [cell(name, spec, method, seed=seed, **common) for seed, method, spec, name in grid]


def _real(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    """Every method on three kinds, then on the next three, and so on; then seeds; then longer budgets of some."""
    common = {"clean": CLEAN_IMAGES, "steps": budgets[0]}
    first = [
        cell(name, labels, method, seed=seed, **common)
        for seed in range(seeds)
        for start in range(0, len(REAL), 3)
        for method in METHODS
        for name, labels in REAL[start : start + 3]
    ]
    first += [cell(name, "clean", seed=seed, **common) for seed in range(seeds) for name in REAL_SETS]
    longer = itertools.product(budgets[1:], ("bce", "forward", "ours"), REAL[:2])
    return first + [
        cell(name, labels, method, clean=CLEAN_IMAGES, steps=steps) for steps, method, (name, labels) in longer
    ]


def _label_free(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    ways = [("igtt", "none", 0), *(("bce", "clean", count) for count in FEW)]
    grid = itertools.product(range(seeds), ways, SETS)
    return [
        cell(name, labels, method, images=images, seed=seed, steps=budgets[0])
        for seed, (method, labels, images), name in grid
    ]


def _classes(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    grid = itertools.product(range(seeds), ("ce", "forward"), CLASSES)
    return [cell("em_vnc", spec, method, seed=seed, steps=budgets[0]) for seed, method, spec in grid]


def _curves(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    grid = itertools.product(range(seeds), CURVES, SETS)
    return [cell(name, spec, steps=budgets[:2][-1], seed=seed, curve=True) for seed, spec, name in grid]


def _features(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    grid = itertools.product(range(seeds), SEEN, SETS)
    return [cell(name, spec, steps=budgets[0], seed=seed, features=True) for seed, spec, name in grid]


def _audit(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    grid = itertools.product(range(seeds), FORETOLD, SIMULATED)
    return [cell(name, spec, steps=budgets[0], seed=seed) for seed, spec, name in grid]


def _human(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    """Plain training on real labels as they are, none of them known to be clean, and on the best there are."""
    kinds = [*REAL, *((name, "clean") for name in REAL_SETS if name not in SETS)]
    grid = itertools.product(range(seeds), kinds)
    return [cell(name, labels, steps=budgets[0], seed=seed) for seed, (name, labels) in grid]


def _widths(seeds: int, budgets: Sequence[int]) -> list[Cell]:
    return [{**each, "bare": True} for each in _noise(BINARY)(seeds, budgets[:1])]


TABLES = {
    "real": _real,
    "methods": _methods,
    "binary": _noise(BINARY),
    "biased": _noise(BIASED),
    "random": _noise(RANDOM),
    "networks": _networks,
    "labelfree": _label_free,
    "multiclass": _classes,
    "curves": _curves,
    "features": _features,
    "audit": _audit,
    "human": _human,
    "widths": _widths,
}
"""Table → its trials for so many seeds and such budgets, in the order in which they are worth their time."""
OF_THEIR_SETS = ("real", "multiclass", "human")  # tables whose labels other sets do not have


def cells_of(
    table: str, seeds: int, budgets: Sequence[int], width: int, datasets: Sequence[str] | None = None
) -> list[Cell]:
    """The trials of a table with networks of a width.

    Args:
        datasets: these in place of the table's; where labels are real, those of them alone.
    """
    cells = [{**each, "width": width} for each in TABLES[table](seeds, budgets)]
    if datasets is None:
        return cells
    if table in OF_THEIR_SETS:
        return [each for each in cells if each["dataset"] in datasets]
    return on_datasets(cells, datasets)
