"""Label issues on disk: what is written is read back, and damage is one message."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.image_io import write_image, write_label
from evaluation.label_errors.issue_files import IssueFolder, JudgedImage, LabelIssue, read_issues, write_issue_files
from utils.cli import UserError


@pytest.fixture
def written(tmp_path: Path) -> IssueFolder:
    image, other = tmp_path / "a b, c.tif", tmp_path / "7.tif"
    regions = np.zeros((20, 30), np.uint16)
    regions[2:6, 3:8], regions[10:12, 20:25] = 1, 2
    predicted = (regions == 1).astype(np.uint8)
    write_image(tmp_path / "regions/a.tif", regions)
    write_label(tmp_path / "predicted/a.png", predicted)
    issues = [
        LabelIssue(1, image, "missing", 3.5, 5.0, 20, 0.9375, "crops/1.png", (2, 3, 4, 5)),
        LabelIssue(2, image, "too wide", 10.5, 22.0, 10, 0.5, "crops/2.png", (10, 20, 2, 5)),
    ]
    judged = {
        image: JudgedImage(tmp_path / "label.png", "regions/a.tif", "predicted/a.png"),
        other: JudgedImage(tmp_path / "7.png"),
    }
    found = IssueFolder(tmp_path, tmp_path / "list.txt", 1, None, None, judged, issues, 2, ("0", "DAPI"))
    write_issue_files(found)
    return found


def test_issues_come_back_as_they_were_written(written):
    for place in (written.folder, written.folder / "issues.csv"):
        assert read_issues(place) == written
    found = read_issues(written.folder)
    top, left, height, width = found.issues[0].box
    region = found.read_region(found.issues[0])
    assert region.sum() == found.issues[0].area and region[top : top + height, left : left + width].all()
    assert found.read_predicted(found.issues[0].image)[region].all()
    with pytest.raises(UserError, match="has no issues"):
        found.read_regions(next(reversed(found.images)))


def test_a_map_of_regions_that_is_damaged_or_gone_is_named(written):
    path, image = written.folder / "regions/a.tif", written.issues[0].image
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"regions/a\.tif cannot be read as an image"):
        written.read_regions(image)
    path.unlink()
    with pytest.raises(UserError, match=r"regions/a\.tif does not exist"):
        written.read_regions(image)


def test_a_damaged_table_is_one_message(written):
    table = written.folder / "issues.csv"
    text = table.read_text()
    for damaged, message in (
        (text.replace("missing", "mising"), "issues.csv:2: no label issue .*'mising' is none of missing"),
        (text.replace("20,0.9375", "x,0.9375"), "issues.csv:2: no label issue"),
        ("\n".join(text.splitlines()[:2]), "does not belong to issues.json"),
        ("image\n", "does not belong to issues.json"),
    ):
        table.write_text(damaged)
        with pytest.raises(UserError, match=message):
            read_issues(written.folder)
