"""The speed benchmark: what it counts, what it holds the fast way against, and what its file keeps."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from skimage.morphology import skeletonize

from benchmarks.grid import read_results
from benchmarks.speed.counts import count
from benchmarks.speed.labels import THRESHOLDS
from benchmarks.speed.measure import CPU_PARTS, PARTS, choose_parts, measure
from benchmarks.speed.plain import ems_by_loop, metrics_by_threshold, predict_plainly, thin_by_loop, train_plainly
from benchmarks.speed.record import Figure, Settings, machine_record, table
from datasets.image_io import read_image, read_label, read_scores
from datasets.lists import read_list
from datasets.transforms import normalize
from evaluation.prediction import MapSettings, Picture, Predictor, predict_pictures
from evaluation.scores import auc, average_precision, best_threshold, counts_at, f1, score_histogram
from models import build_network
from models.blocks import fold_batch_norms
from training.configuration.resolve import resolve_options
from utils.cli import Progress, UserError

TINY = Settings("cpu", width=4, crop=32, batch_size=8, repeat=1, rounds=1, seconds=0.0, tiny=True)


def unet_operations(width: int, size: int) -> int:
    """Operations of a U-Net's forward pass by hand: 2 · k² · channels in · channels out for every pixel."""
    total, before = 0, 1
    for level in range(5):
        pixels, channels = (size >> level) ** 2, width << level
        total += 2 * 9 * pixels * channels * (before + channels)
        if level < 4:  # way up: transposed convolution, two convolutions on the joined features
            total += 2 * pixels * channels * 2 * channels + 2 * 9 * pixels * channels * (2 * channels + channels)
        before = channels
    return total + 2 * size**2 * width  # head


@pytest.mark.parametrize(("width", "size"), [(64, 256), (16, 128)])
def test_operations_are_those_of_the_networks_layers(width, size):
    forward, _ = count(width, size, training=False)
    training, _ = count(width, size, training=True)
    assert forward == unet_operations(width, size)
    first = 2 * 9 * size**2 * width  # the images need no gradient
    assert training == 3 * forward - first
    if width == 64:
        assert training == pytest.approx(289e9, rel=0.005)


def test_bytes_are_shared_and_folded():
    _, alone = count(16, 64, training=True, batch=1)
    _, together = count(16, 64, training=True, batch=4)
    weights = 2 * sum(parameter.numel() for parameter in build_network("unet", width=16).parameters())
    assert alone - together > 0.75 * 2 * weights  # read forward and backward
    _, predicted = count(16, 64, training=False, batch=4)
    assert 3 * predicted < together


def test_ratios_and_goals_know_whether_more_is_better():
    rate = Figure("training", "images/s", 30.0, 20.0, goal=40.0, goal_ratio=1.3)
    assert rate.ratio == 1.5 and rate.verdicts() == ["≥ 40 images/s: **missed**", "≥ 1.3×: met"]
    duration = Figure("EMS", "ms", 2.0, 50.0, goal=3.0, goal_ratio=30.0)
    assert duration.ratio == 25 and duration.verdicts() == ["≤ 3 ms: met", "≥ 30×: **missed**"]
    assert Figure("test", "IoU", 0.8, 0.7).ratio is None and Figure("EMS", "ms", 2.0, goal_ratio=2.0).verdicts() == []


def test_every_part_exists_and_sets_expand_in_order():
    for module, function in PARTS.values():
        assert callable(getattr(importlib.import_module(f"benchmarks.speed.{module}"), function))
    assert set(CPU_PARTS) <= set(PARTS)
    assert choose_parts(["recipe", "audit", "ceilings"]) == ["ceilings", "audit", "recipe"]
    assert choose_parts(["cpu"]) == list(CPU_PARTS)


def test_finished_parts_are_kept_and_other_settings_refused(tmp_path):
    out = tmp_path / "speed.jsonl"
    measure(["ceilings"], TINY, out)
    (before,) = read_results(out).values()
    assert measure(["ceilings", "ems"], TINY, out) == {}
    after = list(read_results(out).values())
    assert after[0] == before and [record["cell"]["part"] for record in after] == ["ceilings", "ems"]
    with pytest.raises(UserError, match="holds part ceilings at other settings.*--out"):
        measure(["ceilings"], replace(TINY, width=8), out)
    lines = table(after).splitlines()
    assert len(lines) == 2 + 5 + 6 and all(line.count("|") == 8 for line in lines)


