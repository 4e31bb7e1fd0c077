"""Labels corrected on disk: what is written, what stays, and that training reads the same."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.image_io import read_label
from datasets.lists import read_list
from datasets.noise_files import write_noisy_labels
from evaluation.label_audit.lists import audit_list
from evaluation.label_audit.repaired_lists import repair_list
from training.data import make_dataset
from training.fit import configure
from training.run.label_facts import clean_labels
from training.run.lists import read_lists
from utils.cli import UserError
from utils.files import read_json


def silent(line: str) -> None:
    """Say nothing."""


@pytest.fixture
def wide_disks(disks):
    """The data set ``disks``, a list of labels that are too wide, and one of six clean ones."""
    lines = (disks / "txt/disks/train/train_gt.txt").read_text().splitlines(keepends=True)
    (disks / "txt/disks/train/clean.txt").write_text("".join(lines[:6]))
    write_noisy_labels("disks", "dilate:5", root=disks, say=lambda line: None)
    return disks


def labels_of(root, name):
    return [read_label(sample.label) for sample in read_list(root / f"txt/disks/train/{name}.txt", root=root)]


def test_auto_writes_what_training_reads(wide_disks):
    before, said = labels_of(wide_disks, "train_dilate-5"), []
    new_list = repair_list("disks", "train_dilate-5", clean_list="clean", root=wide_disks, say=said.append)
    assert new_list.name == "train_repaired_dilate-5_offset--2.5.txt"
    repaired = labels_of(wide_disks, new_list.stem)
    given = {"dataset": "disks", "train_list": "train_dilate-5", "label_repair": "offset:-2.5", "device": "cpu"}
    options = configure(given, wide_disks)
    samples = read_lists(options, wide_disks, lambda line: None).train.samples
    dataset = make_dataset(options, samples, "none", repair=options.noise.label_repair)
    for place, label in enumerate(repaired):
        np.testing.assert_array_equal(label, dataset.label(place))
        assert (label != before[place]).any()
    for kept, label in zip(labels_of(wide_disks, "train_dilate-5"), before, strict=True):
        np.testing.assert_array_equal(kept, label)
    manifest = read_json(wide_disks / "datasets/disks/train/labels_repaired_dilate-5_offset--2.5/manifest.json")
    assert manifest["repair"] == "offset:-2.5" and "spec" not in manifest and manifest["images"] == 8
    assert manifest["source_list"].endswith("train_dilate-5.txt")
    text = "\n".join(map(str, said))
    assert "before 0.5" in text and "after 0.9" in text and "predicted gain +0." in text
    assert f"--clean_list clean --train_list {new_list.stem}" in said[-1]


def test_labels_without_bias_are_left(wide_disks):
    said = []
    write_noisy_labels("disks", "flip:0.3", root=wide_disks, say=lambda line: None)
    assert repair_list("disks", "train_flip-0.3", clean_list="clean", root=wide_disks, say=said.append) is None
    assert "no repair" in said[-1] and not list((wide_disks / "datasets/disks/train").glob("labels_repaired*"))


def test_a_given_repair_needs_no_clean_labels(wide_disks):
    said = []
    new_list = repair_list("disks", "train_gt", spec="move:0,2", root=wide_disks, say=said.append)
    for before, after in zip(labels_of(wide_disks, "train_gt"), labels_of(wide_disks, new_list.stem), strict=True):
        np.testing.assert_array_equal(after[:, 2:], before[:, :-2])
    repair_list("disks", "train_gt", spec="move:0,2", clean_list="clean", root=wide_disks, say=said.append)
    assert any("before 1.000, after 0." in line for line in said)


def test_labels_are_not_held_against_those_that_they_were_corrected_from(wide_disks):
    def held_against(train_list: str) -> int:
        options = configure({"dataset": "disks", "train_list": train_list, "device": "cpu"}, wide_disks)
        samples = read_lists(options, wide_disks, silent).train.samples
        return len(clean_labels(options, make_dataset(options, samples, "none"), wide_disks))

    def repaired(source: str) -> str:
        return repair_list("disks", source, spec="move:0,2", root=wide_disks, say=silent).stem

    assert held_against("train_dilate-5") == held_against(repaired("train_dilate-5")) == 8
    once = repaired("train_gt")
    assert held_against(once) == held_against(repaired(once)) == 0
    said: list[str] = []
    audit_list("disks", train_list=once, root=wide_disks, out=wide_disks / "audit", say=said.append)
    assert "labels that were corrected from those of train_gt.txt are not held against them" in said
    assert read_json(wide_disks / "audit/audit.json")["verdict"] == "unknown"


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "--clean_list"), ({"spec": "flip:0.3"}, "draws at random"), ({"spec": "offset"}, "takes one value")],
)
def test_what_cannot_repair_is_told(wide_disks, given, message):
    with pytest.raises(UserError, match=message):
        repair_list("disks", "train_dilate-5", root=wide_disks, **given)
