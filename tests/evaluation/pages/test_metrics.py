"""Metrics of maps on disk: exact figures, matching, foreign folders, several classes, wrong use."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from sklearn import metrics as sklearn

from datasets.image_io import write_image, write_label, write_scores
from datasets.lists import Sample, read_list
from evaluation.metrics import evaluate_maps, main
from evaluation.prediction.result_folders import describe_results
from evaluation.scores.map_folder import find_maps, match_maps, read_predictions
from evaluation.scores.maps import read_map
from tests.evaluation.conftest import reference_figures
from utils.cli import UserError
from utils.files import read_json, write_json

SIZE = 48
BLANK = "blank"  # the image whose label and prediction are empty


def disk(center: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return ((y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2).astype(np.uint8)


@pytest.fixture
def cases(rng) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores float32 and label by name; scores lie on eighths, so that 8-bit maps and bins hold their order."""
    made = {}
    for number in range(4):
        label = disk((20 + number, 22), 6 + number)
        scores = np.clip(np.rint((0.3 + 0.4 * label + rng.normal(0, 0.15, label.shape)) * 8) / 8, 0, 1)
        made[f"{number}"] = scores.astype(np.float32), label
    made[BLANK] = np.full((SIZE, SIZE), 0.125, np.float32), np.zeros((SIZE, SIZE), np.uint8)
    return made


def write_data(root: Path, cases: dict, num_classes: int = 1) -> Path:
    """Images and labels below ``root`` and their list."""
    lines = []
    for name, (_, label) in cases.items():
        image, label_path = root / "images" / f"{name}.png", root / "labels" / f"{name}.png"
        write_image(image, np.full(label.shape, 90, np.uint8))
        write_label(label_path, label, num_classes)
        lines.append(f"{image}\t{label_path}\n")
    (root / "list.txt").write_text("".join(lines))
    return root / "list.txt"


def write_prediction(root: Path, cases: dict, **record: object) -> Path:
    """A prediction as inference leaves it, for the data of ``write_data``."""
    folder = root / "results" / "epoch_3"
    for name, (scores, _) in cases.items():
        if scores.dtype == np.uint8:
            write_image(folder / "pred" / f"{name}.tif", scores)
        else:
            write_scores(folder / "pred" / f"{name}.tif", scores)
    maps = {str(root / "images" / f"{name}.png"): f"pred/{name}.tif" for name in cases}
    record = {"maps": maps, "list": str(root / "list.txt"), "threshold": 0.375, "num_classes": 1, **record}
    write_json(folder / "predictions.json", record)
    return folder / "pred"


def evaluate(prd_dir: Path, *arguments: object, **options: object) -> dict:
    return evaluate_maps(prd_dir, *arguments, report=False, **options)


def test_figures_are_those_of_scikit_learn(tmp_path, cases):
    write_data(tmp_path, cases)
    pred = write_prediction(tmp_path, cases)
    summary = evaluate(pred)
    assert summary["threshold"] == 0.375 and summary["n_images"] == 5 and summary["n_both_empty"] == 1
    scores = np.concatenate([scores.ravel() for scores, _ in cases.values()])
    labels = np.concatenate([label.ravel() for _, label in cases.values()])
    mask = scores >= 0.375
    assert summary["pooled"] == pytest.approx(
        {
            **reference_figures(labels, mask),
            "auc": sklearn.roc_auc_score(labels, scores),
            "average_precision": sklearn.average_precision_score(labels, scores),
        },
        abs=1e-12,
    )
    best = max(sklearn.jaccard_score(labels, scores >= level / 8) for level in range(9))
    assert summary["oracle"]["iou"] == pytest.approx(best)
    assert sklearn.jaccard_score(labels, scores >= summary["oracle_threshold"]) == pytest.approx(best)
    per_image = [
        sklearn.jaccard_score(label.ravel(), (scores >= 0.375).ravel(), zero_division=1)
        for scores, label in cases.values()
    ]
    assert summary["per_image_mean"]["iou"]["mean"] == pytest.approx(np.mean(per_image))


