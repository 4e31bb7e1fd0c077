"""Calibrate the constants of predicted IoU on simulated sets: which bandwidth, blur and number of pixels to trust.

The constants of ``evaluation/label_audit/predicted_iou.py`` are chosen here and fixed in its code; real images have no
part. Predictions of every combination are held against one of two references over a grid of label noise:

- measured (``--measured benchmarks/results/noise_grid.jsonl``): test IoU of networks trained on the same cells, by
  ``benchmarks/audit/noise_grid.py``. Cells of other than simulated sets are left out and counted.
- without it: the same stand-in fitted to very many single pixels without averaging, which is what averaging over the
  window of bandwidth h is to replace.

Printed and written: Kendall's τ-b and the root mean square difference, per set and over all, for each combination.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder, which shadows others

import argparse
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.grid import read_results
from utils.cli import CommandParser, Progress, UserError, run_command
from utils.files import write_json
from utils.run_folder import environment_record

if TYPE_CHECKING:
    import numpy as np

    from evaluation.label_audit.predicted_iou import IoUPredictor

SIMULATED = ("er_sim", "mito_sim", "nuc_sim")
SPECS = (
    "clean",
    "sample:0.5",
    "sample:0.1",
    "sample:0.02",
    "flip:0.2",
    "flip:0.45",
    "flip:0.5",
    "flip:0.55",
    "flip:0.9",
    "random:0.1",
    "random:0.3",
    "random:0.5",
    "dilate:3",
    "dilate:7",
    "erode:3",
    "erode:5",
    "skeleton",
    "wobble:2,8",
    "wobble:4,8",
    "missing:0.3",
    "merge:6",
    "skeleton+shift:1+sample:0.1",
)
BANDWIDTHS, BLURS, PIXELS = (0, 1, 2, 3, 4), (0, 1), (750, 1500, 3000)
MANY_PIXELS, IMAGES, SEED = 12000, 40, 0
MEASURED_IMAGES = 60  # as many as the audit looks at; the networks saw more


@dataclass(frozen=True)
class Cell:
    """A label set of a simulated data set and the IoU that it leads to, None where it is still to be found."""

    dataset: str
    spec: str
    images: int
    iou: float | None = None


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="benchmarks/audit/calibrate.py",
        formatter_class=argparse.HelpFormatter,
        description="Calibrate the predicted IoU of the label audit on simulated sets.",
    )
    parser.add_argument("--measured", type=Path, metavar="PATH", help="trained cells: results of the noise grid")
    parser.add_argument("--datasets", nargs="+", choices=SIMULATED, default=SIMULATED, help="simulated sets to use")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("calibration.json"),
        metavar="FILE",
        help="where the table goes (calibration.json)",
    )
    return parser.parse_args(arguments)


def read_cells(path: Path, datasets: Iterable[str]) -> tuple[list[Cell], int]:
    """The measured cells of the chosen simulated sets in the noise grid's results, and how many others there are."""
    records = list(read_results(path).values())
    chosen = [record for record in records if record["cell"]["dataset"] in set(datasets)]
    if not chosen:
        raise UserError(f"{path} has no finished cell of {', '.join(datasets)}; run the noise grid first")
    cells = [
        Cell(record["cell"]["dataset"], record["cell"]["spec"], MEASURED_IMAGES, record["measured"]["iou"])
        for record in chosen
    ]
    return cells, len(records) - len(chosen)


def simulate(dataset: str, images: int) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """The first training images of a simulated set, their masks and image ids, as on disk."""
    from datasets.simulation import SIMULATED as RECIPES
    from datasets.simulation import image_rng, simulate_image

    images = min(images, RECIPES[dataset].counts[0])
    pairs = [simulate_image(dataset, image_rng(dataset, "train", index)) for index in range(images)]
    ids = [f"datasets/{dataset}/train/images/{index:03d}.tif" for index in range(images)]
    return [image for image, _ in pairs], [mask for _, mask in pairs], ids


