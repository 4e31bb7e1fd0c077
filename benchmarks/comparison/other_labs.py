"""Networks on images of other labs: what is lost, what wins it back, and whether the warning knows.

A network is trained on a few images of one set and predicts the test images of all, as they are and with its batch norm
counted anew on them. Trained runs are kept below train_log/<set>/other_labs_*, so that predictions can be repeated.

    python benchmarks/comparison/other_labs.py
    python benchmarks/comparison/other_labs.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import itertools
import shutil
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import RECORDED, part_of_list, train
from utils.cli import run_command
from utils.files import read_json
from utils.run_folder import LOG_ROOT

# Sets that show the same kind of structure; the first of each is simulated.
FAMILIES = {
    "nuclei": ("nuc_sim", "nuc", "nuc16"),
    "vessels": ("vessel", "stare"),
    "tubes": ("mito_sim", "er_sim", "er_ernet"),
}
SOURCES = ("nuc", "nuc16", "vessel", "stare", "er_sim", "mito_sim", "nuc_sim")
TARGETS = ("nuc", "nuc16", "vessel", "stare", "er_sim", "mito_sim", "nuc_sim", "er_ernet")
LOCAL = {"network_options": {"local_contrast": 16}}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "local contrast": LOCAL,
    "robust": {"augment": ("robust",)},
    "robust, local contrast": {"augment": ("robust",), **LOCAL},
}
IMAGES = {"train_gt": 120, "val": 20, "test": 20}  # at most, spread evenly over each list
TRAINING = {"width": 8, "crop": 128, "batch_size": 8, "steps": 300, "epochs": 4, "repeat": "auto"}


def lists_of(dataset: str) -> dict[str, Path]:
    """The lists of a set's images that are used."""
    return {name: part_of_list(dataset, name, count, "other_labs") for name, count in IMAGES.items()}


def trained(source: str, recipe: str, seed: int) -> Path:
    """The run of a set; one that is finished is taken as it is."""
    name = f"other_labs_{recipe.replace(', ', '_')}_{seed}"
    run, lists = LOG_ROOT / source / name, lists_of(source)
    if (run / "checkpoints" / "best.pth").is_file() and "took" in (run / "log.txt").read_text(encoding="utf-8"):
        return run
    files = {"train_list": str(lists["train_gt"]), "val_list": str(lists["val"])}
    return train(source, name, seed=seed, **files, **(RECORDED | TRAINING | RECIPES[recipe]))


def run_trial(source: str, recipe: str, seed: int) -> dict[str, Any]:
    """Train on one set, predict the test images of all in both ways; Dice and unlikeness by set."""
    run = trained(source, recipe, seed)
    ways = {"as it is": (), "recalibrated": ("--recalibrate_norm",)}
    found = {way: {target: predict_set(run, target, way, flags) for target in TARGETS} for way, flags in ways.items()}
    return {"found": found, "settings": {"images": IMAGES, "preset": "quick", **TRAINING, **RECIPES[recipe]}}


def predict_set(run: Path, target: str, way: str, flags: Sequence[str]) -> dict[str, float]:
    """Dice at the run's threshold and at the best, and the median unlikeness, on a set's test images."""
    from evaluation import inference
    from evaluation.pages.evaluate import evaluate_maps

    out = run / "results" / f"{target} {way}"
    test = str(lists_of(target)["test"])
    inference.main(["--train_dir", str(run), "--data_list", test, "--out", str(out), *flags])
    summary = evaluate_maps(out, report=False)
    unlike = statistics.median(read_json(out / "predictions.json")["unlike"].values())
    shutil.rmtree(out)
    return {"dice": summary["pooled"]["f1"], "oracle_dice": summary["oracle"]["f1"], "unlike": unlike}


def is_related(source: str, target: str) -> bool:
    """Whether two sets show the same kind of structure, and are not one."""
    return source != target and any(source in family and target in family for family in FAMILIES.values())


def pair_rows(records: list[Record]) -> list[list[str]]:
    """Dice and unlikeness at home and elsewhere, a line a pair of sets, a column a recipe and a way."""
    runs = {(record["cell"]["source"], record["cell"]["recipe"]): record["found"] for record in records}
    recipes = [recipe for recipe in RECIPES if any(key[1] == recipe for key in runs)]
    rows = []
    for source, target in itertools.product(SOURCES, TARGETS):
        cells = [text for recipe in recipes for text in pair_cells(runs.get((source, recipe)), target)]
        name = f"`{source}` → `{target}`"
        rows.append([f"**{name}**" if source == target else name, *cells])
    return rows


