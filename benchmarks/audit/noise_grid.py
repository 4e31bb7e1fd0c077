"""What the audit says before training, beside what training then reaches: every label type on several data sets.

A cell is a data set and a noise spec: the labels are audited, a network is trained on them with the quick recipe at a
fixed number of steps, and its test figures are written as JSON. Finished cells are kept, so the grid can be stopped
and gone on with; several processes may work on it at once (``--part 1/2``). ``--summarize`` makes table and figure.

    python benchmarks/audit/noise_grid.py --datasets er_sim nuc er_ernet
    python benchmarks/audit/noise_grid.py --datasets er_sim nuc er_ernet --summarize
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

from utils.cli import CommandParser, UserError, run_command
from utils.files import read_json, write_json
from utils.run_folder import LOG_ROOT, REPO_ROOT, environment_record

RESULTS = REPO_ROOT / "benchmarks" / "results" / "noise_grid"
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
BATCH, STEPS, EPOCHS = 8, 480, 4
MIN_PHI = 0.02  # of what the scores imply, as of the audit's φ
COLUMNS = (
    "labels",
    "φ",
    "verdict",
    "ceiling",
    "predicted IoU",
    "measured",
    "φ of scores",
    "IoU",
    "oracle IoU",
    "AUC",
    "inverted",
)
BIAS = 0.05  # IoU below that of the clean labels from which a measured result counts as biased


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__.splitlines()[0], formatter_class=argparse.HelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["er_sim"], metavar="NAME", help="data sets with lists")
    parser.add_argument("--specs", nargs="+", default=list(SPECS), metavar="SPEC", help="noise specs (default: all)")
    parser.add_argument("--width", type=int, default=16, help="channels of the U-Net's first level (default: 16)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of a cell (default: {STEPS})")
    parser.add_argument("--part", default="1/1", metavar="k/K", help="work on every K-th cell, from the k-th")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where cells and summary go")
    parser.add_argument("--summarize", action="store_true", help="no training: table and figure of finished cells")
    return parser.parse_args()


def cell_path(out: Path, dataset: str, spec: str) -> Path:
    """The JSON file of a cell."""
    return out / dataset / f"{spec.replace(':', '-')}.json"


def shortened_list(dataset: str, name: str, count: int, benchmark: str = "noise_grid") -> Path:
    """A list of ``count`` images spread evenly over a list of the data set, below the benchmark's own folder."""
    from datasets.lists import find_list, read_list, write_list

    samples = read_list(find_list(name, dataset), say=lambda line: None)
    step = max(1, len(samples) / count)
    chosen = [samples[int(place * step)] for place in range(min(count, len(samples)))]
    path = LOG_ROOT / benchmark / dataset / f"{name}.txt"
    write_list(path, [(sample.image, sample.label) for sample in chosen])
    return path


def audit_cell(dataset: str, spec: str, train_list: Path) -> dict[str, Any]:
    """The audit of the labels that the cell trains on."""
    from datasets.image_io import read_image, read_label
    from datasets.label_noise import make_noisy_label
    from datasets.lists import read_list
    from evaluation.label_audit import audit_labels

    samples = read_list(train_list)
    truth = [read_label(sample.label) for sample in samples]
    noisy = [make_noisy_label(label, spec, 0, sample.image_id) for label, sample in zip(truth, samples, strict=True)]
    started = time.monotonic()
    report = audit_labels(noisy, truth, [read_image(sample.image) for sample in samples])
    return {**report.to_json(), "seconds": time.monotonic() - started, "profile": None}


