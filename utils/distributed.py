"""One code path for one process and for many: every function here is a no-op where ``torchrun`` did not start us."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from utils.cli import UserError

T = TypeVar("T")


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


@contextmanager
def process_group(device_type: str) -> Iterator[None]:
    """Join the processes that ``torchrun`` started (NCCL on CUDA, else Gloo) and leave them at the end."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield
    finally:
        # A wrapped network still holds the group, and Gloo aborts the process when it is freed only at exit; being
        # part of reference cycles, it goes with the garbage.
        gc.collect()
        dist.destroy_process_group()


def local_device(device_type: str) -> torch.device:
    """The device of this process: its own GPU where several share a machine."""
    if device_type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    return torch.device(device_type)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of ``tensor`` over all processes (in place where there are several)."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def from_main(compute: Callable[[], T]) -> T:
    """What ``compute`` returns in the main process, on every process; a UserError there is raised on all."""
    if not dist.is_initialized():
        return compute()
    box: list[Any] = [None]
    if is_main():
        try:
            box = [compute()]
        except UserError as error:
            box = [error]
    dist.broadcast_object_list(box, src=0)
    if isinstance(box[0], UserError):
        box[0].said_elsewhere = not is_main()
        raise box[0]
    return box[0]


def copy_buffers_from_main(network: torch.nn.Module) -> None:
    """Give every process the main one's buffers, such as running statistics, which drift apart while training."""
    if dist.is_initialized():
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def barrier() -> None:
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()
