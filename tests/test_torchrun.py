"""``torchrun … main.py``: everything is said once, a failed process ends all with one message, a restart goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import torchrun
from training.fit import configure, fit
from utils.checkpoint import load_checkpoint
from utils.files import read_json, read_jsonl

# Runs main.py, and in the second process of the first attempt does some harm before a step.
HARM = """
import os, runpy, signal, sys
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel

harm, step, *sys.argv[1:] = sys.argv[1:]
torchrun = os.getppid()
steps_left = int(step)

def do_harm(module, inputs):
    global steps_left
    if not isinstance(module, DistributedDataParallel):
        return
    steps_left -= 1
    if steps_left or os.environ["RANK"] == "0" or os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
        return
    if harm == "full_disk":
        raise OSError(28, "No space left on device")
    if harm == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if harm == "interrupt":
        os.kill(torchrun, signal.SIGINT)

register_module_forward_pre_hook(do_harm)
sys.argv[0] = "main.py"
runpy.run_path("main.py", run_name="__main__")
"""
OPTIONS = {
    "dataset": "disks",
    "train_list": "train_gt",
    "epochs": 3,
    "width": 4,
    "crop": 32,
    "batch_size": 4,
    "seed": 3,
    "network": "unet(norm=group)",
    "precision": "fp32",
    "device": "cpu",
    "tensorboard": False,
}
COMMAND = [part for name, value in OPTIONS.items() for part in (f"--{name}", value) if name != "tensorboard"]
COMMAND.append("--no_tensorboard")
IN_EPOCH_3 = 5  # the step, of two in an epoch


@pytest.fixture(scope="module")
def harmful(workspace: Path) -> Path:
    script = workspace / "harm.py"
    script.write_text(HARM)
    return script


@pytest.mark.parametrize(("harm", "message"), [("full_disk", "rank 1 of 2, on "), ("interrupt", "interrupted\n")])
def test_a_failed_process_ends_all_with_one_message_and_a_usable_checkpoint(harmful, workspace, harm, message):
    answer = torchrun(harmful, harm, IN_EPOCH_3, *COMMAND, "--run_name", harm, "--no_audit", cwd=workspace)
    assert answer.returncode != 0 and answer.stderr.count(message) == 1, answer.stderr
    assert answer.stderr.count("Traceback (most") == 1, answer.stderr  # torchrun's own
    run = Path("train_log") / "disks" / harm
    assert answer.stderr.count(f"--nproc_per_node 2 main.py --resume {run}\n") == 1, answer.stderr
    assert load_checkpoint(workspace / run / "checkpoints" / "last.pth")["epoch"] in (1, 2)


def test_a_failure_of_the_main_process_alone_reaches_the_others(workspace):
    (workspace / "train_log").rename(workspace / "kept")
    (workspace / "train_log").touch()  # a file where a folder is to be made
    try:
        answer = torchrun("main.py", *COMMAND, "--no_audit", cwd=workspace)
    finally:
        (workspace / "train_log").unlink()
        (workspace / "kept").rename(workspace / "train_log")
    assert answer.returncode != 0 and answer.stderr.count("rank 0 of 2, on ") == 1, answer.stderr
    assert "rank 1 of 2" not in answer.stderr and answer.stderr.count("Traceback (most") == 1, answer.stderr


def test_a_killed_process_is_restarted_and_the_run_goes_on(harmful, workspace):
    auto = ("--run_name", "killed", "--resume", "auto")
    answer = torchrun(harmful, "kill", IN_EPOCH_3, *COMMAND, *auto, cwd=workspace, max_restarts=1)
    assert answer.returncode == 0, answer.stderr
    lost = any(reason in answer.stderr for reason in ("lost contact with another process", "stopped by SIGTERM"))
    assert lost and "going on after epoch " in answer.stdout, answer.stderr  # torchrun may be quicker than the loss
    assert all(answer.stdout.count(f"\nepoch {epoch}/3") == 1 for epoch in (1, 3)), answer.stdout
    (run,) = (workspace / "train_log" / "disks").glob("killed*")
    assert len(read_json(run / "config.json")["resumed"]) == 1
    whole = fit(configure({**OPTIONS, "preset": "quick", "run_name": "whole"}, workspace), workspace)
    for one, two in zip(*(read_jsonl(folder / "metrics.jsonl") for folder in (whole, run)), strict=True):
        assert two["epoch"] == one["epoch"] and two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-3)
