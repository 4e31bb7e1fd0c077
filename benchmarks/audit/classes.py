"""Several classes under label noise: what the audit says before training, and what training then reaches.

A trial audits the labels of a data set with a noise spec, trains a network on them with the quick recipe at a fixed
number of steps, and predicts and scores test images by the users' commands; the same scores are also decoded without
regard to the noise, by their plain argmax. SEG_TEST_DATA is the folder of real images, see CONTRIBUTING.md.

    python datasets/make_lists.py --dataset em_vnc --source $SEG_TEST_DATA/em_vnc
    python datasets/make_lists.py --dataset nuc_3class --source $SEG_TEST_DATA/nuc --labels labels_3class
    python benchmarks/audit/classes.py
    python benchmarks/audit/classes.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import shutil
from typing import Any

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import RECORDED, audit_noise, part_of_list, predict, train
from utils.cli import run_command
from utils.files import read_json
from utils.run_folder import REPO_ROOT

CLASSES = {
    "em_vnc": ("intracellular", "membrane", "mitochondria", "glia", "synapse"),
    "nuc_3class": ("background", "interior", "rim"),
}
# Uniform flips hold no signal at a fraction of (K − 1)/K; ``flip:1`` leaves not a single label right.
SPECS = {
    "em_vnc": ("clean", "sample:0.1", "flip:0.4", "flip:0.6", "flip:0.8", "flip:0.9", "flip:1"),
    "nuc_3class": ("clean", "sample:0.1", "flip:0.3", "flip:0.5", "flip:0.6667", "flip:0.8", "flip:1"),
}
IMAGES = {"train_gt": 120, "val": 20, "test": 64}
BATCH, EPOCHS = 8, 4
COLUMNS = ("labels", "φ", "contrast", "verdict", "ceiling", "predicted mIoU", "mIoU", "plain argmax")


def make_cells() -> list[dict[str, Any]]:
    """Every noise on its data set; then one label with three times the steps, and two with another seed."""
    common = {"width": 16, "repeat": 3, "seed": 0}
    grid = [{"dataset": dataset, "spec": spec, **common} for dataset, specs in SPECS.items() for spec in specs]
    longer = {"dataset": "em_vnc", "spec": "flip:0.6", **common, "repeat": 9}
    again = [{"dataset": "nuc_3class", "spec": spec, **common, "seed": 1} for spec in ("sample:0.1", "flip:0.3")]
    return [*grid, longer, *again]


def run_trial(dataset: str, spec: str, width: int, repeat: int, seed: int) -> dict[str, Any]:
    """Audit before the first step, train, test."""
    num_classes = len(CLASSES[dataset])
    lists = {name: part_of_list(dataset, name, count, "classes") for name, count in IMAGES.items()}
    audit = audit_noise(spec, lists["train_gt"], num_classes, seed=seed)
    run = train(
        dataset,
        f"classes_{spec.replace(':', '-')}",
        **RECORDED,
        num_classes=num_classes,
        label_noise=spec,
        width=width,
        train_list=str(lists["train_gt"]),
        val_list=str(lists["val"]),
        batch_size=BATCH,
        epochs=EPOCHS,
        repeat=repeat,
        checkpoint_every=EPOCHS,
        seed=seed,
    )
    measured = test_network(run, lists["test"], num_classes)
    shutil.rmtree(run)
    steps = -(-IMAGES["train_gt"] * repeat // BATCH) * EPOCHS
    return {"audit": audit, "measured": measured, "settings": {"batch_size": BATCH, "epochs": EPOCHS, "steps": steps}}


def test_network(run: Path, test_list: Path, num_classes: int) -> dict[str, Any]:
    """Predict and score a list with the run's best checkpoint, and with the plain argmax of the same scores."""
    from datasets.image_io import read_label, read_scores
    from datasets.lists import read_list
    from evaluation.pages.evaluate import evaluate_maps
    from evaluation.scores import confusion_matrix, mean_iou

    folder = predict(run, "--data_list", str(test_list), "--save_scores")
    metrics, record = evaluate_maps(folder, report=False), read_json(folder / "predictions.json")
    plain = 0
    for sample in read_list(test_list):
        scores = read_scores(folder / "scores" / Path(record["maps"][sample.image_id]).name)
        plain = plain + confusion_matrix(scores.argmax(0), read_label(sample.require_label(), num_classes), num_classes)
    return {
        "miou": metrics["pooled"]["iou"],
        "mf1": metrics["pooled"]["f1"],
        "accuracy": metrics["pooled"]["accuracy"],
        "miou_per_image": metrics["per_image_mean"]["iou"],
        "plain_argmax_miou": mean_iou(plain),
        "decoded": read_json(run / "config.json")["decode_matrix"] is not None,
        "class_iou": [row["iou"] for row in metrics["classes"]],
        "class_f1": [row["f1"] for row in metrics["classes"]],
        "confusion": metrics["confusion"],
        "test_images": metrics["n_images"],
        "epoch": record["epoch"],
    }


