"""A whole run: its folder, exact resume, extension, and what a user is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.data import HELD_OUT
from training.fit import configure, fit
from training.losses import SegmentationLoss
from training.methods.supervised import Supervised
from training.selection import Selection
from utils.checkpoint import CHECKPOINT_KEYS, OPTIONAL_KEYS, load_checkpoint
from utils.cli import UserError
from utils.files import read_json, read_jsonl
from utils.run_folder import REPO_ROOT

SMALL = {
    "dataset": "disks",
    "preset": "quick",
    "width": 4,
    "crop": 32,
    "batch_size": 3,
    "device": "cpu",
    "tensorboard": False,
    "checkpoint_every": 1,
}


def run(root: Path, **given) -> Path:
    return fit(configure({**SMALL, **given}, root), root)


def assert_equal_states(one, other) -> None:
    """Equal containers down to the bits of their tensors."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal_states(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal_states(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


TRAINED = ("model", "optimizer", "scheduler", "scaler", "epoch", "best", "threshold", "pred_invert", "rng")


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"optimizer": "sgd", "schedule": "step", "step_epochs": 1, "augment": ("noise",)},
        {"label_noise": "flip:0.3", "label_noise_refresh": "epoch", "accumulate": 2, "clip_grad": 1.0},
        {"loss": "bce+tloss", "class_weights": ("1", "2")},
        {"steps": 10, "ema": 0.9},
    ],
)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(disks, extra):
    whole = run(disks, epochs=4, run_name="whole", **extra)
    part = run(disks, epochs=4, stop_after=2, run_name="part", **extra)
    assert load_checkpoint(part / "checkpoints" / "last.pth")["epoch"] == 2
    run_again = fit(configure({"resume": str(part)}, disks), disks)
    assert run_again == part
    for name in ("last.pth", "best.pth", "epoch_3.pth", "epoch_4.pth"):
        one, other = (load_checkpoint(folder / "checkpoints" / name) for folder in (whole, part))
        assert_equal_states({key: one[key] for key in TRAINED}, {key: other[key] for key in TRAINED})
    losses = [[record["train/loss"] for record in read_jsonl(folder / "metrics.jsonl")] for folder in (whole, part)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_fewer_epochs_than_completed_change_nothing(disks):
    folder = run(disks, epochs=2)
    before = (folder / "config.json").read_text()
    for resumed in ({"resume": str(folder)}, {"resume": "auto", "dataset": "disks", "run_name": folder.name}):
        with pytest.raises(UserError, match="--epochs 1: the run has completed 2 epochs"):
            fit(configure({**resumed, "epochs": 1}, disks), disks)
    assert (folder / "config.json").read_text() == before


def test_a_list_or_run_named_in_another_way_is_the_same_on_resume(disks, monkeypatch):
    other = run(disks, epochs=1, run_name="other")
    folder = run(disks, epochs=1, run_name="named", init_from="disks/other", data_root=str(disks))
    monkeypatch.chdir(disks)
    same = {"train_list": "train_noisyLabel", "val_list": "txt/disks/val.txt", "data_root": "."}
    same["init_from"] = os.path.relpath(other)
    assert configure({"resume": "disks/named", **same}, disks).run.init_from == str(other)
    with pytest.raises(UserError, match="--train_list train_gt differs from the run's"):
        configure({"resume": str(folder), "train_list": "train_gt"}, disks)


def test_the_run_folder_holds_what_the_contract_says(disks):
    folder = run(disks, epochs=2, tensorboard=True)
    assert folder.parent == disks / "train_log" / "disks"
    config = json.loads((folder / "config.json").read_text())
    assert config["epochs"] == 2 and config["width"] == 4 and config["environment"]["versions"]["torch"]
    assert list((folder / "tensorboard").iterdir()) and (folder / "log.txt").read_text()
    checkpoint = load_checkpoint(folder / "checkpoints" / "best.pth")
    assert set(CHECKPOINT_KEYS) <= set(checkpoint) <= {*CHECKPOINT_KEYS, *OPTIONAL_KEYS}
    assert 0 <= checkpoint["threshold"] <= 1 and checkpoint["pred_invert"] is False
    records = read_jsonl(folder / "metrics.jsonl")
    best = max(records, key=lambda record: record["val/iou"])  # max keeps the earliest of ties
    assert (checkpoint["best"]["epoch"], checkpoint["best"]["figure"]) == (best["epoch"], best["val/iou"])
    assert {"val/f1", "val/auc", "train/learning_rate", "train/images_per_second"} <= set(best)
    shown = EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    shown.Reload()
    assert len(shown.Images("train")) == len(shown.Images("val")) == 2
    assert [event.value for event in shown.Scalars("best/figure")] == [pytest.approx(best["val/iou"])]
    assert "_hparams_/session_start_info" in shown.summary_metadata  # what the run was made with


def test_best_is_the_checkpoint_of_the_earliest_best_epoch(disks, monkeypatch):
    values = iter([0.5, 0.9, 0.9, 0.1])
    monkeypatch.setattr(Supervised, "decide", lambda *_: Selection(0.25, False, next(values)))
    folder = run(disks, epochs=4, run_name="chosen") / "checkpoints"
    best, second, last = (load_checkpoint(folder / name) for name in ("best.pth", "epoch_2.pth", "last.pth"))
    assert (best["epoch"], best["threshold"], last["epoch"]) == (2, 0.25, 4)
    assert (last["best"]["epoch"], last["best"]["figure"]) == (2, 0.9)
    assert_equal_states(best["model"], second["model"])
    assert any(not torch.equal(value, last["model"][name]) for name, value in best["model"].items())


def test_the_test_list_is_not_read_in_training(disks):
    (disks / "txt" / "disks" / "test.txt").write_text("missing.png\tmissing too.png\n")
    config = json.loads((run(disks, epochs=1) / "config.json").read_text())
    assert Path(config["val_list"]).name == "val.txt"


@pytest.mark.parametrize(
    "extra",
    [
        {"seed": 9},
        {"augment": ("noise",)},
        {"flips": False},
        {"clip_grad": 1e-3},
        {"ema": 0.0},
        {"fold": "1/2"},
        {"weight_decay": 5.0},
        {"lr": 1e-4},
        {"repeat": 2},
        {"crop": 24},
        {"loss": "dice"},
        {"optimizer": "sgd"},
    ],
    ids=str,
)
def test_an_option_reaches_the_weights(disks, extra):
    folders = [run(disks, epochs=1, run_name=name, **more) for name, more in (("plain", {}), ("other", extra))]
    one, other = (load_checkpoint(folder / "checkpoints" / "last.pth")["model"] for folder in folders)
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("extra", [{"noise_seed": 9}, {"unlabelled": "ignore"}], ids=str)
def test_an_option_of_the_noise_reaches_the_weights(disks, extra):
    noise = {"label_noise": "sample:0.3", "epochs": 1}
    folders = [run(disks, run_name=name, **noise, **more) for name, more in (("plain", {}), ("other", extra))]
    one, other = (load_checkpoint(folder / "checkpoints" / "last.pth")["model"] for folder in folders)
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_the_direction_can_be_given(disks):
    best = load_checkpoint(run(disks, epochs=1, pred_invert="on") / "checkpoints" / "best.pth")
    assert best["pred_invert"] is True


def test_a_fold_holds_its_part_out(disks):
    folder = run(disks, epochs=1, fold="2/4")
    held_out = (folder / "held_out.txt").read_text().splitlines()
    assert len(held_out) == 2 and "6 training images" in (folder / "log.txt").read_text()


def rename_as_crops(root: Path) -> None:
    """Name the eight training images as crops of four fields, two each."""
    names = [f"well{i // 4}_{i // 2}_h0_w{64 * (i % 2)}.png" for i in range(8)]
    path = root / "txt/disks/train/train_noisyLabel.txt"
    pairs = [[root / file for file in line.split()] for line in path.read_text().splitlines()]
    for pair, name in zip(pairs, names, strict=True):
        for file in pair:
            file.rename(file.with_name(name))
    rows = ["\t".join(str(file.with_name(name)) for file in pair) for pair, name in zip(pairs, names, strict=True)]
    path.write_text("\n".join(rows))


def test_a_fold_tears_no_field_of_view_apart(disks):
    rename_as_crops(disks)
    runs = [run(disks, epochs=1, fold=f"{number}/4") for number in range(1, 5)]
    parts = [[Path(line.split()[0]).name for line in (each / HELD_OUT).read_text().splitlines()] for each in runs]
    assert all(len(part) == 2 and len({name.rpartition("_h0")[0] for name in part}) == 1 for part in parts)
    assert len({name for part in parts for name in part}) == 8
    wells = run(disks, epochs=1, fold="1/2", group_by="well[0-9]")
    held_out = (wells / HELD_OUT).read_text().splitlines()
    assert len(held_out) == 4 and len({Path(line.split()[0]).name[:5] for line in held_out}) == 1
    with pytest.raises(UserError, match="only 8 images in 4 groups that stay together"):
        run(disks, fold="1/5")
    with pytest.raises(UserError, match="--group_by 'x' matches no image"):
        run(disks, fold="1/2", group_by="x")
    with pytest.raises(UserError, match="--group_by well does nothing without --fold"):
        run(disks, group_by="well")


def test_a_fold_that_goes_on_keeps_what_it_held_out(disks):
    folder = run(disks, epochs=2, stop_after=1, fold="1/4")
    samples = (disks / "txt/disks/train/train_noisyLabel.txt").read_text().splitlines()
    others = [line for line in samples if line not in (folder / HELD_OUT).read_text()][:2]
    (folder / HELD_OUT).write_text("\n".join(others))  # as if the parts had been drawn in another way
    fit(configure({"resume": str(folder)}, disks), disks)
    assert (folder / HELD_OUT).read_text().splitlines() == others


def test_a_second_run_of_one_name_is_kept_apart(disks):
    first, second = (run(disks, epochs=1, run_name="same") for _ in range(2))
    assert (first.name, second.name) == ("same", "same-2")


def test_resume_discards_records_of_epochs_that_were_not_kept(disks):
    folder = run(disks, epochs=3, stop_after=1, run_name="cut")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "train/loss": 9}\n{"epoch": 3, "tra')
    fit(configure({"resume": str(folder)}, disks), disks)
    records = read_jsonl(folder / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [1, 2, 3] and records[1]["train/loss"] != 9


def test_extending_a_finished_run_learns_again(disks, capsys):
    folder = run(disks, epochs=2, run_name="long", augment=())
    with pytest.raises(UserError, match="completed 2 epochs"):
        fit(configure({"resume": str(folder)}, disks), disks)
    capsys.readouterr()
    fit(configure({"resume": str(folder), "epochs": 12}, disks), disks)
    assert "goes on from 3e-05, rises to 0.0015 and anneals until epoch 12" in capsys.readouterr().out
    records = read_jsonl(folder / "metrics.jsonl")
    rates, losses = ([record[f"train/{name}"] for record in records] for name in ("learning_rate", "loss"))
    assert len(rates) == 12 and max(rates[2:]) == pytest.approx(0.0015, rel=0.1) and rates[-1] < 1e-4
    assert losses[-1] < 0.8 * losses[1]


def test_an_extended_run_that_is_stopped_goes_on_as_if_it_were_not(disks):
    whole, part = (run(disks, epochs=2, run_name=name) for name in ("whole", "part"))
    fit(configure({"resume": str(whole), "epochs": 6}, disks), disks)
    fit(configure({"resume": str(part), "epochs": 6, "stop_after": 4}, disks), disks)
    fit(configure({"resume": str(part)}, disks), disks)
    one, other = (load_checkpoint(folder / "checkpoints" / "last.pth") for folder in (whole, part))
    assert_equal_states({key: one[key] for key in TRAINED}, {key: other[key] for key in TRAINED})


def test_without_validation_list_best_is_last_and_the_noise_sets_the_threshold(disks, capsys):
    (disks / "txt" / "disks" / "val.txt").unlink()
    folder = run(disks, epochs=2, label_noise="sample:0.1")
    best, last = (load_checkpoint(folder / "checkpoints" / name) for name in ("best.pth", "last.pth"))
    assert best["epoch"] == last["epoch"] == 2 and best["threshold"] == pytest.approx(0.05)
    assert capsys.readouterr().out.count("no validation list") == 1


def test_the_noisy_list_is_read_by_default_and_noise_starts_from_the_clean_one(disks, capsys):
    run(disks, epochs=1)
    assert "train_noisyLabel.txt" in capsys.readouterr().out
    run(disks, epochs=1, label_noise="flip:0.2")
    assert "train_gt.txt with label noise flip:0.2" in capsys.readouterr().out


def test_a_diverging_run_stops_before_the_step_and_keeps_what_is_finished(disks, monkeypatch):
    from training.step_guard import NonFiniteLoss

    folder = run(disks, epochs=3, stop_after=1, run_name="diverged")
    before = load_checkpoint(folder / "checkpoints" / "last.pth")
    broken = SegmentationLoss.forward
    monkeypatch.setattr(SegmentationLoss, "forward", lambda *given: broken(*given) * float("nan"))
    with pytest.raises(NonFiniteLoss, match="weights were not changed") as failure:
        fit(configure({"resume": str(folder)}, disks), disks)
    assert any("--resume" in note for note in failure.value.__notes__)
    assert_equal_states(load_checkpoint(folder / "checkpoints" / "last.pth"), before)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"epoch_1.pth", "best.pth", "last.pth"}


def test_the_commands_of_the_next_steps_are_printed_last(disks, capsys):
    folder = run(disks, epochs=1)
    inference, metrics = capsys.readouterr().out.splitlines()[-2:]
    assert inference.startswith("python evaluation/inference.py --train_dir") and folder.name in inference
    assert metrics.startswith("python evaluation/metrics.py --prd_dir") and "epoch_1/pred" in metrics


@pytest.mark.parametrize("weights", [("frequency",), ("1", "3")])
def test_class_weights_reach_the_loss(disks, weights):
    plain, weighted = (
        read_jsonl(run(disks, epochs=1, **extra) / "metrics.jsonl")[0]["train/loss"]
        for extra in ({}, {"class_weights": weights})
    )
    assert plain != weighted


@pytest.mark.parametrize("weights", [("1",), ("a", "b"), ("-1", "2")])
def test_wrong_class_weights_are_named(disks, weights):
    with pytest.raises(UserError, match="--class_weights"):
        run(disks, epochs=1, class_weights=weights)


def test_a_run_without_validation_stays_so_when_it_is_resumed(disks):
    val = disks / "txt" / "disks" / "val.txt"
    kept = val.read_text()
    val.unlink()
    folder = run(disks, epochs=3, stop_after=1, run_name="blind")
    val.write_text(kept)
    fit(configure({"resume": str(folder)}, disks), disks)
    assert "val/iou" not in read_jsonl(folder / "metrics.jsonl")[-1]


def test_the_words_of_the_first_command_are_accepted_on_resume(disks):
    given = {"train_list": "train_gt", "precision": "auto", "lr": 0.01}
    folder = run(disks, epochs=2, stop_after=1, run_name="same", **given)
    fit(configure({"resume": str(folder), "dataset": "disks", **given}, disks), disks)
    config = json.loads((folder / "config.json").read_text())
    assert len(config["resumed"]) == 1 and config["precision"] == "auto"
    assert config["used_precision"] in ("bf16", "fp32")
    with pytest.raises(UserError, match="--stop_after 1"):
        fit(configure({"resume": str(folder), "stop_after": 1, "epochs": 4}, disks), disks)


def test_labels_are_compared_with_clean_ones_and_never_with_themselves(disks, capsys):
    run(disks, epochs=1, label_noise="flip:0.3")
    assert "against clean labels: verdict: learnable (predicted IoU " in capsys.readouterr().out
    run(disks, epochs=1)  # the noisy list names the labels of train_gt.txt
    assert "against images only: verdict: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "not of the truth: at 0.3 the truth is surely background, at 0.7 surely foreground"),
        ({"loss": "forward"}, "probabilities of the truth, not of the noisy labels"),
        ({"loss": "dice"}, None),  # its scores are no probabilities
    ],
)
def test_the_card_says_whose_probabilities_scores_are(disks, how, said):
    text = (run(disks, steps=2, label_noise="flip:0.3", audit=False, **how) / "README.md").read_text()
    assert said in text if said else "| scores |" not in text


