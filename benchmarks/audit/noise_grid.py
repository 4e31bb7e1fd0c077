"""What the audit says before training, beside what training then reaches: every label type on several data sets.

A trial audits the labels of a data set with a noise spec, trains a network on them with the quick recipe at a fixed
number of steps, and predicts and scores the test list by the users' commands.

    python benchmarks/audit/noise_grid.py
    python benchmarks/audit/noise_grid.py --summarize
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

DATASETS = ("er_sim", "nuc", "er_ernet")
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
    "dilate:5",
    "dilate:11",
    "erode:3",
    "erode:5",
    "skeleton",
    "wobble:3,8",
    "missing:0.3",
    "merge:5",
)
TRAIN_IMAGES, VAL_IMAGES = 120, 20
BATCH, EPOCHS = 8, 4
MIN_PHI = 0.02  # of what the scores imply, as of the audit's φ
BIAS = 0.05  # IoU below that of the clean labels from which a measured result counts as biased
COLUMNS = ("labels", "φ", "verdict", "ceiling", "predicted IoU", "measured", "φ of scores", "IoU", "oracle IoU", "AUC")
COLORS = {
    "learnable": "tab:green",
    "biased at boundaries": "tab:orange",
    "inverted": "tab:purple",
    "not learnable": "tab:red",
    "unknown": "tab:gray",
}


def train_on(dataset: str, spec: str, *, name: str, width: int, steps: int, **options: Any) -> Path:
    """Train on noisy labels of a part of the list for about ``steps`` steps and return the run folder."""
    from datasets.lists import read_list

    train_list = part_of_list(dataset, "train_gt", TRAIN_IMAGES, "noise_grid")
    repeat = max(1, round(steps * BATCH / EPOCHS / len(read_list(train_list))))
    given = {"train_list": str(train_list), "val_list": str(part_of_list(dataset, "val", VAL_IMAGES, "noise_grid"))}
    length = {"batch_size": BATCH, "epochs": EPOCHS, "repeat": repeat, "checkpoint_every": EPOCHS}
    return train(dataset, name, **RECORDED, label_noise=spec, width=width, **given, **length, **options)


def implied_phi(folder: Path, samples: list) -> float:
    r"""The association of label and truth that a network's scores imply, as it is, not inverted.

    .. math:: \hat\varphi = (\bar p_1 - \bar p_0) \sqrt{\frac{\pi (1 - \pi)}{\bar p (1 - \bar p)}}

    with mean scores of the true foreground, the background and all pixels, and π the share of foreground. For a
    perfect learner of pixel-wise noise it is φ itself.
    """
    from datasets.image_io import read_label, read_scores

    record = read_json(folder / "predictions.json")
    totals, counts = [0.0, 0.0], [0, 0]
    for sample in samples:
        scores, label = read_scores(folder / record["maps"][sample.image_id]), read_label(sample.label)
        for value in (0, 1):
            inside = label == value
            totals[value] += float(scores[inside].sum())
            counts[value] += int(inside.sum())
    gap = totals[1] / counts[1] - totals[0] / counts[0]
    share, mean = counts[1] / sum(counts), sum(totals) / sum(counts)
    phi = gap * (share * (1 - share) / (mean * (1 - mean))) ** 0.5
    return -phi if record["inverted"] else phi


def run_trial(dataset: str, spec: str, width: int, steps: int) -> dict[str, Any]:
    """Audit before the first step, train, test."""
    from datasets.lists import find_list, read_list
    from evaluation.pages.evaluate import evaluate_maps

    audit = audit_noise(spec, part_of_list(dataset, "train_gt", TRAIN_IMAGES, "noise_grid"), steps=steps)
    run = train_on(dataset, spec, name=f"grid_{spec.replace(':', '-')}", width=width, steps=steps)
    folder = predict(run)
    metrics = evaluate_maps(folder, report=False)
    measured = {
        **{name: metrics["pooled"][name] for name in ("iou", "f1", "auc")},
        "oracle_iou": metrics["oracle"]["iou"],
        "threshold": metrics["threshold"],
        "inverted": read_json(folder / "predictions.json")["inverted"],
        "phi": implied_phi(folder, read_list(find_list("test", dataset))),
    }
    shutil.rmtree(run)
    return {"audit": audit, "measured": measured, "settings": {"batch": BATCH, "train_images": TRAIN_IMAGES}}


def measured_verdict(measured: dict[str, Any], clean: dict[str, Any]) -> str:
    """What training showed, by rules that know nothing of the audit.

    *not learnable*: the scores imply |φ| < MIN_PHI; *inverted*: the foreground scores lower; *biased at boundaries*:
    the best threshold's IoU lies more than BIAS below that of clean labels; else *learnable*.
    """
    if abs(measured["phi"]) < MIN_PHI:
        return "not learnable"
    if measured["phi"] < 0:
        return "inverted"
    return "biased at boundaries" if clean["oracle_iou"] - measured["oracle_iou"] > BIAS else "learnable"


def with_verdicts(records: list[Record]) -> list[Record]:
    """Records with what training showed, of the data sets whose clean labels were tried."""
    clean = {record["cell"]["dataset"]: record["measured"] for record in records if record["cell"]["spec"] == "clean"}
    return [
        {**record, "verdict": measured_verdict(record["measured"], clean[record["cell"]["dataset"]])}
        for record in records
        if record["cell"]["dataset"] in clean
    ]


def tables(records: list[Record]) -> Tables:
    """A table for every data set, and the verdicts of the audit against those of training."""
    records = with_verdicts(records)
    datasets = dict.fromkeys(record["cell"]["dataset"] for record in records)
    grids = {
        f"noise_grid {name}": dataset_table(name, [record for record in records if record["cell"]["dataset"] == name])
        for name in datasets
    }
    verdicts = sorted({record["verdict"] for record in records})
    counts = confusion(records)
    rows = [[verdict, *(str(row.get(name, 0)) for name in verdicts)] for verdict, row in counts.items()]
    return {**grids, "noise_grid verdicts": markdown([r"audit \ training", *verdicts], rows)}


def dataset_table(dataset: str, records: list[Record]) -> str:
    """The labels of a data set by row, under a heading with Kendall's τ-b of predicted IoU."""
    from scipy.stats import kendalltau

    predicted = [record["audit"]["predicted_iou"] for record in records]
    taus = [kendalltau(predicted, [record["measured"][name] for record in records]) for name in ("iou", "oracle_iou")]
    said = "{:.2f} with IoU, {:.2f} with oracle IoU".format(*(tau.statistic for tau in taus))
    rows = []
    for record in records:
        audit, found = record["audit"], record["measured"]
        agrees = "" if audit["verdict"] == record["verdict"] else " ≠"
        before = [
            f"{audit['phi']:.3f}",
            audit["verdict"],
            f"{audit['iou_ceiling']:.2f}",
            f"{audit['predicted_iou']:.2f}",
        ]
        after = [f"{found[name]:.3f}" for name in ("phi", "iou", "oracle_iou", "auc")]
        inverted = "yes" if found["inverted"] else ""
        rows.append([record["cell"]["spec"], *before, record["verdict"] + agrees, *after, inverted])
    heading = f"### {dataset}: Kendall's τ-b of predicted IoU {said}"
    return f"{heading}\n\n{markdown([*COLUMNS, 'inverted'], rows)}"


