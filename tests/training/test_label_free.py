"""Label-free runs: no label is read, pseudo-labels are kept and resumed from, and structures are found."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.label_noise import EMS_SPEC
from training.configuration import RECIPES
from training.configuration.resolve import resolve_options
from training.fit import configure, fit
from training.label_free.masks import CRITERIA, INITIAL_LABELS, initial_mask
from utils.checkpoint import load_checkpoint
from utils.cli import UserError
from utils.files import read_json, read_jsonl, write_json

FREE = {
    "dataset": "disks",
    "preset": "quick",
    "igtt": True,
    "network": "lightunet",
    "width": 4,
    "crop": 64,
    "batch_size": 4,
    "device": "cpu",
    "tensorboard": False,
    "igtt_init": "otsu",
    "foreground": "bright",
}


def run(root: Path, **given) -> Path:
    return fit(configure({**FREE, **given}, root), root)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoints" / "last.pth")["model"]


def test_recipes_name_what_exists():
    assert RECIPES["published"]["igtt_ems"] == EMS_SPEC
    assert all(
        values["igtt_criterion"] in CRITERIA and values["igtt_init"] in INITIAL_LABELS for values in RECIPES.values()
    )


def same_weights(one: Path, two: Path) -> bool:
    return all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_garbage_labels_change_nothing(disks, recipe, rng):
    given = {"dataset": "disks", "igtt": recipe, "preset": "quick", "width": 4, "crop": 64, "batch_size": 4}
    given |= {"tensorboard": False, "epochs": 2, "device": "cpu"}
    with_labels = fit(configure({**given, "run_name": "with"}, disks), disks)
    for split in ("train", "val"):
        for path in (disks / "datasets" / "disks" / split / "labels").iterdir():
            cv2.imwrite(str(path), 255 * rng.integers(0, 2, (64, 64), np.uint8))
    garbage = fit(configure({**given, "run_name": "garbage"}, disks), disks)
    assert same_weights(with_labels, garbage)
    for name in ("best", "last"):
        one, two = (load_checkpoint(folder / "checkpoints" / f"{name}.pth") for folder in (with_labels, garbage))
        assert all(one[key] == two[key] for key in ("threshold", "pred_invert", "epoch"))
    figures = [read_jsonl(folder / "metrics.jsonl")[-1]["val/iou"] for folder in (with_labels, garbage)]
    assert figures[0] != figures[1], "they are logged"


def test_no_training_label_is_read(disks):
    with_labels = run(disks, epochs=2, run_name="with")
    shutil.rmtree(disks / "datasets" / "disks" / "train" / "labels")
    train_list = disks / "txt" / "disks" / "train" / "train_gt.txt"
    train_list.write_text("".join(line.split("\t")[0] + "\n" for line in train_list.read_text().splitlines()))
    assert same_weights(with_labels, run(disks, epochs=2, run_name="without"))


def test_validation_labels_decide_nothing(disks):
    with_labels = run(disks, epochs=2, run_name="with")
    (disks / "txt" / "disks" / "val.txt").unlink()
    without = run(disks, epochs=2, run_name="without")
    one, two = (load_checkpoint(folder / "checkpoints" / "best.pth") for folder in (with_labels, without))
    assert one["threshold"] == two["threshold"] and one["epoch"] == two["epoch"] == 2
    assert "val/iou" in read_jsonl(with_labels / "metrics.jsonl")[-1]
    assert "val/iou" not in read_jsonl(without / "metrics.jsonl")[-1]


@pytest.mark.parametrize("given", [{"igtt": "published"}, {"igtt_warmup": 0.0, "igtt_ems": EMS_SPEC}])
def test_stopped_and_resumed_equals_uninterrupted(disks, given):
    given = {"epochs": 3, "checkpoint_every": 1, **given}
    whole = run(disks, run_name="whole", **given)
    part = run(disks, run_name="part", stop_after=1, **given)
    stale = part / "igtt" / "epoch_2"
    stale.mkdir()  # what a crash in the second epoch leaves behind
    (stale / "manifest.json").write_text("{}")
    fit(configure({"resume": str(part)}, disks), disks)
    assert same_weights(whole, part)
    records = [read_json(folder / "igtt" / "epoch_3" / "manifest.json") for folder in (whole, part)]
    assert records[0] == records[1]


def test_only_the_first_masks_and_those_that_a_checkpoint_names_are_kept(disks):
    folder = run(disks, epochs=5, checkpoint_every=2, igtt_warmup=0.0, run_name="kept")
    assert sorted(path.name for path in (folder / "igtt").iterdir()) == ["epoch_0", "epoch_2", "epoch_4", "epoch_5"]
    record = read_json(folder / "igtt" / "epoch_5" / "manifest.json")
    assert record["foreground"] == "bright" and len(record["masks"]) == 8 and len(record["agreements"]) == 5


def test_bright_disks_are_found_without_labels(disks):
    simple = {"igtt_ems": "clean", "igtt_criterion": "bce", "loss": "bce"}
    folder = run(disks, epochs=10, repeat=8, igtt_warmup=0.8, run_name="found", **simple)
    assert read_jsonl(folder / "metrics.jsonl")[-1]["val/iou"] > 0.8


@pytest.mark.parametrize(("criterion", "is_half"), [("bce", True), ("dmi", False)])
def test_the_threshold_is_a_half_where_cross_entropy_chooses_masks(disks, criterion, is_half):
    folder = run(disks, epochs=2, igtt_warmup=0.0, igtt_criterion=criterion)
    threshold = load_checkpoint(folder / "checkpoints" / "last.pth")["threshold"]
    assert (threshold == 0.5) == is_half and 0 < threshold < 1


def test_a_recipe_is_one_option_and_given_ones_still_count():
    best, published = (resolve_options({"igtt": name}, has_accelerator=False) for name in RECIPES)
    assert best.label_free.igtt and published.label_free.igtt
    free = published.label_free
    assert (free.igtt_init, free.igtt_ems, published.loss.spec) == ("black", EMS_SPEC, "dmi+iou")
    assert resolve_options({"igtt": True}, has_accelerator=False) == best
    given = resolve_options({"igtt": "published", "igtt_ems": "clean"}, has_accelerator=False)
    assert given.replace(igtt_ems=EMS_SPEC) == published
    assert not resolve_options({}, has_accelerator=False).label_free.igtt
    with pytest.raises(UserError, match="best, published"):
        resolve_options({"igtt": "mine"}, has_accelerator=False)


def test_first_masks_stay_while_warming_up(disks):
    folder = run(disks, epochs=4, checkpoint_every=1, igtt_warmup=0.75, run_name="warm")
    one, two, three = (sorted((folder / "igtt" / f"epoch_{epoch}").glob("*.png")) for epoch in (1, 2, 3))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert [path.read_bytes() for path in two] != [path.read_bytes() for path in three]


def test_a_run_with_rules_that_no_longer_exist_is_not_resumed_as_another(disks):
    folder = run(disks, epochs=2, stop_after=1, run_name="ruled")
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "igtt_refresh": "dmi"})
    with pytest.raises(UserError, match="--igtt_refresh dmi, which no longer exists: .* a715d67"):
        fit(configure({"resume": str(folder)}, disks), disks)


@pytest.mark.parametrize("given", [{"num_classes": 3}, {"label_noise": "flip:0.1"}, {"fold": "1/2"}])
def test_what_needs_labels_is_refused(disks, given):
    with pytest.raises(UserError, match="--igtt"):
        run(disks, epochs=1, **given)


@pytest.mark.parametrize("init", INITIAL_LABELS)
def test_first_masks_of_images_of_several_channels_are_those_of_their_mean(init, rng):
    image = rng.integers(0, 200, (48, 48, 2)).astype(np.uint8)
    image[12:30, 12:30] += 50
    masks = [initial_mask(init, each, "bright", seed=0, image_id="7") for each in (image, image.mean(-1))]
    assert masks[0].shape == (48, 48) and np.array_equal(*masks)


def test_auto_says_which_vote_it_chose_and_says_it_once(disks, capsys):
    folder = run(disks, igtt_init="auto", epochs=2, stop_after=1)
    said = capsys.readouterr().out
    assert (
        "pseudo-labels: vote of local_contrast, random_walker, ridge: noise is " in said
        and "; labels: the masks themselves" in said
    )
    assert "look like noise" not in said
    fit(configure({"resume": str(folder)}, disks), disks)
    assert "noise is" not in capsys.readouterr().out


def test_first_labels_that_noise_drew_are_told(disks, capsys, rng):
    for path in (disks / "datasets" / "disks" / "train" / "images").iterdir():
        cv2.imwrite(str(path), rng.normal(128, 30, (64, 64)).clip(0, 255).astype(np.uint8))
    run(disks, igtt_init="vote", epochs=1)
    assert "warning: the first labels look like noise" in capsys.readouterr().out
