"""Run folders are never overwritten, and are found again."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from utils.cli import UserError
from utils.run_folder import REPO_ROOT, create_run_folder, display_path, find_run, quoted


def test_a_taken_name_gets_a_number(tmp_path):
    names = [create_run_folder("er", "unet", "bce", "sgd", "first", tmp_path).name for _ in range(3)]
    assert names == ["first", "first-2", "first-3"]


def test_the_name_tells_network_loss_optimizer_and_padded_time(tmp_path):
    run = create_run_folder("er", "unet", "bce+0.5*dice", "sgd", None, tmp_path)
    network, loss, optimizer, moment = run.name.split("_")
    assert (network, loss, optimizer) == ("unet", "bce+0.5xdice", "sgd")
    assert len(moment) == len("20260101-000000") and (run / "checkpoints").is_dir()


def test_a_run_name_cannot_leave_its_folder(tmp_path):
    with pytest.raises(UserError, match="--run_name"):
        create_run_folder("er", "unet", "bce", "sgd", "../outside", tmp_path)


def test_a_run_is_found_by_path_and_by_name(tmp_path):
    run = create_run_folder("er", "unet", "bce", "sgd", "mine", tmp_path)
    assert find_run(run, tmp_path) == find_run("er/mine", tmp_path) == run.resolve()


def test_an_unknown_run_lists_those_that_exist(tmp_path):
    create_run_folder("er", "unet", "bce", "sgd", "mine", tmp_path)
    with pytest.raises(UserError, match="er/mine"):
        find_run("er/yours", tmp_path)


def test_a_cross_fit_names_its_runs(tmp_path):
    run = create_run_folder("er", "unet", "bce", "sgd", "mine", tmp_path)
    shutil.copytree(run, tmp_path / "er/f/fold_1")
    (tmp_path / "er/f/folds.json").write_text("{}")
    with pytest.raises(UserError, match="cross-fit of several runs: name one of them, .*f/fold_1"):
        find_run("er/f", tmp_path)


@pytest.mark.parametrize(
    ("argument", "typed"),
    [
        ("train_log/er/unet_bce", "train_log/er/unet_bce"),
        ("läuft/gut-2", "läuft/gut-2"),
        ("my run", '"my run"'),
        ("labels (1)", '"labels (1)"'),
        ("train_flip-0.45,0.2", '"train_flip-0.45,0.2"'),  # PowerShell splits at a bare comma
        ("a&b", '"a&b"'),
    ],
)
def test_an_argument_of_a_command_to_paste_is_quoted_where_windows_needs_it(argument, typed):
    assert quoted(argument, windows=True) == typed


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    "name", ["my run", "it's", 'an "edge"', "$HOME `id`", "a\\b!!", "a;b&c|d", "~", "line\nbreak", ""]
)
def test_a_posix_shell_reads_a_quoted_argument_back_as_it_was(name):
    answer = subprocess.run(["sh", "-c", f"printf '%s.' {quoted(name)}"], capture_output=True, text=True, check=True)
    assert answer.stdout == f"{name}."


def test_a_path_to_paste_is_no_option():
    assert display_path(REPO_ROOT / "-out" / "pred") == "./-out/pred" == display_path(Path("-out/pred"))
    assert display_path(REPO_ROOT / "train_log" / "-out") == "train_log/-out"
