"""A teacher is the moving average of its student, weights and statistics alike."""

from __future__ import annotations

import torch
from torch import nn

from training.engine import EmaTeacher


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1))


def move(network: nn.Module, step: float) -> None:
    """Change every weight and statistic by ``step``; counters by one."""
    for value in network.state_dict().values():
        value += step if value.is_floating_point() else 1


def test_the_teacher_follows_the_published_average():
    network = small_network()
    teacher = EmaTeacher(network, decay=0.5)
    expected = network[0].weight.clone()
    for update in range(1, 30):
        move(network, 0.1)
        teacher.update(network)
        alpha = min(0.5, (1 + update) / (10 + update))
        expected = alpha * expected + (1 - alpha) * network[0].weight
    assert torch.allclose(teacher.network[0].weight, expected, atol=1e-6)
    assert torch.allclose(network[0].weight - teacher.network[0].weight, torch.tensor(0.1), atol=1e-3), (
        "lags by α/(1−α)"
    )
    assert torch.allclose(teacher.network[1].running_mean, network[1].running_mean - 0.1, atol=1e-3)
    assert teacher.network[1].num_batches_tracked == network[1].num_batches_tracked
    assert not teacher.network.training and not any(p.requires_grad for p in teacher.network.parameters())


def test_the_student_is_left_alone_and_a_still_one_is_copied():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    teacher = EmaTeacher(network)
    for _ in range(5):
        teacher.update(network)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(teacher.network.state_dict()[name], value)


def test_a_restored_teacher_goes_on_exactly():
    network = small_network()
    teacher = EmaTeacher(network, 0.9)
    move(network, 0.3)
    teacher.update(network)
    state = {key: value if key == "updates" else dict(value) for key, value in teacher.state_dict().items()}
    restored = EmaTeacher(small_network(), 0.9)
    restored.load_state_dict(state)
    move(network, -0.7)
    for each in (teacher, restored):
        each.update(network)
    for ours, theirs in zip(teacher.network.state_dict().values(), restored.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
