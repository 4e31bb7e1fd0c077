"""One trial of the study: labels of a kind are audited, trained on by a method, and the test images scored."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.audit.human_labels import Labels, make_labels
from benchmarks.grid import Cell, key
from benchmarks.protocol.cells import CLEAN_IMAGES, METHODS, is_bare
from benchmarks.trials import RECORDED, UNVARIED, chosen_samples, pooled_iou
from datasets.catalog import prepare_dataset
from datasets.image_io import read_label, write_label
from datasets.label_fusion import Fusion
from datasets.lists import Sample, write_list
from utils.device import choose_device
from utils.files import write_json
from utils.run_folder import LOG_ROOT

AUDITED = ("verdict", "predicted_iou", "predicted_iou_low", "predicted_iou_high", "relative_iou", "iou_ceiling", "phi")
CURVE_POINTS = 20
CLASSES = {"em_vnc": 5}  # of data sets that have more than two


@dataclass(frozen=True)
class Protocol:
    """What is the same for all trials of a study; the defaults are what a CPU affords.

    Args:
        train, val, test: images, spread evenly over the lists.
    """

    crop: int = 128
    batch_size: int = 4
    epochs: int = 10
    train: int = 60
    val: int = 4
    test: int = 24


@dataclass(frozen=True)
class Images:
    """Training images, the labels that they are trained on, and the best that there are."""

    samples: Sequence[Sample]
    images: Labels
    labels: Labels
    truth: Labels


def read_kind(dataset: str, kind: str, samples: Sequence[Sample]) -> Images:
    """Training images with labels of a kind.

    Args:
        kind: of ``human_labels.make_labels``; ``staple`` of the crowd; ``A>B``: labels of folder A, the best are B's.
    """
    classes = CLASSES.get(dataset, 1)
    listed, _, best = kind.partition(">")
    if listed == "staple":
        images, truth, _ = make_labels("clean", samples)
        crowd = [_others(sample, "labels_crowd[0-9]") for sample in samples]
        return Images(samples, images, [Fusion("staple").majority(opinions) for opinions in crowd], truth)
    if classes > 1:
        from datasets.image_io import read_image
        from datasets.label_noise import make_noisy_label

        truth = [read_label(sample.require_label(), classes) for sample in samples]
        noisy = [
            make_noisy_label(label, listed, 0, s.image_id, classes) for label, s in zip(truth, samples, strict=True)
        ]
        return Images(samples, [read_image(sample.image) for sample in samples], noisy, truth)
    images, truth, labels = make_labels("clean" if listed in ("labels", "none") else listed, samples)
    if best:
        truth = [_others(sample, best)[0] for sample in samples]
    return Images(samples, images, labels, truth)


def _others(sample: Sample, pattern: str) -> list[np.ndarray]:
    """An image's labels in the folders beside its own whose names fit."""
    own = sample.require_label()
    return [read_label(folder / own.name) for folder in sorted(own.parent.parent.glob(pattern))]


def audit(found: Images, known: set[int], steps: int, classes: int, val: Sequence[Sample]) -> dict[str, Any]:
    """What the audit says before the first step, by the clean labels of the images ``known``."""
    from evaluation.label_audit import audit_labels
    from evaluation.scores.validation import can_choose

    clean = [truth if place in known else None for place, truth in enumerate(found.truth)]
    validated = can_choose([sample.image_id for sample in val])
    report = audit_labels(found.labels, clean, found.images, classes, steps=steps, validated=validated).to_json()
    return {**{name: report.get(name) for name in AUDITED}, "Q": report.get("Q")}


