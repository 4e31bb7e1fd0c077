"""Stacks from training to metrics: plane by plane in lists, whole with ``--input``, their axes and pixel size kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from datasets.image_io import read_label, read_scores
from datasets.image_scale import read_scale
from evaluation.pages.evaluate import evaluate_maps
from evaluation.prediction.runs import predict_run
from evaluation.scores.validation import offset_mask
from training.fit import configure, fit
from utils.files import read_json

PLANES, SIZE = 5, 32
OME_SCALE = {"PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm", "PhysicalSizeZ": 0.7, "PhysicalSizeZUnit": "µm"}
IMAGEJ_SCALE = {"unit": "\\u00B5m", "spacing": 0.7, "finterval": 2.5}
TINY = {"width": 4, "epochs": 1, "repeat": 2, "crop": 32, "batch_size": 4, "device": "cpu", "workers": 0}


def disks(seed: int, planes: int = PLANES) -> tuple[np.ndarray, np.ndarray]:
    """Noisy planes with a bright disk each, and the masks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    masks = np.stack([(y - cy) ** 2 + (x - cx) ** 2 < 50 for cy, cx in rng.uniform(10, 22, (planes, 2))])
    return (50 + 100 * masks + rng.normal(0, 8, masks.shape)).clip(0, 255).astype(np.uint8), masks


def write_ome(path: Path, seed: int) -> Path:
    """Three channels of which the second shows the disks, as OME-TIFF; its labels beside it."""
    image, masks = disks(seed)
    channels = np.stack([np.full_like(image, 9), image, 255 - image], axis=1)
    metadata = {"axes": "ZCYX", "Channel": {"Name": ["BF", "GFP", "DAPI"]}, **OME_SCALE}
    tifffile.imwrite(path, channels, ome=True, metadata=metadata, compression="zlib")
    tifffile.imwrite(label_of(path), masks.astype(np.uint8) * 255, imagej=True, metadata={"axes": "ZYX"})
    return path


def write_imagej(path: Path, seed: int) -> Path:
    """A grey series of two points in time with five slices, as ImageJ writes it; its labels beside it."""
    image, masks = disks(seed, 2 * PLANES)
    how = {"imagej": True, "resolution": (5.0, 5.0), "resolutionunit": 1}
    shape, axes = (2, PLANES, SIZE, SIZE), {"axes": "TZYX"}
    tifffile.imwrite(path, image.reshape(shape), metadata={**axes, **IMAGEJ_SCALE}, **how)
    tifffile.imwrite(label_of(path), masks.reshape(shape).astype(np.uint8), imagej=True, metadata=axes)
    return path


def label_of(image: Path) -> Path:
    return image.with_name(f"{image.stem}_label.tif")


