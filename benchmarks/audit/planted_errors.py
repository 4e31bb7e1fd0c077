"""How many wrong labels ``evaluation/suspect_labels.py`` finds: known errors are planted, then looked for.

Errors of eight kinds go into a known fraction of a list's clean labels, in equal parts. Networks trained on the other
parts of the list (``main.py --fold``) predict every image, and its label is ranked by our quality and by the two of
cleanlab.segmentation on the same score maps: soft minimum and number of pixel issues (Lad and Mueller, *Estimating
label quality and errors in semantic segmentation data via any model*, arXiv 2307.05080; a development dependency).
A trial may put noise on every label besides, so that the planted errors must stand out from it.

    python benchmarks/audit/planted_errors.py
    python benchmarks/audit/planted_errors.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import RECORDED, train
from datasets.catalog import prepare_dataset
from datasets.image_io import read_label, write_label
from datasets.label_noise import make_noisy_label
from datasets.lists import find_list, read_list, write_list
from datasets.noise_steps import move
from evaluation.label_errors.ranking import LabelAssessor, RankedLabel, choose_predictions, rank_labels
from evaluation.scores.map_folder import find_maps
from utils.cli import UserError, run_command
from utils.run_folder import LOG_ROOT, display_path

SHIFT = 10  # pixels
VALIDATION_IMAGES = 8  # they settle threshold and direction, not the ranking
FOLDS = 3
TRAINING = {"epochs": 15, "repeat": 2, "width": 16, "crop": 128}
METHODS = {
    "ours": "ours",
    "cleanlab softmin": "cleanlab, soft minimum",
    "cleanlab pixel issues": "cleanlab, pixel issues",
}


def shift(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A label moved by 10 pixels up, down, left or right."""
    down, right = ((SHIFT, 0), (-SHIFT, 0), (0, SHIFT), (0, -SHIFT))[rng.integers(4)]
    return move(label, down, right)


def by_spec(spec: str) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """An error in the grammar of label noise."""
    return lambda label, rng: make_noisy_label(label, spec, int(rng.integers(2**31)), "planted")


# kind of error → what it makes of a clean binary label; "swapped" takes the next such image's label instead.
ERRORS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "missing": by_spec("missing:0.3"),
    "dilated": by_spec("dilate:7"),
    "shifted": shift,
    "flipped": by_spec("flip:0.3"),
    "swapped": lambda label, rng: label,
    "empty": lambda label, rng: np.zeros_like(label),
    "mirrored": lambda label, rng: np.ascontiguousarray(label[:, ::-1]),
    "inverted": by_spec("flip:1"),
}


def plant_errors(dataset: str, spec: str, images: int, share: float, seed: int, folder: Path) -> dict[str, str]:
    """Write the labels with errors and their list below ``folder``; image → kind of error, "" for none.

    The choice is a function of the seed. Swapped labels come in a ring: each image gets the next one's.
    """
    samples = read_list(find_list("train_gt", dataset))
    if len(samples) < images:
        raise UserError(f"{images} images are needed: the list has only {len(samples)}")
    rng = np.random.default_rng(seed)
    chosen = [samples[place] for place in rng.permutation(len(samples))[:images]]
    count = round(share * images)
    kinds = [list(ERRORS)[place % len(ERRORS)] for place in range(count)] + [""] * (images - count)
    ring = [place for place, kind in enumerate(kinds) if kind == "swapped"]
    source = {place: ring[(turn + 1) % len(ring)] for turn, place in enumerate(ring)}
    pairs = []
    for place, (sample, kind) in enumerate(zip(chosen, kinds, strict=True)):
        label = read_label(chosen[source.get(place, place)].label)
        wrong = ERRORS[kind](label, rng) if kind else label
        pairs.append((sample.image, folder / "labels" / f"{place:04d}.png"))
        write_label(pairs[-1][1], make_noisy_label(wrong, spec, seed, sample.image_id))
    write_list(folder / "planted.txt", pairs)
    val = read_list(find_list("val", dataset))[:VALIDATION_IMAGES]
    write_list(folder / "val.txt", [(sample.image, sample.label) for sample in val])
    return {display_path(sample.image): kind for sample, kind in zip(chosen, kinds, strict=True)}