def predict(
    outlook: IoUPredictor, masks: list[np.ndarray], ids: list[str], spec: str, settings: Iterable[tuple[int, int]]
) -> list[float]:
    """Predicted IoU of one label set for every (bandwidth, blur)."""
    import numpy as np

    from datasets.label_noise import make_noisy_label
    from datasets.transition_matrix import count_transitions
    from evaluation.label_audit.by_distance import location_counts
    from evaluation.label_audit.estimate import estimate_transitions
    from evaluation.label_audit.iou_ceiling import iou_ceiling

    noisy = [make_noisy_label(mask, spec, SEED, name) for mask, name in zip(masks, ids, strict=True)]
    table = np.stack([location_counts(bins, label) for bins, label in zip(outlook.bins, noisy, strict=True)])
    counts = [count_transitions(mask, label) for mask, label in zip(masks, noisy, strict=True)]
    transitions = estimate_transitions(counts, SEED)
    if transitions.no_association:
        return [iou_ceiling(table, transitions).value for _ in settings]
    inverted = transitions.phi < 0
    return [outlook.iou(outlook.scores(noisy, table, *setting), transitions, inverted) for setting in settings]


def predict_set(cells: list[Cell]) -> tuple[list[dict[str, Any]], list[float]]:
    """Predictions of the cells of one data set for every combination, and the reference IoU of each cell."""
    from evaluation.label_audit.by_distance import location_bins
    from evaluation.label_audit.predicted_iou import IoUPredictor

    images, masks, ids = simulate(cells[0].dataset, max(cell.images for cell in cells))
    bins = [location_bins(mask) for mask in masks]
    settings = list(itertools.product(BANDWIDTHS, BLURS))
    rows = []
    with Progress(len(cells) * len(PIXELS), cells[0].dataset, "prediction") as progress:
        for pixels in PIXELS:
            outlook = IoUPredictor(images, masks, bins, seed=SEED, pixels=pixels)
            found = []
            for cell in cells:
                found.append(predict(outlook, masks, ids, cell.spec, settings))
                progress.update()
            for place, (bandwidth, blur) in enumerate(settings):
                rows.append(
                    {
                        "bandwidth": bandwidth,
                        "blur": blur,
                        "pixels": pixels,
                        "predicted": [values[place] for values in found],
                    }
                )
    if cells[0].iou is not None:
        return rows, [cell.iou for cell in cells]
    dense = IoUPredictor(images, masks, bins, seed=SEED, pixels=MANY_PIXELS)
    return rows, [predict(dense, masks, ids, cell.spec, [(0, 0)])[0] for cell in cells]


def compare(predicted: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Kendall's τ-b and the root mean square difference; figures closer than a thousandth are ties."""
    import numpy as np
    from scipy.stats import kendalltau

    first, second = np.round(predicted, 3), np.round(reference, 3)
    return {"tau": float(kendalltau(first, second).statistic), "rms": float(np.sqrt(np.mean((first - second) ** 2)))}


def calibrate(cells: list[Cell]) -> dict[str, Any]:
    """Every combination held against the reference, best first (by mean τ-b less the mean rms difference)."""
    import numpy as np

    sets = {name: [cell for cell in cells if cell.dataset == name] for name in dict.fromkeys(c.dataset for c in cells)}
    results = {name: predict_set(members) for name, members in sets.items()}
    table = []
    for combination in zip(*(rows for rows, _ in results.values()), strict=True):
        figures = {
            name: compare(row["predicted"], results[name][1]) for name, row in zip(results, combination, strict=True)
        }
        mean = {key: float(np.mean([figure[key] for figure in figures.values()])) for key in ("tau", "rms")}
        constants = {key: combination[0][key] for key in ("bandwidth", "blur", "pixels")}
        predicted = {name: row["predicted"] for name, row in zip(results, combination, strict=True)}
        table.append({**constants, **mean, "sets": figures, "predicted": predicted})
    table.sort(key=lambda row: row["rms"] - row["tau"])
    return {
        "specs": {name: [cell.spec for cell in members] for name, members in sets.items()},
        "reference": {name: values for name, (_, values) in results.items()},
        "table": table,
    }


def main() -> None:
    """Read or make the reference, try every combination, print and write the table."""
    options = parse_options()
    if options.measured is None:
        cells = [Cell(name, spec, IMAGES) for name in options.datasets for spec in SPECS]
        print(f"reference: the stand-in on {MANY_PIXELS} single pixels of {IMAGES} images")
    else:
        cells, others = read_cells(options.measured, options.datasets)
        print(f"reference: {len(cells)} trained cells; {others} unfinished or not simulated are left out")
    result = calibrate(cells)
    print("bandwidth  blur  pixels  τ-b    rms")
    for row in result["table"]:
        print(f"{row['bandwidth']:9d} {row['blur']:5d} {row['pixels']:7d}  {row['tau']:.3f}  {row['rms']:.4f}")
    write_json(options.out, {**result, "environment": environment_record("cpu")})
    print(f"written to {options.out}")


if __name__ == "__main__":
    run_command(main)
