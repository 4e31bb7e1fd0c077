"""The study: its trials, their scores and the tables that are made of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.grid import claimed, read_results, replace_table, run_trials
from benchmarks.protocol.cells import METHODS, OF_THEIR_SETS, REAL, STEPS, TABLES, cell, cells_of
from benchmarks.protocol.features import compare_layers, layer_features, linear_cka, probe_auc
from benchmarks.protocol.figures import compared, draw
from benchmarks.protocol.tables import claims_table, make_tables, methods_by_kind, ranking, ranking_table
from benchmarks.study import FOLDER, PAGE
from benchmarks.trials import pooled_iou
from datasets.label_noise import parse_spec
from models import build_network
from training.configuration.resolve import resolve_options
from utils.cli import UserError


def record(dataset: str, labels: str, method: str = "bce", iou: float = 0.5, **other: Any) -> dict[str, Any]:
    """A finished trial."""
    values = {"iou": iou, "oracle_iou": iou, "auc": 0.9, "inverted": False, "label_iou": 0.7, "seconds": 1}
    audit = {"predicted_iou": 0.5, "predicted_iou_low": 0.4, "predicted_iou_high": 0.6}
    own = {name: other.pop(name) for name in ("auc", "inverted") if name in other}
    return {"cell": {**cell(dataset, labels, method, **other), "width": 8}, "audit": audit, **values, **own}


def test_every_trial_is_asked_for_once_and_has_options_that_exist():
    for table in TABLES:
        cells = cells_of(table, 2, STEPS, 8)
        assert len({json.dumps(each, sort_keys=True) for each in cells}) == len(cells) > 0
        moved = cells_of(table, 1, STEPS, 8, ["mine"])
        assert (moved == []) if table in OF_THEIR_SETS else all(each["dataset"] == "mine" for each in moved)
    for own in METHODS.values():
        given = {**own, "transition_matrix": "q.json"} if "transition_matrix" in own else own
        resolve_options({"dataset": "nuc", "clean_list": "ten", **given}, has_accelerator=False)
    for each in cells_of("binary", 1, STEPS, 8):
        assert parse_spec(each["labels"])


def test_ious_are_pooled_over_images_without_ignored_pixels():
    masks = [np.array([[1, 1, 0, 0]], np.uint8), np.array([[1, 1, 1, 0]], np.uint8)]
    labels = [np.array([[1, 0, 0, 1]], np.uint8), np.array([[1, 1, 255, 0]], np.uint8)]
    assert pooled_iou(iter(masks), iter(labels)) == 3 / 5
    assert pooled_iou(masks, labels, num_classes=2) == pytest.approx((3 / 5 + 2 / 4) / 2)


def test_features_are_alike_up_to_a_rotation(rng):
    features, others = rng.normal(size=(500, 3)), rng.normal(size=(500, 2))
    turned = 2 * features @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 1
    assert linear_cka(features, turned) == pytest.approx(1) and linear_cka(features, others) < 0.05
    labels = (features[:, 0] > 0).astype(float)
    assert probe_auc(features[:250], labels[:250], features[250:], labels[250:]) > 0.97
    assert abs(probe_auc(others[:250], labels[:250], others[250:], labels[250:]) - 0.5) < 0.15


def test_features_of_each_layer_lie_where_their_labels_are(rng):
    label = (np.arange(32)[:, None] < 16) * np.ones((32, 32), np.uint8)
    image = torch.from_numpy(label * 4.0 + rng.normal(size=(32, 32)) * 0.1).float()[None]
    network = build_network("unet", width=2, init="kaiming")
    found = layer_features(network, [image, image], [label, label])
    assert list(found)[0] == "down.0" and list(found)[-1] == "up.3"
    assert found["down.0"][0].shape == (2048, 2) and found["down.4"][0].shape == (8, 32)
    assert found["down.4"][1].tolist() == [1, 1, 0, 0] * 2
    layers = compare_layers(network, network, [image, image], [label, label])
    assert all(layer["cka"] == pytest.approx(1) for layer in layers)
    assert all(layer["probe"] == layer["clean_probe"] for layer in layers)
    assert max(layer["probe"] for layer in layers) > 0.9


def test_methods_rank_by_what_they_win_over_plain_training():
    kinds = (("stare", "labels_2nd_observer"), ("nuc", "otsu"), ("nuc", "bright"))
    records = [record(*kind, iou=0.5) for kind in kinds]
    records += [record(*kind, "ours", iou=iou) for kind, iou in zip(kinds, (0.6, 0.7, 0.65), strict=True)]
    records += [record("nuc", "otsu", "gce", iou=0.4), record("nuc", "otsu", "gce", iou=0.9, steps=1000)]
    rows = ranking(records)
    assert [row[0] for row in rows] == ["ours", "bce", "gce"]
    assert rows[0][1] == pytest.approx(0.15) and rows[0][2] < 0.15 < rows[0][3] and rows[0][4] == 3
    assert np.isnan(rows[2][2]) and rows[2][1] == pytest.approx(-0.1)
    easier = [record("nuc", "polygon:3", iou=0.5), record("nuc", "polygon:3", "ours", iou=0.95)]
    easier += [record(*kind, "sce", iou=0.55) for kind in kinds]
    assert ranking(records + easier)[0][:2] == rows[0][:2], "a kind that not all were tried on"
    assert "| ours | +0.150 |" in ranking_table(records + easier) and "+0.225 (4) |" in ranking_table(records + easier)
    table = methods_by_kind(records)
    assert "| stare labels_2nd_observer | 0.700 | – | 0.500 | **0.600** | – |" in table


def test_sentences_of_the_paper_are_judged_by_budget():
    records = [record("nuc", "clean", iou=0.8), record("nuc", "sample:0.1", iou=0.72)]
    records += [record("nuc", "clean", iou=0.8, steps=1000), record("nuc", "sample:0.1", iou=0.79, steps=1000)]
    records += [record("nuc", "flip:0.9", auc=0.95, inverted=True)]
    table = claims_table(records)
    assert "| 0 of 1 hold: 0.90 | 1 of 1 hold: 0.99 |" in table
    assert "AUC below 0.5 before inversion | 1 of 1 hold: 0.05 | – |" in table


def test_trials_of_another_width_have_a_table_of_their_own():
    usual = [record("nuc", "otsu", iou=0.5), record("nuc", "bright", iou=0.6)]
    wide = record("nuc", "otsu", iou=0.9)
    wide = {**wide, "cell": {**wide["cell"], "width": 4 * wide["cell"]["width"]}}
    tables = make_tables({**dict.fromkeys(TABLES, []), "real": [*usual, wide]})
    assert (
        "0.900" not in tables["study methods"] and "| nuc otsu | bce | 300 | 0.500 | 0.900 |" in tables["study widths"]
    )
    assert "bright" not in tables["study widths"]


def test_the_tables_of_nothing_say_so():
    tables = make_tables({table: [] for table in TABLES})
    assert set(tables.values()) == {"Not enough trials are finished yet."}


def test_figures_are_drawn_of_what_is_finished_alone(tmp_path):
    draw({table: [] for table in TABLES}, tmp_path)
    assert list(tmp_path.iterdir()) == []
    curve = {**record("nuc", "clean"), "curve": [{"step": 1, "truth": 0.5, "labels": 0.4}]}
    real = [record(*kind, method) for kind in REAL[:3] for method in ("bce", "ours")]
    assert [row[0] for row in compared(real)] == ["ours"] and compared(real[:4]) == []
    records = {**dict.fromkeys(TABLES, []), "real": real, "curves": [curve]}
    draw(records, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"study.png", "study_curves.png"}


def test_no_two_processes_try_the_same_trial(tmp_path):
    path, tried = tmp_path / "table.jsonl", []
    with claimed({"a": 1}, path) as mine:
        assert mine
        holder = [sys.executable, "-c", HELD, str(path)]
        answer = subprocess.run(holder, capture_output=True, text=True, cwd=PAGE.parents[2])
        assert answer.stdout.split() == ["False", "True"], answer.stderr
    run_trials([{"a": 1}, {"a": 2}], lambda a: tried.append(a) or {}, path, seconds=1, until=-1.0)
    assert tried == []


HELD = """
import sys
from pathlib import Path
from benchmarks.grid import claimed
for number in (1, 2):
    with claimed({"a": number}, Path(sys.argv[1])) as mine:
        print(mine)
