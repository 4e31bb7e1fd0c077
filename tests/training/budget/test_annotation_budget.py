"""The annotation budget: its grid, its curve against known ones, and a whole small experiment that is gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from training.annotation_budget import main, parse_options
from training.budget.curve import Scores, cell_means, cheapest_sentence, fit_curve, outlook_sentences, resample
from training.budget.plan import (
    Trial,
    choose_images,
    default_counts,
    epoch_steps,
    full_length,
    information_order,
    make_grid,
    trial_length,
)
from training.budget.session import Results, run_trials, show_time
from training.budget.trials import finish_trial, measure_seconds, open_experiment, train_trial
from utils.cli import UserError

TINY = {"dataset": "disks", "preset": "quick", "width": 4, "crop": 32, "batch_size": 2, "device": "cpu"}
TINY_ARGUMENTS = [item for name, value in TINY.items() for item in (f"--{name}", str(value))]
LADDER = ["--steps", "12", "--pixel_shares", "1", "20%", "--image_counts", "8", "3"]

HOLD = "import sys, time; from pathlib import Path; from utils.run_lock import run_lock\n"
HOLD += "with run_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


# The grid


@pytest.mark.parametrize("available", [8, 60, 157, 161, 595, 1000])
def test_all_cells_take_the_same_number_of_steps(available):
    full = full_length(available, 16, 20, 100, 300)
    assert full.steps == full.epochs * epoch_steps(available, full.repeat, 16) and 90 <= full.steps <= 350
    for images in default_counts(available):
        length = trial_length(images, 16, full)
        assert length.steps == length.epochs * epoch_steps(images, length.repeat, 16)
        assert abs(length.steps - full.steps) <= 0.01 * full.steps
        assert full.epochs // 2 <= length.epochs <= 2 * full.epochs


def test_smaller_image_sets_lie_within_larger_ones_of_the_same_repeat():
    large, small, other = (choose_images(30, count, repeat, 0) for count, repeat in ((20, 1), (6, 1), (6, 2)))
    assert set(small) < set(large) and len(set(large)) == 20 and set(other) != set(small)
    assert choose_images(30, 30, 3, 0) == list(range(30))


def test_full_labels_come_first_and_second_repeats_before_the_inside_of_the_ladder():
    order = make_grid((1, 0.1, 0.01), (90, 30, 10), repeats=3, available=90)
    assert len(order) == len(set(order)) == 27
    assert order[0] == Trial(1, 90, 1)
    edge = [trial for trial in order if trial.share == 1 or trial.images == 90]
    inside = [trial for trial in order if trial not in edge]
    assert order[:10] == [trial for trial in edge if trial.repeat < 3]
    assert order[10:18] == [trial for trial in inside if trial.repeat < 3]
    assert information_order(order[::-1]) == order


def test_more_images_than_the_list_has_are_refused():
    with pytest.raises(UserError, match="only 8 images"):
        make_grid((1.0,), (8, 9), 1, available=8)


# The curve


def scores_of(plateau, drop, power, worth, spread=0.0, seed=0) -> Scores:
    shares, images, repeats = (
        grid.reshape(-1) for grid in np.meshgrid([1, 0.25, 0.05, 0.01], [120, 40, 13, 4], [1, 2, 3], indexing="ij")
    )
    exact = plateau - drop * (120 / (images * shares**worth)) ** power
    return Scores(shares, images, exact + np.random.default_rng(seed).normal(0, spread, exact.shape), repeats)


@pytest.mark.parametrize("known", [(0.9, 0.02, 0.5, 0.3), (0.95, 0.1, 0.3, 0.0), (0.8, 0.01, 0.6, 0.8)])
def test_the_fit_recovers_a_known_curve(known):
    data = scores_of(*known)
    curve = fit_curve(data)
    assert np.abs(curve.predict(data.shares, data.images)[0] - data.scores).max() < 0.005
    found = (curve.plateau[0], curve.drop[0], curve.power[0], curve.worth[0])
    np.testing.assert_allclose(found, known, atol=0.05)


def test_intervals_hold_the_truth_under_noise():
    known = {"plateau": 0.9, "drop": 0.03, "power": 0.5, "pixel_worth": 0.3}
    data = scores_of(*known.values(), spread=0.01)
    for name, figure in fit_curve(data, resample(data)).parameters().items():
        assert figure["low"] - 0.03 <= known[name] <= figure["high"] + 0.03
        assert figure["low"] <= figure["value"] <= figure["high"]


@pytest.mark.parametrize("scores", [[0.8, 0.7, 0.9], [0.5, 0.5, 0.5], [1.0, 1.0, 0.2]])
def test_few_points_give_a_curve_that_stays_in_range(scores):
    data = Scores(np.array([1, 1, 0.1]), np.array([20.0, 5, 20]), np.array(scores), np.ones(3))
    curve = fit_curve(data)
    predicted = curve.predict(np.array([1, 0.5, 0.001]), np.array([1000, 3, 1]))[0]
    assert ((predicted >= 0) & (predicted <= 1)).all() and curve.drop[0] >= 0 and curve.plateau[0] <= 1
    assert fit_curve(Scores(*(values[:2] for values in (data.shares, data.images, data.scores, data.repeats)))) is None


def test_an_effect_of_the_repeat_on_all_cells_leaves_their_ratio_alone():
    shares, images = np.tile([1, 1, 0.1, 0.1], 3), np.tile([20.0, 5, 20, 5], 3)
    repeats = np.repeat([1, 2, 3], 4)
    effect = np.array([-0.1, 0, 0.1])[repeats - 1]
    data = Scores(shares, images, 0.7 + 0.1 * (shares == 1) + effect, repeats)
    rows = cell_means(data, resample(data))
    full, small = rows[0], rows[-1]
    assert full["mean"] == pytest.approx(0.8) and full["high"] - full["low"] > 0.1
    assert full["of_full_low"] == full["of_full_high"] == 1
    assert small["of_full_high"] - small["of_full_low"] < 0.1


# In words


def test_the_sentence_names_the_least_annotation_that_is_enough():
    shares, images = np.array([1, 1, 0.05, 0.05, 0.01]), np.array([120.0, 40, 120, 40, 120])
    data = Scores(shares, images, np.array([0.90, 0.89, 0.88, 0.873, 0.6]), np.ones(5))
    rows = cell_means(data, resample(data))
    assert cheapest_sentence(rows, 0.95, "F1", is_full=True) == (
        "5 % of the foreground pixels on 40 images reach 97 % of the full-label F1 (0.87 of 0.90)."
    )
    assert "5 % of the foreground pixels on 120 images reach 98 %" in cheapest_sentence(rows, 0.975, "F1", True)
    assert cheapest_sentence(rows, 0.99, "F1", is_full=False) == (
        "No smaller amount of annotation tried reaches 99 % of the F1 of the most annotation tried, "
        "0.90 with 120 images."
    )
    nothing = replace(data, scores=np.zeros_like(data.scores))
    rows = cell_means(nothing, resample(nothing))
    said = cheapest_sentence(rows, 0.95, "F1", is_full=True)
    assert said.startswith("Not even the most annotation tried taught anything, F1 0.00 with 120 images: take more")


def test_the_outlook_speaks_of_what_varied_alone():
    data = scores_of(0.9, 0.03, 0.5, 0.3)
    images, pixels = outlook_sentences(fit_curve(data), data, "F1")
    assert "twice as many images would add about 0.01 F1" in images
    assert "a tenth of the pixels is worth labelling 50 % of the images in full" in pixels
    one_share = Scores(*(values[data.shares == 1] for values in (data.shares, data.images, data.scores, data.repeats)))
    assert len(outlook_sentences(fit_curve(one_share), one_share, "F1")) == 1


# The command


def test_a_study_is_gone_on_with_and_repeats_nothing(disks, capsys):
    arguments = [*TINY_ARGUMENTS, *LADDER, "--repeats", "1"]
    main(arguments, disks)
    folder = disks / "train_log" / "disks" / "annotation_budget"
    first, trials = json.loads((folder / "curve.json").read_text()), json.loads((folder / "cells.json").read_text())
    assert set(trials["cells"]) == {"p1_n8_r1", "p1_n3_r1", "p0.2_n8_r1", "p0.2_n3_r1"}
    assert {record["steps"] for record in trials["cells"].values()} == {12}
    assert first["left_out"] == [] and len(first["sentences"]) == 3
    assert (folder / "curve.png").stat().st_size > 10_000 and len((folder / "table.csv").read_text().split()) == 5
    assert sorted(path.name for path in (folder / "runs").iterdir()) == sorted(trials["cells"])
    assert not list((disks / "train_log").rglob("*.pth")) and len(list(folder.parent.iterdir())) == 1
    output = capsys.readouterr().out
    assert output.splitlines()[-3:] == first["sentences"] and "100 % of the pixels, 3 images, repeat 1: F1" in output

    main(arguments, disks)
    assert "4 trainings are finished" in capsys.readouterr().out
    assert json.loads((folder / "cells.json").read_text()) == trials
    with pytest.raises(UserError, match="other settings .*seed 0 → 1"):
        main([*arguments, "--seed", "1"], disks)
    label = next(disks.glob("datasets/*/train/labels/*"))
    label.write_bytes(next(path for path in label.parent.iterdir() if path != label).read_bytes())  # corrected
    with pytest.raises(UserError, match="other settings .*list_content"):
        main(arguments, disks)


@pytest.mark.parametrize("name", ["table.csv", "curve.png", "log.txt", "runs/p1_n8_r1/mine.txt"])
def test_a_folder_with_files_of_others_is_refused_and_left_as_it_is(disks, name):
    mine = disks / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(UserError, match=f"holds {name.split('/')[0]}, which this command did not write"):
        main([*TINY_ARGUMENTS, *LADDER, "--out", str(disks / "mine")], disks)
    assert [path for path in (disks / "mine").rglob("*") if path.is_file() and path.name != ".lock"] == [mine]


def test_a_training_that_was_begun_with_other_settings_is_not_gone_on_with(disks):
    folders = {"folder": disks / "out", "root": disks}
    former = open_experiment(TINY, steps=12, data_list=None, **folders)
    Results.open(former)
    run = train_trial(former, Trial(1, 8, 1), stop_after=1)
    assert Results.open(former).trials == {} and run.is_dir()
    latter = open_experiment({**TINY, "seed": 1}, steps=12, data_list=None, **folders)
    assert Results.open(latter).settings["seed"] == 1 and not run.exists()


def test_two_at_once_on_one_folder_and_what_a_kill_left(disks):
    arguments = [*TINY_ARGUMENTS, "--image_counts", "8", "--pixel_shares", "1", "--repeats", "1"]
    main([*arguments, "--keep_checkpoints"], disks)
    runs = disks / "train_log/disks"
    left = open_experiment(TINY, steps=12, data_list=None, folder=None, root=disks).run_folder(Trial(1, 8, 1))
    (runs / "annotation_budget/runs/p1_n8_r1").rename(left)  # killed between a training's record and its place
    main(arguments, disks)
    assert not left.exists() and (runs / "annotation_budget/runs/p1_n8_r1/config.json").is_file()
    hold = [sys.executable, "-c", HOLD, str(runs / "annotation_budget")]
    with subprocess.Popen(hold, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {owner.pid}"):
            main(arguments, disks)
        owner.kill()


def test_an_interrupted_training_goes_on_and_ends_as_if_it_had_not_been(disks):
    whole, cut = (
        open_experiment(TINY, steps=12, data_list=None, folder=disks / name, root=disks) for name in ("whole", "cut")
    )
    trial = Trial(0.2, 3, 1)
    expected = finish_trial(whole, trial)
    run = train_trial(cut, trial, stop_after=1)
    assert train_trial(cut, trial, stop_after=2) == run
    record = finish_trial(cut, trial)
    assert {**record, "seconds": 0} == {**expected, "seconds": 0} and 0 <= record["score"] <= 1


def test_what_the_time_does_not_hold_is_left_out_and_named(disks, capsys):
    experiment = open_experiment(TINY, steps=12, data_list="test", folder=None, root=disks)
    grid = make_grid((1, 0.2), (8, 3), 1, 8)
    hours = iter(range(0, 100_000, 3600))
    left_out = run_trials(experiment, Results.open(experiment), grid, ends=1.5 * 3600, clock=lambda: next(hours))
    assert left_out == grid[1:]
    assert set(Results.open(experiment).trials) == {"p1_n8_r1"}

    show_time(grid, seconds=60, left=150)
    assert "left out, as what tells least: 20 % of the pixels, 8 images, repeat 1; 20 %" in capsys.readouterr().out
    with pytest.raises(UserError, match="about 10.0 min, more than the 5.0 min left of --time_budget"):
        show_time(grid, seconds=600, left=300)


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_was_set_does_not_change_how_long_a_training_is_said_to_take(disks, monkeypatch, hours):
    experiment = open_experiment(TINY, steps=12, data_list="test", folder=None, root=disks)
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + 3600 * hours)  # of this machine; files have the disk's
    started = time.monotonic()
    seconds = measure_seconds(experiment, make_grid((1,), (8,), 1, 8)[0])
    assert 0 < seconds <= experiment.full.epochs * (time.monotonic() - started)


def test_scores_are_those_of_a_clean_list_and_never_of_the_test_list_unasked(disks):
    experiment = open_experiment(TINY, steps=12, data_list=None, folder=None, root=disks)
    assert experiment.scored_on.name == "val.txt"
    on_test = open_experiment(TINY, steps=12, data_list="test", folder=None, root=disks)
    assert on_test.scored_on.name == "test.txt" and on_test.settings() != experiment.settings()
    with pytest.raises(UserError, match="--data_list"):
        open_experiment({**TINY, "val_labels": "noisy"}, steps=12, data_list=None, folder=None, root=disks)
    (disks / "txt" / "disks" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"val\.txt is absent.*--data_list"):
        open_experiment(TINY, steps=12, data_list=None, folder=None, root=disks)


def test_a_fusion_that_would_have_no_effect_is_refused(disks):
    path = disks / "txt" / "disks" / "train" / "several.txt"
    rows = (disks / "txt" / "disks" / "train" / "train_gt.txt").read_text().splitlines()
    path.write_text("".join(f"{row}\t{row.split(chr(9))[1]}\n" for row in rows))
    several = {**TINY, "train_list": str(path)}
    assert open_experiment(several, steps=12, data_list=None, folder=None, root=disks).samples[0].more_labels
    with pytest.raises(UserError, match="--fusion vote"):
        open_experiment({**several, "fusion": "vote"}, steps=12, data_list=None, folder=None, root=disks)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--pixel_shares", "0"], "above 0 and up to 1"),
        (["--pixel_shares", "5"], "0.05 or 5%"),
        (["--epochs", "3"], "use --steps"),
        (["--label_noise", "flip:0.3"], "use --pixel_shares"),
        (["--network", "vnet"], "unet"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_options_are_named(wrong, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_options(["--dataset", "disks", *wrong])
    assert stop.value.code == 2 and message in capsys.readouterr().err
