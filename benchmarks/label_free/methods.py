"""Segmentation without labels beside supervision and classic methods: Dice, IoU and AUC on test lists.

A cell is a method, a data set and a seed; its figures are one JSON file. Finished cells are kept, so the run can be
stopped and gone on with; all cells of a seed come before those of the next. ``--summarize`` makes tables and figures
and names the cells that are missing. ``--ablations`` changes one ingredient of our recipe at a time, scored on the
validation lists.

    python benchmarks/label_free/methods.py
    python benchmarks/label_free/methods.py --ablations --datasets er_sim mito_sim nuc_sim nuc --seeds 0 1
    python benchmarks/label_free/methods.py --summarize
    python benchmarks/label_free/methods.py --methods ours supervised published no_ems --epochs 100 --repeat 1 \\
        --seeds 0 --datasets er_sim nuc_sim --out benchmarks/results/label_free/100_epochs
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import argparse
import shutil
import time
from typing import Any

from benchmarks.audit.noise_grid import shortened_list
from benchmarks.label_free.tables import summarize
from evaluation.classical.methods import BASELINES
from training.options import RECIPES
from utils.cli import CommandParser, run_command
from utils.files import read_json, read_jsonl, write_json
from utils.run_folder import LOG_ROOT, REPO_ROOT, environment_record

RESULTS = REPO_ROOT / "benchmarks" / "results" / "label_free"
DATASETS = ("er_sim", "er_ernet", "mito_sim", "nuc_sim", "nuc", "nuc16")
SEEDS = (0, 1, 2)
IMAGES = {"train_gt": 120, "val": 20, "test": 40}  # at most, spread evenly over each list
# What every trained method is given: 150 steps where there are 120 images.
TRAINING = {"preset": "quick", "crop": 128, "batch_size": 8, "epochs": 5, "repeat": 2}
METHODS: dict[str, dict[str, Any]] = {
    "ours": {"igtt_recipe": "best"},
    "supervised": {},
    "published": {"igtt_recipe": "published"},
    "no_ems": {"igtt_recipe": "published", "igtt_ems": "clean"},
}
ALL_METHODS = (*METHODS, "dfc", *BASELINES)
EMS = "skeleton+shift:1+sample:0.1"
ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "published, from the vote": {"igtt_recipe": "published", "igtt_init": "vote"},
    "EMS": {"igtt_ems": EMS},
    "EMS, masks by DMI": {"igtt_ems": EMS, "igtt_criterion": "dmi"},
    "EMS, density as target": {"igtt_ems": EMS, "loss": "density(bandwidth=2)"},
    "EMS, density as target, masks by DMI": {"igtt_ems": EMS, "loss": "density(bandwidth=2)", "igtt_criterion": "dmi"},
    "multi-scale skeletons": {"igtt_ems": "skeletons:3+shift:1+sample:0.1"},
    "density as target": {"loss": "density(bandwidth=1)"},
    "no average of weights": {"ema": 0.0},
    "flips averaged": {"igtt_tta": True},
    "EMS, sampling annealed to 1": {"igtt_ems": EMS, "igtt_final_share": 1.0},
    "sampled masks": {"igtt_ems": "sample:0.1"},
    "sampled masks, masks by DMI": {"igtt_ems": "sample:0.1", "igtt_criterion": "dmi"},
    "Otsu first": {"igtt_init": "otsu"},
    "ridges first": {"igtt_init": "ridge"},
    "plain z-score": {"normalization": "zscore"},
    "never refreshed": {"igtt_warmup": 1.0},
    "refreshed by the audit": {"igtt_warmup": 0.2, "igtt_refresh": "audit"},
    "refreshed by DMI": {"igtt_warmup": 0.2, "igtt_refresh": "dmi"},
    "contrast masks": {"igtt_criterion": "contrast"},
    "DMI and IoU losses": {"loss": "dmi+iou"},
}
CROSS_LABELLED = "two networks"  # an ablation too: a second network, of another seed, learns the masks of the first
SECOND_NETWORK = {name: RECIPES["best"][name] for name in ("normalization", "ema")}  # the rest is about its labels


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__.splitlines()[0], formatter_class=argparse.HelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), metavar="NAME", help="data sets with lists")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="S", help="seeds (default: 0 1 2)")
    parser.add_argument("--width", type=int, default=8, help="channels of the U-Net's first level (default: 8)")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(ALL_METHODS),
        choices=ALL_METHODS,
        metavar="NAME",
        help=f"of {', '.join(ALL_METHODS)} (default: all)",
    )
    parser.add_argument("--epochs", type=int, default=TRAINING["epochs"], metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--repeat",
        type=int,
        default=TRAINING["repeat"],
        metavar="N",
        help="times that an epoch draws each image (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where cells and summary go")
    parser.add_argument("--ablations", action="store_true", help="our recipe with one ingredient changed, on val.txt")
    parser.add_argument("--summarize", action="store_true", help="no training: tables and figures of finished cells")
    settings = parser.parse_args()
    if settings.ablations and settings.methods != list(ALL_METHODS):
        parser.error("--methods chooses among the cells without --ablations; leave one of the two out")
    return settings


def cell_path(out: Path, method: str, dataset: str, seed: int) -> Path:
    """The JSON file of a cell."""
    name = method.replace(" ", "_").replace(",", "")
    return out / dataset / f"{name}_{seed}.json"


def figures_of(folder: Path) -> dict[str, float]:
    """Scores of a folder of maps, at its threshold and at the best on the labels."""
    from evaluation.metrics import evaluate_maps

    summary = evaluate_maps(folder, report=False)
    pooled, oracle = summary["pooled"], summary["oracle"]
    return {
        "dice": pooled["f1"],
        "iou": pooled["iou"],
        "auc": pooled["auc"],
        "oracle_dice": oracle["f1"],
        "oracle_iou": oracle["iou"],
        "threshold": summary["threshold"],
        "mean_image_iou": summary["per_image_mean"]["iou"]["mean"],
    }


def keep_maps(folder: Path, kept: Path) -> None:
    """Copy the maps of a method, for the figure."""
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("*.html", "overlays"))


def images_of(dataset: str, split: str) -> Path:
    """The images of a list that the benchmark uses."""
    return shortened_list(dataset, split, IMAGES[split], "label_free")


def train_network(
    dataset: str, seed: int, options: dict[str, Any], settings: argparse.Namespace, lists: dict[str, Path], name: str
) -> Path:
    """Train on lists by split and return the run folder; what an interrupted cell left is removed first."""
    from training.fit import configure, fit

    shutil.rmtree(LOG_ROOT / dataset / name, ignore_errors=True)
    return fit(
        configure(
            {
                "dataset": dataset,
                "train_list": str(lists["train_gt"]),
                "val_list": str(lists["val"]),
                "seed": seed,
                "audit": False,
                "tensorboard": False,
                "run_name": name,
                **training_options(settings),
                **options,
            }
        )
    )


def training_options(settings: argparse.Namespace) -> dict[str, Any]:
    """What every trained method is given."""
    return {**TRAINING, "width": settings.width, "epochs": settings.epochs, "repeat": settings.repeat}


def predict_list(run: Path, path: Path, *flags: str) -> Path:
    """Predict a list with the best checkpoint of a run and return the folder of the results."""
    from evaluation import inference

    inference.main(["--train_dir", str(run), "--test_ckpt_epoch", "best", "--data_list", str(path), *flags])
    (folder,) = (run / "results").glob(f"*_{path.stem}")
    return folder


def list_with_masks(run: Path, path: Path) -> Path:
    """A list of the same images with the masks that a run predicts as their labels, in the run folder."""
    from datasets.lists import read_list, write_list

    folder = predict_list(run, path, "--masks")
    maps = read_json(folder / "predictions.json")["maps"]
    masks = {image: folder / "masks" / f"{Path(name).stem}.png" for image, name in maps.items()}
    new = run / path.name
    write_list(new, [(sample.image, masks[sample.image_id]) for sample in read_list(path)])
    return new


def run_trained(
    dataset: str, seed: int, options: dict[str, Any], settings: argparse.Namespace, split: str, cross: bool = False
) -> dict[str, Any]:
    """Train a network, predict a list with its best checkpoint, score it.

    Args:
        cross: train another network first, without labels, and take the masks that it predicts for labels.
    """
    lists = {name: images_of(dataset, name) for name in IMAGES}
    scored, runs, started = lists[split], [], time.monotonic()
    if cross:
        runs.append(train_network(dataset, seed, METHODS["ours"], settings, lists, "label_free_first"))
        lists = {name: list_with_masks(runs[0], lists[name]) for name in ("train_gt", "val")}
        seed += len(SEEDS)
    run = train_network(dataset, seed, options, settings, lists, "label_free")
    seconds = time.monotonic() - started
    curve = [
        {name: line[f"val/{name}"] for name in ("f1", "iou", "auc", "agreement") if f"val/{name}" in line}
        for line in read_jsonl(run / "metrics.jsonl")
    ]
    folder = predict_list(run, scored)
    found = figures_of(folder)
    if seed == settings.seeds[0] and split == "test":
        keep_maps(folder, LOG_ROOT / "label_free" / dataset / _method_of(options))
    for finished in (*runs, run):
        shutil.rmtree(finished)
    return {**found, "curve": curve, "training_seconds": seconds}


def _method_of(options: dict[str, Any]) -> str:
    return next(name for name, known in METHODS.items() if known == options)


def run_untrained(dataset: str, method: str, seed: int) -> dict[str, float]:
    """Segment the test list by a classic method or by feature clustering, and score it."""
    from evaluation.classical.runner import run_methods

    out = LOG_ROOT / "label_free" / dataset
    run_methods(dataset, [method], data_list=str(images_of(dataset, "test")), dfc_settings=[f"seed={seed}"], out=out)
    return figures_of(out / method)


def cells(settings: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Method, data set and seed of every cell, in the order in which they are worked on."""
    if settings.ablations:
        names = (*ABLATIONS, CROSS_LABELLED)
        return [(name, dataset, seed) for seed in settings.seeds for name in names for dataset in settings.datasets]
    seeds = {name: settings.seeds[:1] if name in BASELINES else settings.seeds for name in settings.methods}
    return [
        (name, dataset, seed)
        for seed in settings.seeds
        for name in settings.methods
        if seed in seeds[name]
        for dataset in settings.datasets
    ]