"""


def test_a_study_is_run_and_summarized(workspace: Path, tmp_path: Path):
    shutil.copytree(PAGE.parents[2] / "benchmarks", workspace / "benchmarks", ignore=shutil.ignore_patterns("results"))
    small = ["--tables", "random", "--datasets", "disks", "--seeds", "1", "--steps", "2", "--width", "2"]
    command = [sys.executable, "benchmarks/study.py", *small, "--crop", "32", "--out", str(tmp_path)]
    answer = subprocess.run(command, cwd=workspace, capture_output=True, text=True)
    assert answer.returncode == 0 and "2 trials, 0 finished" in answer.stdout, answer.stdout + answer.stderr
    records = list(read_results(tmp_path / "random.jsonl").values())
    assert [each["cell"]["labels"] for each in records] == ["random:0.1", "random:0.5"]
    assert all(0 <= each["iou"] <= 1 and each["audit"]["verdict"] for each in records)
    assert "disks random:0.5" in make_tables({**dict.fromkeys(TABLES, []), "random": records})["study noise"]


def test_tables_of_the_page_are_those_of_the_results():
    records = {table: list(read_results(FOLDER / f"{table}.jsonl").values()) for table in TABLES}
    text = PAGE.read_text(encoding="utf-8")
    for place, table in make_tables(records).items():
        assert replace_table(text, place, table) == text, "run benchmarks/study.py --summarize"


def test_an_unknown_table_is_told():
    from benchmarks.study import main, summarize

    with pytest.raises(SystemExit):
        main(["--tables", "nonsense"])
    with pytest.raises(UserError, match="no finished trial"):
        summarize(Path("nowhere"))
