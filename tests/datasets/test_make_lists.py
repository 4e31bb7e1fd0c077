"""Lists from folders: who is paired with whom, what is reported, what is written, what to type next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.image_io import write_image, write_label
from datasets.list_pairing import list_images, natural_key, pair_files
from datasets.lists import read_list
from datasets.make_lists import make_lists, next_step
from utils.cli import UserError

IMAGE = np.zeros((16, 16), np.uint8)
REPO_ROOT = Path(__file__).resolve().parents[2]


def put(folder: Path, *names: str) -> None:
    for name in names:
        if Path(name).suffix == ".tif":
            write_image(folder / name, IMAGE)
        else:
            write_label(folder / name, IMAGE)


def put_set(source: Path, counts: dict[str, int], labels: str = "labels") -> Path:
    for split, count in counts.items():
        put(source / split / "images", *(f"{number}.tif" for number in range(count)))
        put(source / split / labels, *(f"{number}.png" for number in range(count)))
    return source


def made(root: Path, dataset: str = "own", **options) -> str:
    said: list[str] = []
    make_lists(dataset, root=root, say=said.append, **options)
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
    pairing = pair_files(images, [Path("9.png"), Path("8.png"), Path("7.png"), Path("y.png")])
    assert pairing.pairs == [(images[0], Path("7.png")), (images[1], Path("8.png")), (images[2], Path("9.png"))]
    assert (pairing.images_alone, pairing.labels_alone) == ([Path("x.tif")], [Path("y.png")])


@settings(deadline=None)
@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)))
def test_every_file_is_paired_or_alone(images: set[int], labels: set[int]):
    pairing = pair_files([Path(f"{n}.tif") for n in sorted(images)], [Path(f"{n}.png") for n in sorted(labels)])
    assert {int(image.stem) for image, _ in pairing.pairs} == images & labels
    assert all(image.stem == label.stem for image, label in pairing.pairs)
    assert {int(image.stem) for image in pairing.images_alone} == images - labels
    assert {int(label.stem) for label in pairing.labels_alone} == labels - images


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
    assert "train_gt.txt: 12 samples" in said and "val.txt: 3 samples" in said
    assert len(read_list(folder / "train/train_gt.txt", root=tmp_path)) == 12


def test_files_without_partner_are_reported_and_left_out(tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 3})
    put(source / "train/images", *(f"{number}.tif" for number in range(10, 30)))
    put(source / "train/labels", "77.png")
    said = made(tmp_path)
    assert "train/images: 20 without partner in labels, left out: 10.tif, 11.tif" in said and " and 10 more" in said
    assert "train/labels: 1 without partner in images, left out: 77.png" in said
    assert len(lines(tmp_path / "txt/own/train/train_gt.txt")) == 3


def test_another_folder_of_labels_and_a_noisy_one(tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 3, "val": 1}, labels="labels_3class")
    put(source / "train/labels_second", "0.png", "1.png")
    made(tmp_path, labels="labels_3class", noisy_labels="labels_second")
    folder = tmp_path / "txt/own/train"
    assert lines(folder / "train_gt.txt")[2].endswith("train/labels_3class/2.png")
    assert [line.split("\t")[1] for line in lines(folder / "train_noisyLabel.txt")] == [
        f"datasets/own/train/labels_second/{number}.png" for number in range(2)
    ]


def test_a_source_elsewhere_is_named_by_whole_paths(tmp_path: Path):
    root, source = tmp_path / "root", put_set(tmp_path / "other place", {"train": 2})
    made(root, source=source)
    image, label = lines(root / "txt/own/train/train_gt.txt")[0].split("\t")
    assert (Path(image), Path(label)) == (source / "train/images/0.tif", source / "train/labels/0.png")
    assert len(read_list(root / "txt/own/train/train_gt.txt", root=root)) == 2


def test_missing_splits_are_told(tmp_path: Path):
    put_set(tmp_path / "datasets/own", {"train": 2})
    (tmp_path / "datasets/own/test/images").mkdir(parents=True)
    said = made(tmp_path)
    assert "no val.txt: there are no images in" in said and "no test.txt: there are no images in" in said
    assert not (tmp_path / "txt/own/val.txt").exists()


@pytest.mark.parametrize("empty_folder", [False, True])
def test_splits_without_labels_are_listed_by_their_images(empty_folder: bool, tmp_path: Path):
    source = put_set(tmp_path / "datasets/own", {"train": 2})
    put(source / "test/images", "0.tif", "1.tif")
    if empty_folder:
        (source / "test/labels").mkdir()
    said = made(tmp_path)
    assert lines(tmp_path / "txt/own/test.txt") == [f"datasets/own/test/images/{number}.tif" for number in range(2)]
    assert "test/labels has no labels" in said and "it can be predicted, not scored" in said


def test_lists_that_were_there_are_replaced_and_others_kept(tmp_path: Path):
    put_set(tmp_path / "datasets/own", {"train": 2})
    for name in ("train/train_gt.txt", "train/train_noisyLabel.txt", "val.txt"):
        (tmp_path / "txt/own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "txt/own" / name).write_text("mine\n")
    assert "train_gt.txt: 2 samples (in place of the list that was there)" in made(tmp_path)
    assert len(lines(tmp_path / "txt/own/train/train_gt.txt")) == 2
    assert lines(tmp_path / "txt/own/val.txt") == lines(tmp_path / "txt/own/train/train_noisyLabel.txt") == ["mine"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "labels_x"}, r"train/labels_x has no labels; folders of labels in .*train: labels \("),
        ({"noisy_labels": "labels_x"}, r"train/labels_x has no labels"),
        ({"source": Path("nowhere")}, r"no images found \(nowhere does not exist\).*--source"),
        ({"dataset": "../own"}, "a plain name is expected"),
    ],
)
def test_wrong_use_is_told_before_anything_is_written(options: dict, message: str, tmp_path: Path):
    put_set(tmp_path / "datasets/own", {"train": 2, "val": 2})
    with pytest.raises(UserError, match=message):
        made(tmp_path, **options)
    assert not (tmp_path / "txt").exists()


def test_names_of_which_no_two_agree_are_an_error(tmp_path: Path):
    put(tmp_path / "datasets/own/train/images", "7.tif")
    put(tmp_path / "datasets/own/train/labels", "7_mask.png")
    with pytest.raises(UserError, match=r"no image .* images/7\.tif, labels/7_mask\.png, …; rename"):
        made(tmp_path)


# What to type next


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 255], ""),
        ([0, 1], ""),
        ([0, 1, 2], " --num_classes 3"),
        ([0, 4, 2, 255], " --num_classes 5"),
        ([0, 7, 90, 200], ""),
    ],
)
def test_the_next_command_fits_the_labels(values: list[int], expected: str, tmp_path: Path):
    pairs = []
    for number, value in enumerate(values):
        label = IMAGE + np.uint8(value)
        write_label(tmp_path / f"{number}.png", label, num_classes=254)
        pairs.append((tmp_path / f"{number}.tif", tmp_path / f"{number}.png"))
    said = next_step("own", {"train/train_gt.txt": pairs})
    assert said.splitlines()[0] == f"next: python main.py --dataset own{expected}"


def test_the_next_command_without_labels_is_label_free():
    assert next_step("own", {"train/train_gt.txt": [(Path("7.tif"), None)]}).endswith("--dataset own --igtt")
    assert "inference.py" in next_step("own", {"test.txt": [(Path("7.tif"), None)]})


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
        (["--dataset", "nowhere"], "error: no images found (datasets/nowhere does not exist)"),
        ([], "--dataset"),
        (["--dataset", "disks", "--form", "x"], "unrecognized arguments: --form x"),
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
    said = made(tmp_path, source=real_data / name)
    assert "without partner" not in said
    files = {"train": "train/train_gt.txt", "val": "val.txt", "test": "test.txt"}
    assert {split: len(lines(tmp_path / "txt/own" / file)) for split, file in files.items()} == counts
