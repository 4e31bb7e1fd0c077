"""Where a computation runs and in what arithmetic, for training, validation and prediction alike."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from utils.cli import UserError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def accelerator() -> str:
    """The best device type of this machine: ``cuda``, ``mps`` or ``cpu``."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_device(name: str) -> str:
    """Turn ``auto`` into this machine's best device type; UserError where the one asked for is absent."""
    best = accelerator()
    if name not in ("auto", "cpu", best):
        raise UserError(f"--device {name} is not available; this machine has: {', '.join(sorted({'cpu', best}))}")
    return best if name == "auto" else name


def choose_precision(name: str, device: torch.device) -> str:
    """Turn ``auto`` into bf16 where the device computes with it, fp16 on older GPUs, fp32 elsewhere."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if device.type == "cpu" and cpu_computes_bf16() else "fp32"


def cpu_computes_bf16() -> bool:
    """Whether the processor multiplies in bf16 (AVX-512 BF16 or AMX) rather than emulating it, which is slow."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.11
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context of the forward pass: nothing for fp32, else autocast to bf16 or fp16."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor in memory that CUDA copies from without waiting; as it is for other devices."""
    return tensor.pin_memory() if device.type == "cuda" else tensor
