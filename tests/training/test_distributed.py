"""Runs of two processes: they equal runs of one, fail as one with one message, and go on after a restart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import build_network
from tests.conftest import torchrun, write_disk_dataset
from training.data import load_data
from training.fit import configure, fit
from training.label_free import PseudoLabels
from training.label_free.store import PseudoLabelStore
from training.run.build import make_state
from training.run.lists import read_lists
from training.selection import LabelNoiseFacts
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.distributed import local_device, synchronize_batch_norm
from utils.files import read_jsonl
from utils.run_folder import REPO_ROOT

# In float64, so that only a wrong sum tells two processes from one; rounding does not.
RUNS_IN_FLOAT64 = """
import sys
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from models.unet import LightUNet
from training.fit import configure, fit
from training.step_guard import NonFiniteLoss
from utils.cli import UserError
from utils.distributed import process_group, rank, world_size

torch.set_default_dtype(torch.float64)
steps_to_poison = 0

def prepare(module, inputs):
    global steps_to_poison
    if isinstance(module, LightUNet) and module.training:
        steps_to_poison -= 1
        if steps_to_poison == 0 and rank() == world_size() - 1:
            return (inputs[0].double() * float("nan"),)
    return tuple(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)

register_module_forward_pre_hook(prepare)
root = Path(sys.argv[1])
SMALL = {
    "dataset": "disks", "preset": "quick", "network": "lightunet(norm=group)", "width": 4, "crop": 32,
    "precision": "fp32", "optimizer": "sgd", "lr": 0.05, "tensorboard": False, "checkpoint_every": 1, "epochs": 3,
    "audit": False,
}

def run(**given):
    return fit(configure({**SMALL, **given}, root), root)

