"""Decisions on label issues: what each does to the label, what is written, and what cannot be applied."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.apply_decisions import main
from datasets.image_io import read_label, write_label
from datasets.label_maps import LabelMap
from datasets.label_values import LabelReading
from datasets.labels import IGNORE
from datasets.lists import read_list
from evaluation.label_errors.decisions import apply_decisions, claim_names
from evaluation.label_errors.issue_files import IssueFolder, write_issue_files
from evaluation.label_errors.issues import find_label_issues
from evaluation.pages.rebuild import find_results
from evaluation.scores.map_folder import find_maps
from utils.cli import UserError
from utils.files import read_json, write_json
from utils.fingerprint import digest

NAMES = ("<b>0", "1", "2")


@pytest.fixture
def decide(tmp_path, issue_folder):
    """``decide({1: "take"})`` → decisions.json beside the issues' images."""

    def write(actions: dict[int, str], **changes: object) -> Path:
        images = {issue.id: issue.image for issue in issue_folder.issues}
        rows = [{"image": images.get(key, "x.png"), "id": key, "action": action} for key, action in actions.items()]
        write_json(tmp_path / "decisions.json", {"list": issue_folder.list_path, "issues": rows, **changes})
        return tmp_path / "decisions.json"

    return write


def mend(decisions: Path, found: IssueFolder, root: Path, **options: object) -> dict[str, np.ndarray]:
    """Apply decisions below ``root``; the labels of the new list by the stem of their image."""
    new_list = apply_decisions("set", decisions, prd_dir=found.folder, root=root, **options)
    return {sample.image.stem: read_label(sample.require_label()) for sample in read_list(new_list, root=root)}


def old_label(found: IssueFolder, name: str) -> np.ndarray:
    return read_label(next(judged.label for image, judged in found.images.items() if image.stem == name))


def test_each_action_changes_its_pixels_alone(decide, issue_folder, tmp_path):
    expected = {name: old_label(issue_folder, name) for name in NAMES}
    labels = mend(decide({1: "take", 2: "ignore", 3: "keep"}), issue_folder, tmp_path)
    expected["<b>0"][4:14, 5:15] = 1
    expected["<b>0"][20:28, 22:34] = IGNORE
    assert list(labels) == list(NAMES) and all((labels[name] == expected[name]).all() for name in NAMES)


def test_taking_the_prediction_erases_what_was_invented(decide, issue_folder, tmp_path):
    labels = mend(decide({2: "take"}), issue_folder, tmp_path)
    assert labels["<b>0"][20:28, 22:34].sum() == 0 and labels["<b>0"].sum() == 24


def test_a_dropped_image_leaves_the_list(decide, issue_folder, tmp_path):
    labels = mend(decide({1: "take", 2: "drop", 3: "take"}), issue_folder, tmp_path)
    assert list(labels) == ["1", "2"] and labels["1"].sum() == 124
    folder = tmp_path / "datasets" / "set" / "train" / "labels_mended"
    assert sorted(path.name for path in folder.iterdir()) == ["1.png", "2.png", "manifest.json"]
    record = read_json(folder / "manifest.json")
    assert record["decisions"] == {"keep": 0, "take": 2, "ignore": 0, "drop": 1}
    assert record["images"] == 2 and record["changed_pixels"] == 100 and len(record["dropped"]) == 1
    assert [(row["label"], row["changed"], row.get("take")) for row in record["labels"]] == [
        ("1.png", 100, [3]),
        ("2.png", 0, None),
    ]


def test_the_command_to_train_reads_other_lists_as_the_labels_were_read(decide, issue_folder, tmp_path):
    reading, said = LabelReading(1, 7, LabelMap.parse("0:0,255:1")), []
    write_issue_files(replace(issue_folder, reading=reading, in_channels=3))
    mend(decide({1: "take"}), issue_folder, tmp_path, say=said.append)
    assert said[-1].endswith("--in_channels 3 --ignore_index 7 --label_map 0:0,255:1 --train_list train_mended")


def test_nothing_that_exists_is_replaced(decide, issue_folder, tmp_path):
    before = {name: old_label(issue_folder, name) for name in NAMES}
    mend(decide({1: "take"}), issue_folder, tmp_path)
    first = tmp_path / "txt" / "set" / "train" / "train_mended.txt"
    kept = first.read_text()
    assert (mend(decide({3: "take"}), issue_folder, tmp_path)["1"]).sum() == 124
    assert first.read_text() == kept and first.with_name("train_mended-2.txt").is_file()
    assert (read_label(read_list(first, root=tmp_path)[1].require_label()) == before["1"]).all()
    assert all((old_label(issue_folder, name) == before[name]).all() for name in NAMES)