def predict_fold(dataset: str, folder: Path, fold: int, seed: int) -> Path:
    """Train without a part of the list and predict that part; the folder of the predictions."""
    from evaluation.inference import main as infer

    run = train(
        dataset,
        f"{folder.name}_fold{fold}",
        **RECORDED,
        train_list=str(folder / "planted.txt"),
        val_list=str(folder / "val.txt"),
        fold=f"{fold}/{FOLDS}",
        seed=seed,
        checkpoint_every=TRAINING["epochs"],
        **TRAINING,
    )
    infer(["--train_dir", str(run), "--test_ckpt_epoch", "last", "--data_list", str(run / "held_out.txt")])
    return run / "results" / f"epoch_{TRAINING['epochs']}_held_out"


def cleanlab_qualities(ranked: Sequence[RankedLabel], assessor: LabelAssessor) -> dict[str, np.ndarray]:
    """Quality of the same labels by cleanlab.segmentation, from the same score maps as they are."""
    from cleanlab.segmentation.filter import find_label_issues
    from cleanlab.segmentation.rank import get_label_quality_scores

    pairs = [assessor.read(entry.prediction) for entry in ranked]
    labels = np.stack([label for label, _ in pairs]).astype(np.int64)
    chances = np.stack([np.stack([1 - scores, scores]) for _, scores in pairs])
    softmin, _ = get_label_quality_scores(labels, chances, verbose=False)
    issues = find_label_issues(labels, chances, downsample=1, n_jobs=1, verbose=False)
    return {"cleanlab softmin": softmin, "cleanlab pixel issues": 1 - issues.mean((1, 2))}


def metrics_of(quality: np.ndarray, kinds: Sequence[str]) -> dict[str, Any]:
    """How well a quality finds planted errors.

    Args:
        quality: of each label, low for wrong ones, (n,).
        kinds: of the planted errors, "" for none.
    Returns: AUC; precision among the k worst, k the number of errors; by kind, how many of them are there.
    """
    wrong = np.array([bool(kind) for kind in kinds])
    first = np.zeros(len(quality), bool)
    first[np.argsort(quality, kind="stable")[: wrong.sum()]] = True
    better = (quality[wrong][:, None] < quality[~wrong]) + 0.5 * (quality[wrong][:, None] == quality[~wrong])
    found = {kind: [int(first[np.array(kinds) == kind].sum()), kinds.count(kind)] for kind in ERRORS if kind in kinds}
    return {"auc": float(better.mean()), "precision_at_k": float(wrong[first].mean()), "found": found}


def run_trial(dataset: str, spec: str, images: int, share: float, seed: int) -> dict[str, Any]:
    """Plant, train, predict, rank, compare."""
    dataset = prepare_dataset(dataset)
    folder = LOG_ROOT / dataset / "planted"
    shutil.rmtree(folder, ignore_errors=True)
    planted = plant_errors(dataset, spec, images, share, seed, folder)
    maps = [find_maps(predict_fold(dataset, folder, fold, seed)) for fold in range(1, FOLDS + 1)]
    ranked, assessor = rank_labels(choose_predictions(read_list(folder / "planted.txt"), maps), maps)
    kinds = [planted[display_path(entry.prediction.sample.image)] for entry in ranked]
    qualities = {"ours": np.array([entry.quality for entry in ranked]), **cleanlab_qualities(ranked, assessor)}
    return {
        "settings": {"folds": FOLDS, **TRAINING},
        "labels": len(ranked),
        "methods": {name: metrics_of(quality, kinds) for name, quality in qualities.items()},
        "stand_out": [(kind, each.kind) for kind, each in zip(kinds, ranked, strict=True) if each.stands_out],
    }


def tables(records: list[Record]) -> Tables:
    """Precision among the k worst and AUC of every method."""
    rows = []
    for record in records:
        dataset, spec = record["cell"]["dataset"], record["cell"]["spec"]
        found = [record["methods"][name] for name in METHODS]
        values = [value for each in found for value in (f"{each['precision_at_k']:.2f}", f"{each['auc']:.3f}")]
        rows.append([f"`{dataset}`" + ("" if spec == "clean" else f", `{spec}`"), *values])
    header = [column for name in METHODS.values() for column in (f"{name}: P@k", "AUC")]
    return {"planted_errors": markdown(["labels", *header], rows)}


CASES = (("nuc", "clean"), ("nuc_sim", "clean"), ("nuc_sim", "sample:0.3"))
STUDY = Study(
    name="planted_errors",
    cells=[{"dataset": name, "spec": spec, "images": 72, "share": 0.25, "seed": 0} for name, spec in CASES],
    trial=run_trial,
    seconds=300,
    tables=tables,
    page="docs/results/label_errors.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
