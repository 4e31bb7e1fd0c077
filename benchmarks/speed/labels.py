"""Speed of what surrounds the network: label noise, EMS, metrics and the audit, against loops and scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.speed.record import Figure, Settings, median_ms
from benchmarks.speed.training import NOISE, samples_of
from datasets.label_noise import EMS_SPEC, Step, make_noisy_label, parse_spec

SIZE = 256
SIMULATED = ("er_sim", "mito_sim", "nuc_sim")
SPECS = (
    "clean",
    "sample:0.1",
    "sample:0.9",
    "flip:0.45",
    "flip:0.9,0.2",
    "random:0.3",
    "ntm",
    "dilate:3",
    "dilate:15",
    "erode:3",
    "erode:15",
    "skeleton",
    "shift:1",
    "shift:5",
    "missing:0.3",
    "merge:5",
    "wobble:2,1",
    "wobble:2,10",
    "polygon:2",
)
THRESHOLDS = np.linspace(0.01, 0.99, 99)
MIN_EMS, MIN_METRICS, MIN_SHIFT = 20.0, 20.0, 100.0


def draw_masks(count: int) -> dict[str, list[np.ndarray]]:
    """Masks (256, 256) of 0/1 by kind: ``count`` of each simulation, and the full mask."""
    from datasets.simulation import image_rng, simulate_image

    masks = {
        name: [simulate_image(name, image_rng(name, "train", index), SIZE)[1] for index in range(count)]
        for name in SIMULATED
    }
    return {**masks, "full": [np.ones((SIZE, SIZE), np.uint8)]}


def measure_label_noise(settings: Settings) -> list[Figure]:
    """Milliseconds an image of every step of label noise; of the shift, against a loop over pixels.

    The full mask, foreground everywhere, is the worst case of most steps and has no objects.
    """
    from benchmarks.speed.plain import shift_by_loop

    seconds = 0.0 if settings.tiny else settings.seconds / 10
    masks = draw_masks(1)
    full, rng, shift = masks["full"][0], np.random.default_rng(0), parse_spec("shift:1")

    def milliseconds(label: np.ndarray, steps: tuple[Step, ...]) -> float:
        return median_ms(lambda: make_noisy_label(label, steps, 0, "image"), seconds)

    figures = []
    for spec in SPECS:
        steps = (Step("ntm", (((0.9, 0.1), (0.3, 0.7)),), "ntm"),) if spec == "ntm" else parse_spec(spec)
        times = {kind: np.mean([milliseconds(mask, steps) for mask in drawn]) for kind, drawn in masks.items()}
        worst = float(times.pop("full"))
        figures.append(Figure(spec, "ms", float(np.mean(list(times.values()))), more={"full mask": worst}))
    fast, plain = milliseconds(full, shift), median_ms(lambda: shift_by_loop(full, 1, rng), seconds)
    goal = MIN_SHIFT if settings.baseline else None
    return [*figures, Figure("shift:1 of a full mask, against a loop over pixels", "ms", fast, plain, goal_ratio=goal)]


def measure_ems(settings: Settings) -> list[Figure]:
    """Milliseconds an image of the extraction of the meta-structure, against loops over pixels.

    Once all of it is a loop, once the skeleton is scikit-image's, which is compiled and part of our own EMS as well.
    """
    from skimage.morphology import skeletonize

    from benchmarks.speed.plain import ems_by_loop, thin_by_loop

    steps, rng = parse_spec(EMS_SPEC), np.random.default_rng(0)
    masks = {kind: drawn for kind, drawn in draw_masks(1 if settings.tiny else 3).items() if kind != "full"}

    def milliseconds(extract: Callable[[np.ndarray], np.ndarray], drawn: list[np.ndarray]) -> float:
        return float(np.mean([median_ms(lambda: extract(mask), settings.seconds, least=2) for mask in drawn]))  # noqa: B023

    figures = []
    for what, thin in (("loops throughout", thin_by_loop), ("loops, skeleton by scikit-image", skeletonize)):
        for kind, drawn in masks.items():
            fast = milliseconds(lambda mask: make_noisy_label(mask, steps, 0, "image"), drawn)
            plain = milliseconds(lambda mask: ems_by_loop(mask, 0.1, rng, thin), drawn)  # noqa: B023
            figures.append(Figure(f"EMS, {kind}; plain: {what}", "ms", fast, plain, goal_ratio=MIN_EMS))
    return figures


def measure_metrics(settings: Settings) -> list[Figure]:
    """Milliseconds an image: best threshold, AUC and average precision by histogram, against scikit-learn.

    And what ``metrics.py`` takes for an image with everything it reports, from files.
    """
    from benchmarks.speed.plain import metrics_by_threshold
    from evaluation.scores import auc, average_precision, best_threshold, score_histogram

    ((scores, label),) = scored_images(1)
    thresholds = THRESHOLDS[::10] if settings.tiny else THRESHOLDS

    def by_histogram() -> None:
        histogram = score_histogram(scores, label)
        best_threshold(histogram), auc(histogram), average_precision(histogram)

    fast = median_ms(by_histogram, settings.seconds)
    plain = median_ms(lambda: metrics_by_threshold(scores, label, thresholds), settings.seconds, least=2)
    one = median_ms(lambda: metrics_by_threshold(scores, label, [0.5]), settings.seconds, least=2)
    return [
        Figure(
            f"every threshold, AUC, AP of an image; scikit-learn: {len(thresholds)} thresholds",
            "ms",
            fast,
            plain,
            goal_ratio=MIN_METRICS,
        ),
        Figure("the same; scikit-learn: one threshold", "ms", fast, one),
        Figure("every figure of metrics.py, from files", "ms", score_files(settings)),
    ]


def scored_images(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores float32 (256, 256) of a middling network, and their labels."""
    import cv2

    from datasets.image_io import read_label

    rng = np.random.default_rng(0)
    pairs = []
    for sample in samples_of("test")[:count]:
        label = read_label(sample.require_label())
        noise = cv2.GaussianBlur(rng.normal(0, 1, label.shape), (0, 0), 2)
        logits = 4 * cv2.GaussianBlur(label.astype(np.float64), (0, 0), 1.5) - 2 + 5 * noise
        pairs.append(((1 / (1 + np.exp(-logits))).astype(np.float32), label))
    return pairs


