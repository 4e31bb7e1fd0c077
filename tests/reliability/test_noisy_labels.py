"""Noisy labels are made anew as a whole, but never over files that are not theirs."""

from __future__ import annotations

import pytest

from datasets.noise_files import write_noisy_labels
from utils.cli import UserError


def test_files_that_are_not_its_own_are_not_removed_with_a_folder_of_labels(disks):
    write = {"root": disks, "say": lambda line: None}
    new_list = write_noisy_labels("disks", "flip:0.3", **write)
    folder = disks / "datasets/disks/train/labels_flip-0.3"
    write_noisy_labels("disks", "flip:0.3", **write)
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds files that are no labels of its own: notes\.txt"):
        write_noisy_labels("disks", "flip:0.3", **write)
    assert (folder / "notes.txt").read_text() == "precious" and new_list.is_file()
