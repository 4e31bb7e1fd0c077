"""Noisy labels on disk equal those made on the fly; folders and lists appear whole, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets.image_io import read_label, write_label
from datasets.label_noise import make_noisy_label, spec_transition_matrix
from datasets.labels import IGNORE
from datasets.list_checks import Expectation
from datasets.lists import read_checked_lists, read_list
from datasets.noise_files import channels_of_list, training_command, write_noisy_labels
from datasets.transition_matrix import TransitionMatrix, count_transitions
from utils.cli import UserError
from utils.run_folder import quoted

TOOL = "datasets/make_noisy_labels.py"


def quiet(_: str) -> None:
    pass


@pytest.fixture
def root(disks: Path) -> Path:
    """A folder with a data set of eight training images."""
    return disks


@pytest.fixture
def several(root: Path) -> Path:
    """The same with labels of four classes, some pixels ignored."""
    rng = np.random.default_rng(0)
    for path in (root / "datasets/disks/train/labels").glob("*.png"):
        label = np.kron(rng.integers(0, 4, (16, 16)), np.ones((4, 4), int)).astype(np.uint8)
        label[rng.random(label.shape) < 0.05] = IGNORE
        write_label(path, label, num_classes=4)
    return root


def labels_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def train_list(root: Path, name: str) -> Path:
    return root / "txt" / "disks" / "train" / f"{name}.txt"


def assert_equal_on_the_fly(root: Path, new_list: Path, spec: str, seed: int, classes: int, unlabelled: str) -> None:
    clean, noisy = read_list(train_list(root, "train_gt"), root=root), read_list(new_list, root=root)
    assert [sample.image_id for sample in noisy] == [sample.image_id for sample in clean]
    for before, after in zip(clean, noisy, strict=True):
        label = read_label(before.label, classes)
        expected = make_noisy_label(label, spec, seed, before.image_id, classes, unlabelled=unlabelled)
        assert np.array_equal(read_label(after.label, classes), expected)


@pytest.mark.parametrize("unlabelled", ["background", "ignore"])
@pytest.mark.parametrize("spec", ["flip:0.45,0.2", "skeleton+shift:1+sample:0.1", "wobble:2,5+missing:0.5"])
def test_labels_on_disk_equal_those_made_on_the_fly(root, spec, unlabelled):
    new_list = write_noisy_labels("disks", spec, seed=3, unlabelled=unlabelled, root=root, say=quiet)
    assert_equal_on_the_fly(root, new_list, spec, 3, 1, unlabelled)


@pytest.mark.parametrize("unlabelled", ["background", "ignore"])
@pytest.mark.parametrize("spec", ["flip:0.3", "sample:0.2+dilate:3"])
def test_labels_of_several_classes_too(several, spec, unlabelled):
    new_list = write_noisy_labels("disks", spec, num_classes=4, unlabelled=unlabelled, root=several, say=quiet)
    assert_equal_on_the_fly(several, new_list, spec, 0, 4, unlabelled)
    folder = several / "datasets/disks/train" / f"labels_{new_list.stem.removeprefix('train_')}"
    assert json.loads((folder / "manifest.json").read_text())["ignore_value"] == IGNORE


def test_values_that_are_no_class_are_named(several):
    with pytest.raises(UserError, match="no class: 3") as caught:
        write_noisy_labels("disks", "flip:0.3", num_classes=3, root=several, say=quiet)
    assert "train_gt.txt has 8 faults" in str(caught.value)


def test_names_and_lists_are_those_of_the_contract_and_other_labels_stay(root):
    clean = labels_of(root / "datasets/disks/train/labels")
    first = write_noisy_labels("disks", "sample:0.1", root=root, say=quiet)
    sampled = labels_of(root / "datasets/disks/train/labels_sample-0.1")
    new_list = write_noisy_labels("disks", "flip:0.45,0.2", root=root, say=quiet)
    assert new_list == train_list(root, "train_flip-0.45,0.2")
    assert new_list.read_text().splitlines()[0] == (
        "datasets/disks/train/images/0.png\tdatasets/disks/train/labels_flip-0.45,0.2/0.png"
    )
    assert labels_of(root / "datasets/disks/train/labels") == clean
    assert labels_of(root / "datasets/disks/train/labels_sample-0.1") == sampled and first.is_file()


def test_a_matrix_file_names_the_labels_by_its_content(root, tmp_path):
    TransitionMatrix([[0.9, 0.1], [0.2, 0.8]]).write(tmp_path / "m.json")
    spec = f"ntm:{tmp_path / 'm.json'}"
    new_list = write_noisy_labels("disks", spec, root=root, say=quiet)
    assert new_list.stem.startswith("train_ntm-m-") and len(new_list.stem) == len("train_ntm-m-") + 8
    assert_equal_on_the_fly(root, new_list, spec, 0, 1, "background")


def test_older_trees_keep_their_lists(root):
    shutil.move(root / "txt", root / "datasets" / "txt")
    assert write_noisy_labels("disks", "clean", root=root, say=quiet).parent == root / "datasets/txt/disks/train"


def test_the_manifest_states_what_was_done(root):
    new_list = write_noisy_labels("disks", "sample:0.5+flip:0.2,0.1", seed=5, root=root, say=quiet)
    stated = json.loads((root / "datasets/disks/train/labels_sample-0.5+flip-0.2,0.1/manifest.json").read_text())
    clean, noisy = read_list(train_list(root, "train_gt"), root=root), read_list(new_list, root=root)
    pairs = [(read_label(a.label), read_label(b.label)) for a, b in zip(clean, noisy, strict=True)]
    counts = sum(count_transitions(before, after) for before, after in pairs)
    assert (stated["spec"], stated["seed"], stated["ignore_value"]) == ("sample:0.5+flip:0.2,0.1", 5, None)
    assert stated["images"] == 8 and stated["pixels"] == 8 * 64 * 64
    assert stated["source_list"] == "txt/disks/train/train_gt.txt"
    matrix = stated["transition_matrix"]
    assert matrix["classes"] == 2 and matrix["counts"] == counts.tolist()
    assert np.allclose(matrix["matrix"], counts / counts.sum(axis=1, keepdims=True))
    assert np.allclose(matrix["theory"], spec_transition_matrix("sample:0.5+flip:0.2,0.1").rows)
    kept = [step["kept"] for step in stated["realised_shares"]]
    assert np.allclose(kept, [[1, 0.5], [0.9, 0.8]], atol=0.005)
    assert [row["foreground_before"] for row in stated["labels"]] == [before.sum() for before, _ in pairs]
    assert [row["changed"] for row in stated["labels"]] == [(before != after).sum() for before, after in pairs]


def test_the_same_again_gives_the_same_files(root):
    folder = root / "datasets/disks/train/labels_flip-0.3"
    write_noisy_labels("disks", "flip:0.3", root=root, say=quiet)
    first = labels_of(folder)
    write_noisy_labels("disks", "flip:0.3", root=root, say=quiet)
    assert labels_of(folder) == first


def test_another_seed_replaces_the_labels_and_says_so(root):
    said: list[str] = []
    write_noisy_labels("disks", "flip:0.3", root=root, say=said.append)
    assert said == []
    write_noisy_labels("disks", "flip:0.3", seed=1, root=root, say=said.append)
    assert len(said) == 1 and "seed 0, now 1" in said[0]


def test_a_failure_leaves_what_was_there(root):
    write_noisy_labels("disks", "flip:0.3", root=root, say=quiet)
    folder, noisy_list = root / "datasets/disks/train/labels_flip-0.3", train_list(root, "train_noisyLabel")
    before, lines = labels_of(folder), noisy_list.read_bytes()
    for name in ("2.png", "5.png"):
        (root / "datasets/disks/train/labels" / name).write_bytes(b"junk")
    with pytest.raises(UserError, match="2 faults") as caught:
        write_noisy_labels("disks", "flip:0.3", seed=1, root=root, say=quiet)
    assert "train_gt.txt:3:" in str(caught.value) and "train_gt.txt:6:" in str(caught.value)
    assert labels_of(folder) == before and noisy_list.read_bytes() == lines
    assert sorted(path.name for path in folder.parent.iterdir()) == ["images", "labels", "labels_flip-0.3"]


def test_the_default_noisy_list_stays_unless_it_is_asked_for(root):
    noisy_list = train_list(root, "train_noisyLabel")
    before = noisy_list.read_bytes()
    new_list = write_noisy_labels("disks", "flip:0.3", root=root, say=quiet)
    assert noisy_list.read_bytes() == before != new_list.read_bytes()
    noisy_list.unlink()
    write_noisy_labels("disks", "flip:0.3", root=root, say=quiet)
    assert not noisy_list.exists()
    write_noisy_labels("disks", "flip:0.3", make_default=True, root=root, say=quiet)
    assert noisy_list.read_bytes() == new_list.read_bytes()


def test_a_hand_made_noisy_list_is_kept_aside(root):
    noisy_list = train_list(root, "train_noisyLabel")
    noisy_list.write_text("# by hand\n" + noisy_list.read_text())
    said: list[str] = []
    for spec in ("flip:0.3", "flip:0.2"):
        write_noisy_labels("disks", spec, make_default=True, root=root, say=said.append)
    assert len(said) == 1 and "train_noisyLabel_before.txt" in said[0]
    assert train_list(root, "train_noisyLabel_before").read_text().startswith("# by hand\n")


def test_labels_made_by_other_means_are_not_replaced(root):
    folder = root / "datasets/disks/train/labels_flip-0.3"
    shutil.copytree(root / "datasets/disks/train/labels", folder)
    with pytest.raises(UserError, match=r"no manifest\.json"):
        write_noisy_labels("disks", "flip:0.3", root=root, say=quiet)


def test_noise_never_replaces_the_labels_it_starts_from(root):
    write_noisy_labels("disks", "flip:0.3", root=root, say=quiet)
    with pytest.raises(UserError, match="labels to start from"):
        write_noisy_labels("disks", "flip:0.3", source_list="train_flip-0.3", root=root, say=quiet)
    new_list = write_noisy_labels("disks", "flip:0.2", source_list="train_flip-0.3", root=root, say=quiet)
    assert len(read_list(new_list, root=root)) == 8


def test_equal_stems_get_files_of_their_own(root):
    train, source = root / "datasets/disks/train", train_list(root, "both")
    lines = []
    for place in ("a", "b"):
        (train / place).mkdir()
        shutil.copy(train / "images/0.png", train / place / "7.png")
        lines.append(f"datasets/disks/train/{place}/7.png\tdatasets/disks/train/labels/0.png\n")
    source.write_text(
        "".join([*lines, lines[0], "datasets/disks/train/images/1.png\tdatasets/disks/train/labels/1.png\n"])
    )
    new_list = write_noisy_labels("disks", "flip:0.3", source_list="both", root=root, say=quiet)
    assert [sample.label.name for sample in read_list(new_list, root=root, say=quiet)] == [
        "a__7.png",
        "b__7.png",
        "a__7.png",
        "1.png",
    ]


def test_one_image_with_two_labels_is_refused(root):
    image = "datasets/disks/train/images/0.png"
    train_list(root, "two").write_text("".join(f"{image}\tdatasets/disks/train/labels/{n}.png\n" for n in (0, 1)))
    with pytest.raises(UserError, match="more than once, with different labels"):
        write_noisy_labels("disks", "flip:0.3", source_list="two", root=root, say=quiet)


def test_image_ids_are_relative_to_the_data_root(root):
    labels = [
        labels_of(
            write_noisy_labels("disks", "flip:0.3", root=root, data_root=place, say=quiet).parents[3]
            / "datasets/disks/train/labels_flip-0.3"
        )
        for place in (None, root, root / "datasets")
    ]
    assert labels[0] == labels[1]
    assert labels[0]["0.png"] != labels[2]["0.png"]


def test_an_ignored_value_of_the_source_stays_ignored(root):
    path = root / "datasets/disks/train/labels/0.png"
    label = read_label(path)
    label[:10] = IGNORE
    write_label(path, label)  # 128 on disk
    write_noisy_labels("disks", "flip:0.3", root=root, ignore_index=128, say=quiet)
    noisy = read_label(root / "datasets/disks/train/labels_flip-0.3/0.png")  # the manifest states the value
    assert np.array_equal(noisy == IGNORE, label == IGNORE)


def test_the_channels_of_a_list_are_those_of_its_first_image(tmp_path):
    tifffile.imwrite(tmp_path / "7.tif", np.zeros((4, 20, 20), np.uint8), imagej=True, metadata={"axes": "CYX"})
    Image.new("RGB", (20, 20)).save(tmp_path / "8.png")
    for name, channels in (("7.tif", 4), ("8.png", 1)):  # colours are read as grey
        (tmp_path / "list.txt").write_text(f"{tmp_path / name}\t{tmp_path / name}\n")
        assert channels_of_list(tmp_path / "list.txt") == channels


def test_the_command_makes_labels_and_says_how_to_go_on(run_tool, workspace):
    answer = run_tool(TOOL, "--dataset", "disks", "--label_noise", "sample:0.2", "--seed", 4)
    assert answer.returncode == 0, answer.stderr
    assert "python main.py --dataset disks --train_list train_sample-0.2" in answer.stdout
    stated = json.loads((workspace / "datasets/disks/train/labels_sample-0.2/manifest.json").read_text())
    assert stated["seed"] == 4
    answer = run_tool(TOOL, "--dataset", "disks", "--label_noise", "sample:0.4", "--ignore_index", 7)
    assert "python main.py --dataset disks --ignore_index 7 --train_list train_sample-0.4" in answer.stdout


@pytest.mark.parametrize(("num_classes", "meaning"), [(1, {0: 1, 255: 0}), (3, {0: 2, 1: 0, 2: 1})])
def test_a_label_map_means_the_labels_of_others_beside_those_written_here(root, num_classes, meaning):
    files = sorted((root / "datasets/disks").rglob("labels/*.png"))
    label_map = ",".join(f"{value}:{found}" for value, found in meaning.items())
    given = {"num_classes": num_classes, "label_map": label_map}
    if num_classes > 1:
        for path in files:
            write_label(path, np.kron(np.array([[0, 1], [2, 2]], np.uint8), np.ones((32, 32), np.uint8)), num_classes)
    new_list = write_noisy_labels("disks", "clean", root=root, say=quiet, **given)
    lists = [new_list, train_list(root, "train_gt")]
    (noisy, clean), _ = read_checked_lists(
        lists, Expectation.of(**given), root=root, labels=["required"] * 2, say=lambda line: None
    )
    for ours, theirs in zip(noisy.samples, clean.samples, strict=True):
        stored = np.asarray(Image.open(theirs.label))
        expected = np.select([stored == value for value in meaning], list(meaning.values()))
        assert np.array_equal(read_label(theirs.label, reading=theirs.reading), expected)
        assert np.array_equal(read_label(ours.label, reading=ours.reading), expected)
    command = training_command("disks", new_list.stem, **given)
    assert f"--label_map {quoted(label_map)} --train_list train_clean" in command
    assert training_command("disks", "x", in_channels=3).endswith("--in_channels 3 --train_list x")
    assert training_command("disks", "x", in_channels=2, channels=("0", "2")).endswith("--channels 0,2 --train_list x")


@pytest.mark.parametrize("kind", ["red", "0 and 100", "smeared 16 bits"])
def test_labels_written_here_train_beside_labels_of_other_values(kind, root):
    masks = {path: np.asarray(Image.open(path)) > 0 for path in (root / "datasets/disks").rglob("labels/*.png")}
    for path, mask in masks.items():
        if kind == "smeared 16 bits":
            blurred = cv2.blur(mask.astype(np.float32), (3, 3)) * 65535
            Image.fromarray(blurred.astype(np.uint16)).save(path)
        else:
            red = mask[..., None] * np.array([255, 0, 0], np.uint8)
            Image.fromarray(red if kind == "red" else mask * np.uint8(100)).save(path)
    new_list = write_noisy_labels("disks", "flip:0.2", root=root, say=quiet)
    lists = [new_list, train_list(root, "train_gt")]
    (noisy, clean), _ = read_checked_lists(lists, Expectation(), root=root, labels=["required"] * 2, say=quiet)
    for ours, theirs in zip(noisy.samples, clean.samples, strict=True):
        truth = read_label(theirs.label, reading=theirs.reading)
        assert (truth == masks[theirs.label]).mean() > 0.95
        assert np.mean(read_label(ours.label, reading=ours.reading) == truth) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--label_noise", "flip:1.5"], "'flip:1.5'"),
        (["--label_noise", "flop:0.5"], "no such step"),
        (["--label_noise", "clean", "--source_list", "nothing"], "there is no list 'nothing'"),
        (["--label_noise", "clean", "--seed", "-1"], "a whole number from 0"),
        (["--label_noise", "clean", "--num_classes", "0"], "a whole number from 1"),
        (["--label_noise", "clean", "--num_classes", "3"], "use --num_classes 1"),
        (["--label_noise", "clean", "--unlabelled", "both"], "'background', 'ignore'"),
        (["--label_noise", "clean", "--dataset", "dots"], "data set 'dots' is unknown"),
        ([], "--label_noise"),
    ],
)
def test_wrong_use_is_one_message_and_status_two(run_tool, arguments, said):
    answer = run_tool(TOOL, *([] if "--dataset" in arguments else ["--dataset", "disks"]), *arguments)
    assert answer.returncode == 2 and said in answer.stderr and "Traceback" not in answer.stderr
