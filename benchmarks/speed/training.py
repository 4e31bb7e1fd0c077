"""Speed of training: images a second, start-up, the paper's recipe, many processes; and whether it costs accuracy."""

from __future__ import annotations

import gc
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

from benchmarks.speed.counts import count, matrix_product
from benchmarks.speed.record import Figure, Settings
from utils.files import read_json, read_jsonl
from utils.run_folder import LOG_ROOT, REPO_ROOT

DATASET, NOISE = "er_sim", "flip:0.3"
# What may shorten a training step on a CPU: options, and environment variables of the process.
CPU_STEPS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "compiled (--compile): batch norm, ReLU and copies fused": ({"compile": True}, {}),
    "activations computed again": ({"network": "unet(activation_checkpointing=true)"}, {}),
    "threads bound to cores": ({}, {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}),
}
# Prints the seconds from the end of `import torch` to the first epoch, by the clock and of CPU time.
UNTIL_FIRST_EPOCH = """
import contextlib, io, json, sys, time
import torch
loaded, used = time.perf_counter(), time.process_time()
from training import fit
class Reached(Exception): pass
def reached(*_, **__): raise Reached
fit.train = reached
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Reached):
    fit.fit(fit.configure(json.loads(sys.argv[1])))
print(time.perf_counter() - loaded, time.process_time() - used)
"""


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in an interpreter of its own, whose peak memory and settings are its own too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_mib(device: str) -> float:
    """Peak memory of this process in MiB: of the GPU where there is one, else resident."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@contextmanager
def removed_run(name: str) -> Iterator[str]:
    """A run name; folders of runs that begin with it are removed before and after."""
    remove_runs(name)
    try:
        yield name
    finally:
        remove_runs(name)


def remove_runs(name: str) -> None:
    """Remove the runs whose names begin with ``name``."""
    for folder in (LOG_ROOT / DATASET).glob(f"{name}*"):
        shutil.rmtree(folder)


def training_options(settings: Settings, **more: Any) -> dict[str, Any]:
    """The options of a run that is timed."""
    from datasets.lists import write_list

    preset = "paper" if settings.device == "cuda" else "quick"
    val_list = LOG_ROOT / DATASET / "speed_val.txt"  # of one image, so that little but training takes time
    write_list(val_list, [(sample.image, sample.label) for sample in samples_of("val")[:1]])
    return {
        "dataset": DATASET,
        "val_list": str(val_list),
        "label_noise": NOISE,
        "preset": preset,
        "device": settings.device,
        "width": settings.width,
        "crop": settings.crop,
        "batch_size": settings.batch_size,
        "repeat": settings.repeat,
        "epochs": 3,
        "audit": False,
        "tensorboard": False,
        **more,
    }


def train_fast(given: dict[str, Any]) -> dict[str, Any]:
    """Train as the command does: images a second of every epoch but the first, CPU time, last loss, peak memory.

    Of trainings of 1, 1 and N epochs the first one warms up; what the third takes beyond the second is the CPU time
    of N − 1 epochs. It says nothing of an accelerator, where the last one is trained alone.
    """
    from training.fit import configure, fit

    on_cpu, last = given["device"] == "cpu", given["epochs"]
    times, peak = [cpu_seconds()], 0.0
    with removed_run("speed_training") as name, redirect_stdout(io.StringIO()):
        for epochs in (1, 1, last) if on_cpu else (last,):
            run = fit(configure({**given, "epochs": epochs, "run_name": f"{name}_{epochs}"}))
            times.append(cpu_seconds())
            records = read_jsonl(run / "metrics.jsonl")
            peak = max([peak, *(record.get("train/peak_memory_mib", 0.0) for record in records)])
        config = read_json(run / "config.json")
    draws = (given["epochs"] - 1) * given["repeat"] * len(samples_of("train/train_gt"))
    return {
        "speeds": [record["train/images_per_second"] for record in records[1:]],
        "cpu_ms": 1000 * (times[3] - 2 * times[2] + times[1]) / draws if on_cpu else math.nan,
        "loss": records[-1]["train/loss"],
        "peak": max(peak, peak_mib(given["device"])),
        "precision": config["used_precision"],
    }


def train_plain(given: dict[str, Any]) -> dict[str, Any]:
    """The same by the plain recipe."""
    from benchmarks.speed.plain import train_plainly
    from training.fit import configure

    samples = samples_of("train/train_gt")
    before = cpu_seconds()
    _, speeds = train_plainly(configure(given), samples, given["device"])
    draws = given["epochs"] * given["repeat"] * len(samples)
    cpu_ms = 1000 * (cpu_seconds() - before) / draws
    return {"speeds": speeds[1:], "cpu_ms": cpu_ms, "peak": peak_mib(given["device"])}


def train_wrapped(given: dict[str, Any]) -> dict[str, Any]:
    """As `train_fast`, as the only process of a process group, which wraps the network in DistributedDataParallel."""
    import torch.distributed as dist

    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if given["device"] == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        found = train_fast(given)
        gc.collect()  # a wrapped network holds the group
        dist.destroy_process_group()
    return found


def cpu_seconds() -> float:
    """CPU time of this process and of the workers that it has waited for."""
    return sum(os.times()[:4])


def samples_of(name: str) -> list[Any]:
    """The samples of a list of the data set that everything is timed on; made on first use."""
    from datasets.catalog import prepare_dataset
    from datasets.lists import find_list, read_list

    prepare_dataset(DATASET, root=REPO_ROOT)
    return read_list(find_list(f"{name}.txt", DATASET))


def measure_training(settings: Settings) -> list[Figure]:
    """Images a second; fast and plain take turns, so that a busy machine slows both."""

    given = training_options(settings)
    fast, plain, exact = [], [], []
    for _ in range(settings.rounds):
        fast.append(in_fresh_process(train_fast, given))
        if settings.baseline:
            plain.append(in_fresh_process(train_plain, given))
            if settings.device == "cpu" and fast[-1]["precision"] != "fp32":
                exact.append(in_fresh_process(train_fast, {**given, "precision": "fp32"}))
    operations, _ = count(settings.width, settings.crop, training=True)
    ceiling = matrix_product(settings, fast[0]["precision"])
    what, goals = described(settings), {**goal_of(settings), "goal_ratio": 5.0 if settings.device == "cuda" else 1.3}
    figures = [_speed(settings, what, fast, plain, goals, share_of_product=_median(fast) * operations / ceiling)]
    if exact:
        figures.append(_speed(settings, f"{what}, in fp32", exact, plain, {}))
    return figures


def measure_compiled(settings: Settings) -> list[Figure]:
    """Images a second of a compiled network, launched kernel by kernel."""
    return _measure_compiled(settings, train_without_graphs, "compiled, without CUDA graphs")


def measure_graphs(settings: Settings) -> list[Figure]:
    """Images a second with ``--compile``, which on a GPU launches a step as one CUDA graph."""
    return _measure_compiled(settings, train_fast, "compiled (--compile)")


def _measure_compiled(settings: Settings, train: Callable[[dict[str, Any]], dict[str, Any]], way: str) -> list[Figure]:
    given = {**training_options(settings), "compile": True}
    results = [in_fresh_process(train, given) for _ in range(settings.rounds)]
    return [_speed(settings, f"{described(settings)}, {way}", results, [], goal_of(settings))]


def measure_cpu_steps(settings: Settings) -> list[Figure]:
    """What may shorten a step on a CPU, each beside training as it is, in turns: images a second, CPU time an image."""
    given, figures = training_options(settings), []
    for way, (more, environment) in CPU_STEPS.items():
        changed, plain = [], []
        for _ in range(settings.rounds):
            plain.append(in_fresh_process(train_fast, given))
            with patch.dict(os.environ, environment):  # the process that is started inherits it
                changed.append(in_fresh_process(train_fast, {**given, **more}))
        figures.append(_speed(settings, f"{described(settings)}, {way}", changed, plain, {"goal_ratio": 1.2}))
    return figures


def train_without_graphs(given: dict[str, Any]) -> dict[str, Any]:
    """As `train_fast`, but ``--compile`` records no CUDA graphs; for a process of its own."""
    import torch

    compile_network = torch.compile
    torch.compile = lambda *network, **settings: compile_network(*network, **{**settings, "mode": None})
    return train_fast(given)


def described(settings: Settings) -> str:
    """The sizes of a training, in words."""
    return f"width {settings.width} at {settings.crop}², batch {settings.batch_size}"


def goal_of(settings: Settings) -> dict[str, Any]:
    """The images a second that are asked of a large GPU."""
    is_asked = (settings.device, settings.width, settings.crop) == ("cuda", 64, 256)
    return {"goal": 1300.0 if is_asked else None}


def _median(results: Sequence[dict[str, Any]]) -> float:
    return statistics.median(speed for result in results for speed in result["speeds"])


def _speed(
    settings: Settings,
    what: str,
    results: list[dict[str, Any]],
    plain: list[dict[str, Any]],
    goals: dict[str, Any],
    **more: Any,
) -> Figure:
    facts = {"precision": results[0]["precision"], "peak MiB": max(result["peak"] for result in results), **more}
    facts |= {"plain peak MiB": max(result["peak"] for result in plain)} if plain else {}
    if plain and settings.device == "cpu":  # a host that waits for its accelerator uses CPU time too
        ours, theirs = (statistics.median(result["cpu_ms"] for result in each) for each in (results, plain))
        facts |= {"CPU ms an image": ours, "plain CPU ms": theirs, "CPU ratio": theirs / ours}
    return Figure(what, "images/s", _median(results), _median(plain) if plain else None, **goals, more=facts)


def run_tool(*arguments: str) -> tuple[subprocess.CompletedProcess, float]:
    """Run a command in the repository's root; its answer and the seconds it took."""
    started = time.perf_counter()
    answer = subprocess.run([sys.executable, *arguments], cwd=REPO_ROOT, capture_output=True, text=True)
    return answer, time.perf_counter() - started