def write_list(path: Path, images: list[Path], planes: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{im}::{n}\t{label_of(im)}::{n}\n" for im in images for n in range(planes)))
    return path


def train(root: Path, write, planes: int, **options: object) -> tuple[Path, Path]:
    """Train on one stack, validate on another; returns the run and the stack of the test list."""
    lists = root / "txt" / "stacks"
    images = [write(root / f"{name}.tif", seed) for seed, name in enumerate(("a", "b", "c"))]
    for name, image in zip(("train/train_gt", "val", "test"), images, strict=True):
        write_list(lists / f"{name}.txt", [image], planes)
    return fit(configure({**TINY, "dataset": "stacks", **options}, root), root), images[2]


@pytest.fixture(scope="module")
def ome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return train(tmp_path_factory.mktemp("ome"), write_ome, PLANES, channels=("GFP", "0"))


@pytest.fixture(scope="module")
def imagej(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return train(tmp_path_factory.mktemp("imagej"), write_imagej, 2 * PLANES)


def test_a_list_of_planes_is_trained_predicted_and_scored(ome):
    run, image = ome
    folder = predict_run(run, data_list=image.parent / "txt/stacks/test.txt", device="cpu")
    record = read_json(folder / "predictions.json")
    assert list(record["maps"]) == [f"{image}::{plane}" for plane in range(PLANES)] and record["stacks"] == {}
    assert record["maps"][f"{image}::3"] == "pred/c__p3.tif"
    summary = evaluate_maps(folder, report=False)
    assert summary["n_images"] == PLANES and not summary["images_without_map"]
    masks = np.stack([read_label(f"{label_of(image)}::{plane}") for plane in range(PLANES)])
    maps = np.stack([read_scores(folder / "pred" / f"c__p{plane}.tif") for plane in range(PLANES)])
    found = np.stack([offset_mask(plane >= summary["threshold"], summary["mask_offset"]) for plane in maps]) & (
        masks == 1
    )
    assert summary["pooled"]["sensitivity"] == pytest.approx(found.sum() / (masks == 1).sum())
    assert dict(read_scale(folder / "pred" / "c__p3.tif").fields)["PhysicalSizeX"] == 0.2


def test_an_ome_stack_becomes_one_stack_of_scores_with_its_scale(ome):
    run, image = ome
    planes = predict_run(run, data_list=image.parent / "txt/stacks/test.txt", device="cpu")
    folder = predict_run(run, inputs=[image], device="cpu", masks=True)
    assert [path.name for path in sorted((folder / "pred").iterdir())] == ["c.tif"]
    with tifffile.TiffFile(folder / "pred" / "c.tif") as tiff:
        assert tiff.is_ome and tiff.series[0].axes == "ZYX" and tiff.series[0].dtype == np.float32
        for name, value in OME_SCALE.items():
            assert f'{name}="{value}"' in tiff.ome_metadata
        scores = tiff.asarray()
    expected = [read_scores(planes / "pred" / f"c__p{plane}.tif") for plane in range(PLANES)]
    np.testing.assert_allclose(scores, np.stack(expected), atol=1e-6)
    record = read_json(folder / "predictions.json")
    assert record["maps"] == {str(image): "pred/c.tif"} and record["stacks"] == {str(image): "ZYX"}
    assert record["sizes"] == {str(image): [PLANES, SIZE, SIZE]}
    masks = tifffile.imread(folder / "masks" / "c.tif")
    expected = [255 * offset_mask(plane >= record["threshold"], record["mask_offset"]) for plane in scores]
    np.testing.assert_array_equal(masks, np.stack(expected))
    assert masks.dtype == np.uint8 and [path.name for path in (folder / "masks").iterdir()] == ["c.tif"]


def test_the_map_of_a_whole_stack_is_scored_by_a_list_of_its_planes(ome):
    run, image = ome
    test_list = image.parent / "txt/stacks/test.txt"
    by_plane = predict_run(run, data_list=test_list, device="cpu")
    by_list = evaluate_maps(by_plane, report=False)
    whole = predict_run(run, inputs=[image], device="cpu")
    by_input = evaluate_maps(whole, str(test_list))
    assert by_input["pooled"]["iou"] == pytest.approx(by_list["pooled"]["iou"])
    assert by_input["n_images"] == PLANES and not by_input["images_without_map"]
    (whole / "predictions.json").unlink()  # maps of elsewhere are matched by stem, and by the plane's number
    by_stem = evaluate_maps(whole / "pred", str(test_list), threshold=by_list["threshold"], report=False)
    without_offset = evaluate_maps(by_plane, threshold=by_list["threshold"], report=False)
    assert by_stem["pooled"]["iou"] == pytest.approx(without_offset["pooled"]["iou"])


def test_an_imagej_stack_keeps_its_axes_and_scale(imagej):
    run, image = imagej
    folder = predict_run(run, inputs=[image, image.parent / "a_label.tif"], device="cpu", masks=True)
    for kind, dtype in (("pred", np.float32), ("masks", np.uint8)):
        with tifffile.TiffFile(folder / kind / "c.tif") as tiff:
            assert tiff.is_imagej and tiff.series[0].axes == "TZYX" and tiff.series[0].dtype == dtype
            assert tiff.series[0].shape == (2, PLANES, SIZE, SIZE)
            assert {name: tiff.imagej_metadata[name] for name in IMAGEJ_SCALE} == IMAGEJ_SCALE
            assert tiff.pages.first.tags["XResolution"].value == (5, 1)
    summary = evaluate_maps(folder, str(image.parent / "txt/stacks/test.txt"), report=False)
    assert summary["n_images"] == 2 * PLANES


def test_single_images_keep_their_scale_and_tiles_too(imagej, tmp_path):
    run, image = imagej
    single = tifffile.imread(image)[0, 0]
    how = {"resolution": (5.0, 4.0), "resolutionunit": 1, "imagej": True}
    tifffile.imwrite(tmp_path / "small.tif", single, metadata={"axes": "YX", "unit": "um"}, **how)
    tifffile.imwrite(
        tmp_path / "large.ome.tif", np.tile(single, (3, 4)), ome=True, metadata={"axes": "YX", **OME_SCALE}
    )
    tifffile.imwrite(tmp_path / "plain.tif", single, resolution=(9.0, 9.0), resolutionunit=3)
    folder = predict_run(run, inputs=[tmp_path], device="cpu", tile=64, overlap=16)
    scales = {name: read_scale(folder / "pred" / f"{name}.tif") for name in ("small", "large.ome", "plain")}
    assert (scales["small"].kind, scales["small"].fields) == ("imagej", (("unit", "um"),))
    assert scales["small"].resolution == (5.0, 4.0) and scales["plain"][2:] == ((9.0, 9.0), 3)
    assert dict(scales["large.ome"].fields) == OME_SCALE
    assert read_scores(folder / "pred" / "large.ome.tif").shape == (3 * SIZE, 4 * SIZE)


def test_planes_of_a_class_map_and_its_scores_are_joined(tmp_path):
    run, image = train(tmp_path, write_ome, PLANES, channels=("1",), num_classes=3, label_map="0:0,255:2")
    folder = predict_run(run, inputs=[image], device="cpu", save_scores=True, masks=True)
    classes, scores = (tifffile.imread(folder / kind / "c.tif") for kind in ("pred", "scores"))
    assert classes.dtype == np.uint8 and classes.shape == (PLANES, SIZE, SIZE)
    assert scores.dtype == np.float32 and scores.shape == (PLANES, 3, SIZE, SIZE)
    np.testing.assert_array_equal(classes, scores.argmax(1))
    np.testing.assert_array_equal(tifffile.imread(folder / "masks" / "c.tif"), classes)
