"""How much of what noise costs the audit's advice wins back: plain BCE, its thresholds, a corrected loss, more steps.

python benchmarks/audit/noise_costs.py --datasets nuc er_ernet
python benchmarks/audit/noise_costs.py --datasets nuc er_ernet --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import argparse
import shutil
from typing import Any

from benchmarks.audit.noise_grid import TRAIN_IMAGES, VAL_IMAGES, shortened_list, train_cell
from utils.cli import CommandParser, run_command
from utils.files import read_json, write_json
from utils.run_folder import REPO_ROOT, environment_record

RESULTS = REPO_ROOT / "benchmarks" / "results" / "noise_costs"
STEPS = 160
SPECS = ("sample:0.1", "flip:0.45")
MORE = 3  # times the steps
# name → (loss, factor of the steps)
RECIPES = {
    "plain": ("bce", 1),
    "plain, more steps": ("bce", MORE),
    "forward": ("forward", 1),
    "forward, more steps": ("forward", MORE),
}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__.splitlines()[0], formatter_class=argparse.HelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["er_sim"], metavar="NAME", help="data sets with lists")
    parser.add_argument("--width", type=int, default=16, help="channels of the U-Net's first level (default: 16)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of the short recipes (default: {STEPS})")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where cells and summary go")
    parser.add_argument("--summarize", action="store_true", help="no training: the table of finished cells")
    return parser.parse_args()


def cells(datasets: list[str]) -> list[tuple[str, str, str]]:
    """Data set, noise and recipe of every cell; clean labels are the reference, with both numbers of steps."""
    clean = [("clean", recipe) for recipe, (loss, _) in RECIPES.items() if loss == "bce"]
    noisy = [(spec, recipe) for spec in SPECS for recipe in RECIPES]
    return [(name, *cell) for cell in clean + noisy for name in datasets]


def cell_path(out: Path, dataset: str, spec: str, recipe: str) -> Path:
    """The JSON file of a cell."""
    return out / dataset / f"{spec.replace(':', '-')}_{recipe.replace(', ', '_').replace(' ', '_')}.json"


def run_cell(dataset: str, spec: str, recipe: str, width: int, steps: int, out: Path) -> None:
    """Train, predict, and score at three thresholds: validation's, one half, the one that the noise implies."""
    from datasets.label_noise import spec_transition_matrix
    from evaluation import inference
    from evaluation.label_audit.transitions import implied_threshold
    from evaluation.metrics import evaluate_maps

    lists = (shortened_list(dataset, "train_gt", TRAIN_IMAGES), shortened_list(dataset, "val", VAL_IMAGES))
    loss, factor = RECIPES[recipe]
    run = train_cell(dataset, "noise_costs", spec, lists, width, steps * factor, loss=loss)
    inference.main(["--train_dir", str(run), "--test_ckpt_epoch", "best"])
    (folder,) = (run / "results").iterdir()
    implied = 0.5 if loss == "forward" else implied_threshold(spec_transition_matrix(spec))
    thresholds = {"validation": None, "half": 0.5, "implied": implied}
    figures = {name: evaluate_maps(folder, threshold=value, report=False) for name, value in thresholds.items()}
    write_json(
        cell_path(out, dataset, spec, recipe),
        {
            "dataset": dataset,
            "spec": spec,
            "recipe": recipe,
            "width": width,
            "steps": steps * factor,
            "iou": {name: value["pooled"]["iou"] for name, value in figures.items()},
            "oracle_iou": figures["validation"]["oracle"]["iou"],
            "auc": figures["validation"]["pooled"]["auc"],
            "environment": environment_record(),
        },
    )
    shutil.rmtree(run)


def gap_closed(value: float, plain: float, clean: float) -> str:
    """The share of the gap between plain training and clean labels, at the figure's steps, that a figure closes."""
    return "–" if clean - plain < 0.005 else f"{(value - plain) / (clean - plain):.0%}"


def summarize(datasets: list[str], out: Path) -> None:
    """Print and write the table of finished cells."""
    lines = [
        "| set | labels | recipe | IoU at 0.5 | IoU at implied | at validation's | best IoU | AUC | gap closed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    missing = []
    for cell in cells(datasets):
        path = cell_path(out, *cell)
        if path.exists():
            found[cell] = read_json(path)
        else:
            missing.append(" ".join(cell))
    for (dataset, spec, recipe), cell in found.items():
        same_steps = next(name for name in ("plain", "plain, more steps") if RECIPES[name][1] == RECIPES[recipe][1])
        clean, plain = found.get((dataset, "clean", same_steps)), found.get((dataset, spec, "plain"))
        closed = "–"
        if clean and plain and spec != "clean" and recipe != "plain":
            closed = gap_closed(cell["iou"]["implied"], plain["iou"]["implied"], clean["iou"]["implied"])
        ious = " | ".join(f"{cell['iou'][name]:.3f}" for name in ("half", "implied", "validation"))
        lines.append(
            f"| {dataset} | {spec} | {recipe} | {ious} | {cell['oracle_iou']:.3f} | {cell['auc']:.3f} | {closed} |"
        )
    lines += ["", f"Missing cells: {', '.join(missing) if missing else 'none'}."]
    (out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    """Work on the cells that are not finished, or summarize those that are."""
    options = parse_arguments()
    if options.summarize:
        summarize(options.datasets, options.out)
        return
    for dataset, spec, recipe in cells(options.datasets):
        if not cell_path(options.out, dataset, spec, recipe).exists():
            print(f"== {dataset} {spec} {recipe}", flush=True)
            run_cell(dataset, spec, recipe, options.width, options.steps, options.out)


if __name__ == "__main__":
    run_command(main)
