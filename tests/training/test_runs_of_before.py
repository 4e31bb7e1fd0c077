"""A run that options of before began: predicted, scored, repeated and resumed by today's code.

``tests/fixtures/run_of_before`` is what commit a715d67 left of::

    python main.py --dataset disks --preset quick --device cpu --network lightunet --width 2 --norm group
        --head_bias zero --epochs 3 --stop_after 2 --crop 64 --batch_size 4 --repeat 4 --lr 0.01 --no_tensorboard
        --precision fp32 --weight_decay 1e-3 --run_name before --checkpoint_every 10

and of inference and metrics with its last checkpoint; ``epoch_3.json`` is what it reached when it was resumed there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from datasets.image_io import read_scores
from training.configuration.removed import GONE
from training.configuration.resolve import resume_options
from training.fit import configure, fit
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.files import read_json, read_jsonl, write_json

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "run_of_before"


def put(root: Path) -> Path:
    """The run, in a folder with its data set."""
    return Path(shutil.copytree(FIXTURE, root / "train_log" / "disks" / "before"))


def test_it_is_predicted_and_scored_as_before(workspace, run_tool):
    run = put(workspace)
    known = run / "results" / "epoch_2"
    again = run_tool("evaluation/metrics.py", "--prd_dir", known / "pred", "--no_report")
    assert again.returncode == 0, again.stderr
    before, after = (read_json(folder / "results/epoch_2/metrics.json") for folder in (FIXTURE, run))
    assert after["pooled"] == pytest.approx(before["pooled"])
    shutil.rmtree(run / "results")
    predicted = run_tool("evaluation/inference.py", "--train_dir", "disks/before", "--test_ckpt_epoch", "last")
    assert predicted.returncode == 0, predicted.stderr
    for path in (FIXTURE / "results" / "epoch_2" / "pred").iterdir():
        assert read_scores(known / "pred" / path.name) == pytest.approx(read_scores(path), abs=1e-4)


def test_it_is_resumed_to_where_it_would_have_come(disks):
    run = put(disks)
    fit(configure({"resume": str(run)}, disks), disks)
    line, expected = read_jsonl(run / "metrics.jsonl")[-1], read_json(FIXTURE / "epoch_3.json")
    assert line["epoch"] == 3 and {name: line[name] for name in expected} == pytest.approx(expected, abs=1e-3)
    config = read_json(run / "config.json")
    assert config["network"] == "lightunet" and "norm" not in config
    assert config["network_options"] == {"width": 2, "norm": "group", "init": "kaiming"}
    assert load_checkpoint(run / "checkpoints" / "last.pth")["config"]["network_options"]["norm"] == "group"


def test_it_is_repeated_by_its_config_with_what_is_given_besides(disks):
    given = {"config": str(FIXTURE / "config.json"), "device": "cpu", "epochs": 1, "run_name": "again"}
    options = configure(given, disks)
    old = read_json(FIXTURE / "config.json")
    same = ("crop", "batch_size", "lr", "weight_decay", "optimizer", "precision", "head_bias", "tensorboard", "repeat")
    assert {name: options.flat()[name] for name in same} == {name: old[name] for name in same}
    assert options.network.options == old["network_options"] and options.data.train_list is None
    assert (options.optimization.epochs, options.run.run_name, options.run.stop_after) == (1, "again", None)
    assert read_json(fit(options, disks) / "config.json")["config"] == given["config"]


@pytest.mark.parametrize(
    ("given", "network", "expected"),
    [
        ({"width": 4}, "lightunet", {"width": 4, "norm": "group", "init": "kaiming"}),
        ({"network": "lightunet(norm=batch)"}, "lightunet", {"width": 2, "norm": "batch", "init": "kaiming"}),
        ({"network": "hrnet"}, "hrnet", {"width": 2, "stem_stride": 4, "init": "kaiming"}),
    ],
)
def test_given_options_win_over_a_config(given, network, expected):
    options = configure({"config": str(FIXTURE / "config.json"), "device": "cpu", **given})
    assert (options.network.name, options.network.options) == (network, expected)


@pytest.mark.parametrize(
    ("given", "length"),
    [
        ({}, (None, 3, 4)),
        ({"epochs": 5}, (None, 5, 4)),
        ({"repeat": 2}, (None, 3, 2)),
        ({"steps": 30}, (30, 3, "auto")),
    ],
)
def test_the_length_of_a_repeated_run_is_its_own_unless_another_is_given(given, length):
    options = configure({"config": str(FIXTURE / "config.json"), "device": "cpu", **given})
    assert (options.optimization.steps, options.optimization.epochs, options.augmentation.repeat) == length


def test_a_label_free_run_of_before_is_read_as_today(disks):
    old = read_json(FIXTURE / "config.json")
    best = {**old, "igtt": True, "igtt_recipe": "best", "igtt_init": "vote", "igtt_ems": "clean", "foreground": "auto"}
    best |= {"igtt_criterion": "bce", "igtt_warmup": 0.5, "ema": 0.99, "normalization": "local"}
    options = resume_options({"resume": "disks/before"}, best)
    assert (options.label_free.igtt, options.label_free.igtt_init) == ("best", "vote")
    write_json(disks / "config.json", best)
    given = {"config": str(disks / "config.json"), "device": "cpu"}
    assert configure(given).label_free == options.label_free
    assert configure({**given, "igtt": "published"}).label_free.igtt_ems == "skeleton+shift:1+sample:0.1"
    assert configure({**given, "igtt": "published"}).loss.spec == "dmi+iou"


@pytest.mark.parametrize("name", sorted(set(GONE) - {"channels_last"}))
def test_a_run_that_used_what_is_no_more_says_what_to_do(name):
    used = {"igtt_refresh": "dmi", "noise_device": "gpu", "igtt_patience": 3, "igtt_final_share": 0.5}.get(name, True)
    config = {**read_json(FIXTURE / "config.json"), "igtt": True, name: used}
    with pytest.raises(UserError, match=f"--{name} {used}, which no longer exists: start a new run, or resume it at"):
        resume_options({"resume": "disks/before"}, config)


@pytest.mark.parametrize("content", [[], {}, {"lr": 0.1}])
def test_what_is_no_config_is_refused(tmp_path, content):
    write_json(tmp_path / "other.json", content)
    with pytest.raises(UserError, match=r"--config is not the config.json of a run"):
        configure({"config": str(tmp_path / "other.json"), "device": "cpu"})
    with pytest.raises(UserError, match=r"none.json"):
        configure({"config": str(tmp_path / "none.json"), "device": "cpu"})
    with pytest.raises(UserError, match="--preset paper does nothing with --config"):
        configure({"config": str(FIXTURE / "config.json"), "device": "cpu", "preset": "paper"})