with process_group(torch.device("cpu")):
    noisy = {"label_noise": "flip:0.3", "label_noise_refresh": "epoch"}
    parts = {"batch_size": 5, "repeat": 2, "accumulate": 2, "clip_grad": 0.5}  # of 16 draws, the last batch has one
    run(run_name="labels", loss="bce+0.5*dice", audit=True, **noisy, **parts)
    folder = run(run_name="resumed", loss="tloss", batch_size=4, stop_after=1)
    fit(configure({"resume": str(folder)}, root), root)
    run(run_name="igtt", igtt=True, batch_size=3)
    caught = []
    try:
        run(run_name="little", batch_size=1, epochs=1)
    except UserError as error:
        caught.append(str(error))
    steps_to_poison = 3
    try:
        run(run_name="poisoned", batch_size=4)
    except NonFiniteLoss as error:
        caught.append(str(error))
    run(run_name="statistics", igtt=True, network="lightunet(norm=batch)", batch_size=4, stop_after=2)
    (root / f"caught_by_{rank()}.txt").write_text("\\n".join(caught))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders ``train_log/disks`` of the same runs by one process and by two."""
    folders = []
    for processes in (1, 2):
        root = write_disk_dataset(tmp_path_factory.mktemp(f"by_{processes}"))
        script = root / "runs.py"
        script.write_text(RUNS_IN_FLOAT64)
        env = {"PYTHONPATH": str(REPO_ROOT)}
        if processes == 1:
            answer = subprocess.run(
                [sys.executable, script, root], cwd=root, capture_output=True, text=True, env={**os.environ, **env}
            )
        else:
            answer = torchrun(script, root, cwd=root, env=env)
        assert answer.returncode == 0, answer.stderr
        assert "deprecated" not in answer.stderr
        folders.append(root / "train_log" / "disks")
    return folders[0], folders[1]


@pytest.mark.parametrize("name", ["labels", "resumed", "igtt", "poisoned"])
def test_two_processes_equal_one_at_equal_global_batch(runs, name):
    one, two = (load_checkpoint(folder / name / "checkpoints" / "last.pth") for folder in runs)
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-9, atol=1e-11)
    assert one["epoch"] == two["epoch"] == (1 if name == "poisoned" else 3)
    assert (two["best"]["epoch"], two["threshold"]) == (one["best"]["epoch"], one["threshold"])
    records = [read_jsonl(folder / name / "metrics.jsonl") for folder in runs]
    for record in sum(records, []):
        assert record.pop("train/images_per_second") > 0
    assert len(records[0]) == one["epoch"] and [pytest.approx(record, rel=1e-6) for record in records[0]] == records[1]


def test_all_processes_meet_the_same_errors(runs):
    for processes, folder in enumerate(runs, start=1):
        messages = [path.read_text().splitlines() for path in folder.parents[1].glob("caught_by_*.txt")]
        assert len(messages) == processes
        for *refused, stopped in messages:
            assert stopped.startswith("step 1 of the epoch: the loss is nan")
            assert [message.startswith("--batch_size 1") for message in refused] == [True] * (processes > 1)


def test_pseudo_labels_do_not_depend_on_the_number_of_processes(runs):
    one, two = (sorted((folder / "igtt" / "igtt").glob("*/*.png")) for folder in runs)
    assert len(one) == 4 * 8 and [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_all_processes_predict_with_the_statistics_that_are_kept(runs, tmp_path):
    folder = runs[1] / "statistics"
    root = folder.parents[2]
    options = configure({"resume": str(folder)}, root)
    data = load_data(options, read_lists(options, root, print), torch.device("cpu"))
    labels = PseudoLabels(options, data)
    state = make_state(options, data, torch.device("cpu"), LabelNoiseFacts(), labels, folder)
    labels.begin(state, folder)
    labels.store = PseudoLabelStore(tmp_path / "igtt")
    labels.refresh(state)
    written = sorted((folder / "igtt" / "epoch_2").glob("*.png"))
    assert len(written) == 8
    for path in written:
        assert path.read_bytes() == (tmp_path / "igtt" / "epoch_2" / path.name).read_bytes()


def test_resume_auto_starts_a_run_and_goes_on_with_it(disks, capsys):
    def run(**given) -> str:
        options = {"dataset": "disks", "preset": "quick", "width": 4, "crop": 32, "tensorboard": False, "audit": False}
        options |= {"epochs": 2, "resume": "auto", "run_name": "run"}
        return fit(configure({**options, **given}, disks), disks).name

    assert run(stop_after=1) == "run"
    assert "going on" not in capsys.readouterr().out
    assert run() == "run"
    assert "going on after epoch 1\n" in capsys.readouterr().out
    assert run() == "run"  # a process was lost, or the job queued again, after the last epoch
    assert "epoch 2/2" not in capsys.readouterr().out
    last = disks / "train_log" / "disks" / "run" / "checkpoints" / "last.pth"
    weights = load_checkpoint(last)["model"]
    for path in last.parent.iterdir():
        path.unlink()
    assert run() == "run"  # a process was lost in the first epoch
    assert all(torch.equal(value, weights[name]) for name, value in load_checkpoint(last)["model"].items())
    with pytest.raises(UserError, match="--seed 1 differs from the run's --seed 0"):
        run(seed=1)
    with pytest.raises(UserError, match="--resume auto .* --run_name"):
        run(run_name=None)


def test_batch_norm_is_synchronized_on_gpus_alone():
    network = build_network("lightunet", width=4)
    names = set(network.state_dict())
    synchronized = synchronize_batch_norm(network, torch.device("cuda"))
    assert set(synchronized.state_dict()) == names
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in synchronized.modules())
    with pytest.raises(UserError, match="--sync_batchnorm works on"):
        synchronize_batch_norm(build_network("lightunet", width=4), torch.device("cpu"))
    with pytest.raises(UserError, match="has no batch norm"):
        synchronize_batch_norm(build_network("lightunet", width=4, norm="group"), torch.device("cuda"))


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for number, is_said in ((2, True), (3, False)):
        monkeypatch.setenv("LOCAL_RANK", str(number))
        with pytest.raises(UserError, match="--nproc_per_node 2") as refusal:
            local_device("cuda")
        assert refusal.value.said_elsewhere is not is_said
