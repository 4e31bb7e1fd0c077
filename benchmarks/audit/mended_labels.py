"""The loop closed: errors planted into labels, found by cross-fitting, mended by rule, and what training gains by that.

One nucleus in five is deleted everywhere, or one label in ten is moved by 6 pixels. ``main.py --folds`` lists the
issues. At those of the kind that is told most often, which is what is wrong with the list, the prediction is taken; the
others, which a person would look at, are kept, as on the review page (``datasets/apply_decisions.py``). Networks are
trained on the labels with errors, on the mended and on the original ones.

    python benchmarks/audit/mended_labels.py
    python benchmarks/audit/mended_labels.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import pooled_iou, predict, train
from datasets.catalog import prepare_dataset
from datasets.image_io import read_label, write_label
from datasets.label_noise import make_noisy_label
from datasets.lists import Sample, find_list, read_list, write_list
from evaluation.label_errors.decisions import apply_decisions
from evaluation.label_errors.issue_files import IssueFolder, read_issues
from evaluation.metrics import evaluate_maps
from utils.cli import run_command
from utils.files import write_json
from utils.run_folder import LOG_ROOT, REPO_ROOT, display_path

FOLDS, MOVE, MOVED, DELETED = 3, 6, 0.1, 0.2  # runs; pixels; shares of the labels and of the objects
VALIDATION_IMAGES, TEST_IMAGES = 8, 60
TRAINING = {"preset": "quick", "steps": 150, "epochs": 3, "width": 8, "crop": 128, "audit": False, "augment": ()}
ERRORS = {"deleted": "one nucleus in five deleted", "moved": f"one label in ten moved by {MOVE} px"}


def plant(error: str, label: np.ndarray, is_chosen: bool, sample: Sample, rng: np.random.Generator) -> np.ndarray:
    """A label (H, W) with errors; moves go into one of eight directions."""
    if error == "deleted":
        return make_noisy_label(label, f"missing:{DELETED}", 0, sample.image_id)
    angle = rng.integers(8) * np.pi / 4
    down, right = round(MOVE * np.sin(angle)), round(MOVE * np.cos(angle))
    return make_noisy_label(label, f"move:{down},{right}", 0, sample.image_id) if is_chosen else label


def plant_errors(dataset: str, error: str, images: int, seed: int, folder: Path) -> dict[Path, tuple[Path, Path]]:
    """Write lists of labels with errors and of originals; image → label with errors and right label."""
    samples, rng = read_list(find_list("train_gt", dataset)), np.random.default_rng(seed)
    places = sorted(rng.permutation(len(samples))[:images].tolist())
    chosen = set(rng.permutation(images)[: round(images * MOVED)].tolist())
    pairs: dict[Path, tuple[Path, Path]] = {}
    for number, place in enumerate(places):
        sample, name = samples[place], f"{number:04d}.png"
        label = read_label(sample.require_label())
        pairs[sample.image] = (folder / "planted" / name, folder / "right" / name)
        write_label(pairs[sample.image][1], label)
        write_label(pairs[sample.image][0], plant(error, label, number in chosen, sample, rng))
    for kind in ("planted", "right"):
        write_list(folder / f"{kind}.txt", [(image, folder / kind / wrong.name) for image, (wrong, _) in pairs.items()])
    for name, count in (("val", VALIDATION_IMAGES), ("test", TEST_IMAGES)):
        part = read_list(find_list(name, dataset))[:count]
        write_list(folder / f"{name}.txt", [(sample.image, sample.label) for sample in part])
    return pairs


def mend(dataset: str, found: IssueFolder, folder: Path) -> list[Sample]:
    """Take the prediction at issues of the most frequent kind, as the review page would decide; the mended list."""
    usual = Counter(issue.kind for issue in found.issues).most_common(1)[0][0]
    rows = [
        {"image": display_path(issue.image), "id": issue.id, "action": "take" if issue.kind == usual else "keep"}
        for issue in found.issues
    ]
    decisions = folder / "decisions.json"
    write_json(decisions, {"list": display_path(found.list_path), "issues": rows})
    new_list = apply_decisions(dataset, decisions, prd_dir=found.folder, data_root=str(REPO_ROOT), root=folder)
    return read_list(new_list, root=folder)


def count_found(found: IssueFolder, pairs: dict[Path, tuple[Path, Path]]) -> dict[str, Any]:
    """How many planted errors are listed, and how many listed issues are planted errors.

    An object that was deleted or moved is listed where issues cover half of it. An issue is right where at least half
    of the pixels that taking the prediction changes are pixels that were planted. Of each kind: right ones, all, and
    the pixels in them that differ from the original label before and after the prediction is taken.
    """
    planted = listed = right = 0
    kinds: dict[str, list[int]] = {}
    for image, (wrong, truth) in pairs.items():
        label, original = read_label(wrong), read_label(truth)
        differs, judged = label != original, found.images[image]
        regions = np.zeros(label.shape, int) if judged.regions is None else found.read_regions(image)
        # Of a moved label the objects as they are drawn, of others those that are gone.
        is_moved = (label & ~original & 1).any()
        count, objects = cv2.connectedComponents(label if is_moved else original)
        for number in range(1, count):
            place = objects == number
            if is_moved or 2 * (place & differs).sum() > place.sum():
                planted += 1
                listed += bool(2 * (place & (regions > 0)).sum() >= place.sum())
        for issue in (issue for issue in found.issues if issue.image == image):
            changed = (regions == issue.id) & (found.read_predicted(image) != label)
            is_right = bool(2 * (changed & differs).sum() >= changed.sum())
            right += is_right
            wrong_after = (regions == issue.id) & (found.read_predicted(image) != original)
            counts = (is_right, 1, int(((regions == issue.id) & differs).sum()), int(wrong_after.sum()))
            kinds[issue.kind] = [*map(sum, zip(kinds.get(issue.kind, (0, 0, 0, 0)), counts, strict=True))]
    return {"planted": planted, "listed": listed, "issues": len(found.issues), "right": right, "kinds": kinds}


def label_iou(labels: Sequence[Path], originals: Sequence[Path]) -> float:
    """Pooled IoU of labels with the original ones."""
    return pooled_iou(map(read_label, labels), map(read_label, originals))


def run_trial(dataset: str, error: str, images: int, seed: int, retrain: int) -> dict[str, Any]:
    """Plant, cross-fit, mend, and train again ``retrain`` times on each kind of labels."""
    from training.fit import configure, fit
    from training.run.cross_fit import cross_fit

    dataset = prepare_dataset(dataset)
    folder, name = LOG_ROOT / dataset / f"mended_{error}", f"mended_{error}_folds"
    for place in (folder, LOG_ROOT / dataset / name):
        shutil.rmtree(place, ignore_errors=True)
    pairs = plant_errors(dataset, error, images, seed, folder)
    lists = {"train_list": str(folder / "planted.txt"), "val_list": str(folder / "val.txt")}
    given = {"dataset": dataset, "run_name": name, "folds": FOLDS, "seed": seed, "tensorboard": False}
    found = read_issues(cross_fit({**given, **lists, **TRAINING}, configure, fit) / "issues")
    mended = mend(dataset, found, folder)
    write_list(folder / "mended.txt", [(sample.image, sample.label) for sample in mended])
    wrong, right = zip(*pairs.values(), strict=True)
    record = {"settings": {"folds": FOLDS, **TRAINING}, **count_found(found, pairs)}
    record["label_iou"] = label_iou(wrong, right)
    originals = [pairs[sample.image][1] for sample in mended]
    record["mended_iou"] = label_iou([sample.require_label() for sample in mended], originals)
    record["test_iou"] = {kind: [] for kind in ("planted", "mended", "right")}
    for number in range(retrain):
        for kind, values in record["test_iou"].items():
            lists["train_list"] = str(folder / f"{kind}.txt")
            run = train(dataset, f"mended_{error}_{kind}", seed=number, **lists, **TRAINING)
            maps = predict(run, "--data_list", str(folder / "test.txt"))
            values.append(evaluate_maps(maps, report=False)["pooled"]["iou"])
    return record


def tables(records: list[Record]) -> Tables:
    """What was found, and what mending gained."""
    rows = []
    for record in records:
        cell, ious = record["cell"], record["test_iou"]
        usual, (right, told, *_) = max(record["kinds"].items(), key=lambda item: item[1][1])
        gap = 1 - record["label_iou"]
        tested = [
            f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" for values in ious.values() if len(values) > 1
        ]
        rows.append(
            [
                f"`{cell['dataset']}`, {ERRORS[cell['error']]}",
                f"{record['listed']} of {record['planted']}",
                f"{record['right']} of {record['issues']}",
                f"{right} of {told} *{usual}* ({right / told:.0%})",
                f"{record['label_iou']:.3f}",
                f"{record['mended_iou']:.3f} ({(record['mended_iou'] - record['label_iou']) / gap:.0%})",
                *(tested or ["not tried"] * 3),
            ]
        )
    header = [
        "labels",
        "planted errors listed",
        "issues that were planted",
        "of those mended",
        "label IoU",
        "mended (gap closed)",
    ]
    return {"mended_labels": markdown([*header, "test IoU: with errors", "mended", "original"], rows)}


CASES = [(name, error) for name in ("nuc_sim", "nuc") for error in ERRORS]
STUDY = Study(
    name="mended_labels",
    cells=[
        {"dataset": name, "error": error, "images": 60, "seed": 0, "retrain": retrain}
        for retrain in (0, 3)  # finding and mending alone, then the whole loop
        for name, error in CASES
    ],
    trial=run_trial,
    seconds=600,
    tables=tables,
    page="docs/results/label_errors.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
