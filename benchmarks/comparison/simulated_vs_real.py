"""How near the simulated micrographs are to real ones: a table of numbers and two pages of pictures.

    python benchmarks/comparison/simulated_vs_real.py --real_dir FOLDER

Writes ``figures.json``, ``comparison.png`` (all sets; the ER images in it have no licence: for the eye only) and
``simulated.jpg`` (simulated images and CC0 nuclei: may be published) below ``--out``, and prints the table.
Real sets lie as ``<real_dir>/<set>/{train,val,test}/{images,labels}``; those that are absent are left out.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # the repository root, not this folder, whose names would shadow others
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.cli import CommandParser, Progress, run_command
from utils.files import write_json
from utils.run_folder import LOG_ROOT, display_path, environment_record

COUNTERPARTS = {"er_sim": "er_ernet", "nuc_sim": "nuc", "mito_sim": None}
PUBLISHED = ("er_sim", "mito_sim", "nuc_sim", "nuc")  # the sets whose pictures may be shown to anybody
SPLITS = ("train", "val", "test")
MIN_OBJECT = 20  # pixels
Z_BINS = np.linspace(-4, 12, 641)  # of z-scored intensities; values outside go to the ends
CELL, PAIRS = 160, 4  # side of a picture on the page, pixels; image/mask pairs in a row


@dataclass(frozen=True, slots=True)
class Pair:
    """An image (H, W) and its mask, uint8 0/1 (H, W)."""

    image: np.ndarray
    mask: np.ndarray


def main() -> None:
    """Measure every set, print the table, write pages of pictures and the figures."""
    options = parse_options()
    names = [name for pair in COUNTERPARTS.items() for name in pair if name]
    figures, pictures = {}, {}
    for name in names:
        if name in COUNTERPARTS or (options.real_dir / name).is_dir():
            splits = {split: load_split(name, split, options.real_dir) for split in SPLITS}
            figures[name] = measure_set(name, splits)
            pictures[name] = picture_row(name, splits["test"])
        else:
            print(f"{name} is not in {options.real_dir}: left out")
    add_histogram_distances(figures)
    print(table(figures))
    write_pages(pictures, options.out)
    for entry in figures.values():
        del entry["histogram"], entry["test_histogram"]
    write_json(options.out / "figures.json", {"sets": figures, "environment": environment_record("cpu")})
    print(f"pictures and figures.json are in {display_path(options.out)}")


def parse_options() -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        description="Compare the simulated data sets with real micrographs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--real_dir",
        type=Path,
        default=Path(os.environ.get("SEG_TEST_DATA", ".")),
        help="folder of er_ernet and nuc (default: SEG_TEST_DATA)",
    )
    parser.add_argument("--out", type=Path, default=LOG_ROOT / "simulated_vs_real", help="folder to write to")
    return parser.parse_args()


def load_split(name: str, split: str, real_dir: Path) -> list[Pair]:
    """All pairs of a split, simulated in memory or read from files."""
    if name in COUNTERPARTS:
        from datasets.simulation import SIMULATED, image_rng, simulate_image

        count = SIMULATED[name].counts[SPLITS.index(split)]
        return [Pair(*simulate_image(name, image_rng(name, split, index))) for index in range(count)]
    from datasets.image_io import read_image, read_label

    folder = real_dir / name / split
    return [Pair(read_image(path), read_label(folder / "labels" / path.name)) for path in image_files(folder)]


def image_files(folder: Path) -> list[Path]:
    """The image files of a split, sorted by name."""
    return sorted((folder / "images").iterdir())


def measure_set(name: str, splits: dict[str, list[Pair]]) -> dict[str, Any]:
    """The figures of a set over all its images; Otsu also on the test split alone."""
    rows = []
    with Progress(sum(map(len, splits.values())), f"measuring {name}") as progress:
        for split, pairs in splits.items():
            for pair in pairs:
                rows.append({"split": split, **measure_pair(pair)})
                progress.update()

    def spread(key: str) -> list[float]:
        values = np.concatenate([np.atleast_1d(row[key]) for row in rows])
        return [float(value) for value in (np.nanmean(values), *np.nanpercentile(values, [5, 50, 95]))]

    test = [row for row in rows if row["split"] == "test"]
    return {
        "images": [len(pairs) for pairs in splits.values()],
        **{key: spread(key) for key in ("foreground", "width", "diameter", "snr", "contrast")},
        "otsu_iou_test": pooled_iou(test),
        "otsu_iou_all": pooled_iou(rows),
        "histogram": sum(row["histogram"] for row in rows),
        "test_histogram": sum(row["histogram"] for row in test),
    }


def measure_pair(pair: Pair) -> dict[str, Any]:
    """The figures of one image; lengths in pixels."""
    from evaluation.classical.methods import otsu_mask
    from evaluation.scores import confusion_counts

    image = pair.image.astype(np.float64)
    step, deviation = signal_above_surroundings(image, pair.mask)
    z = (image - image.mean()) / max(image.std(), 1e-9)
    return {
        "foreground": pair.mask.mean(),
        "width": mean_width(pair.mask),
        "diameter": object_diameters(pair.mask),
        "snr": step / noise_deviation(image),
        "contrast": step / deviation,
        "otsu": confusion_counts(otsu_mask(pair.image), pair.mask),
        "histogram": np.histogram(z.clip(Z_BINS[0], Z_BINS[-1]), Z_BINS)[0],
    }


def mean_width(mask: np.ndarray) -> float:
    """Mean of twice the distance to the background along the skeleton, pixels."""
    import cv2
    from skimage.morphology import skeletonize

    distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    skeleton = skeletonize(mask > 0)
    return 2 * float(distance[skeleton].mean()) if skeleton.any() else np.nan


def object_diameters(mask: np.ndarray) -> np.ndarray:
    """Diameters of the disks that have the areas of the connected objects, pixels."""
    import cv2

    areas = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
    return 2 * np.sqrt(areas[areas >= MIN_OBJECT] / np.pi)


def signal_above_surroundings(image: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Median foreground less median of the background within 6 pixels of it; deviation of the whole background."""
    import cv2

    near = cv2.dilate(mask, np.ones((13, 13), np.uint8)) > mask
    step = np.median(image[mask > 0]) - np.median(image[near])
    return float(step), max(float(image[mask == 0].std()), 1e-9)


