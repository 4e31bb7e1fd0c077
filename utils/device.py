"""Where a computation runs and in what arithmetic, for training, validation and prediction alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from utils.errors import UserError

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
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
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


@contextmanager
def tuned_convolutions() -> Iterator[None]:
    """Let cuDNN time its algorithms once for every new size of input and keep the fastest; for inputs of few sizes."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def start_memory_metrics(device: torch.device) -> int:
    """Bytes that are in use on a CUDA device, whose peak is measured from here on; 0 elsewhere."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def memory_metrics(device: torch.device, held: int) -> dict[str, float]:
    """MiB in use at the peak, and how much of them are not what was ``held`` at the start: activations for the most.

    Returns: empty but on CUDA, where memory is what training runs out of.
    """
    if device.type != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated(device)
    return {"peak_memory_mib": peak / 2**20, "activation_memory_mib": (peak - held) / 2**20}
