"""The front door: folders as people have them → exact lists, exact words, the command that trains on them."""

from __future__ import annotations

import re
import shlex
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

from datasets.image_io import read_image, read_label
from datasets.list_building import make_lists
from utils.cli import UserError

SIDE = 48
Draw = Callable[[int], np.ndarray]
DIVIDED = [
    "divided at random, image by image, seed 0",
    "(images of one cell, field or patient should stay in one part: --group_by REGEX, see --help)",
]
NO_VAL = "no val.txt: there are no images for it; --split 85/15 takes some of the training images"
NO_TEST = "no test.txt: there are no images for it"
AFFIX = "(the names are equal but for a known ending or beginning)"
SHARED = "(the names are equal but for what all of them share)"
OBJECTS = "(to train on them as classes instead: --num_classes, one more than the highest number)"
NEXT = "next: python main.py --dataset own"


def draw(number: int, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of bright disks, uint8, and where they are, bool; another number draws others."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE]
    mask = np.zeros((SIDE, SIDE), bool)
    for _ in range(count):
        cy, cx, radius = rng.integers(4, SIDE - 4), rng.integers(4, SIDE - 4), rng.integers(3, 7)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    return (60 + 80 * mask + rng.normal(0, 8, mask.shape)).clip(0, 255).astype(np.uint8), mask


def grey(number: int) -> np.ndarray:
    return draw(number)[0]


def colored(number: int) -> np.ndarray:
    image, mask = draw(number)
    return np.dstack([image, np.where(mask, 40, image), np.full_like(image, 30)])


def binary(number: int) -> np.ndarray:
    return draw(number)[1] * np.uint8(255)


def numbered(number: int) -> np.ndarray:
    return ndimage.label(draw(number, 3 + number % 5)[1])[0].astype(np.uint16)


def classes_and_void(number: int) -> np.ndarray:
    label = numbered(number).astype(np.uint8) % 3 + 1
    label[draw(number)[1] == 0] = 0
    label[:2] = 255
    return label


def colors_of_classes(number: int) -> np.ndarray:
    label = numbered(number) % 3
    return np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[label]


def one_object(value: int) -> Draw:
    return lambda number: (numbered(number) == value) * np.uint8(255)


def pickled(number: int) -> np.ndarray:
    return np.array({"masks": numbered(number), "outlines": None}, dtype=object)


def volume(number: int) -> np.ndarray:
    return np.stack([grey(100 * number + plane) for plane in range(10)])


def volume_of_labels(number: int) -> np.ndarray:
    return np.stack([binary(100 * number + plane) for plane in range(10)])


class Files(NamedTuple):
    """Files of one kind: their names with ``*`` in place of each of ``names``, drawn from ``seed`` on."""

    draw: Draw | None
    pattern: str
    names: Sequence[Any] = ("",)
    seed: int = 0


def put(root: Path, kinds: Sequence[Files]) -> None:
    """Write files; those of equal seed show the same, and so fit each other."""
    for kind in kinds:
        for seed, name in enumerate(kind.names, start=kind.seed):
            path = root / kind.pattern.replace("*", str(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind.draw is None:
                path.write_bytes(b"nothing that anybody reads")
            elif path.suffix == ".npy":
                np.save(path, kind.draw(seed))
            elif path.suffix.lower() in (".tif", ".tiff"):
                tifffile.imwrite(path, kind.draw(seed), photometric="minisblack")
            else:
                Image.fromarray(kind.draw(seed)).save(path)


class Made(NamedTuple):
    """The lists of a set, with paths relative to its folder, and what was said but for what was written."""

    lists: dict[str, list[str]]
    said: list[str]


def made(root: Path, folders: Sequence[str] = ("",), **options: Any) -> Made:
    said: list[str] = []
    source = root / "my data"
    make_lists("own", [source / folder for folder in folders], root=root, say=said.append, **options)
    texts = {path.name: path.read_text() for path in (root / "txt/own").rglob("*.txt")}
    texts = {name: unicodedata.normalize("NFC", text) for name, text in texts.items()}
    lists = {name: text.replace("my data/", "").splitlines() for name, text in texts.items()}
    lines = [line.replace(f"{source}", "DATA").replace(f"{root}/", "") for line in said]
    return Made(lists, [line for line in lines if not line.startswith(("wrote ", "look at "))])


class Tree(NamedTuple):
    """A tree of files, what must come of it, and how make_lists is called.

    ``lists`` names the columns of every line, joined by " + ".
    """

    files: list[Files]
    lists: dict[str, list[str]]
    said: list[str]
    folders: tuple[str, ...] = ("",)
    options: dict[str, Any] = {}


EYES = ("01L", "01R", "02L", "02R", "03L", "03R")

TREES = {
    "one folder, endings, capitals, litter": Tree(
        [
            Files(grey, "*.TIF", range(1, 11)),
            Files(binary, "*_mask.png", range(1, 11)),
            Files(None, "notes.csv"),
            Files(None, "raw.czi"),
            Files(None, "Thumbs.db"),
            Files(None, "._1.TIF"),
            Files(grey, "__MACOSX/1.TIF"),
            Files(grey, "@eaDir/1.TIF/SYNO_THUMB.jpg"),
        ],
        {
            "train_gt.txt": [
                "2.TIF + 2_mask.png",
                "3.TIF + 3_mask.png",
                "4.TIF + 4_mask.png",
                "5.TIF + 5_mask.png",
                "6.TIF + 6_mask.png",
                "7.TIF + 7_mask.png",
                "8.TIF + 8_mask.png",
            ],
            "val.txt": ["9.TIF + 9_mask.png", "10.TIF + 10_mask.png"],
            "test.txt": ["1.TIF + 1_mask.png"],
        },
        [
            "left out: 1 .czi file (raw.czi); save them as TIFF, in Fiji (File > Save As) or with bfconvert",
            "left out: files of other kinds: 1 .csv",
            f"1_mask.png is taken for the label of 1.TIF {AFFIX}",
            *DIVIDED,
            NEXT,
        ],
    ),
    "images and masks": Tree(
        [Files(grey, "images/*.png", range(1, 8)), Files(binary, "masks/*.png", (1, 2, 3, 4, 5, 9))],
        {
            "train_gt.txt": ["images/3.png + masks/3.png", "images/4.png + masks/4.png", "images/5.png + masks/5.png"],
            "val.txt": ["images/1.png + masks/1.png"],
            "test.txt": ["images/2.png + masks/2.png"],
        },
        [
            "left out: 2 images without label of masks in DATA/images: 6.png, 7.png",
            "left out: 1 label without image in DATA/masks: 9.png",
            *DIVIDED,
            NEXT,
        ],
    ),
    "nnU-Net": Tree(
        [
            Files(grey, "imagesTr/case_*_0000.tif", ("001", "002", "003")),
            Files(grey, "imagesTr/case_*_0001.tif", ("001", "002", "003"), seed=10),
            Files(binary, "labelsTr/case_*.tif", ("001", "002", "003")),
            Files(grey, "imagesTs/case_*_0000.tif", ("009",), seed=20),
            Files(grey, "imagesTs/case_*_0001.tif", ("009",), seed=21),
        ],
        {
            "train_gt.txt": [
                "imagesTr/case_001_0000.tif + labelsTr/case_001.tif",
                "imagesTr/case_002_0000.tif + labelsTr/case_002.tif",
                "imagesTr/case_003_0000.tif + labelsTr/case_003.tif",
            ],
            "test.txt": ["imagesTs/case_009_0000.tif"],
        },
        [
            f"case_001.tif is taken for the label of case_001_0000.tif {AFFIX}",
            "files _0001, _0002, … beside _0000 are channels in files of their own and are not read: join them",
            "DATA/imagesTs has images without labels: they can be predicted, not scored",
            NO_VAL,
            NEXT,
        ],
    ),
    "a file an object (Data Science Bowl)": Tree(
        [
            Files(colored, "stage1_train/*/images/*.png", "abc"),
            Files(one_object(1), "stage1_train/*/masks/x*.png", "abc"),
            Files(one_object(2), "stage1_train/*/masks/y*.png", "abc"),
            Files(colored, "stage1_test/*/images/*.png", "d", seed=9),
        ],
        {
            "train_gt.txt": [
                "stage1_train/a/images/a.png + datasets/own/train/labels_merged/a.tif",
                "stage1_train/b/images/b.png + datasets/own/train/labels_merged/b.tif",
                "stage1_train/c/images/c.png + datasets/own/train/labels_merged/c.tif",
            ],
            "test.txt": ["stage1_test/d/images/d.png"],
        },
        [
            "merged 6 masks of single objects into 3 labels of numbered objects in datasets/own/train/labels_merged",
            "DATA/stage1_test/d/images has images without labels: they can be predicted, not scored",
            NO_VAL,
            "labels number objects, up to 2 in an image: all are foreground",
            OBJECTS,
            "4 images in colour: without --in_channels 3 they are read as grey",
            f"{NEXT} --in_channels 3",
        ],
    ),
    "street scenes (CamVid)": Tree(
        [
            Files(colored, "train/*.png", (1, 2)),
            Files(classes_and_void, "trainannot/*.png", (1, 2)),
            Files(colored, "val/*.png", (3,), seed=3),
            Files(classes_and_void, "valannot/*.png", (3,), seed=3),
            Files(colored, "test/*.png", (4,), seed=4),
            Files(classes_and_void, "testannot/*.png", (4,), seed=4),
        ],
        {
            "train_gt.txt": ["train/1.png + trainannot/1.png", "train/2.png + trainannot/2.png"],
            "val.txt": ["val/3.png + valannot/3.png"],
            "test.txt": ["test/4.png + testannot/4.png"],
        },
        [
            "labels hold 0, 1, 2, 3, 255: 4 classes",
            "255 is taken for void, pixels that count nowhere (--ignore_index 255)",
            "4 images in colour: without --in_channels 3 they are read as grey",
            f"{NEXT} --num_classes 4 --in_channels 3",
        ],
    ),
    "Cellpose": Tree(
        [
            Files(grey, "train/*_img.tif", range(3)),
            Files(numbered, "train/*_masks.tif", range(3)),
            Files(pickled, "train/*_seg.npy", range(2)),
            Files(grey, "test/*.tif", (9,), seed=9),
            Files(numbered, "test/*_cp_masks.png", (9,), seed=9),
        ],
        {
            "train_gt.txt": [
                "train/0_img.tif + train/0_masks.tif",
                "train/1_img.tif + train/1_masks.tif",
                "train/2_img.tif + train/2_masks.tif",
            ],
            "test.txt": ["test/9.tif + test/9_cp_masks.png"],
        },
        [
            "left out: 2 pickled .npy files (0_seg.npy, 1_seg.npy); save the masks alone, in Cellpose with File > Save "
            "masks as PNG",
            f"0_masks.tif is taken for the label of 0_img.tif {AFFIX}",
            f"9_cp_masks.png is taken for the label of 9.tif {AFFIX}",
            NO_VAL,
            "labels number objects, up to 4 in an image: all are foreground",
            OBJECTS,
            NEXT,
        ],
    ),
    "two annotators, two eyes of a patient (CHASE)": Tree(
        [
            Files(colored, "Image_*.jpg", EYES),
            Files(binary, "Image_*_1stHO.png", EYES),
            Files(binary, "Image_*_2ndHO.png", EYES),
        ],
        {
            "train_gt.txt": [
                "Image_03L.jpg + Image_03L_1stHO.png + Image_03L_2ndHO.png",
                "Image_03R.jpg + Image_03R_1stHO.png + Image_03R_2ndHO.png",
            ],
            "val.txt": [
                "Image_01L.jpg + Image_01L_1stHO.png + Image_01L_2ndHO.png",
                "Image_01R.jpg + Image_01R_1stHO.png + Image_01R_2ndHO.png",
            ],
            "test.txt": [
                "Image_02L.jpg + Image_02L_1stHO.png + Image_02L_2ndHO.png",
                "Image_02R.jpg + Image_02R_1stHO.png + Image_02R_2ndHO.png",
            ],
        },
        [
            "divided at random, 3 groups of --group_by Image_\\d+, seed 0",
            "6 images in colour: without --in_channels 3 they are read as grey",
            f"{NEXT} --in_channels 3",
        ],
        options={"label_suffix": ["_1stHO", "_2ndHO"], "group_by": r"Image_\d+"},
    ),
    "an ending of their own (DRIVE)": Tree(
        [
            Files(grey, "training/images/*_training.tif", (21, 22)),
            Files(binary, "training/1st_manual/*_manual1.gif", (21, 22)),
            Files(binary, "training/mask/*_training_mask.gif", (21, 22)),
            Files(grey, "test/images/01_test.tif", seed=9),
        ],
        {
            "train_gt.txt": [
                "training/images/21_training.tif + training/1st_manual/21_manual1.gif",
                "training/images/22_training.tif + training/1st_manual/22_manual1.gif",
            ],
            "test.txt": ["test/images/01_test.tif"],
        },
        [
            f"21_manual1.gif is taken for the label of 21_training.tif {SHARED}",
            "DATA/test/images has images without labels: they can be predicted, not scored",
            NO_VAL,
            NEXT,
        ],
        options={"labels": ["1st_manual"]},
    ),
    "splits inside images and labels": Tree(
        [
            Files(grey, "images/train/*.png", range(3)),
            Files(binary, "labels/train/*.png", range(3)),
            Files(grey, "images/val/7.png", seed=7),
            Files(binary, "labels/val/7.png", seed=7),
            Files(binary, "labels_other/val/7.png", seed=7),
        ],
        {
            "train_gt.txt": [
                "images/train/0.png + labels/train/0.png",
                "images/train/1.png + labels/train/1.png",
                "images/train/2.png + labels/train/2.png",
            ],
            "val.txt": ["images/val/7.png + labels/val/7.png"],
        },
        ["labels are those of labels, not of labels_other (--labels)", NO_TEST, NEXT],
    ),
    "equal names in folders within folders": Tree(
        [Files(grey, "images/plate*/a 1.tif", (1, 2, 3)), Files(numbered, "masks/plate*/a 1.tif", (1, 2, 3))],
        {
            "train_gt.txt": ["images/plate3/a 1.tif + masks/plate3/a 1.tif"],
            "val.txt": ["images/plate1/a 1.tif + masks/plate1/a 1.tif"],
            "test.txt": ["images/plate2/a 1.tif + masks/plate2/a 1.tif"],
        },
        [*DIVIDED, "labels number objects, up to 4 in an image: all are foreground", OBJECTS, NEXT],
    ),
    "accents of two forms, several folders": Tree(
        [
            Files(grey, unicodedata.normalize("NFD", "day*/images/Präparat.tif"), (1, 2, 3)),
            Files(binary, unicodedata.normalize("NFC", "day*/labels/Präparat.png"), (1, 2, 3)),
            Files(binary, "elsewhere/labels/9.png"),
        ],
        {
            "train_gt.txt": ["day3/images/Präparat.tif + day3/labels/Präparat.png"],
            "val.txt": ["day1/images/Präparat.tif + day1/labels/Präparat.png"],
            "test.txt": ["day2/images/Präparat.tif + day2/labels/Präparat.png"],
        },
        [*DIVIDED, NEXT],
        folders=("day1", "day2", "day3"),
    ),
    "a stack with a stack of labels (ISBI)": Tree(
        [
            Files(volume, "train-volume.tif"),
            Files(volume_of_labels, "train-labels.tif"),
            Files(volume, "test-volume.tif", seed=9),
        ],
        {
            "train_gt.txt": [
                "train-volume.tif::0 + train-labels.tif::0",
                "train-volume.tif::1 + train-labels.tif::1",
                "train-volume.tif::2 + train-labels.tif::2",
                "train-volume.tif::3 + train-labels.tif::3",
                "train-volume.tif::4 + train-labels.tif::4",
                "train-volume.tif::5 + train-labels.tif::5",
                "train-volume.tif::6 + train-labels.tif::6",
            ],
            "val.txt": ["train-volume.tif::7 + train-labels.tif::7", "train-volume.tif::8 + train-labels.tif::8"],
            "test.txt": ["train-volume.tif::9 + train-labels.tif::9"],
        },
        [
            f"train-labels.tif is taken for the label of train-volume.tif {AFFIX}",
            "left out: 1 image without label of -labels in DATA: test-volume.tif",
            "1 stack, listed plane by plane: train-volume.tif 10×48×48 (QYX)",
            "planes of a stack are divided in blocks, in their order: planes at the cuts resemble each other",
            NEXT,
        ],
    ),
    "photographs and labels in colours, equal names": Tree(
        [Files(colored, "*.jpg", range(3)), Files(colors_of_classes, "*.png", range(3))],
        {"train_gt.txt": ["2.jpg + 2.png"], "val.txt": ["0.jpg + 0.png"], "test.txt": ["1.jpg + 1.png"]},
        [
            *DIVIDED,
            "labels hold #000000, #00ff00, #ff0000: does --label_map say what they mean? (0 is background, ignore "
            "counts nowhere)",
            "3 images in colour: without --in_channels 3 they are read as grey",
            f'{NEXT} --num_classes 3 --label_map "#000000:0,#00ff00:1,#ff0000:2" --in_channels 3',
        ],
    ),
    "arrays": Tree(
        [Files(grey, "images/*.npy", range(4)), Files(binary, "labels/*.npy", range(4))],
        {
            "train_gt.txt": ["images/0.npy + labels/0.npy", "images/2.npy + labels/2.npy"],
            "val.txt": ["images/1.npy + labels/1.npy"],
            "test.txt": ["images/3.npy + labels/3.npy"],
        },
        [*DIVIDED, NEXT],
    ),
    "beginnings": Tree(
        [Files(grey, "img_*.png", range(4)), Files(binary, "mask_*.png", range(4)), Files(grey, "extra.png", seed=9)],
        {
            "train_gt.txt": ["img_0.png + mask_0.png", "img_2.png + mask_2.png"],
            "val.txt": ["img_1.png + mask_1.png"],
            "test.txt": ["img_3.png + mask_3.png"],
        },
        [
            f"mask_0.png is taken for the label of img_0.png {AFFIX}",
            "left out: 1 image without label of mask_ in DATA: extra.png",
            *DIVIDED,
            NEXT,
        ],
    ),
    "several masks of an image": Tree(
        [
            Files(grey, "b (*).png", range(4)),
            Files(binary, "b (*)_mask.png", range(4)),
            Files(binary, "b (1)_mask_1.png", seed=9),
        ],
        {
            "train_gt.txt": ["b (3).png + b (3)_mask.png"],
            "val.txt": ["b (0).png + b (0)_mask.png"],
            "test.txt": ["b (2).png + b (2)_mask.png"],
        },
        [
            f"b (0)_mask.png is taken for the label of b (0).png {AFFIX}",
            "left out: 1 image with labels in several files, to be joined into one: b (1).png",
            *DIVIDED,
            NEXT,
        ],
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_becomes_lists_and_words(name: str, tmp_path: Path):
    tree = TREES[name]
    put(tmp_path / "my data", tree.files)
    lists, said = made(tmp_path, tree.folders, **tree.options)
    assert lists == {file: [line.replace(" + ", "\t") for line in lines] for file, lines in tree.lists.items()}
    assert said == tree.said
    assert read_image(tmp_path / "txt/own/preview.jpg", 3).shape[1] > 500


REFUSED = {
    "only foreign files": (
        [Files(None, "a.czi"), Files(None, "b.nd2"), Files(None, "c.lif")],
        {},
        r"no images found in .*my data; there are other files: 1 \.czi, 1 \.lif, 1 \.nd2\. Name the folder",
    ),
    "two kinds of labels in folders": (
        [
            Files(grey, "images/*.tif", (1, 2)),
            Files(binary, "manual/*.png", (1, 2)),
            Files(binary, "mask/*.png", (1, 2)),
        ],
        {},
        r"my data/images has labels of 2 kinds: manual, mask; name the one that is meant.*--labels$",
    ),
    "two kinds of labels by ending": (
        [Files(grey, "*.tif", (1, 2)), Files(binary, "*_mask.png", (1, 2)), Files(binary, "*_label.png", (1, 2))],
        {},
        r"my data has labels of 2 kinds: _label, _mask; .*--label_suffix$",
    ),
    "every name twice": (
        [Files(grey, "*.tif", (1, 2)), Files(binary, "*.png", (1, 2))],
        {},
        r"my data has every name twice, as \.\w+ and \.\w+: .*--label_suffix",
    ),
    "an image twice": (
        [Files(grey, "images/*.tif", (1, 2)), Files(grey, "images/1.png"), Files(binary, "labels/*.png", (1, 2))],
        {},
        r"images has files of one name.*1\.(png and 1\.tif|tif and 1\.png); keep one",
    ),
    "no such ending": (
        [Files(grey, "*.tif", (1, 2)), Files(binary, "*_mask.png", (1, 2))],
        {"label_suffix": ["_label"]},
        r"my data has no labels of _label; it has no labels",
    ),
    "folders divide already": (
        [Files(grey, f"{part}/images/1.tif", seed=seed) for seed, part in enumerate(("train", "val", "test"))],
        {"split": "70/15/15"},
        r"--split 70/15/15: folders divide the images into train, val, test already",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tree_that_is_open_is_refused_with_what_to_say(name: str, tmp_path: Path):
    files, options, message = REFUSED[name]
    put(tmp_path / "my data", files)
    with pytest.raises(UserError, match=message):
        made(tmp_path, **options)
    assert not (tmp_path / "txt").exists()


PAIRED = {
    "masks in one folder, images divided": (
        {"images/train/*.tif": (1, 2), "images/val/*.tif": (3,), "masks/*.png": (1, 2, 3, 4)},
        {},
        {"train_gt.txt": ["images/train/* + masks/*", 1, 2], "val.txt": ["images/val/* + masks/*", 3]},
        "left out: 1 label without image in DATA/masks: 4.png",
    ),
    "images in one folder, masks divided": (
        {"images/*.tif": (1, 2, 3, 4), "masks/train/*.png": (1, 2), "masks/val/*.png": (3,)},
        {},
        {"train_gt.txt": ["images/* + masks/train/*", 1, 2], "val.txt": ["images/* + masks/val/*", 3]},
        "left out: 1 image in no folder of train, val: 4.tif",
    ),
    "pictures beside the folder of images": (
        {"a/tissue images/*.tif": (1, 2), "a/overlay/*.png": (1, 2), "a/mask binary/*.png": (1, 2)},
        {"split": "100/0/0"},
        {"train_gt.txt": ["a/tissue images/* + a/mask binary/*", 1, 2]},
        "left out: 2 files beside images and labels: 1.png, 2.png",
    ),
    "endings within the folder of labels": (
        {"images/*.tif": (1, 2), "masks/*_nuclei.png": (1, 2), "masks/*_cells.png": (1, 2)},
        {"split": "100/0/0", "label_suffix": ["_nuclei"]},
        {"train_gt.txt": ["images/* + masks/*_nuclei", 1, 2]},
        None,
    ),
    "endings of two annotators in a folder that is named": (
        {"images/*.tif": (1, 2), "lab/*_a.png": (1, 2), "lab/*_b.png": (1, 2)},
        {"split": "100/0/0", "labels": ["lab"], "label_suffix": ["_a", "_b"]},
        {"train_gt.txt": ["images/* + lab/*_a + lab/*_b", 1, 2]},
        None,
    ),
    "what names share, in folders that differ": (
        {"stare-images/im*.tif": (1, 2), "labels-ah/im*.ah.png": (1, 2), "labels-vk/im*.vk.png": (1, 2)},
        {"split": "100/0/0", "labels": ["labels-ah", "labels-vk"]},
        {"train_gt.txt": ["stare-images/im* + labels-ah/im*.ah + labels-vk/im*.vk", 1, 2]},
        "im1.ah.png is taken for the label of im1.tif (the names are equal but for what all of them share, the folders "
        "are not)",
    ),
    "folders of annotators": (
        {"images/*.tif": (1, 2), "Ann A/masks/*.png": (1, 2), "Ann B/masks/*.png": (1, 2)},
        {"split": "100/0/0", "labels": ["Ann B", "Ann A/masks"]},
        {"train_gt.txt": ["images/* + Ann B/masks/* + Ann A/masks/*", 1, 2]},
        None,
    ),
}


@pytest.mark.parametrize("name", PAIRED)
def test_labels_are_found_where_folders_are_not_as_usual(name: str, tmp_path: Path):
    files, options, expected, said = PAIRED[name]
    kinds = [Files(grey if pattern.endswith(".tif") else binary, pattern, names) for pattern, names in files.items()]
    put(tmp_path / "my data", kinds)
    found = made(tmp_path, **options)
    lines = {
        list_name: [row.replace("*", str(number)) for number in numbers]
        for list_name, (row, *numbers) in expected.items()
    }
    without_suffixes = {
        list_name: [line.replace(".tif", "").replace(".png", "").replace("\t", " + ") for line in rows]
        for list_name, rows in found.lists.items()
    }
    assert without_suffixes == lines
    assert said is None or said in found.said


@pytest.mark.parametrize(
    ("fields", "crop"), [(6, " [x={},y=0,w=48,h=48]"), (3, " [x={},y=0,w=48,h=48]"), (3, "_h0_w{}")]
)
def test_crops_of_a_field_stay_together_or_the_way_is_told(tmp_path: Path, fields: int, crop: str):
    names = [f"slide {field}{crop.format(48 * place)}" for field in range(fields) for place in range(3)]
    put(tmp_path / "my data", [Files(grey, "images/*.tif", names), Files(binary, "masks/*.png", names)])
    lists, said = made(tmp_path)
    if fields < 6:
        [advice] = [line for line in said if "crops of 3 fields of view" in line]
        [_, pattern] = shlex.split(re.sub(".*(--group_by '.*?') .*", r"\1", advice))
        assert f"divided at random, 3 groups of --group_by {pattern}, seed 0" in made(tmp_path, group_by=pattern).said
        return
    assert "divided at random, 6 fields of view, by the names of their crops, seed 0" in said
    parts = [{line[: line.index("[")] for line in rows} for rows in lists.values()]
    assert len(parts) == 3 and sum(map(len, parts)) == len(set.union(*parts)) == 6


def test_foreign_files_come_with_the_way_to_convert_them(tmp_path: Path):
    kinds = {
        ".czi": "bfconvert",
        ".nd2": "Fiji",
        ".lif": "TIFF",
        ".json": "masks",
        ".h5": "Ilastik",
        ".svs": "QuPath",
        ".zip": "unpack",
        ".mp4": "frames",
    }
    put(tmp_path / "my data", [Files(grey, "images/*.tif", (1, 2)), Files(binary, "masks/*.png", (1, 2))])
    for kind in kinds:
        (tmp_path / f"my data/a{kind}").touch()
    (tmp_path / "my data/masks/more").mkdir()
    (tmp_path / "my data/masks/more/1.txt").touch()
    said = made(tmp_path).said
    assert any("1 label .txt file (1.txt); outlines in such files are not read" in line for line in said)
    for kind, remedy in kinds.items():
        [line] = [line for line in said if f"1 {kind} file (a{kind})" in line]
        assert remedy in line


def test_links_are_followed_and_a_link_to_above_ends(tmp_path: Path):
    put(tmp_path / "store", [Files(grey, "*.tif", range(4)), Files(binary, "*_label.tif", range(4))])
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data/day1").symlink_to(tmp_path / "store")
    (tmp_path / "my data/again").symlink_to(tmp_path / "my data")
    lists, _ = made(tmp_path)
    lines = [line for name in ("train_gt.txt", "val.txt", "test.txt") for line in lists[name]]
    assert sorted(lines) == [f"day1/{n}.tif\tday1/{n}_label.tif" for n in range(4)]


def test_the_folder_of_images_alone_is_told_where_labels_may_lie(tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, "images/*.tif", range(4)), Files(binary, "masks/*.png", range(4))])
    (tmp_path / "my data/images/lost.tif").symlink_to(tmp_path / "nowhere.tif")
    said = made(tmp_path, ["images"]).said
    assert "left out: 1 broken link (lost.tif); they lead nowhere" in said
    assert any(line.endswith("; masks beside it may have them: name DATA") for line in said)
    assert said[-1] == f"{NEXT} --igtt"
    (tmp_path / "my data/masks").rename(tmp_path / "my data/annotations")
    for path in (tmp_path / "my data/annotations").iterdir():
        path.rename(path.with_suffix(".json"))
    assert not any("may have them" in line for line in made(tmp_path).said)  # they lie in the folder that was named
    with pytest.raises(UserError, match=r"0\.tif is a file: name the folder"):
        made(tmp_path, ["images/0.tif"])


@pytest.mark.parametrize("broken", ["images", "labels", "both"])
def test_data_of_which_nothing_can_be_read_are_refused(tmp_path: Path, broken: str):
    source = tmp_path / "datasets/own"
    for number in range(3):
        for kind, drawn in (("images", grey(number)), ("labels", binary(number))):
            path = source / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(path)
            if broken in (kind, "both"):
                path.write_bytes(b"junk" + path.read_bytes()[4:])
    named = "label" if broken == "labels" else "image"
    with pytest.raises(UserError, match=rf"none of the {named}s \(3\) can be read.*: {named} .*\d\.png cannot be read"):
        make_lists("own", root=tmp_path, say=lambda line: None)
    assert not (tmp_path / "txt").exists()
    for kind, drawn in (("images", grey(0)), ("labels", binary(0))):
        Image.fromarray(drawn).save(source / kind / "0.png")
    said: list[str] = []
    make_lists("own", root=tmp_path, say=said.append)
    assert (
        sum(line.startswith("warning: ") for line in said) == 2 and (tmp_path / "txt/own/train/train_gt.txt").exists()
    )


def test_files_that_do_not_fit_each_other_are_a_warning(tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, "images/*.tif", range(4)), Files(binary, "labels/*.png", range(4))])
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "my data/labels/2.png")
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(tmp_path / "my data/labels/0.png")
    (tmp_path / "my data/images/3.tif").write_bytes(b"II*\0")
    for folder, shape in (("images", (32, 64)), ("labels", (64, 32))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / f"my data/{folder}/1.png")
    (tmp_path / "my data/images/1.tif").unlink()
    said = made(tmp_path).said
    assert any("1.png is 64×32, its image" in line and "rows and columns are exchanged" in line for line in said)
    assert any("2.png is 20×30, its image" in line and "48: is it the label of another image?" in line for line in said)
    assert any(
        "0.png is 24×24, its image" in line and "drawn at another resolution? Resize it" in line for line in said
    )
    assert any("warning: image" in line and "3.tif cannot be read as an image" in line for line in said)
    assert said[-2:] == ["(training refuses these: mend them, or take them away and make the lists again)", NEXT]


def test_images_too_small_to_train_on_are_a_warning(tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, "images/*.png", range(4)), Files(binary, "labels/*.png", range(4))])
    for folder in ("images", "labels"):
        Image.fromarray(np.eye(20, 12, dtype=np.uint8) * 255).save(tmp_path / f"my data/{folder}/1.png")
    assert "warning: image DATA/images/1.png is 20×12, at least 16×16 is needed" in made(tmp_path).said


