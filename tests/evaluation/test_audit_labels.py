"""The audit command: what it prints and writes, its three kinds of evidence, its errors."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from datasets.label_noise import make_noisy_label
from datasets.transition_matrix import read_matrix
from evaluation.audit_labels import main
from evaluation.label_audit import audit_labels
from evaluation.label_audit.lists import Reader, audit_list, reference_labels
from evaluation.label_audit.plot import draw_audit
from training.configuration.resolve import resolve_options
from training.data import run_steps
from utils.cli import UserError
from utils.device import accelerator

LINE = re.compile(
    r"^verdict: (learnable|biased at boundaries|inverted|not learnable|unknown) "
    r"\(predicted IoU (?:\d\.\d\d|unknown), IoU ceiling (\d\.\d\d|unknown)\)$",
    re.MULTILINE,
)
TOOL = "evaluation/audit_labels.py"


@pytest.fixture
def audit(disks, tmp_path):
    """Audit a list of ``disks``; (what was said, folder of its files)."""

    def run(train_list: str | None = "train_gt", **given: object):
        said: list[str] = []
        folder = audit_list(
            "disks", train_list, details=True, out=tmp_path / "audit", root=disks, say=said.append, **given
        )
        return "\n".join(said), folder

    return run


@pytest.fixture
def other(disks) -> str:
    """A list of the same images with label files of their own."""
    folder, lists = disks / "datasets/disks/train", disks / "txt/disks/train"
    shutil.copytree(folder / "labels", folder / "labels_other")
    clean = (lists / "train_gt.txt").read_text()
    (lists / "other.txt").write_text(clean.replace("train/labels/", "train/labels_other/"))
    return "other"


def read(folder: Path, name: str = "audit.json") -> dict:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("images", [2, 4])
def test_the_audit_supposes_the_validation_list_that_a_training_would_choose_by(audit, disks, images):
    lines = (disks / "txt/disks/train/train_gt.txt").read_text().splitlines(keepends=True)
    (disks / "txt/disks/val.txt").write_text("".join(lines[:images]))
    output, _ = audit(label_noise="dilate:5")
    assert ("judged by clean validation images" in output) == (images == 4)


def test_noise_on_the_fly_is_held_against_the_list(audit):
    output, folder = audit(label_noise="flip:0.2")
    assert set(LINE.findall(output)) == {("learnable", "1.00")}
    report = read(folder)
    assert report["verdict"] == "learnable"
    assert report["contrast"] == pytest.approx(0.6, abs=0.001)
    assert 0.5 < report["predicted_iou"] <= 1
    assert read_matrix(folder / "transition_matrix.json", 1).tolist() == report["Q"]
    assert f"--transition_matrix {folder / 'transition_matrix.json'}" in output
    assert (folder / "audit.png").read_bytes().startswith(b"\x89PNG")
    details = read(folder, "audit_details.json")
    assert details["statistics"]["images"] == details["compared"] == 8
    assert details["reference"] == "clean labels"


def test_clean_labels_of_some_images(audit, disks, other):
    lines = (disks / "txt/disks/train/train_gt.txt").read_text().splitlines()
    some = disks / "txt/disks/train/some.txt"
    some.write_text("\n".join(lines[:5]) + "\n")
    output, folder = audit(other, clean_list="some")
    assert "5 of 8 labels were compared with clean labels" in output
    assert read(folder)["phi"] == pytest.approx(1)


def test_images_alone_are_unknown_until_told_the_foreground(audit):
    output, folder = audit()
    assert set(LINE.findall(output)) == {("unknown", "unknown")}
    assert read(folder)["iou_ceiling"] is None
    assert not (folder / "transition_matrix.json").exists()
    output, folder = audit(foreground="dark")
    assert set(LINE.findall(output)) == {("inverted", "unknown")}
    assert read(folder)["invert"] is True


def test_clean_labels_are_those_of_train_gt_unless_told(audit, other):
    output, folder = audit(other)
    assert "8 of 8 labels were compared with clean labels" in output
    assert "truth 1: 0.000 (0.000 to 0.000)  1.000" in output and "by signed distance" in output
    assert "of a network trained on 8 images, estimated from 8 images" in output
    assert read(folder)["phi"] == pytest.approx(1)


@pytest.mark.parametrize("given", [{}, {"clean_list": "train_gt"}, {"second_annotator": "train_gt"}])
def test_labels_are_never_compared_with_themselves(audit, given):
    output, folder = audit("train_noisyLabel", **given)  # which names the files of train_gt
    assert "these are the labels of train_gt.txt: nothing to compare with" in output
    assert read(folder, "audit_details.json")["reference"] == "images only"
    assert read(folder)["phi"] is None


def test_a_second_annotator(audit, other):
    output, folder = audit(other, second_annotator="train_gt")
    assert "second annotator" in output
    assert read(folder, "audit_details.json")["reference"] == "second annotator"


def test_an_earlier_matrix_does_not_outlive_its_audit(audit, tmp_path):
    _, folder = audit("train_gt", label_noise="flip:0.2")
    assert (folder / "transition_matrix.json").exists()
    audit("train_gt")
    assert not (folder / "transition_matrix.json").exists()


def test_a_matrix_of_the_users_own_stays_and_is_never_replaced(audit, tmp_path):
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/transition_matrix.json").write_text("mine")
    _, folder = audit("train_gt")
    assert (folder / "transition_matrix.json").read_text() == "mine"
    before = (folder / "audit.json").read_bytes()
    with pytest.raises(UserError, match=r"holds transition_matrix\.json, which this command did not write"):
        audit("train_gt", label_noise="flip:0.2")
    assert (folder / "transition_matrix.json").read_text() == "mine" and (folder / "audit.json").read_bytes() == before


def test_default_place_of_the_files(run_tool, workspace):
    done = run_tool(TOOL, "--dataset", "disks", "--label_noise", "sample:0.5")
    assert done.returncode == 0, done.stderr
    length = read(workspace / "train_log/disks/audit_train_gt_sample-0.5")["steps"]
    usual = resolve_options({}, has_accelerator=accelerator() != "cpu")
    assert length == run_steps(usual, images=8) and f"on 8 images for {length} steps" in done.stdout
    assert "train_log/disks/audit_train_gt_sample-0.5" in done.stdout


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clean_list": "val"}, "labels for none of the images to audit"),
        ({"label_noise": "flop:0.2"}, "flop"),
        ({"num_classes": 3, "foreground": "bright"}, "--foreground is for binary labels"),
        ({"foreground": "red"}, "bright, dark, minority"),
    ],
)
def test_wrong_use_is_one_message(audit, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        audit(**given)
    assert not (tmp_path / "audit").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foreground", "red"], "invalid choice"),
        (["--clean_list", "train_gt", "--label_noise", "flip:0.2"], "not allowed with"),
        (["--num_classes", "0"], "must be a whole number from 1 to 254"),
        (["--num_classes", "300"], "must be a whole number from 1 to 254"),
    ],
)
def test_wrong_options_are_named(capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["--dataset", "disks", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_the_vessel_annotators_agree_within_reason(real_data):
    """Two people's labels of the same vessels: learnable, not inverted, and far from equal."""
    import cv2

    folder = real_data / "vessel" / "train"
    names = sorted(path.name for path in (folder / "images").iterdir())[:40:2]
    first, second = (
        [(cv2.imread(str(folder / kind / name), 0) > 0).astype("uint8") for name in names]
        for kind in ("labels", "labels_2nd_observer")
    )
    report = audit_labels(second, first, reference="second annotator")
    assert report.verdict == "learnable"
    assert 0.6 < report.transitions.phi < 0.9


