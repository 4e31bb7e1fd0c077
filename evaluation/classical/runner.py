"""Segmenting a list of images by methods that learn from no label: read, write maps as inference does, score, print."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.lists import Sample, find_list, read_list
from evaluation.classical.foreground import FOREGROUNDS, orient, resolve_foreground
from utils.cli import CommandParser, Progress
from utils.files import unique_stems, write_json
from utils.lazy import LazySequence
from utils.run_folder import LOG_ROOT, display_path, environment_record, quoted

IMAGES_FOR_DIRECTION = 64


def oriented_images(samples: Sequence[Sample], foreground: str) -> LazySequence[np.ndarray]:
    """The images of a list, float32 (H, W) with bright structures, read whenever one is asked for."""
    from datasets.image_io import read_image

    return LazySequence(lambda place: orient(read_image(samples[place].image), foreground), len(samples))


# From all images to their score maps, in order.
SetMethod = Callable[[Sequence[np.ndarray]], Iterable[np.ndarray]]


@dataclass(frozen=True)
class ListOfImages:
    """What the methods are run on, as the command line names it."""

    dataset: str
    path: Path
    samples: list[Sample]
    data_root: str | None
    ignore_index: int | None


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The options that every command for methods without training labels has."""
    parser = CommandParser(prog=prog, description=description, formatter_class=argparse.HelpFormatter)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="data set, or whose lists to look in")
    parser.add_argument(
        "--data_list",
        default="test",
        metavar="LIST",
        help="list of images; labels are used for the table alone (default: test)",
    )
    parser.add_argument("--data_root", metavar="DIR", help="folder that relative paths in the list start from")
    parser.add_argument("--ignore_index", type=int, metavar="V", help="label value that is ignored")
    parser.add_argument(
        "--foreground",
        default="auto",
        choices=FOREGROUNDS,
        help="what structures look like; auto: bright or dark, by the skewness of the images; "
        "minority: the smaller part of each (default: auto)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where a folder for each method is written (default: train_log/NAME/baselines/LIST)",
    )
    return parser


def choose_images(options: argparse.Namespace) -> ListOfImages:
    """Read the list that the options name."""
    from datasets.catalog import prepare_dataset

    given = options.data_list if Path(options.data_list).is_file() else None  # then the set needs no lists of its own
    dataset = prepare_dataset(options.dataset, train_list=given)
    path = find_list(options.data_list, dataset)
    samples = read_list(path, options.data_root, labels="optional")
    return ListOfImages(dataset, path, samples, options.data_root, options.ignore_index)


def write_maps(
    method: SetMethod, name: str, images: Sequence[np.ndarray], foreground: str, source: ListOfImages, folder: Path
) -> tuple[np.ndarray, list[float], float]:
    """Segment all images, write their maps as inference does, and count how they meet the labels.

    Returns: the pooled score histogram (2, BINS), the IoU of each labelled image at threshold 0.5, seconds an image.
    """
    from datasets.image_io import read_label, write_scores
    from evaluation.inference import clear_results
    from evaluation.scores import BINS, counts_at, iou, score_histogram

    clear_results(folder)
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
                histogram = score_histogram(scores, read_label(sample.label, 1, source.ignore_index))
                pooled += histogram
                ious.append(iou(counts_at(histogram, 0.5)))
            progress.update()
    record = {
        "method": name,
        "dataset": source.dataset,
        "list": display_path(source.path),
        "data_root": source.data_root,
        "num_classes": 1,
        "in_channels": 1,
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
    from evaluation.scores import auc, best_threshold, bootstrap_mean, counts_at, f1, iou

    counts = counts_at(pooled, 0.5)
    mean, low, high = bootstrap_mean(np.array(ious))
    print(
        f"{name:18}{f1(counts):7.4f}{iou(counts):8.4f}{auc(pooled):8.4f}{best_threshold(pooled)[1]:13.4f}"
        f"{mean:10.4f} [{low:.4f}, {high:.4f}]{seconds:9.3f}",
        flush=True,
    )


def run_methods(options: argparse.Namespace, methods: Mapping[str, SetMethod]) -> None:
    """Run every method on the images of a list, write its maps and print a line for it.

    Args:
        options: from a parser of :func:`make_parser`.
        methods: name → from all images (bright structures) to their score maps.
    """
    source = choose_images(options)
    few = source.samples[:: -(-len(source.samples) // IMAGES_FOR_DIRECTION)]
    foreground = resolve_foreground(options.foreground, oriented_images(few, "bright"))
    out = options.out or LOG_ROOT / source.dataset / "baselines" / source.path.stem
    images = oriented_images(source.samples, foreground)
    labelled = sum(sample.label is not None for sample in source.samples)
    print(f"{len(images)} images of {display_path(source.path)}, {labelled} with labels; foreground: {foreground}")
    if labelled:
        print(f"{'':18}{'Dice':>7}{'IoU':>8}{'AUC':>8}{'*oracle* IoU':>13}{'IoU, mean of images':>27}{'s/image':>9}")
    for name, method in methods.items():
        pooled, ious, seconds = write_maps(method, name, images, foreground, source, out / name)
        if labelled:
            print_row(name, pooled, ious, seconds)
    maps = quoted(display_path(out / next(iter(methods)) / "pred"))
    print(
        f"maps: {display_path(out)}/METHOD/pred; every figure of one of them:\n"
        f"python evaluation/metrics.py --prd_dir {maps}"
    )