def run_cell(protocol: Protocol, **cell: Any) -> dict[str, Any]:
    """Audit, train, score; the run is removed. What it takes is left in ``LOG_ROOT/study`` where it fails."""
    prepare_dataset(cell["dataset"])
    classes, name = CLASSES.get(cell["dataset"], 1), hashlib.sha256(key(cell).encode()).hexdigest()[:12]
    folder = LOG_ROOT / "study" / f"{cell['dataset']}_{name}"
    count = cell.get("images") or protocol.train
    found = read_kind(cell["dataset"], cell["labels"], chosen_samples(cell["dataset"], "train_gt", count))
    audited_images = min(cell["clean"] or CLEAN_IMAGES, len(found.truth))
    known = {int(place * len(found.truth) / audited_images) for place in range(audited_images)}
    val = chosen_samples(cell["dataset"], "val", protocol.val)
    lists = write_lists(folder, found, known, val, classes)
    audited = audit(found, known, cell["steps"], classes, val)
    started = time.monotonic()
    run = train_cell(cell, protocol, lists, audited["Q"], name, classes)
    record = {
        "protocol": vars(protocol),
        "device": torch.cuda.get_device_name() if choose_device("auto") == "cuda" else "cpu",
        "audit": {each: audited[each] for each in AUDITED},
        "label_iou": pooled_iou(found.labels, found.truth, classes),
        "training_seconds": round(time.monotonic() - started, 1),
        **score(run, cell, protocol, found, classes),
    }
    if cell.get("features"):
        record["layers"] = compare_with_clean(run, cell, protocol, found, lists["val"], name)
    shutil.rmtree(run)
    shutil.rmtree(folder)
    return record


def write_lists(folder: Path, found: Images, known: set[int], val: Sequence[Sample], classes: int) -> dict[str, Path]:
    """Lists of a trial below ``folder``: of noisy labels, validation, and of the clean labels that are known."""
    shutil.rmtree(folder, ignore_errors=True)
    pairs: dict[str, list[tuple[Path, Path | None]]] = {"train": [], "clean": []}
    for place, sample in enumerate(found.samples):
        for name, label in (("train", found.labels[place]), ("clean", found.truth[place])):
            if name == "train" or place in known:
                path = folder / f"labels_{name}" / f"{place:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_label(path, label, classes)
                pairs[name].append((sample.image, path))
    pairs["val"] = [(sample.image, sample.label) for sample in val]
    paths = {name: folder / f"{name}.txt" for name in pairs if pairs[name]}
    for name, path in paths.items():
        write_list(path, pairs[name])
    return paths


def train_cell(cell: Cell, protocol: Protocol, lists: dict[str, Path], matrix: Any, name: str, classes: int) -> Path:
    """Train a trial's network and return its run."""
    from training.fit import configure, fit

    shutil.rmtree(LOG_ROOT / cell["dataset"] / f"study_{name}", ignore_errors=True)
    own = dict(METHODS.get(cell["method"], {"loss": cell["method"]} if cell["method"] in ("ce",) else {}))
    if "transition_matrix" in own:
        path = lists["train"].with_name("matrix.json")
        write_json(path, {"classes": max(classes, 2), "matrix": matrix})
        own["transition_matrix"] = str(path)
    epochs = CURVE_POINTS if cell.get("curve") else protocol.epochs
    length = {"steps": cell["steps"], "epochs": min(epochs, cell["steps"])}
    if cell["method"] == "igtt":
        own, length = {"igtt": "best"}, {"epochs": max(1, round(cell["steps"] * protocol.batch_size / protocol.train))}
    if cell["clean"]:
        own = {"recipe": "plain", "clean_list": str(lists["clean"]), **own}
    given = {
        "dataset": cell["dataset"],
        "train_list": str(lists["train"]),
        "val_list": str(lists["val"]),
        "preset": "quick",
        "num_classes": classes,
        "crop": protocol.crop,
        "batch_size": protocol.batch_size,
        "seed": cell["seed"],
        "workers": 0,
        "tensorboard": False,
        "checkpoint_every": 1 if cell.get("curve") else length["epochs"],
        "run_name": f"study_{name}",
        # What every method would print of its labels is in the record; ours decides by it.
        "audit": cell["method"] == "ours",
        "network": cell["network"],
        **({"width": cell["width"]} if cell["network"] == "unet" else {}),
        **UNVARIED,
        **(RECORDED if is_bare(cell) else {}),
        **length,
        **own,
    }
    return fit(configure(given))


def compare_with_clean(
    run: Path, cell: Cell, protocol: Protocol, found: Images, val_list: Path, name: str
) -> list[dict[str, Any]]:
    """The layers of a run's network beside those of the same network trained on the best labels."""
    from benchmarks.protocol.features import compare_layers
    from evaluation.prediction import load_network

    clean = Images(found.samples, found.images, found.truth, found.truth)
    lists = write_lists(val_list.parent / "clean", clean, set(), [], 1) | {"val": val_list}
    reference = train_cell(cell, protocol, lists, None, f"{name}_clean", 1)
    samples = chosen_samples(cell["dataset"], "test", protocol.test)
    images = [network_input(sample.image, "zscore") for sample in samples]
    labels = [read_label(sample.require_label()) for sample in samples]
    layers = compare_layers(load_network(run)[0], load_network(reference)[0], images, labels)
    shutil.rmtree(reference)
    return layers


