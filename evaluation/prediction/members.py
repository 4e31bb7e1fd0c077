"""The runs that predict together, or one alone: loaded once, with what decides their masks and how they compute."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluation.prediction.ensemble import find_members, join_predictors, joint_decisions
from evaluation.prediction.model_formats import ENGINES, FP32_ENGINES
from evaluation.prediction.other_labs import recalibrate
from evaluation.prediction.predictor import Predictor, find_checkpoint, load_network
from evaluation.prediction.settings import MapSettings, Picture
from models.blocks import fold_batch_norms
from utils.cli import UserError, one_of
from utils.device import PRECISIONS, choose_device, choose_precision
from utils.run_folder import display_path

BATCH_SIZE = {"cpu": 4, "cuda": 32, "mps": 32}  # larger batches are slower on a CPU: caches overflow


@dataclass(frozen=True)
class Members:
    """The runs whose scores are averaged, or one alone; make them with `load`.

    Args:
        home: the run folder that results go to; of a cross-fit the folder of its runs.
        networks: of the runs, in evaluation mode, on ``device``.
        files, checkpoints, epochs: the checkpoint of each run, what it holds and its completed epoch.
        decisions: what stands for the checkpoint of all: config, threshold, inversion and mask offset.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        engine, tta: see `load`.
    """

    home: Path
    runs: Sequence[Path]
    networks: Sequence[nn.Module]
    files: Sequence[Path]
    checkpoints: Sequence[dict[str, Any]]
    epochs: Sequence[int]
    decisions: dict[str, Any]
    device: torch.device
    precision: str
    engine: str
    tta: bool

    @classmethod
    def load(
        cls,
        train_dir: str | Path,
        which: str = "best",
        *,
        ensemble: Sequence[str | Path] = (),
        device: str = "auto",
        precision: str = "auto",
        engine: str = "torch",
        tta: bool = False,
    ) -> Members:
        """Load the networks of runs.

        Args:
            train_dir: run folder, a path or ``<dataset>/<run>``; that of a cross-fit is the ensemble of its runs.
            which: checkpoint of each: ``best``, ``last`` or the number of a completed epoch.
            ensemble: further runs, whose scores are averaged with its own.
            precision: ``fp32``, ``bf16``, ``fp16`` or ``auto``: fp32 if the run was told so, else by the device.
            engine: what computes, a key of ``model_formats.ENGINES``; all but ``torch`` need an export, and a CPU.
            tta: average the scores of the eight flips and rotations.
        Raises:
            UserError: no such run or checkpoint, or runs that cannot be averaged.
        """
        target = torch.device(choose_device(engine_device(engine, device)))
        home, runs = find_members(train_dir, ensemble)
        networks, checkpoints, epochs = zip(*(load_network(run, which, target) for run in runs), strict=True)
        decisions = joint_decisions(home, runs, checkpoints) if len(runs) > 1 else checkpoints[0]
        return cls(
            home=home,
            runs=runs,
            networks=networks,
            files=[find_checkpoint(run, which) for run in runs],
            checkpoints=checkpoints,
            epochs=epochs,
            decisions=decisions,
            device=target,
            precision=used_precision(precision, decisions["config"], target, engine),
            engine=engine,
            tta=tta,
        )

    @property
    def config(self) -> dict[str, Any]:
        """The run's config; of several the first one's, in which they are alike."""
        return self.decisions["config"]

    def recalibrate(self, pictures: Sequence[Picture], settings: MapSettings) -> None:
        """Count the statistics of batch norm of every network anew on these pictures.

        Raises:
            UserError: see `evaluation.prediction.other_labs.recalibrate`.
        """
        for network in self.networks:
            recalibrate(network, pictures, settings, device=self.device, precision=self.precision, engine=self.engine)

    def predictor(self, spread: bool = False) -> Predictor:
        """What computes the scores of all, and with ``spread`` their standard deviation; the networks stay.

        Raises:
            UserError: no export for the engine, or a spread of a single pass.
        """
        parts = [self._predictor_of(*part) for part in zip(self.networks, self.runs, self.files, strict=True)]
        return join_predictors(parts, self.checkpoints, spread) if len(parts) > 1 or spread else parts[0]

    def _predictor_of(self, network: nn.Module, run: Path, file: Path) -> Predictor:
        if self.engine == "torch":
            return Predictor(fold_batch_norms(copy.deepcopy(network)), self.device, self.precision, augment=self.tta)
        from evaluation.prediction.engines import load_engine

        return load_engine(self.engine, run, file, device=self.device, precision=self.precision, tta=self.tta)

    @property
    def result_name(self) -> str:
        """How the folder of results begins."""
        return "ensemble" if len(self.runs) > 1 else f"epoch_{self.epochs[0]}"

    def describe(self) -> dict[str, Any]:
        """Which runs and checkpoints these are; for ``predictions.json``."""
        first = {
            "run": display_path(self.home),
            "epoch": self.epochs[0],
            "dataset": self.config["dataset"],
            "checkpoint": display_path(self.files[0]),
        }
        several = {"runs": [display_path(run) for run in self.runs], "epochs": self.epochs}
        return first | several if len(self.runs) > 1 else first


def engine_device(engine: str, asked: str) -> str:
    """The device that is asked for; of all engines but torch, which compute from exports, the CPU.

    Raises:
        UserError: an engine that does not exist, or a GPU for one that computes on the CPU.
    """
    if one_of(engine, tuple(ENGINES), "engine") == "torch":
        return asked
    if asked not in ("auto", "cpu"):
        raise UserError(f"--engine {engine} computes on the processor: leave --device out, or take --engine torch")
    return "cpu"


def used_precision(asked: str, config: dict[str, Any], device: torch.device, engine: str = "torch") -> str:
    """The arithmetic of a prediction: as asked, and for ``auto`` fp32 if the run was told so, else by the device.

    Args:
        engine: one of FP32_ENGINES computes in nothing else.
    Raises:
        UserError: arithmetic that the engine does not have.
    """
    one_of(asked, ("auto", *PRECISIONS), "--precision")
    if engine in FP32_ENGINES and asked not in ("auto", "fp32"):
        raise UserError(f"--engine {engine} computes in fp32: leave --precision {asked} out, or take --engine openvino")
    told_fp32 = asked == "auto" and (config.get("precision") == "fp32" or engine in FP32_ENGINES)
    return "fp32" if told_fp32 else choose_precision(asked, device)
