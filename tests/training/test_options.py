"""Precedence, presets, names shown by --help, and what a resumed run may change."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets import AUGMENTATION_PRESETS, NORMALIZATIONS, STRONG_AUGMENTATIONS
from datasets.labels import FOREGROUNDS
from evaluation.classical import BASELINES
from models import NETWORKS
from training.configuration import PRESETS, RECIPES
from training.configuration.removed import GONE, RESPELLED
from training.configuration.resolve import CHANGEABLE_ON_RESUME, as_typed, resolve_options, resume_options
from training.losses import LOSSES
from training.optimizers import OPTIMIZERS, SCHEDULES
from training.options import DEFAULTS, OPTIONS, make_parser, parse_given
from training.run.reports import same_data_command
from utils.cli import UserError
from utils.option_fields import checked_value
from utils.run_folder import REPO_ROOT


@pytest.mark.parametrize(("accelerator", "preset"), [(True, "paper"), (False, "quick")])
def test_auto_is_paper_with_an_accelerator_and_quick_without(accelerator, preset):
    options = resolve_options({}, accelerator)
    assert options.run.preset == preset
    for name, value in PRESETS[preset].items():
        found = options.flat()[name]
        assert found.items() >= value.items() if isinstance(value, dict) else found == value


def test_given_options_beat_the_preset_and_the_preset_beats_defaults():
    options = resolve_options(parse_given(["--preset", "paper", "--lr", "0.2"]), False)
    assert options.optimization.lr == 0.2 and options.optimization.epochs == PRESETS["paper"]["epochs"]
    assert PRESETS["paper"]["checkpoint_every"] == options.run.checkpoint_every != DEFAULTS["checkpoint_every"]


@pytest.mark.parametrize(
    ("given", "stride"),
    [
        ({"network": "hrnet"}, 4),
        ({"network": "hrnet(stem_stride=1)"}, 1),
        ({"network": "hrnet", "network_options": {"stem_stride": 2}}, 2),
        ({"network": "hrnet", "preset": "paper"}, None),
        ({"network": "unet"}, None),
    ],
)
def test_quick_hrnet_computes_at_a_quarter_of_the_resolution_unless_told_otherwise(given, stride):
    assert resolve_options(given, False).network.options.get("stem_stride") == stride


@pytest.mark.parametrize(
    ("given", "sigma"),
    [
        ({}, 16),
        ({"network": "lightunet"}, 16),
        ({"network": "unet(local_contrast=0)"}, 0),
        ({"igtt": "best"}, 0),
        ({"igtt": "published", "network": "unet(local_contrast=8)"}, 8),
        ({"preset": "paper"}, None),
        ({"network": "unet_resnet18"}, None),
    ],
)
def test_quick_unets_see_local_contrast_where_labels_are_learned(given, sigma):
    assert resolve_options(given, False).network.options.get("local_contrast") == sigma


def test_a_network_is_given_with_its_options():
    given = parse_given(["--network", "deeplabv3plus(backbone=resnet101, norm=group,width=8)", "--preset", "paper"])
    network = resolve_options(given, False).network
    assert (network.name, network.width) == ("deeplabv3plus", 8)
    assert network.options == {"backbone": "resnet101", "norm": "group", "width": 8, "init": "normal"}


def test_parameters_of_optimizer_and_schedule_are_options_of_their_own():
    given = parse_given(["--optimizer", "sgd(momentum=0.8,clip_grad=1)", "--schedule", "cosine(warmup_epochs=2)"])
    steps = resolve_options(given, False).optimization
    assert (steps.optimizer, steps.momentum, steps.clip_grad) == ("sgd", 0.8, 1)
    assert (steps.schedule, steps.warmup_epochs) == ("cosine", 2)
    assert steps.weight_decay == PRESETS["quick"]["weight_decay"], "what is not given stays"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": "unet(width=8)", "width": 16}, "width=8 contradicts --width 16"),
        ({"optimizer": "sgd(beta=1)"}, "no parameter 'beta'; its parameters are: momentum, weight_decay, clip_grad"),
        ({"optimizer": "sgd(momentum=2)"}, "momentum: '2' must be below 1"),
        ({"schedule": "cosine(warmup_epochs)"}, "'warmup_epochs' is not of the form key=value"),
        ({"network": "unet(norm=group"}, "cannot be read"),
        ({"network": "unet(norm=group,norm=batch)"}, "norm appears more than once"),
        ({"network": "vnet(norm=group)"}, "'vnet' is unknown; choose from: unet"),
        ({"normalization": "none"}, "--normalization 'none' is unknown; choose from: zscore"),
        ({"head_bias": "half"}, "head_bias 'half' is unknown"),
        ({"learning_rate": 1}, "there is no option 'learning_rate'"),
        ({"schedule": "one_cycle(warmup_epochs=5)", "epochs": 5}, "must be shorter than --epochs 5"),
    ],
)
def test_faulty_values_are_named(given, message):
    with pytest.raises(UserError) as error:
        resolve_options(given, False)
    assert message in str(error.value)


def test_values_from_python_are_read_as_those_of_the_command_line():
    given = {"steps": np.int64(20), "crop": "64", "lr": 1, "augment": "robust", "flips": 0, "train_list": Path("a.txt")}
    read = resolve_options({"preset": "quick", **given, "channels": 2}, has_accelerator=False).flat()
    assert (read["steps"], read["crop"], read["lr"], read["flips"]) == (20, 64, 1.0, False)
    assert (read["augment"], read["channels"], read["train_list"]) == (("robust",), ("2",), "a.txt")
    assert read["flips"] is False and type(read["steps"]) is int and resolve_options({"augment": None}, False)
    for bad in ({"flips": "no"}, {"steps": -5}, {"seed": 3.0}, {"ema": 1.5}, {"epochs": None}, {"label_map": {1: 0}}):
        name, value = next(iter(bad.items()))
        with pytest.raises(UserError, match=rf"--{name}: '?{value}'? must be"):
            resolve_options(bad, has_accelerator=False)


def test_only_given_options_are_reported():
    assert parse_given([]) == {}
    assert parse_given(["--no_flips", "--augment", "blur", "noise:0.1"]) == {
        "flips": False,
        "augment": ("blur", "noise:0.1"),
    }


def flags() -> set[str]:
    return {flag for action in make_parser()._actions for flag in action.option_strings}


def test_every_option_has_a_flag_or_is_set_otherwise():
    assert {f"--{name}" for name, own in OPTIONS.items() if own.has_flag} <= flags()
    assert all(own.inside in OPTIONS for own in OPTIONS.values() if own.inside)
    assert len([own for own in OPTIONS.values() if own.has_flag]) <= 66


@pytest.mark.parametrize("name", OPTIONS)
def test_messages_name_only_flags_that_exist(name):
    for value in (True, False) if isinstance(DEFAULTS[name], bool) else ({"norm": "group"}, 3, "x", ("a", "b")):
        if name.endswith("_options") == isinstance(value, dict):
            typed = as_typed(name, value).split()[0]
            assert typed in flags() if typed.startswith("--") else OPTIONS[name].python_only


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("network", NETWORKS),
        ("loss", LOSSES),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("normalization", NORMALIZATIONS),
        ("augment", STRONG_AUGMENTATIONS),
        ("augment", tuple(AUGMENTATION_PRESETS)),
        ("igtt", RECIPES),
        ("igtt_init", BASELINES),
        ("foreground", ("auto", *FOREGROUNDS)),
    ],
)
def test_help_lists_every_registry(name, registry):
    (shown,) = [action for action in make_parser()._actions if action.dest == name]
    words = f"{shown.help} {' '.join(shown.choices or ())}".replace(",", " ").replace(";", " ").split()
    assert set(registry) <= set(words)
    assert all(registry[key] is not None for key in registry if not isinstance(registry, tuple)), "and each exists"


def test_help_tells_what_takes_effect(capsys):
    with pytest.raises(SystemExit):
        parse_given(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "usage: main.py --dataset NAME [options] " in text
    for words in (
        "--epochs N epochs in all (paper: 100, quick: 20)",
        "(best: auto, published: black)",
        "(best: auto, published: minority)",
        "(default: zscore, --igtt best: local)",
        "(quick: 0.99, --igtt best: 0.99, --igtt published: 0.0)",
        "paper: sgd(momentum=0.9,weight_decay=0.001)",
        "--flips, --no_flips",
    ):
        assert words in text


def test_every_switch_is_negated_alike():
    switches = {name for name, own in OPTIONS.items() if own.has_flag and isinstance(DEFAULTS[name], bool)}
    assert switches >= {"flips", "audit", "tensorboard", "real_only", "compile"}
    for name in switches:
        assert parse_given([f"--{name}"]) == {name: True} and parse_given([f"--no_{name}"]) == {name: False}


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (["--norm", "group"], '--network "NAME(norm=group)"'),
        (["--stem_stride=4"], '--network "NAME(stem_stride=4)"'),
        (["--activation_checkpointing", "--width", "4"], '--network "NAME(activation_checkpointing=true)"'),
        (["--weight_decay", "1e-4"], '--optimizer "NAME(weight_decay=1e-4)"'),
        (["--warmup_epochs", "5"], '--schedule "NAME(warmup_epochs=5)"'),
        (["--igtt_recipe", "published"], "--igtt published"),
        (["--igtt_warmup", "0.5"], "'igtt_warmup': 0.5"),
        (["--no-channels_last"], "follows from the device"),
        (["--igtt_tta"], "docs/LABEL_FREE.md"),
    ],
)
def test_what_was_spelled_otherwise_says_how_it_is_now(arguments, new, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_given(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and new in error


@pytest.mark.parametrize("name", [*RESPELLED, *GONE])
def test_what_is_no_more_is_no_option(name):
    assert name not in OPTIONS
    with pytest.raises(UserError, match=f"--{name} is (spelled|no more)"):
        resolve_options({name: 1}, False)


@pytest.mark.parametrize("given", [{"num_classes": 1}, {"num_classes": 5}])
def test_the_preset_loss_is_proper_under_noise(given):
    assert resolve_options(given, False).loss.spec == ("bce" if given["num_classes"] == 1 else "ce")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--network", "vnet"], ["--network", "vnet", "unet"]),
        (["--epochs", "0"], ["--epochs", "'0'", "from 1 to"]),
        (["--threads", "two"], ["--threads", "'two'", "from 1 to", "or auto"]),
        (["--lr", "nan"], ["--lr", "'nan'", "finite"]),
        (["--seed", str(2**63)], ["--seed", str(2**63), "whole number from 0"]),
        (["--lr", "fast"], ["--lr", "'fast'", "finite"]),
        (["--in_channels", "0"], ["--in_channels", "0", "from 1 to"]),
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
        (["--network", "unet(norm=group)"], 'NAME.norm=group.* differs from the run.s --network "NAME.init=kaiming'),
        (["--optimizer", "adamw(momentum=0.5)"], r'"NAME.momentum=0.5." differs from the run.s --optimizer'),
        (["--augment", "noise:0.1", "blur"], "--augment noise:0.1 blur differs from the run's --augment blur"),
        (["--fold", "1/5"], "--fold 1/5 differs from the run, which had no --fold"),
    ],
)
def test_a_refused_change_is_named_as_typed(typed, message):
    with pytest.raises(UserError, match=message):
        resume_options({**parse_given(typed), "resume": "er/x"}, CONFIG)


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - {*CHANGEABLE_ON_RESUME, "resume"}))
def test_nothing_else_may_change_on_resume(name):
    own = OPTIONS[name]
    choices = [choice for choice in own.choices if choice not in (CONFIG.get(name), "auto")]
    other = {
        "recipe": "auto",
        "network": "lightunet",
        "optimizer": "sgd",
        "schedule": "constant",
        "network_options": {"norm": "group"},
        "method": "coteaching",
        "method_options": {"forget": 0.3},
        "fold": "1/2",
    }
    text = "else" if own.parse is None else "0.5" if isinstance(DEFAULTS[name], float) else "7"
    value = {bool: not DEFAULTS[name], tuple: ("else",)}.get(type(DEFAULTS[name]), text)
    value = checked_value(own, DEFAULTS[name], other.get(name, choices[0] if choices else value))
    with pytest.raises(UserError, match=re.escape(as_typed(name, value))):
        resume_options({"resume": "er/x", name: value}, CONFIG)


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"unlabelled": "ignore"}, "label_noise"),
        ({"noise_seed": 3}, "label_noise"),
        ({"label_noise_refresh": "epoch"}, "label_noise"),
        ({"igtt_warmup": 0.5}, "igtt"),
        ({"foreground": "dark"}, "igtt"),
        ({"step_epochs": 3}, "schedule step"),
        ({"step_gamma": 0.5}, "schedule step"),
    ],
)
def test_an_option_about_another_that_is_off_is_refused(given, needed):
    (name,) = given
    with pytest.raises(UserError, match=f"{name}.* does nothing without --{needed}"):
        resolve_options(given, has_accelerator=False)
    switches = {"label_noise": {"label_noise": "sample:0.3"}, "igtt": {"igtt": True}}
    switch = switches.get(needed, {"schedule": "step(warmup_epochs=1)"})
    assert resolve_options({**switch, **given}, has_accelerator=False).flat()[name] == given[name]


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ({"transition_matrix": "Q.json"}, {"igtt": "best"}),
        ({"pred_invert": "on"}, {"igtt": "published"}),
        ({"fusion": "staple"}, {"igtt": "best"}),
        ({"val_labels": "noisy"}, {"igtt": "best"}),
        ({"method": "supervised"}, {"igtt": "best"}),
        ({"pred_invert": "off"}, {"num_classes": 3}),
        ({"class_weights": ("1", "5")}, {"loss": "dice+0.5*dmi"}),
        ({"class_weights": ("frequency",)}, {"loss": "nr_dice", "num_classes": 3}),
        ({"unlabelled": "ignore"}, {"label_noise": "flip:0.3"}),
    ],
)
def test_an_option_that_would_do_nothing_beside_another_is_refused(given, other):
    (name,) = given
    with pytest.raises(UserError, match=f"^--{name} "):
        resolve_options({**given, **other}, has_accelerator=False)
    resolve_options(other, has_accelerator=False)
    resolve_options({**given, **({"label_noise": "sample:0.1"} if name == "unlabelled" else {})}, has_accelerator=False)


def test_a_repeated_command_goes_on_though_the_run_has_settled_its_options():
    given = {"preset": "quick", "steps": 300, "threads": 8, "repeat": "auto"}
    options = resolve_options(given, has_accelerator=False)
    config = {**options.to_dict(), "threads": 1, "asked": {"steps": 300, "threads": 8}}
    config |= {name: resume_options({"epochs": 30}, config).flat()[name] for name in ("epochs", "steps")}
    assert config["steps"] == 450
    assert resume_options({**given, "epochs": 30}, config).optimization.steps == 450
    assert resume_options({"threads": "auto"}, config).machine.threads == 1
    for name in ("steps", "threads"):
        with pytest.raises(UserError, match=f"--{name} 2 differs from the run"):
            resume_options({name: 2}, config)


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


def test_checkpoints_that_are_asked_for_are_kept_from_the_first():
    paper = resolve_options({"preset": "paper"}, has_accelerator=False).run
    assert (paper.checkpoint_every, paper.checkpoint_from) == (2, 80)
    asked = resolve_options({"preset": "paper", "epochs": 20, "checkpoint_every": 5}, has_accelerator=False).run
    assert (asked.checkpoint_every, asked.checkpoint_from) == (5, 0)


def test_a_recipe_and_a_method_count_above_a_repeated_run():
    config = resolve_options({"preset": "quick", "width": 8}, has_accelerator=False).to_dict()
    free = resolve_options({"igtt": "best"}, False, config)
    assert free.network.options == {"init": "kaiming", "local_contrast": 0, "width": 8}
    assert resolve_options({}, False, config).optimization.ema == 0.99
    other = resolve_options({"method": "coteaching"}, False, config)
    assert other.optimization.ema == 0
    assert resolve_options({"method": "supervised"}, False, other.to_dict()).optimization.ema == 0.99
    published = resolve_options({"igtt": "published"}, False, free.to_dict()).flat()
    assert published == resolve_options({"igtt": "published", "preset": "quick", "width": 8}, False).flat()


def test_a_clean_list_decides_anew_what_a_repeated_run_had():
    plain = resolve_options({"preset": "quick", "steps": 40}, False).to_dict()
    options = resolve_options({"clean_list": "clean"}, False, plain)
    assert (options.run.recipe, options.run.left_to_recipe) == ("auto", ("label_repair", "loss", "steps"))
    assert options.optimization.steps == 40 and resolve_options({}, False, plain).run.recipe == "plain"
    decided = {**options.to_dict(), "steps": 160, "label_repair": "offset:2", "loss": "forward", "asked": {"steps": 40}}
    decided["decisions"] = [{"name": name, "value": None, "reason": ""} for name in ("label_repair", "loss", "steps")]
    same = resolve_options({}, False, decided)
    assert (same.optimization.steps, same.loss.spec, same.run.left_to_recipe) == (160, "forward", ())
    anew = resolve_options({"clean_list": "other", "loss": "ce"}, False, decided)
    assert (anew.optimization.steps, anew.loss.spec, anew.noise.label_repair) == (40, "ce", None)
    assert anew.run.left_to_recipe == ("label_repair", "steps")
    without = resolve_options({"recipe": "plain"}, False, decided)
    assert (without.optimization.steps, without.loss.spec, without.run.recipe) == (40, "bce", "plain")


def test_another_seed_of_a_repeated_run_draws_other_noise():
    given = {"preset": "quick", "label_noise": "flip:0.1", "seed": 3}
    config = resolve_options(given, has_accelerator=False).to_dict()
    assert resolve_options({}, False, config).noise.noise_seed == 3
    assert resolve_options({"seed": 4}, False, config).noise.noise_seed == 4
    assert resolve_options({"seed": 4}, False, {**config, "noise_seed": 9}).noise.noise_seed == 9


def test_the_command_for_the_other_preset_makes_the_same_first_labels():
    given = {"dataset": "em", "igtt": "best", "igtt_init": "otsu", "foreground": "dark"}
    assert same_data_command(resolve_options(given, False)) == (
        "python main.py --dataset em --igtt best --igtt_init otsu --foreground dark"
    )
    assert same_data_command(resolve_options({"dataset": "em", "igtt": "best"}, False)).endswith("em --igtt best")


def test_the_command_for_the_other_preset_reads_the_same_labels():
    given = {
        "dataset": "em",
        "num_classes": 3,
        "label_map": "#ff0000:1,0:0",
        "channels": ("0", "2"),
        "label_noise": "flip:0.1",
        "label_noise_refresh": "epoch",
        "label_repair": "offset:-1",
        "fold": "1/3",
        "group_by": "(cell[0-9]+)_",
        "clean_list": "clean list.txt",
    }
    typed = shlex.split(same_data_command(resolve_options({**given, "channels": (0, 2)}, has_accelerator=False)))
    assert parse_given(typed[2:]).items() >= given.items()
    plain = {"clean_list": "clean", "recipe": "plain"}  # without, the other run would repair the labels
    typed = shlex.split(same_data_command(resolve_options(plain, has_accelerator=False)))
    assert parse_given(typed[2:]).items() >= plain.items()


def test_a_longer_run_keeps_the_length_of_its_epochs():
    config = resolve_options({"preset": "quick", "steps": 300}, has_accelerator=False).to_dict()
    options = resume_options({"epochs": 30}, config)
    assert (options.optimization.steps, options.optimization.epochs) == (450, 30)
