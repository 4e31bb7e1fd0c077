"""Optimizers and learning-rate schedules by name.

A schedule is a pure function from the step to the share of the highest learning rate that this step uses, so a
resumed run goes on exactly where it was, and a plot of the schedule needs no optimizer. Importing this file costs no
torch, so that ``--help`` can list the names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.cli import one_of
from utils.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim.lr_scheduler import LambdaLR

ADAM_BETA2 = 0.999


OPTIMIZERS = Registry({"sgd": "torch.optim:SGD", "adam": "torch.optim:Adam", "adamw": "torch.optim:AdamW"})


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Make an optimizer.

    Args:
        name: a key of ``OPTIMIZERS``.
        parameters: parameters, or parameter groups.
        lr: the highest learning rate; schedules multiply it by factors of at most 1.
        weight_decay: added to the gradient by ``sgd`` and ``adam``, decoupled from it in ``adamw``. It acts on every
            parameter, as in the recipe of Luo et al. (AAAI-22); hand in parameter groups to exempt some.
        momentum: of SGD; for the Adams, their first beta.
        fused: one kernel for all parameters, see :func:`can_be_fused`.
    Raises:
        UserError: unknown name.
    """
    make = OPTIMIZERS[one_of(name, tuple(OPTIMIZERS), "optimizer")]
    memory = {"momentum": momentum} if name == "sgd" else {"betas": (momentum, ADAM_BETA2)}
    optimizer = make(parameters, lr=lr, weight_decay=weight_decay, fused=fused or None, **memory)
    if fused and name == "sgd" and momentum:  # else a skipped first step would leave its memory as it was found
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = parameter.detach().clone().zero_()
    return optimizer


def can_be_fused(device: torch.device) -> bool:
    """Whether fused optimizers of ``device`` are there and can skip a step by themselves (MPS has none of these)."""
    return device.type in ("cpu", "cuda")


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Bring an optimizer's state back, also on another device than it was saved on.

    Fused it stays as it is built, and its memory gets the memory format of the parameters, which fused kernels need.
    """
    import torch

    groups = [
        {**saved, "fused": built.get("fused")}
        for saved, built in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for parameter, memory in optimizer.state.items():
        for name, value in memory.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim:
                memory[name] = torch.empty_like(parameter).copy_(value)


def change_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply the learning rate of an optimizer, and the highest one that its schedule refers to."""
    for group in optimizer.param_groups if factor != 1 else ():
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] *= factor


@dataclass(frozen=True)
class Plan:
    """What a schedule may depend on.

    Args:
        total_steps: steps of the whole run.
        steps_per_epoch: optimizer steps in an epoch.
        warmup_steps: steps of linear warm-up; they are part of ``total_steps``.
        step_epochs: epochs between two drops of ``step``.
        gamma: factor of each drop of ``step``.
        power: exponent of ``poly``.
        final: share of the highest rate at which ``cosine``, ``poly`` and ``one_cycle`` end.
        rise: share of ``total_steps`` in which ``one_cycle`` rises where no warm-up is given.
        start: share of the highest rate at which ``one_cycle`` starts.
    """

    total_steps: int
    steps_per_epoch: float = 1
    warmup_steps: int = 0
    step_epochs: int = 20
    gamma: float = 0.1
    power: float = 0.9
    final: float = 0.01
    rise: float = 0.3
    start: float = 0.04

    def progress(self, step: int, begin: int) -> float:
        """The share, in [0, 1], of the steps from ``begin`` to the end that lies before ``step``."""
        return min(max((step - begin) / max(self.total_steps - begin, 1), 0.0), 1.0)


def _cosine_between(high: float, low: float, progress: float) -> float:
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))


def _constant(step: int, plan: Plan) -> float:
    return 1.0


