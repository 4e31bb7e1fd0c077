"""Whether speed costs accuracy: test IoU of the fast way and of the plain recipe, over seeds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np

from benchmarks.speed.record import Figure, Settings
from benchmarks.speed.training import DATASET, NOISE, in_fresh_process, removed_run, samples_of


def accuracy_options(settings: Settings, seed: int) -> dict[str, Any]:
    """The quick preset, counted in epochs as the plain way counts."""
    sizes = {"width": 2, "crop": 32, "epochs": 1} if settings.tiny else {}
    return {
        "dataset": DATASET,
        "label_noise": NOISE,
        "preset": "quick",
        "augment": (),  # as the plain way
        "epochs": 20,
        "device": settings.device,
        "seed": seed,
        "audit": False,
        "tensorboard": False,
        **sizes,
    }


def train_and_score(settings: Settings, way: str, seeds: Sequence[int]) -> list[float]:
    """Test IoUs of one way, ``fast`` or ``plain``, seed by seed."""
    score = {"fast": accuracy_fast, "plain": accuracy_plain}[way]
    return [score(accuracy_options(settings, seed)) for seed in seeds]


def accuracy_fast(given: dict[str, Any]) -> float:
    """Test IoU of the commands' way: trained and predicted in the fastest arithmetic."""
    import torch

    from evaluation.prediction import Predictor, load_network
    from models.blocks import fold_batch_norms
    from training.fit import configure, fit
    from utils.device import choose_precision

    device = torch.device(given["device"])
    with removed_run("speed_accuracy") as name, redirect_stdout(io.StringIO()):
        network, _, _ = load_network(fit(configure({**given, "run_name": name})), "last", device)
    return pooled_test_iou(Predictor(fold_batch_norms(network), device, choose_precision("auto", device)))


def accuracy_plain(given: dict[str, Any]) -> float:
    """Test IoU of the plain recipe, trained and predicted in fp32."""
    import torch

    from benchmarks.speed.plain import train_plainly
    from evaluation.prediction import Predictor
    from training.fit import configure

    network, _ = train_plainly(configure(given), samples_of("train/train_gt"), given["device"])
    return pooled_test_iou(Predictor(network.eval(), torch.device(given["device"])))


def pooled_test_iou(predictor: Any) -> float:
    """Pooled IoU on the test list at the threshold that is best on the validation list."""
    import torch

    from datasets.image_io import read_image, read_label
    from datasets.transforms import normalize
    from evaluation.scores import best_threshold, counts_at, iou, score_histogram

    def histogram(name: str) -> np.ndarray:
        total = 0
        for sample in samples_of(name):
            scores = predictor(torch.from_numpy(normalize(read_image(sample.image)))[None])
            total = total + score_histogram(scores[0, 0].cpu().numpy(), read_label(sample.label))
        return total

    threshold, _ = best_threshold(histogram("val"))
    return float(iou(counts_at(histogram("test"), threshold)))


def measure_accuracy(settings: Settings) -> list[Figure]:
    """Test IoU of the fast and of the plain way, over seeds."""
    seeds = range(2 if settings.tiny else settings.seeds)
    fast, plain = (in_fresh_process(train_and_score, settings, way, seeds) for way in ("fast", "plain"))
    error = float(np.sqrt((np.var(fast, ddof=1) + np.var(plain, ddof=1)) / len(fast)))
    what = f"test IoU, {'tiny' if settings.tiny else 'quick'} preset, mean of {len(fast)} seeds"
    return [
        Figure(
            what,
            "IoU",
            float(np.mean(fast)),
            float(np.mean(plain)),
            more={
                "fast": [round(value, 4) for value in fast],
                "plain": [round(value, 4) for value in plain],
                "difference": float(np.mean(fast) - np.mean(plain)),
                "standard error": error,
            },
        )
    ]
