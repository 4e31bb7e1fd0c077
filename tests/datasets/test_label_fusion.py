"""Labels of several annotators as one: shares that are known, in training and on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets import FUSIONS
from datasets.image_io import read_image, read_label
from datasets.label_fusion import annotators_of, consensus, with_fusion
from datasets.label_noise import make_noisy_label
from datasets.labels import IGNORE
from datasets.lists import Sample, read_checked_list, read_list
from datasets.segmentation import SegmentationDataset
from datasets.transforms import TrainingTransform
from evaluation.label_audit.repaired_lists import fuse_list, repair_list
from training.data import class_counts
from training.fit import configure, fit
from training.run.lists import read_lists
from utils.cli import UserError
from utils.files import read_json
from utils.paths import quoted

ANNOTATORS = ("offset:2", "missing:0.3", "clean", "flip:0.02")


@pytest.fixture
def crowd(disks):
    """The data set ``disks`` with a list ``crowd`` of four annotators: one too wide, one who misses objects."""
    lines = []
    for line in (disks / "txt/disks/train/train_gt.txt").read_text().splitlines():
        image, label = line.split("\t")
        truth = (read_image(disks / label) > 0).astype(np.uint8)
        row = [image]
        for number, spec in enumerate(ANNOTATORS):
            path = disks / f"datasets/disks/train/labels_{number}" / label.rsplit("/", 1)[-1]
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), make_noisy_label(truth, spec, 0, image) * 255)
            row.append(path.relative_to(disks).as_posix())
        lines.append("\t".join(row) + "\n")
    (disks / "txt/disks/train/crowd.txt").write_text("".join(lines))
    return disks


def options_of(root, **given):
    return configure({"dataset": "disks", "train_list": "crowd", "device": "cpu", **given}, root)


def test_shares_are_those_of_the_votes():
    votes = np.array([[[1, 1, 0, IGNORE]], [[1, 0, 0, IGNORE]], [[1, IGNORE, 0, IGNORE]]], np.uint8)
    np.testing.assert_array_equal(FUSIONS["vote"](votes), np.float32([[1, 0.5, 0, IGNORE]]))
    np.testing.assert_array_equal(consensus(votes), [[1, 0, 0, IGNORE]])


def test_who_disagrees_weighs_less(rng):
    truth = np.zeros((32, 32), np.uint8)
    truth[8:24, 8:24] = 1
    aside = np.roll(truth, 9, 1)
    labels = np.stack([truth, truth, truth, aside])
    plain, weighted = FUSIONS["vote"](labels), FUSIONS["weighted"](labels)
    only_aside = (aside == 1) & (truth == 0)
    assert np.allclose(plain[only_aside], 1 / 4) and (weighted[only_aside] < 0.05).all()
    assert np.allclose(weighted[(aside == 1) & (truth == 1)], 1)


def test_classes_are_chosen_by_most_votes():
    votes = np.array([[[1, 2, 0]], [[1, 2, 2]], [[2, 1, IGNORE]]], np.uint8)
    assert FUSIONS["vote"](votes, 3).tolist() == [[1, 2, 0]] and FUSIONS["vote"](votes, 3).dtype == np.uint8
    with pytest.raises(UserError, match="staple is for binary"):
        FUSIONS["staple"](votes, 3)


def test_staple_finds_the_one_who_is_wrong():
    pytest.importorskip("SimpleITK")
    truth = np.zeros((32, 32), np.uint8)
    truth[8:24, 8:24] = 1
    share = FUSIONS["staple"](np.stack([truth, truth, truth, np.roll(truth, 9, 1)]))
    np.testing.assert_array_equal(share > 0.5, truth == 1)
    assert FUSIONS["staple"](np.zeros((3, 8, 8), np.uint8)).max() == 0


def test_annotators_are_folders_unless_one_holds_several(crowd):
    samples = read_list(crowd / "txt/disks/train/crowd.txt", root=crowd)
    assert set(annotators_of(samples)) == {("labels_0", "labels_1", "labels_2", "labels_3")}
    (crowd / "same.txt").write_text(
        "datasets/disks/train/images/0.png\tdatasets/disks/train/labels/0.png\tdatasets/disks/train/labels/1.png\n"
    )
    assert annotators_of(read_list(crowd / "same.txt", root=crowd)) == [("annotator 1", "annotator 2")]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("ann/masks/{}.png", "ben/masks/{}.png"), ("ann/masks", "ben/masks")),
        (("masks/{}_ann.png", "masks/{}_ben.png"), ("_ann", "_ben")),
        (("masks/ann_{}.png", "masks/ben_{}.png"), ("ann_", "ben_")),
    ],
)
def test_annotators_are_known_where_labels_are_missing(labels: tuple[str, str], expected: tuple[str, str]):
    def sample(name: str, *of: str) -> Sample:
        first, *more = (Path(label.format(name)) for label in of)
        return Sample(Path(f"images/{name}.tif"), first, name, 1, more_labels=tuple(more))

    samples = [sample("1", *labels), sample("2", labels[1]), sample("3", labels[0])]
    assert annotators_of(samples) == [expected, expected[1:], expected[:1]]


def test_items_hold_shares_cut_and_turned_like_labels(crowd):
    samples = with_fusion(read_list(crowd / "txt/disks/train/crowd.txt", root=crowd), "vote")
    dataset = SegmentationDataset(samples, TrainingTransform(96), seed=1)
    item = dataset[(3, 0)]
    label = dataset.label(0)
    assert item["label"].dtype == torch.float32 and set(np.unique(label)) <= {0, 0.25, 0.5, 0.75, 1}
    known = item["label"] != IGNORE
    assert known.sum() == 64 * 64 and item["label"][known].sum().item() == pytest.approx(float(label.sum()))
    assert set(np.unique(dataset.listed_label(0))) == {0, 1} and dataset.listed_label(0).dtype == np.uint8
    counts = class_counts(dataset, 100)
    total = sum(float(dataset.label(i).sum()) for i in range(len(dataset)))
    assert counts[1] == pytest.approx(total, abs=len(dataset)) and counts.sum() == len(dataset) * 64 * 64


def test_training_fuses_and_its_audit_sees_the_majority(crowd, capsys):
    short = {"epochs": 1, "width": 2, "crop": 32, "tensorboard": True, "preset": "quick"}  # pictures show shares, too
    run = fit(options_of(crowd, fusion="repaired", run_name="fused", **short), crowd)
    log = capsys.readouterr().out
    assert "they become one (--fusion repaired)" in log and "labels_0 offset:-2" in log
    assert "audit of 8 labels against clean labels: verdict" in log
    assert read_json(run / "config.json")["fusion"] == "repaired"


def test_what_shares_cannot_do_is_refused_by_name(crowd):
    def read(**given):
        return read_lists(options_of(crowd, **given), crowd, lambda line: None).train.samples

    with pytest.raises(UserError, match="cldice looks at the outlines"):
        read(loss="bce+cldice")
    with pytest.raises(UserError, match="label_noise is put on single labels"):
        read(label_noise="flip:0.1")
    assert all(sample.fusion is None for sample in read(loss="cldice", fusion="first"))
    with pytest.raises(UserError, match=r"--fusion staple: no line of .*train_gt\.txt has labels of several"):
        read(fusion="staple", train_list="train_gt")
    wrong = crowd / "datasets/disks/train/labels_3/0.png"
    cv2.imwrite(str(wrong), np.zeros((32, 32), np.uint8))
    with pytest.raises(UserError, match=r"crowd.txt:1: label .*labels_3/0.png is 32×32, its image 64×64"):
        read()


@pytest.mark.parametrize("how", ["vote", "repaired"])
def test_fused_labels_lie_beside_the_old_ones(crowd, how):
    said = []
    new_list = fuse_list("disks", "crowd", how=how, root=crowd, say=said.append)
    folder = crowd / "datasets/disks/train/labels_fused"
    assert new_list.name == "train_fused.txt" and said[-1].endswith(f"--train_list crowd --fusion {how}")
    options = options_of(crowd, fusion=how)
    samples = read_lists(options, crowd, lambda line: None).train.samples
    dataset = SegmentationDataset(samples)
    for place in range(len(samples)):
        written = read_image(folder / f"{place}.png")
        assert np.abs(written / 255.0 - dataset.label(place)).max() <= 1 / 255 + 1e-6
        np.testing.assert_array_equal(written >= 128, dataset.listed_label(place) == 1)
    again, _ = read_checked_list(new_list, root=crowd, ignore_index=255, label_map="0:1,255:0")  # shares hold neither
    for place, sample in enumerate(again):
        label = read_label(sample.label, reading=sample.reading)
        np.testing.assert_array_equal(label, dataset.listed_label(place))
        np.testing.assert_array_equal(label, read_label(sample.label))
    manifest = read_json(folder / "manifest.json")
    assert manifest["fusion"] == how and (manifest["repairs"] is None) == (how == "vote")
    fuse_list("disks", "crowd", how="weighted", root=crowd, say=said.append)
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="has no manifest"):
        fuse_list("disks", "crowd", how="vote", root=crowd, say=said.append)
    with pytest.raises(UserError, match="names one label"):
        fuse_list("disks", "train_gt", how="vote", root=crowd, say=said.append)


def test_the_command_to_train_names_the_lists_as_they_were_given(crowd):
    said, aside = [], crowd / "some lists/crowd.txt"
    aside.parent.mkdir()
    aside.write_bytes((crowd / "txt/disks/train/crowd.txt").read_bytes())
    fuse_list("disks", aside, how="repaired", clean_list="train_gt", root=crowd, say=said.append)
    assert said[-1].endswith(f"--clean_list train_gt --train_list {quoted(aside)} --fusion repaired")


def test_what_values_mean_is_not_asked_again_of_fused_classes(crowd):
    options = {"num_classes": 2, "label_map": "0:1,255:0"}  # applied twice it would be undone
    said = []
    new_list = fuse_list("disks", "crowd", how="vote", root=crowd, say=said.append, **options)
    assert said[-1].startswith("train on it with: ") and "--train_list train_fused" in said[-1]
    samples, _ = read_checked_list(new_list, root=crowd, **options)
    columns = read_list(crowd / "txt/disks/train/crowd.txt", root=crowd)
    for sample, several in zip(samples, columns, strict=True):
        marked = [read_label(path) for path in (several.label, *several.more_labels)]
        label = read_label(sample.label, reading=sample.reading)
        np.testing.assert_array_equal(label, np.mean(marked, 0) < 0.5)  # of equal votes the lower class, 255, is taken


def test_of_several_annotators_the_labels_of_the_first_are_repaired(crowd):
    new_list = repair_list("disks", "crowd", spec="offset:-2", root=crowd, say=lambda line: None)
    columns = read_list(crowd / "txt/disks/train/crowd.txt", root=crowd), read_list(new_list, root=crowd)
    for sample, repaired in zip(*columns, strict=True):
        expected = make_noisy_label(read_label(sample.label), "offset:-2", 0, "")
        np.testing.assert_array_equal(read_label(repaired.label), expected)
