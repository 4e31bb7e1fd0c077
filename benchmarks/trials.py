"""What the studies share: evenly spaced parts of lists, audits, short trainings, predictions."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.run_folder import LOG_ROOT

if TYPE_CHECKING:
    from datasets.lists import Sample


def chosen_samples(dataset: str, name: str, count: int) -> list[Sample]:
    """At most ``count`` samples spread evenly over a list."""
    from datasets.lists import find_list, read_list

    samples = read_list(find_list(name, dataset), say=lambda line: None)
    step = max(1.0, len(samples) / count)
    return [samples[int(place * step)] for place in range(min(count, len(samples)))]


def part_of_list(dataset: str, name: str, count: int, study: str) -> Path:
    """A list of at most ``count`` images spread evenly over a list of the data set, below the study's own folder."""
    from datasets.catalog import prepare_dataset
    from datasets.lists import write_list

    prepare_dataset(dataset)
    path = LOG_ROOT / study / dataset / f"{name}.txt"
    write_list(path, [(sample.image, sample.label) for sample in chosen_samples(dataset, name, count)])
    return path


def pooled_iou(masks: Iterable[np.ndarray], labels: Iterable[np.ndarray], num_classes: int = 1) -> float:
    """IoU of masks with labels, 255 ignored in these, over the pixels of all images; the mean of several classes'."""
    from evaluation.scores import confusion_counts, confusion_matrix, iou, mean_iou

    pairs = zip(masks, labels, strict=True)
    if num_classes > 1:
        return float(mean_iou(sum(confusion_matrix(mask, label, num_classes) for mask, label in pairs)))
    first, *others = (confusion_counts(mask == 1, label) for mask, label in pairs)
    return float(iou(sum(others, first)))


def audit_noise(
    spec: str, train_list: Path, num_classes: int = 1, *, seed: int = 0, steps: int | None = None
) -> dict[str, Any]:
    """The audit of a list's clean labels after noise, for so many steps, as JSON, with the seconds that it took."""
    from datasets.image_io import read_image, read_label
    from datasets.label_noise import make_noisy_label
    from datasets.lists import read_list
    from evaluation.label_audit import audit_labels

    samples = read_list(train_list)
    truth = [read_label(sample.require_label(), num_classes) for sample in samples]
    noisy = [
        make_noisy_label(label, spec, seed, sample.image_id, num_classes)
        for label, sample in zip(truth, samples, strict=True)
    ]
    started = time.monotonic()
    report = audit_labels(noisy, truth, [read_image(sample.image) for sample in samples], num_classes, steps=steps)
    return {**report.to_json(), "seconds": time.monotonic() - started, "profile": None}


# What quick U-Nets were trained by when grids were begun that are not finished: a grid holds one way. In none of them
# brightness and contrast of images vary.
UNVARIED: dict[str, Any] = {"augment": ()}
RECORDED = {"ema": 0.0, "network_options": {"local_contrast": 0}}


def train(dataset: str, name: str, **options: Any) -> Path:
    """Train with the quick recipe and return the run folder; what an interrupted trial left is removed first."""
    from training.fit import configure, fit

    shutil.rmtree(LOG_ROOT / dataset / name, ignore_errors=True)
    common = {"preset": "quick", "audit": False, "tensorboard": False, **UNVARIED}
    return fit(configure({"dataset": dataset, "run_name": name, **common, **options}))


def predict(run: Path, *flags: str) -> Path:
    """Predict with the best checkpoint, as users do, and return the folder of the results."""
    from evaluation import inference

    before = set((run / "results").glob("*"))
    inference.main(["--train_dir", str(run), "--test_ckpt_epoch", "best", *flags])
    (folder,) = set((run / "results").iterdir()) - before
    return folder
