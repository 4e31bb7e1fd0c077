"""What a run starts from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets.transition_matrix import TransitionMatrix
from training.configuration.resolve import resolve_options
from training.methods.supervised import Supervised
from training.run.build import build_state
from training.selection import LabelNoiseFacts

FLIPPED = LabelNoiseFacts(TransitionMatrix([[0.7, 0.3], [0.3, 0.7]]))


@pytest.mark.parametrize(("loss", "share"), [("bce", 0.38), ("forward", 0.2)])
def test_scores_start_at_the_shares_that_the_loss_is_about(loss, share):
    # 20 % of the truth is foreground; flipping 30 % of both classes makes it 0.2 · 0.7 + 0.8 · 0.3 = 38 % of the label.
    options = resolve_options({"loss": loss, "width": 4}, False)
    counts = np.array([62_000, 38_000])
    state = build_state(options, torch.device("cpu"), counts, FLIPPED, Supervised(options, None))
    assert torch.sigmoid(state.network.head.bias).item() == pytest.approx(share, abs=1e-5)


def test_the_papers_recipe_starts_at_one_half():
    options = resolve_options({"preset": "paper", "width": 4}, False)
    state = build_state(options, torch.device("cpu"), np.array([90, 10]), LabelNoiseFacts(), Supervised(options, None))
    assert state.network.head.bias.item() == 0