def test_files_hold_the_contract(tmp_path, cases, capsys):
    write_data(tmp_path, cases)
    summary = evaluate(write_prediction(tmp_path, cases))
    written = read_json(tmp_path / "results" / "epoch_3" / "metrics.json")
    names = {"iou", "f1", "accuracy", "precision", "sensitivity", "specificity", "auc", "average_precision"}
    assert set(written["pooled"]) == set(written["oracle"]) == names <= set(written["per_image_mean"])
    assert {"threshold", "oracle_threshold", "n_images", "n_both_empty"} < set(written)
    for name in names:
        record = written["per_image_mean"][name]
        assert record["low"] < record["mean"] < record["high"]
    # The blank image has no foreground: these figures are undefined for it and left out of the means.
    undefined = {name for name, record in written["per_image_mean"].items() if record["undefined"]}
    assert undefined == {"precision", "sensitivity", "auc", "average_precision", "hd95", "skeleton_length_error"}
    with open(tmp_path / "results" / "epoch_3" / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).stem for row in rows] == list(cases)
    assert rows[-1]["precision"] == "" and float(rows[-1]["iou"]) == 1.0
    assert sum(int(row["tp"]) for row in rows) == round(
        summary["pooled"]["sensitivity"] * sum(label.sum() for _, label in cases.values())
    )
    said = capsys.readouterr().out
    assert "*oracle*" in said and "–" in said and f"{summary['pooled']['iou']:.3f}" in said


def test_an_undefined_figure_is_null_and_a_dash(tmp_path, cases, capsys):
    only = {BLANK: cases[BLANK]}
    write_data(tmp_path, only)
    summary = evaluate(write_prediction(tmp_path, only))
    written = read_json(tmp_path / "results" / "epoch_3" / "metrics.json")
    assert np.isnan(summary["pooled"]["auc"]) and written["pooled"]["auc"] is None and written["pooled"]["iou"] is None
    assert written["per_image_mean"]["precision"]["mean"] is None
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("AUC"))
    assert line.split() == ["AUC", "–", "–", "[–,", "–]", "1", "–"]


def test_threshold_given_beats_recorded_and_pred_or_parent_are_the_same(tmp_path, cases):
    write_data(tmp_path, cases)
    pred = write_prediction(tmp_path, cases)
    assert evaluate(pred, threshold=0.625)["threshold"] == 0.625
    ours, theirs = evaluate(pred), evaluate(pred.parent)
    assert ours["pooled"] == theirs["pooled"] and ours["threshold"] == 0.375


def test_what_the_command_is_given_counts(tmp_path, cases):
    listed = write_data(tmp_path, cases)
    pred = write_prediction(tmp_path, cases, threshold=0.375, list="elsewhere.txt")
    main(["--prd_dir", str(pred), "--test_data_dir", str(listed), "--threshold", "0.625", "--ignore_index", "255"])
    written = read_json(pred.parent / "metrics.json")
    assert written["threshold"] == 0.625
    assert written["pooled"]["sensitivity"] is None  # what is labelled as foreground is ignored
    assert written["pooled"]["specificity"] is not None


@pytest.mark.parametrize("kind", ["tif", "8-bit png", "16-bit tif", "0/1 masks"])
def test_maps_from_elsewhere_match_by_stem(tmp_path, cases, capsys, kind):
    list_path = write_data(tmp_path, cases)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name, (scores, _) in cases.items():
        if kind == "tif":
            write_scores(folder / f"{name}.tif", scores)
        elif kind == "8-bit png":
            write_image(folder / f"{name}.png", np.rint(scores * 255).astype(np.uint8))
        elif kind == "16-bit tif":
            write_image(folder / f"{name}.tif", np.rint(scores * 65535).astype(np.uint16))
        else:
            write_image(folder / f"{name}.png", (scores >= 0.5).astype(np.uint8))
    summary = evaluate(folder, str(list_path))
    assert "0.5 is used" in capsys.readouterr().out
    scores = np.concatenate([scores.ravel() for scores, _ in cases.values()])
    labels = np.concatenate([label.ravel() for _, label in cases.values()])
    assert summary["pooled"]["iou"] == pytest.approx(sklearn.jaccard_score(labels, scores >= 0.5))
    expected = scores >= 0.5 if kind == "0/1 masks" else scores
    assert summary["pooled"]["auc"] == pytest.approx(sklearn.roc_auc_score(labels, expected))
    assert (folder / "metrics.json").is_file()


