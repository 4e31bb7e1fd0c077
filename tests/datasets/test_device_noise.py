"""Noise drawn on the device has the shares, shapes and matrices of NumPy's, and a stream of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from datasets.label_noise import make_noisy_label, parse_spec
from datasets.labels import IGNORE
from datasets.noise_gpu import check_steps, make_noisy_label_on_device
from datasets.noise_steps import largest_remainder, share_count
from datasets.transition_matrix import count_transitions
from utils.cli import UserError


@pytest.fixture(params=[1, 4], ids=["binary", "4 classes"])
def labelled(request, rng) -> tuple[np.ndarray, int]:
    """Blocks of classes with ignored pixels among them, and the number of classes."""
    blocks = rng.integers(0, max(request.param, 2), (9, 11)).astype(np.uint8)
    label = np.kron(blocks, np.ones((7, 6), np.uint8))
    label[rng.random(label.shape) < 0.05] = IGNORE
    return label, request.param


def noisy_on(device: str, label: np.ndarray, spec: str, classes: int, epoch: int = 1, **options) -> np.ndarray:
    steps = parse_spec(spec, classes)
    tensor = torch.from_numpy(label).to(device)
    noisy = make_noisy_label_on_device(tensor, steps, 0, "a.png", epoch, classes, **options)
    assert noisy.dtype == torch.uint8 and noisy.shape == label.shape and torch.equal(tensor.cpu(), torch.tensor(label))
    return noisy.cpu().numpy()


@pytest.mark.parametrize("spec", ["clean", "dilate:1", "dilate:5", "erode:3", "erode:3+dilate:5", "shift:0"])
def test_steps_without_chance_equal_numpys(labelled, device, spec):
    label, classes = labelled
    expected = make_noisy_label(label, spec, 0, "a.png", classes)
    assert np.array_equal(noisy_on(device, label, spec, classes), expected)


@pytest.mark.parametrize("spec", ["sample:0.3", "flip:0.45", "flip:1", "flip:0"])
def test_shares_are_exact(labelled, device, spec):
    label, classes = labelled
    found = count_transitions(label, noisy_on(device, label, spec, classes), classes)
    expected = count_transitions(label, make_noisy_label(label, spec, 0, "a.png", classes), classes)
    assert np.array_equal(np.diag(found), np.diag(expected)) and np.array_equal(found.sum(1), expected.sum(1))
    assert np.abs(found - expected).max() <= 1  # what is left over goes to classes drawn at random


def test_two_shares_and_ignored_pixels(labelled, device):
    label, classes = labelled
    if classes == 1:
        noisy = noisy_on(device, label, "flip:0.4,0.1", 1)
        for value, share in ((0, 0.1), (1, 0.4)):
            assert (noisy[label == value] != value).sum() == share_count(share, (label == value).sum())
    noisy = noisy_on(device, label, "sample:0.25", classes, unlabelled="ignore")
    for value in range(max(classes, 2)):
        here = noisy[label == value]
        assert (here == value).sum() == share_count(0.25, here.size) and set(here) <= {value, IGNORE}


def test_any_matrix(labelled, device, tmp_path, rng):
    label, classes = labelled
    matrix = rng.dirichlet(np.ones(max(classes, 2)), max(classes, 2))
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"classes": max(classes, 2), "matrix": matrix.tolist()}))
    found = count_transitions(label, noisy_on(device, label, f"ntm:{path}", classes), classes)
    matrix = np.array(parse_spec(f"ntm:{path}", classes)[0].values[0])
    for value, row in enumerate(found):
        assert np.array_equal(row, largest_remainder(matrix[value], row.sum()))


def test_random_and_shifted_pixels(labelled, device):
    label, classes = labelled
    known = label != IGNORE
    noisy = noisy_on(device, label, "random:0.3", classes)
    assert abs((noisy[known] > 0).mean() - 0.3) < 0.04
    assert set(noisy[known]) == set(range(max(classes, 2)))
    shifted = noisy_on(device, label, "shift:2", classes)
    reachable = make_noisy_label(label, "dilate:5", 0, "a.png", classes) > 0
    assert (shifted > 0).any() and not (shifted > 0)[known & ~reachable].any()


@pytest.mark.parametrize("spec", ["flip:0.3", "shift:1+sample:0.5", "random:0.5"])
def test_a_draw_follows_seed_image_and_epoch(labelled, device, spec):
    label, classes = labelled
    first = noisy_on(device, label, spec, classes)
    assert np.array_equal(first, noisy_on(device, label, spec, classes))
    assert not np.array_equal(first, noisy_on(device, label, spec, classes, epoch=2))


def test_pixels_are_drawn_evenly(rng):
    label = np.ones((8, 8), np.uint8)
    total = sum(noisy_on("cpu", label, "sample:0.25", 1, epoch).astype(int) for epoch in range(400))
    assert total.sum() == 400 * 16 and abs(total - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_steps_of_objects_are_refused():
    with pytest.raises(UserError, match=r"skeleton, wobble:2,5; .*--noise_device cpu"):
        check_steps(parse_spec("skeleton+wobble:2,5+sample:0.1"))
