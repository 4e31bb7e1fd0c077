"""Segmenting a list of images by methods that learn from no label: read, write maps as inference does, score, print."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets.catalog import prepare_dataset
from datasets.image_corrections import without_hot_pixels
from datasets.image_io import read_image, read_label, write_scores
from datasets.label_values import LabelReading
from datasets.list_checks import Expectation
from datasets.lists import Sample, decide_labels, find_list, read_list
from evaluation.classical import BASELINES
from evaluation.classical.methods import orient, resolve_foreground
from evaluation.scores import BINS, auc, best_threshold, bootstrap_mean, counts_at, f1, iou, score_histogram
from evaluation.scores.map_folder import METRICS, PREDICTIONS, earlier_files
from utils.background import LazySequence
from utils.cli import Progress, one_of
from utils.files import unique_stems, write_json
from utils.output_folder import replaced_output
from utils.run_folder import LOG_ROOT, display_path, environment_record, quoted

NAME_WIDTH = max(map(len, BASELINES)) + 1
IMAGES_FOR_DIRECTION = 64


def oriented_images(
    samples: Sequence[Sample], foreground: str, channels: Sequence[str] = ()
) -> LazySequence[np.ndarray]:
    """The images of a list, float32 (H, W) with bright structures, read whenever one is asked for.

    Args:
        channels: by number or OME name, averaged; empty reads colours as luminance.
    """

    def oriented(place: int) -> np.ndarray:
        image = without_hot_pixels(read_image(samples[place].image, len(channels) or 1, channels))
        return orient(image, foreground)

    return LazySequence(oriented, len(samples))


# From all images to their score maps, in order.
SetMethod = Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]


@dataclass(frozen=True)
class ImageList:
    """What the methods are run on."""

    dataset: str
    path: Path
    samples: list[Sample]
    data_root: str | None
    ignore_index: int | None
    channels: tuple[str, ...]
    reading: LabelReading | None


def find_method(name: str, dfc_settings: Sequence[str] = ()) -> SetMethod:
    """A method by its name in ``BASELINES``, or ``dfc`` with its settings."""
    if name != "dfc":
        return functools.partial(map, BASELINES[one_of(name, [*BASELINES, "dfc"], "method")])
    from evaluation.classical.dfc import DfcSettings, segment  # torch

    return functools.partial(segment, settings=DfcSettings.parse(dfc_settings))


def read_images(
    dataset: str,
    data_list: str,
    data_root: str | None,
    *,
    ignore_index: int | None,
    label_map: str | None = None,
    channels: Sequence[str] = (),
) -> ImageList:
    """Read the list of a data set, which is simulated first where it is to be, and decide how its labels are read."""
    given = data_list if Path(data_list).is_file() else None  # then the set needs no lists of its own
    dataset = prepare_dataset(dataset, train_list=given)
    path = find_list(data_list, dataset)
    samples, reading = read_list(path, data_root, labels="optional"), None
    if any(sample.label for sample in samples):
        expected = replace(Expectation.of(1, ignore_index, label_map), only_binary=True)
        reading = decide_labels(samples, path, expected)
        samples = [replace(sample, reading=reading) for sample in samples]
    return ImageList(
        dataset,
        path,
        samples,
        data_root=data_root,
        ignore_index=ignore_index,
        channels=tuple(channels),
        reading=reading,
    )


def write_maps(
    name: str, method: SetMethod, images: Sequence[np.ndarray], *, foreground: str, source: ImageList, folder: Path
) -> tuple[np.ndarray, list[float], float]:
    """Segment all images, write their maps as inference does, and count how they meet the labels.

    Returns: the pooled score histogram (2, BINS), the IoU of each labelled image at threshold 0.5, seconds an image.
    """
    pooled, ious, sizes, seconds = np.zeros((2, BINS), np.int64), [], {}, 0.0
    names = [f"pred/{stem}.tif" for stem in unique_stems([sample.image for sample in source.samples])]
    maps = iter(method(images))
    with Progress(len(images), name) as progress:
        for sample, file in zip(source.samples, names, strict=True):
            started = time.monotonic()
            scores = next(maps)
            seconds += time.monotonic() - started
            write_scores(folder / file, scores)
            sizes[display_path(sample.image)] = scores.shape
            if sample.label is not None:
                label = read_label(sample.label, 1, source.ignore_index, sample.reading)
                histogram = score_histogram(scores, label)
                pooled += histogram
                ious.append(iou(counts_at(histogram, 0.5)))
            progress.update()
    record = {
        "method": name,
        "dataset": source.dataset,
        "list": display_path(source.path),
        "data_root": source.data_root,
        "num_classes": 1,
        "in_channels": len(source.channels) or 1,
        "channels": source.channels,
        "label_reading": source.reading and source.reading.to_json(),
        "ignore_index": source.ignore_index,
        "threshold": 0.5,
        "inverted": False,
        "foreground": foreground,
        "maps": dict(zip(sizes, names, strict=True)),
        "sizes": sizes,
        "timing": {"images": len(images), "seconds": seconds},
        "environment": environment_record("cpu"),
    }
    write_json(folder / "predictions.json", record)
    return pooled, ious, seconds / len(images)


def print_row(name: str, pooled: np.ndarray, ious: Sequence[float], seconds: float) -> None:
    """A line of the table: figures pooled over pixels, the mean over images, the cost."""
    counts = counts_at(pooled, 0.5)
    mean, low, high = bootstrap_mean(np.array(ious))
    print(
        f"{name:{NAME_WIDTH}}{f1(counts):7.4f}{iou(counts):8.4f}{auc(pooled):8.4f}{best_threshold(pooled)[1]:13.4f}"
        f"{mean:10.4f} [{low:.4f}, {high:.4f}]{seconds:9.3f}",
        flush=True,
    )


def run_methods(
    dataset: str,
    methods: Sequence[str],
    *,
    data_list: str = "test",
    data_root: str | None = None,
    ignore_index: int | None = None,
    label_map: str | None = None,
    channels: Sequence[str] = (),
    foreground: str = "auto",
    dfc_settings: Sequence[str] = (),
    out: Path | None = None,
) -> Path:
    """Run every method on the images of a list, write its maps and print a line for it.

    Args:
        methods: names in ``BASELINES``, or ``dfc``.
        data_list: images; their labels are used for the table alone.
        label_map: what values of labels mean.
        channels: of the images, by number or OME name, averaged.
        foreground: ``bright``, ``dark``, ``minority`` (the smaller part) or ``auto``.
        dfc_settings: such as ``iterations=300``, see `DfcSettings`.
        out: where a folder for each method goes; default: ``train_log/<dataset>/baselines/<list>``.
    Returns: that folder.
    """
    segmenters = {name: find_method(name, dfc_settings) for name in methods}
    source = read_images(
        dataset, data_list, data_root, ignore_index=ignore_index, label_map=label_map, channels=channels
    )
    few = source.samples[:: -(-len(source.samples) // IMAGES_FOR_DIRECTION)]
    foreground = resolve_foreground(foreground, oriented_images(few, "bright", channels))
    out = out or LOG_ROOT / source.dataset / "baselines" / source.path.stem
    images = oriented_images(source.samples, foreground, channels)
    labelled = sum(sample.label is not None for sample in source.samples)
    print(f"{len(images)} images of {display_path(source.path)}, {labelled} with labels; foreground: {foreground}")
    if labelled:
        pooled = f"{'':{NAME_WIDTH}}{'Dice':>7}{'IoU':>8}{'AUC':>8}{'*oracle* IoU':>13}"
        print(f"{pooled}{'IoU, mean of images':>27}{'s/image':>9}")
    for name, method in segmenters.items():
        folder = out / name
        with replaced_output(folder, PREDICTIONS, earlier=earlier_files(folder), outdated=[METRICS]) as partial:
            scored = write_maps(name, method, images, foreground=foreground, source=source, folder=partial)
        if labelled:
            print_row(name, *scored)
    print(
        f"maps: {display_path(out)}/METHOD/pred; every figure of one of them:\n"
        f"python evaluation/metrics.py --prd_dir {quoted(display_path(out / methods[0] / 'pred'))}"
    )
    return out
