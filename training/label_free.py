"""The pseudo-labels of a label-free run: made before the first epoch, learned from, and refreshed after each.

Source: iGTT of Luo et al., AAAI-22. No label is read. Where a validation list has labels they are logged and decide
nothing: the threshold is the one at which the scores agree best with the network's own masks, and the last epoch is
the best.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from datasets.segmentation import SegmentationDataset
from datasets.transforms import normalize
from evaluation.foreground import resolve_foreground
from evaluation.scores import BINS, best_threshold, invert_histogram, score_histogram
from models import to_scores
from training.igtt import initial_mask, mask_agreement, orient_masks, select_masks
from training.options import TrainingOptions
from training.pseudo_labels import PseudoLabelStore
from training.selection import Selection, is_inverted
from training.state import TrainingState
from utils.device import autocast
from utils.distributed import barrier, is_main, rank, sum_over_ranks, world_size

FOREGROUND_IMAGES = 50  # from which ``--foreground auto`` is resolved


class PseudoLabels:
    """Masks of the training images by epoch, in ``igtt/`` of the run folder; epoch 0 is before any training.

    The data set's own noise (``--igtt_ems``) turns a mask into the label of an epoch, so labels are a function of
    (seed, epoch, image id) and the stored mask.

    Args:
        dataset: the training images; its labels are replaced.
        run: the run folder.
    """

    def __init__(self, options: TrainingOptions, dataset: SegmentationDataset, run: Path) -> None:
        self.options, self.dataset, self.store = options, dataset, PseudoLabelStore(run / "igtt")
        step = max(1, len(dataset) // FOREGROUND_IMAGES)
        self.foreground = resolve_foreground(
            options.foreground, (dataset.image(index) for index in range(0, len(dataset), step))
        )
        self.histogram = torch.zeros(2, BINS, dtype=torch.int64)
        self.agreement = math.nan

    def _share(self) -> range:
        """The images that this process predicts and writes."""
        return range(rank(), len(self.dataset), world_size())

    def begin(self, state: TrainingState) -> None:
        """Make the masks of epoch 0, or on resume go back to those of the last completed epoch."""
        if state.epoch > 0:
            if is_main():
                self.store.discard_newer(state.epoch)
            barrier()
            self.store.record(state.epoch)
        elif self.options.igtt_init == "black":
            self.refresh(state)  # black labels have no gradient: the first masks come from the random network
            return
        else:
            for index in self._share():
                image_id = self.dataset.samples[index].image_id
                mask = initial_mask(
                    self.options.igtt_init, self.dataset.image(index), self.foreground, self.options.seed, image_id
                )
                self.store.write(0, image_id, mask)
            self._complete(0)
        self._load(state.epoch)

    def refresh(self, state: TrainingState) -> None:
        """Predict every training image in eval mode and take the best masks as the labels of the next epoch.

        During ``--igtt_warmup`` the first masks stay: a network that has seen few steps would replace them by worse.
        """
        warming = 0 < state.epoch < self.options.igtt_warmup
        state.bare_network.eval()
        histogram, agreements = torch.zeros(2, BINS, dtype=torch.int64), []
        for index in self._share():
            scores, mask = self._predict(state, index)
            old = torch.from_numpy(self.dataset.stored_label(index)) == 1
            mask = old if warming else mask.cpu()
            histogram += score_histogram(scores.cpu(), mask.to(torch.uint8))
            agreements.append(float(mask_agreement(old[None], mask[None])))
            self.store.write(state.epoch, self.dataset.samples[index].image_id, mask.numpy().astype(np.uint8))
        totals = torch.tensor([sum(agreements), len(agreements)], dtype=torch.float64)
        self.histogram = sum_over_ranks(histogram.to(state.device)).cpu()
        summed, count = sum_over_ranks(totals.float().to(state.device)).tolist()
        self.agreement = summed / count
        self._complete(state.epoch)
        self._load(state.epoch)

    @torch.inference_mode()
    def _predict(self, state: TrainingState, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores float32 (H, W) and the oriented best mask bool (H, W) of an image."""
        image = torch.from_numpy(normalize(self.dataset.image(index), self.dataset.normalization))[None]
        image = image.to(state.device)
        with autocast(state.device, state.precision):
            logits = state.bare_network(image)
        scores = to_scores(logits)
        masks = select_masks(scores, self.options.igtt_criterion, image.mean(1, keepdim=True))
        return scores[0, 0], orient_masks(masks, image, self.foreground)[0, 0]

    def _complete(self, epoch: int) -> None:
        barrier()
        if is_main():
            record = {"criterion": self.options.igtt_criterion, "ems": self.options.igtt_ems,
                      "foreground": self.foreground, "agreement": self.agreement}  # fmt: skip
            self.store.complete(epoch, [sample.image_id for sample in self.dataset.samples], record)
        barrier()

    def _load(self, epoch: int) -> None:
        for index, sample in enumerate(self.dataset.samples):
            self.dataset.set_label(index, self.store.read(epoch, sample.image_id))

    def forget_all_but(self, kept: set[int]) -> None:
        """Remove the masks of epochs that no checkpoint names."""
        self.store.keep_only(kept)

    def decide(self) -> Selection:
        """Threshold and direction by which the scores agree best with the masks chosen from them."""
        histogram = self.histogram.numpy()
        invert = is_inverted(histogram)
        if invert:
            histogram = invert_histogram(histogram)
        return Selection(best_threshold(histogram)[0], invert, math.nan, {"agreement": self.agreement})
