"""Rules that replace labels go by images and predictions, and tell good masks from bad ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from datasets.lists import read_list
from datasets.segmentation import SegmentationDataset
from training.label_free.refresh_rules import REFRESH_RULES, Proposal, validation_iou


@pytest.fixture
def proposal(disks) -> Proposal:
    """Exact masks as proposal, scores that repeat the image."""
    samples = read_list(disks / "txt" / "disks" / "train" / "train_gt.txt", root=disks)
    dataset = SegmentationDataset(samples)
    masks = {index: dataset.label(index) for index in range(len(dataset))}
    return Proposal(masks, [0.5], lambda data, i: as_scores(data, i) / 255, dataset, dataset, "bright")


def as_scores(dataset: SegmentationDataset, index: int) -> torch.Tensor:
    return torch.from_numpy(dataset.image(index))[None, None]


def changed(proposal: Proposal, **fields) -> Proposal:
    return Proposal(**{**vars(proposal), **fields})


def test_every_epoch_and_until_settled(proposal):
    moving, settled = (changed(proposal, agreements=[0.9, last, last, last]) for last in (0.98, 0.995))
    assert REFRESH_RULES["epoch"](settled) == np.inf
    assert REFRESH_RULES["agreement"](moving) == np.inf and REFRESH_RULES["agreement"](settled) == -np.inf


def test_the_audit_sees_noise_and_the_inverse_but_not_width(proposal, rng):
    audit = REFRESH_RULES["audit"]
    noisy = {index: mask ^ (rng.random(mask.shape) < 0.3) for index, mask in proposal.masks.items()}
    wide = {index: cv2.dilate(mask, np.ones((9, 9), np.uint8)) for index, mask in proposal.masks.items()}
    inverse = {index: 1 - mask for index, mask in proposal.masks.items()}
    exact = audit(proposal)
    assert exact > 0.8
    assert audit(changed(proposal, masks=noisy)) < exact / 2
    assert audit(changed(proposal, masks=wide)) == pytest.approx(exact, abs=0.05)
    assert audit(changed(proposal, masks=inverse)) == pytest.approx(-exact, abs=0.05)


def test_dmi_prefers_clear_predictions(proposal):
    clear = REFRESH_RULES["dmi"](changed(proposal, predict=lambda data, i: as_scores(data, i) > 110))
    assert clear > REFRESH_RULES["dmi"](proposal) > 0
    assert REFRESH_RULES["dmi"](changed(proposal, predict=lambda data, i: torch.full((1, 1, 8, 8), 0.5))) == 0


def test_only_evaluation_looks_at_labels(proposal):
    histogram = np.zeros((2, 65536), np.int64)
    histogram[0, 100], histogram[1, 60000] = 30, 10
    assert validation_iou(changed(proposal, validation=histogram)) == 1
