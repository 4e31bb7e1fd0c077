"""What label values and channels mean is the same in every command: metrics, suspect labels, baselines, the budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from datasets.image_io import write_scores
from datasets.label_values import LabelReading
from evaluation.classical.runner import run_methods
from evaluation.label_errors.issues import find_label_issues
from evaluation.pages.evaluate import evaluate_maps
from training.budget.trials import open_experiment, score_on_list
from training.fit import configure, fit
from utils.cli import UserError
from utils.files import read_json, write_json

SIZE, COUNT = 48, 6
MEANING = "1:0,2:1"


def disk(number: int) -> np.ndarray:
    """A disk, bool (H, W); another number moves it."""
    y, x = np.mgrid[:SIZE, :SIZE]
    return (y - 16 - 3 * number) ** 2 + (x - 24) ** 2 < 90


def as_ilastik(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 2, 1).astype(np.uint8)


def as_jpeg(mask: np.ndarray) -> np.ndarray:
    """0 and 255 with what compression leaves at the edge, and a haze beyond."""
    smeared = np.where(mask, 255, 0)
    smeared[:, 1:][mask[:, 1:] != mask[:, :-1]] = 200
    smeared[:, :-2][mask[:, 2:] & ~mask[:, :-2]] = 30
    smeared[:, 3:][mask[:, :-3] & ~mask[:, 3:]] = 12
    return smeared.astype(np.uint8)


def as_usual(mask: np.ndarray) -> np.ndarray:
    return mask * np.uint8(255)


def write_data(root: Path, draw_label) -> Path:
    """Images of two channels, of which the second shows the disks, their labels, and their list."""
    lines = []
    for number in range(COUNT):
        image, label = root / f"{number}.tif", root / f"{number}.png"
        shown = (60 + 90 * disk(number) + number).astype(np.uint8)
        metadata = {"axes": "CYX", "Channel": {"Name": ["empty", "GFP"]}}
        tifffile.imwrite(image, np.stack([np.full_like(shown, 7), shown]), ome=True, metadata=metadata)
        Image.fromarray(draw_label(disk(number))).save(label)
        lines.append(f"{image}\t{label}\n")
    (root / "list.txt").write_text("".join(lines))
    return root / "list.txt"


def write_maps(root: Path, **record: object) -> Path:
    """Maps that are right but for a margin, as inference leaves them."""
    for number in range(COUNT):
        write_scores(root / "results/pred" / f"{number}.tif", disk(number).astype(np.float32))
    maps = {str(root / f"{number}.tif"): f"pred/{number}.tif" for number in range(COUNT)}
    record = {"maps": maps, "list": str(root / "list.txt"), "threshold": 0.5, "num_classes": 1, **record}
    write_json(root / "results/predictions.json", {"in_channels": 1, "channels": ["GFP"], **record})
    return root / "results"


@pytest.mark.parametrize("recorded", [None, LabelReading(), LabelReading(cut=127.5)])
def test_labels_of_another_kind_than_the_run_was_trained_on_are_read_by_their_values(tmp_path, recorded):
    write_data(tmp_path, as_jpeg)
    maps = write_maps(tmp_path, label_reading=recorded and recorded.to_json())
    assert evaluate_maps(maps, report=False)["pooled"]["iou"] == pytest.approx(1, abs=0.08)
    write_data(tmp_path, as_ilastik)
    with pytest.raises(UserError, match="hold no background"):
        evaluate_maps(maps, report=False)
    assert evaluate_maps(maps, report=False, label_map=MEANING)["pooled"]["iou"] == 1
    write_data(tmp_path, as_usual)
    assert evaluate_maps(maps, report=False)["pooled"]["iou"] == 1


def test_few_numbered_objects_are_objects_where_the_run_knew_them(tmp_path):
    write_data(tmp_path, lambda mask: np.where(mask, np.where(np.arange(SIZE) < 24, 1, 2), 0).astype(np.uint8))
    maps = write_maps(tmp_path)
    with pytest.raises(UserError, match="if they are classes, --num_classes 3"):
        evaluate_maps(maps, report=False)
    maps = write_maps(tmp_path, label_reading=LabelReading(objects=True).to_json())
    assert evaluate_maps(maps, report=False)["pooled"]["iou"] == 1


def test_suspect_labels_are_told_what_values_and_channels_are(tmp_path):
    path = write_data(tmp_path, as_ilastik)
    maps = write_maps(tmp_path)
    with pytest.raises(UserError, match="hold no background"):
        find_label_issues("own", [maps], train_list=str(path), out=tmp_path / "out")
    folder = find_label_issues("own", [maps], train_list=str(path), label_map=MEANING, out=tmp_path / "out")
    assert read_json(folder / "suspects.json")["judged"] == COUNT and (folder / "sheet.png").is_file()
    with pytest.raises(UserError, match="has no channel 'RFP'"):
        find_label_issues(
            "own", [maps], train_list=str(path), label_map=MEANING, channels=("RFP",), out=tmp_path / "other"
        )


def test_baselines_are_told_what_values_and_channels_are(tmp_path, capsys):
    path = write_data(tmp_path, as_ilastik)
    how = {"data_list": str(path), "channels": ("GFP",), "out": tmp_path / "out"}
    with pytest.raises(UserError, match="hold no background"):
        run_methods("own", ["otsu"], **how)
    folder = run_methods("own", ["otsu"], **how, label_map=MEANING)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("otsu"))
    assert float(row.split()[2]) == 1
    record = read_json(folder / "otsu" / "predictions.json")
    assert record["channels"] == ["GFP"] and record["label_reading"]["label_map"] == MEANING
    assert evaluate_maps(folder / "otsu", report=False)["pooled"]["iou"] == 1


def test_the_budget_scores_a_list_as_its_runs_read_theirs(tmp_path):
    path = write_data(tmp_path, as_ilastik)
    tiny = {"preset": "quick", "width": 4, "crop": 32, "batch_size": 4, "device": "cpu", "steps": 20, "epochs": 2}
    given = {
        **tiny,
        "dataset": "own",
        "channels": ("GFP",),
        "label_map": MEANING,
        "train_list": str(path),
        "val_list": str(path),
    }
    experiment = open_experiment(given, steps=8, data_list=str(path), folder=tmp_path / "budget", root=tmp_path)
    run = fit(configure(given, tmp_path), tmp_path)
    figures = score_on_list(experiment, run, path)
    config = read_json(run / "config.json")
    assert config["label_reading"]["label_map"] == MEANING and 0 < figures["auc"] <= 1