@pytest.mark.parametrize(
    ("actions", "changes", "message"),
    [
        ({1: "mend"}, {}, "decision 1: action 'mend' is none of keep, take, ignore, drop"),
        ({9: "take"}, {}, "issue 9 of x.png is none of those in"),
        ({1: "keep"}, {}, "nothing to mend, every decision is keep"),
        ({}, {}, "nothing to mend, there is no decision"),
        ({1: "take"}, {"list": "txt/other.txt"}, "is about txt/other.txt, the issues in .* about .*mine.txt"),
        ({1: "take"}, {"issues": [{"image": "x.png", "id": True, "action": "take"}]}, "'id' is True"),
        ({1: "take"}, {"issues": 7}, "'issues' is 7"),
    ],
)
def test_what_cannot_be_applied_is_named(decide, issue_folder, tmp_path, actions, changes, message):
    with pytest.raises(UserError, match=message):
        mend(decide(actions, **changes), issue_folder, tmp_path)
    assert not (tmp_path / "datasets").exists()


def test_labels_that_are_others_now_are_refused(decide, issue_folder, tmp_path):
    lines = issue_folder.list_path.read_text().replace("labels/1.png", "labels/2.png")
    issue_folder.list_path.write_text(lines)
    with pytest.raises(UserError, match=r"mine\.txt:2: .*labels/2\.png is not the label that was judged"):
        mend(decide({3: "take"}), issue_folder, tmp_path)
    issue_folder.list_path.write_text("".join(lines.splitlines(keepends=True)[2:]))
    with pytest.raises(UserError, match=r"images/1\.png, which was decided on, is missing"):
        mend(decide({3: "take"}), issue_folder, tmp_path)
    with pytest.raises(UserError, match=r"other\.txt"):
        mend(decide({3: "take"}), issue_folder, tmp_path, train_list=str(tmp_path / "other.txt"))


def test_labels_that_numbered_objects_are_said_to_do_so_no_more(decide, issue_folder, tmp_path, capsys):
    for numbered in (False, True):
        write_issue_files(replace(issue_folder, reading=LabelReading(objects=numbered)))
        mend(decide({1: "take"}), issue_folder, tmp_path)
        assert ("do not number objects any more" in capsys.readouterr().out) == numbered


def test_labels_that_were_edited_since_they_were_judged_are_refused(decide, issue_folder, tmp_path):
    image, judged = next(iter(issue_folder.images.items()))
    images = {**issue_folder.images, image: replace(judged, digest=digest(judged.label))}
    write_issue_files(replace(issue_folder, images=images))
    write_label(judged.label, 1 - read_label(judged.label))
    with pytest.raises(UserError, match=r"mine\.txt:1: .* has changed since it was judged: put it back, or find"):
        mend(decide({1: "take"}), issue_folder, tmp_path)
    assert mend(decide({1: "drop", 3: "take"}), issue_folder, tmp_path).keys() == {"1", "2"}


def test_two_processes_at_once_take_names_of_their_own(tmp_path):
    names = [claim_names("cells", tmp_path)[0].name for _ in range(2)]
    assert names == ["labels_mended", "labels_mended-2"]


def test_a_label_of_another_size_is_refused(decide, issue_folder, tmp_path):
    write_label(next(iter(issue_folder.images.values())).label, np.eye(30, dtype=np.uint8))
    with pytest.raises(UserError, match="has another size than what was judged"):
        mend(decide({1: "take"}), issue_folder, tmp_path)
    assert not (tmp_path / "txt").exists() and not list((tmp_path / "datasets" / "set" / "train").iterdir())


@pytest.mark.parametrize("gone", ["issues.csv", "issues.json"])
def test_a_file_of_the_issues_that_is_gone_is_named_with_the_remedy(decide, issue_folder, tmp_path, gone):
    folder = issue_folder.folder
    (folder / gone).unlink()
    decisions = decide({1: "take"}).rename(folder / "decisions.json")
    named = f"{folder / gone} does not exist; put it back, or run evaluation/suspect_labels.py again"
    for command in (
        lambda: main([str(decisions), "--dataset", "nowhere"]),
        lambda: main([str(decisions), "--dataset", "nowhere", "--prd_dir", str(folder)]),
        lambda: find_label_issues("nowhere", [folder], review=True),
    ):
        with pytest.raises(UserError, match=re.escape(named)):
            command()
    for other in (lambda: find_maps(folder), lambda: find_results(str(folder))):  # metrics.py and report.py
        with pytest.raises(UserError, match="holds label issues"):
            other()
    (folder / "predicted").rename(tmp_path / "pred")
    assert find_maps(tmp_path).maps == tmp_path / "pred"  # of a folder without issues


def test_the_command_asks_for_the_folder_where_none_fits(decide, issue_folder):
    with pytest.raises(UserError, match="are in no folder of issues .*; name the folder by --prd_dir DIR"):
        main([str(decide({1: "take"})), "--dataset", "nowhere"])
