"""The pseudo-labels of a label-free run: made before the first epoch, learned from, and refreshed after each.

Source: iGTT of Luo et al., AAAI-22. No label is read. Where a validation list has labels they are logged and
decide nothing: the threshold is a half where masks are the more likely side (`bce`), else the one at which the scores
agree best with the network's own masks, and the last epoch is the best.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation.classical import BASELINES
from evaluation.classical.choice import MIN_AGREEMENT, choose_vote, noise_agreement
from evaluation.classical.methods import orient, resolve_foreground
from evaluation.scores import BINS, DEFAULT_THRESHOLD, auc, best_threshold, invert_histogram, score_histogram
from training.data import TrainingData
from training.label_free.masks import initial_mask, mask_agreement, orient_masks, select_masks
from training.label_free.store import PseudoLabelStore
from training.methods.scores import image_scores
from training.methods.supervised import Supervised
from training.options import TrainingOptions
from training.run.state import TrainingState
from training.selection import Selection, with_logged_metrics
from utils.background import LazySequence
from utils.distributed import barrier, is_main, rank, sum_over_ranks, world_size

FOREGROUND_IMAGES = 50  # from which ``--foreground auto`` and ``--igtt_init auto`` are resolved
NOISE_IMAGES = 6  # on which it is tried whether noise drew the first labels
AUTO = "auto"  # of --igtt_init


class PseudoLabels(Supervised):
    """Masks of the training images by epoch, in ``igtt/`` of the run folder; epoch 0 is before any training.

    The data set's own noise (``--igtt_ems``) turns a mask into the label of an epoch, so labels are a function of
    (seed, epoch, image id) and the stored mask.
    """

    needs_saved_epochs = True
    changes_labels = True

    def __init__(self, options: TrainingOptions, data: TrainingData) -> None:
        super().__init__(options, data)
        self.dataset, self.free = data.train, options.label_free
        self.histogram = torch.zeros(2, BINS, dtype=torch.int64)
        self.agreements: list[float] = []

    def _share(self) -> range:
        """The images that this process predicts and writes."""
        return range(rank(), len(self.dataset), world_size())

    def begin(self, state: TrainingState, folder: Path) -> list[str]:
        """Make the masks of epoch 0, or on resume go back to those of the last completed epoch."""
        self.store = PseudoLabelStore(folder / "igtt")
        step = max(1, len(self.dataset) // FOREGROUND_IMAGES)
        some = LazySequence(lambda place: self.dataset.image(place * step), -(-len(self.dataset) // step))
        self.foreground = resolve_foreground(self.free.foreground, some)
        self.vote = choose_vote(some) if self.free.igtt_init == AUTO and state.epoch == 0 else None
        if state.epoch > 0:
            if is_main():
                self.store.discard_newer(state.epoch)
            barrier()
            self.agreements = self.store.record(state.epoch).get("agreements", [])
        elif self.free.igtt_init == "black":  # no gradient: the first masks come from the random network
            self._write(0, self._propose(state))
        else:
            self._write(0, {index: self._initial_mask(index) for index in self._share()})
        self._load(state.epoch)
        first = self.free.igtt_init if self.vote is None else f"{self.vote}"
        learned = "the masks themselves" if self.free.igtt_ems == "clean" else f"{self.free.igtt_ems} of the masks"
        lines = [f"pseudo-labels: {first}; foreground {self.foreground}; labels: {learned}"]
        return lines if state.epoch > 0 else [*lines, *self._warnings()]

    def _initial_mask(self, index: int) -> np.ndarray:
        return initial_mask(
            self.free.igtt_init,
            self.dataset.image(index),
            self.foreground,
            seed=self.options.run.seed,
            image_id=self.dataset.samples[index].image_id,
            chosen=self.vote,
        )

    def _warnings(self) -> list[str]:
        """What says that noise drew the first labels."""
        name = self.free.igtt_init
        if name not in (AUTO, *BASELINES):
            return []
        segment = BASELINES[name] if self.vote is None else self.vote
        step = -(-len(self.dataset) // NOISE_IMAGES)
        images = (orient(self.dataset.image(index), self.foreground) for index in range(0, len(self.dataset), step))
        agreement = float(np.median([noise_agreement(segment, image) for image in images]))
        if agreement >= MIN_AGREEMENT:
            return []
        return [
            "warning: the first labels look like noise: with as much noise again in the images they agree with "
            f"themselves by {agreement:.0%} beyond chance. Look at igtt/epoch_0 of the run folder; smoother images, or "
            "another --igtt_init, may help"
        ]

    def refresh(self, state: TrainingState) -> None:
        """Predict every training image; the masks become the labels of the next epoch.

        During ``igtt_warmup`` the first masks stay: a network that has seen few steps would replace them by worse.
        """
        is_warming = state.epoch < self.free.igtt_warmup * self.options.optimization.epochs
        if is_warming and state.epoch < self.options.optimization.epochs:
            self._write(state.epoch, {index: self._current(index) for index in self._share()})
            return
        masks = self._propose(state)
        agreement = sum(self._agreement(index, mask) for index, mask in masks.items())
        total = torch.tensor([agreement, len(masks)], dtype=torch.float32, device=state.device)
        agreement, count = sum_over_ranks(total).tolist()
        self.agreements.append(agreement / count)
        if is_warming:  # the last epoch: its masks set the threshold and are not learned from
            masks = {index: self._current(index) for index in masks}
        self._write(state.epoch, masks)
        self._load(state.epoch)

    def _current(self, index: int) -> np.ndarray:
        """The mask of an image that is learned from now."""
        return self.dataset.stored_label(index)

    def _agreement(self, index: int, mask: np.ndarray) -> float:
        both = (torch.from_numpy(one)[None] == 1 for one in (self._current(index), mask))
        return float(mask_agreement(*both))

    def _propose(self, state: TrainingState) -> dict[int, np.ndarray]:
        """The best mask of every image of this process, uint8 (H, W), oriented; counts scores against them."""
        histogram, masks = torch.zeros(2, BINS, dtype=torch.int64), {}
        for index in self._share():
            scores, image = image_scores(state, self.dataset, index)
            chosen = select_masks(scores, self.free.igtt_criterion)
            mask = orient_masks(chosen, image, self.foreground)[0, 0].to("cpu", torch.uint8)
            histogram += score_histogram(scores[0, 0].cpu(), mask)
            masks[index] = mask.numpy()
        self.histogram = sum_over_ranks(histogram.to(state.device)).cpu()
        return masks

    def _write(self, epoch: int, masks: dict[int, np.ndarray]) -> None:
        for index, mask in masks.items():
            self.store.write(epoch, self.dataset.samples[index].image_id, mask)
        barrier()
        if is_main():
            record: dict[str, Any] = {
                "criterion": self.free.igtt_criterion,
                "ems": self.free.igtt_ems,
                "foreground": self.foreground,
                "agreements": self.agreements,
            }
            self.store.complete(epoch, [sample.image_id for sample in self.dataset.samples], record)
        barrier()

    def _load(self, epoch: int) -> None:
        for index, sample in enumerate(self.dataset.samples):
            self.dataset.set_label(index, self.store.read(epoch, sample.image_id))

    def keep(self, epochs: Collection[int]) -> None:
        """Remove the masks of other epochs; the first labels stay to be looked at."""
        self.store.keep_only({0, *epochs})

    def decide(self, state: TrainingState, counts: np.ndarray | None, known: np.ndarray | None = None) -> Selection:
        """Direction, and for ``dmi`` the threshold too, by which scores agree best with the masks chosen from them.

        Cross-entropy asks for a half; the masks that ``bce`` chooses follow the range of the scores, which a short run
        has not settled. While the first labels stay nothing is predicted but at the end: the threshold is a half until
        then. Validation labels are for the record.
        """
        histogram = self.histogram.numpy()
        metrics = {"agreement": self.agreements[-1]} if self.agreements else {}
        invert = auc(histogram) < 0.5  # foreground tends to score lower than background
        if invert:
            histogram = invert_histogram(histogram)
        threshold = DEFAULT_THRESHOLD if self.free.igtt_criterion == "bce" else best_threshold(histogram)[0]
        return with_logged_metrics(Selection(threshold, invert, math.nan, metrics), counts)
