"""The device and the arithmetic that ``auto`` stands for."""

from __future__ import annotations

import pytest
import torch

from utils import device
from utils.cli import UserError
from utils.device import autocast, choose_device, choose_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({}, "fp32"), ({"avx512_bf16": False}, "fp32"), ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16")],
)
def test_auto_is_bf16_on_processors_that_multiply_in_it(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", CPU) == precision
    assert choose_precision("fp32", CPU) == "fp32" and choose_precision("fp16", CPU) == "fp16"


def test_auto_is_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_pass_computes_in_the_precision(precision, dtype):
    with autocast(CPU, precision):
        assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == dtype


def test_an_absent_device_is_named_with_those_that_exist(monkeypatch):
    monkeypatch.setattr(device, "accelerator", lambda: "mps")
    assert choose_device("auto") == "mps" and choose_device("cpu") == "cpu"
    with pytest.raises(UserError, match="--device cuda is not available; this machine has: cpu, mps"):
        choose_device("cuda")
