"""Objects of predictions on disk: axes and pixel size on both sides, tables by scikit-image, outlines for ImageJ."""

from __future__ import annotations

import csv
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import roifile
import tifffile
import torch
from scipy.ndimage import binary_fill_holes
from skimage.measure import regionprops

from datasets.image_scale import read_scale
from evaluation.inference import main
from evaluation.objects.splitting import label_objects
from evaluation.prediction.instances import DTYPES
from evaluation.scores.validation import offset_mask
from models import build_network
from utils.checkpoint import save_checkpoint
from utils.files import read_json

UM = 0.108
OME = {"PhysicalSizeX": UM, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": UM, "PhysicalSizeYUnit": "µm"}
OME |= {"PhysicalSizeZ": 0.3, "PhysicalSizeZUnit": "µm"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def make_run(root: Path, num_classes: int = 1, threshold: float | None = 0.5) -> Path:
    """A network that smooths the second of three channels; its score exceeds one half where that is above its mean."""
    config = {"dataset": "set", "network": "unet", "network_options": {"width": 2}, "in_channels": 1}
    config |= {"channels": ["1"], "num_classes": num_classes, "ignore_index": None, "normalization": "zscore"}
    config |= {"data_root": None, "test_list": None}
    torch.manual_seed(3)
    network = build_network("unet", 1, num_classes, width=2)
    empty = dict.fromkeys(("optimizer", "scheduler", "scaler", "rng"), {})
    state = {"model": network.state_dict(), **empty, "epoch": 2, "best": None, "config": config}
    save_checkpoint(root / "checkpoints/best.pth", {**state, "pred_invert": False, "threshold": threshold})
    return root


def write_stack(path: Path, seed: int, kind: str = "ome", size: tuple[int, int] = (40, 48)) -> Path:
    """Three channels and five planes of blobs, 0.108 µm a pixel."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.kron(rng.integers(0, 200, (5, 3, size[0] // 4, size[1] // 4)), np.ones((4, 4))).astype(np.uint8)
    if kind == "ome":
        tifffile.imwrite(path, values, ome=True, metadata={"axes": "ZCYX", **OME})
    else:
        how = {"imagej": True, "resolution": (1 / UM, 1 / UM)}
        tifffile.imwrite(path, values, metadata={"axes": "ZCYX", "unit": "\\u00B5m", "spacing": 0.3}, **how)
    return path


def predict(run: Path, *arguments: object) -> None:
    main(["--train_dir", str(run), "--device", "cpu", "--precision", "fp32", *map(str, arguments)])


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def polygon_area(corners: np.ndarray) -> float:
    x, y = corners.T.astype(float)
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
def test_a_name_that_is_not_utf_8_has_objects_too(run, tmp_path):
    write_stack(tmp_path / "cells" / os.fsdecode(b"caf\xe9.tif"), 0)
    predict(run, "--input", tmp_path / "cells", "--out", tmp_path / "out", "--instances")
    assert rows_of(tmp_path / "out/objects.csv")[0]["image"].endswith("caf?.tif")
    with zipfile.ZipFile(tmp_path / "out/rois.zip") as outlines:
        assert outlines.namelist()[0].startswith("caf%udce9_0001")


def test_outlines_are_written_whatever_year_the_clock_shows(run, tmp_path, monkeypatch):
    write_stack(tmp_path / "cells/s.tif", 0)
    monkeypatch.setattr("time.localtime", lambda *_: time.struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0)))
    predict(run, "--input", tmp_path / "cells", "--out", tmp_path / "out", "--instances")
    with zipfile.ZipFile(tmp_path / "out/rois.zip") as outlines:
        assert {entry.external_attr >> 16 for entry in outlines.infolist()} == {0o644}


@pytest.mark.parametrize("kind", ["ome", "imagej"])
@pytest.mark.parametrize("method", ["components", "watershed"])
def test_a_stack_of_channels_and_planes_keeps_axes_and_pixel_size(run, tmp_path, kind, method):
    stack = write_stack(tmp_path / "cells/s.tif", 0, kind)
    with pytest.raises(SystemExit):
        predict(run, "--input", stack, "--out", tmp_path / "out", "--min_area", 3)  # of no objects
    predict(run, "--input", stack, "--out", tmp_path / "out", "--instances", method, "--min_area", 3)
    with tifffile.TiffFile(tmp_path / "out/instances/s.tif") as tiff, tifffile.TiffFile(stack) as source:
        assert (tiff.is_ome, tiff.is_imagej) == (source.is_ome, source.is_imagej)
        assert source.series[0].axes == "ZCYX" and tiff.series[0].axes == "ZYX"
        assert tiff.series[0].shape == (5, 40, 48) and tiff.series[0].dtype == np.uint16
        labels = tiff.asarray()
    for name in ("pred", "instances"):
        scale = read_scale(tmp_path / "out" / name / "s.tif")
        assert scale == read_scale(stack)
        assert scale.pixel_size == pytest.approx((UM, UM))
    if kind == "ome":
        assert OME.items() <= dict(scale.fields).items()

    scores, record = tifffile.imread(tmp_path / "out/pred/s.tif"), read_json(tmp_path / "out/predictions.json")
    last = 0
    for plane, plane_scores in zip(labels, scores, strict=True):  # numbers run on
        numbers = label_objects(offset_mask(plane_scores >= record["threshold"], 0), method, min_area=3)
        np.testing.assert_array_equal(plane, np.where(numbers, numbers + last, 0))
        last += numbers.max()
    assert record["instances"] == {"method": method, "min_area": 3, "objects": last} and last > 20

    rows = rows_of(tmp_path / "out/objects.csv")
    assert [int(row["label"]) for row in rows] == list(range(1, last + 1))
    rois = roifile.roiread(tmp_path / "out/rois.zip")
    assert len(rois) == last == len(np.unique(labels)) - 1
    values = tifffile.imread(stack)
    for row, roi in zip(rows, rois, strict=True):
        plane = int(row["plane"])
        (region,) = regionprops(np.where(labels[plane] == int(row["label"]), 1, 0))
        assert float(row["area_px2"]) == region.area
        assert float(row["area_um2"]) == pytest.approx(region.area * UM**2, rel=1e-5)
        assert float(row["perimeter_um"]) == pytest.approx(region.perimeter * UM, rel=1e-5)
        assert float(row["axis_major_px"]) == pytest.approx(region.axis_major_length, rel=1e-5)
        inside = labels[plane] == int(row["label"])
        assert float(row["mean_score"]) == pytest.approx(scores[plane][inside].mean(), rel=1e-4)
        for channel in range(3):
            assert float(row[f"intensity_{channel}"]) == pytest.approx(values[plane, channel][inside].mean(), rel=1e-5)
        edge = np.zeros_like(inside)
        edge[[0, -1]] = edge[:, [0, -1]] = True
        assert row["touches_border"] == str(int((inside & edge).any()))
        assert roi.position == plane + 1
        assert polygon_area(roi.coordinates()) == binary_fill_holes(np.pad(inside, 1)).sum()
        assert (roi.top, roi.left) == (region.bbox[0], region.bbox[1])


def test_two_folders_of_one_name_are_both_kept(run, tmp_path):
    for number, day in enumerate(("mon", "tue")):
        write_stack(tmp_path / day / "cells/s.tif", number)
    predict(run, "--input", tmp_path / "mon/cells", tmp_path / "tue/cells", "--instances", "--out", tmp_path / "out")
    for folder in ("pred", "instances"):
        names = sorted(path.name for path in (tmp_path / "out" / folder).iterdir())
        assert names == ["mon__cells__s.tif", "tue__cells__s.tif"]
    first, second = (tifffile.imread(tmp_path / "out/instances" / name) for name in names)
    assert not np.array_equal(first, second)
    counts = {str(tmp_path / "mon/cells/s.tif"): first.max(), str(tmp_path / "tue/cells/s.tif"): second.max()}
    rows = rows_of(tmp_path / "out/objects.csv")
    assert {image: sum(row["image"] == image for row in rows) for image in counts} == counts
    assert len(roifile.roiread(tmp_path / "out/rois.zip")) == sum(counts.values()) == len(rows)


def test_classes_have_objects_of_their_own_and_pixels_without_unit_no_micrometres(tmp_path):
    run = make_run(tmp_path / "run", num_classes=3, threshold=None)
    values = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, resolution=(72, 72), resolutionunit=2)
    predict(run, "--input", tmp_path / "a.tif", "--out", tmp_path / "out", "--instances")
    classes, labels = (tifffile.imread(tmp_path / "out" / kind / "a.tif") for kind in ("pred", "instances"))
    rows = rows_of(tmp_path / "out/objects.csv")
    assert len(rows) == labels.max() and (labels > 0).sum() == (classes > 0).sum()
    for row in rows:
        assert (classes[labels == int(row["label"])] == int(row["class"])).all()
    assert "mean_score" not in rows[0] and "area_um2" not in rows[0]
    networks = rows_of(tmp_path / "out/networks.csv")
    assert [row["class"] for row in networks] == ["1", "2"]
    assert [int(row["area_px2"]) for row in networks] == [(classes == 1).sum(), (classes == 2).sum()]


def test_more_objects_than_a_type_holds_are_written_with_the_next(run, tmp_path, monkeypatch):
    stack = write_stack(tmp_path / "s.tif", 0, "imagej", size=(120, 120))
    predict(run, "--input", stack, "--out", tmp_path / "out", "--instances")
    monkeypatch.setattr("evaluation.prediction.instances.DTYPES", ("uint8", DTYPES[-1]))
    predict(run, "--input", stack, "--out", tmp_path / "again", "--instances")
    usual = tifffile.imread(tmp_path / "out/instances/s.tif")
    assert usual.dtype == np.uint16 and usual.max() > 255
    with tifffile.TiffFile(tmp_path / "again/instances/s.tif") as tiff:  # ImageJ has no such type
        assert tiff.series[0].dtype == np.uint32 and tiff.is_ome and tiff.series[0].axes == "ZYX"
    assert read_scale(tmp_path / "again/instances/s.tif").pixel_size == pytest.approx((UM, UM))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "again/instances/s.tif"), usual)
    assert (tmp_path / "again/objects.csv").read_text() == (tmp_path / "out/objects.csv").read_text()


def test_a_prediction_without_objects_has_empty_tables(tmp_path):
    run = make_run(tmp_path / "run", threshold=1.0)
    write_stack(tmp_path / "s.tif", 0)
    predict(run, "--input", tmp_path / "s.tif", "--out", tmp_path / "out", "--instances")
    assert not tifffile.imread(tmp_path / "out/instances/s.tif").any()
    header = (tmp_path / "out/objects.csv").read_text().strip().split(",")
    assert header[:4] == ["image", "plane", "label", "area_px2"] and "mean_score" in header, "columns as with objects"
    assert rows_of(tmp_path / "out/objects.csv") == [] and len(rows_of(tmp_path / "out/networks.csv")) == 5
