"""The pseudo-labels of a label-free run: made before the first epoch, learned from, and refreshed after each.

Source: iGTT of Luo et al., AAAI-22. No label is read, but for ``--use_evaluation``. Where a validation list has labels
they are logged and decide nothing: the threshold is the one at which the scores agree best with the network's own
masks, and the last epoch is the best.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.segmentation import SegmentationDataset
from evaluation.classical.foreground import resolve_foreground
from evaluation.prediction import Predictor
from evaluation.scores import BINS, best_threshold, invert_histogram, score_histogram
from training.label_free.masks import (
    anneal_sampling,
    has_settled,
    initial_mask,
    mask_agreement,
    orient_masks,
    select_masks,
)
from training.label_free.refresh_rules import REFRESH_RULES, Proposal, image_audit, validation_iou
from training.label_free.store import PseudoLabelStore
from training.options import TrainingOptions
from training.run.state import TrainingState
from training.selection import Selection, is_inverted
from utils.cli import UserError
from utils.distributed import barrier, is_main, rank, sum_over_ranks, world_size

FOREGROUND_IMAGES = 50  # from which ``--foreground auto`` is resolved


class PseudoLabels:
    """Masks of the training images by epoch, in ``igtt/`` of the run folder; epoch 0 is before any training.

    The data set's own noise (``--igtt_ems``) turns a mask into the label of an epoch, so labels are a function of
    (seed, epoch, image id) and the stored mask.

    Args:
        dataset: the training images; its labels are replaced.
        held_out: images that are not trained on, if there are any; their labels are not looked at.
        run: the run folder.
    Raises:
        UserError: ``--use_evaluation`` without validation labels.
    """

    def __init__(
        self, options: TrainingOptions, dataset: SegmentationDataset, held_out: SegmentationDataset | None, run: Path
    ) -> None:
        self.options, self.dataset, self.store = options, dataset, PseudoLabelStore(run / "igtt")
        self.held_out = held_out or dataset
        if options.label_free.use_evaluation and not (held_out and any(sample.label for sample in held_out.samples)):
            raise UserError("--use_evaluation goes by the labels of a validation list: give --val_list with labels")
        step = max(1, len(dataset) // FOREGROUND_IMAGES)
        self.foreground = resolve_foreground(
            options.label_free.foreground, (dataset.image(index) for index in range(0, len(dataset), step))
        )
        self.rule = (
            validation_iou if options.label_free.use_evaluation else REFRESH_RULES[options.label_free.igtt_refresh]
        )
        self.histogram = torch.zeros(2, BINS, dtype=torch.int64)
        self.agreements: list[float] = []
        self.figure = -math.inf

    def description(self) -> str:
        """A line on what is learned from."""
        supervised = "; --use_evaluation: refreshed by validation labels, so this run is no longer label-free"
        return (
            f"pseudo-labels: {self.options.label_free.igtt_init}, foreground {self.foreground}, "
            f"{self.options.label_free.igtt_ems}" + (supervised if self.options.label_free.use_evaluation else "")
        )

    def _share(self) -> range:
        """The images that this process predicts and writes."""
        return range(rank(), len(self.dataset), world_size())

    def begin(self, state: TrainingState) -> None:
        """Make the masks of epoch 0, or on resume go back to those of the last completed epoch."""
        if state.epoch > 0:
            if is_main():
                self.store.discard_newer(state.epoch)
            barrier()
            record = self.store.record(state.epoch)
            self.agreements, self.figure = record["agreements"], float(record["figure"])
        elif self.options.label_free.igtt_init == "black":  # no gradient: the first masks come from the random network
            self._write(0, self._propose(state))
        else:
            self._write(0, {index: self._initial_mask(index) for index in self._share()})
        self._load(state.epoch)

    def _initial_mask(self, index: int) -> np.ndarray:
        return initial_mask(
            self.options.label_free.igtt_init,
            self.dataset.image(index),
            self.foreground,
            self.options.run.seed,
            self.dataset.samples[index].image_id,
        )

    def prepare(self, epoch: int) -> None:
        """Set the spec of an epoch's labels: with ``--igtt_final_share`` its sampling moves from epoch to epoch."""
        if self.options.label_free.igtt_final_share is not None:
            progress = (epoch - 1) / max(1, self.options.optimization.epochs - 1)
            spec = anneal_sampling(self.options.label_free.igtt_ems, progress, self.options.label_free.igtt_final_share)
            self.dataset.set_noise(replace(self.dataset.noise, spec=spec))

    def refresh(self, state: TrainingState, validation: np.ndarray | None = None) -> None:
        """Predict every training image; where the rule allows, the masks become the labels of the next epoch.

        During ``--igtt_warmup`` the first masks stay: a network that has seen few steps would replace them by worse.

        Args:
            validation: the score histogram of the validation set, for ``--use_evaluation``.
        """
        if self._is_warming(state) and state.epoch < self.options.optimization.epochs:
            self._write(state.epoch, {index: self._standing(index) for index in self._share()})
            return
        masks = self._propose(state)
        agreement = sum(self._agreement(index, mask) for index, mask in masks.items())
        self.agreements.append(self._mean_over_ranks(agreement, len(masks), state))
        if not self._is_allowed(state, masks, validation):
            masks = {index: self._standing(index) for index in masks}
        self._write(state.epoch, masks)
        self._load(state.epoch)

    def _standing(self, index: int) -> np.ndarray:
        """The mask of an image that is learned from now."""
        return self.dataset.stored_label(index)

    def _agreement(self, index: int, mask: np.ndarray) -> float:
        both = (torch.from_numpy(one)[None] == 1 for one in (self._standing(index), mask))
        return float(mask_agreement(*both))

    def _is_warming(self, state: TrainingState) -> bool:
        return state.epoch < self.options.label_free.igtt_warmup * self.options.optimization.epochs

    def _is_allowed(self, state: TrainingState, masks: dict[int, np.ndarray], validation: np.ndarray | None) -> bool:
        if self._is_warming(state):
            return False
        proposal = Proposal(
            masks,
            self.agreements,
            lambda *which: self._scores(state, *which)[0],
            self.dataset,
            self.held_out,
            self.foreground,
            validation,
        )
        if self.rule is image_audit and self.figure == -math.inf:  # the first labels have a figure too
            standing = {index: self._standing(index) for index in masks}
            self.figure = self._mean_over_ranks(self.rule(replace(proposal, masks=standing)), 1, state)
        figure = self._mean_over_ranks(self.rule(proposal), 1, state)
        allowed = figure > self.figure or figure == math.inf
        if allowed and figure < math.inf:
            self.figure = figure
        return allowed

    @staticmethod
    def _mean_over_ranks(total: float, count: int, state: TrainingState) -> float:
        summed, number = sum_over_ranks(torch.tensor([total, count], dtype=torch.float32, device=state.device)).tolist()
        return summed / number

    def _propose(self, state: TrainingState) -> dict[int, np.ndarray]:
        """The best mask of every image of this process, uint8 (H, W), oriented; counts scores against them."""
        histogram, masks = torch.zeros(2, BINS, dtype=torch.int64), {}
        for index in self._share():
            scores, image = self._scores(state, self.dataset, index)
            chosen = select_masks(scores, self.options.label_free.igtt_criterion, image.mean(1, keepdim=True))
            mask = orient_masks(chosen, image, self.foreground)[0, 0].to("cpu", torch.uint8)
            histogram += score_histogram(scores[0, 0].cpu(), mask)
            masks[index] = mask.numpy()
        self.histogram = sum_over_ranks(histogram.to(state.device)).cpu()
        return masks

    def _scores(self, state: TrainingState, dataset: SegmentationDataset, index: int) -> tuple[Tensor, Tensor]:
        """Scores float32 (1, 1, H, W) of an image, in eval mode, and the network's input (1, C, H, W)."""
        pixels, scaling = dataset.scaled_pixels(index)
        tensor = torch.from_numpy(scaling(pixels))[None]
        state.predictor.eval()
        predictor = Predictor(state.predictor, state.device, state.precision, self.options.label_free.igtt_tta)
        return predictor(tensor).float(), tensor.to(state.device)

    def _write(self, epoch: int, masks: dict[int, np.ndarray]) -> None:
        for index, mask in masks.items():
            self.store.write(epoch, self.dataset.samples[index].image_id, mask)
        barrier()
        if is_main():
            record: dict[str, Any] = {
                "criterion": self.options.label_free.igtt_criterion,
                "ems": self.options.label_free.igtt_ems,
                "foreground": self.foreground,
                "agreements": self.agreements,
                "figure": str(self.figure),
            }
            self.store.complete(epoch, [sample.image_id for sample in self.dataset.samples], record)
        barrier()

    def _load(self, epoch: int) -> None:
        for index, sample in enumerate(self.dataset.samples):
            self.dataset.set_label(index, self.store.read(epoch, sample.image_id))

    def forget_all_but(self, kept: set[int]) -> None:
        """Remove the masks of epochs that no checkpoint names."""
        self.store.keep_only(kept)

    def is_done(self) -> bool:
        """Whether the run may end: ``--igtt_patience`` refreshes in a row have changed hardly anything."""
        return self.options.label_free.igtt_patience > 0 and has_settled(
            self.agreements, patience=self.options.label_free.igtt_patience
        )

    def decide(self) -> Selection:
        """Threshold and direction by which the scores agree best with the masks chosen from them.

        While the first labels stay nothing is predicted but at the end: the threshold is 0.5 until then.
        """
        histogram = self.histogram.numpy()
        figures = {"agreement": self.agreements[-1]} if self.agreements else {}
        invert = is_inverted(histogram)
        if invert:
            histogram = invert_histogram(histogram)
        return Selection(best_threshold(histogram)[0], invert, math.nan, figures)
