"""Precedence, presets, names shown by --help, and what a resumed run may change."""

from __future__ import annotations

import subprocess
import sys

import pytest

from training.options import DEFAULTS, PAPER_PRESET, QUICK_PRESET, make_parser, parse_given
from training.resolve import CHANGEABLE_ON_RESUME, resolve_options, resume_options
from utils.cli import UserError
from utils.run_folder import REPO_ROOT


@pytest.mark.parametrize(("accelerator", "preset"), [(True, PAPER_PRESET), (False, QUICK_PRESET)])
def test_auto_is_paper_with_an_accelerator_and_quick_without(accelerator, preset):
    options = resolve_options({}, accelerator)
    assert {name: options.flat()[name] for name in preset} == preset
    assert options.run.preset == ("paper" if accelerator else "quick")


def test_given_options_beat_the_preset_and_the_preset_beats_defaults():
    options = resolve_options(parse_given(["--preset", "paper", "--lr", "0.2"]), False)
    assert options.optimization.lr == 0.2 and options.optimization.epochs == PAPER_PRESET["epochs"]
    assert PAPER_PRESET["checkpoint_every"] == options.run.checkpoint_every != DEFAULTS["checkpoint_every"]


@pytest.mark.parametrize(
    ("given", "stride"), [({}, 4), ({"stem_stride": 1}, 1), ({"preset": "paper"}, None), ({"network": "unet"}, None)]
)
def test_quick_hrnet_computes_at_a_quarter_of_the_resolution_unless_told_otherwise(given, stride):
    assert resolve_options({"network": "hrnet", **given}, False).network.stem_stride == stride


def test_only_given_options_are_reported():
    assert parse_given([]) == {}
    assert parse_given(["--no_flips", "--augment", "blur", "noise:0.1"]) == {
        "flips": False,
        "augment": ("blur", "noise:0.1"),
    }


def test_every_option_has_a_flag():
    flags = {action.dest for action in make_parser()._actions}
    assert set(DEFAULTS) == flags - {"help"}


@pytest.mark.parametrize("given", [{"num_classes": 1}, {"num_classes": 5}])
def test_the_preset_loss_is_proper_under_noise(given):
    assert resolve_options(given, False).loss.spec == ("bce" if given["num_classes"] == 1 else "ce")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "vnet"], ["--network", "vnet", "unet"]),
        (["--epochs", "0"], ["--epochs", "'0'", "at least 1"]),
        (["--lr", "nan"], ["--lr", "'nan'", "finite"]),
        (["--seed", str(2**63)], ["--seed", str(2**63), "whole number from 0"]),
        (["--lr", "fast"], ["--lr", "'fast'", "finite"]),
        (["--in_channels", "0"], ["--in_channels", "0", "at least 1"]),
        (["--channels", "0,,1"], ["--channels", "0,,1", "separated by commas"]),
        (["--epoch", "3"], ["--epoch"]),
    ],
)
def test_a_bad_value_names_option_value_and_choices(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_given(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert all(word in error for word in words)


@pytest.mark.parametrize(
    "given",
    [
        {"num_classes": 300},
        {"num_classes": 3, "pred_invert": "on"},
        {"crop": 8},
        {"stop_after": 9, "epochs": 4},
        {"accumulate": 8, "batch_size": 4},
    ],
)
def test_contradictions_are_refused(given):
    with pytest.raises(UserError, match="--"):
        resolve_options(given, False)


@pytest.mark.parametrize(
    "script", ["main.py", "evaluation/inference.py", "evaluation/metrics.py", "evaluation/audit_labels.py"]
)
def test_help_does_not_import_torch(script):
    command = [sys.executable, "-X", "importtime", script, "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=REPO_ROOT)
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert answer.returncode == 0 and "argparse" in imported and not imported & {"torch", "cv2"}


CONFIG = {**resolve_options({"epochs": 4, "augment": ("blur",)}, False).to_dict(), "environment": {}}


def test_a_resumed_run_keeps_its_options():
    options = resume_options({"resume": "er/x", "augment": ("blur",), "epochs": 9, "stop_after": 6}, CONFIG)
    assert (options.optimization.epochs, options.run.stop_after, options.augmentation.augment) == (9, 6, ("blur",))
    assert resume_options({"resume": "er/x"}, CONFIG).run.stop_after is None


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--no_flips"], "--no_flips differs from the run's --flips"),
        (["--real_only"], "--real_only differs from the run's --no_real_only"),
        (["--augment", "noise:0.1", "blur"], "--augment noise:0.1 blur differs from the run's --augment blur"),
        (["--fold", "1/5"], "--fold 1/5 differs from the run, which had no --fold"),
    ],
)
def test_a_refused_change_is_named_as_typed(typed, message):
    with pytest.raises(UserError, match=message):
        resume_options({**parse_given(typed), "resume": "er/x"}, CONFIG)


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - {*CHANGEABLE_ON_RESUME, "resume"}))
def test_nothing_else_may_change_on_resume(name):
    with pytest.raises(UserError, match=f"--{name} "):
        resume_options({"resume": "er/x", name: "something else"}, CONFIG)


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"unlabelled": "ignore"}, "label_noise"),
        ({"noise_seed": 3}, "label_noise"),
        ({"label_noise_refresh": "epoch"}, "label_noise"),
        ({"igtt_warmup": 0.5}, "igtt"),
        ({"foreground": "dark"}, "igtt"),
        ({"foreground": "dark"}, "igtt"),
    ],
)
def test_an_option_about_another_that_is_off_is_refused(given, needed):
    (name,) = given
    with pytest.raises(UserError, match=f"--{name}.* does nothing without --{needed}"):
        resolve_options(given, has_accelerator=False)
    switch = {"label_noise": "flip:0.3"} if needed == "label_noise" else {"igtt": True}
    assert resolve_options({**switch, **given}, has_accelerator=False).flat()[name] == given[name]


@pytest.mark.parametrize(
    ("given", "steps", "epochs", "repeat"),
    [
        ({"preset": "paper"}, None, 100, 1),
        ({"preset": "quick", "epochs": 7}, None, 7, 1),
        ({"preset": "quick", "repeat": 3}, None, 20, 3),
        ({"preset": "quick", "steps": 300}, 300, 20, "auto"),
        ({"preset": "quick", "steps": 300, "repeat": "auto"}, 300, 20, "auto"),
        ({"preset": "quick", "steps": 300, "epochs": 7}, 300, 7, "auto"),
        ({"preset": "quick", "steps": 3}, 3, 3, "auto"),
    ],
)
def test_the_length_of_a_run_is_given_in_steps_or_in_epochs(given, steps, epochs, repeat):
    options = resolve_options(given, has_accelerator=False)
    assert (options.optimization.steps, options.optimization.epochs) == (steps, epochs)
    assert options.augmentation.repeat == repeat


@pytest.mark.parametrize("given", [{"steps": 100, "repeat": 2}, {"steps": 3, "epochs": 4}])
def test_lengths_that_contradict_each_other_are_refused(given):
    with pytest.raises(UserError, match=f"--steps {given['steps']}"):
        resolve_options(given, has_accelerator=False)


def test_a_longer_run_keeps_the_length_of_its_epochs():
    config = resolve_options({"preset": "quick", "steps": 300}, has_accelerator=False).to_dict()
    options = resume_options({"epochs": 30}, config)
    assert (options.optimization.steps, options.optimization.epochs) == (450, 30)
