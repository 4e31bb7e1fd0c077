"""The page on which label issues are looked at and decided, one file that needs nothing beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import read_image, read_label
from evaluation.label_errors.decisions import ACTIONS
from evaluation.label_errors.issue_files import IssueFolder, LabelIssue
from evaluation.pages.pictures import MAX_PICTURES, PAGE_BYTES, drawing_colors, encode_jpeg, encode_png, fit_pictures
from evaluation.pages.report import short_names
from evaluation.pages.template import embed_json, page_template
from utils.cli import Progress
from utils.files import atomic_write
from utils.overlays import show_image, shrink
from utils.run_folder import display_path, quoted

MARGIN = 0.6  # of the longer side of an issue, shown around it
MIN_MARGIN, MIN_SIDE = 12, 72  # pixels
WORDS = {
    "keep": "the label is right",
    "take": "take the prediction here",
    "ignore": "these pixels count nowhere",
    "drop": "leave the image out",
}


def crop_window(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The part of an image around an issue.

    >>> crop_window((0, 100, 10, 20), (256, 256))
    (slice(0, 72, None), slice(74, 146, None))

    Args:
        box: top, left, height and width.
        shape: of the image.
    """
    margin = max(MIN_MARGIN, round(MARGIN * max(box[2:])))
    window = []
    for start, length, size in zip(box[:2], box[2:], shape, strict=False):
        side = min(max(length + 2 * margin, MIN_SIDE), size)
        first = min(max(start + length // 2 - side // 2, 0), size - side)
        window.append(slice(first, first + side))
    return window[0], window[1]


def stretched(image: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """A part of an image, uint8 (h, w, 3), with the contrast of what lies around it, so that faint objects show."""
    around = tuple(slice(max(2 * part.start - part.stop, 0), 2 * part.stop - part.start) for part in window)
    inner = tuple(
        slice(part.start - outer.start, part.stop - outer.start) for part, outer in zip(window, around, strict=True)
    )
    return show_image(image[around])[inner]


class ImageReader:
    """Reads what belongs to the issues of an image; the files of the latest one are kept."""

    def __init__(self, found: IssueFolder, channels: Sequence[str]) -> None:
        self.found, self.channels = found, channels or found.channels
        self.in_channels = len(channels) or found.in_channels
        self._latest: tuple[Path, tuple[np.ndarray, ...]] | None = None

    def read(self, image: Path) -> tuple[np.ndarray, ...]:
        """The image, its label, what is expected, and the map of issues."""
        if self._latest is None or self._latest[0] != image:
            found, label = self.found, self.found.images[image].label
            shown = read_image(image, self.in_channels, self.channels)
            drawn = read_label(label, found.num_classes, found.ignore_index, reading=found.reading)
            self._latest = image, (shown, drawn, found.read_predicted(image), found.read_regions(image))
        return self._latest[1]

    def embed(self, issue: LabelIssue, side: int) -> dict[str, Any]:
        """What the page draws an issue from, at most ``side`` pixels wide and high."""
        shown, label, predicted, regions = self.read(issue.image)
        window = crop_window(issue.box, label.shape)
        region = (regions[window] == issue.id).astype(np.uint8)
        return {
            "image_data": encode_jpeg(shrink(stretched(shown, window), side, average=True)),
            "label": encode_png(shrink(label[window], side, average=False)),
            "predicted": encode_png(shrink(predicted[window], side, average=False)),
            "region": encode_png(shrink(region, side, average=False)),
            "size": list(region.shape),
        }


def write_review(path: Path, found: IssueFolder, dataset: str, *, channels: Sequence[str] = ()) -> None:
    """Write the page that shows the issues of a folder, the surest first, and takes decisions.

    Args:
        path: the HTML file.
        dataset: the name that the command at the end is to have.
        channels: of the images, where others are shown than those that were judged by.
    """
    issues = found.issues[:MAX_PICTURES]
    by_image = sorted(issues, key=lambda issue: (str(issue.image), issue.id))  # each file is read once
    reader = ImageReader(found, channels)
    pictures: dict[int, dict[str, Any]] = {}
    with Progress(len(issues), "review page") as progress:
        made = fit_pictures([partial(reader.embed, issue) for issue in by_image], PAGE_BYTES)
        for issue, picture in zip(by_image, made, strict=True):
            pictures[issue.id] = picture
            progress.update()
    list_name = display_path(found.list_path)
    common, names = short_names([display_path(issue.image) for issue in issues]) if issues else ("", [])
    command = ["python datasets/apply_decisions.py", "--dataset", quoted(dataset), "--train_list", quoted(list_name)]
    command += ["--prd_dir", quoted(display_path(found.folder)), "decisions.json"]
    page = page_template("review.html").render(
        list=list_name,
        total=len(found.issues),
        issues=list(zip(issues, names, strict=True)),
        folder=common,
        kinds=Counter(issue.kind for issue in issues),
        words={action: WORDS[action] for action in ACTIONS},
        command=" ".join(command),
        data=embed_json(
            {
                **drawing_colors(found.num_classes),
                "classes": found.num_classes,
                "list": list_name,
                "issues": [
                    {**pictures[issue.id], "id": issue.id, "image": display_path(issue.image)} for issue in issues
                ],
            }
        ),
    )
    with atomic_write(path) as file:
        file.write(page.encode(errors="replace"))
