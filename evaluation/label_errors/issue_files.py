"""Label issues on disk: a table, and of every image with issues the regions that they cover and what is expected there.

docs/LABEL_ISSUES.md describes the files.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.image_io import read_label
from datasets.label_values import LabelReading
from utils.cli import UserError
from utils.files import COUNT, OBJECT, POSITIVE, TEXT, TEXTS, check_record, read_record, write_csv, write_json
from utils.paths import absolute_path, display_path

KINDS = ("missing", "invented", "merged", "split", "too wide", "too narrow", "moved")
TABLE, RECORD, REVIEW = "issues.csv", "issues.json", "review.html"
COLUMNS = ("id", "image", "kind", "y", "x", "area", "confidence", "crop", "top", "left", "height", "width")
FILES = {"label": TEXT, "regions": TEXT.or_null(), "predicted": TEXT.or_null()}  # of an image, in the record
REMEDY = "run evaluation/suspect_labels.py again"


@dataclass(frozen=True)
class LabelIssue:
    """What is wrong with a label at one place.

    Args:
        id: its number in the table, from 1 on, and in the map of regions.
        image: absolute path.
        y, x: centre of the region, pixels.
        area: pixels of the region.
        confidence: how sure it is that the label is wrong there, in [0, 1].
        crop: the picture, below the folder.
        box: top, left, height and width of the region, pixels.
    """

    id: int
    image: Path
    kind: str
    y: float
    x: float
    area: int
    confidence: float
    crop: str
    box: tuple[int, int, int, int]

    def row(self) -> tuple[object, ...]:
        """Its line of the table."""
        place = (f"{self.y:.1f}", f"{self.x:.1f}", self.area, f"{self.confidence:.4f}")
        return (self.id, display_path(self.image), self.kind, *place, self.crop, *self.box)


@dataclass(frozen=True)
class JudgedImage:
    """Files of an image: its label, absolute, and below the folder its regions and prediction, if it has issues.

    ``digest`` is that of the label's file when it was judged, see `utils.fingerprint`; None where nobody recorded it.
    """

    label: Path
    regions: str | None = None
    predicted: str | None = None
    digest: str | None = None


@dataclass(frozen=True)
class IssueFolder:
    """The content of a folder of label issues.

    Args:
        list_path: the list whose labels were judged.
        reading: what the values of these labels mean.
        images: every judged image.
        in_channels, channels: of the images, as for `datasets.image_io.read_image`.
    """

    folder: Path
    list_path: Path
    num_classes: int
    ignore_index: int | None
    reading: LabelReading | None
    images: Mapping[Path, JudgedImage]
    issues: Sequence[LabelIssue]
    in_channels: int = 1
    channels: Sequence[str] = ()

    def read_regions(self, image: Path) -> np.ndarray:
        """For every pixel the number of its issue, 0 for none, int64 (H, W); of an image with issues."""
        from datasets.image_tiff import decode_planes

        return decode_planes(self.folder / self._file(image, "regions")).astype(np.int64)

    def read_region(self, issue: LabelIssue) -> np.ndarray:
        """The pixels that an issue covers, bool (H, W)."""
        return self.read_regions(issue.image) == issue.id

    def read_predicted(self, image: Path) -> np.ndarray:
        """The class that is expected of every pixel, uint8 (H, W); of an image with issues."""
        return read_label(self.folder / self._file(image, "predicted"), self.num_classes)

    def _file(self, image: Path, kind: str) -> str:
        name = getattr(self.images[image], kind)
        if name is None:
            raise UserError(f"{display_path(self.folder)}: {display_path(image)} has no issues")
        return name


def write_issue_files(found: IssueFolder) -> None:
    """Write the table and its record; regions, predictions and crops lie there already."""
    write_csv(found.folder / TABLE, COLUMNS, (issue.row() for issue in found.issues))
    record = {
        "list": display_path(found.list_path),
        "num_classes": found.num_classes,
        "ignore_index": found.ignore_index,
        "label_reading": found.reading and found.reading.to_json(),
        "in_channels": found.in_channels,
        "channels": list(found.channels),
        "n_issues": len(found.issues),
        "images": {
            display_path(image): {**vars(judged), "label": display_path(judged.label)}
            for image, judged in found.images.items()
        },
    }
    write_json(found.folder / RECORD, record)


def is_issue_folder(folder: Path) -> bool:
    """Whether label issues were written into a folder, be some of their files gone since."""
    return any((folder / name).is_file() for name in (TABLE, RECORD))


def read_issues(folder: Path) -> IssueFolder:
    """Read what `write_issue_files` wrote.

    Args:
        folder: the folder, or its issues.csv or issues.json.
    Raises:
        UserError: no issues there, or damaged files.
    """
    folder = folder.parent if folder.name in (TABLE, RECORD) else folder
    for name in (TABLE, RECORD):
        if not (folder / name).is_file():
            what = "put it back, or" if is_issue_folder(folder) else "the folder holds no label issues:"
            raise UserError(f"{display_path(folder / name)} does not exist; {what} {REMEDY}")
    required = {"list": TEXT, "num_classes": POSITIVE, "images": OBJECT, "n_issues": COUNT}
    optional = {"ignore_index": COUNT.or_null(), "label_reading": OBJECT.or_null()}
    optional |= {"in_channels": POSITIVE, "channels": TEXTS}
    record = read_record(folder / RECORD, required, optional, remedy=REMEDY)
    images = {}
    for name, files in record["images"].items():
        check_record(files, f"{folder / RECORD}, {name}", FILES, {"digest": TEXT.or_null()}, remedy=REMEDY)
        names = (files["regions"], files["predicted"], files.get("digest"))
        images[absolute_path(name)] = JudgedImage(absolute_path(files["label"]), *names)
    issues = _read_table(folder / TABLE)
    strangers = [issue for issue in issues if issue.image not in images]
    if strangers or len(issues) != record["n_issues"]:
        raise UserError(f"{display_path(folder / TABLE)} does not belong to {RECORD} beside it; {REMEDY}")
    return IssueFolder(
        folder,
        absolute_path(record["list"]),
        record["num_classes"],
        record.get("ignore_index"),
        LabelReading.from_json(record.get("label_reading")),
        images,
        issues,
        record.get("in_channels", 1),
        tuple(record.get("channels", ())),
    )


def _read_table(path: Path) -> list[LabelIssue]:
    """The lines of issues.csv.

    Raises:
        UserError: no table, or naming the line that is no issue.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{display_path(path)} cannot be read as a table ({error}); {REMEDY}") from None
    issues = []
    for number, row in enumerate(rows, start=2):
        try:
            issues.append(_parse_row(row))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{display_path(path)}:{number}: no label issue ({error}); {REMEDY}") from None
    return issues


def _parse_row(row: Mapping[str, str]) -> LabelIssue:
    if row["kind"] not in KINDS:
        raise ValueError(f"kind {row['kind']!r} is none of {', '.join(KINDS)}")
    top, left, height, width = (int(row[name]) for name in ("top", "left", "height", "width"))
    y, x, confidence = float(row["y"]), float(row["x"]), float(row["confidence"])
    place = (absolute_path(row["image"]), row["kind"], y, x, int(row["area"]), confidence)
    return LabelIssue(int(row["id"]), *place, row["crop"], (top, left, height, width))
