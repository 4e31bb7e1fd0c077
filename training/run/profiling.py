"""``--profile``: where the time of a few steps goes, as a trace to look at in Chrome or Perfetto."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from utils.distributed import is_main
from utils.run_folder import display_path

TRACED = 3  # steps in the trace
BEFORE = 5  # steps before it: caches fill and algorithms are chosen; the last of them warms up the profiler
TRACE = "profile.json"  # in the run folder


def traced_steps(
    batches: Iterable[dict[str, Any]], steps: int, device: torch.device, run: Path, log: Callable[[str], None]
) -> Iterator[Any]:
    """The batches as they come, while a few of the steps that are made of them are traced into ``run / TRACE``.

    Args:
        steps: their number; of few, the last ones are traced.
        log: told where the trace lies. Other processes than the main one trace nothing.
    """
    if not is_main():
        yield from batches
        return
    traced = min(TRACED, max(1, steps - 1))
    before = min(BEFORE, steps - traced)
    warmup = min(1, before)

    def write(profiler: profile) -> None:
        temporary = run / f".{TRACE}.tmp"
        profiler.export_chrome_trace(str(temporary))
        os.replace(temporary, run / TRACE)

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    plan = schedule(wait=before - warmup, warmup=warmup, active=traced, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write, record_shapes=True) as profiler:
        for batch in batches:
            yield batch
            profiler.step()
    log(f"profile of a few steps: {display_path(run / TRACE)}, for ui.perfetto.dev or chrome://tracing")
