"""The three commands as users type them: the whole path, and what each mistake is answered with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

TRAIN = (
    "main.py",
    "--dataset",
    "disks",
    "--train_list",
    "train_gt",
    "--epochs",
    2,
    "--width",
    4,
    "--crop",
    32,
    "--batch_size",
    4,
    "--seed",
    3,
)


@pytest.fixture(scope="module")
def trained(workspace: Path) -> Path:
    """The folder of one short run of the command, with its output in ``stdout.txt``."""
    command = [sys.executable, *map(str, TRAIN), "--run_name", "commands"]
    answer = subprocess.run(command, cwd=workspace, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    run = workspace / "train_log" / "disks" / "commands"
    (run / "stdout.txt").write_text(answer.stdout)
    return run


def test_training_prints_the_audit_and_the_commands_that_work(trained, run_tool, workspace):
    lines = (trained / "stdout.txt").read_text().splitlines()
    assert any("against images only: verdict: " in line for line in lines)  # its labels are those of train_gt.txt
    for command in lines[-2:]:
        answer = run_tool(*command.split()[1:])
        assert answer.returncode == 0, answer.stderr
    (results,) = (trained / "results").iterdir()
    assert len(list((results / "pred").glob("*.tif"))) == 3
    figures = json.loads((results / "metrics.json").read_text())
    assert figures["n_images"] == 3 and 0 <= figures["pooled"]["iou"] <= 1
    assert {"iou", "f1", "accuracy", "precision", "sensitivity", "specificity", "auc", "average_precision"} <= set(
        figures["pooled"]
    )
    assert (results / "per_image.csv").exists() and (results / "report.html").exists()


def test_the_same_seed_gives_the_same_weights(trained, run_tool):
    import torch

    from utils.checkpoint import load_checkpoint

    assert run_tool(*TRAIN, "--run_name", "again").returncode == 0
    one, two = (load_checkpoint(trained.parent / name / "checkpoints" / "last.pth") for name in ("commands", "again"))
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())


# One process runs all commands that must fail, since importing torch takes longer than any of them.
DRIVER = """
import contextlib, io, json, runpy, sys

answers = []
for script, *arguments in json.load(sys.stdin):
    sys.argv = [script, *arguments]
    output = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(output):
        try:
            runpy.run_path(script, run_name="__main__")
            status = None
        except SystemExit as stop:
            status = stop.code
        except BaseException as error:
            status = repr(error)
    answers.append((status, output.getvalue()))
