"""One code path for one process and for many: every function here is a no-op where ``torchrun`` did not start us.

A run of many processes fails as one: the process that fails first says why, and the others end in silence.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # public, but not in __all__
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from utils.cli import RunFailed, UserError
from utils.files import write_json

T = TypeVar("T")


def _patience() -> timedelta:
    text = os.environ.get("SEG_PATIENCE_S", "600")
    try:
        return timedelta(seconds=max(1.0, float(text)))
    except (OverflowError, ValueError):
        raise UserError(f"SEG_PATIENCE_S={text} must be a number of seconds") from None


PATIENCE = _patience()  # of a process that waits for the others: a stopped or hanging one ends all after this time
TIME_TO_SPEAK_S = 3.0  # that a process whose connection broke leaves the one that broke it to say why
TORCHRUNS_TICK_S = 1.1  # torchrun calls the failure of the earliest second the cause
FAILURES = "failures"  # counted in the store that the processes share
LOST = (
    "lost contact with another process, which was killed or whose machine or network is gone (or all waited for it "
    f"longer than {PATIENCE.total_seconds():g} s, which SEG_PATIENCE_S sets)"
)


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """The number of processes that share this machine's processors and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def launcher() -> str:
    """What to type before ``main.py`` for a run of as many processes as this one."""
    if world_size() == 1:
        return "python"
    machines = "" if local_world_size() == world_size() else "… "  # of the launch
    return f"torchrun {machines}--nproc_per_node {local_world_size()}"


def say_once(line: str) -> None:
    """Print a line, in the main process alone."""
    if is_main():
        print(line, flush=True)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` started (NCCL on CUDA, else Gloo) and leave them at the end.

    Raises:
        RunFailed: without a message, in place of any error, where another process has failed first.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    store = _join(device)
    try:
        yield
    except BaseException as error:
        # The group is not taken down, which would wait for processes that are gone.
        _fail_as_one(error, store)
    # A wrapped network still holds the group, and Gloo aborts the process when it is freed only at exit; being part
    # of reference cycles, it goes with the garbage.
    gc.collect()
    dist.destroy_process_group()


def _join(device: torch.device) -> Store:
    """Make the process group and return the store that it shares."""
    on_gpu = device.type == "cuda"
    try:
        store, number, count = next(rendezvous("env://", timeout=PATIENCE))
        joined = store.add(f"joined_by_{number}", 1)  # a program may train several times
        store = PrefixStore(f"group_{joined}", store)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=number,
            world_size=count,
            timeout=PATIENCE,
            device_id=device if on_gpu else None,
        )
    except ValueError as error:
        raise UserError(f"{error}: start several processes by torchrun, or unset WORLD_SIZE") from None
    except RuntimeError as error:
        raise RunFailed(f"the processes of the run could not join: {error}") from error
    return store


def _fail_as_one(error: BaseException, store: Store) -> NoReturn:
    """Raise the error with this process's name where it is the first to fail, else an empty RunFailed."""
    with contextlib.suppress(ValueError):  # outside the main thread
        for number in (signal.SIGINT, signal.SIGTERM):  # torchrun stops all when one has ended: let that one finish
            signal.signal(number, signal.SIG_IGN)
    lost, follows = _is_lost_contact(error), isinstance(error, RunFailed) and not str(error)
    patience_s = TIME_TO_SPEAK_S if lost or follows else 0
    if not _fails_first(store, patience_s, claims=not follows):
        time.sleep(TORCHRUNS_TICK_S)
        _tell_torchrun("ended because another process failed first")
        raise RunFailed from error
    if lost:
        failure = RunFailed(LOST)
        failure.__notes__ = [*getattr(error, "__notes__", [])]
        error, failure.__cause__ = failure, error
    if isinstance(error, (UserError, KeyboardInterrupt)):
        error.said_elsewhere = False  # type: ignore[union-attr]
    if not isinstance(error, KeyboardInterrupt):
        error.add_note(f"rank {rank()} of {world_size()}, on {platform.node()}")
        _tell_torchrun(f"{type(error).__name__}: {error}")
    raise error


def _is_lost_contact(error: BaseException) -> bool:
    """Whether the error is a connection's. Gloo's are plain RuntimeErrors that name its source files."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _fails_first(store: Store, patience_s: float, claims: bool) -> bool:
    """Whether no other process has failed by now or within ``patience_s``, and this one ``claims`` to be the first."""
    deadline = time.monotonic() + patience_s
    try:
        while time.monotonic() < deadline and store.add(FAILURES, 0) == 0:
            time.sleep(0.05)
        return claims and store.add(FAILURES, 1) == 1
    except RuntimeError:  # the store went with the process that kept it
        return claims


def _tell_torchrun(reason: str) -> None:
    """Hand ``torchrun`` the reason for its summary, in the form in which it asks for one."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        details = {"py_callstack": reason, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError):  # the disk may be full, which may be the reason
            write_json(path, {"message": {"message": reason, "extraInfo": details}})


def local_device(device_type: str) -> torch.device:
    """The device of this process: its own GPU where several share a machine.

    Raises:
        UserError: ``torchrun`` started more processes than this machine has GPUs.
    """
    if device_type != "cuda" or "LOCAL_RANK" not in os.environ:
        return torch.device(device_type)
    number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= gpus and "TORCHELASTIC_RUN_ID" in os.environ:
        error = UserError(
            f"process {number + 1} on {platform.node()} has no GPU of its own: give torchrun --nproc_per_node {gpus}, "
            "or train on processors with --device cpu"
        )
        error.said_elsewhere = number > gpus
        raise error
    device = torch.device("cuda", number % gpus)  # a scheduler may show every process its own GPU alone
    torch.cuda.set_device(device)
    return device


def distributed(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network with gradients that are averaged over processes; itself where there is one process."""
    if not dist.is_initialized():
        return network
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.13
    once_an_epoch: dict[str, Any] = {name: False}  # of running statistics only the main process's are used
    return DistributedDataParallel(
        network, device_ids=[device.index] if device.type == "cuda" else None, **once_an_epoch
    )


def synchronize_batch_norm(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """The network with batch norms whose statistics are those of all processes' images.

    Raises:
        UserError: on a device that has none, or without any batch norm.
    """
    if device.type != "cuda":
        raise UserError(
            f"--sync_batchnorm works on NVIDIA and AMD GPUs, not on {device.type}: leave it out, or take "
            '--network "NAME(norm=group)", which looks at one image at a time'
        )
    if not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()):
        raise UserError("--sync_batchnorm: the network has no batch norm; leave it out")
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of ``tensor`` over all processes (in place where there are several)."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def from_main(compute: Callable[[], T]) -> T:
    """What ``compute`` returns in the main process, on every process.

    Raises:
        RunFailed: without a message, on the other processes, where ``compute`` raised anything in the main one.
    """
    if not dist.is_initialized():
        return compute()
    answer: list[Any] = [None, None]
    error = None
    if is_main():
        try:
            answer = [True, compute()]
        except Exception as raised:
            answer, error = [False, None], raised
    dist.broadcast_object_list(answer, src=0)
    succeeded, value = answer
    if not succeeded:
        raise error or RunFailed
    return value


def copy_buffers_from_main(network: torch.nn.Module) -> None:
    """Give every process the main one's buffers, such as running statistics, which drift apart while training."""
    if dist.is_initialized():
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def barrier() -> None:
    """Wait until every process has come here."""
    if dist.is_initialized():
        dist.barrier()
