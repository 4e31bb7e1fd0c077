"""The folders of Cityscapes, made small: which label belongs to which image, and which class to which label id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.cityscapes import CLASSES, class_table
from datasets.image_io import read_label, write_image, write_label
from datasets.labels import IGNORE
from datasets.list_building import make_lists
from datasets.lists import read_checked_list, read_list
from utils.cli import UserError

SIZE = (24, 32)
EVERY_ID = np.resize(np.array([*range(34), IGNORE], np.uint8), SIZE)
NO_CLASS = np.full(SIZE, 3, np.uint8)  # out of roi: what the published labels of the test split hold


def put_frame(source: Path, split: str, city: str, number: int, ids: np.ndarray | None, kind: str = "gtFine") -> None:
    """An RGB image and its files of one kind of label, as they are published."""
    name = f"{city}_{number:06d}_000019"
    write_image(source / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", np.full((*SIZE, 3), 90, np.uint8))
    if ids is None:
        return
    folder = source / kind / split / city
    write_label(folder / f"{name}_{kind}_labelIds.png", ids, num_classes=254)
    write_label(folder / f"{name}_{kind}_instanceIds.png", np.full(SIZE, 200, np.uint8), num_classes=254)
    write_image(folder / f"{name}_{kind}_color.png", np.full((*SIZE, 3), 90, np.uint8))
    (folder / f"{name}_{kind}_polygons.json").write_text("{}")


@pytest.fixture
def cities(tmp_path: Path) -> Path:
    source = tmp_path / "published"
    for city, number in (("bremen", 2), ("bremen", 10), ("aachen", 0)):
        put_frame(source, "train", city, number, EVERY_ID)
    put_frame(source, "val", "lindau", 0, EVERY_ID)
    put_frame(source, "test", "berlin", 0, NO_CLASS)
    return source


def made(root: Path, source: Path, **options) -> str:
    said: list[str] = []
    make_lists("streets", [source], root=root, say=said.append, layout="cityscapes", **options)
    return "\n".join(said)


def test_the_table_is_the_published_one():
    table = class_table()
    published = {
        7: 0,
        8: 1,
        11: 2,
        12: 3,
        13: 4,
        17: 5,
        19: 6,
        20: 7,
        21: 8,
        22: 9,
        23: 10,
        24: 11,
        25: 12,
        26: 13,
        27: 14,
        28: 15,
        31: 16,
        32: 17,
        33: 18,
    }
    assert {int(value): int(table[value]) for value in np.flatnonzero(table != IGNORE)} == published
    assert len(CLASSES) == 19 and list(CLASSES)[13] == "car"


def test_lists_pair_every_frame_in_natural_order(cities: Path, tmp_path: Path):
    said = made(tmp_path, cities)
    path = tmp_path / "txt/streets/train/train_gt.txt"
    train, sizes = read_checked_list(path, root=tmp_path, num_classes=19, in_channels=3)
    stems = ["aachen_000000_000019", "bremen_000002_000019", "bremen_000010_000019"]
    assert [sample.image.stem.removesuffix("_leftImg8bit") for sample in train] == stems
    assert [sample.label for sample in train] == [tmp_path / f"datasets/streets/train/labels/{s}.png" for s in stems]
    assert sizes == [SIZE] * 3
    assert said.splitlines()[-1] == "next: python main.py --dataset streets --num_classes 19 --in_channels 3"
    assert not (tmp_path / "txt/streets/train/train_noisyLabel.txt").exists()


def test_ids_become_classes_and_the_rest_counts_nowhere(cities: Path, tmp_path: Path):
    made(tmp_path, cities)
    label = read_label(tmp_path / "datasets/streets/val/labels/lindau_000000_000019.png", num_classes=19)
    assert np.array_equal(label, class_table()[EVERY_ID])
    assert set(np.unique(label)) == {*range(19), IGNORE}


def test_test_labels_without_any_class_are_left_out_of_the_list(cities: Path, tmp_path: Path):
    said = made(tmp_path, cities)
    [sample] = read_list(tmp_path / "txt/streets/test.txt", root=tmp_path, labels="optional")
    assert sample.label is None and "the labels show none of the classes" in said


def test_coarse_labels_can_be_the_noisy_ones(cities: Path, tmp_path: Path):
    for city, number in (("bremen", 2), ("bremen", 10), ("aachen", 0)):
        put_frame(cities, "train", city, number, np.where(EVERY_ID == 26, 26, 0).astype(np.uint8), kind="gtCoarse")
    made(tmp_path, cities, noisy_labels="gtCoarse")
    noisy = read_list(tmp_path / "txt/streets/train/train_noisyLabel.txt", root=tmp_path)
    assert {sample.label.parent.name for sample in noisy} == {"labels_gtCoarse"}
    assert set(np.unique(read_label(noisy[0].label, num_classes=19))) == {13, IGNORE}


def test_frames_without_partner_are_named_and_left_out(cities: Path, tmp_path: Path):
    put_frame(cities, "train", "ulm", 7, None)
    said = made(tmp_path, cities)
    assert "1 images without label, left out: ulm_000007_000019_leftImg8bit.png" in said
    assert len(read_list(tmp_path / "txt/streets/train/train_gt.txt", root=tmp_path)) == 3


def test_a_split_that_is_not_there_is_said(cities: Path, tmp_path: Path):
    (cities / "leftImg8bit/val").rename(cities / "elsewhere")
    assert "no val.txt" in made(tmp_path, cities)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no layout", r"no images in .*leftImg8bit/\{train,val,test\}"),
        ("other ids", "bremen_000002_000019_gtFine_labelIds.png holds 40, which are no label ids"),
        ("no such labels", r"--labels gtCoarse: no image has a label .*gtCoarse"),
        ("no such noisy labels", r"--noisy_labels gtCoarse: no image has a label .*gtCoarse"),
    ],
)
def test_what_is_not_cityscapes_is_refused_by_name(fault: str, message: str, cities: Path, tmp_path: Path):
    options = {"no such labels": {"labels": ["gtCoarse"]}, "no such noisy labels": {"noisy_labels": "gtCoarse"}}
    if fault == "other ids":
        put_frame(cities, "train", "bremen", 2, np.full(SIZE, 40, np.uint8))
    with pytest.raises(UserError, match=message):
        made(tmp_path, tmp_path if fault == "no layout" else cities, **options.get(fault, {}))
