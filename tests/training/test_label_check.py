"""What a run knows of its labels before the first step: the noise as stated, and what it is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.noise_files import write_noisy_labels
from datasets.transition_matrix import TransitionMatrix
from training.configuration.resolve import resolve_options
from training.data import load_data
from training.options import TrainingOptions
from training.run.label_facts import LabelKnowledge, examine_labels, stated_matrix
from training.run.lists import read_lists

FLIP_TWO = np.array([[0.8, 0.2], [0.2, 0.8]])
FLIP_ONE = np.array([[0.9, 0.1], [0.1, 0.9]])


def silent(line: str) -> None:
    """Take a line that a user would see."""


def options_for(**given) -> TrainingOptions:
    return resolve_options({"dataset": "disks", "device": "cpu", "crop": 32, **given}, False)


def knowledge(root: Path, **given) -> tuple[TransitionMatrix | None, LabelKnowledge]:
    options = options_for(**given)
    train = load_data(options, read_lists(options, root, silent), torch.device("cpu")).train
    return stated_matrix(options, train), examine_labels(options, train, root)


@pytest.mark.parametrize(
    ("listed", "added", "matrix"),
    [
        (None, "flip:0.1", FLIP_ONE),
        ("flip:0.2", None, FLIP_TWO),
        ("flip:0.2", "flip:0.1", FLIP_TWO @ FLIP_ONE),
        ("sample:0.5", "flip:0.1", np.array([[1, 0], [0.5, 0.5]]) @ FLIP_ONE),
        ("dilate:3", "flip:0.1", None),
        ("flip:0.2", "dilate:3", None),
        (None, None, None),
    ],
)
def test_noise_on_noisy_labels_is_the_product_of_both(disks, listed, added, matrix):
    if listed is not None:
        write_noisy_labels("disks", listed, root=disks, make_default=True, say=silent)
    stated, known = knowledge(disks, label_noise=added, train_list="train_noisyLabel")
    assert (stated is None) == (matrix is None)
    if matrix is not None:
        np.testing.assert_allclose(stated.rows, matrix)
        np.testing.assert_allclose(
            known.audit.transitions.matrix.rows, matrix, atol=0.02
        )  # held against the clean labels


def test_what_biased_labels_err_in_is_said(disks):
    lines = {spec: knowledge(disks, label_noise=spec)[1].lines for spec in ("dilate:5", "flip:0.1")}
    assert "Labels differ from clean labels systematically: wider by 2.0 px" in lines["dilate:5"][0]
    assert lines["flip:0.1"][0].endswith(")")


def test_a_list_that_no_clean_list_knows_is_taken_as_clean(disks):
    (disks / "txt/disks/train/train_gt.txt").unlink()
    _, known = knowledge(disks, label_noise="flip:0.1", train_list="train_noisyLabel")
    np.testing.assert_allclose(known.audit.transitions.matrix.rows, FLIP_ONE, atol=0.02)
