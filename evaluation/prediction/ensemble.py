"""Several runs as one: the mean of their scores, and how far these lie apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.prediction.out_of_fold import pooled_decision, read_out_of_fold
from evaluation.prediction.predictor import Predictor
from utils.cli import UserError
from utils.files import POSITIVE, read_record
from utils.run_folder import CROSS_FIT, display_path, find_cross_fit, find_run

ALIKE = ("num_classes", "in_channels", "channels", "normalization", "ignore_index")  # options that members share


@dataclass(frozen=True)
class EnsemblePredictor(Predictor):
    """The mean of what several predictors give, each turned into its own direction; one alone with its own passes.

    Args:
        members: at least one; ``network`` is the first one's.
        inversions: whether each one's scores are inverted.
        spread: whether the standard deviation of all passes comes behind the scores, as a further channel.
    """

    members: tuple[Predictor, ...] = ()
    inversions: tuple[bool, ...] = ()
    spread: bool = False

    @classmethod
    def of(cls, members: Sequence[Predictor], inversions: Sequence[bool], spread: bool) -> EnsemblePredictor:
        """Members as one predictor, which computes where and how the first one does."""
        first, shared = members[0], {"members": tuple(members), "inversions": tuple(inversions), "spread": spread}
        return cls(first.network, first.device, first.precision, first.augment, **shared)

    def __reduce__(self) -> tuple[Callable[..., EnsemblePredictor], tuple[object, ...]]:
        return EnsemblePredictor.of, (self.members, self.inversions, self.spread)  # members know how they are sent

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images float32 (B, C, H, W) → scores float32 (B, K, H, W), or (B, K + 1, H, W) with the spread."""
        mean = squares = torch.zeros(())
        count = 0
        for scores in self._passes(images):
            count += 1
            difference = scores - mean
            mean = mean + difference / count
            squares = squares + difference * (scores - mean)
        if not self.spread:
            return mean
        variance = squares.mean(1, keepdim=True) / (count - 1)
        return torch.cat([mean, variance.sqrt()], 1)

    def _passes(self, images: Tensor) -> Iterator[Tensor]:
        for member, inverted in zip(self.members, self.inversions, strict=True):
            for scores in member.passes(images):
                yield 1 - scores if inverted else scores


def find_members(train_dir: str | Path, others: Sequence[str | Path]) -> tuple[Path, list[Path]]:
    """Where results go, and the runs whose scores are averaged; the folder of a cross-fit stands for all of its runs.

    Raises:
        UserError: no such run, one that is named twice, or a cross-fit that is not finished.
    """
    homes, runs = [], []
    for given in (train_dir, *others):
        folder = find_cross_fit(given)
        homes.append(folder or find_run(given))
        if folder is None:
            runs.append(homes[-1])
            continue
        read_out_of_fold(folder)
        count = read_record(folder / CROSS_FIT, {"folds": POSITIVE})["folds"]
        runs += [folder / f"fold_{number}" for number in range(1, count + 1)]
    twice = next((run for place, run in enumerate(runs) if run in runs[:place]), None)
    if twice is not None:
        raise UserError(f"--ensemble: {display_path(twice)} is named twice, its scores would count double")
    return homes[0], runs


def joint_decisions(home: Path, runs: Sequence[Path], checkpoints: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What stands for the checkpoint of an ensemble: threshold and mask offset, and the first one's config and
    images.

    The runs of a cross-fit decide by all of their out-of-fold scores; others by the mean of their decisions.

    Raises:
        UserError: runs that cannot be averaged.
    """
    configs = [checkpoint["config"] for checkpoint in checkpoints]
    for run, config in zip(runs, configs, strict=True):
        for name in ALIKE:
            if config.get(name) != configs[0].get(name):
                raise UserError(
                    f"--ensemble: {display_path(run)} has {name} {config.get(name)}, {display_path(runs[0])} "
                    f"{configs[0].get(name)}: their scores cannot be averaged"
                )
    matrices = [config.get("decode_matrix") for config in configs]
    if any(matrix is not None for matrix in matrices):
        if None in matrices:
            raise UserError("--ensemble: some of the runs correct scores by a transition matrix, others do not")
        configs[0] = {**configs[0], "decode_matrix": np.mean(matrices, 0).tolist()}
    if (home / CROSS_FIT).is_file() and all(run.parent == home for run in runs):
        decisions = read_out_of_fold(home)
    else:
        decisions = {name: pooled_decision(checkpoints, name) for name in ("threshold", "mask_offset")}
    return {
        "config": configs[0],
        "pred_invert": False,  # of the mean; members are turned before
        "threshold": decisions["threshold"],
        "mask_offset": decisions["mask_offset"] or 0.0,
        "own_images": checkpoints[0].get("own_images"),  # whose network alone is watched
    }


def join_predictors(
    predictors: Sequence[Predictor], checkpoints: Sequence[dict[str, Any]], spread: bool
) -> EnsemblePredictor:
    """One predictor of several runs, or of the passes of one.

    Args:
        spread: whether to tell the standard deviation of all passes.
    Raises:
        UserError: a spread of a single pass.
    """
    if spread and len(predictors) == 1 and not predictors[0].augment:
        raise UserError("--spread is how far several scores lie apart: give --tta, --ensemble RUN or a cross-fit")
    is_single = len(predictors) == 1
    return EnsemblePredictor.of(
        predictors, [not is_single and bool(checkpoint["pred_invert"]) for checkpoint in checkpoints], spread
    )
