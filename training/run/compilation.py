"""``--compile``: the network's step as fused kernels, where this machine has a compiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.distributed import world_size


def _increment(values: Tensor) -> Tensor:
    return values + 1


def compiler_fault(device: torch.device) -> str | None:
    """Why this machine cannot compile for ``device``, in one line; None where it can: a small function is tried."""
    try:
        torch.compile(_increment, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # whatever stands in the way: no compiler, no Triton, no headers, an old processor
        lines = [line.strip() for line in str(error).splitlines()]
        told = [line for line in lines if line and not line.endswith("raised:")]  # by which backend is no reason
        return told[0] if told else type(error).__name__
    return None


def compile_network(
    network: nn.Module, device: torch.device, accumulate: int, say: Callable[[str], None], backend: str = "inductor"
) -> nn.Module:
    """A compiled network that shares its weights with ``network``, or ``network`` itself where nothing compiles.

    On CUDA one process records CUDA graphs too: a step is then launched at once, which pays where kernels are small.
    Not with several processes or parts, whose gradients are added up outside of the graphs. Every batch size would be
    compiled anew, so the engine takes ``network`` itself for a last batch that is smaller.

    Args:
        accumulate: parts that a batch is computed in.
        say: told what was decided.
        backend: of ``torch.compile``.
    """
    fault = compiler_fault(device) if backend == "inductor" else None
    if fault is not None:
        say(f"--compile: nothing compiles here ({fault}); going on without")
        return network
    graphs = device.type == "cuda" and world_size() == 1 and accumulate == 1
    say(f"compiling {'with CUDA graphs ' if graphs else ''}in the first steps, which takes a while")
    return torch.compile(network, dynamic=False, mode="reduce-overhead" if graphs else None, backend=backend)