json.dump(answers, sys.stdout)
"""
DISKS = ("main.py", "--dataset", "disks")
CLEAN = (*DISKS, "--train_list", "train_gt")
LISTED = "datasets/disks/train"
MISTAKES = {
    "unknown data set": (("main.py", "--dataset", "dots"), ("dots", "disks", "er_sim")),
    "absent real data": (("main.py", "--dataset", "er", "--real_only"), ("IEEE DataPort", "make_lists.py")),
    "missing list": ((*DISKS, "--train_list", "none.txt"), ("none.txt", "train_gt.txt")),
    "unknown noise": ((*DISKS, "--label_noise", "flop:0.3"), ("flop", "flip")),
    "share above 1": ((*DISKS, "--label_noise", "flip:1.5"), ("flip:1.5",)),
    "unknown loss": ((*DISKS, "--loss", "bce+dyce"), ("dyce", "dice")),
    "loss without its matrix": ((*CLEAN, "--loss", "forward", "--no_audit"), ("forward", "--transition_matrix")),
    "unknown augmentation": ((*DISKS, "--augment", "sharpen"), ("sharpen", "rotate")),
    "binary loss, three classes": ((*DISKS, "--num_classes", "3", "--loss", "bce"), ("bce", "ce")),
    "wrong number": ((*DISKS, "--epochs", "few"), ("--epochs", "'few'")),
    "wrong fold": ((*DISKS, "--fold", "3/2"), ("--fold", "3/2")),
    "unknown run": (("main.py", "--resume", "disks/none"), ("disks/none", "no run folder")),
    "no run to predict with": (
        ("evaluation/inference.py", "--train_dir", "disks/none", "--test_ckpt_epoch", "best"),
        ("disks/none",),
    ),
    "no such checkpoint": (
        ("evaluation/inference.py", "--train_dir", "disks/commands", "--test_ckpt_epoch", "7"),
        ("7", "2", "best"),
    ),
    "no predictions": (("evaluation/metrics.py", "--prd_dir", "train_log/none/pred"), ("train_log/none/pred",)),
    "empty list": ((*DISKS, "--train_list", "empty.txt"), ("empty.txt", "empty")),
    "missing image": ((*DISKS, "--train_list", "image.txt"), ("99.png", "image.txt:2")),
    "missing label": ((*DISKS, "--train_list", "label.txt"), ("99.png", "label.txt:2")),
    "image without label": ((*DISKS, "--train_list", "unpaired.txt"), ("unpaired.txt:2", "no label")),
    "unreadable image": ((*DISKS, "--train_list", "junk.txt"), ("junk.png", "junk.txt:2")),
    "sizes that differ": ((*DISKS, "--train_list", "sizes.txt"), ("sizes.txt:2", "64×64", "32×32")),
    "spaces without tab": ((*DISKS, "--train_list", "spaces.txt"), ("spaces.txt:2", "tab")),
    "wrong label values": ((*DISKS, "--train_list", "seven.txt", "--num_classes", "3"), ("seven.png", "7")),
    "truncated image": ((*DISKS, "--train_list", "cut.txt", "--crop", "32", "--width", "4"), ("cut.png",)),
}
LISTS = {
    "image": f"{LISTED}/images/99.png\t{LISTED}/labels/0.png",
    "label": f"{LISTED}/images/0.png\t{LISTED}/labels/99.png",
    "unpaired": f"{LISTED}/images/0.png",
    "junk": f"junk.png\t{LISTED}/labels/0.png",
    "sizes": f"small.png\t{LISTED}/labels/0.png",
    "spaces": f"my image.png {LISTED}/labels/0.png",
    "seven": f"{LISTED}/images/0.png\tseven.png",
    "cut": f"cut.png\t{LISTED}/labels/0.png",
}


def write_mistakes(root: Path) -> None:
    """Lists and files with one fault each."""
    for name, line in LISTS.items():
        (root / f"{name}.txt").write_text(f"# one fault\n{line}\n")
    (root / "empty.txt").write_text("# nothing\n\n")
    (root / "junk.png").write_bytes(b"no picture at all")
    cv2.imwrite(str(root / "small.png"), np.zeros((32, 32), np.uint8))
    whole = root / "datasets" / "disks" / "train" / "images" / "0.png"
    shutil.copy(whole, root / "my image.png")
    (root / "cut.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    label = np.zeros((64, 64), np.uint8)
    label[5:9] = 7
    cv2.imwrite(str(root / "seven.png"), label)


@pytest.fixture(scope="module")
def answers(workspace: Path, trained: Path) -> dict[str, tuple]:
    """Exit status and standard error of every mistake."""
    write_mistakes(workspace)
    commands = json.dumps([command for command, _ in MISTAKES.values()])
    driver = [sys.executable, "-c", DRIVER]
    done = subprocess.run(driver, input=commands, cwd=workspace, capture_output=True, text=True, check=True)
    return dict(zip(MISTAKES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named_in_one_message_with_status_2(name, answers):
    status, message = answers[name]
    assert status == 2 and "Traceback" not in message, (status, message)
    assert all(word in message for word in MISTAKES[name][1]), message


def test_help_names_every_group(run_tool):
    answer = run_tool("main.py", "--help")
    assert answer.returncode == 0
    for title in ("data:", "label noise:", "augmentation:", "network:", "loss:", "optimization:", "run:", "machine:"):
        assert title in answer.stdout


def test_the_first_line_does_not_wait_for_torch(run_tool, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit(3)")
    answer = run_tool("main.py", "--dataset", "disks", env={"PYTHONPATH": str(tmp_path)})
    assert answer.returncode == 3 and answer.stdout == "loading torch …\n"
