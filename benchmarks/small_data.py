"""Few labelled images: what a default training reaches on them, beside the best method that needs no label.

A cell is a data set, a number of training images, a seed and a name for the way of training; its training and
validation images are drawn from the set's lists by the seed, the whole test list is predicted with the best
checkpoint at the threshold it carries. Every cell is a line of the results, and cells that are there are not run
again, so that the benchmark can be stopped and gone on with. Options after ``--`` are those of ``main.py``.

    python datasets/make_lists.py --dataset nuc --source $SEG_TEST_DATA/nuc
    python benchmarks/small_data.py
    python benchmarks/small_data.py --images 3 6 30 100 --seeds 2
    python benchmarks/small_data.py --name "group norm" -- --network "unet(norm=group)"
    python benchmarks/small_data.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder

import argparse
import itertools
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.cli import CommandParser, run_command
from utils.files import append_jsonl, read_jsonl
from utils.run_folder import LOG_ROOT, REPO_ROOT, environment_record

RESULTS = REPO_ROOT / "benchmarks" / "results" / "small_data.jsonl"
DATASETS = ("nuc", "nuc16", "er_ernet", "mito_sim")
CELL = ("name", "dataset", "images", "seed")  # what tells one cell from another
WHOLE = 0  # in place of a number of images: the whole lists


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line before ``--``."""
    parser = CommandParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--datasets", nargs="+", default=list(DATASETS), metavar="NAME", help="data sets (default: all four)")
    add("--images", nargs="+", type=int, default=[14], metavar="N", help="training images; 0: all lists as they are")
    add("--val_images", type=int, default=4, metavar="N", help="validation images (default: 4)")
    add("--seeds", type=int, default=5, metavar="S", help="seeds from 0 (default: 5)")
    add("--name", default="default", help="what the way of training is called in the results (default: default)")
    add("--out", type=Path, default=RESULTS, metavar="FILE", help="where results go, a line a cell")
    add("--summarize", action="store_true", help="print the tables of the finished cells and run nothing")
    return parser.parse_args(arguments)


def drawn_list(dataset: str, name: str, count: int, seed: int) -> Path:
    """A list of ``count`` images drawn from a list of the data set by ``seed``; the list itself for ``WHOLE``."""
    from datasets.lists import find_list, read_list, write_list

    path = find_list(name, dataset)
    if count == WHOLE:
        return path
    samples = read_list(path, say=lambda line: None)
    chosen = np.random.default_rng(seed).permutation(len(samples))[:count]
    drawn = LOG_ROOT / "small_data" / dataset / f"{path.stem}_{count}_{seed}.txt"
    write_list(drawn, [(samples[index].image, samples[index].label) for index in sorted(chosen.tolist())])
    return drawn


def run_cell(cell: dict[str, Any], val_images: int, given: dict[str, Any]) -> dict[str, Any]:
    """Train and test one cell with the quick preset; its record."""
    from training.fit import configure, fit

    dataset, count, seed = cell["dataset"], cell["images"], cell["seed"]
    name = f"small_data_{cell['name'].replace(' ', '_')}_{count}_{seed}"
    shutil.rmtree(LOG_ROOT / dataset / name, ignore_errors=True)  # what an interrupted cell left
    started = time.monotonic()
    run = fit(
        configure(
            {
                "dataset": dataset,
                "train_list": str(drawn_list(dataset, "train_gt", count, seed)),
                "val_list": str(drawn_list(dataset, "val", count and val_images, seed)),
                "preset": "quick",
                "seed": seed,
                "tensorboard": False,
                "run_name": name,
                **given,
            }
        )
    )
    record = {"seconds": round(time.monotonic() - started, 1), **test_run(run)}
    shutil.rmtree(run)
    return record


def test_run(run: Path) -> dict[str, Any]:
    """Predict and score the test list with the best checkpoint of a run, by the users' commands."""
    from benchmarks.trials import predict
    from evaluation.pages.evaluate import evaluate_maps

    folder = predict(run)
    figures = evaluate_maps(folder, report=False)
    at_half = evaluate_maps(folder, threshold=0.5, report=False)
    epochs = {record["epoch"]: record for record in read_jsonl(run / "metrics.jsonl")}
    best = int(folder.name.removeprefix("epoch_"))
    return {
        "iou": figures["pooled"]["iou"],
        "iou_at_half": at_half["pooled"]["iou"],
        "oracle_iou": figures["oracle"]["iou"],
        "auc": figures["pooled"]["auc"],
        "threshold": figures["threshold"],
        "best_epoch": best,
        "val_iou": epochs[best]["val/iou"],
        "val_ious": [round(epochs[epoch]["val/iou"], 4) for epoch in sorted(epochs)],
    }


