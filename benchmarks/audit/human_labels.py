"""What the audit says of labels as people make them, beside what training on them then reaches.

A trial makes labels of a kind from the clean ones (or takes another annotator's), audits them with a few clean images
known, trains on them with the quick recipe at a fixed number of steps and scores test images at every threshold. The
constants of the audit were fixed on the simulated sets of ``CALIBRATION``, before a real set was looked at.

    python benchmarks/audit/human_labels.py
    python benchmarks/audit/human_labels.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import chosen_samples, train
from datasets.catalog import prepare_dataset
from datasets.image_io import read_image, read_label, write_label
from datasets.label_noise import make_noisy_label
from datasets.lists import Sample, read_list, write_list
from utils.cli import run_command
from utils.files import read_json, write_json
from utils.run_folder import LOG_ROOT

TRAIN_IMAGES, CLEAN_IMAGES, VAL_IMAGES, TEST_IMAGES = 60, 10, 2, 12
BATCH, EPOCHS, WIDTH, CROP, STEPS, SEED = 4, 2, 8, 128, 250, 0
PERCENT = np.arange(1, 100) / 100
# Thresholds at which the test images are scored: labels that are too narrow are best cut far below a hundredth.
LEVELS = np.concatenate([np.geomspace(1e-4, 0.01, 13)[:-1], PERCENT])

Labels = list[np.ndarray]


def _toward_foreground(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The image, float32 (H, W), turned so that its foreground is the brighter part."""
    grey = image.astype(np.float32)
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    inside = truth == 1
    return -grey if inside.any() and grey[inside].mean() < grey[~inside].mean() else grey


def otsu(images: Labels, truths: Labels) -> Labels:
    """What Otsu's threshold makes of each image."""
    from skimage.filters import threshold_otsu

    turned = [_toward_foreground(*pair) for pair in zip(images, truths, strict=True)]
    return [(grey > threshold_otsu(grey)).astype(np.uint8) for grey in turned]


def bright(images: Labels, truths: Labels) -> Labels:
    """The half of the foreground that stands out more from its image; the rest was overlooked."""
    found = []
    for image, truth in zip(images, truths, strict=True):
        smooth = cv2.GaussianBlur(_toward_foreground(image, truth), (0, 0), 3)
        cut = np.median(smooth[truth == 1]) if (truth == 1).any() else 0
        found.append(((truth == 1) & (smooth >= cut)).astype(np.uint8))
    return found