def confusion(records: list[Record]) -> dict[str, dict[str, int]]:
    """Audit verdict → measured verdict → number of trials."""
    counts: dict[str, dict[str, int]] = {}
    for record in records:
        row = counts.setdefault(record["audit"]["verdict"], {})
        row[record["verdict"]] = row.get(record["verdict"], 0) + 1
    return counts


def draw(records: list[Record]) -> None:
    """Predicted against measured IoU, coloured by verdict."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    datasets = list(dict.fromkeys(record["cell"]["dataset"] for record in records))
    figure, axes = pyplot.subplots(1, len(datasets), figsize=(4.6 * len(datasets), 4.4), squeeze=False, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for record in (record for record in records if record["cell"]["dataset"] == dataset):
            x, y = record["audit"]["predicted_iou"], record["measured"]["iou"]
            axis.scatter(x, y, color=COLORS[record["audit"]["verdict"]], s=28)
            axis.annotate(record["cell"]["spec"], (x, y), fontsize=6.5, xytext=(3, 2), textcoords="offset points")
        axis.plot([0, 1], [0, 1], color="lightgray", zorder=0)
        axis.set(title=dataset, xlabel="IoU predicted before training", xlim=(0, 1), ylim=(0, 1))
    axes[0][0].set_ylabel("IoU measured on the test set")
    handles = [pyplot.Line2D([], [], marker="o", linestyle="", color=c, label=v) for v, c in COLORS.items()]
    axes[0][0].legend(handles=handles, fontsize=7, title="audit", title_fontsize=7, loc="upper left")
    figure.tight_layout()
    figure.savefig(REPO_ROOT / "docs" / "images" / "noise_grid.png", dpi=110)


STUDY = Study(
    name="noise_grid",
    cells=[{"dataset": dataset, "spec": spec, "width": 8, "steps": 480} for spec in SPECS for dataset in DATASETS],
    trial=run_trial,
    seconds=40,
    tables=tables,
    page="docs/results/audit.md",
    draw=draw,
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