def noise_deviation(image: np.ndarray) -> float:
    """Robust estimate of pixel noise from a difference of Laplacians; smoothed or 8-bit images fall below the truth.

    Source: Immerkær, *Fast noise variance estimation*, CVIU 1996, with the median for the mean. At least 0.25 grey
    levels, about what rounding alone makes.
    """
    from scipy.ndimage import convolve

    response = convolve(image, np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], float))
    return max(1.4826 * float(np.median(np.abs(response))) / 6, 0.25)


def pooled_iou(rows: list[dict[str, Any]]) -> float:
    """IoU of the summed counts of Otsu's masks."""
    from evaluation.scores import iou

    total = rows[0]["otsu"]
    for row in rows[1:]:
        total = total + row["otsu"]
    return float(iou(total))


def earth_mover_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two histograms of z-scored intensities, in standard deviations of an image."""
    difference = np.cumsum(first / first.sum() - second / second.sum())
    return float(np.abs(difference).sum() * (Z_BINS[1] - Z_BINS[0]))


def add_histogram_distances(figures: dict[str, dict[str, Any]]) -> None:
    """To each simulated set the distance to its real one; to each real set that of its test images to the rest."""
    for simulated, real in COUNTERPARTS.items():
        if real in figures:
            whole, test = figures[real]["histogram"], figures[real]["test_histogram"]
            figures[simulated]["histogram_distance"] = earth_mover_distance(figures[simulated]["histogram"], whole)
            figures[real]["histogram_distance"] = earth_mover_distance(test, whole - test)


def table(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table: mean (5th…95th percentile)."""

    def cell(values: list[float], digits: int) -> str:
        mean, low, _, high = values
        return f"{mean:.{digits}f} ({low:.{digits}f}…{high:.{digits}f})"

    lines = [
        "| set | images | foreground share | width, px | object diameter, px | SNR, median | contrast, median "
        "| histogram distance | Otsu IoU, test |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in figures.items():
        distance = entry.get("histogram_distance")
        lines.append(
            f"| `{name}` | {' / '.join(map(str, entry['images']))} | {cell(entry['foreground'], 2)} "
            f"| {cell(entry['width'], 1)} | {cell(entry['diameter'], 0)} | {entry['snr'][2]:.1f} "
            f"| {entry['contrast'][2]:.1f} | {'–' if distance is None else f'{distance:.2f}'} "
            f"| {entry['otsu_iou_test']:.2f} |"
        )
    return "\n".join(lines)


def picture_row(name: str, pairs: list[Pair]) -> np.ndarray:
    """Evenly spaced images of a set beside their masks, under the set's name; uint8 (CELL + 18, width)."""
    import cv2

    def cells() -> Iterator[np.ndarray]:
        for index in np.linspace(0, len(pairs) - 1, PAIRS).round().astype(int):
            image = pairs[index].image.astype(np.float32)
            low, high = np.percentile(image, [0.5, 99.7])
            shown = ((image - low) / max(high - low, 1e-9)).clip(0, 1) * 255
            for picture in (shown, pairs[index].mask * 255.0):
                small = cv2.resize(picture.astype(np.float32), (CELL, CELL), interpolation=cv2.INTER_AREA)
                yield np.pad(small.astype(np.uint8), ((0, 0), (0, 3)), constant_values=128)

    row = np.hstack(list(cells()))
    title = np.zeros((18, row.shape[1]), np.uint8)
    cv2.putText(title, name, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255, 1, cv2.LINE_AA)
    return np.vstack([title, row])


def write_pages(pictures: dict[str, np.ndarray], out: Path) -> None:
    """Write the page with everything and the one that may be published."""
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(list(pictures.values()))).save(out / "comparison.png")
    shown = [pictures[name] for name in PUBLISHED if name in pictures]
    Image.fromarray(np.vstack(shown)).save(out / "simulated.jpg", quality=85)


if __name__ == "__main__":
    run_command(main)
