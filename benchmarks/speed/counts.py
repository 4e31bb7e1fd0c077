"""What a network's arithmetic and memory traffic must take: operations and bytes counted, ceilings measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.record import Figure, Settings, median_ms
from models import build_network
from models.blocks import fold_batch_norms
from utils.device import PRECISIONS

MATRIX = {"cpu": 2048, "mps": 4096, "cuda": 8192}  # rows of the square matrices of the largest product
COPIED = {"cpu": 2**27, "mps": 2**28, "cuda": 2**30}  # bytes


class ByteCounter(TorchDispatchMode):
    """Adds up the bytes that operators read and write; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if not operator.is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.bytes += sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, torch.Tensor))
        return result


def count(width: int, size: int, training: bool, batch: int = 8) -> tuple[float, float]:
    """Operations and bytes for one image of ``size``² in a U-Net in bf16, nothing computed.

    Multiplications and additions count one each. Bytes are those of the operators as PyTorch runs them one after the
    other, inputs and outputs, without what caches save and what a kernel reads twice; of a training step the weights
    count, the optimizer does not.

    Args:
        training: forward and backward of the loss; else the forward pass with batch norms folded.
        batch: images that share the reading of the weights.
    """
    with torch.device("meta"):
        network = build_network("unet", width=width).to(torch.bfloat16).train(training)
    if not training:
        network = fold_batch_norms(network)
    images = torch.empty(batch, 1, size, size, device="meta", dtype=torch.bfloat16)
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as operations, ByteCounter() as traffic:
        logits = network(images)
        if training:
            logits.sum().backward()
    return operations.get_total_flops() / batch, traffic.bytes / batch


def synchronize(device: str) -> None:
    """Wait for what an accelerator still has to do."""
    if device != "cpu":
        getattr(torch, device).synchronize()


def clock(device: str) -> Callable[[], float]:
    """What times a computation: processor time where one thread does it all, else the time that passes."""
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def fastest_seconds(function: Callable[[], None], device: str, seconds: float, turns: int = 5) -> float:
    """Seconds of a call at its fastest, for ceilings, which a busy machine only hides."""
    return min(median_ms(function, seconds / turns, least=1, clock=clock(device)) for _ in range(turns)) / 1000


def matrix_rows(settings: Settings) -> int:
    """Rows of the largest product's matrices."""
    return 256 if settings.tiny else MATRIX[settings.device]


def matrix_product(settings: Settings, precision: str) -> float:
    """Operations a second of the product of two large square matrices in ``bf16``, ``fp16`` or ``fp32``."""
    device, rows, dtype = settings.device, matrix_rows(settings), PRECISIONS[precision] or torch.float32
    left, right = (torch.randn(rows, rows, device=device, dtype=torch.float32).to(dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        synchronize(device)

    return 2 * rows**3 / fastest_seconds(multiply, device, settings.seconds)


def large_copy(device: str, size: int, seconds: float) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        synchronize(device)

    return 2 * size / fastest_seconds(copy, device, seconds)


def measure_ceilings(settings: Settings) -> list[Figure]:
    """The device's largest matrix product and copy, and the images a second that they would allow in bf16."""
    rows, size = matrix_rows(settings), 2**20 if settings.tiny else COPIED[settings.device]
    product, exact = (matrix_product(settings, precision) for precision in ("bf16", "fp32"))
    copy = large_copy(settings.device, size, settings.seconds)
    return [
        Figure(f"product of {rows}² matrices, bf16", "GFLOP/s", product / 1e9),
        Figure(f"product of {rows}² matrices, fp32", "GFLOP/s", exact / 1e9),
        Figure(f"copy of {size / 2**20:.0f} MiB, read and written", "GB/s", copy / 1e9),
        bound(
            f"training, width {settings.width} at {settings.crop}²",
            count(settings.width, settings.crop, training=True),
            product,
            copy,
        ),
        bound(f"prediction, width {settings.width} at 256²", count(settings.width, 256, training=False), product, copy),
    ]


def bound(what: str, counts: tuple[float, float], product: float, copy: float) -> Figure:
    """Images a second if arithmetic and memory worked at their ceilings, one after the other."""
    operations, traffic = counts
    arithmetic, memory = operations / product, traffic / copy
    return Figure(
        f"bound: {what}",
        "images/s",
        1 / (arithmetic + memory),
        more={
            "GFLOP an image": operations / 1e9,
            "MB an image": traffic / 1e6,
            "ms of arithmetic": 1000 * arithmetic,
            "ms of memory": 1000 * memory,
        },
    )
