"""Images of other labs: how unlike they are, on known distributions and in predictions; statistics counted anew."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from evaluation.inference import main
from evaluation.metrics import evaluate_maps
from evaluation.prediction import load_network
from evaluation.prediction.unlikeness import (
    OwnImages,
    describe_input,
    describe_scores,
    layers_to_watch,
    learn_own_images,
    watching,
)
from models import NETWORKS, build_network
from models.blocks import fold_batch_norms
from training.fit import configure, fit
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.cli import UserError
from utils.files import read_json

SIZES = (4, 30, 3)


def normal_numbers(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    mean = np.linspace(-3, 3, sum(SIZES))
    return mean + shift + np.random.default_rng(seed).normal(size=(count, sum(SIZES)))


@pytest.mark.parametrize(("trained", "held_out"), [(32, 32), (32, 4), (8, 8)])
def test_own_images_stay_below_one_and_others_do_not(trained, held_out):
    below, others = [], []
    for seed in range(40):
        own = OwnImages.learn(normal_numbers(trained, 4 * seed), normal_numbers(held_out, 4 * seed + 1), SIZES, [])
        below.append((own.unlikeness(normal_numbers(50, 4 * seed + 2)).max(1) < 1).mean())
        others.append(own.unlikeness(normal_numbers(50, 4 * seed + 3, shift=30)).max(1).min())
    assert np.mean(below) > (0.97 if held_out == 32 else 0.93) and min(others) > 1


def test_the_kind_that_differs_is_told():
    own = OwnImages.learn(normal_numbers(32, 0), normal_numbers(32, 1), SIZES, [])
    other = normal_numbers(20, 2)
    other[:, -SIZES[2] :] += 20
    assert (own.unlikeness(other).argmax(1) == 2).all()


def test_too_few_images_make_no_limit():
    assert OwnImages.learn(normal_numbers(2, 0), normal_numbers(9, 1), SIZES, []) is None


def test_what_a_checkpoint_keeps_is_what_was_learned(tmp_path):
    own = OwnImages.learn(normal_numbers(9, 0), normal_numbers(9, 1), SIZES, ["head"])
    torch.save(own.to_json(), tmp_path / "own.pth")
    again = OwnImages.from_json(torch.load(tmp_path / "own.pth", weights_only=True))
    numbers = normal_numbers(5, 2)
    assert np.array_equal(own.unlikeness(numbers), again.unlikeness(numbers)) and again.layers == ["head"]


def test_input_is_described_by_its_moments_quantiles_and_octaves(rng):
    image = torch.from_numpy(rng.normal(3, 2, (1, 1, 512, 512))).float()
    mean, deviation, low, *_, high = describe_input(image)[0, :7].tolist()
    assert (mean, deviation) == pytest.approx((3, 2), abs=0.02)
    assert (low, high) == pytest.approx((3 - 2 * 2.326, 3 + 2 * 2.326), abs=0.1)
    octaves = describe_input(image)[0, 7:].exp()
    assert octaves[:-1] / octaves[1:] == pytest.approx(2, rel=0.05), "white noise halves with every octave"
    assert octaves[0].item() == pytest.approx(2 * np.sqrt(3 / 4), rel=0.02)


def test_scores_are_described_by_shares_entropy_and_doubt():
    logits = torch.zeros(1, 1, 8, 8)
    share, entropy, *doubt = describe_scores(logits)[0].tolist()
    assert (
        share == pytest.approx(0.5)
        and entropy == pytest.approx(np.log(2), abs=1e-4)
        and doubt == pytest.approx([0.25 / 0.51] * 2)
    )
    sure = describe_scores(torch.full((1, 3, 8, 8), -50.0) + 100 * torch.eye(3)[1].view(1, 3, 1, 1))[0].tolist()
    assert sure[:2] == pytest.approx([1, 0], abs=1e-4) and max(sure[2:]) < 1e-4


FAST = ("unet", "unet_resnet18")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_every_network_is_watched_and_folded_batch_norms_change_nothing(name):
    torch.manual_seed(0)
    network = build_network(name, 1, 1, **({"width": 4} if name in ("unet", "lightunet") else {})).eval()
    images = torch.randn(2, 1, 64, 64)

    def numbers() -> np.ndarray:
        with watching(network, layers_to_watch(network)) as watch, torch.inference_mode():
            network(images)
        return watch.take()

    before = numbers()
    fold_batch_norms(network)
    assert len(before) == 2 and numbers() == pytest.approx(before, rel=1e-3, abs=1e-3)
    network(images)  # after watching, nothing is kept


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.conftest import write_disk_dataset

    root = write_disk_dataset(tmp_path_factory.mktemp("labs"), counts=(12, 8, 6))
    small = {"preset": "quick", "width": 4, "crop": 64, "batch_size": 4, "device": "cpu", "tensorboard": False}
    return fit(configure({"dataset": "disks", **small, "epochs": 3, "repeat": 4, "audit": False}, root), root)


def predict(run: Path, *arguments: object, out: Path | None = None) -> dict:
    out = out or run / f"out_{len([*run.glob('out_*')])}"
    main(["--train_dir", str(run), "--device", "cpu", "--out", str(out), *map(str, arguments)])
    return read_json(out / "predictions.json")


def images(run: Path) -> Path:
    return run.parents[2] / "datasets" / "disks" / "test" / "images"


@pytest.fixture
def of_another_lab(run, tmp_path) -> Path:
    """The test images, blurred and noisy."""
    for path in images(run).iterdir():
        image = cv2.GaussianBlur(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (0, 0), 5)
        noise = np.random.default_rng(0).normal(0, 60, image.shape)
        cv2.imwrite(str(tmp_path / path.name), np.clip(image + noise, 0, 255).astype(np.uint8))
    return tmp_path


def test_images_of_another_lab_are_told_and_own_ones_are_not(run, of_another_lab, capsys):
    own = predict(run, "--input", images(run))["unlike"]
    assert "unlike" not in capsys.readouterr().out and max(own.values()) < 1
    labels = of_another_lab / "list.txt"
    rows = [f"{path}\t{images(run).parent / 'labels' / path.name}\n" for path in sorted(of_another_lab.glob("*.png"))]
    labels.write_text("".join(rows))
    record = predict(run, "--data_list", labels, out=of_another_lab / "out")
    evaluate_maps(of_another_lab / "out")
    page = (of_another_lab / "out" / "report.html").read_text(encoding="utf-8")
    assert ">unlike</button>" in page and all(f'data-value="{value}"' in page for value in record["unlike"].values())
    with open(of_another_lab / "out" / "per_image.csv", newline="") as table:
        column = {row["image"]: float(row["unlike"]) for row in csv.DictReader(table)}
    assert column == record["unlike"]
    assert list(record["unlike"]) == list(record["maps"]) and min(record["unlike"].values()) > 1
    assert "warning: 6 of 6 images look unlike those" in capsys.readouterr().out


@pytest.mark.parametrize("how", [("--tta",), ("--tile", 64, "--overlap", 0), ("--batch_size", 1)])
def test_how_images_are_predicted_does_not_matter(run, of_another_lab, how):
    plain, other = (predict(run, "--input", of_another_lab, *flags)["unlike"] for flags in ((), how))
    assert list(other.values()) == pytest.approx(list(plain.values()), rel=0.1)


def test_an_ensemble_tells_how_unlike_its_first_run_finds_images(run, of_another_lab):
    other = shutil.copytree(run, run.parent / "other")
    alone, joint = (predict(run, "--input", of_another_lab, *more)["unlike"] for more in ((), ("--ensemble", other)))
    assert list(joint.values()) == pytest.approx(list(alone.values()), rel=0.01)


def test_a_figure_survives_an_interrupted_prediction(run, of_another_lab, monkeypatch):
    from evaluation.prediction import other_labs

    whole = predict(run, "--input", of_another_lab)["unlike"]
    seen, out = [], run / "interrupted"
    monkeypatch.setattr(other_labs.Watch, "note", lambda self, pictures: seen.append(pictures) or self.passes.clear())
    with pytest.raises(KeyError):  # nothing is noted, so that all maps are there and no figure is
        predict(run, "--input", of_another_lab, out=out)
    monkeypatch.undo()
    assert (
        predict(run, "--input", of_another_lab, out=out)["unlike"] == pytest.approx(whole, rel=0.01) and len(seen) > 1
    )


def test_checkpoints_of_before_predict_without_a_figure(run, of_another_lab, capsys, tmp_path):
    path = run / "checkpoints" / "last.pth"
    kept = load_checkpoint(path)
    assert all(load_checkpoint(path.with_name(f"{name}.pth"))["own_images"] for name in ("best", "last"))
    save_checkpoint(path, {key: value for key, value in kept.items() if key != "own_images"})
    number = run / "checkpoints" / f"epoch_{kept['epoch']}.pth"
    assert "unlike" not in predict(run, "--test_ckpt_epoch", "last", "--input", of_another_lab)
    assert "unlike" not in capsys.readouterr().out and number.is_file()
    save_checkpoint(path, kept)


def test_batch_norm_fits_the_images_that_are_predicted(run, of_another_lab):
    plain, counted = (predict(run, "--input", of_another_lab, *flags) for flags in ((), ("--recalibrate_norm",)))
    assert counted["recalibrate_norm"] and not plain["recalibrate_norm"]
    assert np.median([*counted["unlike"].values()]) < np.median([*plain["unlike"].values()])


def test_a_network_without_batch_norm_cannot_be_recalibrated(tmp_path):
    from evaluation.prediction.other_labs import recalibrate

    network = build_network("unet", width=4, norm="group").eval()
    with pytest.raises(UserError, match="no batch norm"):
        recalibrate(network, [], None, device=torch.device("cpu"), precision="fp32")


def test_few_images_are_halved_where_none_are_held_out(run, rng):
    network, _, _ = load_network(run)
    shown = [torch.from_numpy(rng.normal(size=(1, 64, 64))).float() for _ in range(7)]
    own = learn_own_images(network, shown, [], device=torch.device("cpu"))
    assert (own.images, own.held_out) == (4, 3)
    assert learn_own_images(network, shown[:4], [], device=torch.device("cpu")) is None
