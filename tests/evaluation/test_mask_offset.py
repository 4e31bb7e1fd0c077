"""The offset of masks: what it counts, when it is chosen, and that it travels from validation to metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datasets.noise_files import write_noisy_labels
from datasets.noise_steps import offset
from evaluation.scores import confusion_matrix, score_histogram
from evaluation.scores.validation import OFFSETS, choose_offset, count_offsets, offset_mask
from training.selection import KeptScores, select_binary, with_offset


def disks(count: int = 6, size: int = 64) -> list[np.ndarray]:
    """One disk of radius 10 to 14 an image."""
    rng, y, x = np.random.default_rng(0), *np.mgrid[:size, :size]
    return [((y - 32) ** 2 + (x - 32) ** 2 <= radius**2).astype(np.uint8) for radius in rng.uniform(10, 14, count)]


def test_all_offsets_are_counted_as_if_made_one_by_one(rng):
    scores, label = rng.random((40, 50)), (rng.random((40, 50)) < 0.4).astype(np.uint8)
    label[:5] = 255
    found = count_offsets(scores, label, 0.6)
    for place, each in enumerate(OFFSETS):
        mask = offset_mask(scores >= 0.6, float(each))
        np.testing.assert_array_equal(found[place], confusion_matrix(mask, label, 2))


def test_only_a_sure_and_worthwhile_gain_moves_outlines():
    def tables(labels, masks):
        return np.stack([count_offsets(mask, label, 0.5)[None] for mask, label in zip(masks, labels, strict=True)])

    labels, zero = disks(), len(OFFSETS) // 2
    wide = [offset(label, 2.0) for label in labels]
    at, best = choose_offset(tables(labels, wide))
    assert at == 0 and OFFSETS[best] == pytest.approx(-2, abs=0.5)
    assert choose_offset(tables(labels, labels)) == (0, zero)
    assert choose_offset(tables(labels[:3], wide[:3])) == (0, zero)  # too few images to be sure
    mixed = [offset(label, reach) for label, reach in zip(labels, (2, -2, 2, -2, 2, -2), strict=True)]
    assert choose_offset(tables(labels, mixed)) == (0, zero)


def selection_of(labels, scores):
    """What validation decides, with the offset."""
    kept = KeptScores()
    histograms = []
    for place, (label, score) in enumerate(zip(labels, scores, strict=True)):
        for rows in (slice(None, 30), slice(30, None)):  # as bands of a large image
            kept.keep(place, torch.from_numpy(score[rows]), torch.from_numpy(label[rows]))
        histograms.append(score_histogram(score, label))
    without = select_binary(np.stack(histograms), labels_are_clean=True, pred_invert=False, implied=None)
    return without, with_offset(without, kept, range(len(labels)))


def test_masks_that_are_too_wide_are_narrowed():
    labels = disks()
    scores = [offset(label, 3.0).astype(np.float32) * 0.8 + 0.1 for label in labels]
    without, found = selection_of(labels, scores)
    assert without.offset == 0 and found.offset == pytest.approx(-3, abs=0.5)
    assert found.metric > 0.95 > without.metric and found.metrics["iou"] == found.metric
    hit, union = found.tables[:, 1, 1].sum(), found.tables.sum() - found.tables[:, 0, 0].sum()
    assert hit / union == pytest.approx(found.metric)
    same, right = selection_of(labels, [label * np.float32(0.8) + np.float32(0.1) for label in labels])
    assert right == same or right.offset == 0 and right.metric == same.metric


def test_too_many_pixels_are_not_kept():
    kept = KeptScores(most=10)
    kept.keep(0, torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.uint8))
    assert kept.tables([0.5], None, False) is not None
    kept.keep(1, torch.zeros(3, 3), torch.zeros(3, 3, dtype=torch.uint8))
    assert kept.tables([0.5], None, False) is None and not kept.parts


@pytest.mark.slow
def test_the_offset_travels_with_the_checkpoint(tmp_path, monkeypatch, capsys):
    from datasets.image_io import read_label, read_scores
    from evaluation import metrics
    from evaluation.prediction.runs import predict_run
    from tests.conftest import write_disk_dataset
    from training.fit import configure, fit
    from utils.checkpoint import load_checkpoint
    from utils.files import read_json

    root = write_disk_dataset(tmp_path, counts=(16, 8, 4))
    noisy = write_noisy_labels("disks", "dilate:7", root=root, say=lambda line: None)
    given = {"dataset": "disks", "train_list": str(noisy), "preset": "quick", "width": 8, "crop": 64, "device": "cpu"}
    run = fit(configure({**given, "steps": 60, "epochs": 3, "tensorboard": False}, root), root)
    checkpoint = load_checkpoint(run / "checkpoints/best.pth")
    assert checkpoint["mask_offset"] < -0.5
    assert checkpoint["best"]["mask_offset"] == checkpoint["mask_offset"]
    results = predict_run(run, "best", data_list=str(root / "txt/disks/test.txt"), data_root=str(root), masks=True)
    record = read_json(results / "predictions.json")
    assert record["mask_offset"] == checkpoint["mask_offset"]
    total = np.zeros((2, 2), int)
    for name in record["maps"].values():
        scores = read_scores(results / name)
        mask = offset_mask(scores >= record["threshold"], record["mask_offset"])
        stem = name.removeprefix("pred/").removesuffix(".tif")
        np.testing.assert_array_equal(read_label(results / "masks" / f"{stem}.png"), mask)
        total += confusion_matrix(mask, read_label(root / "datasets/disks/test/labels" / f"{stem}.png"), 2)
    found = metrics.evaluate_maps(results, str(root / "txt/disks/test.txt"), data_root=str(root))
    assert "the best on these very labels, of scores without the mask offset" in capsys.readouterr().out
    iou = total[1, 1] / (total.sum() - total[0, 0])
    assert found["mask_offset"] == record["mask_offset"] and found["pooled"]["iou"] == pytest.approx(iou)
    plain = metrics.evaluate_maps(
        results, str(root / "txt/disks/test.txt"), data_root=str(root), threshold=0.5, report=False
    )
    assert plain["mask_offset"] == 0 and plain["pooled"]["iou"] < iou - 0.05