def train_cell(
    dataset: str, name: str, spec: str, lists: tuple[Path, Path], width: int, steps: int, **options: Any
) -> Path:
    """Train on noisy labels for about ``steps`` steps and return the run folder.

    Args:
        name: of the run; what an interrupted cell left under it is removed.
        lists: of training (clean labels) and validation.
        options: further training options.
    """
    from datasets.lists import read_list
    from training.fit import configure, fit

    train_list, val_list = lists
    repeat = max(1, round(steps * BATCH / EPOCHS / len(read_list(train_list))))
    shutil.rmtree(LOG_ROOT / dataset / name, ignore_errors=True)
    given = {
        "dataset": dataset,
        "train_list": str(train_list),
        "val_list": str(val_list),
        "label_noise": spec,
        "preset": "quick",
        "width": width,
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "repeat": repeat,
        "audit": False,
        "tensorboard": False,
        "checkpoint_every": EPOCHS,
        "run_name": name,
        **options,
    }
    return fit(configure(given))


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


def test_cell(run: Path, dataset: str) -> dict[str, Any]:
    """Predict and score the test list with the run's best checkpoint, by the users' commands."""
    from datasets.lists import find_list, read_list
    from evaluation import inference
    from evaluation.metrics import evaluate_maps

    inference.main(["--train_dir", str(run), "--test_ckpt_epoch", "best"])
    (folder,) = (run / "results").iterdir()
    figures = evaluate_maps(folder, report=False)
    record = read_json(folder / "predictions.json")
    phi = implied_phi(folder, read_list(find_list("test", dataset)))
    shutil.rmtree(run)
    return {
        "iou": figures["pooled"]["iou"],
        "f1": figures["pooled"]["f1"],
        "auc": figures["pooled"]["auc"],
        "oracle_iou": figures["oracle"]["iou"],
        "threshold": figures["threshold"],
        "inverted": record["inverted"],
        "phi": phi,
    }


def run_cell(dataset: str, spec: str, width: int, steps: int, out: Path) -> None:
    """Audit, train, test and write one cell."""
    train_list = shortened_list(dataset, "train_gt", TRAIN_IMAGES)
    val_list = shortened_list(dataset, "val", VAL_IMAGES)
    audit = audit_cell(dataset, spec, train_list)  # before the first step
    started = time.monotonic()
    name = f"grid_{spec.replace(':', '-')}"
    run = train_cell(dataset, name, spec, (train_list, val_list), width, steps)
    seconds = time.monotonic() - started
    measured = test_cell(run, dataset)
    write_json(
        cell_path(out, dataset, spec),
        {
            "dataset": dataset,
            "spec": spec,
            "audit": audit,
            "measured": measured,
            "training_seconds": seconds,
            "settings": {"width": width, "steps": steps, "batch": BATCH, "train_images": TRAIN_IMAGES},
            "environment": environment_record(),
        },
    )


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


def summarize(datasets: list[str], specs: list[str], out: Path) -> None:
    """Write summary.json, summary.md and noise_grid.png from the finished cells."""
    from scipy.stats import kendalltau

    cells, missing = [], []
    for dataset in datasets:
        for spec in specs:
            path = cell_path(out, dataset, spec)
            cells.append(read_json(path)) if path.exists() else missing.append(f"{dataset} {spec}")
    clean = {cell["dataset"]: cell["measured"] for cell in cells if cell["spec"] == "clean"}
    cells = [cell for cell in cells if cell["dataset"] in clean]
    for cell in cells:
        cell["measured_verdict"] = measured_verdict(cell["measured"], clean[cell["dataset"]])
    tau = {}
    for dataset in clean:
        mine = [cell for cell in cells if cell["dataset"] == dataset]
        predicted = [cell["audit"]["predicted_iou"] for cell in mine]
        tau[dataset] = {
            name: float(kendalltau(predicted, [cell["measured"][name] for cell in mine]).statistic)
            for name in ("iou", "oracle_iou")
        }
    write_json(out / "summary.json", {"kendall_tau_b": tau, "missing": missing, "confusion": confusion(cells)})
    (out / "summary.md").write_text(markdown(cells, tau, missing), encoding="utf-8")
    draw(cells, out / "noise_grid.png")
    print((out / "summary.md").read_text(encoding="utf-8"))