def test_the_name_of_a_simulated_set_is_not_taken(tmp_path: Path):
    put(tmp_path, [Files(grey, "*/images/1.png", ("mine", "datasets/er_sim"))])
    with pytest.raises(UserError, match="--dataset er_sim is the name of a set that is simulated .* another name"):
        make_lists("er_sim", [tmp_path / "mine"], root=tmp_path, say=print)
    assert make_lists("er_sim", root=tmp_path, say=print)


VALUES = {
    "instances": (numbered, ""),
    "instances of many images": (lambda n: numbered(n) + np.uint16(500) * (numbered(n) > 0), ""),
    "0 and 255": (binary, ""),
    "0 and 1": (lambda n: binary(n) // 255, ""),
    "classes": (lambda n: classes_and_void(n) % 255, " --num_classes 4"),
    "classes and void": (classes_and_void, " --num_classes 4"),
    "classes and a far void": (
        lambda n: np.where(classes_and_void(n) == 255, 252, classes_and_void(n)),
        " --num_classes 4 --ignore_index 252",
    ),
    "binary and void": (
        lambda n: np.where(classes_and_void(n) == 255, 255, binary(n) // 255).astype(np.uint8),
        " --ignore_index 255",
    ),
    "1 and 2": (lambda n: binary(n) // 255 + np.uint8(1), ' --label_map "1:0,2:1"'),
    "not annotated": (
        lambda n: binary(n).astype(np.int16) // 255 - (classes_and_void(n) == 255),
        ' --label_map "0:0,1:1,-1:ignore"',
    ),
    "0, 255 and unknown as written here": (
        lambda n: np.where(classes_and_void(n) == 255, 128, binary(n)).astype(np.uint8),
        ' --label_map "0:0,255:1,128:ignore"',
    ),
    "grey steps": (
        lambda n: (numbered(n) % 3 * 100).astype(np.uint8),
        ' --num_classes 3 --label_map "0:0,100:1,200:2"',
    ),
    "two colours": (lambda n: np.dstack([binary(n), binary(n) // 2, 0 * binary(n)]), ""),
    "0 and -1": (lambda n: -(binary(n) // 255).astype(np.int8), ' --label_map "0:0,-1:1"'),
    "-1 and 1": (lambda n: (binary(n) // 255).astype(np.int8) * 2 - 1, ' --label_map "-1:0,1:1"'),
    "254 and 255": (lambda n: np.where(np.arange(SIDE) < SIDE // 2, 254, 255) * (binary(n) // 255), ""),
    "red on white": (
        lambda n: np.where(binary(n)[..., None] > 0, (255, 0, 0), (255, 255, 255)).astype(np.uint8),
        ' --label_map "#ffffff:0,#ff0000:1"',
    ),
    "three levels": (
        lambda n: np.array([0, 127, 255], np.uint8)[numbered(n) % 3],
        ' --num_classes 3 --label_map "0:0,127:1,255:2"',
    ),
    "colours on red": (
        lambda n: np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)[numbered(n) % 3],
        ' --num_classes 3 --label_map "#ff0000:0,#0000ff:1,#00ff00:2"',
    ),
    "colours": (colors_of_classes, ' --num_classes 3 --label_map "#000000:0,#00ff00:1,#ff0000:2"'),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_command_to_type_says_what_values_mean(name: str, tmp_path: Path):
    draw_label, options = VALUES[name]
    suffix = "png" if draw_label(0).dtype in (np.uint8, np.uint16) else "tif"
    put(
        tmp_path / "my data", [Files(grey, "images/*.tif", range(6)), Files(draw_label, f"labels/*.{suffix}", range(6))]
    )
    assert made(tmp_path).said[-1] == f"{NEXT}{options}"


def test_channels_of_a_composite_come_with_in_channels(tmp_path: Path):
    put(tmp_path / "my data", [Files(lambda n: binary(n) > 0, "labels/*.pbm", range(6))])
    (tmp_path / "my data/images").mkdir()
    for number in range(6):
        composite = np.stack([grey(number)] * 3)
        tifffile.imwrite(tmp_path / f"my data/images/{number}.tif", composite, imagej=True, metadata={"axes": "CYX"})
    assert made(tmp_path).said[-1] == f"{NEXT} --in_channels 3"


def test_a_value_that_may_be_void_comes_with_ignore_index(tmp_path: Path):
    def streets(number: int) -> np.ndarray:  # eleven classes, and 11 where none is meant
        blocks = np.random.default_rng(number).integers(0, 12, (6, 6))
        return np.kron(blocks, np.ones((8, 8), int)).astype(np.uint8)

    put(tmp_path / "my data", [Files(colored, "images/*.png", range(6)), Files(streets, "labels/*.png", range(6))])
    said = made(tmp_path).said
    assert any("void" in line and "--ignore_index 11" in line for line in said)
    assert said[-1] == f"{NEXT} --num_classes 12 --in_channels 3"
    with pytest.raises(UserError, match=r"no class: 11, in .* void and counts nowhere: --ignore_index 11$"):
        read_label(tmp_path / "my data/labels/0.png", num_classes=11)


@pytest.mark.parametrize(
    ("background", "void", "label_map"), [(0, -1, "-1:ignore"), (0, 65535, "65535:ignore"), (3, 3, "3:0")]
)
def test_objects_beside_void_are_never_advised_as_classes(tmp_path: Path, background: int, void: int, label_map: str):
    def with_void(number: int) -> np.ndarray:
        label = np.where(numbered(number), numbered(number) + np.int32(background), background)
        label[:3] = void
        return label

    put(tmp_path / "my data", [Files(grey, "images/*.tif", range(6)), Files(with_void, "labels/*.tif", range(6))])
    said = made(tmp_path).said
    assert said[-1] == f'{NEXT} --label_map "{label_map}"'
    assert not any("warning" in line for line in said)
    assert made(tmp_path, label_map=label_map).said[-2:] == [OBJECTS, said[-1]]


def test_jpeg_masks_have_the_foreground_of_png_masks(tmp_path: Path):
    foreground = {}
    for suffix in ("png", "jpg"):
        folder = tmp_path / suffix / "my data"
        put(folder, [Files(grey, "images/*.tif", range(6)), Files(binary, f"masks/*.{suffix}", range(6))])
        assert made(tmp_path / suffix).said[-1] == NEXT
        foreground[suffix] = [read_label(path).sum() for path in sorted((folder / "masks").iterdir())]
    assert np.abs(np.array(foreground["jpg"]) / np.array(foreground["png"]) - 1).max() < 0.02


def test_numbers_that_begin_at_minus_one_are_warned_of(tmp_path: Path):
    labels = Files(lambda n: numbered(n).astype(np.int16) - 1, "labels/*.tif", range(6))
    put(tmp_path / "my data", [Files(grey, "images/*.tif", range(6)), labels])
    [line] = [line for line in made(tmp_path).said if line.startswith("warning")]
    assert line.startswith("warning: most pixels hold -1: if this is background, add 1 to all values")


def test_classes_in_jpeg_are_warned_of(tmp_path: Path):
    labels = Files(lambda n: numbered(n).astype(np.uint8) % 3, "labels/*.jpg", range(6))
    put(tmp_path / "my data", [Files(grey, "images/*.tif", range(6)), labels])
    said = made(tmp_path).said
    assert any("--num_classes" in line for line in said)
    assert any(line.startswith("warning: labels are JPEG, in which classes run into") for line in said)


def test_grey_images_saved_as_colour_need_no_channels(tmp_path: Path):
    put(
        tmp_path / "my data",
        [Files(lambda n: np.dstack([grey(n)] * 3), "images/*.png", range(4)), Files(binary, "labels/*.png", range(4))],
    )
    assert made(tmp_path).said[-1] == NEXT


def test_a_noisy_set_of_labels_is_taken_only_where_it_is_named(tmp_path: Path):
    files = [
        Files(grey, "train/images/*.tif", range(4)),
        Files(binary, "train/masks_a/*.png", range(4)),
        Files(binary, "train/masks_b/*.png", range(1, 3), seed=1),
    ]
    put(tmp_path / "my data", files)
    with pytest.raises(UserError, match="2 kinds: masks_a, masks_b"):
        made(tmp_path)
    lists, _ = made(tmp_path, noisy_labels="masks_b")
    assert lists["train_gt.txt"] == [f"train/images/{n}.tif\ttrain/masks_a/{n}.png" for n in range(4)]
    assert lists["train_noisyLabel.txt"] == [f"train/images/{n}.tif\ttrain/masks_b/{n}.png" for n in (1, 2)]


def test_merged_masks_are_objects(tmp_path: Path):
    put(tmp_path / "my data", TREES["a file an object (Data Science Bowl)"].files)
    made(tmp_path)
    for seed, name in enumerate("abc"):
        label = tifffile.imread(tmp_path / f"datasets/own/train/labels_merged/{name}.tif")
        assert np.array_equal(label > 0, np.isin(numbered(seed), (1, 2))) and len(np.unique(label)) == 3


@pytest.mark.parametrize(
    "pattern", ["masks/{}/{}.png", "masks/{}.png/{}.png", "masks/{}_{}.png", "masks/{}_mask_{}.png"]
)
def test_masks_of_objects_are_merged_by_their_names(pattern: str, tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, "images/*.png", "abc")])
    for seed, name in enumerate("abc"):
        for value in range(1, 3):
            put(tmp_path / "my data", [Files(one_object(value), pattern.format(name, value), seed=seed)])
    lists, said = made(tmp_path)
    rows = {row for name in lists for row in lists[name]}
    assert rows == {f"images/{name}.png\tdatasets/own/labels_merged/{name}.tif" for name in "abc"}
    assert "merged 6 masks of single objects into 3 labels of numbered objects in datasets/own/labels_merged" in said
    merged = tifffile.imread(tmp_path / "datasets/own/labels_merged/b.tif")
    assert np.array_equal(merged > 0, (numbered(1) > 0) & (numbered(1) <= 2)) and len(np.unique(merged)) == 3


def test_slices_are_not_merged_as_objects(tmp_path: Path):
    files = [Files(grey, "images/*.png", "ab"), *(Files(binary, f"masks/*_{n}.png", "ab") for n in range(3))]
    put(tmp_path / "my data", files)
    with pytest.raises(UserError, match=r"a_0\.png and the 2 masks beside it lie upon each other.*slices, frames"):
        made(tmp_path)


def test_several_folders_of_masks_are_named(tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, "images/*.png", "ab"), Files(binary, "masks/cyto/*.png", "ab")])
    put(tmp_path / "my data", [Files(binary, "masks/nuclei/*.png", "ab")])
    with pytest.raises(UserError, match=r"labels in several folders of masks: cyto, nuclei; name the one.*--labels"):
        made(tmp_path)
    assert made(tmp_path, labels=["nuclei"]).lists["train_gt.txt"] == ["images/a.png\tmasks/nuclei/a.png"]


@pytest.mark.parametrize("samples", [(1, 2, 3), (1, 2, 7)])
def test_numbers_of_objects_are_not_taken_for_those_of_images(samples: tuple[int, ...], tmp_path: Path):
    files = [Files(grey, "*/images/*.png", samples)]
    files += [Files(one_object(value), f"*/masks/{value}.png", samples) for value in (1, 2, 3)]
    put(tmp_path / "my data", files)
    lists, said = made(tmp_path)
    assert any(line.startswith("merged 9 masks of single objects into 3 labels") for line in said)
    rows = {row for name in lists for row in lists[name]}
    assert rows == {f"{number}/images/{number}.png\tdatasets/own/labels_merged/{number}.tif" for number in samples}


def test_what_values_and_channels_are_may_be_said(tmp_path):
    put(tmp_path / "my data", [Files(lambda number: binary(number) // 255 + 1, "masks/*.png", range(3))])
    for number in range(3):
        channels = np.stack([np.full((SIDE, SIDE), 9, np.uint8), grey(number)])
        path = tmp_path / "my data" / "images" / f"{number}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, channels, ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["BF", "GFP"]}})
    said = made(tmp_path, label_map="1:0,2:1", channels=("GFP",)).said
    assert said[-1] == NEXT + ' --label_map "1:0,2:1" --channels GFP'
    assert not any("warning" in line for line in said)
    said = made(tmp_path, label_map="1:0,3:2", channels=("GFP",)).said
    assert said[-1] == NEXT + ' --num_classes 3 --label_map "1:0,3:2" --channels GFP'
    with pytest.raises(UserError, match="has no channel 'RFP': --channels can be 0 to 1 or BF, GFP"):
        made(tmp_path, channels=("RFP",))
    said = made(tmp_path, label_map="1:0,3:1").said  # 2 is named by nobody
    assert any('which --label_map "1:0,3:1" does not name' in line for line in said)


def test_a_folder_a_sample_is_paired_by_what_its_files_are_called(tmp_path: Path):
    files = [
        Files(grey, "*/img.png", ["a_json", "b_json", "c_json"]),
        Files(one_object(1), "*/label.png", ["a_json", "b_json", "c_json"]),
        Files(colored, "*/label_viz.png", ["a_json", "b_json", "c_json"]),
    ]
    put(tmp_path / "my data", files)
    lists, said = made(tmp_path)
    rows = sorted(row for name in lists for row in lists[name])
    assert rows == [f"{name}_json/img.png\t{name}_json/label.png" for name in "abc"]
    assert "left out: 3 files beside images and labels: label_viz.png, label_viz.png, label_viz.png" in said


@pytest.mark.parametrize("axes, reason", [("CYX", "10 and 1 planes"), (None, "10 and 1 planes")])
def test_labels_of_other_planes_than_their_images_are_an_error(tmp_path: Path, axes: str | None, reason: str):
    put(tmp_path / "my data", [Files(volume, "images/*.tif", range(2))])
    (tmp_path / "my data/masks").mkdir()
    for number in range(2):
        label = binary(number) if axes is None else volume_of_labels(number)
        metadata = {"axes": axes or "YX"}
        tifffile.imwrite(tmp_path / f"my data/masks/{number}.tif", label, imagej=True, metadata=metadata)
    with pytest.raises(UserError, match=rf"no label has as many planes as its image: 0\.tif \({reason}\)"):
        made(tmp_path)


def test_slices_that_are_marked_as_colours_are_no_label(tmp_path: Path):
    path = tmp_path / "7.tif"
    tifffile.imwrite(path, volume_of_labels(7)[:3], photometric="rgb", planarconfig="separate")
    with pytest.raises(UserError, match=r"^label .*7\.tif has planes that differ, 3×48×48.*photometric='minisblack'"):
        read_label(path)
    tifffile.imwrite(path, np.stack([binary(7)] * 3), photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_label(path), binary(7) > 0)


def test_one_stack_of_images_and_one_of_masks_belong_together(tmp_path: Path):
    put(tmp_path / "my data", [Files(volume, "images.tif", "1"), Files(volume_of_labels, "masks.tif", "1")])
    lists, _ = made(tmp_path)
    assert {row for rows in lists.values() for row in rows} == {f"images.tif::{n}\tmasks.tif::{n}" for n in range(10)}


def test_planes_that_nobody_annotated_are_told(tmp_path: Path):
    def annotated(planes: Sequence[int]) -> Draw:
        return lambda number: np.stack([binary(plane) * np.uint8(plane in planes) for plane in range(10)])

    put(tmp_path / "my data", [Files(volume, "images/a.tif"), Files(annotated((1, 4, 8)), "masks/a.tif")])
    [line] = [line for line in made(tmp_path).said if "warning" in line]
    assert line.startswith(
        "warning: 5 of 6 planes between annotated ones have no foreground (a.tif): those that nobody"
    )
    put(tmp_path / "my data", [Files(annotated((3, 4, 5, 6)), "masks/a.tif")])
    assert not any("warning" in line for line in made(tmp_path).said)


def test_several_stacks_are_divided_stack_by_stack(tmp_path: Path):
    names = range(3)
    put(tmp_path / "my data", [Files(volume, "images/*.tif", names), Files(volume_of_labels, "masks/*.tif", names)])
    lists, said = made(tmp_path)
    assert said[1:3] == DIVIDED
    stacks = [{line.partition("::")[0] for line in rows} for rows in lists.values()]
    assert sum(map(len, stacks)) == len(set.union(*stacks)) == 3


@pytest.mark.parametrize(
    "image, label, options",
    [
        ("{}-volume.tif", "{}-labels.tif", {}),
        ("{}_images.npy", "{}_masks.npy", {}),
        ("images/{}.tif", "labels/{}.tif", {}),
        ("X_{}.npy", "Y_{}.npy", {"label_suffix": ["Y_"]}),
        ("{}_x.npy", "{}_y.npy", {"label_suffix": ["_y"]}),
    ],
)
def test_stacks_named_after_parts_are_those_parts(image: str, label: str, options: dict, tmp_path: Path):
    for number, part in enumerate(("train", "test")):
        files = [
            Files(volume, image.format(part), seed=number),
            Files(volume_of_labels, label.format(part), seed=number),
        ]
        put(tmp_path / "my data", files)
    lists, _ = made(tmp_path, **options)
    assert set(lists) == {"train_gt.txt", "test.txt"}
    for part, rows in (("train", lists["train_gt.txt"]), ("test", lists["test.txt"])):
        assert rows == [f"{image.format(part)}::{n}\t{label.format(part)}::{n}" for n in range(10)]


def test_one_file_called_test_divides_nothing(tmp_path: Path):
    put(
        tmp_path / "my data",
        [Files(grey, "images/*.png", ("test", *"abc")), Files(binary, "masks/*.png", ("test", *"abc"))],
    )
    assert sum(map(len, made(tmp_path).lists.values())) == 4


def test_a_test_part_may_lack_the_labels_that_are_named(tmp_path: Path):
    files = [Files(grey, "*/images/1.png", ("training", "test")), Files(binary, "*/mask/1.png", ("training", "test"))]
    put(tmp_path / "my data", [*files, Files(binary, "training/1st_manual/*.png", (1,))])
    lists, said = made(tmp_path, labels=["1st_manual"])
    assert lists["test.txt"] == ["test/images/1.png"]
    assert "DATA/test/images has no labels of 1st_manual; it has: mask" in said
    (tmp_path / "my data/training").rename(tmp_path / "my data/test2")
    (tmp_path / "my data/test").rename(tmp_path / "my data/training")
    (tmp_path / "my data/test2").rename(tmp_path / "my data/test")
    with pytest.raises(UserError, match="training/images has no labels of 1st_manual; it has: mask"):
        made(tmp_path, labels=["1st_manual"])


def test_images_without_the_label_of_one_annotator_are_not_left_out(tmp_path: Path):
    files = [Files(grey, "images/*.png", "abcd"), Files(binary, "A/*.png", "abc"), Files(binary, "B/*.png", "ab")]
    put(tmp_path / "my data", files)
    lists, said = made(tmp_path, labels=["A", "B"])
    assert sorted(row.count("\t") for rows in lists.values() for row in rows) == [1, 2, 2]
    assert said[:4] == [
        "1 image without label of A in DATA/images: d.png",
        "2 images without label of B in DATA/images: c.png, d.png",
        "1 image with labels of some of the 2 annotators only",
        "left out: 1 image without any label: d.png",
    ]


@pytest.mark.parametrize("image, label", [("*_orig.png", "*_mask.png"), ("s*_ch00.png", "s*-label.png")])
def test_labels_in_one_folder_are_told_whatever_images_are_called(image: str, label: str, tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, image, range(3)), Files(binary, label, range(3))])
    rows = {row for rows in made(tmp_path).lists.values() for row in rows}
    assert rows == {f"{image.replace('*', str(n))}\t{label.replace('*', str(n))}" for n in range(3)}


@pytest.mark.parametrize("value, missing", [(0, "foreground"), (255, "background")])
def test_labels_that_teach_nothing_are_a_warning(value: int, missing: str, tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, "images/*.png", range(4))])
    put(tmp_path / "my data", [Files(lambda number: np.full_like(binary(number), value), "masks/*.png", range(4))])
    warning = f"warning: no label has any {missing}: are these the right labels? (--label_map says what values mean)"
    assert warning in made(tmp_path).said
    other = "255:1,0:1" if missing == "foreground" else "255:0,0:0"
    assert warning not in made(tmp_path, label_map=other).said


def test_channels_of_a_label_are_no_channels_to_choose(tmp_path: Path):
    path = tmp_path / "7.tif"
    tifffile.imwrite(path, volume_of_labels(7), imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(
        UserError, match=r"^label .*7\.tif is a stack .*a label has one channel; where these are slices"
    ):
        read_label(path)


def test_colours_that_jpeg_smeared_are_told_apart_from_images(tmp_path: Path):
    Image.fromarray(colors_of_classes(3)).save(tmp_path / "7.jpg", quality=80)
    with pytest.raises(UserError, match="In JPEG colours run into each other: save labels as PNG"):
        read_label(tmp_path / "7.jpg")


@pytest.mark.parametrize("mark", ["Mask of ", "Count Masks of "])
def test_what_imagej_calls_its_masks_is_known(tmp_path: Path, mark: str):
    put(tmp_path / "my data", [Files(grey, "im*.tif", range(3)), Files(binary, f"{mark}im*.tif", range(3))])
    lists, _ = made(tmp_path)
    assert sorted(row for name in lists for row in lists[name]) == [f"im{n}.tif\t{mark}im{n}.tif" for n in range(3)]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("*.png", "0a1b2c3d-*_mask.png"),
        ("img*.tif", "mask*.png"),
        ("image (*).png", "mask (*).png"),
        ("x*.tif", "Classified image of x*.tif"),
    ],
)
def test_labels_in_the_folder_of_images_are_known_by_their_names(image: str, label: str, tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, image, range(3)), Files(binary, label, range(3))])
    lists, _ = made(tmp_path)
    rows = sorted(row for name in lists for row in lists[name])
    assert rows == [f"{image}\t{label}".replace("*", str(number)) for number in range(3)]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("{part}_{n}.bmp", "{part}_{n}_anno.bmp"),
        ("images/{part}A_{n}.png", "masks/mask_{part}A_{n}.png"),
        ("X_{part}/{n}.png", "y_{part}/{n}.png"),
    ],
)
def test_parts_that_names_tell_are_kept(image: str, label: str, tmp_path: Path):
    for number, part in enumerate(("train", "test")):
        names = [(pattern.format(part=part, n=n), n) for pattern in (image, label) for n in range(3)]
        for name, n in names:
            put(tmp_path / "my data", [Files(grey if "mask" not in name else binary, name, seed=3 * number + n)])
    lists, _ = made(tmp_path)
    assert {name: len(rows) for name, rows in lists.items()} == {"train_gt.txt": 3, "test.txt": 3}
    assert all("train" in row for row in lists["train_gt.txt"]) and all("\t" in row for row in lists["test.txt"])


def test_lists_of_parts_in_text_files_are_told(tmp_path: Path):
    names = range(3)
    put(tmp_path / "my data", [Files(grey, "images/*.png", names), Files(binary, "masks/*.png", names)])
    put(tmp_path / "my data", [Files(None, "metadata/*.txt", ("training", "test"))])
    [line] = [line for line in made(tmp_path).said if "left out" in line]
    assert "2 train or test .txt files (test.txt, training.txt)" in line and "folders train, val and test" in line


@pytest.mark.parametrize("drawn", ["manual1", "1st_manual", "annotations"])
def test_masks_of_a_field_of_view_are_not_taken_for_labels_beside_those(drawn: str, tmp_path: Path):
    names = range(3)
    put(tmp_path / "my data", [Files(grey, "images/*.png", names), Files(binary, f"{drawn}/*.png", names)])
    put(tmp_path / "my data", [Files(binary, "mask/*_mask.png", names)])
    with pytest.raises(UserError, match=f"labels of 2 kinds: {drawn}, mask; name the one that is meant"):
        made(tmp_path)


@pytest.mark.parametrize(("image", "label"), [("{}.png", "{}.png"), ("stack{:04}.tif", "stack_mask{:04}.tif")])
def test_numbers_that_begin_at_0_and_at_1_are_told(image: str, label: str, tmp_path: Path):
    for number in range(5):
        put(tmp_path / "my data", [Files(grey, f"images/{image.format(number + 1)}", seed=number)])
        put(tmp_path / "my data", [Files(binary, f"masks/{label.format(number)}", seed=number)])
    [line] = [line for line in made(tmp_path).said if line.startswith("warning")]
    assert "images are numbered from 1 to 5, labels from 0 to 4" in line and "rename" in line
    (tmp_path / "my data/masks" / label.format(0)).unlink()
    assert not any("numbered from" in line for line in made(tmp_path).said)


def test_folders_that_tell_nothing_are_not_compared(tmp_path: Path):
    for number in range(3):
        files = [(grey, f"s{number}/mri/1.png"), (binary, f"s{number}/seg/1.png")]
        put(tmp_path / "my data", [Files(draw, name, seed=number) for draw, name in files])
    lists, _ = made(tmp_path)
    assert sorted(row for rows in lists.values() for row in rows) == [
        f"s{n}/mri/1.png\ts{n}/seg/1.png" for n in range(3)
    ]


def test_masks_that_pass_for_images_are_told(tmp_path: Path):
    put(tmp_path / "my data", [Files(grey, "im*.tif", range(3)), Files(binary, "im*-1.tif", range(3))])
    put(tmp_path / "my data", [Files(grey, "cell-1.tif")])
    said = made(tmp_path).said
    assert any(line.startswith("warning: 3 of 7 images looked at hold two values, as masks do (im") for line in said)
    shutil.rmtree(tmp_path / "txt")
    (tmp_path / "my data/cell-1.tif").unlink()
    lists, said = made(tmp_path, label_suffix=["-1"])
    assert not any("warning" in line for line in said) and all("\t" in row for name in lists for row in lists[name])
