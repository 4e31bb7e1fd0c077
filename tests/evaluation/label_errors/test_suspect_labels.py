"""Suspect labels: the quality's formula by hand, planted errors ranked first and named, and the command."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.image_io import read_image, read_label, write_label, write_scores
from datasets.label_noise import make_noisy_label, spec_transition_matrix
from datasets.labels import IGNORE
from datasets.lists import read_list, write_list
from evaluation.label_errors.issue_files import read_issues
from evaluation.label_errors.issues import find_label_issues
from evaluation.label_errors.kinds import best_shift, guess_kind, on_grid
from evaluation.label_errors.quality import (
    FLOOR,
    Calibration,
    assess,
    calibration_table,
    image_quality,
    outliers,
    soft_minimum,
)
from evaluation.label_errors.ranking import choose_predictions, rank_labels
from evaluation.pages.evaluate import evaluate_maps
from evaluation.scores import BINS, score_histogram
from evaluation.scores.map_folder import find_maps, trained_pairs
from evaluation.suspect_labels import main
from utils.cli import UserError
from utils.files import write_json
from utils.fingerprint import digest

SIZE = 64


def draw_label(rng: np.random.Generator, count: int = 5, size: int = SIZE) -> np.ndarray:
    """A binary label of disks, uint8 (size, size)."""
    label = np.zeros((size, size), np.uint8)
    for _ in range(count):
        x, y, radius = (int(value) for value in (*rng.integers(8, size - 8, 2), rng.integers(5, 9)))
        cv2.circle(label, (x, y), radius, 1, -1)
    return label


def predict(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores of a network that is right but soft along the boundary and a little noisy, float32 (H, W)."""
    soft = cv2.GaussianBlur(label.astype(np.float32), (0, 0), 1.5)
    return np.clip(0.02 + 0.96 * soft + rng.normal(0, 0.02, label.shape), 0, 1).astype(np.float32)


# The formula


def test_quality_of_a_pixel_is_its_self_confidence_without_a_window():
    posterior = np.array([[[0.9, 0.3]], [[0.1, 0.7]]])
    quality = assess(np.array([[0, 0]], np.uint8), posterior, window=0).quality
    np.testing.assert_allclose(quality, [[0.9, 0.3]], rtol=1e-5)


def test_quality_of_a_window_by_hand():
    # All nine windows of a 3×3 label hold all that lies within one pixel; the middle one holds all nine pixels.
    label = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0]], np.uint8)
    posterior = np.stack([np.full((3, 3), 0.9), np.full((3, 3), 0.1)])
    assessed = assess(label, posterior, window=1)
    middle = 1 / 3 * math.log((1 / 3) / 0.1) + 2 / 3 * math.log((2 / 3) / 0.9)
    assert assessed.divergence[1, 1] == pytest.approx(middle, rel=1e-5)
    assert assessed.quality[2, 0] == pytest.approx(0.9, rel=1e-5)  # four pixels, all background
    corner = 0.5 * math.log(0.5 / 0.1) + 0.5 * math.log(0.5 / 0.9)
    assert assessed.quality[0, 0] == pytest.approx(math.exp(-corner), rel=1e-5)


def test_soft_minimum_by_hand_and_at_its_limits():
    weights = math.exp(0), math.exp(-0.4 / 0.3)
    assert soft_minimum(np.array([0.6, 1.0])) == pytest.approx((0.6 * weights[0] + weights[1]) / sum(weights))
    values = np.array([[0.2, 0.9], [0.5, 1.0]])
    assert soft_minimum(values, 1e-3) == pytest.approx(0.2) and soft_minimum(values, 1e6) == pytest.approx(0.65)
    assert math.isnan(soft_minimum(np.zeros(0)))