def pair_cells(found: dict[str, Any] | None, target: str) -> list[str]:
    """Dice as it is and recalibrated, and unlikeness, of a run's networks on a set."""
    if found is None:
        return ["–"] * 3
    plain, recalibrated = (found[way][target] for way in ("as it is", "recalibrated"))
    return [f"{plain['dice']:.3f}", f"{recalibrated['dice']:.3f}", f"{plain['unlike']:.2f}"]


def mean_rows(records: list[Record]) -> list[list[str]]:
    """Mean Dice at home, on related sets as they are and recalibrated, and the least of the former, by recipe."""
    rows = []
    for recipe in [name for name in RECIPES if any(record["cell"]["recipe"] == name for record in records)]:
        runs = {record["cell"]["source"]: record["found"] for record in records if record["cell"]["recipe"] == recipe}
        related = [pair for pair in itertools.product(runs, TARGETS) if is_related(*pair)]
        home = [found["as it is"][source]["dice"] for source, found in runs.items()]
        there, recalibrated = (
            [runs[source][way][target]["dice"] for source, target in related] for way in ("as it is", "recalibrated")
        )
        figures = (statistics.mean(home), statistics.mean(there), min(there), statistics.mean(recalibrated))
        rows.append([recipe, *(f"{figure:.3f}" for figure in figures)])
    return rows


def pairs_of(record: Record) -> list[tuple[float, float, bool]]:
    """(Unlikeness, Dice that is lost, whether it is related) of every set, for the network of a trial."""
    source, found = record["cell"]["source"], record["found"]["as it is"]
    home = found[source]["dice"]
    return [(each["unlike"], home - each["dice"], is_related(source, target)) for target, each in found.items()]


def warning_rows(records: list[Record]) -> list[list[str]]:
    """Rank correlation of unlikeness with the Dice that is lost, and what the line at 1 says, by recipe."""
    from scipy.stats import spearmanr

    rows = []
    for recipe in [name for name in RECIPES if any(record["cell"]["recipe"] == name for record in records)]:
        networks = [pairs_of(record) for record in records if record["cell"]["recipe"] == recipe]
        pairs = [pair for network in networks for pair in network]
        within = [spearmanr([pair[0] for pair in own], [pair[1] for pair in own]).statistic for own in networks]
        own = [unlike for unlike, lost, related in pairs if lost == 0 and not related]
        others = [(unlike, lost) for unlike, lost, related in pairs if related]
        every = [(unlike, lost) for unlike, lost, _ in pairs]
        silent = max((lost for unlike, lost in others if unlike < 1), default=0.0)
        rows.append(
            [
                recipe,
                f"{max(own):.2f}",
                f"{spearmanr(*zip(*others, strict=True)).statistic:.2f} ({len(others)})",
                f"{spearmanr(*zip(*every, strict=True)).statistic:.2f} ({len(every)})",
                f"{statistics.mean(within):.2f} ({min(within):.2f} to {max(within):.2f})",
                f"{sum(unlike > 1 for unlike, lost in others if lost > 0.05)} of "
                f"{sum(lost > 0.05 for _, lost in others)}",
                f"{silent:.3f}",
            ]
        )
    return rows


def tables(records: list[Record]) -> Tables:
    """Dice of pairs, and what the warning knew."""
    recipes = [name for name in RECIPES if any(record["cell"]["recipe"] == name for record in records)]
    ways = ("", ", recalibrated", ", unlike")
    header = ["trained → tested", *(f"{recipe}{way}" for recipe in recipes for way in ways)]
    warned = [
        "recipe",
        "most unlike at home",
        "rank correlation, related sets",
        "with all sets",
        "of one network, mean and range",
        "told, of pairs that lose over 0.05",
        "most lost without a word",
    ]
    means = ["recipe", "at home", "related sets", "least of them", "related sets, recalibrated"]
    return {
        "means of labs": markdown(means, mean_rows(records)),
        "pairs of labs": markdown(header, pair_rows(records)),
        "warning": markdown(warned, warning_rows(records)),
    }


STUDY = Study(
    name="other_labs",
    cells=[{"source": source, "recipe": recipe, "seed": 0} for recipe in RECIPES for source in SOURCES],
    trial=run_trial,
    seconds=180,
    tables=tables,
    page="docs/results/other_labs.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
