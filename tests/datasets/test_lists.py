"""Lists: what every kind of line means, which file a path finds, and that each fault is told with its line."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.image_io import write_image, write_label
from datasets.labels import IGNORE
from datasets.list_checks import Expectation
from datasets.lists import (
    Sample,
    default_training_list,
    find_list,
    list_folder,
    read_checked_list,
    read_list,
    survey_samples,
    write_list,
)
from utils.cli import UserError

IMAGE = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
MASK = (IMAGE > 99).astype(np.uint8)


@pytest.fixture(autouse=True)
def no_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEG_ROOT", raising=False)


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(root: Path, text: str | bytes, name: str = "txt/set/train/train_gt.txt") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def names(samples: list[Sample]) -> list[tuple[str, str | None]]:
    return [(sample.image.name, sample.label and sample.label.name) for sample in samples]


# Lines


@pytest.mark.parametrize(
    "text",
    [
        "7.tif\t7.png\n8.tif\t8.png\n",
        "7.tif\t7.png\n8.tif\t8.png",
        "7.tif 7.png\n8.tif    8.png\n",
        "7.tif\t\t7.png \n  8.tif \t 8.png\t\n",
        "7.tif\t7.png\r\n8.tif\t8.png\r\n",
        "7.tif\t7.png\r8.tif\t8.png\r",
        "\ufeff7.tif\t7.png\n8.tif 8.png\n",
        "\ufeff# names\r\n\r\n7.tif\t7.png\r\n   \t\r\n  # more\r\n8.tif\t8.png\r\n\r\n",
    ],
)
def test_lines_are_image_and_label(text: str, tmp_path: Path):
    touched(*(tmp_path / name for name in ("7.tif", "7.png", "8.tif", "8.png")))
    samples = read_list(listed(tmp_path, text), root=tmp_path)
    assert names(samples) == [("7.tif", "7.png"), ("8.tif", "8.png")]


def test_whole_paths_of_another_computer_are_told(tmp_path: Path):
    (tmp_path / "own.txt").write_text("/home/anna/7.tif\t/home/anna/7.png\n/home/anna/8.tif\t/home/anna/8.png\n")
    with pytest.raises(UserError, match="8.png does not exist\nWhole paths hold on one computer only: make the lists"):
        read_list(tmp_path / "own.txt")


def test_line_numbers_count_comments_and_blank_lines(tmp_path: Path):
    touched(tmp_path / "7.tif", tmp_path / "7.png")
    (sample,) = read_list(listed(tmp_path, "# a\n\n7.tif\t7.png\n"), root=tmp_path)
    assert sample == Sample(tmp_path / "7.tif", tmp_path / "7.png", "7.tif", 3)


@pytest.mark.parametrize("name", ["7.tif", "my image 7.tif", "7.tif 7.png"])
def test_a_line_that_names_a_file_is_an_image_without_label(name: str, tmp_path: Path):
    touched(tmp_path / "7.tif", tmp_path / "7.png", tmp_path / name)
    samples = read_list(listed(tmp_path, f"{name}\n"), root=tmp_path, labels="optional")
    assert names(samples) == [(name, None)]


def test_paths_with_spaces_are_separated_by_a_tab(tmp_path: Path):
    touched(tmp_path / "my image.tif", tmp_path / "my label.png")
    samples = read_list(listed(tmp_path, "my image.tif\tmy label.png\n"), root=tmp_path)
    assert names(samples) == [("my image.tif", "my label.png")]


@pytest.mark.parametrize("line", ["my image.tif my label.png", "my image.tif"])
def test_spaces_without_a_tab_are_explained(line: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"train_gt\.txt:1: .*put a tab between image and label"):
        read_list(listed(tmp_path, line), root=tmp_path, labels="optional")


def test_labels_may_be_required(tmp_path: Path):
    touched(tmp_path / "7.tif", tmp_path / "7.png", tmp_path / "8.tif")
    path = listed(tmp_path, "7.tif\t7.png\n8.tif\n")
    with pytest.raises(UserError, match=r"train_gt\.txt:2: has no label"):
        read_list(path, root=tmp_path)
    assert names(read_list(path, root=tmp_path, labels="optional")) == [("7.tif", "7.png"), ("8.tif", None)]


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path):
    touched(tmp_path / "7.tif", tmp_path / "7.png")
    (tmp_path / "folder").mkdir()
    text = "7.tif\t7.png\n8.tif\t7.png\n# c\n7.tif\t8.png\n7.tif\t7.png\t9.png\nfolder\t7.png\n7.tif\n8.tif 8.png\n"
    with pytest.raises(UserError) as caught:
        read_list(listed(tmp_path, text), root=tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("train_gt.txt has 6 faults:")
    expected = [
        (2, "image 8.tif does not exist"),
        (4, "label 8.png does not exist"),
        (5, "label 9.png does not exist"),
        (6, "image folder is a folder"),
        (7, "has no label"),
        (8, "image 8.tif does not exist; label 8.png does not exist"),
    ]
    for line, (number, message) in zip(lines[1:-1], expected, strict=True):
        assert f"train_gt.txt:{number}: {message}" in line
    assert lines[-1].startswith("Relative paths were tried from: ") and str(tmp_path) in lines[-1]


def test_labels_of_several_annotators_are_kept_and_said(tmp_path: Path):
    touched(*(tmp_path / name for name in ("7.tif", "a.png", "b.png", "8.tif", "c.png")))
    said: list[str] = []
    first, second = read_list(listed(tmp_path, "7.tif\ta.png\tb.png\n8.tif\tc.png\n"), root=tmp_path, say=said.append)
    assert (first.label, first.more_labels) == (tmp_path / "a.png", (tmp_path / "b.png",))
    assert (second.label, second.more_labels) == (tmp_path / "c.png", ())
    [line] = said
    assert "1 image with labels of several annotators: those of the first are read" in line


def test_of_many_faults_the_first_twenty_are_printed(tmp_path: Path):
    text = "".join(f"{number}.tif\n" for number in range(50))
    with pytest.raises(UserError, match="has 50 faults") as caught:
        read_list(listed(tmp_path, text), root=tmp_path, labels="optional")
    assert str(caught.value).count("does not exist") == 20
    assert "… and 30 more" in str(caught.value)


def test_repeated_images_are_told_and_kept(tmp_path: Path):
    touched(tmp_path / "7.tif", tmp_path / "8.tif")
    said = []
    path = listed(tmp_path, "7.tif\n8.tif\n./7.tif\n")
    assert len(read_list(path, root=tmp_path, labels="optional", say=said.append)) == 3
    assert len(said) == 1 and "7.tif in lines 1 and 3" in said[0]


# Paths


def test_relative_paths_are_tried_from_data_root_then_list_folder_then_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root, data_root, variable = tmp_path / "root", tmp_path / "data", tmp_path / "variable"
    path = listed(root, "7.tif\n", "lists/a.txt")
    places = [root / "7.tif", path.parent / "7.tif", variable / "7.tif", data_root / "7.tif"]
    data_root.mkdir()
    monkeypatch.setenv("SEG_ROOT", str(variable))
    for place in places:  # from the last resort to the first
        touched(place)
        given_root = data_root if place.parent == data_root else None
        (sample,) = read_list(path, data_root=given_root, root=root, labels="optional")
        assert sample.image == place


def test_a_data_root_that_does_not_exist_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="--data_root .*nowhere is not a directory"):
        read_list(listed(tmp_path, "7.tif\n"), data_root=tmp_path / "nowhere")


def test_image_ids_are_relative_to_data_root_else_repository_else_list(tmp_path: Path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    files = [root / "data/a/7.tif", root / "b/7.tif", elsewhere / "list/c/7.tif", elsewhere / "d/7.tif"]
    touched(*files)
    path = listed(elsewhere, "".join(f"{file}\n" for file in files), "list/all.txt")
    samples = read_list(path, data_root=root / "data", root=root, labels="optional")
    assert [sample.image_id for sample in samples] == ["a/7.tif", "b/7.tif", "c/7.tif", files[3].as_posix()]
    assert [sample.image for sample in samples] == files


def test_an_image_has_one_id_however_its_path_is_written(tmp_path: Path):
    touched(tmp_path / "a/7.tif")
    path = listed(tmp_path, f"a/7.tif\n./a/../a/7.tif\n{tmp_path}/a/7.tif\n")
    samples = read_list(path, root=tmp_path, labels="optional", say=lambda _: None)
    assert {sample.image_id for sample in samples} == {"a/7.tif"}


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n# nothing\n  \n", "is empty"),
        (b"7.tif\n8\xff.tif\n", r"train_gt\.txt:2: not UTF-8 text \(byte 0xff\)"),
        (codecs.BOM_UTF16_LE + "7.tif\n".encode("utf-16-le"), "UTF-16"),
        (b"7.tif\0\n", "null bytes"),
        (b"x" * 5000, r"train_gt\.txt:1: image x+ does not exist"),
    ],
)
def test_what_is_no_list_is_named(content: bytes, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message) as caught:
        read_list(listed(tmp_path, content), root=tmp_path, labels="optional")
    assert "train_gt.txt" in str(caught.value)


def test_a_missing_list_is_named_with_those_that_exist(tmp_path: Path):
    path = listed(tmp_path, "7.tif\n")
    with pytest.raises(UserError, match=r"train_noisy\.txt does not exist; .*train has: train_gt\.txt"):
        read_list(path.with_name("train_noisy.txt"))
    with pytest.raises(UserError, match="cannot be read"):
        read_list(path.parent)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=40).map(str.encode)))
def test_junk_ends_in_an_error_naming_the_list(content: bytes, tmp_path: Path):
    with pytest.raises(UserError, match=r"train_gt\.txt"):
        read_list(listed(tmp_path, b"7.tif\t7.png\n" + content), root=tmp_path)


def test_lists_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train, test = listed(tmp_path, "x"), listed(tmp_path, "x", "txt/set/test.txt")
    other = listed(tmp_path, "x", "elsewhere/other.txt")
    for name in ("train_gt", "train_gt.txt", "train/train_gt", str(train), "txt/set/train/train_gt.txt"):
        assert find_list(name, "set", tmp_path) == train
    assert find_list("test", "set", tmp_path) == test
    monkeypatch.chdir(other.parent)
    assert find_list("other.txt", "set", tmp_path).resolve() == other
    with pytest.raises(UserError, match=r"'val'.* has: test\.txt, train/train_gt\.txt"):
        find_list("val", "set", tmp_path)
    with pytest.raises(UserError, match="has no lists"):
        find_list("val", "unknown", tmp_path)
    with pytest.raises(UserError, match="is a folder or a pipe"):
        find_list(tmp_path, "set", tmp_path)


def test_older_trees_keep_their_lists_below_datasets(tmp_path: Path):
    assert list_folder("set", tmp_path) == tmp_path / "txt/set"
    old = listed(tmp_path, "x", "datasets/txt/set/val.txt")
    assert list_folder("set", tmp_path) == old.parent
    assert find_list("val", "set", tmp_path) == old
    listed(tmp_path, "x", "txt/set/val.txt")
    assert list_folder("set", tmp_path) == tmp_path / "txt/set"


# Writing

FILE_NAMES = st.text(
    st.characters(exclude_characters="/\0\t\n\r", exclude_categories=["Cs"]), min_size=1, max_size=30
).filter(lambda name: name.strip(" ") == name and name not in (".", "..") and len(name.encode()) < 200)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(FILE_NAMES, st.none() | FILE_NAMES), min_size=1, max_size=5))
def test_written_lists_come_back(pairs: list[tuple[str, str | None]], tmp_path: Path):
    root = tmp_path / "root"
    files = [(root / "images" / image, label and tmp_path / "labels" / label) for image, label in pairs]
    touched(*(file for pair in files for file in pair if file))
    write_list(root / "txt/set/val.txt", files, root)
    samples = read_list(root / "txt/set/val.txt", root=root, labels="optional", say=lambda _: None)
    assert [(sample.image, sample.label) for sample in samples] == files


def test_written_paths_are_relative_where_below_the_repository(tmp_path: Path):
    pairs = [(tmp_path / "root/a b.tif", tmp_path / "root/c.png"), (tmp_path / "d.tif", None)]
    write_list(tmp_path / "list.txt", pairs, tmp_path / "root")
    assert (tmp_path / "list.txt").read_bytes() == f"a b.tif\tc.png\n{tmp_path.as_posix()}/d.tif\n".encode()


@pytest.mark.parametrize("name", ["a\tb.tif", "a\nb.tif", "a\rb.tif", "a.tif "])
def test_paths_that_a_list_cannot_hold_are_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="cannot hold the path"):
        write_list(tmp_path / "list.txt", [(tmp_path / name, None)], tmp_path)
    assert not (tmp_path / "list.txt").exists()


# Checking


def write_samples(root: Path, count: int = 3, **labels: np.ndarray) -> tuple[Path, list[Sample]]:
    """``count`` images with labels and their list; ``n0=…`` replaces the values of label 0."""
    pairs = []
    for number in range(count):
        image, label = root / f"images/{number}.tif", root / f"labels/{number}.png"
        write_image(image, IMAGE)
        write_label(label, labels.get(f"n{number}", MASK), num_classes=254)
        pairs.append((image, label))
    write_list(root / "val.txt", pairs, root)
    return root / "val.txt", read_list(root / "val.txt", root=root)


def test_checked_samples_give_their_sizes(tmp_path: Path):
    path, samples = write_samples(tmp_path)
    write_image(tmp_path / "images/1.tif", IMAGE[:, :20].astype(np.uint16))
    write_label(tmp_path / "labels/1.png", MASK[:, :20])
    assert survey_samples(samples, path).sizes == [(32, 32), (32, 20), (32, 32)]


def test_all_faults_of_files_are_told_with_their_lines(tmp_path: Path):
    path, samples = write_samples(tmp_path, 7, n1=MASK[:, :31], n4=MASK * 7)
    (tmp_path / "images/0.tif").write_bytes((tmp_path / "images/0.tif").read_bytes()[:-9])
    (tmp_path / "labels/2.png").write_bytes(b"junk")
    write_image(tmp_path / "images/3.tif", IMAGE[:8])
    write_label(tmp_path / "labels/3.png", MASK[:8])
    (tmp_path / "labels/5.png").unlink()
    with pytest.raises(UserError) as caught:
        survey_samples(samples, path, Expectation.of(num_classes=3))
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("val.txt has 6 faults:")
    expected = [
        r"val.txt:1: image .*images/0\.tif cannot be read",
        r"val.txt:2: label .*1\.png is 32×31, its image 32×32: crop or pad one of them$",
        r"val.txt:3: label .*labels/2\.png cannot be read",
        r"val.txt:4: image .*3\.tif is 8×32, at least 16×16",
        r"val.txt:5: label .*4\.png holds values that are no class: 7, in",
        r"val.txt:6: label .*5\.png does not exist",
    ]
    for line, pattern in zip(lines[1:], expected, strict=True):
        assert re.search(pattern, line), line


def test_faults_of_lines_and_of_files_are_told_together(tmp_path: Path):
    path, _ = write_samples(tmp_path, 4, n2=MASK[:20])
    (tmp_path / "images/1.tif").unlink()
    with pytest.raises(UserError) as caught:
        read_checked_list(path, root=tmp_path)
    lines = str(caught.value).splitlines()
    assert "val.txt:2: image images/1.tif does not exist" in lines[1]
    assert "val.txt:3: label" in lines[2] and "is 20×32, its image 32×32" in lines[2]


def test_a_checked_list_is_samples_and_sizes(tmp_path: Path):
    path, samples = write_samples(tmp_path)
    assert read_checked_list(path, root=tmp_path) == (samples, [(32, 32)] * 3)


def test_samples_without_label_are_checked_by_their_image(tmp_path: Path):
    path, samples = write_samples(tmp_path)
    unlabelled = [Sample(sample.image, None, sample.image_id, sample.line) for sample in samples]
    assert survey_samples(unlabelled, path, Expectation.of(num_classes=3)).sizes == [(32, 32)] * 3


def test_training_reads_the_noisy_list_unless_it_is_absent_or_clean_labels_are_asked_for(tmp_path: Path):
    folder = tmp_path / "txt" / "er" / "train"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=r"no list '.*train_gt\.txt'"):
        default_training_list("er", root=tmp_path)
    (folder / "train_gt.txt").write_text("x")
    assert default_training_list("er", root=tmp_path) == folder / "train_gt.txt"
    (folder / "train_noisyLabel.txt").write_text("x")
    assert default_training_list("er", root=tmp_path) == folder / "train_noisyLabel.txt"
    assert default_training_list("er", clean=True, root=tmp_path) == folder / "train_gt.txt"


def test_stacks_are_told_unless_they_are_the_channels_asked_for(tmp_path: Path):
    path, samples = write_samples(tmp_path, 1)
    planes = np.stack([IMAGE] * 3)
    tifffile.imwrite(samples[0].image, planes, imagej=True, metadata={"axes": "CYX"})
    assert survey_samples(samples, path, Expectation.of(in_channels=3)).sizes == [(32, 32)]
    with pytest.raises(UserError, match=r"val\.txt:1: image .*stack of shape 3×32×32"):
        survey_samples(samples, path)


@pytest.mark.parametrize(("num_classes", "ignore_index"), [(2, None), (5, None), (1, 255)])
def test_masks_whose_foreground_is_all_ignored_are_refused(num_classes: int, ignore_index: int | None, tmp_path: Path):
    path, samples = write_samples(tmp_path, 2, n0=MASK * np.uint8(IGNORE), n1=MASK * np.uint8(IGNORE))
    with pytest.raises(UserError, match="no label has any foreground"):
        read_checked_list(path, root=tmp_path, num_classes=num_classes, ignore_index=ignore_index)
    assert survey_samples(samples, path).sizes == [(32, 32)] * 2
    write_label(samples[0].label, MASK, num_classes=2)
    _, sizes = read_checked_list(path, root=tmp_path, num_classes=num_classes, ignore_index=ignore_index)
    assert sizes == [(32, 32)] * 2


@pytest.mark.parametrize(
    "line, cause",
    [
        ("image\tlabel", "it seems to be a header"),
        ("filename,mask", "it seems to be a header"),
        ("image_path\tmask_path", "it seems to be a header"),
        ("'7.png'\t'7_mask.png'", "quotation marks"),
        ("7.png|7_mask.png", "separated by a vertical bar"),
        ("7.png\t7_mask.png,", "separated by a comma"),
        ("7.png\u00a07_mask.png", "no plain one"),
        ("7.png\t\u200b7_mask.png", "an invisible character"),
        ("7.png\t7_mask.png # checked", "a comment has a line of its own"),
        ("7.png\t7_mask.png\t# checked", "a comment has a line of its own"),
        ("7.png 7_mask.png # checked", "a comment has a line of its own"),
        ("Image Path\tMask Path", "it seems to be a header"),
        ("7.PNG\t7_mask.png", r"upper and lower case differ: there is .*7\.png"),
        ("7.png\t0.93", "label 0.93 does not exist\n"),
        ("D:\\set\\8.png\tD:\\set\\8_mask.png", "backslashes"),
        ("7.png::0-3\t7_mask.png::0-3", r"written stack\.tif::N, N one number from 0"),
        ("7.png:1\t7_mask.png:1", r"written stack\.tif::N"),
        ("7.png::-1\t7_mask.png::-1", r"written stack\.tif::N"),
    ],
)
def test_what_is_wrong_with_a_line_is_guessed(tmp_path, line, cause):
    for name in ("7.png", "7_mask.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.txt").write_text(line + "\n")
    with pytest.raises(UserError, match=cause):
        read_list(tmp_path / "list.txt", root=tmp_path)


@pytest.mark.parametrize("listed, stored", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_are_found_in_either_form(tmp_path: Path, listed: str, stored: str):
    image, label = (tmp_path / unicodedata.normalize(stored, name) for name in ("é 7.png", "ü_7.png"))
    for path in (image, label):
        path.write_bytes(b"x")
    line = unicodedata.normalize(listed, "é 7.png\tü_7.png\n")
    (tmp_path / "list.txt").write_text(line)
    (sample,) = read_list(tmp_path / "list.txt", root=tmp_path)
    assert (sample.image, sample.label) == (image, label)


def test_a_label_that_is_its_image_is_refused_and_one_of_several_images_said(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 8:20] = 255
    for number in range(3):
        write_image(tmp_path / f"{number}.png", np.roll(mask, number))
        write_image(tmp_path / f"{number}_mask.png", np.roll(mask, number))
    write_image(tmp_path / "blank.png", np.zeros_like(mask))
    lines = ["0.png\t0.png", "1.png\t1_mask.png", "2.png\t1_mask.png", "blank.png\tblank.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    said = []
    with pytest.raises(UserError, match=r"has 2 faults:\n.*:1: label .*0\.png has the content of its image.*\n.*:2: "):
        read_checked_list(tmp_path / "list.txt", root=tmp_path, say=said.append)
    (tmp_path / "list.txt").write_text("\n".join(lines[2:]) + "\n0.png\t1_mask.png")
    read_checked_list(tmp_path / "list.txt", root=tmp_path, say=said.append)
    assert any("a label belongs to several images in 1 line;" in line and "in lines 1 and 3" in line for line in said)