def test_soft_minimum_is_cleanlabs():
    rank = pytest.importorskip("cleanlab.segmentation.rank", reason="cleanlab is a development dependency")
    rng = np.random.default_rng(0)
    label, scores = rng.integers(0, 2, (1, 16, 16)), rng.random((1, 16, 16))
    chances = np.stack([1 - scores, scores], axis=1)
    images, pixels = rank.get_label_quality_scores(label, chances, verbose=False)
    own = assess(label[0].astype(np.uint8), chances[0], window=0).quality
    np.testing.assert_allclose(own, pixels[0], atol=1e-6)
    assert soft_minimum(own, temperature=0.1) == pytest.approx(images[0], abs=1e-6)


@pytest.mark.parametrize("spec", ["clean", "sample:0.1", "flip:0.3", "flip:0.9"])
def test_noise_that_is_the_same_everywhere_costs_little(spec, rng):
    matrix, truth = spec_transition_matrix(spec).rows, np.zeros((128, 128), np.uint8)
    truth[:, 64:] = 1
    noisy = make_noisy_label(truth, spec, 0, "image")
    posterior = np.moveaxis(matrix[truth], -1, 0).clip(FLOOR, 1)
    confidence = np.array([posterior[index][noisy == index].mean() for index in range(2)])
    right = image_quality(assess(noisy, posterior), confidence)
    wrong = image_quality(assess(make_noisy_label(1 - truth, spec, 0, "image"), posterior), confidence)
    assert right > 0.95 and wrong < right - 0.2


def test_ignored_pixels_have_no_say(rng):
    label, other = draw_label(rng), draw_label(rng)
    label[:, :32] = other[:, :32] = IGNORE
    posterior = np.stack([1 - predict(label == 1, rng), predict(label == 1, rng)])
    assessed = assess(label, posterior)
    assert (assessed.quality[:, :32] == 1).all() and not assessed.issues(np.ones(2))[:, :32].any()
    changed = posterior.copy()
    changed[:, :, :32] = 0.5
    usual = np.ones(2)
    assert image_quality(assess(label, changed), usual) == pytest.approx(image_quality(assessed, usual), rel=1e-6)
    assert math.isnan(image_quality(assess(np.full_like(label, IGNORE), posterior), usual))


def test_a_missing_object_weighs_more_than_doubt_everywhere():
    """The soft minimum alone ranks them the other way round."""
    label = np.zeros((SIZE, SIZE), np.uint8)
    label[8:30, 8:56] = 1
    whole = label.copy()
    whole[40:50, 20:30] = 1
    sure, unsure = np.where(whole, 0.98, 0.02), np.where(label, 0.75, 0.25)
    missing, doubtful = (assess(label, np.stack([1 - shown, shown])) for shown in (sure, unsure))
    assert image_quality(missing, np.ones(2)) < image_quality(doubtful, np.ones(2))
    assert soft_minimum(missing.quality) > soft_minimum(doubtful.quality)


def test_differences_count_as_far_as_predictions_are_sure():
    """A network that fails on an image is sure of nothing there."""
    usual = Calibration(np.zeros(BINS), np.ones(2), np.array([[0.1, 0.9], [0.1, 0.9]]))
    foreground = np.array([[0.1, 0.3, 0.5, 0.7, 0.95]])
    posterior = np.stack([1 - foreground, foreground])
    assert usual.sureness(posterior, np.zeros((1, 5), int)).tolist() == [pytest.approx([1, 0.5, 0, 0, 0], abs=1e-6)]
    assert usual.sureness(posterior, np.ones((1, 5), int)).tolist() == [pytest.approx([0, 0, 0, 0.5, 1], abs=1e-6)]
    shown = np.full((SIZE, SIZE), 0.02)
    shown[20:40, 20:40] = 0.9
    missing = assess(np.zeros((SIZE, SIZE), np.uint8), np.stack([1 - shown, shown]))
    sure, half, unsure = (image_quality(missing, np.ones(2), weight) for weight in (1.0, 0.5, 0.0))
    assert sure < half < unsure == pytest.approx(soft_minimum(missing.quality))
    assert unsure - half == pytest.approx((unsure - sure) / 4)


