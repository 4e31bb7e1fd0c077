"""Which data set a name means: real, simulated, in place without lists, or unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.catalog import known_datasets, prepare_dataset
from datasets.lists import read_checked_list
from datasets.simulation import MARKER, SIMULATED, list_paths, sample_paths
from utils.cli import UserError


def touched(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def pretend_simulated(name: str, root: Path) -> None:
    """Put every file of a simulated set in place, so that it need not be made."""
    files = [path for split in ("train", "val", "test") for pair in sample_paths(name, split, root) for path in pair]
    for path in [*files, *list_paths(name, root).values()]:
        touched(path)
    touched(root / "datasets" / name / MARKER, "{}")


def prepared(name: str, root: Path, **options) -> tuple[str, str]:
    said: list[str] = []
    return prepare_dataset(name, root=root, say=said.append, **options), "\n".join(said)


@pytest.mark.parametrize("folder", ["txt/own", "datasets/txt/own"])
@pytest.mark.parametrize("real_only", [False, True])
def test_a_set_with_lists_is_itself(folder: str, real_only: bool, tmp_path: Path):
    touched(tmp_path / folder / "train/train_gt.txt")
    assert prepared("own", tmp_path, real_only=real_only) == ("own", "")


def test_er_without_anything_goes_on_with_simulated_images_and_says_so(tmp_path: Path):
    pretend_simulated("er_sim", tmp_path)
    name, said = prepared("er", tmp_path)
    assert name == "er_sim"
    assert 'IEEE DataPort, "Fluorescence microscopy images CBMI"' in said
    assert "datasets/er/{train,val,test}/{images,labels}" in said and "er_sim" in said


def test_er_without_anything_takes_the_simulated_set_s_lists_by_name(tmp_path: Path):
    pretend_simulated("er_sim", tmp_path)
    assert prepared("er", tmp_path, train_list="train_gt")[0] == "er_sim"
    with pytest.raises(UserError, match="no list 'train_gt'"):
        prepare_dataset("er", train_list="train_gt", real_only=True, root=tmp_path)
    touched(tmp_path / "datasets/er/train/images/7.tif")
    with pytest.raises(UserError, match="no list 'train_gt'"):
        prepare_dataset("er", train_list="train_gt", root=tmp_path)


def test_real_only_makes_the_lack_of_er_an_error(tmp_path: Path):
    pretend_simulated("er_sim", tmp_path)
    with pytest.raises(UserError, match=r"CBMI.*datasets/er/\{train,val,test\}") as caught:
        prepare_dataset("er", real_only=True, root=tmp_path)
    assert "--dataset er_sim" in str(caught.value)


@pytest.mark.parametrize("what", ["txt/er/val.txt", "datasets/txt/er/train/train_gt.txt"])
def test_er_with_any_list_stays_er(what: str, tmp_path: Path):
    touched(tmp_path / what)
    assert prepared("er", tmp_path) == ("er", "")


@pytest.mark.parametrize("name", ["er", "nuc", "own"])
def test_a_training_list_is_all_a_set_needs(name: str, tmp_path: Path):
    assert prepared(name, tmp_path, train_list=touched(tmp_path / "mine.txt")) == (name, "")
    with pytest.raises(UserError, match=r"no list '.*other\.txt'"):
        prepare_dataset(name, train_list=tmp_path / "other.txt", root=tmp_path)


@pytest.mark.parametrize("file", ["train/images/7.tif", "masks/7.PNG", "7_mask.jpg"])
@pytest.mark.parametrize("name", ["er", "mito", "own"])
def test_images_without_lists_are_an_error_with_the_command_to_type(name: str, file: str, tmp_path: Path):
    touched(tmp_path / f"datasets/{name}/{file}")
    with pytest.raises(
        UserError, match=rf"has images .* no lists .*\n  python datasets/make_lists\.py --dataset {name}$"
    ):
        prepare_dataset(name, root=tmp_path)


@pytest.mark.parametrize("name", ["mito", "nuc"])
def test_other_published_sets_name_the_simulated_one(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=rf"data set {name}: the images are not there(.|\n)*--dataset {name}_sim"):
        prepare_dataset(name, root=tmp_path)


def test_an_unknown_name_lists_what_exists(tmp_path: Path):
    touched(tmp_path / "txt/listed/val.txt")
    touched(tmp_path / "txt/README.md")
    touched(tmp_path / "datasets/txt/older/val.txt")
    touched(tmp_path / "datasets/pictures/train/images/7.tif")
    touched(tmp_path / "datasets/__pycache__/lists.pyc")
    assert known_datasets(tmp_path) == ["listed", "older", "pictures"]
    with pytest.raises(UserError, match="'listd' is unknown") as caught:
        prepare_dataset("listd", root=tmp_path)
    assert "exist: er_sim, listed, mito_sim, nuc_sim, older, pictures (" in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../er", "-er"])
def test_a_name_is_a_plain_folder_name(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="a plain name is expected"):
        prepare_dataset(name, root=tmp_path)


def test_a_simulated_set_that_is_there_is_left_alone(tmp_path: Path):
    pretend_simulated("mito_sim", tmp_path)
    assert prepared("mito_sim", tmp_path, real_only=True)[0] == "mito_sim"
    assert all(path.read_text() == "x" for path in (tmp_path / "datasets/mito_sim/val").rglob("*.tif"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATED)
def test_a_simulated_set_is_made_on_first_use(name: str, tmp_path: Path):
    assert prepared(name, tmp_path)[0] == name
    for split, count in zip(("train", "val", "test"), SIMULATED[name].counts, strict=True):
        assert read_checked_list(list_paths(name, tmp_path)[split], root=tmp_path)[1] == [(256, 256)] * count
    assert (tmp_path / "txt" / name / "train/train_noisyLabel.txt").is_file()