def test_ninety_percent_flipped_labels_train_the_right_way_up(disks):
    options = {"label_noise": "flip:0.9", "epochs": 6, "repeat": 8, "width": 8}
    clean_validation = run(disks, **options)
    noisy_validation = run(disks, val_labels="noisy", **options)
    for folder in (clean_validation, noisy_validation):
        best = load_checkpoint(folder / "checkpoints" / "best.pth")
        assert best["pred_invert"] is True
        # Neither noisy labels nor three clean ones choose a threshold: it is the one that the noise implies.
        assert best["threshold"] == pytest.approx(0.5)
    assert max(record["val/iou"] for record in read_jsonl(clean_validation / "metrics.jsonl")) > 0.6


def test_a_broken_image_met_by_a_worker_is_one_message(disks):
    image = disks / "datasets" / "disks" / "train" / "images" / "3.png"
    image.write_bytes(image.read_bytes()[:-200])
    with pytest.raises(UserError) as fault:
        run(disks, epochs=1, cache="none", workers=1, audit=False, head_bias="zero")
    assert "3.png" in str(fault.value) and "Traceback" not in str(fault.value)


def test_a_run_that_learned_the_parameter_of_its_loss_says_what_to_do(disks):
    folder = run(disks, epochs=2, stop_after=1, loss="tloss", run_name="learned")
    last = folder / "checkpoints" / "last.pth"
    torch.save({**load_checkpoint(last), "loss": {"learned.0_nu": torch.tensor(0.3)}}, last)
    with pytest.raises(UserError, match="learned ν of its loss tloss.*--loss"):
        fit(configure({"resume": str(folder)}, disks), disks)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"momentum": 1.0}, "^momentum: .* below 1"), ({"warmup_epochs": 3.0, "epochs": 2}, "shorter than --epochs 2")],
)
def test_options_that_cannot_work_are_refused(disks, given, said):
    with pytest.raises(UserError, match=said):
        run(disks, **{"epochs": 1, **given})


