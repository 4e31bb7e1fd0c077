"""Several classes under label noise: what the audit says before training, and what training then reaches.

A cell is a data set and a noise spec. Its labels are audited, a network is trained on them with the quick recipe at a
fixed number of steps, and the test images are predicted and scored by the users' commands; the same scores are also
decoded without regard to the noise, by their plain argmax. Finished cells are kept, so that the benchmark can be
stopped and gone on with. ``--summarize`` writes the table, in which cells that were not run are named as missing, and
the figure.

    python datasets/make_lists.py --dataset em_vnc --source ../shared/data/em_vnc
    python datasets/make_lists.py --dataset nuc_3class --source ../shared/data/nuc --labels labels_3class
    python benchmarks/audit/classes.py
    python benchmarks/audit/classes.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import argparse
import shutil
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.audit.noise_grid import shortened_list
from utils.cli import CommandParser, run_command
from utils.files import read_json, write_json
from utils.run_folder import LOG_ROOT, REPO_ROOT, environment_record

RESULTS = REPO_ROOT / "benchmarks" / "results" / "multiclass"


@dataclass(frozen=True)
class DataSet:
    """A data set with lists: its classes by index, and the noise it is tried with.

    Uniform flips hold no signal at a share of (K − 1)/K; ``flip:1`` leaves not a single label right.
    """

    classes: tuple[str, ...]
    specs: tuple[str, ...]


DATA_SETS = {
    "em_vnc": DataSet(
        ("intracellular", "membrane", "mitochondria", "glia", "synapse"),
        ("clean", "sample:0.1", "flip:0.4", "flip:0.6", "flip:0.8", "flip:0.9", "flip:1"),
    ),
    "nuc_3class": DataSet(
        ("background", "interior", "rim"),
        ("clean", "sample:0.1", "flip:0.3", "flip:0.5", "flip:0.6667", "flip:0.8", "flip:1"),
    ),
}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__.splitlines()[0], formatter_class=argparse.HelpFormatter)
    add = parser.add_argument
    add("--datasets", nargs="+", default=list(DATA_SETS), choices=DATA_SETS, help="data sets (default: all)")
    add("--specs", nargs="+", metavar="SPEC", help="noise specs (default: those of each data set)")
    add("--train_images", type=int, default=120, metavar="N", help="training images (default: 120)")
    add("--val_images", type=int, default=20, metavar="N", help="validation images (default: 20)")
    add("--test_images", type=int, default=64, metavar="N", help="test images (default: 64)")
    add("--batch_size", type=int, default=8, metavar="N", help="images a step (default: 8)")
    add("--epochs", type=int, default=4, metavar="N", help="epochs; validation follows each (default: 4)")
    add("--repeat", type=int, default=3, metavar="N", help="draws of an image in an epoch (default: 3)")
    add("--width", type=int, default=16, help="channels of the U-Net's first level (default: 16)")
    add("--seed", type=int, default=0, metavar="S", help="seed of noise and training (default: 0)")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="where cells and summary go")
    add("--summarize", action="store_true", help="no training: table and figure of finished cells")
    return parser.parse_args()


def cell_path(out: Path, dataset: str, spec: str) -> Path:
    """The JSON file of a cell."""
    return out / dataset / f"{spec.replace(':', '-')}.json"


def audit_cell(spec: str, train_list: Path, num_classes: int, seed: int) -> dict[str, Any]:
    """The audit of the labels that the cell trains on."""
    from datasets.image_io import read_image, read_label
    from datasets.label_noise import make_noisy_label
    from datasets.lists import read_list
    from evaluation.label_audit import audit_labels

    samples = read_list(train_list)
    truth = [read_label(sample.label, num_classes) for sample in samples]
    noisy = [
        make_noisy_label(label, spec, seed, sample.image_id, num_classes)
        for label, sample in zip(truth, samples, strict=True)
    ]
    started = time.monotonic()
    report = audit_labels(noisy, truth, [read_image(sample.image) for sample in samples], num_classes)
    return {**report.to_json(), "seconds": time.monotonic() - started, "profile": None}


def train_cell(dataset: str, spec: str, train_list: Path, num_classes: int, options: argparse.Namespace) -> Path:
    """Train on noisy labels and return the run folder; what an interrupted cell left is removed first."""
    from training.fit import configure, fit

    name = f"multiclass_{spec.replace(':', '-')}"
    shutil.rmtree(LOG_ROOT / dataset / name, ignore_errors=True)
    given = {
        "dataset": dataset,
        "num_classes": num_classes,
        "label_noise": spec,
        "preset": "quick",
        "width": options.width,
        "train_list": str(train_list),
        "batch_size": options.batch_size,
        "epochs": options.epochs,
        "val_list": str(shortened_list(dataset, "val", options.val_images, "multiclass")),
        "repeat": options.repeat,
        "checkpoint_every": options.epochs,
        "audit": False,
        "tensorboard": False,
        "run_name": name,
        "seed": options.seed,
    }
    return fit(configure(given))


def test_cell(run: Path, test_list: Path, num_classes: int) -> dict[str, Any]:
    """Predict and score a list with the run's best checkpoint, and with the plain argmax of the same scores."""
    from datasets.image_io import read_label, read_scores
    from datasets.lists import read_list
    from evaluation import inference
    from evaluation.metrics import evaluate_maps
    from evaluation.scores import confusion_matrix, mean_iou

    inference.main(
        ["--train_dir", str(run), "--test_ckpt_epoch", "best", "--data_list", str(test_list), "--save_scores"]
    )
    (folder,) = (run / "results").iterdir()
    figures, record = evaluate_maps(folder, report=False), read_json(folder / "predictions.json")
    plain = 0
    for sample in read_list(test_list):
        scores = read_scores(folder / "scores" / Path(record["maps"][sample.image_id]).name)
        label = read_label(sample.label, num_classes)
        plain = plain + confusion_matrix(scores.argmax(0), label, num_classes)
    config = read_json(run / "config.json")
    return {
        "miou": figures["pooled"]["iou"],
        "mf1": figures["pooled"]["f1"],
        "accuracy": figures["pooled"]["accuracy"],
        "miou_per_image": figures["per_image_mean"]["iou"],
        "plain_argmax_miou": mean_iou(plain),
        "decoded": config["decode_matrix"] is not None,
        "class_iou": [row["iou"] for row in figures["classes"]],
        "class_f1": [row["f1"] for row in figures["classes"]],
        "confusion": figures["confusion"],
        "test_images": figures["n_images"],
        "epoch": record["epoch"],
    }


