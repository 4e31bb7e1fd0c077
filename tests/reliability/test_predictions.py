"""Predictions: an input has a folder of its own, a failure leaves the previous whole, a stopped one is gone on with."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch

from datasets.image_io import read_image
from evaluation.pages.evaluate import evaluate_maps
from evaluation.prediction import MapSettings, pictures, predictor, runs
from evaluation.prediction.runs import predict_run
from models import build_network
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.cli import Progress, UserError
from utils.files import read_json


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with a tiny untrained network."""
    config = {"dataset": "set", "network": "unet", "network_options": {"width": 2}, "in_channels": 1, "num_classes": 1}
    config |= {"ignore_index": None, "normalization": "zscore", "data_root": None, "test_list": None}
    empty = dict.fromkeys(("optimizer", "scheduler", "scaler", "rng"), {})
    state = {"model": build_network("unet", 1, 1, width=2).state_dict(), **empty, "epoch": 2, "best": None}
    run = tmp_path / "run"
    save_checkpoint(run / "checkpoints/best.pth", {**state, "config": config, "pred_invert": False, "threshold": 0.5})
    return run


def images(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        pixels = np.random.default_rng(len(name)).integers(0, 255, (20, 20), np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
    return folder


def predict(run: Path, *inputs: Path, **settings: object) -> Path:
    return predict_run(run, inputs=inputs, device="cpu", **settings)


def maps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pred").iterdir())


def test_inputs_of_one_name_have_folders_of_their_own_and_find_them_again(run, tmp_path):
    first, second = images(tmp_path / "A/cells", "0"), images(tmp_path / "B/cells", "1")
    assert predict(run, first).name == "epoch_2_cells"
    assert predict(run, second).name == "epoch_2_cells_2"
    images(second, "2")
    assert predict(run, second).name == "epoch_2_cells_2"
    assert predict(run, first).name == "epoch_2_cells"
    assert maps(run / "results/epoch_2_cells") == ["0.tif"]
    assert maps(run / "results/epoch_2_cells_2") == ["1.tif", "2.tif"]
    assert read_json(run / "results/epoch_2_cells/predictions.json")["input"] == [str(first)]


def test_a_broken_image_costs_itself_alone(run, tmp_path):
    folder = images(tmp_path / "cells", "0", "1")
    results = predict(run, folder)
    for name, length in (("header", 10), ("pixels", 200)):
        (folder / f"{name}.png").write_bytes((folder / "0.png").read_bytes()[:length])
    colors = {"imagej": True, "metadata": {"axes": "ZCYX"}}
    tifffile.imwrite(folder / "stack.tif", np.zeros((3, 2, 20, 20), np.uint8), **colors)
    with pytest.raises(UserError, match="5 of 7 images could not be predicted") as failure:
        predict(run, folder)
    assert [str(failure.value).count(name) for name in ("header.png", "pixels.png", "stack.tif")] == [1, 1, 1]
    assert maps(results) == ["0.tif", "1.tif"]
    assert len(read_json(results / "predictions.json")["failed"]) == 5


def test_a_stack_with_a_broken_plane_has_no_map(run, tmp_path, monkeypatch):
    folder = images(tmp_path / "cells", "0")
    tifffile.imwrite(folder / "stack.tif", np.zeros((3, 20, 20), np.uint8), photometric="minisblack")

    def broken_plane(path: Path, *how: object) -> np.ndarray:
        if path.name.endswith("::1"):
            raise UserError(f"{path} cannot be read")
        return read_image(path, *how)

    assert maps(predict(run, folder)) == ["0.tif", "stack.tif"]
    monkeypatch.setattr("evaluation.prediction.settings.read_image", broken_plane)
    with pytest.raises(UserError, match="stack.tif::1 cannot be read"):
        predict(run, folder, masks=True)
    assert maps(run / "results/epoch_2_cells") == ["0.tif"]


def test_a_prediction_that_is_stopped_leaves_the_previous_whole_and_is_gone_on_with(run, tmp_path, monkeypatch):
    folder = images(tmp_path / "cells", "0")
    results = predict(run, folder)
    before = (results / "predictions.json").read_bytes()
    images(folder, "1", "22", "333")
    written, write_scores = [], pictures.write_scores

    def stop_at_third(path: Path, *content: object) -> None:
        if len(written) == 2:  # 0.tif is taken over from before
            raise KeyboardInterrupt
        written.append(path.name)
        write_scores(path, *content)

    monkeypatch.setattr(pictures, "write_scores", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        predict(run, folder, batch_size=1)
    assert maps(results) == ["0.tif"] and (results / "predictions.json").read_bytes() == before
    assert len(maps(results / ".partial")) == 3

    again = []
    monkeypatch.setattr(
        pictures, "write_scores", lambda path, *content: again.append(path.name) or write_scores(path, *content)
    )
    predict(run, folder, batch_size=1)
    assert sorted(["0.tif", *written, *again]) == maps(results) == ["0.tif", "1.tif", "22.tif", "333.tif"]
    assert not (results / ".partial").exists()


def test_what_is_predicted_already_is_taken_over(run, tmp_path, monkeypatch, capsys):
    folder = images(tmp_path / "cells", "0", "1")
    stack = np.random.default_rng(0).integers(0, 255, (3, 20, 20), np.uint8)
    tifffile.imwrite(folder / "stack.tif", stack, photometric="minisblack")
    results = predict(run, folder, masks=True)
    before = {path: path.read_bytes() for path in results.rglob("*.tif")}
    (results / "metrics.json").write_text('{"pooled": {}, "n_images": 3}')
    predicted = []
    opened = MapSettings.open_rows
    monkeypatch.setattr(
        MapSettings, "open_rows", lambda self, picture: predicted.append(picture.name) or opened(self, picture)
    )
    predict(run, folder, masks=True)
    assert predicted == [] and (results / "metrics.json").is_file()
    assert "5 of 5 images are predicted already" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in results.rglob("*.tif")}
    assert read_json(results / "predictions.json")["stacks"] == {str(folder / "stack.tif"): "QYX"}

    images(folder, "22")  # new
    (results / "pred/1.tif").write_bytes(b"changed by hand")
    os.utime(results / "pred/1.tif", (2**32, 2**32))
    predict(run, folder, masks=True)
    assert sorted(predicted) == ["1", "22"] and not (results / "metrics.json").exists()
    assert (results / "pred/1.tif").read_bytes() == before[results / "pred/1.tif"]
    predicted.clear()
    tifffile.imwrite(folder / "stack.tif", stack[::-1], photometric="minisblack", software="other")
    predict(run, folder, masks=True)
    assert sorted(predicted) == ["stack.planes/0", "stack.planes/1", "stack.planes/2"]
    assert (tifffile.imread(results / "pred/stack.tif") == tifffile.imread(before_file(before, "stack"))[::-1]).all()
    predicted.clear()
    predict(run, folder, masks=True, tta=True)
    assert len(predicted) == 6


def test_a_clock_that_was_set_back_hides_no_change_and_costs_no_map(run, tmp_path, capsys):
    folder = images(tmp_path / "cells", "0", "1")
    results = predict(run, folder)
    os.utime(results / "predictions.json", (1000, 1000))  # the clock was set back before the record was written
    predict(run, folder)
    assert "2 of 2 images are predicted already" in capsys.readouterr().out
    changed = (results / "pred/1.tif").read_bytes()
    (results / "pred/1.tif").write_bytes(changed[::-1])
    os.utime(results / "pred/1.tif", (1000, 1000))  # or afterwards
    predict(run, folder)
    assert "1 of 2 images are predicted already" in capsys.readouterr().out
    assert (results / "pred/1.tif").read_bytes() == changed


def before_file(contents: dict[Path, bytes], stem: str) -> io.BytesIO:
    return io.BytesIO(next(content for path, content in contents.items() if path.stem == stem))


def test_the_tree_of_a_folder_is_kept(run, tmp_path, capsys):
    top = tmp_path / "cells"
    for place in ("", "day1", "day2/late", ".hidden"):
        images(top / place, "7")
    tifffile.imwrite(top / "day2/s.tif", np.zeros((2, 20, 20), np.uint8), photometric="minisblack")
    results = predict(run, top, out=top / "results")
    names = [path.relative_to(results / "pred").as_posix() for path in sorted((results / "pred").rglob("*.tif"))]
    assert names == ["7.tif", "day1/7.tif", "day2/late/7.tif", "day2/s.tif"]
    predict(run, top, out=top / "results")  # its own maps are no images
    assert "5 of 5 images are predicted already" in capsys.readouterr().out
    twice = predict(run, top / "day1", images(tmp_path / "other/day1", "7"))
    assert maps(twice) == ["cells__day1__7.tif", "other__day1__7.tif"]
    listed = tmp_path / "list.txt"
    files = [top / place / "7.png" for place in ("", "day1", "day2/late")]
    cv2.imwrite(str(tmp_path / "label.png"), 255 * np.tri(20, dtype=np.uint8))
    listed.write_text("".join(f"{file}\t{tmp_path / 'label.png'}\n" for file in files))
    moved = tmp_path / "moved"
    shutil.copytree(results / "pred", moved)
    for folder in (results, moved):  # by the record, and by names alone
        assert evaluate_maps(folder, str(listed), threshold=0.5, report=False)["n_images"] == 3


@pytest.mark.parametrize(("side", "unit"), [(200, "megapixels"), (50, "images")])
def test_progress_of_large_images_is_told_in_megapixels(run, tmp_path, monkeypatch, capsys, side, unit):
    monkeypatch.setattr(runs, "LARGE", 0.02)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((300, side), np.uint8))
    monkeypatch.setattr(runs, "Progress", lambda *how: Progress(*how, every_s=0))
    predict(run, tmp_path / "a.tif", tile=96, overlap=32)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("predicting: ")]
    assert f"{unit}  " in lines[-1]