def test_what_only_some_runs_need_is_imported_by_them_alone():
    code = "import sys, training.fit; print([name for name in ('torchvision', 'torch._dynamo') if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO_ROOT)
    assert answer.stdout == "[]\n"


def test_a_run_starts_from_the_weights_of_another(disks, capsys):
    first = run(disks, epochs=2, run_name="first")
    second = run(disks, epochs=1, run_name="second", init_from="disks/first", lr=1e-12, audit=False)
    before, after = (load_checkpoint(folder / "checkpoints" / "best.pth")["model"] for folder in (first, second))
    weights = [name for name in before if "running_" not in name and "num_batches" not in name]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in weights)
    again = run(disks, epochs=1, run_name="third", init_from=str(first), ema=0.5, lr=1e-12, audit=False)
    assert all(
        torch.allclose(before[name], load_checkpoint(again / "checkpoints" / "best.pth")["model"][name], atol=1e-6)
        for name in weights
    )


def test_weights_of_another_network_are_refused_with_what_differs(disks, capsys):
    run(disks, epochs=1, run_name="first")
    with pytest.raises(UserError, match=r"--init_from .*first: .*'width': 4.* there, .*'width': 8.* here"):
        run(disks, epochs=1, width=8, init_from="disks/first")
    with pytest.raises(UserError, match="--init_from gives all networks of --method trinet the same weights"):
        run(disks, epochs=1, method="trinet", ema=0.0, init_from="disks/first")
    with pytest.raises(UserError, match="--init_from and --pretrained both"):
        configure({"network": "unet_resnet18", "pretrained": "imagenet", "init_from": "disks/first"}, disks)
    run(disks, epochs=1, normalization="unit", init_from="disks/first", audit=False)
    assert "disks/first, which saw images by --normalization zscore, other than here" in capsys.readouterr().out


def test_the_number_of_threads_is_kept_for_resume(disks, monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        folder = run(disks, epochs=2, stop_after=1, threads=2)
        assert read_json(folder / "config.json")["threads"] == 2 and "--threads 2" in capsys.readouterr().out
        torch.set_num_threads(1)
        fit(configure({"resume": str(folder)}, disks), disks)
        assert torch.get_num_threads() == 2 and "--threads 2" in capsys.readouterr().out
    finally:
        torch.set_num_threads(before)
