"""What a run carries from epoch to epoch, how it is built, and how it goes into a checkpoint and comes back."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from datasets.segmentation import steps_before
from evaluation.prediction.model_card import CARD
from training.engine import EmaTeacher, unwrap_model
from training.losses.module import SegmentationLoss
from training.optimizers import Restart, build_schedule, change_rate, load_optimizer, restart_at
from training.options import OptimizationOptions, TrainingOptions
from training.selection import LabelNoiseFacts, Selection
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.files import COUNT, LIST, OBJECT, POSITIVE, Kind, atomic_write, check_record, plain, read_json_if_whole
from utils.run_folder import display_path

CHECKPOINT_FIELDS = {
    "model": Kind("weights by name", lambda value: OBJECT.accepts(value) and all(map(torch.is_tensor, value.values()))),
    "optimizer": OBJECT,
    "scheduler": OBJECT,
    "scaler": OBJECT,
    "epoch": POSITIVE,
    "best": OBJECT,
    "config": OBJECT,
}
# That no run changes, and that tell runs apart; not the folder's name or the data's, which move.
OWN_OPTIONS = ("network", "loss", "optimizer", "batch_size", "crop", "label_noise", "seed")
REAL = Kind("a number", lambda value: isinstance(value, (int, float)))  # NaN where nothing can be chosen by
AUTO = "auto"  # of --resume


def _itself(network: nn.Module) -> nn.Module:
    return network


@dataclass
class TrainingState:
    """Everything that changes while a run goes on.

    Args:
        schedule: None until the number of steps is known.
        labels: what is known of their noise.
        scores: the same of what the scores are about, which differs where the loss undoes the noise.
        channels_last: whether activations are stored with channels last.
        epoch: epochs completed.
        saved: the last epoch whose checkpoint was handed to the disk.
        best: epoch and metric of the best checkpoint so far; None before the first.
        restart: how the learning rate goes on where a resumed run has a new number of epochs, else None.
        teacher: the moving average of the network, with ``--ema``.
        predictor_of: the network that predicts, of those that are trained.
        memory: what a method has to remember from epoch to epoch: tensors, numbers, text and containers of them.
    """

    network: nn.Module
    loss: SegmentationLoss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    schedule: LRScheduler | None
    precision: str
    device: torch.device
    labels: LabelNoiseFacts
    scores: LabelNoiseFacts
    channels_last: bool
    epoch: int = 0
    saved: int = 0
    best: dict[str, Any] | None = None
    restart: Restart | None = None
    teacher: EmaTeacher | None = None
    predictor_of: Callable[[nn.Module], nn.Module] = _itself
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def unwrapped_network(self) -> nn.Module:
        """The network without the wrapper of distributed training."""
        return unwrap_model(self.network)

    @property
    def predictor(self) -> nn.Module:
        """The network that predicts: the teacher where there is one."""
        return self.predictor_of(self.unwrapped_network if self.teacher is None else self.teacher.network)

    def rank(self, selection: Selection, error: float = 0.0) -> None:
        """Remember the epoch that was completed if it is the best so far; of equals the earliest is.

        Args:
            error: of differences of the metric, by which an epoch may lie below the highest and be the best as the
                last one that does.
        """
        highest = None if self.best is None else self.best.get("highest", self.best["figure"])
        # An undefined metric (nothing to choose by) compares false, so that the last epoch is the best then.
        if highest is None or not (selection.metric < highest - error if error else selection.metric <= highest):
            tables = None if selection.tables is None else torch.from_numpy(selection.tables)
            self.best = {
                "epoch": self.epoch,
                "figure": selection.metric,
                "threshold": selection.threshold,
                "tables": tables,
                "mask_offset": selection.offset,
                "invert": selection.invert,
            }
            if error:
                self.best["highest"] = float(np.fmax(selection.metric, np.nan if highest is None else highest))


def seed_everything(seed: int, epoch: int) -> None:
    """Make all hidden random streams a function of (seed, epoch), so that a resumed run meets the same ones."""
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002 - for libraries that draw from NumPy's global stream
    torch.manual_seed(mixed)


def add_schedule(
    optimization: OptimizationOptions, state: TrainingState, steps_per_epoch: float, step: int = 0
) -> None:
    """Give ``state`` its learning-rate schedule.

    Args:
        step: optimizer steps that the run has taken.
    """
    state.schedule = build_schedule(
        optimization.schedule,
        state.optimizer,
        total_steps=steps_before(optimization.epochs, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        step=step,
        restart=state.restart,
        warmup_steps=round(optimization.warmup_epochs * steps_per_epoch),
        step_epochs=optimization.step_epochs,
        gamma=optimization.step_gamma,
    )


def checkpoint_content(
    state: TrainingState, config: dict[str, Any], threshold: float | None, pred_invert: bool, mask_offset: float = 0.0
) -> dict[str, Any]:
    """The contract's checkpoint keys; ``rng`` holds what all randomness of the next epoch derives from.

    ``model`` are the weights to predict with. Where others are trained (``--ema``, several networks), these are
    ``student``. ``mask_offset`` is there where masks have one, ``memory`` where the method has something to remember.
    """
    content = {
        "model": state.predictor.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": {"step": state.schedule.last_epoch},  # all else follows from the options
        "scaler": state.scaler.state_dict(),
        "epoch": state.epoch,
        "best": state.best,
        "threshold": threshold,
        "pred_invert": pred_invert,
        "rng": {"seed": config["seed"], "epoch": state.epoch},
        "config": config,
    }
    if mask_offset:
        content["mask_offset"] = mask_offset
    if state.predictor is not state.unwrapped_network:
        content["student"] = state.unwrapped_network.state_dict()
    if state.teacher is not None:
        content["teacher_updates"] = state.teacher.updates
    if state.memory:
        content["memory"] = state.memory
    return content


def _checkpoints(run: Path) -> list[Path]:
    """What a run can be resumed from, the newest first: ``last.pth``, then the numbered ones."""
    numbers = [re.fullmatch(r"epoch_(\d+)\.pth", path.name) for path in (run / "checkpoints").glob("epoch_*.pth")]
    epochs = sorted((int(number[1]) for number in numbers if number), reverse=True)
    return [run / "checkpoints" / f"{name}.pth" for name in ("last", *(f"epoch_{epoch}" for epoch in epochs))]


def has_checkpoint(run: Path) -> bool:
    """Whether a run has finished an epoch and can be resumed."""
    return any(path.exists() for path in _checkpoints(run))


def load_last(run: Path, say: Callable[[str], object] = print) -> dict[str, Any]:
    """The newest whole checkpoint of a run that is to be resumed.

    Args:
        say: told where ``last.pth`` is lost or damaged, and another is taken.
    Raises:
        UserError: there is none; where the only ones are damaged, what is wrong with the newest.
    """
    if not has_checkpoint(run):
        last = _checkpoints(run)[0]
        raise UserError(f"{display_path(last)} does not exist: the run ended before its first epoch; start it anew")
    faults: list[str] = []
    config = read_json_if_whole(run / "config.json")
    for path in _checkpoints(run):
        try:
            checkpoint = check_content(load_checkpoint(path), path)
            _check_own(checkpoint, config, path)
        except UserError as fault:
            faults.append(str(fault))
            continue
        if faults:
            say(f"{faults[0]}; going on after epoch {checkpoint['epoch']} from {path.name}, the newest whole one")
        return checkpoint
    raise UserError(faults[0])


def put_best_back(run: Path, best: int, say: Callable[[str], object] = print) -> bool:
    """Have ``best.pth`` be of the epoch that a resumed run knows as its best; what came later is discarded.

    Args:
        best: that epoch.
    Returns: whether it is; else its weights are lost, and the next epoch is the best.
    """
    folder = run / "checkpoints"
    for path in (folder / f"{name}.pth" for name in ("best", f"epoch_{best}", "last")):
        with contextlib.suppress(UserError):
            if load_checkpoint(path)["epoch"] != best:
                continue
            if path.name != "best.pth":
                say(f"best.pth is put back from {path.name}: it was not, or no longer, that of epoch {best}")
                with open(path, "rb") as source, atomic_write(folder / "best.pth") as copy:
                    shutil.copyfileobj(source, copy)
            return True
    say(f"the best epoch so far, {best}, is lost with its checkpoint: the best one is chosen from the next on")
    return False


def check_content(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """The checkpoint, where what a resumed run takes from it is there.

    Raises:
        UserError: naming the file and what is missing.
    """
    remedy = "take another checkpoint of the run, or start it anew"
    check_record(checkpoint, path, CHECKPOINT_FIELDS, remedy=remedy)
    check_record(checkpoint["config"], f"{path}, config", {"seed": COUNT, "epochs": POSITIVE}, remedy=remedy)
    check_record(checkpoint["scheduler"], f"{path}, scheduler", {"step": COUNT}, remedy=remedy)
    check_record(checkpoint["optimizer"], f"{path}, optimizer", {"param_groups": LIST, "state": OBJECT}, remedy=remedy)
    check_record(checkpoint["best"], f"{path}, best", {"epoch": POSITIVE, "figure": REAL}, remedy=remedy)
    broken = [name for name, value in checkpoint["model"].items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{display_path(path)} holds weights that are not finite ({broken[0]}); {remedy}")
    return checkpoint


def _check_own(checkpoint: dict[str, Any], config: Any, path: Path) -> None:
    """Raise a UserError where a checkpoint was put into the folder of a run that was made in another way."""
    made, wanted = checkpoint["config"], config if isinstance(config, dict) else {}
    other = [name for name in OWN_OPTIONS if name in made and name in wanted and plain(made[name]) != wanted[name]]
    if other:
        name = other[0]
        raise UserError(
            f"{display_path(path)} is of another run: it has {name} {made[name]!r}, and config.json {wanted[name]!r}"
        )


def is_finished(run: Path, epochs: int, completed: int) -> bool:
    """Whether a run has trained all its epochs and was closed: its model card comes last, and knows their number."""
    card = read_json_if_whole(run / CARD)
    recipe = card.get("recipe") if isinstance(card, dict) else None
    return completed >= epochs and isinstance(recipe, dict) and recipe.get("epochs") == epochs


def check_work_left(options: TrainingOptions, run: Path, completed: int) -> None:
    """Raise a UserError where nothing is left to do for a run that is to go on."""
    if options.optimization.epochs < completed:
        raise UserError(
            f"--epochs {options.optimization.epochs}: the run has completed {completed} epochs; to extend it give "
            "--epochs above that"
        )
    if options.run.resume == AUTO:  # a job may be queued again, or a process be lost, after the last epoch
        return
    if options.run.stop_after is not None and options.run.stop_after <= completed:
        raise UserError(f"--stop_after {options.run.stop_after}: the run has completed {completed} epochs already")
    if is_finished(run, options.optimization.epochs, completed):
        raise UserError(f"the run has completed {completed} epochs; to extend it give --epochs above that")


def restore(
    optimization: OptimizationOptions, state: TrainingState, checkpoint: dict[str, Any], steps_per_epoch: float
) -> None:
    """Fill ``state`` from a checkpoint, exactly as the run left it.

    Raises:
        UserError: its content does not fit the network or optimizer of the run.
    """
    try:
        _restore(optimization, state, checkpoint, steps_per_epoch)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the checkpoint after epoch {checkpoint['epoch']} does not fit the run: {reason}; take another one, "
            "or start the run anew"
        ) from error


def _restore(
    optimization: OptimizationOptions, state: TrainingState, checkpoint: dict[str, Any], steps_per_epoch: float
) -> None:
    old = checkpoint["config"]
    if checkpoint.get("loss"):
        raise UserError(
            f"the run learned ν of its loss {old['loss']}, which is fixed now: predict with it as before, or train "
            'anew with --loss "tloss(nu=…)"'
        )
    state.network.load_state_dict(checkpoint["student" if "student" in checkpoint else "model"])
    if state.teacher is not None:
        state.teacher.load_state_dict({"network": checkpoint["model"], "updates": checkpoint["teacher_updates"]})
    load_optimizer(state.optimizer, checkpoint["optimizer"])
    if checkpoint["scaler"]:  # empty where the run was not in fp16, as it may be on this device
        state.scaler.load_state_dict(checkpoint["scaler"])
    state.memory = checkpoint.get("memory", {})
    state.epoch = state.saved = checkpoint["epoch"]
    state.best = checkpoint["best"]
    change_rate(state.optimizer, optimization.lr / old.get("lr", optimization.lr))
    state.restart = _earlier_restart(old, steps_per_epoch)
    step = checkpoint["scheduler"]["step"]
    if optimization.epochs != old["epochs"]:
        state.restart = restart_at(step, state.optimizer)
    add_schedule(optimization, state, steps_per_epoch, step)


def _earlier_restart(config: dict[str, Any], steps_per_epoch: float) -> Restart | None:
    """The restart that a run had made by the time it wrote ``config``; earlier versions annealed without a rise."""
    if config.get("annealing"):
        epoch, lr = config["annealing"]["epoch"], config["annealing"]["lr"]
        return Restart(steps_before(int(epoch), steps_per_epoch), lr, peak=lr)
    return Restart(**config["restart"]) if config.get("restart") else None
