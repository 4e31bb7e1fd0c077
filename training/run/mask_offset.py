"""The offset of masks that clean validation labels choose beside the threshold; it travels with the checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evaluation.scores import DEFAULT_THRESHOLD
from evaluation.scores.mask_offset import OFFSETS, choose_offset, count_offsets
from training.selection import Selection
from utils.background import read_ahead
from utils.distributed import sum_over_ranks
from utils.processors import usable_processors

MOST_THREADS = 8  # that distances to outlines are computed in
MAX_PIXELS = 2**25  # of all validation images, above which their scores are not kept and masks get no offset


class KeptScores:
    """The scores and labels of this process's validation images, as ``engine.validate`` counts them.

    Args:
        most: pixels to keep; of more, none are.
    """

    def __init__(self, most: float = MAX_PIXELS) -> None:
        self.most = most
        self.parts: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self.pixels = 0

    def keep(self, index: int, scores: Tensor, label: Tensor) -> None:
        """Take in scores (h, w) of an image, or of the next rows of it, and their labels."""
        self.pixels += label.numel()
        if self.pixels > self.most:
            self.parts.clear()
        else:
            self.parts[index].append((scores.float().cpu(), label.cpu()))

    def tables(self, thresholds: list[float], groups: Sequence[int] | None, invert: bool) -> np.ndarray | None:
        """Confusion matrices at thresholds and offsets, a table for each group, see ``engine.validate``.

        Returns: int64 (number of groups, thresholds, offsets, 2, 2); None where any process had too many pixels.
        """
        counts = torch.zeros(max(groups) + 1 if groups else 1, len(thresholds), len(OFFSETS), 2, 2, dtype=torch.int64)
        is_full = torch.tensor(int(self.pixels > self.most))

        def count(index: int) -> tuple[int, np.ndarray]:
            scores, label = (torch.cat(part).numpy() for part in zip(*self.parts[index], strict=True))
            scores = 1 - scores if invert else scores
            found = np.stack([count_offsets(scores, label, threshold) for threshold in thresholds])
            return (groups[index] if groups else 0), found

        workers = min(MOST_THREADS, usable_processors())
        for table, found in read_ahead(count, sorted(self.parts), ahead=2 * workers, workers=workers):
            counts[table] += torch.from_numpy(found)
        return None if sum_over_ranks(is_full) else sum_over_ranks(counts).numpy()


def with_offset(selection: Selection, kept: KeptScores | None, groups: Sequence[int] | None) -> Selection:
    """The decision of an epoch, with the offset of masks that clean labels show to be worth it.

    At the chosen threshold, or at the one that is right without a look at these images.

    Args:
        kept: None where validation labels do not decide.
        groups: that the validation images were counted in.
    """
    if kept is None or selection.tables is None or selection.threshold is None or not np.isfinite(selection.metric):
        return selection
    prior = DEFAULT_THRESHOLD if selection.prior is None else selection.prior
    thresholds = list(dict.fromkeys([selection.threshold, prior]))
    tables = kept.tables(thresholds, groups, selection.invert)
    if tables is None:
        return selection
    at, offset = choose_offset(tables)
    if not OFFSETS[offset]:
        return selection
    chosen = tables[:, at, offset]
    (_, invented), (missed, hit) = chosen.sum(0)
    iou, f1 = float(hit / (hit + invented + missed)), float(2 * hit / (2 * hit + invented + missed))
    return replace(
        selection,
        threshold=thresholds[at],
        offset=float(OFFSETS[offset]),
        metric=iou,
        metrics={**selection.metrics, "iou": iou, "f1": f1},
        tables=chosen,
    )