def run_cell(method: str, dataset: str, seed: int, settings: argparse.Namespace) -> None:
    """Make the figures of a cell and write them."""
    if settings.ablations:
        cross = method == CROSS_LABELLED
        options = SECOND_NETWORK if cross else {**METHODS["ours"], **ABLATIONS[method]}
        found = run_trained(dataset, seed, options, settings, "val", cross)
    elif method in METHODS:
        found = run_trained(dataset, seed, METHODS[method], settings, "test")
    else:
        found = run_untrained(dataset, method, seed)
    write_json(
        cell_path(settings.out, method, dataset, seed),
        {
            "method": method,
            "dataset": dataset,
            "seed": seed,
            **found,
            "settings": {"images": IMAGES, **training_options(settings)},
            "environment": environment_record(),
        },
    )


def main() -> None:
    """Work on the cells that are not finished, or summarize those that are."""
    settings = parse_arguments()
    if settings.ablations:
        settings.out = settings.out / "ablations"
    if settings.summarize:
        wanted = {cell: cell_path(settings.out, *cell) for cell in cells(settings)}
        found = {cell: read_json(path) for cell, path in wanted.items() if path.exists()}
        summarize(found, wanted, {dataset: images_of(dataset, "test") for dataset in settings.datasets}, settings.out)
        return
    from datasets.catalog import prepare_dataset

    for dataset in settings.datasets:
        prepare_dataset(dataset)
    for cell in cells(settings):
        if not cell_path(settings.out, *cell).exists():
            print("==", *cell, flush=True)
            run_cell(*cell, settings)


if __name__ == "__main__":
    run_command(main)
