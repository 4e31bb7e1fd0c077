"""A bad step changes nothing, whether the host looks at every step or the device decides; nobody waits meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import build_network
from training.engine import train_one_epoch
from training.losses import SegmentationLoss
from training.optimizers import build_optimizer, build_schedule, can_be_fused, load_optimizer
from training.step_guard import NonFiniteLoss, StepGuard

CPU = torch.device("cpu")
WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal")


class Training:
    """A small network with batch norm."""

    def __init__(
        self,
        optimizer: str = "sgd",
        spec: str = "tloss",
        fused: bool = True,
        device: torch.device = CPU,
        memory_format: torch.memory_format = torch.contiguous_format,
    ):
        torch.manual_seed(0)
        self.network = build_network("lightunet", width=4, init="kaiming").to(device, memory_format=memory_format)
        self.loss = SegmentationLoss(spec, 1).to(device)
        self.optimizer = build_optimizer(optimizer, self.network.parameters(), 0.1, fused=fused)
        self.schedule = build_schedule("constant", self.optimizer, total_steps=10)
        self.device = device

    def run(self, *batches: dict[str, torch.Tensor], **options: Any) -> float:
        scaler = torch.amp.GradScaler(self.device.type, enabled=False)
        return train_one_epoch(
            self.network, batches, self.loss, self.optimizer, self.schedule, scaler, device=self.device, **options
        ).loss

    def state(self) -> list[torch.Tensor]:
        """Weights, running statistics and the optimizer's memory."""
        memory = [value for state in self.optimizer.state.values() for value in state.values()]
        values = [*self.network.state_dict().values(), *memory]
        return copy.deepcopy([value for value in values if isinstance(value, torch.Tensor)])


def make_batch(seed: int, bad: float | None = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 1, 16, 16, generator=generator)
    if bad is not None:
        images[1, 0, 3, 3] = bad
    return {"image": images, "label": torch.randint(0, 2, (2, 16, 16), generator=generator).to(torch.uint8)}


def spoil_gradient(network: nn.Module, step: int) -> None:
    """Make the gradient of the given step NaN while its loss stays finite."""
    count = iter(range(1, 100))
    network.head.weight.register_hook(lambda gradient: gradient * (float("nan") if next(count) == step else 1.0))


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(("fused", "read_every"), [(False, None), (True, None), (True, 2), (True, 50)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "gradient"])
def test_a_bad_step_and_those_after_it_change_nothing(optimizer, fused, read_every, bad):
    expected, training = Training(optimizer, fused=fused), Training(optimizer, fused=fused)
    expected.run(make_batch(1))
    if bad == "gradient":
        spoil_gradient(training.network, step=2)
    second = make_batch(2, None if bad == "gradient" else bad)
    with pytest.raises(NonFiniteLoss, match=r"step 2 of the epoch.*weights were not changed"):
        training.run(make_batch(1), second, make_batch(3), read_every=read_every)
    assert_same(training.state(), expected.state())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_how_often_the_host_reads_changes_nothing(optimizer):
    often, seldom = Training(optimizer), Training(optimizer)
    batches = [make_batch(seed) for seed in range(3)]
    assert often.run(*batches) == seldom.run(*batches, read_every=50)
    assert_same(often.state(), seldom.state())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_fused_and_plain_optimizers_agree_and_exchange_their_state(optimizer):
    plain, fused = Training(optimizer, "bce", fused=False), Training(optimizer, "bce")
    for seed in range(2):
        plain.run(make_batch(seed))
        fused.run(make_batch(seed))
        for one, other in zip(plain.network.parameters(), fused.network.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)
        load_optimizer(fused.optimizer, copy.deepcopy(plain.optimizer.state_dict()))
        fused.network.load_state_dict(plain.network.state_dict())
        assert all(group["fused"] is True for group in fused.optimizer.param_groups)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_memory_of_another_layout_is_brought_back_as_it_is_meant(optimizer):
    kept, moved = (Training(optimizer, "bce", memory_format=torch.channels_last) for _ in range(2))
    kept.run(make_batch(0))
    saved = copy.deepcopy(kept.optimizer.state_dict())
    for memory in saved["state"].values():  # as a device without channels last saves it
        memory |= {name: value.contiguous() for name, value in memory.items() if value.ndim}
    load_optimizer(moved.optimizer, saved)
    moved.network.load_state_dict(kept.network.state_dict())
    for training in (kept, moved):
        training.run(make_batch(1))
    assert_same(kept.state(), moved.state())


def test_an_fp16_overflow_skips_the_step_and_training_goes_on():
    training = Training("sgd", "bce")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    guard = StepGuard(training.network, training.optimizer, scaler, read_every=50)
    spoil_gradient(training.network, step=1)
    before = [parameter.detach().clone() for parameter in training.network.parameters()]
    for seed in range(2):
        guard.begin()
        batch = make_batch(seed)
        value = training.loss(training.network(batch["image"]), batch["label"])
        scaler.scale(value).backward()
        guard.step(value.detach())
        if seed == 0:
            assert_same(before, [parameter.detach() for parameter in training.network.parameters()])
    guard.read()
    assert scaler.get_scale() == 2.0
    momenta = [state["momentum_buffer"] for state in training.optimizer.state.values()]
    gradients = [parameter.grad for parameter in training.network.parameters()]
    assert_same(momenta, gradients)  # nothing of the skipped step is left in them


class WaitRecorder(TorchDispatchMode):
    """Notes the operations for which a host must wait for its device."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split(".")[0]
        by_mask = name in ("aten::index", "aten::index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or by_mask:
            self.met.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("spec", ["bce+0.5*dice", "dmi+iou", "tloss", "boundary+cldice", "nr_dice+focal+gce"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_no_operation_of_a_step_waits_for_the_device(spec, optimizer):
    training = Training(optimizer, spec)
    with WaitRecorder() as recorder:
        training.run(make_batch(1), make_batch(2), read_every=50, clip_grad=1.0, accumulate=2)
    assert recorder.met == []
    with WaitRecorder() as recorder:
        assert torch.ones(2).sum() > 1
    assert recorder.met


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("bad", [None, float("nan")])
def test_cuda_trains_without_waiting_and_skips_bad_steps(optimizer, bad):
    device = torch.device("cuda")
    training, expected = Training(optimizer, device=device), Training(optimizer, device=device)

    made = [make_batch(seed, bad if seed == 2 else None) for seed in (1, 2, 3)]
    on_device = [{name: value.to(device) for name, value in batch.items()} for batch in made]

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for batch in on_device:
            yield batch
            torch.cuda.set_sync_debug_mode("error")  # from the second step on, when everything is allocated
        torch.cuda.set_sync_debug_mode("default")

    arguments = (training.network, batches(), training.loss, training.optimizer, training.schedule)
    scaler = torch.amp.GradScaler("cuda", enabled=False)
    try:
        if bad is None:
            train_one_epoch(*arguments, scaler, device=device)
            return
        with pytest.raises(NonFiniteLoss, match="step 2"):
            train_one_epoch(*arguments, scaler, device=device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected.run(make_batch(1))
    for one, other in zip(training.state(), expected.state(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_devices_with_fused_optimizers_that_skip_steps():
    assert can_be_fused(CPU) and can_be_fused(torch.device("cuda")) and not can_be_fused(torch.device("mps"))