def confusion(cells: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Audit verdict → measured verdict → number of cells."""
    table: dict[str, dict[str, int]] = {}
    for cell in cells:
        row = table.setdefault(cell["audit"]["verdict"], {})
        row[cell["measured_verdict"]] = row.get(cell["measured_verdict"], 0) + 1
    return table


def markdown(cells: list[dict[str, Any]], tau: dict[str, dict[str, float]], missing: list[str]) -> str:
    """The grid as tables."""
    lines = []
    for dataset, value in tau.items():
        taus = f"{value['iou']:.2f} with IoU, {value['oracle_iou']:.2f} with oracle IoU"
        lines += [f"### {dataset}: Kendall's τ-b of predicted IoU {taus}", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
        for cell in (cell for cell in cells if cell["dataset"] == dataset):
            audit, found = cell["audit"], cell["measured"]
            agrees = "" if audit["verdict"] == cell["measured_verdict"] else " ≠"
            lines.append(
                f"| {cell['spec']} | {audit['phi']:.3f} | {audit['verdict']} | {audit['iou_ceiling']:.2f} "
                f"| {audit['predicted_iou']:.2f} | {cell['measured_verdict']}{agrees} | {found['phi']:.3f} "
                f"| {found['iou']:.3f} | {found['oracle_iou']:.3f} | {found['auc']:.3f} "
                f"| {'yes' if found['inverted'] else ''} |"
            )
        lines.append("")
    verdicts = sorted({cell["measured_verdict"] for cell in cells})
    lines += ["| audit \\ training | " + " | ".join(verdicts) + " |", "|---" * (len(verdicts) + 1) + "|"]
    for verdict, row in confusion(cells).items():
        lines.append(f"| {verdict} | " + " | ".join(str(row.get(name, 0)) for name in verdicts) + " |")
    lines += ["", f"Missing cells: {', '.join(missing) if missing else 'none'}.", ""]
    return "\n".join(lines)


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Predicted against measured IoU, coloured by verdict."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    datasets = list(dict.fromkeys(cell["dataset"] for cell in cells))
    colors = {
        "learnable": "tab:green",
        "biased at boundaries": "tab:orange",
        "inverted": "tab:purple",
        "not learnable": "tab:red",
        "unknown": "tab:gray",
    }
    figure, axes = pyplot.subplots(1, len(datasets), figsize=(4.6 * len(datasets), 4.4), squeeze=False, sharey=True)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for cell in (cell for cell in cells if cell["dataset"] == dataset):
            x, y = cell["audit"]["predicted_iou"], cell["measured"]["iou"]
            axis.scatter(x, y, color=colors[cell["audit"]["verdict"]], s=28)
            axis.annotate(cell["spec"], (x, y), fontsize=6.5, xytext=(3, 2), textcoords="offset points")
        axis.plot([0, 1], [0, 1], color="lightgray", zorder=0)
        axis.set(title=dataset, xlabel="IoU predicted before training", xlim=(0, 1), ylim=(0, 1))
    axes[0][0].set_ylabel("IoU measured on the test set")
    handles = [pyplot.Line2D([], [], marker="o", linestyle="", color=c, label=v) for v, c in colors.items()]
    axes[0][0].legend(handles=handles, fontsize=7, title="audit", title_fontsize=7, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Work on the cells that are not finished, or summarize those that are."""
    options = parse_arguments()
    if options.summarize:
        summarize(options.datasets, options.specs, options.out)
        return
    number, _, parts = options.part.partition("/")
    if not (number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts)):
        raise UserError(f"--part {options.part} must be k/K with k from 1 to K")
    from datasets.catalog import prepare_dataset

    cells = [(dataset, spec) for spec in options.specs for dataset in options.datasets]
    for dataset in options.datasets:
        prepare_dataset(dataset)
    for dataset, spec in cells[int(number) - 1 :: int(parts)]:
        if not cell_path(options.out, dataset, spec).exists():
            print(f"== {dataset} {spec}", flush=True)
            run_cell(dataset, spec, options.width, options.steps, options.out)


if __name__ == "__main__":
    run_command(main)