def test_maps_of_other_programs_match_but_for_endings_of_names(tmp_path, cases, capsys):
    samples = read_list(write_data(tmp_path, cases), root=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for name, (scores, _) in cases.items():
        np.save(tmp_path / f"elsewhere/{name}_cp_masks.npy", scores)
    matches = match_maps(samples, find_maps(tmp_path / "elsewhere"))
    assert [path.name for _, path in matches.pairs] == [f"{name}_cp_masks.npy" for name in cases]
    assert "0_cp_masks.npy is taken for the map of 0.png" in capsys.readouterr().out
    np.testing.assert_array_equal(read_map(matches.pairs[1][1]), cases["1"][0])


def test_maps_match_whatever_ome_or_accents_make_of_the_name_and_images_may_have_channels(tmp_path):
    lines, scores = [], np.eye(32, dtype=np.float32)
    for place, (image, name) in enumerate({"zelle_ä.ome": "zelle_a\u0308", "8.ome": "8", "9": "9.ome"}.items()):
        path = tmp_path / "images" / f"{image}.tif"
        path.parent.mkdir(exist_ok=True)
        values = np.full((3, 32, 32), place + 1, np.uint8)
        values[:, 5] = 9
        tifffile.imwrite(path, values, photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
        write_label(tmp_path / "labels" / f"{place}.png", (scores > 0).astype(np.uint8))
        write_scores(tmp_path / "maps" / f"{name}.tif", scores)
        lines.append(f"{path}\t{tmp_path}/labels/{place}.png\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    for _ in range(2):  # the second time among the files of the first
        main(["--prd_dir", str(tmp_path / "maps"), "--test_data_dir", str(tmp_path / "list.txt")])
        written = read_json(tmp_path / "maps" / "metrics.json")
        assert written["n_images"] == 3 and written["pooled"]["iou"] == 1
    assert (tmp_path / "maps" / "report.html").is_file()


def test_what_has_no_partner_is_named(tmp_path, cases, capsys):
    list_path = write_data(tmp_path, cases)
    folder = tmp_path / "elsewhere"
    for name in ("0", "1"):
        write_scores(folder / f"{name}.tif", cases[name][0])
    write_scores(folder / "stranger.tif", cases["0"][0])
    summary = evaluate(folder, str(list_path), threshold=0.5)
    said = capsys.readouterr().out
    assert "labelled images without a map, left out (3)" in said and f"{BLANK}.png" in said
    assert "maps without a labelled image, left out (1)" in said and "stranger.tif" in said
    assert summary["n_images"] == 2 and len(summary["images_without_map"]) == 3


def test_ignored_pixels_count_nowhere(tmp_path, cases):
    name = "0"
    scores, label = cases[name]
    ignored = label.copy()
    ignored[:, :24] = 255
    write_data(tmp_path, {name: (scores, ignored)})
    pred = write_prediction(tmp_path, {name: (scores, ignored)}, ignore_index=128)
    pooled = evaluate(pred)["pooled"]
    right = label[:, 24:].ravel(), scores[:, 24:].ravel() >= 0.375
    assert pooled["iou"] == pytest.approx(sklearn.jaccard_score(*right))
    assert pooled["accuracy"] == pytest.approx(sklearn.accuracy_score(*right))


def test_several_classes(tmp_path, rng, capsys):
    cases = {}
    for number in range(3):
        label = rng.integers(0, 3, (SIZE, SIZE)).astype(np.uint8)
        cases[f"{number}"] = np.where(rng.random(label.shape) < 0.7, label, 0).astype(np.uint8), label
    write_data(tmp_path, cases, num_classes=4)
    pred = write_prediction(tmp_path, cases, num_classes=4, threshold=None)
    summary = evaluate(pred)
    truth = np.concatenate([label.ravel() for _, label in cases.values()])
    predicted = np.concatenate([classes.ravel() for classes, _ in cases.values()])
    per_class = sklearn.jaccard_score(truth, predicted, average=None)
    assert [row["iou"] for row in summary["classes"][:3]] == pytest.approx(list(per_class))
    assert np.isnan(summary["classes"][3]["iou"])  # absent everywhere
    assert summary["pooled"]["iou"] == pytest.approx(per_class.mean())
    assert summary["pooled"]["f1"] == pytest.approx(sklearn.f1_score(truth, predicted, average="macro"))
    assert summary["pooled"]["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, predicted))
    assert summary["threshold"] is None and summary["pooled"]["auc"] is None
    assert (summary["confusion"] == sklearn.confusion_matrix(truth, predicted, labels=range(4))).all()
    assert "class 3   IoU –" in capsys.readouterr().out
    with pytest.raises(UserError, match="--threshold 0.3 is for scores of two classes; these are maps of 4"):
        evaluate(pred, threshold=0.3)


def test_class_maps_may_be_scores(tmp_path, rng):
    scores = rng.dirichlet(np.ones(3), (8, 9)).transpose(2, 0, 1).astype(np.float32)
    write_scores(tmp_path / "7.tif", scores)
    assert (read_map(tmp_path / "7.tif", num_classes=3) == scores.argmax(0)).all()


# wrong use


def test_wrong_maps_are_named(tmp_path, cases):
    list_path = write_data(tmp_path, cases)
    with pytest.raises(UserError, match="does not exist"):
        evaluate(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no predictions.json and no maps"):
        evaluate(tmp_path / "empty")
    folder = tmp_path / "maps"
    write_scores(folder / "0.tif", np.full((SIZE, SIZE), 3.5, np.float32))
    with pytest.raises(UserError, match="by --test_data_dir LIST"):
        evaluate(folder)
    with pytest.raises(UserError, match=r"0\.tif is no score map: its values run from 3\.5"):
        evaluate(folder, str(list_path))
    write_scores(folder / "0.tif", np.zeros((SIZE, SIZE - 1), np.float32))
    with pytest.raises(UserError, match=r"0\.tif is 48×47, the label .*0\.png 48×48"):
        evaluate(folder, str(list_path))
    cv2.imwrite(str(folder / "0.tif"), np.full((SIZE, SIZE), 9, np.uint8))
    with pytest.raises(UserError, match="holds 9, which is none of the 4 classes"):
        evaluate(folder, str(list_path), num_classes=4)
    (folder / "0.tif").rename(folder / "other.tif")
    with pytest.raises(UserError, match=r"none of the 1 maps .*other\.tif"):
        evaluate(folder, str(list_path))


def test_maps_that_were_replaced_since_are_named(tmp_path, cases, capsys):
    write_data(tmp_path, cases)
    maps = write_prediction(tmp_path, cases)
    write_prediction(tmp_path, cases, results=describe_results(maps.parent))
    evaluate(maps)
    assert "as inference wrote them" not in capsys.readouterr().out
    moved = shutil.copytree(maps.parent, tmp_path / "moved", copy_function=shutil.copyfile) / "pred"
    write_scores(moved / "2.tif", cases["1"][0])
    assert (moved / "2.tif").stat().st_size == (maps / "2.tif").stat().st_size
    evaluate(moved)
    assert f"maps that are not as inference wrote them (1): {moved / '2.tif'}\n" in capsys.readouterr().out


def test_planes_of_a_stack_and_crops_of_a_field_count_together_in_intervals(tmp_path, cases, capsys):
    single = {name: cases[name] for name in "0123"}
    crops = {f"{name}_h0_w{place}": each for name, each in single.items() for place in (0, 48)}
    found = []
    for name, each in {"single": single, "crops": crops}.items():
        write_data(tmp_path / name, each)
        found.append(evaluate(write_prediction(tmp_path / name, each)))
    said = capsys.readouterr().out
    assert said.count("intervals count parts of one field of view or stack together: 4 of these") == 1
    assert [each["n_units"] for each in found] == [4, 4]
    for metric in ("iou", "auc", "hd95"):
        one, both = (each["per_image_mean"][metric] for each in found)
        assert both == pytest.approx(one)


def test_a_stem_of_two_images_is_no_guess(tmp_path, cases):
    lists = [write_data(tmp_path / place, {"0": cases["0"]}).read_text() for place in ("a", "b")]
    (tmp_path / "both.txt").write_text("".join(lists))
    write_scores(tmp_path / "maps" / "0.tif", cases["0"][0])
    with pytest.raises(UserError, match=r"0\.tif could belong to .*a/images/0\.png and to .*b/images/0\.png"):
        evaluate(tmp_path / "maps", str(tmp_path / "both.txt"))
    (tmp_path / "maps" / "0.tif").unlink()
    for place in ("a", "b"):
        write_scores(tmp_path / "maps" / f"{place}__images__0.tif", cases["0"][0])
    assert evaluate(tmp_path / "maps", str(tmp_path / "both.txt"))["n_images"] == 2


def test_a_list_without_labels_asks_for_one(tmp_path, cases):
    write_data(tmp_path, cases)
    pred = write_prediction(tmp_path, cases)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path / 'images' / name}.png\n" for name in cases))
    with pytest.raises(UserError, match="has no labels"):
        evaluate(pred)
    write_prediction(tmp_path, cases, list=None)
    with pytest.raises(UserError, match="was made with --input"):
        evaluate(pred)


@pytest.mark.parametrize("value", ["1.5", "-0.1", "x", "nan"])
def test_bad_thresholds_end_with_status_2(value, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--prd_dir", "x", "--threshold", value])
    assert end.value.code == 2 and f"'{value}' must be a number from 0 to 1" in capsys.readouterr().err


def test_the_command_ends_with_status_2_and_one_message(run_tool):
    answer = run_tool("evaluation/metrics.py", "--prd_dir", "train_log/x/y/results/epoch_1/pred")
    assert answer.returncode == 2 and answer.stdout == "" and "Traceback" not in answer.stderr
    assert answer.stderr.startswith("error: --prd_dir train_log/x/y/results/epoch_1/pred does not exist")


def test_a_run_in_place_of_its_predictions_names_them(tmp_path: Path):
    for folder in ("run/results/epoch_1", "run/out_of_fold"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "predictions.json").write_text("{}")
    with pytest.raises(UserError, match=r"predictions of this run: .*run/out_of_fold, .*run/results/epoch_1$"):
        find_maps(tmp_path / "run")


def test_maps_are_found_by_stem_where_the_images_have_moved(tmp_path: Path):
    pred = tmp_path / "results" / "pred"
    pred.mkdir(parents=True)
    write_scores(pred / "7.tif", np.full((16, 16), 0.5, np.float32))
    record = {"maps": {"/once/here/7.tif": "pred/7.tif"}, "threshold": 0.5, "num_classes": 1}
    write_json(pred.parent / "predictions.json", record)
    sample = Sample(tmp_path / "moved" / "7.tif", None, "moved/7.tif", 1)
    assert match_maps([sample], find_maps(pred)).pairs == [(sample, pred / "7.tif")]


@pytest.mark.parametrize("same", [True, False])
def test_images_of_equal_names_that_are_others_are_warned_of(tmp_path: Path, cases, capsys, same):
    write_data(tmp_path, cases)
    write_data(tmp_path / "other", cases)
    if not same:
        write_image(tmp_path / "other/images/1.png", np.full((SIZE, SIZE), 91, np.uint8))
    evaluate(write_prediction(tmp_path, cases), str(tmp_path / "other/list.txt"))
    said = capsys.readouterr().out
    names = f"1.tif was made of {tmp_path}/images/1.png, and the list's image is {tmp_path}/other/images/1.png"
    assert (f"warning: maps and images match by name alone: {names}" in said) == (not same)


def test_results_know_the_run_that_they_lie_in_by_whatever_name(tmp_path: Path):
    for name in ("old", "new", "folds/fold_1"):
        write_json(tmp_path / name / "config.json", {})
    write_json(tmp_path / "folds/folds.json", {})
    old, gone = str(tmp_path / "old"), str(tmp_path / "gone")

    def runs_of(place: str, **record: object) -> list[str]:
        write_json(tmp_path / place / "predictions.json", {"maps": {}, **record})
        found = read_predictions(tmp_path / place / "predictions.json")
        return [*([found["run"]] if "run" in found else []), *found.get("runs", [])]

    new, folds = str(tmp_path / "new"), str(tmp_path / "folds")
    assert runs_of("new/results/epoch_1", run=old, in_run=True) == [new]  # renamed, and another took its name
    assert runs_of("new/results/epoch_1", run=old, in_run=False) == [old]  # put there by --out
    assert runs_of("new/results/epoch_1", run=gone) == [new] and runs_of("new/results/epoch_1", run=old) == [old]
    assert runs_of("elsewhere/epoch_1", run=gone, in_run=True) == [gone]
    several = [f"{gone}/fold_1", old]
    assert runs_of("folds/results/ensemble", run=gone, runs=several, in_run=True) == [folds, f"{folds}/fold_1", old]
    assert runs_of("folds/out_of_fold", runs=[f"{gone}/fold_1"], out_of_fold=True) == [f"{folds}/fold_1"]


def test_an_image_that_was_changed_since_it_was_predicted_is_named(tmp_path, cases):
    write_data(tmp_path, cases)
    folder = write_prediction(tmp_path, cases)
    image = next((tmp_path / "images").iterdir())
    write_image(image, np.zeros((60, 60), np.uint8))
    with pytest.raises(UserError, match=f"{image.name} is 60×60, its label .* was changed since"):
        evaluate_maps(folder)


@pytest.mark.parametrize("threshold", [7, -0.5])
def test_a_recorded_threshold_that_cannot_be_is_named(tmp_path, cases, threshold):
    write_data(tmp_path, cases)
    folder = write_prediction(tmp_path, cases, threshold=threshold)
    with pytest.raises(UserError, match=r"predictions\.json.*threshold.*from 0 to 1"):
        evaluate_maps(folder)


def test_masks_of_other_programs_are_scored_as_they_look_and_low_scores_said(tmp_path, cases, capsys):
    path = write_data(tmp_path, cases)
    for name, (_, label) in cases.items():
        write_image(tmp_path / "others" / f"{name}.tif", label.astype(np.uint16) * 37)
        low = label * np.arange(label.size, dtype=np.uint16).reshape(label.shape) % 100
        write_image(tmp_path / "low" / f"{name}.tif", low)
    assert evaluate(tmp_path / "others", str(path))["pooled"]["iou"] == 1
    assert "the maps hold 0 and 37: all but 0 is foreground" in capsys.readouterr().out
    evaluate(tmp_path / "low", str(path))
    assert "no map reaches the threshold 0.5000, their highest score is about 0.00" in capsys.readouterr().out
    evaluate(write_prediction(tmp_path, {name: (scores / 4, label) for name, (scores, label) in cases.items()}))
    said = capsys.readouterr().out
    assert "every mask is empty" in said and "whole numbers" not in said, "maps of our own are no percentages"