def network_input(path: Path, normalization: str) -> torch.Tensor:
    """An image as a network takes it, float32 (channels, H, W)."""
    from datasets.image_io import read_image
    from datasets.transforms import NORMALIZATIONS, prepare

    pixels = prepare(read_image(path), normalization)
    return torch.from_numpy(NORMALIZATIONS[normalization](pixels)(pixels))


def score(run: Path, cell: Cell, protocol: Protocol, found: Images, classes: int) -> dict[str, Any]:
    """What the best checkpoint reaches on the test images; of a curve's run also every epoch, on training images."""
    samples = chosen_samples(cell["dataset"], "test", protocol.test)
    best = cell["labels"].partition(">")[2]
    truth = [_others(each, best)[0] if best else read_label(each.require_label(), classes) for each in samples]
    record = score_samples(run, "best", samples, truth, classes)
    if "curve" in cell:
        few = slice(0, protocol.test)
        epochs = sorted(int(path.stem.removeprefix("epoch_")) for path in (run / "checkpoints").glob("epoch_*.pth"))
        record["curve"] = [
            {
                "step": round(cell["steps"] * epoch / max(epochs)),
                "truth": score_samples(run, str(epoch), samples, truth, classes)["oracle_iou"],
                "labels": score_samples(run, str(epoch), found.samples[few], found.labels[few], classes)["oracle_iou"],
            }
            for epoch in epochs
        ]
    return record


def score_samples(
    run: Path, which: str, samples: Sequence[Sample], truth: Sequence[np.ndarray], classes: int
) -> dict[str, Any]:
    """Metrics of a checkpoint's masks: pooled IoU, Dice, AUC and object F1, the mean over images of clDice."""
    from evaluation import scores as s
    from evaluation.objects.matching import NO_OBJECTS, count_objects
    from evaluation.prediction import Predictor, load_network
    from evaluation.scores.surface import cl_dice
    from evaluation.scores.validation import offset_mask

    device = torch.device(choose_device("auto"))
    network, checkpoint, epoch = load_network(run, which, device)
    predictor = Predictor(network, device, "fp32")
    mode, threshold = checkpoint["config"]["normalization"], checkpoint["threshold"]
    histogram, counts, thin, objects = 0, [], [], NO_OBJECTS
    confusion = np.zeros((classes, classes), np.int64)
    for sample, label in zip(samples, truth, strict=True):
        found = predictor(network_input(sample.image, mode)[None])[0].float().cpu().numpy()
        if classes > 1:
            confusion += s.confusion_matrix(found.argmax(0), label, classes)
            continue
        values = 1 - found[0] if checkpoint["pred_invert"] else found[0]
        mask = offset_mask(values >= threshold, checkpoint.get("mask_offset", 0.0))
        histogram = histogram + s.score_histogram(values, label)
        counts.append(s.confusion_counts(mask, label))
        thin.append(cl_dice(mask, label == 1))
        objects = objects + count_objects(numbered(mask), numbered(label == 1))
    if classes > 1:
        return {"iou": float(s.mean_iou(confusion)), "epoch": epoch}
    at_threshold, at_best = sum(counts[1:], counts[0]), s.counts_at(histogram, s.best_threshold(histogram)[0])
    return {
        "iou": float(s.iou(at_threshold)),
        "dice": float(s.f1(at_threshold)),
        "auc": float(s.auc(histogram)),
        "oracle_iou": float(s.iou(at_best)),
        "cldice": float(np.mean(thin)),
        "object_f1": objects.metrics()["object_f1"],
        "threshold": float(threshold),
        "inverted": bool(checkpoint["pred_invert"]),
        "epoch": epoch,
    }


def numbered(mask: np.ndarray) -> np.ndarray:
    """The connected objects of a mask, int32 (H, W), from 1 on."""
    return np.asarray(cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1])
