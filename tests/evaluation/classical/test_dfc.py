"""Feature clustering finds drawn disks without labels; its loss is the published one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluation.classical.dfc import DfcSettings, dfc_loss, segment, train_dfc
from evaluation.scores import confusion_counts, iou

FAST = DfcSettings(channels=8, layers=2, iterations=25, crop=48)


def draw(rng: np.random.Generator, height: int = 48, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:height, :width]
    mask = ((y - 16) ** 2 + (x - 18) ** 2 <= 64) | ((y - 30) ** 2 + (x - 42) ** 2 <= 81)
    return (1000 + 900 * mask + rng.normal(0, 120, mask.shape)).astype(np.uint16), mask.astype(np.uint8)


@pytest.mark.parametrize("scope", ["image", "set"])
def test_disks_are_found_without_labels(scope, rng):
    images, masks = zip(draw(rng), draw(rng, 40, 64), strict=True)
    settings = replace(FAST, scope=scope)
    maps = list(segment(images, settings))
    for image, mask, scores in zip(images, masks, maps, strict=True):
        assert scores.shape == image.shape and scores.dtype == np.float32
        assert scores.min() >= 0 and scores.max() <= 1
        assert iou(confusion_counts(scores >= 0.5, mask)) > 0.8
    again = list(segment(images, settings))
    assert all(np.array_equal(first, second) for first, second in zip(maps, again, strict=True))


def test_training_leaves_the_global_random_stream_alone(rng):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_dfc([draw(rng)[0]], DfcSettings(channels=4, layers=1, iterations=1))
    assert torch.equal(torch.rand(3), expected)


def test_a_constant_image_has_no_foreground():
    assert not train_dfc([np.full((20, 24), 700, np.uint16)], FAST)[0].any()


def test_the_loss_is_confidence_plus_continuity(rng):
    responses = torch.from_numpy(rng.normal(size=(1, 4, 5, 6)))
    votes = responses.argmax(1)
    confidence = F.nll_loss(responses.log_softmax(1), votes)
    assert torch.allclose(dfc_loss(responses, 0), confidence)
    rows = np.abs(np.diff(responses.numpy(), axis=2)).mean()
    columns = np.abs(np.diff(responses.numpy(), axis=3)).mean()
    assert float(dfc_loss(responses, 2.5) - confidence) == pytest.approx(2.5 * (rows + columns))
    flat = torch.zeros(1, 3, 4, 4) + torch.tensor([9.0, 0, 0]).view(1, 3, 1, 1)
    assert float(dfc_loss(flat, 100)) == pytest.approx(2 * np.exp(-9), rel=1e-3), "no steps in a flat response"


def test_the_command_writes_maps_like_the_baselines(run_tool, tmp_path):
    done = run_tool(
        "evaluation/baselines.py",
        "--methods",
        "dfc",
        "--dataset",
        "disks",
        "--data_list",
        "val",
        "--dfc",
        "channels=8",
        "layers=2",
        "iterations=15",
        "--out",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "dfc" / "predictions.json").read_text())
    assert len(record["maps"]) == 3 and all((tmp_path / "dfc" / name).is_file() for name in record["maps"].values())
    assert any(line.startswith("dfc ") for line in done.stdout.splitlines())
