"""What clean labels of some images decide: repair, loss, length; given options win, resumed runs decide nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets.catalog import prepare_dataset
from datasets.image_io import read_label, write_label
from datasets.label_noise import make_noisy_label
from datasets.lists import read_list, write_list
from datasets.noise_files import write_noisy_labels
from training.configuration.resolve import resolve_options
from training.data import load_data
from training.fit import configure, fit
from training.methods.supervised import Supervised
from training.run import recipe as recipe_module
from training.run.label_facts import audit_dataset
from training.run.lists import read_lists
from training.run.recipe import decide
from utils.cli import UserError
from utils.files import read_json, read_jsonl, write_json

CLEAN = 6
TINY = {"dataset": "disks", "clean_list": "clean", "preset": "quick", "width": 2, "crop": 32, "device": "cpu"}
SHORT = {"steps": 2, "epochs": 2, "tensorboard": False}


def silent(line: str) -> None:
    """Say nothing."""


@pytest.fixture
def noisy_disks(disks):
    """The data set ``disks`` with a list ``clean`` of its first six images; ``make(spec)`` names a noisy list of it."""
    lines = (disks / "txt/disks/train/train_gt.txt").read_text().splitlines(keepends=True)
    (disks / "txt/disks/train/clean.txt").write_text("".join(lines[:CLEAN]))

    def make(spec: str) -> str:
        return write_noisy_labels("disks", spec, root=disks, say=silent).stem

    return disks, make


def decided(root, **given):
    options = configure({**TINY, **given}, root)
    options, found, _ = decide(options, read_lists(options, root, silent).train.samples, root, audit_dataset)
    return options, {decision.name: decision for decision in found}


@pytest.mark.parametrize(
    ("spec", "repair", "loss"),
    [
        ("clean", None, "bce"),
        ("flip:0.3", None, "forward"),
        ("sample:0.1", None, "forward"),
        ("dilate:5", "offset:-2.5", "bce"),
        ("erode:3", "offset:1", "bce"),
        ("move:3,3", "move:-3,-3", "bce"),
    ],
)
def test_the_kind_of_error_decides_repair_and_loss(noisy_disks, spec, repair, loss):
    root, make = noisy_disks
    options, found = decided(root, train_list=make(spec))
    assert (options.noise.label_repair, options.loss.spec) == (repair, loss)
    assert list(found)[:2] == ["label_repair", "audit"] and list(found)[-1] == "threshold"
    assert all(decision.reason for decision in found.values())


def test_three_clean_images_are_too_few_for_a_matrix(noisy_disks):
    root, make = noisy_disks
    lines = (root / "txt/disks/train/clean.txt").read_text().splitlines(keepends=True)
    (root / "txt/disks/train/clean.txt").write_text("".join(lines[:3]))
    _, found = decided(root, train_list=make("flip:0.3"))
    assert found["audit"].value == "learnable" and found["loss"].value == "bce"
    assert found["loss"].reason.endswith("correct by it: 3 of 5 images that it takes are known")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "repair", "loss"),
    [
        ("clean", "", "bce"),
        ("flip:0.3", "", "forward"),
        ("sample:0.1", "", "forward"),
        ("dilate:5", "offset:-", "bce"),
        ("erode:5", "offset:", "bce"),
        ("move:3,3", "move:-3,-3", "bce"),
        ("skeleton", "offset:", "bce"),
        ("missing:0.3", "", "bce"),
    ],
)
def test_decisions_on_simulated_tubules(tmp_path_factory, spec, repair, loss):
    root = tmp_path_factory.getbasetemp() / "er_sim"
    prepare_dataset("er_sim", None, root=root)
    samples = read_list(root / "txt/er_sim/train/train_gt.txt", root=root)[:20]
    rows = []
    for sample in samples:
        target = root / "labels" / spec.replace(":", "-") / f"{sample.image.stem}.png"
        write_label(target, make_noisy_label(read_label(sample.label), spec, 0, sample.image_id))
        rows.append((sample.image, target))
    write_list(root / "labels.txt", rows, root)
    write_list(root / "clean.txt", [(sample.image, sample.label) for sample in samples[:10]], root)
    lists = {"train_list": str(root / "labels.txt"), "clean_list": str(root / "clean.txt")}
    options, _ = decided(root, dataset="er_sim", **lists)
    assert options.loss.spec == loss
    assert (options.noise.label_repair or "").startswith(repair) and bool(options.noise.label_repair) == bool(repair)


def test_given_options_win(noisy_disks):
    root, make = noisy_disks
    given = {"label_repair": "offset:-1", "loss": "bce+0.5*dice", "steps": 30, "train_list": make("dilate:5")}
    options, found = decided(root, **given)
    assert (options.noise.label_repair, options.loss.spec, options.optimization.steps) == (
        "offset:-1",
        given["loss"],
        30,
    )
    assert list(found) == ["audit", "threshold"]
    plain, found = decided(root, train_list="train_dilate-5", recipe="plain")
    assert plain.noise.label_repair is None and found == {}


def test_plain_training_may_still_repair(noisy_disks):
    root, make = noisy_disks
    options, found = decided(root, train_list=make("dilate:5"), recipe="plain", label_repair="auto")
    assert options.noise.label_repair == "offset:-2.5" and list(found) == ["label_repair"]


def test_weak_labels_take_more_steps(noisy_disks):
    root, make = noisy_disks
    usual = configure(TINY, root).optimization.steps
    options, found = decided(root, train_list=make("flip:0.45"))
    assert usual < options.optimization.steps <= 4 * usual and "φ²" in found["steps"].reason
    options, _ = decided(root, train_list=make("dilate:3"))
    assert options.optimization.steps == usual


def test_a_run_keeps_its_decisions_and_repairs_before_it_sees(noisy_disks):
    root, make = noisy_disks
    run = fit(configure({**TINY, **SHORT, "train_list": make("dilate:5"), "stop_after": 1}, root), root)
    config = read_json(run / "config.json")
    assert config["recipe"] == "auto" and config["label_repair"] == "offset:-2.5"
    assert [decision["name"] for decision in config["decisions"]] == ["label_repair", "audit", "loss", "threshold"]
    assert "recipe: label_repair offset:-2.5: " in (run / "log.txt").read_text()
    (root / "txt/disks/train/clean.txt").write_text(
        "".join(f"{line}\n" for line in (root / "txt/disks/train/train_dilate-5.txt").read_text().splitlines()[:6])
    )  # the clean list has changed: a resumed run decides nothing by it
    fit(configure({"resume": str(run), "label_repair": "auto"}, root), root)
    assert read_json(run / "config.json")["decisions"] == config["decisions"]
    log = (run / "log.txt").read_text()
    assert log.count("train_dilate-5.txt, repaired by offset:-2.5, whose labels carry simulated noise, dilate:5\n") == 2
    changed = next(line for line in log.splitlines() if "since the run began, " in line and " changed: " in line)
    assert changed.endswith("clean.txt")
    assert read_json(run / "config.json")["label_repair"] == "offset:-2.5"


def test_a_part_of_the_list_decides_without_the_images_that_it_leaves_out(noisy_disks):
    root, make = noisy_disks
    options = configure({**TINY, "train_list": make("dilate:5"), "fold": "1/2"}, root)
    lists = read_lists(options, root, silent)
    clean = [sample for sample in lists.train.samples if sample.clean_label is not None]
    assert 0 < len(clean) < CLEAN and len(lists.held_out) == len(lists.train.samples) == len(lists.train.sizes)
    assert not {sample.image for sample in lists.held_out} & {sample.image for sample in lists.train.samples}
    _, found = decided(root, train_list=options.data.train_list, fold="1/2")
    assert f"of {len(clean)} labels with clean ones" in found["label_repair"].reason
    assert f"of {len(clean)} images against" in found["audit"].reason


def test_a_part_that_leaves_out_all_foreground_is_refused(noisy_disks):
    root, _ = noisy_disks
    samples = read_list(root / "txt/disks/train/train_gt.txt", root=root)
    for sample in samples[1:]:
        write_label(sample.label, np.zeros_like(read_label(sample.label)))
    parts = []
    for number in range(1, len(samples) + 1):
        fold = f"{number}/{len(samples)}"
        options = configure({"dataset": "disks", "train_list": "train_gt", "fold": fold, "device": "cpu"}, root)
        try:
            parts.append(len(read_lists(options, root, silent).train.samples))
        except UserError as error:
            assert f"--fold {fold} leaves out every image" in str(error) and "with foreground" in str(error)
    assert parts == [len(samples) - 1] * (len(samples) - 1)


def test_images_of_the_clean_list_train_with_their_clean_labels(noisy_disks):
    root, make = noisy_disks
    options = configure({**TINY, "train_list": make("flip:0.3"), "label_repair": "offset:1"}, root)
    from training.data import make_dataset

    samples = read_lists(options, root, silent).train.samples
    dataset = make_dataset(options, samples, "none", repair=options.noise.label_repair)
    truths = [read_label(sample.label) for sample in read_list(root / "txt/disks/train/train_gt.txt", root=root)]
    for place, truth in enumerate(truths):
        listed = read_label(samples[place].label)
        np.testing.assert_array_equal(dataset.listed_label(place), make_noisy_label(listed, "offset:1", 0, ""))
        np.testing.assert_array_equal(dataset.label(place), truth if place < CLEAN else dataset.listed_label(place))


def test_clean_labels_and_matrices_of_noise_are_files_of_the_run(noisy_disks):
    root, make = noisy_disks
    write_json(root / "Q.json", {"classes": 2, "matrix": [[0.9, 0.1], [0.2, 0.8]]})
    given = {"train_list": make("flip:0.3"), "label_noise": f"sample:0.9+ntm:{root / 'Q.json'}"}
    options = configure({**TINY, **given}, root)
    data = load_data(options, read_lists(options, root, silent), torch.device("cpu"))
    clean = {root / "txt/disks/train/clean.txt", *(root / f"datasets/disks/train/labels/{n}.png" for n in range(CLEAN))}
    assert {root / "Q.json", *clean} <= set(data.files())


def test_noise_spares_clean_labels(noisy_disks):
    root, _ = noisy_disks
    given = {"train_list": "train_gt", "label_noise": "flip:0.3", "label_noise_refresh": "epoch"}
    options = configure({**TINY, **given}, root)
    assert options.run.recipe == "plain"
    from training.data import make_dataset, training_noise

    dataset = make_dataset(
        options, read_lists(options, root, silent).train.samples, "ram", noise=training_noise(options)
    )
    for place in range(8):
        is_drawn = not np.array_equal(dataset.label(place, 1), dataset.label(place, 2))
        assert is_drawn == (place >= CLEAN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "auto", "label_noise": "flip:0.3"}, "--label_noise"),
        ({"recipe": "auto", "igtt": "best"}, "--igtt"),
        ({"label_repair": "auto", "clean_list": None}, "--clean_list"),
        ({"igtt": "best"}, "--clean_list"),
    ],
)
def test_contradictions_are_told(given, message):
    with pytest.raises(UserError, match=message):
        resolve_options({**TINY, **given}, has_accelerator=False)


def test_faults_of_the_clean_list_are_told(noisy_disks):
    root, make = noisy_disks
    lists, train_list = root / "txt/disks", make("dilate:3")
    (lists / "train/clean.txt").write_text((lists / "val.txt").read_text())
    with pytest.raises(UserError, match="names none of the images"):
        decided(root, train_list=train_list, val_list="test")
    with pytest.raises(UserError, match=r"val\.txt too: they are trained on"):
        decided(root, train_list=train_list)
    (lists / "train/clean.txt").write_text((lists / "train/train_gt.txt").read_text())
    with pytest.raises(UserError, match="shift:2 draws at random"):
        decided(root, train_list=train_list, label_repair="shift:2")


@pytest.mark.parametrize(
    ("recipe", "validated", "moves"), [("auto", 0, True), ("auto", 3, True), ("auto", 4, False), ("plain", 0, False)]
)
def test_clean_training_images_move_the_threshold_where_validation_cannot(
    noisy_disks, recipe, validated, moves, monkeypatch
):
    root, make = noisy_disks
    lines = [line for name in ("val", "test") for line in (root / f"txt/disks/{name}.txt").read_text().splitlines(True)]
    (root / "txt/disks/val.txt").write_text("".join(lines[:validated]))
    if not validated:
        (root / "txt/disks/val.txt").unlink()
    found, decide = [], Supervised.decide
    monkeypatch.setattr(
        Supervised,
        "decide",
        lambda self, state, counts, known: found.append(known) or decide(self, state, counts, known),
    )
    run = fit(configure({**TINY, **SHORT, "recipe": recipe, "train_list": make("flip:0.2")}, root), root)
    log = (run / "log.txt").read_text()
    assert len(found) == 2 and all((counts is not None) == moves for counts in found)
    assert all(counts.shape[0] == CLEAN for counts in found if counts is not None)
    assert (f"{CLEAN} images of the clean list, which are trained on, may move the threshold" in log) == moves
    assert (", by images of the clean list" in log) == (moves and not validated)
    assert all(("val/iou" in record) == bool(validated) for record in read_jsonl(run / "metrics.jsonl"))


def test_labels_that_widening_cannot_mend_are_left_to_the_threshold(noisy_disks, monkeypatch):
    root, make = noisy_disks
    narrow = make("skeleton")
    assert decided(root, train_list=narrow)[0].noise.label_repair.startswith("offset:")
    monkeypatch.setattr(recipe_module, "LEAST_REPAIRED", 0.98)
    options, found = decided(root, train_list=narrow)
    assert options.noise.label_repair is None
    assert "a low threshold, chosen by the clean images, does more" in found["label_repair"].reason
    options, _ = decided(root, train_list=narrow, label_repair="auto")
    assert options.noise.label_repair.startswith("offset:")