def test_picture_of_every_kind_of_report():
    import numpy as np

    rng = np.random.default_rng(0)
    masks = [(rng.random((6, 6)) < 0.4).repeat(8, 0).repeat(8, 1).astype(np.uint8) for _ in range(6)]
    images = [mask * 50 + rng.normal(0, 5, mask.shape) for mask in masks]
    noisy = [make_noisy_label(mask, "flip:0.2", 0, str(i)) for i, mask in enumerate(masks)]
    panels = {
        draw_audit(audit_labels(noisy, masks, images), noisy, images, masks): 2 + 3 * 5,
        draw_audit(audit_labels(noisy, masks), noisy, None, masks): 2 + 3 * 4,
        draw_audit(audit_labels(noisy, None, images), noisy, images): 3 * 3,
    }
    assert [len(figure.axes) for figure in panels] == list(panels.values())


def test_what_the_command_is_given_counts(audit):
    _, folder = audit(label_noise="sample:0.5")
    dropped = read(folder)["Q"]
    assert dropped[1] == pytest.approx([0.5, 0.5], abs=0.01)
    _, folder = audit(label_noise="sample:0.5", unlabelled="ignore", seed=7)
    assert read(folder)["Q"][1] == [0, 1]  # what was not sampled is ignored


def test_several_classes_with_an_ignored_one(audit, disks):
    import cv2

    folder, lists = disks / "datasets/disks/train", disks / "txt/disks/train"
    shutil.copytree(folder / "labels", folder / "labels_classes")
    for path in (folder / "labels_classes").iterdir():
        label = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0).astype("uint8")
        label[:, :32] *= 2
        label[:4] = 9
        cv2.imwrite(str(path), label)
    listed = (lists / "train_gt.txt").read_text().replace("train/labels/", "train/labels_classes/")
    (lists / "classes.txt").write_text(listed)
    given = {"num_classes": 3, "ignore_index": 9, "in_channels": 3, "data_root": str(disks)}
    _, out = audit("classes", label_noise="flip:0.2", **given)
    found = read(out)["Q"]
    assert [len(row) for row in found] == [3, 3, 3]
    assert [found[k][k] for k in range(3)] == pytest.approx([0.8] * 3, abs=0.01)


def test_a_single_clean_label_of_numbered_objects_is_read_as_those_it_is_held_against(tmp_path: Path):
    y, x = np.mgrid[:64, :64]
    lists = {"train": range(3), "clean": range(1)}
    for number in range(3):
        disks = [(y - 10 - 20 * k) ** 2 + (x - 30) ** 2 < 49 for k in range(2 + number % 2)]
        label = np.maximum.reduce([disk * (k + 1) for k, disk in enumerate(disks)]).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"{number}.tif", np.full((64, 64), number + 5, np.uint8))
        for name in lists:
            tifffile.imwrite(tmp_path / f"{name}{number}.tif", label)
    for name, numbers in lists.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"{n}.tif\t{name}{n}.tif\n" for n in numbers))
    reader = Reader("own", tmp_path)
    _, samples = reader.annotated(tmp_path / "train.txt")
    matched = reference_labels(reader, samples, tmp_path / "clean.txt", print)
    assert matched is not None and matched[0] is not None and matched[1:] == [None, None]
    assert reader.labels(matched)[0].max() == 1
