"""A folder of label issues on three images, as suspect_labels.py leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.image_io import write_image, write_label
from evaluation.label_errors.issue_files import IssueFolder, JudgedImage, LabelIssue, write_issue_files

SIZE = 40
NAMES = ("<b>0", "1", "2")


@pytest.fixture
def issue_folder(tmp_path: Path) -> IssueFolder:
    """Issues 1 (missing) and 2 (invented) in the first image, 3 (missing) in the second, none in the third."""
    rng, judged, lines, images = np.random.default_rng(0), {}, [], []
    folder = tmp_path / "issues"
    for number, name in enumerate(NAMES):
        image, label_path = tmp_path / "images" / f"{name}.png", tmp_path / "labels" / f"{name}.png"
        label, predicted = np.zeros((2, SIZE, SIZE), np.uint8)
        regions = np.zeros((SIZE, SIZE), np.uint16)
        label[2:6, 30:36] = predicted[2:6, 30:36] = 1  # on which both agree
        if number < 2:
            predicted[4:14, 5:15] = 1
            regions[4:14, 5:15] = (1, 3)[number]
        if number == 0:
            label[20:28, 22:34] = 1
            regions[20:28, 22:34] = 2
        write_image(image, rng.integers(0, 255, (SIZE, SIZE)).astype(np.uint8))
        write_label(label_path, label)
        if number < 2:
            write_image(folder / f"regions/{number}.tif", regions)
            write_label(folder / f"predicted/{number}.png", predicted)
        files = (f"regions/{number}.tif", f"predicted/{number}.png") if number < 2 else (None, None)
        judged[image] = JudgedImage(label_path, *files)
        images.append(image)
        lines.append(f"{image}\t{label_path}\n")
    (tmp_path / "mine.txt").write_text("".join(lines))
    issues = [
        LabelIssue(1, images[0], "missing", 8.5, 9.5, 100, 0.9, "crops/1.png", (4, 5, 10, 10)),
        LabelIssue(2, images[0], "invented", 23.5, 27.5, 96, 0.8, "crops/2.png", (20, 22, 8, 12)),
        LabelIssue(3, images[1], "missing", 8.5, 9.5, 100, 0.7, "crops/3.png", (4, 5, 10, 10)),
    ]
    found = IssueFolder(folder, tmp_path / "mine.txt", 1, None, None, judged, issues)
    write_issue_files(found)
    return found