def classic_ious(dataset: str) -> dict[str, float]:
    """The pooled test IoU of every method that needs no label, at its own threshold."""
    from datasets.image_io import read_label
    from datasets.lists import find_list, read_list
    from evaluation.classical import BASELINES
    from evaluation.classical.methods import resolve_foreground
    from evaluation.classical.runner import oriented_images
    from evaluation.scores import counts_at, iou, score_histogram

    samples = read_list(find_list("test", dataset), say=lambda line: None)
    images = oriented_images(samples, resolve_foreground("auto", oriented_images(samples, "bright")))
    labels = [read_label(sample.require_label()) for sample in samples]
    found = {}
    for name, method in BASELINES.items():
        histogram = sum(score_histogram(method(image), label) for image, label in zip(images, labels, strict=True))
        found[name] = float(iou(counts_at(histogram, 0.5)))
    return found


def run_missing(options: argparse.Namespace, given: dict[str, Any]) -> None:
    """Run the cells and the classic methods that the results lack."""
    from datasets.catalog import prepare_dataset

    for dataset in options.datasets:
        prepare_dataset(dataset)
    for images, seed, dataset in itertools.product(options.images, range(options.seeds), options.datasets):
        cell = dict(zip(CELL, (options.name, dataset, images, seed), strict=True))
        if any(cell.items() <= record.items() for record in finished(options.out)):
            continue
        print(f"== {cell}", flush=True)
        record = cell | run_cell(cell, options.val_images, given)
        append_jsonl(options.out, record | {"options": given, "environment": environment_record("cpu")})
    for dataset in options.datasets:
        if not any(record["dataset"] == dataset and "classic" in record for record in finished(options.out)):
            found = {"dataset": dataset, "classic": classic_ious(dataset), "environment": environment_record("cpu")}
            append_jsonl(options.out, found)


def finished(path: Path) -> list[dict[str, Any]]:
    """The records of a results file; none where it is absent."""
    return read_jsonl(path) if path.exists() else []


def summarize(path: Path) -> str:
    """Tables, one for each number of images: mean test IoU over seeds and its standard error, beside the classics."""
    records = finished(path)
    classic = {record["dataset"]: record["classic"] for record in records if "classic" in record}
    cells = [record for record in records if "classic" not in record]
    lines = []
    for images in sorted({cell["images"] for cell in cells}):
        lines += [f"### {f'{images} training images' if images else 'whole lists'}", ""]
        lines += ["| way | " + " | ".join(classic) + " |", "|---" * (len(classic) + 1) + "|"]
        best = {dataset: max(ious, key=ious.get) for dataset, ious in classic.items()}
        row = [f"{classic[dataset][method]:.3f} ({method})" for dataset, method in best.items()]
        lines.append(f"| best classic | {' | '.join(row)} |")
        for name in dict.fromkeys(cell["name"] for cell in cells if cell["images"] == images):
            own = [cell for cell in cells if cell["images"] == images and cell["name"] == name]
            row = [shown([cell for cell in own if cell["dataset"] == dataset]) for dataset in classic]
            lines.append(f"| {name} | {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def shown(cells: Sequence[dict[str, Any]]) -> str:
    """``mean ± standard error (cells), best possible threshold, seconds`` of cells that differ in their seed."""
    if not cells:
        return "–"
    ious = np.array([cell["iou"] for cell in cells])
    error = f" ± {ious.std(ddof=1) / len(ious) ** 0.5:.3f}" if len(ious) > 1 else ""
    oracle, seconds = (np.mean([cell[name] for cell in cells]) for name in ("oracle_iou", "seconds"))
    return f"{ious.mean():.3f}{error} ({len(ious)}; *oracle* {oracle:.3f}; {seconds:.0f} s)"


def main() -> None:
    """Run what is missing, then print the tables."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = parse_arguments(arguments[:split])
    if not options.summarize:
        from training.options import parse_given

        run_missing(options, parse_given(arguments[split + 1 :]))
    print(summarize(options.out))


if __name__ == "__main__":
    run_command(main)