# Calibration


@pytest.mark.parametrize("inverted", [False, True])
def test_calibration_finds_the_share_of_labels_behind_each_score(inverted, rng):
    scores = rng.random(400_000)
    chance = 0.1 + 0.6 * scores**2
    labels = (rng.random(scores.size) < (1 - chance if inverted else chance)).astype(np.uint8)
    table = calibration_table(score_histogram(scores, labels))
    steps = np.diff(table)
    assert (steps <= 0).all() if inverted else (steps >= 0).all()
    expected = 0.1 + 0.6 * ((np.arange(BINS) + 0.5) / BINS) ** 2
    assert np.abs(table - (1 - expected if inverted else expected))[1000:-1000].max() < 0.03


def test_a_class_that_is_hardly_ever_predicted_is_neither_expected_nor_judged():
    """Its posterior is about the same everywhere, which says nothing of any pixel."""
    confusion = np.array([[6000, 100, 1], [300, 700, 2], [400, 50, 0]])
    calibration = Calibration.of_confusion(confusion)
    assert calibration.untold == [2]
    drawn = np.arange(3, dtype=np.uint8)[:, None]
    assert calibration.expected(calibration.posterior(drawn))[:2].tolist() == [[0], [1]]
    assert Calibration.of_confusion(np.array([[900, 100], [1000, 100]])).untold == [1]
    seldom = np.array([[9000, 50, 10], [100, 900, 10], [200, 600, 100]])  # surely where it is, but hardly anywhere
    assert Calibration.of_confusion(seldom).untold == [2]
    kept = np.array([[9000, 970, 950], [10, 30, 0], [10, 0, 50]])  # of few labels, but where they are expected
    assert Calibration.of_confusion(kept).untold == []


def test_class_maps_are_calibrated_by_their_confusion_with_the_labels():
    confusion = np.array([[80, 0, 20], [0, 50, 0], [0, 0, 60]])
    calibration = Calibration.of_confusion(confusion)
    np.testing.assert_allclose(calibration.table[2], [0.25, 0, 0.75])
    np.testing.assert_allclose(calibration.confidence, [0.8 * 1 + 0.2 * 0.25, 1, 0.75])
    posterior = calibration.posterior(np.array([[0, 2]]))
    np.testing.assert_allclose(posterior.sum(0), 1, rtol=1e-6)
    assert posterior[2, 0, 1] == pytest.approx(0.75, abs=0.001) and posterior.min() >= FLOOR / 2


# What is wrong