def _step(step: int, plan: Plan) -> float:
    return plan.gamma ** (step // (plan.steps_per_epoch * plan.step_epochs))


def _cosine(step: int, plan: Plan) -> float:
    return _cosine_between(1.0, plan.final, plan.progress(step, plan.warmup_steps))


def _poly(step: int, plan: Plan) -> float:
    return plan.final + (1 - plan.final) * (1 - plan.progress(step, plan.warmup_steps)) ** plan.power


def _one_cycle(step: int, plan: Plan) -> float:
    top = plan.warmup_steps or round(plan.rise * plan.total_steps)
    if step < top:
        return _cosine_between(plan.start, 1.0, step / top)
    return _cosine_between(1.0, plan.final, plan.progress(step, top))


SCHEDULES: dict[str, Callable[[int, Plan], float]] = {
    "constant": _constant,
    "step": _step,
    "cosine": _cosine,
    "poly": _poly,
    "one_cycle": _one_cycle,
}
OWN_WARMUP = ("one_cycle",)


def learning_rate_factor(name: str, step: int, total_steps: int, **options: Any) -> float:
    """The share of the highest learning rate that a step uses.

    Args:
        name: a key of ``SCHEDULES``: ``constant``; ``step``, × gamma every ``step_epochs``; ``cosine`` and ``poly``,
            from 1 after the warm-up down to ``final`` at the end; ``one_cycle``, a cosine from ``start`` up to 1
            (during the warm-up, else 30 % of the run) and a cosine down to ``final`` (Smith & Topin 2019).
        step: 0 for the first step; from ``total_steps`` on, ``cosine``, ``poly`` and ``one_cycle`` stay at ``final``.
        total_steps: steps of the whole run.
        options: the other fields of :class:`Plan`. During ``warmup_steps`` the factor is multiplied by
            (step + 1) / (warmup_steps + 1); ``one_cycle`` has its own rise instead.
    Returns: a factor in (0, 1] for gamma at most 1.
    Raises:
        UserError: unknown name.
    """
    schedule = SCHEDULES[one_of(name, tuple(SCHEDULES), "schedule")]
    plan = Plan(total_steps, **options)
    factor = schedule(step, plan)
    if step < plan.warmup_steps and name not in OWN_WARMUP:
        factor *= (step + 1) / (plan.warmup_steps + 1)
    return factor


@dataclass(frozen=True)
class Restart:
    """How the learning rate goes on in a run that was given more epochs than it was planned for.

    A schedule that has come to its end leaves a rate that learns nothing, so it rises again to half of the highest,
    unless it is still above that; it never jumps.

    Args:
        step: the first step of the additional epochs.
        lr: the rate that the run had reached, of the first parameter group.
        peak: the rate that it rises to.
    """

    step: int
    lr: float
    peak: float

    SHARE = 0.5  # of the highest rate, that is risen to
    RISE = 0.1  # share of the remaining steps in which it rises

    def rate(self, step: int, total_steps: int, final: float = Plan.final) -> float:
        """The learning rate: a cosine from ``lr`` up to ``peak``, then one down to ``final`` · ``peak`` at the end."""
        top = self.step + (round(self.RISE * (total_steps - self.step)) if self.peak > self.lr else 0)
        if step < top:
            return _cosine_between(self.lr, self.peak, (step - self.step) / (top - self.step))
        return self.peak * _cosine_between(1.0, final, Plan(total_steps).progress(step, top))


def restart_at(step: int, optimizer: torch.optim.Optimizer) -> Restart:
    """The restart of a run at ``step``, from the learning rates recorded in its optimizer."""
    group = optimizer.param_groups[0]
    return Restart(step, group["lr"], max(group["lr"], Restart.SHARE * group.get("initial_lr", group["lr"])))


def build_schedule(
    name: str,
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    steps_per_epoch: float = 1,
    *,
    step: int = 0,
    restart: Restart | None = None,
    **options: Any,
) -> LambdaLR:
    """Make the learning-rate schedule of a run and set the learning rate of the next step.

    Args:
        name: a key of ``SCHEDULES``.
        optimizer: its learning rates are the highest ones, or those that an earlier schedule recorded in it.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps in an epoch.
        step: steps taken so far.
        restart: for a run whose number of epochs was changed; the named schedule then no longer counts.
        options: ``warmup_steps``, ``step_epochs``, ``gamma``, ``power``, … as in :class:`Plan`.
    Raises:
        UserError: unknown name.
    """
    from torch.optim.lr_scheduler import LambdaLR

    one_of(name, tuple(SCHEDULES), "schedule")
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])

    def factor(step: int) -> float:
        if restart is not None:
            return restart.rate(step, total_steps) / optimizer.param_groups[0]["initial_lr"]
        return learning_rate_factor(name, step, total_steps, steps_per_epoch=steps_per_epoch, **options)

    return LambdaLR(optimizer, factor, last_epoch=step - 1)