def run_cell(dataset: str, spec: str, options: argparse.Namespace) -> None:
    """Audit, train, test and write one cell."""
    num_classes = len(DATA_SETS[dataset].classes)
    train_list = shortened_list(dataset, "train_gt", options.train_images, "multiclass")
    audit = audit_cell(spec, train_list, num_classes, options.seed)  # before the first step
    started = time.monotonic()
    test_list = shortened_list(dataset, "test", options.test_images, "multiclass")
    run = train_cell(dataset, spec, train_list, num_classes, options)
    seconds = time.monotonic() - started
    kept = ("train_images", "val_images", "batch_size", "epochs", "repeat", "width", "seed")
    settings = {name: getattr(options, name) for name in kept}
    steps = -(-options.train_images * options.repeat // options.batch_size) * options.epochs
    write_json(
        cell_path(options.out, dataset, spec),
        {
            "dataset": dataset,
            "spec": spec,
            "audit": audit,
            "measured": test_cell(run, test_list, num_classes),
            "training_seconds": seconds,
            "settings": {**settings, "steps": steps, "preset": "quick"},
            "environment": environment_record("cpu"),
        },
    )
    shutil.rmtree(run)


def summarize(datasets: list[str], out: Path) -> str:
    """The table of the finished cells, which also goes to summary.md; missing cells are named. Draws multiclass.png."""
    lines, finished = [], {}
    for dataset in datasets:
        known = DATA_SETS[dataset]
        paths = {spec: cell_path(out, dataset, spec) for spec in known.specs}
        classes = len(known.classes)
        lines += [f"### {dataset}: {classes} classes, no signal at flip:{(classes - 1) / classes:.4g}", ""]
        lines += [
            "| labels | φ | contrast | verdict | ceiling | predicted mIoU | mIoU | plain argmax | "
            + " | ".join(known.classes)
            + " |",
            "|---" * (8 + classes) + "|",
        ]
        finished[dataset] = [read_json(path) for path in paths.values() if path.exists()]
        lines += map(row, finished[dataset])
        missing = [spec for spec, path in paths.items() if not path.exists()]
        lines += ["", f"Missing cells: {', '.join(missing) or 'none'}.", ""]
    text = "\n".join(lines)
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.md").write_text(text, encoding="utf-8")
    draw(finished, out / "multiclass.png")
    return text


def row(cell: dict[str, Any]) -> str:
    """A cell as a line of the table."""

    def number(value: float | None, digits: int = 2) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    audit, found = cell["audit"], cell["measured"]
    said = [
        number(audit["phi"], 3),
        number(audit["contrast"], 3),
        audit["verdict"],
        number(audit["iou_ceiling"]),
        number(audit["predicted_iou"]),
    ]
    reached = [number(found["miou"], 3), number(found["plain_argmax_miou"], 3) if found["decoded"] else "same"]
    return f"| {' | '.join([cell['spec'], *said, *reached, *map(number, found['class_iou'])])} |"


def draw(finished: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Test mIoU over the share of flipped labels, for each data set, beside what was predicted before training."""
    from matplotlib.figure import Figure

    from evaluation.report.charts import BLUE, GREY, INK, ORANGE

    figure = Figure(figsize=(5 * len(finished), 3.6), layout="constrained")
    panels = figure.subplots(1, len(finished), squeeze=False)[0]
    for axes, (dataset, cells) in zip(panels, finished.items(), strict=True):
        flips = [
            (float(cell["spec"].removeprefix("flip:").replace("clean", "0")), cell)
            for cell in cells
            if not cell["spec"].startswith("sample")
        ]
        shares = [share for share, _ in flips]
        for name, color, style, values in (
            ("predicted before training", ORANGE, "s:", [cell["audit"]["predicted_iou"] for _, cell in flips]),
            ("plain argmax", GREY, "o-", [cell["measured"]["plain_argmax_miou"] for _, cell in flips]),
            ("scores corrected by Q⁻¹", BLUE, "o-", [cell["measured"]["miou"] for _, cell in flips]),
        ):
            axes.plot(shares, values, style, color=color, label=name)
        for cell in (cell for cell in cells if cell["spec"].startswith("sample")):
            axes.plot(0, cell["measured"]["miou"], "^", color=BLUE, markerfacecolor="none", label=cell["spec"])
        classes = len(DATA_SETS[dataset].classes)
        axes.axvline((classes - 1) / classes, color=INK, linestyle="--", linewidth=0.8, label="(K − 1)/K")
        axes.set(title=f"{dataset}, {classes} classes", xlabel="share of labels flipped", ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("test mIoU")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Work on the cells that are not finished, or make the table of those that are."""
    options = parse_arguments()
    if not options.summarize:
        from datasets.catalog import prepare_dataset

        for dataset in options.datasets:
            prepare_dataset(dataset)
            for spec in options.specs or DATA_SETS[dataset].specs:
                if not cell_path(options.out, dataset, spec).exists():
                    print(f"== {dataset} {spec}", flush=True)
                    run_cell(dataset, spec, options)
    print(summarize(options.datasets, options.out))


if __name__ == "__main__":
    run_command(main)