def test_metrics_refuses_a_folder_whose_prediction_was_stopped(run, tmp_path):
    results = predict(run, images(tmp_path / "cells", "0"))
    (results / ".partial").mkdir()
    (results / ".partial/job.json").write_text("{}")
    (results / "predictions.json").unlink()
    with pytest.raises(UserError, match="was stopped on the way"):
        evaluate_maps(results, "list")


def test_out_is_joined_and_refused_where_it_holds_other_predictions(run, tmp_path):
    out = tmp_path / "out"
    (out / "pred").mkdir(parents=True)
    (out / "pred/hand.tif").write_text("precious")
    first, second = images(tmp_path / "A", "0"), images(tmp_path / "B", "1")
    assert predict(run, first, out=out) == out
    with pytest.raises(UserError, match="holds predictions of other images"):
        predict(run, second, out=out)
    predict(run, first, out=out, masks=True)
    assert maps(out) == ["0.tif", "hand.tif"] and (out / "masks/0.png").is_file()


def test_maps_of_the_users_own_are_not_overwritten(run, tmp_path):
    out, folder = tmp_path / "out", images(tmp_path / "A", "0")
    (out / "pred").mkdir(parents=True)
    (out / "pred/0.tif").write_text("precious")
    with pytest.raises(UserError, match=r"holds pred/0\.tif, which this command did not write"):
        predict(run, folder, out=out)
    assert (out / "pred/0.tif").read_text() == "precious"


