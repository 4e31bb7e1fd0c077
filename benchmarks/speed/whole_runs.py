"""Whole runs, as users start them: the paper's recipe, a row of the noise grid, training without labels, GPU tests."""

from __future__ import annotations

import re
import statistics
import time
from typing import Any

from benchmarks.speed.record import Figure, Settings
from benchmarks.speed.training import DATASET, last_line, removed_run, run_tool, samples_of
from utils.files import read_jsonl
from utils.run_folder import LOG_ROOT

PAPER_EPOCHS, PAPER_SECONDS = 100, 60.0
NOISE_ROW, NOISE_STEPS = "flip:0.45", 300  # a row of benchmarks/audit/noise_grid.py, and the steps that it takes there


def measure_recipe(settings: Settings) -> list[Figure]:
    """The whole command of the paper's recipe: 157 draws an epoch, 100 epochs, validation and checkpoints."""
    return [_paper_recipe(settings)]


def measure_compiled_recipe(settings: Settings) -> list[Figure]:
    """The same with ``--compile``, compiling included."""
    return [_paper_recipe(settings, "--compile")]


def _paper_recipe(settings: Settings, *flags: str) -> Figure:
    samples_of("train/train_gt")
    epochs = _paper_epochs(settings)
    sizes = ["--width", "2", "--crop", "32"] if settings.tiny else []
    with removed_run("speed_recipe") as name:
        answer, seconds = run_tool(
            *("main.py", "--dataset", DATASET, "--preset", "paper", "--device", settings.device),
            *("--epochs", str(epochs), "--run_name", name, *sizes, *flags),
        )
        last_line(answer)
        records = read_jsonl(LOG_ROOT / DATASET / name / "metrics.jsonl")
    return Figure(
        f"{' '.join(['main.py --preset paper', *flags])}, {epochs} epochs",
        "s",
        seconds,
        goal=PAPER_SECONDS if settings.device == "cuda" and not settings.tiny else None,
        more={
            "validation IoU": records[-1]["val/iou"],
            "images/s in epochs": statistics.median(record["train/images_per_second"] for record in records),
        },
    )


def _paper_epochs(settings: Settings) -> int:
    return 2 if settings.tiny else PAPER_EPOCHS


def measure_noise_row(settings: Settings) -> list[Figure]:
    """A row of the noise grid at this width: the IoU predicted from the labels, and the one reached."""
    from benchmarks.audit.noise_grid import run_trial

    started, steps = time.perf_counter(), 20 if settings.tiny else NOISE_STEPS
    found = run_trial(DATASET, NOISE_ROW, width=settings.width, steps=steps)
    audit, measured = found["audit"], found["measured"]
    more = {
        "predicted IoU": audit["predicted_iou"],
        "verdict": audit["verdict"],
        "AUC": measured["auc"],
        "oracle IoU": measured["oracle_iou"],
        "s": time.perf_counter() - started,
    }
    return [Figure(f"noise grid, {DATASET} {NOISE_ROW}, width {settings.width}", "IoU", measured["iou"], more=more)]


def measure_label_free(settings: Settings) -> list[Figure]:
    """Training without labels as published, at the published width and length: test IoU, and its time."""
    from benchmarks.trials import predict, train
    from evaluation.pages.evaluate import evaluate_maps

    sizes: dict[str, Any] = {"width": 2, "crop": 32} if settings.tiny else {}
    started, epochs = time.perf_counter(), _paper_epochs(settings)
    length = {"preset": "paper", "epochs": epochs, "checkpoint_from": epochs, "device": settings.device}
    with removed_run("speed_label_free") as name:
        run = train(DATASET, name, igtt="published", **length, **sizes)
        records = read_jsonl(run / "metrics.jsonl")
        found = evaluate_maps(predict(run), report=False)
    more = {
        "AUC": found["pooled"]["auc"],
        "Dice": found["pooled"]["f1"],
        "oracle IoU": found["oracle"]["iou"],
        "images/s in epochs": statistics.median(record["train/images_per_second"] for record in records),
        "s": time.perf_counter() - started,
    }
    what = f"label-free as published, {DATASET}, {epochs} epochs"
    return [Figure(what, "IoU", found["pooled"]["iou"], more=more)]


def measure_gpu_tests(settings: Settings) -> list[Figure]:
    """The tests that need a GPU; without one they are skipped."""
    answer, seconds = run_tool("-m", "pytest", "-m", "gpu", "--runslow", "-p", "no:cacheprovider")
    if answer.returncode not in (0, 5):
        last_line(answer)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|skipped)", answer.stdout)}
    return [Figure("tests that need a GPU", "s", seconds, more=counts)]
