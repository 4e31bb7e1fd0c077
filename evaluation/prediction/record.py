"""What is recorded and said of a prediction: its course, its maps, what failed, and the command that scores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from datasets.image_files import PlaneStack
from evaluation.prediction.settings import MapSettings, Picture
from evaluation.prediction.stacks import whole_file, whole_map
from utils.cli import counted
from utils.run_folder import display_path, environment_record, quoted

NAMED_FAILURES = 20


def failure_text(failed: Mapping[Path, str], succeeded: int) -> str:
    """Which images could not be predicted, and why."""
    reasons = list(dict.fromkeys(failed.values()))  # planes of a stack share theirs
    lines = reasons[:NAMED_FAILURES]
    more = [f"… and {len(reasons) - NAMED_FAILURES} more"] if len(reasons) > NAMED_FAILURES else []
    rest = "; the maps of the others are complete" if succeeded else ""
    head = f"{len(failed)} of {len(failed) + succeeded} images could not be predicted{rest}:"
    return "\n".join([head, *lines, *more])


def describe_course(images: int, seconds: float, device: torch.device, failed: Mapping[Path, str]) -> dict[str, Any]:
    """How long the prediction of so many images took, on what, and which others failed."""
    seconds = max(seconds, 1e-9)
    return {
        "timing": {"images": images, "seconds": seconds, "images_per_second": images / seconds},
        "environment": environment_record(str(device)),
        "failed": {display_path(image): reason for image, reason in failed.items()},
    }


def describe_maps(
    pictures: Sequence[Picture], settings: MapSettings, stacks: Mapping[Path, PlaneStack]
) -> dict[str, Any]:
    """What reading the maps needs to know; a stack has one map, whose axes are recorded."""
    sizes: dict[Path, list[int]] = {}
    names: dict[Path, str] = {}
    for picture in pictures:
        path = whole_file(picture.image, stacks)
        names[path] = whole_map(picture.name)
        sizes[path] = [*(stacks[path].plane_shape if path in stacks else ()), *picture.size]
    return {
        "num_classes": settings.num_classes,
        "in_channels": settings.in_channels,
        "channels": settings.channels,
        "label_reading": settings.reading and settings.reading.to_json(),
        "ignore_index": settings.ignore_index,
        "threshold": settings.threshold if settings.num_classes == 1 else None,
        "mask_offset": settings.offset,
        "calibration": settings.calibration and settings.calibration.to_json(),
        "inverted": settings.invert,
        "maps": {display_path(path): f"pred/{name}.tif" for path, name in names.items()},
        "sizes": {display_path(path): size for path, size in sizes.items()},
        "stacks": {display_path(path): f"{stack.plane_axes}YX" for path, stack in stacks.items()},
    }


def summarize(pictures: Sequence[Picture], folder: Path, record: dict[str, Any]) -> str:
    """What was written where, and the command that scores it."""
    threshold = "" if record["threshold"] is None else f", threshold {record['threshold']:.4f}"
    threshold += f", mask offset {record['mask_offset']:+g} px" if record["mask_offset"] else ""
    inverted = ", inverted" if record["inverted"] else ""
    timing = record["timing"]
    speed = f" ({timing['images_per_second']:.1f} images/s on {record['device']})" if timing["images"] else ""
    images = "1 image" if len(pictures) == 1 else f"{len(pictures)} images"
    images += f" ({counted(record['stacks'], 'stack')}, plane by plane)" if record["stacks"] else ""
    labelled = any(picture.label for picture in pictures)
    labels = "" if labelled else " --test_data_dir LIST_WITH_LABELS"
    found = record.get("instances")
    objects = f"; {found['objects']} objects: instances/, objects.csv, networks.csv, rois.zip" if found else ""
    by = f"by {len(record['runs'])} runs" if "runs" in record else f"of epoch {record['epoch']}"
    return (
        f"{images} {by} → {display_path(folder / 'pred')}{threshold}{inverted}"
        f"{speed}{objects}\n"
        f"python evaluation/metrics.py --prd_dir {quoted(display_path(folder / 'pred'))}{labels}"
    )