def test_results_do_not_name_the_machine():
    record = machine_record("cpu")
    assert not {"host", "command", "name"} & set(record)
    assert record["cores"] >= 1 and record["processor"] and record["versions"]["torch"]


# the plain recipe computes the same


def test_the_plain_ems_is_a_share_of_the_moved_skeleton(rng):
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 5:60] = mask[30:55, 20:31] = 1
    skeleton, thinned = skeletonize(mask.astype(bool)), thin_by_loop(mask)
    near = binary_dilation(skeleton, np.ones((3, 3)))
    assert not (thinned > near).any() and thinned.sum() == pytest.approx(skeleton.sum(), rel=0.1)
    everything, tenth = ems_by_loop(mask, 1.0, rng), ems_by_loop(mask, 0.1, rng, skeletonize)
    assert not (everything > binary_dilation(near, np.ones((3, 3)))).any()
    assert 0.4 * skeleton.sum() < everything.sum() <= thinned.sum()
    assert 0 < tenth.sum() < 0.3 * everything.sum()


def test_plain_metrics_are_those_of_the_histogram(rng):
    label = (rng.random((64, 64)) < 0.3).astype(np.uint8)
    scores = np.clip(0.3 * label + 0.7 * rng.random((64, 64)), 0, 1).astype(np.float32)
    plain, histogram = metrics_by_threshold(scores, label, THRESHOLDS), score_histogram(scores, label)
    best = f1(counts_at(histogram, best_threshold(histogram)[0]))
    assert plain["f1"] <= best + 1e-9 and plain["f1"] == pytest.approx(best, abs=0.01)
    assert plain["auc"] == pytest.approx(auc(histogram), abs=1e-4)
    assert plain["average_precision"] == pytest.approx(average_precision(histogram), abs=1e-3)


def test_plain_maps_are_those_of_the_command_in_fp32(tmp_path, disks):
    samples = read_list(disks / "txt/disks/test.txt", root=disks)
    images = [sample.image for sample in samples]
    torch.manual_seed(0)
    network = build_network("unet", width=2, init="kaiming").eval()
    predict_plainly(network, images, tmp_path / "plain", "cpu", batch=2)
    pictures = [Picture(image, f"{number}_{image.stem}", (64, 64)) for number, image in enumerate(images)]
    predictor = Predictor(fold_batch_norms(network), torch.device("cpu"))
    with Progress(len(images), "predicting") as progress:
        predict_pictures(predictor, pictures, MapSettings(), tmp_path / "fast", progress=progress)
    plain = {path.name: read_scores(path) for path in (tmp_path / "plain").iterdir()}
    assert len(plain) == len(images)
    for name, scores in plain.items():
        assert read_scores(tmp_path / "fast/pred" / name) == pytest.approx(scores, abs=1e-5)


def test_plain_training_learns_and_depends_on_the_seed_alone(disks):
    samples = read_list(disks / "txt/disks/train/train_gt.txt", root=disks)
    given = {"preset": "quick", "label_noise": "flip:0.1", "width": 4, "crop": 64, "batch_size": 4, "lr": 0.01}
    options = resolve_options({**given, "epochs": 4, "repeat": 3}, has_accelerator=False)
    network, speeds = train_plainly(options, samples, "cpu")
    assert len(speeds) == 4 and min(speeds) > 0
    predictor, histogram = Predictor(network.eval(), torch.device("cpu")), 0
    for sample in samples:
        scores = predictor(torch.from_numpy(normalize(read_image(sample.image)))[None])
        histogram = histogram + score_histogram(scores[0, 0].numpy(), read_label(sample.label))
    assert auc(histogram) > 0.9
    short = resolve_options({**given, "epochs": 1}, has_accelerator=False)
    one, other = (train_plainly(short, samples, "cpu")[0].state_dict().values() for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.slow
def test_all_parts_run_at_their_smallest_sizes(workspace, run_tool):
    source = Path(__file__).resolve().parents[2] / "benchmarks"
    shutil.copytree(source, workspace / "benchmarks", ignore=shutil.ignore_patterns("results"))
    parts = [part for part in PARTS if part != "gpu_tests"]
    answer = run_tool(
        "benchmarks/speed/measure.py", "--tiny", "--baseline", "--device", "cpu", "--parts", *parts, timeout=1800
    )
    assert answer.returncode == 0, answer.stderr
    found = list(read_results(workspace / "benchmarks/results/speed.jsonl").values())
    assert [record["cell"]["part"] for record in found] == parts and all(record["figures"] for record in found)
    assert not list((workspace / "train_log/er_sim").glob("speed_*/"))