def score_files(settings: Settings) -> float:
    """Milliseconds an image that ``metrics.py`` takes to read and score maps, in as many threads as it uses."""
    import tempfile
    from pathlib import Path

    from datasets.image_io import write_scores
    from evaluation.scores.images import Scorer, score_maps
    from evaluation.scores.summary import summarize

    samples = samples_of("test")[: 2 if settings.tiny else None]
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for sample, (scores, _) in zip(samples, scored_images(len(samples)), strict=True):
            pairs.append((sample, Path(folder) / f"{sample.image.stem}.tif"))
            write_scores(pairs[-1][1], scores)
        scorer = Scorer()
        started = time.perf_counter()
        summarize(score_maps(pairs, scorer), scorer)
        return 1000 * (time.perf_counter() - started) / len(pairs)


def measure_audit(settings: Settings) -> list[Figure]:
    """Seconds that an audit of 1,000 labels takes, beside clean labels and images, all in memory."""
    from datasets.image_io import read_image, read_label
    from evaluation.label_audit import audit_labels

    count = 20 if settings.tiny else 1000
    samples = samples_of("train/train_gt")
    used = [samples[place % len(samples)] for place in range(count)]
    truth = {sample.image_id: read_label(sample.require_label()) for sample in samples[:count]}
    images = {sample.image_id: read_image(sample.image) for sample in samples[:count]}
    steps = parse_spec(NOISE)
    noisy = {name: make_noisy_label(label, steps, 0, name) for name, label in truth.items()}
    names = [sample.image_id for sample in used]
    started = time.perf_counter()
    report = audit_labels(*([made[name] for name in names] for made in (noisy, truth, images)))
    return [Figure(f"audit of {count} labels", "s", time.perf_counter() - started, more={"verdict": report.verdict})]
