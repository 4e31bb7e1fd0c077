"""The pieces of make_lists: names to pairs, parts, rows of stacks, contact sheets, lists that are not lost."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.image_io import read_image, write_image, write_label
from datasets.labels import IGNORE
from datasets.list_building import make_lists
from datasets.list_layouts import folder_name
from datasets.list_pairing import list_images, natural_key, pair_by_name, pair_files
from datasets.list_preview import IGNORED, OUTLINES, Tile, draw_outline, draw_tile, write_sheet
from datasets.list_splits import group_names, parse_shares, split_groups
from datasets.list_stacks import expand_stacks
from datasets.lists import SPLITS, read_list
from utils.cli import UserError
from utils.files import same_content

IMAGE = np.zeros((16, 16), np.uint8)
LABEL = np.kron([[0, 1], [1, 0]], np.ones((8, 8), int)).astype(np.uint8)
REPO_ROOT = Path(__file__).resolve().parents[2]


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        if Path(name).suffix == ".tif":
            write_image(folder / name, IMAGE + np.uint8(number))
        else:
            write_label(folder / name, LABEL)


def put_set(source: Path, counts: dict[str, int], labels: str = "labels") -> Path:
    for place, (split, count) in enumerate(counts.items()):
        for number in range(count):
            write_image(source / split / "images" / f"{number}.tif", IMAGE + np.uint8(20 * place + number))
        put(source / split / labels, *(f"{number}.png" for number in range(count)))
    return source


def made(root: Path, dataset: str = "own", folders: list[Path] | None = None, **options) -> str:
    said: list[str] = []
    make_lists(dataset, folders or [], root=root, say=said.append, **options)
    return "\n".join(said)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


# Pairing


def test_natural_order_counts():
    names = ["10.tif", "2.tif", "a10_h9.tif", "a10_h10.tif", "a9.tif", "02.tif", "1.tif"]
    expected = ["1.tif", "02.tif", "2.tif", "10.tif", "a9.tif", "a10_h9.tif", "a10_h10.tif"]
    assert [path.name for path in sorted(map(Path, names), key=natural_key)] == expected


@settings(deadline=None)
@given(st.lists(st.text("ab01٣²_", max_size=6), max_size=6))
def test_any_names_can_be_sorted(names: list[str]):
    assert len(sorted(map(Path, names), key=natural_key)) == len(names)


def test_pairs_are_made_by_stem_and_the_rest_is_left_alone():
    images = [Path("7.tif"), Path("8.ome.tif"), Path("9.TIF"), Path("x.tif")]
    pairing = pair_files(images, [Path("9.png"), Path("8.png"), Path("7.tif.png"), Path("y.png")])
    assert pairing.pairs == [(images[0], Path("7.tif.png")), (images[1], Path("8.png")), (images[2], Path("9.png"))]
    assert (pairing.images_alone, pairing.labels_alone) == ([Path("x.tif")], [Path("y.png")])


@settings(deadline=None)
@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)), st.sampled_from(["", "_mask", "_ahl"]))
def test_every_file_is_paired_or_alone(images: set[int], labels: set[int], ending: str):
    pairing = pair_by_name(
        [Path(f"{number}.tif") for number in sorted(images)],
        [Path(f"{number}{ending}.png") for number in sorted(labels)],
    )
    assert all(label.stem == f"{image.stem}{ending}" for image, label in pairing.pairs)
    assert {int(image.stem) for image in pairing.images_alone} == images - {int(i.stem) for i, _ in pairing.pairs}
    assert len(pairing.labels_alone) + len(pairing.pairs) == len(labels)
    if ending != "_ahl":
        assert {int(image.stem) for image, _ in pairing.pairs} == images & labels


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (("img_1.tif", "img_2.tif"), ("mask_1.png", "mask_2.png")),
        (("c_1_0000.tif", "c_2_0000.tif"), ("c_1.png", "c_2.png")),
        (("21_training.tif", "22_training.tif"), ("21_manual1.gif", "22_manual1.gif")),
        (("1.tif", "2.tif"), ("1-GT.png", "2-GT.png")),
        (("Cell1.tif", "Cell2.tif"), ("cell1.png", "CELL2.png")),
        (("im0001.ppm", "im0002.ppm"), ("im0001.ah.ppm", "im0002.ah.ppm")),
        (("train-input.tif",), ("train-labels.tif",)),
        (("train_images.npy",), ("train_masks.npy",)),
        (("X_train.npy",), ("y_train.npy",)),
        ((unicodedata.normalize("NFD", "Präparat.tif"),), (unicodedata.normalize("NFC", "Präparat.png"),)),
        (("a1.png", "a2.png"), ("0a1b2c3d-a1_mask.png", "4e5f6a7b-a2_mask.png")),
        (("0a1b2c3d-7.png", "4e5f6a7b-8.png"), ("9c8d7e6f-7.png", "5b4a3f2e-8.png")),
        (("7.jpg", "8.jpg"), (f"7_jpg.rf.{'0a1b' * 8}.png", f"8_jpg.rf.{'4e5f' * 8}.png")),
        (("a1.png", "a2.jpg"), (f"a1_png.rf.{'0a1b' * 8}_mask.png", f"a2_jpg.rf.{'4e5f' * 8}_mask.png")),
        (("a1.ome.tif",), ("a1.ome-labelled.tif",)),
        (("cell 1.png", "cell 12.png"), ("cell%201.png", "cell%2012.png")),
        (("a1.tif", "a1_b.tif"), ("t3_a1_x9.png", "t4_a1_b_x7.png")),
        (("a1_t4_w1.tif", "a2_t9_w1.tif"), ("a1.png", "a2.png")),
        (("img9.tif", "img10.tif"), ("mask009.png", "mask010.png")),
    ],
)
def test_names_that_people_give_are_paired(images: tuple[str, ...], labels: tuple[str, ...]):
    pairing = pair_by_name(list(map(Path, images)), list(map(Path, labels)))
    assert pairing.pairs == list(zip(map(Path, images), map(Path, labels), strict=True))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (("plate1_1.tif", "plate1_2.tif"), ("plate2_1.png", "plate2_2.png")),
        (("a10.tif", "a11.tif"), ("b20.png", "b21.png")),
        (("7.tif",), ("77.png",)),
        (("7.tif",), ("007.png",)),
        (("7.tif", "8.tif", "9.tif"), ("007.png", "008.png", "010.png")),
        (("a3.tif", "a4.tif"), ("task-3-annotation-7-tag-a.png", "task-4-annotation-8-tag-a.png")),
        (("3.tif", "4.tif"), ("task-3-annotation-71.png", "task-4-annotation-82.png")),
        (("a1.tif", "a2.tif"), ("a1_x_1.png", "a1_y_2.png", "a2_z_1.png")),
        (("a.tif", "b.tif"), ("x_a_1.png", "y_b_2.png")),
    ],
)
def test_names_of_other_images_are_not_paired(images: tuple[str, ...], labels: tuple[str, ...]):
    assert pair_by_name(list(map(Path, images)), list(map(Path, labels))).pairs == []


def test_folders_tell_equal_names_apart():
    images, labels = [Path("day1/7.tif"), Path("day2/7.tif")], [Path("day2/7.png"), Path("day1/7.png")]
    pairing = pair_by_name(images, labels, lambda path: path.parts[:-1])
    assert pairing.pairs == [(images[0], labels[1]), (images[1], labels[0])]
    assert pair_by_name(images[:1], labels[:1], lambda path: path.parts[:-1]).note  # taken, but said


@pytest.mark.parametrize("side", [0, 1])
def test_equal_stems_are_an_error_that_names_all_of_them(side: int):
    files = [[Path("a/7.tif")], [Path("a/7.tif")]]
    files[side] = [Path(f"a/{name}") for name in ("7.tif", "7.png", "8.tif", "9.tif", "9.jpg")]
    with pytest.raises(UserError, match=r"a has files .*7\.tif and 7\.png, 9\.tif and 9\.jpg"):
        pair_files(*files)


def test_images_are_visible_files_with_a_suffix_of_any_case(tmp_path: Path):
    for name in ("2.TIF", "10.Png", "1.jpeg", "._1.jpeg", ".7.tif", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.tif").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["1.jpeg", "2.TIF", "10.Png"]
    assert list_images(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("name", "split", "role"),
    [
        ("train", "train", None),
        ("imagesTr", "train", "image"),
        ("labelsTs", "test", "label"),
        ("valannot", "val", "label"),
        ("train_masks", "train", "label"),
        ("stage1_test", "test", None),
        ("JPEGImages", None, "image"),
        ("SegmentationClass", None, "label"),
        ("1st_manual", None, "label"),
        ("GroundTruth", None, "label"),
        ("train_msk", "train", "label"),
        ("Val2017", "val", None),
        ("test_patient_01", None, None),
        ("images and masks", None, None),
        ("latest", None, None),
    ],
)
def test_folders_are_read_by_their_names(name: str, split: str | None, role: str | None):
    assert folder_name(name)[:2] == (split, role)


# Splitting


@settings(deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 99))
def test_groups_are_never_torn_apart(groups: list[int], seed: int):
    parts = split_groups(groups, (0.7, 0.15, 0.15), seed)
    assert len({(group, part) for group, part in zip(groups, parts, strict=True)}) == len(set(groups))
    assert len(set(parts)) == min(3, len(set(groups)))
    assert parts == split_groups(groups, (0.7, 0.15, 0.15), seed)


@pytest.mark.parametrize(
    ("count", "expected"), [(3, [1, 1, 1]), (10, [7, 2, 1]), (20, [14, 3, 3]), (100, [70, 15, 15])]
)
def test_single_images_are_split_by_the_shares(count: int, expected: list[int]):
    counts = Counter(split_groups(range(count), (0.7, 0.15, 0.15)))
    assert [counts[part] for part in SPLITS] == expected


def test_a_settled_part_stays_and_another_seed_draws_another():
    names = [str(number) for number in range(20)]
    first = split_groups(names, (0.7, 0.15, 0.15))
    settled = dict(zip(names, first, strict=True))
    more = split_groups([*names, "20", "21", "22", "23"], (0.7, 0.15, 0.15), settled=settled)
    assert more[:20] == first and Counter(more) == {"train": 17, "val": 4, "test": 3}
    assert split_groups(names, (0.7, 0.15, 0.15), seed=1) != first


@pytest.mark.parametrize("text", ["70", "a/b", "0/50/50", "70/-1/31", "70/15/10/5", "nan/1"])
def test_a_split_that_is_none_is_refused(text: str):
    with pytest.raises(UserError, match="--split .*70/15/15"):
        parse_shares(text)


def test_groups_are_what_a_pattern_finds():
    assert group_names(["a/cell1_t1.tif", "a/cell1_t2.tif", "b/cell2_t1.tif"], r"cell\d") == ["cell1", "cell1", "cell2"]
    with pytest.raises(UserError, match="no regular expression"):
        group_names(["a"], "(")
    with pytest.raises(UserError, match="matches no image; the first is a"):
        group_names(["a"], "x")


# Stacks


def test_a_stack_is_listed_plane_by_plane(tmp_path: Path):
    planes = np.arange(4 * 16 * 16, dtype=np.uint16).reshape(4, 16, 16)
    for name in ("a.tif", "a_label.tif", "c.tif"):
        tifffile.imwrite(tmp_path / name, planes, metadata={"axes": "ZYX"}, imagej=True)
    write_label(tmp_path / "b.png", LABEL)
    write_label(tmp_path / "c.png", LABEL)
    said: list[str] = []
    rows = [
        (tmp_path / "a.tif", tmp_path / "a_label.tif"),
        (tmp_path / "b.png",),
        (tmp_path / "c.tif", tmp_path / "c.png"),
    ]
    expanded = expand_stacks(rows, said.append)
    assert expanded == [
        *((Path(f"{tmp_path}/a.tif::{n}"), Path(f"{tmp_path}/a_label.tif::{n}")) for n in range(4)),
        (tmp_path / "b.png",),
    ]
    assert np.array_equal(read_image(expanded[3][0]), planes[3])
    assert said == [
        "left out: 1 image whose label has other planes: c.tif (4 and 1 planes)",
        "1 stack, listed plane by plane: a.tif 4×16×16 (ZYX)",
    ]


# Contact sheets


def test_an_outline_is_the_inner_border_of_every_region():
    label = np.zeros((7, 7), np.int64)
    label[1:6, 1:4], label[1:6, 4:6] = 1, 2
    picture, colors = np.zeros((7, 7, 3), np.uint8), np.full((7, 7, 3), 200, np.uint8)
    draw_outline(picture, label, colors)
    drawn = picture[..., 0] > 0
    assert not drawn[label == 0].any()
    assert not drawn[2:5, 2].any() and drawn[2:5, 3].all() and drawn[2:5, 4].all()


@pytest.mark.parametrize("size", [(16, 40), (900, 300), (256, 256)])
def test_a_tile_shows_image_and_outline_beside_each_other(size: tuple[int, int]):
    label = np.zeros(size, np.int64)
    label[4:-4, 4:-4] = 1
    plain = draw_tile(Tile(np.full(size, 50, np.uint8), [], False, "7.png", "no label"))
    both = draw_tile(Tile(np.full(size, 50, np.uint8), [label], False, "7.png", "values 0, 1"))
    assert both.shape[0] == plain.shape[0] and both.shape[1] > 2 * plain.shape[1] - 8
    assert (both == OUTLINES[0]).all(axis=2).any() and not (plain == OUTLINES[0]).all(axis=2).any()


def test_a_tile_shows_what_does_not_count_and_names_as_they_are():
    label = np.where(np.arange(64 * 64).reshape(64, 64) < 2048, IGNORE, 0)
    one, other = (draw_tile(Tile(np.zeros((64, 64), np.uint8), [label], False, name, "×")) for name in "äö")
    assert (one == IGNORED).all(axis=2).sum() == 128 * 256
    assert (one != other).any()  # not twice the box of a letter that a font lacks
    objects = draw_tile(Tile(np.zeros((64, 64), np.uint8), [label], True, "ä", "×"))
    assert not (objects == IGNORED).all(axis=2).any()


def test_a_sheet_holds_any_kind_of_image(tmp_path: Path):
    images = (IMAGE, np.zeros((20, 30, 3), np.uint16), np.full((16, 16), 0.5, np.float32))
    tiles = [Tile(image, [np.full(image.shape[:2], IGNORE)], False, "a" * 300, "…") for image in images]
    write_sheet(tmp_path / "preview.jpg", tiles, "a title that is longer than the paper is wide" * 9)
    assert read_image(tmp_path / "preview.jpg", 3).shape[2] == 3


# Lists


def test_lists_name_the_pairs_of_every_split(tmp_path: Path):
    put_set(tmp_path / "datasets/own", {"train": 12, "val": 3, "test": 2})
    said = made(tmp_path)
    folder = tmp_path / "txt/own"
    assert lines(folder / "train/train_gt.txt") == [
        f"datasets/own/train/images/{number}.tif\tdatasets/own/train/labels/{number}.png" for number in range(12)
    ]
    assert len(lines(folder / "val.txt")) == 3 and len(lines(folder / "test.txt")) == 2
    assert not (folder / "train/train_noisyLabel.txt").exists()
    assert "train_gt.txt: 12 images" in said and "val.txt: 3 images" in said
    assert len(read_list(folder / "train/train_gt.txt", root=tmp_path)) == 12
    assert read_image(folder / "preview.jpg", 3).shape[1] > 1000


def test_files_without_partner_are_reported_and_left_out(tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 3})
    put(source / "train/images", *(f"{number}.tif" for number in range(10, 30)))
    put(source / "train/labels", "77.png")
    said = made(tmp_path)
    assert "left out: 20 images without label of labels in" in said
    assert "train/images: 10.tif, 11.tif" in said and " and 10 more" in said
    assert "left out: 1 label without image in" in said and "train/labels: 77.png" in said
    assert len(lines(tmp_path / "txt/own/train/train_gt.txt")) == 3


def test_another_folder_of_labels_and_a_noisy_one(tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 3, "val": 1}, labels="labels_3class")
    put(source / "train/labels_second", "0.png", "1.png")
    made(tmp_path, labels=["labels_3class"], noisy_labels="labels_second")
    folder = tmp_path / "txt/own/train"
    assert lines(folder / "train_gt.txt")[2].endswith("train/labels_3class/2.png")
    assert [line.split("\t")[1] for line in lines(folder / "train_noisyLabel.txt")] == [
        f"datasets/own/train/labels_second/{number}.png" for number in range(2)
    ]


def test_a_source_elsewhere_is_named_by_whole_paths(tmp_path: Path):
    root, source = tmp_path / "root", put_set(tmp_path / "other place", {"train": 2})
    made(root, folders=[source])
    image, label = lines(root / "txt/own/train/train_gt.txt")[0].split("\t")
    assert (Path(image), Path(label)) == (source / "train/images/0.tif", source / "train/labels/0.png")
    assert len(read_list(root / "txt/own/train/train_gt.txt", root=root)) == 2


def test_missing_splits_are_told(tmp_path: Path):
    put_set(tmp_path / "datasets/own", {"train": 2})
    (tmp_path / "datasets/own/test/images").mkdir(parents=True)
    said = made(tmp_path)
    assert "no val.txt: there are no images for it; --split 85/15" in said
    assert "no test.txt: there are no images for it" in said
    assert not (tmp_path / "txt/own/val.txt").exists()


@pytest.mark.parametrize("empty_folder", [False, True])
def test_splits_without_labels_are_listed_by_their_images(empty_folder: bool, tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 2})
    put(source / "test/images", "0.tif", "1.tif")
    if empty_folder:
        (source / "test/labels").mkdir()
    said = made(tmp_path)
    assert lines(tmp_path / "txt/own/test.txt") == [f"datasets/own/test/images/{number}.tif" for number in range(2)]
    assert "test/images has images without labels: they can be predicted, not scored" in said


def test_validation_images_without_labels_are_left_out_beside_labelled_training(tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 2})
    put(source / "val/images", "0.tif", "1.tif")
    said = made(tmp_path)
    assert "val/images has images without labels: left out, validation needs them" in said
    assert "no val.txt" in said and not (tmp_path / "txt/own/val.txt").exists()


def test_a_list_changed_by_hand_is_not_lost(tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 3, "val": 2})
    made(tmp_path)
    train, val = (tmp_path / "txt/own" / name for name in ("train/train_gt.txt", "val.txt"))
    mine = "".join(f"{line}\n" for line in lines(train)[1:])
    train.write_text(mine)
    put(source / "val/images", "9.tif")
    put(source / "val/labels", "9.png")
    with pytest.raises(UserError, match=r"train/train_gt\.txt would be replaced.*changed since.*--overwrite"):
        made(tmp_path)
    assert train.read_text() == mine and len(lines(val)) == 2
    said = made(tmp_path, overwrite=True)
    assert "the one before is kept as train_gt.txt.bak" in said and "val.txt: 3 images (in place" in said
    assert train.with_name("train_gt.txt.bak").read_text() == mine and len(lines(train)) == 3


def test_a_rerun_replaces_what_it_wrote_and_leaves_other_lists(tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 2})
    for name in ("train/train_noisyLabel.txt", "val.txt"):
        (tmp_path / "txt/own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "txt/own" / name).write_text("mine\n")
    said = made(tmp_path)
    assert (
        "train_noisyLabel.txt stays as it is, and training reads it unless" in said and "val.txt stays as it is" in said
    )
    assert "(as it was)" in made(tmp_path)
    put(source / "train/images", "2.tif")
    put(source / "train/labels", "2.png")
    assert "train_gt.txt: 3 images (in place of the one written before)" in made(tmp_path)
    assert lines(tmp_path / "txt/own/val.txt") == lines(tmp_path / "txt/own/train/train_noisyLabel.txt") == ["mine"]


def test_images_that_come_later_move_none_between_the_parts(tmp_path: Path):
    source = tmp_path / "datasets/own"
    put(source / "images", *(f"{number}.tif" for number in range(20)))
    put(source / "labels", *(f"{number}.png" for number in range(20)))
    made(tmp_path)
    before = {name: set(lines(tmp_path / "txt/own" / name)) for name in ("train/train_gt.txt", "val.txt", "test.txt")}
    for number in range(100, 110):
        write_image(source / f"images/{number}.tif", IMAGE + np.uint8(number))
        write_label(source / f"labels/{number}.png", LABEL)
    assert "20 stay in the part in which the lists had them" in made(tmp_path)
    after = {name: set(lines(tmp_path / "txt/own" / name)) for name in before}
    assert all(before[name] < after[name] for name in before)
    assert json.loads((tmp_path / "txt/own/make_lists.json").read_text())["asked"]["seed"] == 0


def test_a_folder_that_moved_and_was_converted_keeps_the_parts_of_its_images(tmp_path: Path):
    source = tmp_path / "disk/own"
    for count in (6, 12):  # drawn in two goes, which no single draw repeats
        put(source / "images", *(f"{number}.tif" for number in range(count)))
        put(source / "labels", *(f"{number}.png" for number in range(count)))
        make_lists("own", [source], root=tmp_path, say=lambda line: None)
    before = {name: lines(tmp_path / "txt/own" / name) for name in ("train/train_gt.txt", "val.txt", "test.txt")}
    for image in list((source / "images").iterdir()):
        image.rename(image.with_suffix(".tiff"))
    said: list[str] = []
    make_lists("own", [source.rename(tmp_path / "moved")], root=tmp_path, say=said.append)
    assert "12 stay in the part in which the lists had them" in "\n".join(said)
    assert before == {
        name: [
            line.replace("moved/", "disk/own/").replace(".tiff", ".tif") for line in lines(tmp_path / "txt/own" / name)
        ]
        for name in before
    }


def put_images(folder: Path, numbers: range, name: str = "{}") -> None:
    """Images that differ by their numbers, and labels."""
    for number in numbers:
        write_image(folder / f"images/{name.format(number)}.tif", IMAGE + np.uint8(number))
        write_label(folder / f"labels/{name.format(number)}.png", LABEL)


def parts_by_content(root: Path) -> dict[int, str]:
    """Which list has the image of a number."""
    found = {}
    for name in ("train/train_gt.txt", "val.txt", "test.txt"):
        for line in lines(root / "txt/own" / name):
            found[int(read_image(root / line.split("\t")[0])[0, 0])] = name
    return found


@pytest.mark.parametrize("name", ["cell_{:03d}", "{}"])
def test_images_that_are_renamed_stay_in_their_parts_by_content(name: str, tmp_path: Path):
    source = tmp_path / "datasets/own"
    put_images(source, range(5, 25))
    made(tmp_path)
    before = parts_by_content(tmp_path)
    for kind, suffix in (("images", ".tif"), ("labels", ".png")):
        for number in range(5, 25):  # "{}": all names but the last five now mean other images
            (source / kind / f"{number}{suffix}").rename(source / kind / f"{name.format(number - 5)}{suffix}")
    put_images(source, range(30, 35), name)
    said = made(tmp_path)
    assert "20 stay in the part in which the lists had them" in said and "change sides" not in said
    after = parts_by_content(tmp_path)
    assert len(after) == 25 and before.items() < after.items()


def test_a_folder_is_put_below_another_beside_a_new_one(tmp_path: Path):
    source = tmp_path / "datasets/own"
    put_images(source, range(20))
    made(tmp_path)
    before = parts_by_content(tmp_path)
    (source / "day1").mkdir()
    for kind in ("images", "labels"):
        (source / kind).rename(source / "day1" / kind)
    put_images(source / "day2", range(20, 30))
    made(tmp_path)
    assert before.items() < parts_by_content(tmp_path).items()


def test_images_that_change_sides_are_counted(tmp_path: Path):
    put_images(tmp_path / "datasets/own", range(20))
    made(tmp_path)
    before = parts_by_content(tmp_path)
    said = made(tmp_path, seed=1)
    after = parts_by_content(tmp_path)
    moved = sum(before[number] != after[number] for number in before)
    away = sum(before[number] == "test.txt" and after[number] == "train/train_gt.txt" for number in before)
    assert moved and f"warning: {moved} images change sides (" in said and f"{away} from test to train" in said
    assert "change sides" not in made(tmp_path, seed=1)


def test_images_that_are_renamed_and_changed_are_told(tmp_path: Path):
    source = tmp_path / "datasets/own"
    put_images(source, range(20))
    made(tmp_path)
    for kind in ("images", "labels"):
        for file in (source / kind).iterdir():
            file.unlink()
    put_images(source, range(100, 120), "x{}")
    assert "of the images in the lists before 20 are gone, and 20 are new" in made(tmp_path)


def test_altered_copies_are_told_and_kept_together_as_is_said(tmp_path: Path):
    source = tmp_path / "datasets/own"
    for number in range(8):
        for place, name in enumerate((f"{number}", f"{number}_aug1", f"{number}_aug12", f"{number}_flip")):
            write_image(source / f"images/{name}.tif", IMAGE + np.uint8(4 * number + place))
            write_label(source / f"labels/{name}.png", LABEL)
    [line] = [line for line in made(tmp_path).splitlines() if "continue those of others" in line]
    assert line.startswith("warning: names of 24 images") and "0_aug1 that of 0:" in line
    pattern = shlex.split(line.partition("--group_by ")[2])[0]
    made(tmp_path, group_by=pattern)
    parts = parts_by_content(tmp_path)
    assert all(len({parts[4 * number + place] for place in range(4)}) == 1 for number in range(8))


def test_a_stack_that_was_trained_on_is_not_tested_on_later(tmp_path: Path):
    source = tmp_path / "datasets/own"
    for number, stacks in enumerate((range(1), range(1, 8))):
        for stack in stacks:
            planes = np.stack([IMAGE + np.uint8(8 * stack + plane) for plane in range(5)])
            for kind, values in (("images", planes), ("labels", np.stack([LABEL * np.uint8(255)] * 5))):
                (source / kind).mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(source / kind / f"{stack}.tif", values, photometric="minisblack")
        made(tmp_path)
        parts = {
            name
            for name in ("train/train_gt.txt", "val.txt", "test.txt")
            for line in lines(tmp_path / "txt/own" / name)
            if "images/0.tif" in line
        }
        assert len(parts) == (1 if number else 3)
    assert parts == {"train/train_gt.txt"}


def test_stacks_of_other_orders_are_not_paired_plane_by_plane(tmp_path: Path):
    values = np.arange(6, dtype=np.uint8).repeat(256).reshape(2, 3, 16, 16)
    tifffile.imwrite(tmp_path / "a.tif", values, ome=True, metadata={"axes": "TZYX"})
    tifffile.imwrite(tmp_path / "b.tif", values.transpose(1, 0, 2, 3), ome=True, metadata={"axes": "ZTYX"})
    tifffile.imwrite(tmp_path / "c.tif", values.reshape(6, 16, 16), photometric="minisblack")
    with pytest.raises(
        UserError,
        match=r"no label has as many planes as its image: a\.tif \(2×3×16×16 \(TZYX\) and 3×2×16×16 \(ZTYX\)\)",
    ):
        expand_stacks([(tmp_path / "a.tif", tmp_path / "b.tif")], print)
    assert len(expand_stacks([(tmp_path / "a.tif", tmp_path / "c.tif")], lambda line: None)) == 6


def test_equal_content_is_said_and_stays_together(tmp_path: Path):
    source = tmp_path / "datasets/own"
    for number in range(8):
        write_image(source / f"images/{number}.tif", IMAGE + np.uint8(number % 4))
        write_label(source / f"labels/{number}.png", LABEL)
    (source / "images/8.tif").symlink_to(source / "images/0.tif")
    write_label(source / "labels/8.png", LABEL)
    said = made(tmp_path)
    assert "the same image is there several times: " in said and "several lists" not in said
    parts = [
        {int(Path(line.split("\t")[0]).stem) % 4 for line in lines(tmp_path / "txt/own" / name)}
        for name in ("train/train_gt.txt", "val.txt", "test.txt")
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 4


def test_copies_in_two_lists_are_a_warning(tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 3, "test": 1})
    (source / "test/images/0.tif").write_bytes((source / "train/images/1.tif").read_bytes())
    assert "warning: the same image lies in several lists" in made(tmp_path)


def test_only_equal_bytes_are_the_same_content(tmp_path: Path):
    contents = {"a": b"1" * 70000, "b": b"1" * 69999 + b"2", "c": b"1" * 70000, "d": b"", "e": b"1"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert same_content([tmp_path / name for name in contents]) == [[tmp_path / "a", tmp_path / "c"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["labels_x"]}, r"has no labels of labels_x; it has labels of: labels$"),
        ({"noisy_labels": "labels_x"}, r"--noisy_labels labels_x: there is no folder of that name"),
        ({"folders": [Path("nowhere")]}, r"folder not found: .*nowhere"),
        ({"dataset": "../own"}, "a plain name is expected"),
        ({"split": "70/15/15/3"}, r"--split '70/15/15/3': expected the parts"),
        ({"group_by": "x"}, r"--group_by: folders divide the images already"),
    ],
)
def test_wrong_use_is_told_before_anything_is_written(options: dict, message: str, tmp_path: Path):
    put_set(tmp_path / "datasets/own", {"train": 2, "val": 2})
    with pytest.raises(UserError, match=message):
        made(tmp_path, **options)
    assert not (tmp_path / "txt").exists()


def test_names_of_which_no_two_agree_are_an_error(tmp_path: Path):
    put(tmp_path / "datasets/own/train/images", "7.tif", "8.tif")
    put(tmp_path / "datasets/own/train/labels", "a.png", "b.png")
    with pytest.raises(UserError, match=r"no image of .* 7\.tif, a\.png, …; .*--label_suffix"):
        made(tmp_path)


# The command


def test_the_command_writes_lists_and_says_what_is_next(run_tool, workspace: Path):
    put_set(workspace / "datasets/own", {"train": 3, "val": 2})
    done = run_tool("datasets/make_lists.py", "--dataset", "own")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "next: python main.py --dataset own"
    assert len(lines(workspace / "txt/own/train/train_gt.txt")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "nowhere"], "error: folder not found: datasets/nowhere"),
        ([], "--dataset"),
        (["--dataset", "disks", "--form", "x"], "unrecognized arguments: --form"),
    ],
)
def test_the_command_ends_with_status_2_and_one_message(arguments: list[str], message: str, run_tool):
    done = run_tool("datasets/make_lists.py", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_needs_no_heavy_import():
    code = "import sys, datasets.make_lists; print(*{'torch', 'cv2', 'scipy', 'PIL', 'tifffile'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", ["er_ernet", "nuc", "nuc16"])
def test_real_sets_are_paired_whole(name: str, real_data: Path, tmp_path: Path):
    counts = {split: len(list((real_data / name / split / "images").iterdir())) for split in ("train", "val", "test")}
    said = made(tmp_path, folders=[real_data / name])
    assert "without" not in said and said.endswith("next: python main.py --dataset own")
    files = {"train": "train/train_gt.txt", "val": "val.txt", "test": "test.txt"}
    assert {split: len(lines(tmp_path / "txt/own" / file)) for split, file in files.items()} == counts