def plant(kind: str, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wrong version of a label of three separate disks."""
    wrong = label.copy()
    if kind == "missing":
        cv2.circle(wrong, (50, 46), 10, 0, -1)
    if kind == "invented":
        cv2.circle(wrong, (50, 14), 7, 1, -1)
    if kind == "large":
        wrong = cv2.dilate(label, np.ones((9, 9), np.uint8))
    if kind == "small":
        wrong = cv2.erode(label, np.ones((7, 7), np.uint8))
    if kind == "shifted":
        wrong = np.roll(label, (4, -6), axis=(0, 1))
    if kind == "flipped":
        wrong = np.where(rng.random(label.shape) < 0.3, 1 - label, label).astype(np.uint8)
    if kind == "mirrored":
        wrong = np.ascontiguousarray(label[:, ::-1])
    return {"empty": np.zeros_like(label), "inverted": 1 - label, "full": np.ones_like(label)}.get(kind, wrong)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("empty", "empty"),
        ("full", "no background"),
        ("inverted", "inverted"),
        ("mirrored", "mirrored left to right"),
        ("shifted", "shifted by 4 down, -6 right"),
        ("missing", "1 missing object"),
        ("invented", "1 invented object"),
        ("large", "drawn too large"),
        ("small", "drawn too small"),
        ("flipped", "scattered errors"),
    ],
)
def test_the_kind_of_a_planted_error_is_named(kind, words, rng):
    label = np.zeros((SIZE, SIZE), np.uint8)
    for x, y, radius in ((18, 16, 9), (16, 46, 7), (50, 46, 8)):
        cv2.circle(label, (x, y), radius, 1, -1)
    scores = predict(label, rng)
    posterior = np.stack([1 - scores, scores]).clip(FLOOR)
    wrong = plant(kind, label, rng)
    assert guess_kind(wrong, posterior, assess(wrong, posterior), np.array([0.97, 0.9])) == words


def test_a_shift_is_found_on_the_grid(rng):
    label = draw_label(rng)
    scores = predict(label, rng)
    given, expected = on_grid(np.roll(label, (3, 2), (0, 1)), np.stack([1 - scores, scores]), label.shape)
    assert best_shift(given, expected)[0] == (3, 2)


def test_wrong_classes_are_named(rng):
    truth = np.zeros((SIZE, SIZE), np.uint8)
    truth[8:30, 8:30], truth[36:60, 8:60] = 1, 2
    posterior = np.stack([np.where(truth == index, 0.98, 0.01) for index in range(3)])
    wrong = np.where(truth == 2, 1, truth).astype(np.uint8)
    assert guess_kind(wrong, posterior, assess(wrong, posterior), np.ones(3)) == "class 2 drawn as 1"


def test_outliers_are_found_though_a_third_is_wrong(rng):
    right, wrong = 0.9 + 0.02 * rng.random(20), 0.3 + 0.3 * rng.random(10)
    assert outliers(np.concatenate([right, wrong])).tolist() == [False] * 20 + [True] * 10
    assert not outliers(np.full(5, 0.8)).any()


# Whole lists


ERRORS = ("missing", "large", "shifted", "empty", "inverted", "swapped", "swapped")


def write_study(root: Path, spec: str, count: int = 28) -> list[str]:
    """Images, labels with planted errors and ``spec`` noise, and maps of a network that learned that noise.

    Returns: the kinds of error, "" for none; below ``root`` stand list.txt and pred/.
    """
    rng = np.random.default_rng(1)
    truths = [draw_label(rng, int(rng.integers(3, 8))) for _ in range(count)]
    matrix = spec_transition_matrix(spec).rows
    kinds = [*ERRORS, *[""] * (count - len(ERRORS))]
    pairs = []
    for number, (truth, kind) in enumerate(zip(truths, kinds, strict=True)):
        source = truths[{5: 6, 6: 5}.get(number, number)]
        wrong = plant(kind, source, rng) if kind != "missing" else make_noisy_label(source, "missing:0.5", 0, "x")
        scores = matrix[0, 1] + (matrix[1, 1] - matrix[0, 1]) * predict(truth, rng)
        image, label = root / "images" / f"{number}.png", root / "labels" / f"{number}.png"
        write_label(image, truth)
        write_label(label, make_noisy_label(wrong, spec, 0, str(number)))
        write_scores(root / "pred" / f"{number}.tif", scores)
        pairs.append((image, label))
    write_list(root / "list.txt", pairs)
    (root / "list.txt").write_text("".join(f"{image}\t{label}\t{image}\n" for image, label in pairs))  # two annotators
    return kinds


@pytest.mark.parametrize("spec, least", [("clean", 7), ("flip:0.3", 6), ("sample:0.3", 6)])
def test_planted_errors_rank_first(tmp_path, spec, least):
    kinds = write_study(tmp_path, spec)
    maps = [find_maps(tmp_path / "pred")]
    ranked, _ = rank_labels(choose_predictions(read_list(tmp_path / "list.txt"), maps), maps)
    order = [kinds[int(entry.prediction.sample.image.stem)] for entry in ranked]
    assert sum(bool(kind) for kind in order[: len(ERRORS)]) >= least
    assert ranked[0].stands_out and ranked[0].kind and not ranked[-1].stands_out and not ranked[-1].kind
    if spec == "clean":
        found = {entry.kind for entry in ranked[: len(ERRORS)]}
        assert {"empty", "inverted", "drawn too large"} <= found and any("shifted" in kind for kind in found)
        assert sum("another image" in kind for kind in found) == 2


# The command


def run_folder(root: Path, fold: str | None, held_out: slice) -> Path:
    """A prediction folder as main.py and inference.py leave it, for the maps in ``root/pred``."""
    samples = read_list(root / "list.txt")
    run = root / f"run_{(fold or 'all').replace('/', '_')}"
    write_json(run / "config.json", {"train_list": str(root / "list.txt"), "dataset": "x", "fold": fold})
    if fold:
        write_list(run / "held_out.txt", [(sample.image, sample.label) for sample in samples[held_out]])
    folder = run / "results" / "epoch_1_held_out"
    (folder / "pred").mkdir(parents=True)
    for sample in samples[held_out]:
        source = root / "pred" / f"{sample.image.stem}.tif"
        (folder / "pred" / source.name).write_bytes(source.read_bytes())
    write_json(
        folder / "predictions.json",
        {
            "run": str(run),
            "num_classes": 1,
            "in_channels": 1,
            "ignore_index": None,
            "maps": {str(sample.image): f"pred/{sample.image.stem}.tif" for sample in samples[held_out]},
        },
    )
    return folder


def test_the_command_ranks_the_folds_and_says_what_to_do(tmp_path, capsys):
    write_study(tmp_path, "clean", count=24)
    folders = [run_folder(tmp_path, "1/2", slice(0, None, 2)), run_folder(tmp_path, "2/2", slice(1, 23, 2))]
    main(
        [
            "--dataset",
            "nuc_sim_x",
            "--train_list",
            str(tmp_path / "list.txt"),
            "--prd_dir",
            *map(str, folders),
            "--out",
            str(tmp_path / "out"),
            "--top",
            "5",
        ]
    )
    output = capsys.readouterr().out
    assert "not judged (1)" in output and "23.png" in output and "WARNING" not in output
    assert output.splitlines()[-1].startswith("python main.py --dataset nuc_sim_x --train_list")
    with open(tmp_path / "out" / "suspects.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 23 and {row["in_sample"] for row in rows} == {"no"}
    qualities = [float(row["quality"]) for row in rows]
    assert qualities == sorted(qualities) and rows[0]["stands_out"] == "yes"
    worst = read_image(tmp_path / "out" / rows[0]["suspect_map"])
    assert worst.dtype == np.uint8 and worst.shape == (SIZE, SIZE) and worst.max() > 200
    assert len(list((tmp_path / "out" / "maps").iterdir())) == 5 and rows[5]["suspect_map"] == ""
    assert read_image(tmp_path / "out" / "sheet.png", 3).ndim == 3
    kept = read_list(tmp_path / "out" / "without_suspects.txt")
    assert len(kept) == sum(row["stands_out"] == "no" for row in rows)
    assert all(sample.more_labels == (sample.image,) for sample in kept)
    record = json.loads((tmp_path / "out" / "suspects.json").read_text())
    found = read_issues(tmp_path / "out")
    assert record["judged"] == 23 and record["issues"] == len(found.issues) > 0
    assert f"{len(found.issues)} label issues in " in output
    for issue in found.issues:
        assert found.read_region(issue).sum() == issue.area and read_image(found.folder / issue.crop, 3).ndim == 3


def test_of_equally_sloppy_labels_every_missing_object_is_told(tmp_path):
    rng = np.random.default_rng(1)
    pairs, truths, gone = [], [], []
    for number in range(16):
        truth = draw_label(rng, count=8, size=128)
        count, objects = cv2.connectedComponents(truth)
        lost = rng.integers(1, count)
        pairs.append((tmp_path / f"images/{number}.png", tmp_path / f"labels/{number}.png"))
        write_label(pairs[-1][0], truth)
        write_label(pairs[-1][1], np.where(objects == lost, 0, truth).astype(np.uint8))
        # A network that learned from such labels is never sure of an object.
        write_scores(tmp_path / f"pred/{number}.tif", (1 - 1 / count) * predict(truth, rng))
        truths.append(truth)
        gone.append(objects == lost)
    write_list(tmp_path / "list.txt", pairs)
    folder = find_label_issues(
        "x_sim_x", [tmp_path / "pred"], train_list=str(tmp_path / "list.txt"), out=tmp_path / "out"
    )
    found = read_issues(folder)
    assert [issue.kind for issue in found.issues] == ["missing"] * len(gone)
    assert all(judged.digest == digest(judged.label) for judged in found.images.values())
    for issue in found.issues:
        number = int(issue.image.stem)
        region = found.read_region(issue)
        assert (region & gone[number]).sum() > 0.8 * (region | gone[number]).sum()
        mended = np.where(region, found.read_predicted(issue.image), read_label(found.images[issue.image].label))
        assert iou_of(mended, truths[number]) > 0.97 > iou_of(truths[number] * ~gone[number], truths[number])


def iou_of(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


def test_predictions_of_a_network_that_knew_the_labels_are_called_out(tmp_path, capsys):
    write_study(tmp_path, "clean", count=12)
    whole, fold = run_folder(tmp_path, None, slice(0, 12)), run_folder(tmp_path, "1/2", slice(0, 5))
    listed = (tmp_path / "list.txt").read_text().splitlines()
    (tmp_path / "list.txt").write_text("".join(f"{line}\t{line.split()[-1]}\n" for line in listed))  # two annotators
    samples, maps = read_list(tmp_path / "list.txt"), [find_maps(whole), find_maps(fold)]
    capsys.readouterr()
    assert len(trained_pairs(maps[0].record)) == 12 and len(trained_pairs(maps[1].record)) == 7
    assert capsys.readouterr().out == "", "of the list the command itself tells"
    for folder, warned in ((whole, True), (fold, False)):
        evaluate_maps(folder, str(tmp_path / "list.txt"), report=False)
        assert ("warning: 12 of 12 images were trained on" in capsys.readouterr().out) == warned
    chosen = choose_predictions(samples, maps)
    assert [prediction.in_sample for prediction in chosen] == [False] * 5 + [True] * 7
    main(
        [
            "--dataset",
            "nuc_sim_x",
            "--train_list",
            str(tmp_path / "list.txt"),
            "--prd_dir",
            str(whole),
            "--out",
            str(tmp_path / "out"),
            "--top",
            "0",
        ]
    )
    assert "WARNING: 12 of 12 labels are judged by a network that was trained on them" in capsys.readouterr().out
    assert trained_pairs({}) is None
    main(
        [
            "--dataset",
            "nuc_sim_x",
            "--train_list",
            str(tmp_path / "list.txt"),
            "--prd_dir",
            str(tmp_path / "pred"),
            "--out",
            str(tmp_path / "out"),
            "--top",
            "0",
        ]
    )
    assert "not known whether its network was trained" in capsys.readouterr().out


def test_a_map_of_another_size_is_named(tmp_path):
    write_study(tmp_path, "clean", count=8)
    write_scores(tmp_path / "pred" / "3.tif", np.zeros((10, 12), np.float32))
    with pytest.raises(UserError, match=r"3\.tif is 10×12, the label .*3\.png 64×64"):
        main(
            [
                "--dataset",
                "nuc_sim_x",
                "--train_list",
                str(tmp_path / "list.txt"),
                "--prd_dir",
                str(tmp_path / "pred"),
                "--out",
                str(tmp_path / "out"),
            ]
        )
