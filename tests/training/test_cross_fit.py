"""Cross-fitting: every image is predicted by the run that did not see its label, and the runs together are one."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets.image_io import read_scores
from datasets.lists import Sample, read_list
from evaluation.label_errors.issue_files import read_issues
from evaluation.metrics import evaluate_maps
from evaluation.pages.rebuild import rebuild_report
from evaluation.prediction.ensemble import find_members
from evaluation.prediction.out_of_fold import write_out_of_fold
from evaluation.prediction.runs import predict_run
from evaluation.scores.map_folder import find_maps, match_maps, trained_pairs
from evaluation.scores.platt import PlattScaling
from training.data import hold_out
from training.fit import configure, fit
from training.options import DataOptions
from training.run.checkpoints import resume_command
from training.run.cross_fit import cross_fit, open_cross_fit
from utils.cli import UserError
from utils.run_folder import find_cross_fit

FOLDS = 3
GIVEN = {"dataset": "disks", "folds": FOLDS, "run_name": "f", "width": 2, "crop": 32, "epochs": 2, "repeat": 8}
GIVEN |= {"preset": "quick", "device": "cpu", "tensorboard": False, "precision": "fp32"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, draw_many_disks) -> Path:
    return draw_many_disks(tmp_path_factory.mktemp("root"), counts=(9, 4, 2))


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return cross_fit({**GIVEN, "data_root": str(root)}, configure, fit, root)


def maps_below(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "out_of_fold/pred").iterdir())}


def test_every_image_is_predicted_by_the_run_that_left_it_out(folder, root):
    samples = read_list(root / "txt/disks/train/train_gt.txt", str(root))
    joined = find_maps(folder / "out_of_fold/pred")
    pairs = match_maps(samples, joined).pairs
    assert len(pairs) == len(samples) == 9 and trained_pairs(joined.record) == set()
    seen = []
    for number in range(1, FOLDS + 1):
        run = folder / f"fold_{number}"
        (results,) = run.glob("results/*_held_out")
        own = find_maps(results)
        left_out = {sample.image for sample in read_list(run / "held_out.txt", str(root))}
        assert not left_out & {image for image, _ in trained_pairs(own.record)}
        for sample, path in match_maps([each for each in samples if each.image in left_out], own).pairs:
            np.testing.assert_array_equal(read_scores(path), read_scores(dict(pairs_by_image(pairs))[sample.image]))
            seen.append(sample.image)
    assert sorted(seen) == sorted(sample.image for sample in samples)


def pairs_by_image(pairs):
    return [(sample.image, path) for sample, path in pairs]


def test_metrics_and_issues_are_of_the_whole_list(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["n_images"] == 9 and metrics["per_image_mean"]["iou"]["low"] is not None
    record = json.loads((folder / "out_of_fold/predictions.json").read_text())
    assert metrics["threshold"] == record["threshold"]
    found = read_issues(folder / "issues")
    assert len(found.images) == 9
    with open(folder / "issues/suspects.csv", encoding="utf-8") as file:
        assert {row["in_sample"] for row in csv.DictReader(file)} == {"no"}
    page = (folder / "report.html").read_text()
    assert "by the audits of 3 parts" in page and page.count("Audit of the training labels of fold_") == 3
    (folder / "report.html").unlink()
    assert rebuild_report([str(folder)]) == folder / "report.html"
    assert "by the audits of 3 parts" in (folder / "report.html").read_text()


@pytest.mark.parametrize("stacks", [1, 2, 5])
def test_neighbouring_planes_are_left_out_together(stacks, tmp_path):
    names = [f"{stack}.tif::{plane}" for stack in range(stacks) for plane in range(6)]
    samples = [Sample(tmp_path / name, None, name, 1) for name in names]
    dealt = np.zeros(len(names), int)
    for number in (1, 2, 3):
        dealt[hold_out(samples, DataOptions(dataset="x", fold=f"{number}/3"), None, tmp_path)[1]] += number
    parts = dealt.reshape(stacks, 6)
    changes = np.count_nonzero(np.diff(parts, axis=1), axis=1)
    assert set(dealt) == {1, 2, 3} and changes.max() <= (0 if stacks >= 3 else 2)


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_the_threshold_of_an_offset_stays_with_it(folder, tmp_path, offset):
    runs, parts = [folder / f"fold_{number}" for number in range(1, FOLDS + 1)], []
    for run in runs:
        (results,) = run.glob("results/*_held_out")
        parts.append(shutil.copytree(results, tmp_path / run.name))
        record = json.loads((results / "predictions.json").read_text())
        changed = {**record, "threshold": 0.99, "mask_offset": offset}
        (parts[-1] / "predictions.json").write_text(json.dumps(changed))
    record = find_maps(write_out_of_fold(tmp_path / "f", runs, parts)).record
    assert record["mask_offset"] == offset and (record["threshold"] > 0.98) == bool(offset)


def test_the_folder_is_the_ensemble_of_its_runs(folder, root):
    images = [root / "datasets/disks/test/images"]
    how = {"inputs": images, "device": "cpu"}
    single = [predict_run(folder / f"fold_{number}", out=root / f"single_{number}", **how) for number in range(1, 4)]
    joint = predict_run(folder, spread=True, **how)
    assert joint == folder / "results/ensemble_images"
    record = find_maps(joint).record
    assert record["threshold"] == find_maps(folder / "out_of_fold").record["threshold"]
    assert len(record["runs"]) == 3 and len(trained_pairs(record)) == 9
    for path in (joint / "pred").iterdir():
        scores = np.stack([read_scores(each / "pred" / path.name) for each in single])
        np.testing.assert_allclose(read_scores(path), scores.mean(0), atol=1e-6)
        np.testing.assert_allclose(read_scores(joint / "spread" / path.name), scores.std(0, ddof=1), atol=1e-5)
    two = predict_run(folder / "fold_1", ensemble=[folder / "fold_3"], **how)
    for path in (two / "pred").iterdir():
        scores = [read_scores(single[number] / "pred" / path.name) for number in (0, 2)]
        np.testing.assert_allclose(read_scores(path), np.mean(scores, 0), atol=1e-6)


def test_flips_and_rotations_have_a_spread_too(folder, root):
    how = {"inputs": [root / "datasets/disks/test/images"], "device": "cpu", "tta": True}
    plain = predict_run(folder / "fold_1", out=root / "tta", **how)
    spread = predict_run(folder / "fold_1", out=root / "tta_spread", spread=True, **how)
    for path in (plain / "pred").iterdir():
        np.testing.assert_allclose(read_scores(path), read_scores(spread / "pred" / path.name), atol=1e-6)
        assert 0 < read_scores(spread / "spread" / path.name).max() < 0.5


def test_runs_that_cannot_be_averaged_are_refused(folder):
    run = folder / "fold_1"
    with pytest.raises(UserError, match="named twice"):
        find_members(folder, [run])
    with pytest.raises(UserError, match="--tta"):
        predict_run(run, spread=True, device="cpu", data_list=run / "held_out.txt")


def test_what_is_finished_is_kept_and_what_is_missing_is_done(folder, root, capsys):
    before, weights = maps_below(folder), folder / "fold_1/checkpoints/last.pth"
    written = weights.stat().st_mtime_ns
    shutil.rmtree(folder / "fold_3")
    shutil.rmtree(folder / "out_of_fold")
    listed = root / "txt/disks/train/train_noisyLabel.txt"
    whole = listed.read_text()
    listed.write_text(whole.split("\n", 1)[1])
    with pytest.raises(UserError, match=r"train_noisyLabel\.txt has changed since .*fold_1 was trained"):
        cross_fit({**GIVEN, "data_root": str(root)}, configure, fit, root)
    listed.write_text(whole)
    with pytest.raises(UserError, match="not finished"):
        find_members(folder, [])
    assert cross_fit({**GIVEN, "data_root": str(root)}, configure, fit, root) == folder
    output = capsys.readouterr().out
    assert output.count("is finished") == 2 and f"part 3/{FOLDS}" in output
    assert maps_below(folder) == before and weights.stat().st_mtime_ns == written
    assert find_cross_fit(folder) == folder.resolve()
    assert cross_fit({"resume": str(folder)}, configure, fit, root) == folder
    assert capsys.readouterr().out.count("is finished") == 3
    same = {"seed": 0, "train_list": "train_noisyLabel", "lr": 0.003, "epochs": 2, "resume": "auto"}  # as runs have it
    assert open_cross_fit({**GIVEN, "data_root": str(root), **same}, configure, root)[0] == folder
    assert resume_command(folder / "fold_2").endswith(f"main.py --resume {folder}")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"fold": "1/3"}, "leave out --fold"),
        ({"stop_after": 1}, "leave out --stop_after"),
        ({"folds": 1}, "at least two"),
        ({"folds": 20}, "only 9 images"),
        ({"resume": "FOLDER", "width": 4}, "--width 4 differs from the run"),
        ({"resume": "FOLDER", "folds": 4}, "--folds 4 differs from the 3"),
        ({"resume": "FOLDER", "epochs": 1}, "fold_1 has completed 2 epochs already"),
        ({"resume": "FOLDER", "stop_after": 1}, "leave out --stop_after"),
        ({"resume": "FOLDER", "run_name": "g"}, "--run_name g differs"),
        ({"resume": "FOLDER/fold_1", "folds": 3}, "fold_1 is no cross-fit"),
        ({"resume": "auto", "dataset": "disks", "folds": 3, "run_name": "f", "width": 4}, "--width 4 differs"),
    ],
)
def test_what_does_not_go_with_folds_is_refused(folder, root, given, message):
    if "resume" in given:
        given = {**given, "resume": given["resume"].replace("FOLDER", str(folder))}
    base, before = {} if "resume" in given else {**GIVEN, "run_name": "wrong"}, (folder / "folds.json").read_text()
    with pytest.raises(UserError, match=message):
        cross_fit({**base, **given}, configure, fit, root)
    assert (folder / "folds.json").read_text() == before


def test_of_a_cross_fit_that_could_not_begin_nothing_is_left(folder, root):
    (root / "wrong.txt").write_text("nowhere.png nowhere.png\n")
    with pytest.raises(UserError, match="nowhere.png does not exist"):
        cross_fit({**GIVEN, "run_name": "wrong", "train_list": str(root / "wrong.txt")}, configure, fit, root)
    assert not (folder.parent / "wrong").exists()


def test_a_single_run_does_not_begin_in_the_folder_of_a_cross_fit(folder, root):
    with pytest.raises(UserError, match="f is a cross-fit: give --folds"):
        configure({"dataset": "disks", "run_name": "f", "resume": "auto"}, root)
    with pytest.raises(UserError, match="f is a cross-fit of several runs: name one of them"):
        configure({"config": str(folder)}, root)


def test_folds_are_refused_where_one_run_is_made(root):
    with pytest.raises(UserError, match="several runs"):
        configure({"dataset": "disks", "folds": 3}, root)


@pytest.mark.parametrize("recalibrate_norm", [False, True])
def test_calibrated_scores_keep_masks_and_tell_the_error_before_and_after(folder, root, capsys, recalibrate_norm):
    how = {"data_list": root / "txt/disks/test.txt", "data_root": str(root), "device": "cpu", "masks": True}
    how |= {"recalibrate_norm": recalibrate_norm, "batch_size": 3}
    outs = [root / f"calibrated_{on}_{recalibrate_norm}" for on in (0, 1)]
    plain, calibrated = (predict_run(folder / "fold_1", out=out, calibrate=on, **how) for on, out in enumerate(outs))
    record = find_maps(calibrated).record
    scaling = PlattScaling(**record["calibration"])
    assert find_maps(plain).record["calibration"] is None
    for path in (plain / "pred").iterdir():
        np.testing.assert_allclose(read_scores(calibrated / "pred" / path.name), scaling(read_scores(path)), atol=1e-6)
        mask = path.with_suffix(".png").name
        assert (calibrated / "masks" / mask).read_bytes() == (plain / "masks" / mask).read_bytes()
    before = evaluate_maps(plain / "pred", report=False)["calibration_error"]
    metrics = evaluate_maps(calibrated / "pred", report=False)
    assert metrics["calibration_error_before"] == pytest.approx(before, abs=1e-3)
    assert "calibration error before/after: " in capsys.readouterr().out
