"""Which files are labels where names do not plainly say so: by what they hold, by their folders, by tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from datasets.list_building import make_lists
from utils.cli import UserError

NUMBERS = range(6)


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 250, (24, 24), np.uint8)


def mask(number: int) -> np.ndarray:
    label = np.zeros((24, 24), np.uint8)
    label[number : number + 9, 3:12] = label[16:20, number : number + 5] = 255
    return label


def regions(number: int) -> np.ndarray:
    """Classes 1 to 3, the first of them in two parts."""
    label = np.zeros((24, 24), np.uint8)
    label[2:10, 2:8] = label[12:20, 14:20] = 1
    label[2:10, 12:20] = 2
    label[14:22, 2 : 8 + number] = 3
    return label


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack")


def write_pairs(root: Path, images: str, labels: str, draw=mask) -> list[str]:
    """Files by patterns of their number; returns the pairs as `made` does."""
    for number in NUMBERS:
        write(root / images.format(number), picture(number))
        write(root / labels.format(number), draw(number))
    return sorted(f"{images.format(number)} {labels.format(number)}" for number in NUMBERS)


def made(root: Path, **options) -> tuple[list[str], list[str]]:
    """The rows of all lists, as paths below the folder, and what was said."""
    said: list[str] = []
    lists = make_lists("own", [root / "my data"], root=root, say=said.append, **options)
    top = root / "my data"
    rows = [
        " ".join(str(path.relative_to(top if path.is_relative_to(top) else root)) for path in row)
        for each in lists.values()
        for row in each
    ]
    return sorted(rows), said


@pytest.mark.parametrize(
    ("images", "labels", "draw", "said"),
    [
        ("raw/{}.tif", "segmented/{}.tif", mask, "the files in segmented hold two values, as masks do"),
        ("Bilder/{}.tif", "Masken/{}.tif", regions, "the files in Masken hold a few values in whole areas"),
        ("A/day{}/x.tif", "B/day{}/x.tif", mask, "the files in B hold two values"),
        ("im/{}.tif", "lab/{}_L.tif", mask, "the files in lab hold two values"),
        ("a{}.tif", "a{}-1.tif", mask, "files named …-1 hold two values"),
        ("{}.tif", "LblImg_{}.tif", mask, "files named LblImg_… hold two values"),
    ],
)
def test_labels_that_no_name_tells_are_told_by_what_they_hold(images, labels, draw, said, tmp_path: Path):
    pairs = write_pairs(tmp_path / "my data", images, labels, draw)
    rows, lines = made(tmp_path)
    assert rows == pairs and any(line.startswith(said) for line in lines), lines


@pytest.mark.parametrize("names", [("day1/{}.tif", "day2/{}.tif"), ("{}.tif", "{}-1.tif")])
def test_images_are_not_taken_for_labels(names: tuple[str, str], tmp_path: Path):
    write_pairs(tmp_path / "my data", *names, lambda number: picture(number + 50))
    rows, said = made(tmp_path)
    assert len(rows) == 12 and not any("taken for" in line for line in said)


def test_folders_named_after_images_within_folders_of_labels(tmp_path: Path):
    pairs = write_pairs(tmp_path / "my data", "images/set_images/{}.tif", "masks/set_images/{}.tif")
    assert made(tmp_path)[0] == pairs == made(tmp_path, labels=["masks"])[0]
    truth = write_pairs(tmp_path / "b/my data", "ground truth/images/{}.tif", "ground truth/labels/{}.tif")
    assert made(tmp_path / "b")[0] == truth


@pytest.mark.parametrize("folders", ["Slide_{} GT_{}", "plate{} plate{}_masks"])
def test_folders_of_labels_that_name_those_of_their_images(folders: str, tmp_path: Path):
    pairs = []
    for place in "12":
        images, labels = folders.format(place, place).split()
        pairs += write_pairs(tmp_path / "my data", f"{images}/{{}}.tif", f"{labels}/{{}}.tif")
    assert made(tmp_path)[0] == sorted(pairs)


def test_overlays_beside_images_without_labels_are_left_out(tmp_path: Path):
    write_pairs(tmp_path / "my data", "images/{}.tif", "overlay/{}.tif", lambda number: picture(number + 50))
    rows, said = made(tmp_path)
    assert rows == [f"images/{number}.tif" for number in NUMBERS]
    assert any("if overlay holds the labels, name it with --labels" in line for line in said)


def test_two_files_of_a_sample_need_not_both_be_named(tmp_path: Path):
    pairs = write_pairs(tmp_path / "my data", "{}/dapi.tif", "{}/mask.tif")
    assert made(tmp_path)[0] == pairs


TASK = "labels/task-{}-annotation-7-by-1-tag-nucleus-{}.npy"


def write_tasks(root: Path) -> None:
    for number in NUMBERS:
        write(root / f"images/cell {number}.tif", picture(number))
        write(root / TASK.format(90 - number, 0), mask(number))


def test_tasks_of_label_studio_are_paired_by_its_export(tmp_path: Path):
    root = tmp_path / "my data"
    write_tasks(root)
    with pytest.raises(UserError, match=r"task-85-.*named by its task in Label Studio.*put the JSON export"):
        made(tmp_path)
    addresses = {90 - number: f"/data/upload/1/0a1b2c3d-cell%20{number}.tif" for number in NUMBERS}
    tasks = [{"id": task, "data": {"image": address}} for task, address in addresses.items()]
    (root / "project.json").write_text(json.dumps(tasks))
    rows, said = made(tmp_path)
    assert rows == [f"images/cell {number}.tif {TASK.format(90 - number, 0)}" for number in NUMBERS]
    assert "labels are those of tag-nucleus, paired by the tasks of Label Studio" in said
    assert not any("project.json" in line for line in said)


def test_regions_of_a_task_become_one_label(tmp_path: Path):
    root = tmp_path / "my data"
    write_tasks(root)
    write(root / TASK.format(90, 1), np.roll(mask(0), 12, 1))
    (root / "min.json").write_text(json.dumps([{"id": 90 - n, "image": f"s3://b/cell {n}.tif"} for n in NUMBERS]))
    rows, _ = made(tmp_path)
    assert rows[0] == "images/cell 0.tif datasets/own/labels_merged/cell 0.tif" and len(rows) == 6
    write(root / TASK.format(89, 0).replace("nucleus", "cell"), mask(1))
    with pytest.raises(UserError, match="has labels of: tag-cell, tag-nucleus; name one of them with --labels"):
        made(tmp_path)
    assert len(made(tmp_path, labels=["tag-nucleus"], overwrite=True)[0]) == 6


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            ["{}_DAPI.tif", "{}_GFP.tif"],
            ["{}.tif"],
            "1_DAPI.tif and 1_GFP.tif are several images of one label: if they",
        ),
        (["{}.tif"], ["{}_anna.tif", "{}_ben.tif"], r"1_anna.tif and 1_ben.tif are several .* \(--label_suffix\)"),
    ],
)
def test_several_files_for_one_are_told(images: list[str], labels: list[str], message: str, tmp_path: Path):
    for number in (1, 2, 3):
        for name in images:
            write(tmp_path / "my data/images" / name.format(number), picture(number))
        for name in labels:
            write(tmp_path / "my data/labels" / name.format(number), mask(number))
    with pytest.raises(UserError, match=message):
        made(tmp_path)