def half(images: Labels, truths: Labels) -> Labels:
    """Only the left half of each image was annotated."""
    return [np.where(np.arange(truth.shape[1]) < truth.shape[1] // 2, truth, 0).astype(np.uint8) for truth in truths]


def swapped(images: Labels, truths: Labels) -> Labels:
    """Every fifth label lies with the next such image of its size."""
    result, chosen = list(truths), list(range(0, len(truths), 5))
    for size in {truths[place].shape for place in chosen}:
        ring = [place for place in chosen if truths[place].shape == size]
        for place, source in zip(ring, ring[1:] + ring[:1], strict=True):
            result[place] = truths[source]
    return result


# kinds beside specs of label noise and folders ``labels_…`` beside the clean labels
KINDS: dict[str, Callable[[Labels, Labels], Labels]] = {
    "otsu": otsu,
    "bright": bright,
    "half": half,
    "swapped": swapped,
}
SIMULATED_SPECS = (
    "clean",
    "flip:0.3",
    "flip:0.45",
    "sample:0.1",
    "dilate:5",
    "erode:5",
    "skeleton",
    "wobble:2,10+offset:1.5",
    "wobble:3,8",
    "polygon:3",
    "missing:0.3",
    "merge:6",
    "move:3,3",
    *KINDS,
)
BUBIL = tuple(
    f"labels_{name}"
    for name in ("experts_union", "expert_worst", "crowd", "crowd_majority", "expert", "experts_majority")
)
CALIBRATION = [(name, spec) for spec in SIMULATED_SPECS for name in ("er_sim", "mito_sim", "nuc_sim")]
REAL = [
    *(("bubil_cells", kind) for kind in ("clean", *BUBIL)),
    *((name, kind) for name in ("stare", "vessel") for kind in ("clean", "labels_2nd_observer")),
    *(("er_ernet", kind) for kind in ("clean", "dilate:5", "skeleton", "bright", "flip:0.45")),
    *(("em_membrane", kind) for kind in ("clean", "erode:5", "half", "otsu")),
    *(("nuc", kind) for kind in ("clean", "dilate:5", "erode:5", "bright", "swapped", "move:3,3")),
]


def make_labels(kind: str, samples: Sequence[Sample]) -> tuple[Labels, Labels, Labels]:
    """(images, clean labels, labels of the kind) of samples."""
    images = [read_image(sample.image) for sample in samples]
    truths = [read_label(sample.require_label()) for sample in samples]
    if kind in KINDS:
        return images, truths, KINDS[kind](images, truths)
    if kind.startswith("labels_"):
        paths = [sample.require_label() for sample in samples]
        return images, truths, [read_label(path.parent.parent / kind / path.name) for path in paths]
    noisy = [make_noisy_label(truth, kind, SEED, s.image_id) for truth, s in zip(truths, samples, strict=True)]
    return images, truths, noisy


def measure(dataset: str, kind: str, steps: int) -> dict[str, Any]:
    """Train on labels of a kind; pooled IoU of the test images at every threshold. A finished one is not repeated."""
    name = hashlib.sha256(f"{dataset} {kind} {steps}".encode()).hexdigest()[:12]
    folder = LOG_ROOT / "human_labels" / f"{dataset}_{name}"
    if (folder / "measured.json").is_file():
        return read_json(folder / "measured.json")
    started = time.monotonic()
    run = train_kind(folder, dataset, kind, f"human_{name}", steps)
    test = ((read_image(s.image), read_label(s.require_label())) for s in chosen_samples(dataset, "test", TEST_IMAGES))
    found = {"iou": test_curve(run, test), "training_seconds": time.monotonic() - started}
    shutil.rmtree(run)
    write_json(folder / "measured.json", found)
    return found


def train_kind(folder: Path, dataset: str, kind: str, name: str, steps: int) -> Path:
    """Train on labels of a kind, which lie in the folder meanwhile, and return the run."""
    samples = chosen_samples(dataset, "train_gt", TRAIN_IMAGES)
    _, _, labels = make_labels(kind, samples)
    pairs = [(sample.image, folder / "labels" / f"{place:04d}.png") for place, sample in enumerate(samples)]
    for (_, path), label in zip(pairs, labels, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_label(path, label)
    write_list(folder / "train.txt", pairs)
    val = chosen_samples(dataset, "val", VAL_IMAGES)
    write_list(folder / "val.txt", [(sample.image, sample.label) for sample in val])
    run = train_on(folder, dataset, name, steps)
    shutil.rmtree(folder / "labels")
    return run


def train_on(folder: Path, dataset: str, name: str, steps: int) -> Path:
    """Train with the quick recipe, so many steps, on the lists ``train.txt`` and ``val.txt`` of a folder."""
    images = len(read_list(folder / "train.txt"))
    return train(
        dataset,
        name,
        train_list=str(folder / "train.txt"),
        val_list=str(folder / "val.txt"),
        width=WIDTH,
        crop=CROP,
        batch_size=BATCH,
        epochs=EPOCHS,
        repeat=max(1, round(steps * BATCH / EPOCHS / images)),
        checkpoint_every=EPOCHS,
        seed=SEED,
        pred_invert="off",
        workers=0,
    )


def test_curve(run: Path, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """Pooled IoU of the last checkpoint on test images and their labels, at LEVELS."""
    from evaluation.scores import counts_at, iou

    total = sum(test_histograms(run, pairs))
    return [float(iou(counts_at(total, level))) for level in LEVELS]


def test_histograms(run: Path, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """The score histogram of the last checkpoint, int64 (2, BINS), for every test image and its label."""
    import torch

    from datasets.transforms import normalize
    from evaluation.prediction import load_network
    from evaluation.scores import score_histogram
    from models import to_scores

    network, checkpoint, _ = load_network(run, "last")
    mode = checkpoint["config"]["normalization"]
    for image, label in pairs:
        with torch.inference_mode():
            scores = to_scores(network(torch.as_tensor(normalize(image, mode))[None]))[0, -1].numpy()
        yield score_histogram(scores, label)


def audit(dataset: str, kind: str, steps: int) -> dict[str, Any]:
    """The audit of labels of a kind for a training of so many steps."""
    images, truths, labels = make_labels(kind, chosen_samples(dataset, "train_gt", TRAIN_IMAGES))
    started = time.monotonic()
    found = audit_with_few_clean(labels, truths, images, steps)
    return {**found, "profile": None, "seconds": time.monotonic() - started}


def audit_with_few_clean(labels: Labels, truths: Labels, images: Labels, steps: int) -> dict[str, Any]:
    """The audit of labels of which CLEAN_IMAGES, spread evenly, are known clean, as JSON."""
    from evaluation.label_audit import audit_labels

    some = [truth if place in known_clean(len(truths)) else None for place, truth in enumerate(truths)]
    return audit_labels(labels, some, images, steps=steps).to_json()


def known_clean(images: int) -> set[int]:
    """The places of the images whose clean labels are known, spread evenly."""
    return {int(place * images / CLEAN_IMAGES) for place in range(CLEAN_IMAGES)}


def run_trial(dataset: str, kind: str, steps: int) -> dict[str, Any]:
    """Audit before the first step, train, score."""
    prepare_dataset(dataset)
    return {"audit": audit(dataset, kind, steps), "measured": measure(dataset, kind, steps)}


def tables(records: list[Record]) -> Tables:
    """What was said and what was reached, a row a cell, and how far they lie apart, a row for each group of sets."""
    clean = {r["cell"]["dataset"]: r for r in records if r["cell"]["kind"] == "clean"}
    rows, groups = [], {"simulated": [], "real": []}
    for record in records:
        cell, said = record["cell"], record["audit"]
        if cell["dataset"] not in clean:
            continue
        found = compare(record, clean[cell["dataset"]])
        groups["simulated" if cell["dataset"].endswith("_sim") else "real"].append(found)
        what = "; ".join(f"{bias['what']} {bias['size']:.2g} {bias['unit']}" for bias in said["bias"] or ())
        rows.append(
            [
                f"{cell['dataset']} {cell['kind']}",
                said["verdict"] + (f" ({what})" if what else ""),
                f"{said['predicted_iou']:.2f} ({said['predicted_iou_low']:.2f}–{said['predicted_iou_high']:.2f})",
                f"{found['best']:.3f}",
                f"{said['relative_iou']:.0%}",
                f"{found['share']:.0%}",
                f"{found['threshold']:.2f}",
                f"{found['at_half']:.3f}",
                f"{found['at_advised']:.3f}",
            ]
        )
    header = ["labels", "verdict", "predicted", "reached at best threshold", "share predicted", "share reached"]
    header += ["threshold", "IoU at 0.5", "at advised"]
    summary = [[name, *summarize_group(found)] for name, found in groups.items() if found]
    columns = ["sets", "cells", "RMS predicted IoU", "RMS share of clean", "in 90 % interval"]
    columns += ["threshold regret, median", "worst"]
    return {"human_labels": markdown(header, rows), "human_labels summary": markdown(columns, summary)}


def compare(record: Record, clean: Record) -> dict[str, Any]:
    """A trial's figures: what it reached at its best threshold, at 0.5 and at the advised one."""
    curve, said = np.array(record["measured"]["iou"]), record["audit"]
    threshold = 0.5 if said["threshold"] is None else said["threshold"]
    levels = LEVELS if len(curve) == len(LEVELS) else PERCENT  # of trials that lose nothing by it
    best = float(curve.max())
    share = best / max(clean["measured"]["iou"])
    return {
        "threshold": threshold,
        "best": best,
        "share": share,
        "at_half": float(np.interp(0.5, levels, curve)),
        "at_advised": float(np.interp(threshold, levels, curve)),
        "error": said["predicted_iou"] - best,
        "share_error": said["relative_iou"] - min(share, 1.0),
        "covered": said["predicted_iou_low"] <= best <= said["predicted_iou_high"],
    }


def summarize_group(found: list[dict[str, Any]]) -> list[str]:
    """The row of a group of cells."""
    errors, shares = (np.array([item[name] for item in found]) for name in ("error", "share_error"))
    regret = np.array([item["best"] - item["at_advised"] for item in found])
    return [
        str(len(found)),
        f"{np.sqrt(np.mean(errors**2)):.3f}",
        f"{np.sqrt(np.mean(shares**2)):.3f}",
        f"{np.mean([item['covered'] for item in found]):.0%}",
        f"{np.median(regret):.3f}",
        f"{regret.max():.3f}",
    ]


STUDY = Study(
    name="human_labels",
    cells=[{"dataset": name, "kind": kind, "steps": STEPS} for name, kind in CALIBRATION + REAL],
    trial=run_trial,
    seconds=120,
    tables=tables,
    page="docs/results/audit.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