def last_line(answer: subprocess.CompletedProcess) -> str:
    """The last line that a command printed; RuntimeError with its complaint where it failed."""
    if answer.returncode:
        raise RuntimeError(f"{' '.join(answer.args[:4])} … failed:\n{answer.stdout[-2000:]}{answer.stderr[-4000:]}")
    return answer.stdout.strip().splitlines()[-1]


def measure_startup(settings: Settings) -> list[Figure]:
    """Seconds beyond ``import torch`` until the first epoch begins, and of ``--help``."""
    samples_of("train/train_gt")
    tries = 1 if settings.tiny else 3
    figures = []
    for audit in (False, True):
        with removed_run("speed_startup") as name:
            given = json.dumps(
                {"dataset": DATASET, "label_noise": NOISE, "device": settings.device, "run_name": name, "audit": audit}
            )
            lines = [last_line(run_tool("-c", UNTIL_FIRST_EPOCH, given)[0]) for _ in range(tries)]
            seconds, cpu = min([float(number) for number in line.split()] for line in lines)
        what = "to the first epoch, beyond import torch" + (", with the audit" if audit else "")
        figures.append(Figure(what, "s", seconds, goal=None if audit else 1.5, more={"CPU s": cpu}))
    help_times = [run_tool("main.py", "--help")[1] for _ in range(tries)]
    return [*figures, Figure("main.py --help", "s", min(help_times), goal=0.5)]


def measure_processes(settings: Settings) -> list[Figure]:
    """Training in DistributedDataParallel, as a single process on one device, and without it; losses should agree."""
    given = {**training_options(settings), "precision": "fp32"}
    wrapped, alone = in_fresh_process(train_wrapped, given), in_fresh_process(train_fast, given)
    return [
        Figure(
            "in DistributedDataParallel, one process; plain: without it",
            "images/s",
            _median([wrapped]),
            _median([alone]),
            more={"losses": [wrapped["loss"], alone["loss"]]},
        )
    ]