def test_the_longest_names_have_maps(run, tmp_path):
    folder = images(tmp_path / "A", "n" * 251, "é" * 125)
    assert len(maps(predict(run, folder))) == 2


@pytest.fixture
def judged_run(run, tmp_path) -> Path:
    """The run, with a validation list of four images."""
    folder = images(tmp_path / "val", *map(str, range(4)))
    label = np.eye(20, dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "label.png"), 255 * label)
    (tmp_path / "val.txt").write_text("".join(f"{path}\t{tmp_path}/label.png\n" for path in folder.iterdir()))
    state = load_checkpoint(run / "checkpoints/best.pth")
    state["config"] |= {"val_list": str(tmp_path / "val.txt")}
    save_checkpoint(run / "checkpoints/best.pth", state)
    return run


@pytest.mark.parametrize("taken", ["pred/0.tif", "pred", "."])
def test_the_folder_is_refused_before_validation_images_are_predicted(judged_run, tmp_path, taken):
    out = tmp_path / "out"
    (out / taken).parent.mkdir(parents=True, exist_ok=True)
    (out / taken).write_text("mine")
    with pytest.raises((UserError, FileExistsError)):
        predict(judged_run, images(tmp_path / "cells", "0"), calibrate=True, out=out)
    assert not (judged_run / "results").exists() and (out / taken).read_text() == "mine"
    assert [path for path in out.rglob("*") if path.is_file()] == ([] if taken == "." else [out / taken])


def test_a_run_that_cannot_be_written_to_is_calibrated_too_where_the_maps_go_elsewhere(judged_run, tmp_path):
    cells = images(tmp_path / "cells", "0")
    kept = predict(judged_run, cells, calibrate=True, out=tmp_path / "kept")
    assert maps(judged_run / "results/epoch_2_val") == ["0.tif", "1.tif", "2.tif", "3.tif"]
    shutil.rmtree(judged_run / "results")
    (judged_run / "results").touch()
    apart = predict(judged_run, cells, calibrate=True, out=tmp_path / "apart")
    assert (apart / "pred/0.tif").read_bytes() == (kept / "pred/0.tif").read_bytes()
    with pytest.raises(NotADirectoryError):
        predict(judged_run, cells, calibrate=True)


def test_weights_that_are_not_finite_are_refused(run, tmp_path):
    path = run / "checkpoints/best.pth"
    checkpoint = load_checkpoint(path)
    next(iter(checkpoint["model"].values())).view(-1)[0] = torch.nan
    save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match=r"best\.pth holds weights that are not finite"):
        predict(run, images(tmp_path / "A", "0"))


def test_scores_that_are_not_finite_are_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "to_scores", lambda logits: torch.full_like(logits, torch.nan))
    with pytest.raises(UserError, match="scores are not finite"):
        predict(run, images(tmp_path / "A", "0"), precision="fp32")
    assert not list(run.rglob("0.tif"))