def in_table(records: list[Record]) -> dict[str, list[Record]]:
    """The records of the grid itself by data set, without longer trainings and other seeds."""
    grid = [record for record in records if record["cell"]["repeat"] == 3 and record["cell"]["seed"] == 0]
    sets = dict.fromkeys(record["cell"]["dataset"] for record in grid)
    return {name: [record for record in grid if record["cell"]["dataset"] == name] for name in sets}


def tables(records: list[Record]) -> Tables:
    """A table for every data set."""
    made = {}
    for dataset, mine in in_table(records).items():
        names = CLASSES[dataset]
        heading = f"### {dataset}: {len(names)} classes, no signal at flip:{(len(names) - 1) / len(names):.4g}"
        made[f"classes {dataset}"] = f"{heading}\n\n{markdown([*COLUMNS, *names], [row(record) for record in mine])}"
    return made


def row(record: Record) -> list[str]:
    """A trial as a line of the table."""

    def number(value: float | None, digits: int = 2) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    audit, found = record["audit"], record["measured"]
    said = [number(audit["phi"], 3), number(audit["contrast"], 3), audit["verdict"], number(audit["iou_ceiling"])]
    plain = number(found["plain_argmax_miou"], 3) if found["decoded"] else "same"
    reached = [number(audit["predicted_iou"]), number(found["miou"], 3), plain]
    return [record["cell"]["spec"], *said, *reached, *map(number, found["class_iou"])]


def draw(records: list[Record]) -> None:
    """Test mIoU over the fraction of flipped labels, for each data set, beside what was predicted before training."""
    from matplotlib.figure import Figure

    from utils.plots import BLUE, GREY, INK, ORANGE

    sets = in_table(records)
    figure = Figure(figsize=(5 * len(sets), 3.6), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, (dataset, mine) in zip(panels, sets.items(), strict=True):
        flips = [record for record in mine if not record["cell"]["spec"].startswith("sample")]
        fractions = [float(each["cell"]["spec"].removeprefix("flip:").replace("clean", "0")) for each in flips]
        for name, color, style, values in (
            ("predicted before training", ORANGE, "s:", [each["audit"]["predicted_iou"] for each in flips]),
            ("plain argmax", GREY, "o-", [each["measured"]["plain_argmax_miou"] for each in flips]),
            ("scores corrected by Q⁻¹", BLUE, "o-", [each["measured"]["miou"] for each in flips]),
        ):
            axes.plot(fractions, values, style, color=color, label=name)
        for each in (record for record in mine if record["cell"]["spec"].startswith("sample")):
            axes.plot(0, each["measured"]["miou"], "^", color=BLUE, markerfacecolor="none", label=each["cell"]["spec"])
        classes = len(CLASSES[dataset])
        axes.axvline((classes - 1) / classes, color=INK, linestyle="--", linewidth=0.8, label="(K − 1)/K")
        axes.set(title=f"{dataset}, {classes} classes", xlabel="share of labels flipped", ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("test mIoU")
    figure.savefig(REPO_ROOT / "docs" / "images" / "multiclass.png", dpi=110)


STUDY = Study(
    name="classes",
    cells=make_cells(),
    trial=run_trial,
    seconds=40,
    tables=tables,
    page="docs/results/classes.md",
    draw=draw,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
