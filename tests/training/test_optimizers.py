"""Optimizers and schedules: known factors, exact resumption, extension without a jump."""

from __future__ import annotations

import io
from dataclasses import asdict

import pytest
import torch
from torch import nn

from training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    Restart,
    build_optimizer,
    build_schedule,
    learning_rate_factor,
    restart_at,
)
from utils.cli import UserError


def make_optimizer(lr: float = 0.1, name: str = "sgd") -> torch.optim.Optimizer:
    return build_optimizer(name, [nn.Parameter(torch.ones(3))], lr)


def rates(schedule, steps: int) -> list[float]:
    """The learning rates of the next steps."""
    seen = []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name):
    weight = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = build_optimizer(name, [weight], lr=0.1, weight_decay=1e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert weight.detach().abs().max() < 0.05


def test_options_reach_the_optimizer():
    weight = nn.Parameter(torch.ones(1))
    sgd = build_optimizer("sgd", [weight], lr=0.1, weight_decay=0.01, momentum=0.8).param_groups[0]
    assert (sgd["lr"], sgd["weight_decay"], sgd["momentum"]) == (0.1, 0.01, 0.8)
    assert build_optimizer("adamw", [weight], lr=0.1, momentum=0.8).param_groups[0]["betas"] == (0.8, 0.999)


@pytest.mark.parametrize(
    ("name", "step", "options", "expected"),
    [
        ("constant", 57, {}, 1),
        ("step", 39, {"steps_per_epoch": 2}, 1),
        ("step", 40, {"steps_per_epoch": 2}, 0.1),
        ("step", 99, {"steps_per_epoch": 1, "step_epochs": 30, "gamma": 0.5}, 0.125),
        ("cosine", 0, {}, 1),
        ("cosine", 50, {"final": 0.0}, 0.5),
        ("cosine", 100, {}, 0.01),
        ("cosine", 60, {"warmup_steps": 20, "final": 0.0}, 0.5),
        ("poly", 50, {"power": 2, "final": 0.0}, 0.25),
        ("poly", 100, {}, 0.01),
        ("one_cycle", 0, {}, 0.04),
        ("one_cycle", 15, {}, 0.52),
        ("one_cycle", 30, {}, 1),
        ("one_cycle", 10, {"warmup_steps": 10}, 1),
        ("one_cycle", 100, {}, 0.01),
        ("constant", 0, {"warmup_steps": 4}, 0.2),
        ("step", 3, {"warmup_steps": 4}, 0.8),
        ("cosine", 4, {"warmup_steps": 4}, 1),
    ],
)
def test_known_factors(name, step, options, expected):
    assert learning_rate_factor(name, step, total_steps=100, **options) == pytest.approx(expected)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup_steps", [0, 7])
@pytest.mark.parametrize("total_steps", [1, 2, 50])
def test_factors_are_shares_and_reach_the_top_after_warmup(name, warmup_steps, total_steps):
    warmup_steps = min(warmup_steps, total_steps)
    factors = [learning_rate_factor(name, step, total_steps, warmup_steps=warmup_steps) for step in range(60)]
    assert all(0 < factor <= 1 for factor in factors)
    if total_steps == 50:
        top = factors.index(max(factors))
        assert factors[top] == pytest.approx(1)
        assert factors[: top + 1] == sorted(factors[: top + 1]) and factors[top:] == sorted(factors[top:], reverse=True)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_schedule_goes_on_exactly(name):
    options = {"total_steps": 40, "steps_per_epoch": 10, "warmup_steps": 5, "step_epochs": 2}
    whole = rates(build_schedule(name, make_optimizer(), **options), 40)
    optimizer = make_optimizer()
    schedule = build_schedule(name, optimizer, **options)
    first = rates(schedule, 17)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "step": schedule.last_epoch}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    optimizer = make_optimizer()
    optimizer.load_state_dict(saved["optimizer"])
    schedule = build_schedule(name, optimizer, **options, step=saved["step"])
    assert first + rates(schedule, 23) == whole


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_extended_run_learns_again_without_a_jump(name):
    optimizer = make_optimizer()
    first = rates(build_schedule(name, optimizer, 40, steps_per_epoch=10, step_epochs=2), 40)
    highest, reached = optimizer.param_groups[0]["initial_lr"], optimizer.param_groups[0]["lr"]
    again = make_optimizer()
    again.load_state_dict(optimizer.state_dict())
    restart = restart_at(40, again)
    schedule = build_schedule(name, again, 140, steps_per_epoch=10, step=40, restart=restart)
    added = rates(schedule, 100)
    assert added[0] == pytest.approx(reached) and added[0] <= first[-1]
    assert max(added) == pytest.approx(max(reached, highest / 2)) == restart.peak
    top = added.index(max(added))
    assert top <= 10 and added == sorted(added[:top]) + sorted(added[top:], reverse=True)
    assert again.param_groups[0]["lr"] == pytest.approx(0.01 * restart.peak)
    resumed = build_schedule(name, again, 140, steps_per_epoch=10, step=47, restart=Restart(**asdict(restart)))
    assert rates(resumed, 93) == added[7:]


def test_groups_keep_their_ratio():
    groups = [{"params": [nn.Parameter(torch.ones(1))]}, {"params": [nn.Parameter(torch.ones(1))], "lr": 0.01}]
    schedule = build_schedule("cosine", build_optimizer("sgd", groups, lr=0.1), total_steps=10)
    for _ in range(10):
        first, second = schedule.get_last_lr()
        assert first == pytest.approx(10 * second)
        schedule.optimizer.step()
        schedule.step()


def test_unknown_names_are_listed():
    with pytest.raises(UserError, match="sgd, adam, adamw"):
        make_optimizer(name="lion")
    with pytest.raises(UserError, match="constant, step, cosine, poly, one_cycle"):
        build_schedule("linear", make_optimizer(), total_steps=10)
