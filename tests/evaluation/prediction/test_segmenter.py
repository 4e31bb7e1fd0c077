"""The Segmenter against the command: one run, the same images, the same scores and masks."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from datasets.image_files import ORIENTATION
from datasets.image_io import read_image, read_scores
from evaluation.inference import main
from evaluation.prediction import Prediction, Segmenter
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.cli import UserError

SIZES = {"a": (64, 64), "b": (33, 47), "c": (150, 97), "d": (64, 64)}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in SIZES.items():
        image = cv2.GaussianBlur(rng.normal(size=size), (0, 0), 4)  # masks of noise would not survive an offset
        cv2.imwrite(str(folder / f"{name}.png"), cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8))
    return [folder / f"{name}.png" for name in SIZES]


def command_maps(run: Path, files: list[Path], *options: object) -> list[tuple[np.ndarray, np.ndarray]]:
    """Map and mask (0/1, or classes) of every file, by the command."""
    out = run.parent / "out"
    main([*map(str, ("--train_dir", run, "--out", out, "--masks", *options, "--input", *files))])
    masks = [cv2.imread(str(out / f"masks/{file.stem}.png"), cv2.IMREAD_UNCHANGED) for file in files]
    return [(tifffile.imread(out / f"pred/{file.stem}.tif"), mask) for file, mask in zip(files, masks, strict=True)]


def with_offset(run: Path, offset: float) -> None:
    path = run / "checkpoints" / "best.pth"
    save_checkpoint(path, load_checkpoint(path) | {"mask_offset": offset, "threshold": 0.57})


@pytest.mark.parametrize(
    ("load", "command"),
    [
        ({}, ()),
        ({"tile": 64, "overlap": 16}, ("--tile", 64, "--overlap", 16)),
        ({"tta": True}, ("--tta",)),
        ({"pred_invert": "on"}, ("--pred_invert", "on")),
        ({"batch_size": 1}, ("--batch_size", 1)),
    ],
)
def test_scores_and_masks_are_those_of_the_command(make_run, files, load, command):
    run = make_run()
    with_offset(run, 1.5)
    segmenter = Segmenter.load(run, "best", "cpu", "fp32", **load)
    expected = command_maps(run, files, "--precision", "fp32", *command)
    for found, (scores, mask) in zip(segmenter.predict(files), expected, strict=True):
        assert found.scores.dtype == np.float32 and found.mask.dtype == np.uint8
        np.testing.assert_allclose(found.scores, scores, atol=1e-5)
        assert np.mean(found.mask * 255 != mask) < 1e-3
    assert any(0.01 < mask.mean() < 254 for _, mask in expected)


def test_an_ensemble_is_that_of_the_command(make_run, files):
    run = make_run()
    other = shutil.copytree(run, run.parent / "other")
    state = load_checkpoint(other / "checkpoints" / "best.pth")
    weights = {name: 0.9 * value if value.is_floating_point() else value for name, value in state["model"].items()}
    save_checkpoint(other / "checkpoints" / "best.pth", state | {"model": weights, "pred_invert": True})
    ((scores, _),) = command_maps(run, files[:1], "--precision", "fp32", "--ensemble", other)
    joint = Segmenter.load(run, device="cpu", precision="fp32", ensemble=[other]).predict(files[0])
    np.testing.assert_allclose(joint.scores, scores, atol=1e-5)
    assert np.abs(joint.scores - Segmenter.load(run, device="cpu").predict(files[0]).scores).max() > 0.05


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"pred_invert": "maybe"}, "auto, on, off"),
        ({"threshold": 2}, "0 to 1"),
        ({"threshold": "0.5"}, r"threshold '0\.5' must be a number"),
        ({"batch_size": 2.5}, r"batch_size 2\.5 must be a whole number"),
        ({"tile": "512"}, "tile '512' must be a whole number"),
        ({"channels": ""}, "channels: '' must be"),
        ({"precision": "int8"}, "'int8' is unknown; choose from: auto, fp32"),
        ({"precision": "bf16", "engine": "onnx"}, "--engine onnx computes in fp32: leave --precision bf16 out"),
    ],
)
def test_a_bad_setting_is_named(make_run, how, said):
    with pytest.raises(UserError, match=said):
        Segmenter.load(make_run(), device="cpu", **how)


def test_several_classes_have_scores_and_indices(make_run, files):
    run = make_run(num_classes=3)
    (classes, _), *_ = command_maps(run, files[:1], "--precision", "fp32", "--save_scores")
    found = Segmenter.load(run, device="cpu", precision="fp32").predict(files[0])
    np.testing.assert_allclose(found.scores, read_scores(run.parent / "out/scores/a.tif"), atol=1e-5)
    assert found.scores.shape == (3, 64, 64) and np.mean(found.mask != classes) < 1e-3


def test_arrays_files_batches_and_generators_agree(make_run, files):
    segmenter = Segmenter.load(make_run(), device="cpu", precision="fp32")
    images = [read_image(file) for file in files]
    expected = segmenter.predict(files)
    assert isinstance(expected, list) and all(isinstance(each, Prediction) for each in expected)
    for image, file, each in zip(images, files, expected, strict=True):
        for form in (image, file, str(file), image[..., None], image.astype(np.float64)):
            np.testing.assert_allclose(segmenter.predict(form).scores, each.scores, atol=1e-5)
    stacked = segmenter.predict(np.stack([images[0], images[3]]))
    assert len(stacked) == 2
    np.testing.assert_allclose(stacked[1].scores, expected[3].scores, atol=1e-5)
    streamed = segmenter.predict(image for image in images)
    assert not isinstance(streamed, list)
    for found, each in zip(streamed, expected, strict=True):
        np.testing.assert_allclose(found.scores, each.scores, atol=1e-5)
    assert segmenter.predict([]) == []


def test_a_generator_may_fill_one_array_again_and_again(make_run, rng):
    segmenter, camera, images = Segmenter.load(make_run(), device="cpu"), np.empty((32, 32)), rng.random((6, 32, 32))

    def frames():
        for image in images:
            camera[:] = image
            yield camera

    found = [each.scores for each in segmenter.predict(frames())]
    assert np.array_equal(found, [each.scores for each in segmenter.predict(images)])


def test_colour_is_read_as_grey_and_planes_count_as_images(make_run, tmp_path, rng):
    segmenter = Segmenter.load(make_run(), device="cpu", precision="fp32")
    color = rng.integers(0, 255, (40, 40, 3), np.uint8)
    tifffile.imwrite(tmp_path / "color.tif", color, photometric="rgb")
    np.testing.assert_allclose(
        segmenter.predict(color).scores, segmenter.predict(tmp_path / "color.tif").scores, atol=1e-5
    )
    stack = rng.integers(0, 9999, (3, 40, 41), np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    planes = segmenter.predict(tmp_path / "stack.tif")
    assert len(planes) == 3
    np.testing.assert_allclose(planes[2].scores, segmenter.predict(stack)[2].scores, atol=1e-5)
    np.testing.assert_allclose(segmenter.predict(f"{tmp_path}/stack.tif::2").scores, planes[2].scores, atol=1e-5)
    with pytest.raises(UserError, match=r"stack\.tif has no plane 3"):
        segmenter.predict(f"{tmp_path}/stack.tif::3")


def test_channels_that_stand_first_are_found_as_in_files(make_run, tmp_path, rng):
    segmenter = Segmenter.load(make_run(in_channels=3), device="cpu", precision="fp32")
    composite = rng.integers(0, 9999, (3, 40, 41), np.uint16)
    np.save(tmp_path / "7.npy", composite)
    expected = segmenter.predict(tmp_path / "7.npy").scores
    for one in (composite, np.moveaxis(composite, 0, -1)):
        np.testing.assert_allclose(segmenter.predict(one).scores, expected, atol=1e-5)
        for several in (np.stack([one, one]), [one, one], (each for each in (one, one))):
            found = list(segmenter.predict(several))
            assert len(found) == 2
            np.testing.assert_allclose(found[1].scores, expected, atol=1e-5)
    grey = Segmenter.load(make_run(), device="cpu", precision="fp32")
    assert len(grey.predict(composite)) == 3 and len(grey.predict(composite[:, None])) == 3
    np.testing.assert_allclose(
        segmenter.predict(composite[0][..., None]).scores, segmenter.predict(composite[0]).scores, atol=1e-5
    )
    two = Segmenter.load(make_run(in_channels=2), device="cpu", precision="fp32")
    for value in (composite, composite[0]):  # grey stands for colours, not for any two channels
        with pytest.raises(UserError, match=rf"the shape {re.escape(str(value.shape))}, expected is \(H, W, 2\)"):
            two.predict(value)
    chosen = two.predict(composite[[2, 0]]).scores
    tifffile.imwrite(tmp_path / "7.tif", composite, imagej=True, metadata={"axes": "CYX"})
    for channels in ((2, 0), "2,0", ["2", "0"]):
        some = Segmenter.load(make_run(in_channels=2), device="cpu", precision="fp32", channels=channels)
        np.testing.assert_allclose(some.predict(tmp_path / "7.tif").scores, chosen, atol=1e-5)
        for value in (composite, np.moveaxis(composite, 0, -1)):  # not just the first two
            with pytest.raises(UserError, match=r"of 3 channels, give .*\[\.\.\., \[2, 0\]\]$"):
                some.predict(value)
    single = Segmenter.load(make_run(channels=["1"]), device="cpu", precision="fp32")
    with pytest.raises(UserError, match=r"expected is \(H, W\): of 3 channels, give x\[\.\.\., 1\]$"):
        single.predict(np.moveaxis(composite, 0, -1))  # not the luminance of all three
    with pytest.raises(UserError, match=r"the shape \(40, 41, 2\)"):
        grey.predict(np.moveaxis(composite[:2], 0, -1))  # they are no 40 images of two columns


@pytest.mark.parametrize(
    ("channels", "shape", "is_listed", "remedies"),
    [
        (1, (2, 3, 40, 33), False, {"np.moveaxis(x, -3, -1)": 2, "x.reshape(-1, *x.shape[-2:])": 6}),
        (1, (2, 4, 40, 33), False, {"np.moveaxis(x, -3, -1)": 2}),
        (1, (2, 5, 40, 33), False, {"np.moveaxis(x, -3, -1)[..., 0]": 2, "x.reshape(-1, *x.shape[-2:])": 10}),
        (1, (40, 33, 2), False, {"x[..., 0]": 1}),
        (1, (3, 40, 33), True, {"np.moveaxis(x, -3, -1)": 1}),
        (1, (20, 40, 33), True, {"[*x]": 20}),
        (1, (2, 40, 33, 3), True, {"[*x]": 2}),
        (1, (9, 8, 7), False, {"[*x]": 9}),
        (3, (4, 40, 33), True, {"np.moveaxis(x, -3, -1)": 1}),
        (3, (2, 5, 40, 33), False, {"np.moveaxis(x, -3, -1)[..., [0, 1, 2]]": 2}),
        (2, (40, 33, 3), False, {"x[..., [0, 1]]": 1}),
        (2, (3, 40, 33), False, {"np.moveaxis(x, -3, -1)[..., [0, 1]]": 1}),
        (2, (20, 40, 33), False, {}),
        (2, (40, 33), False, {}),
        (3, (40, 33, 2), False, {}),
    ],
)
def test_a_shape_that_does_not_fit_is_told_with_what_does(make_run, rng, channels, shape, is_listed, remedies):
    segmenter = Segmenter.load(make_run(in_channels=channels), device="cpu", precision="fp32")
    x = rng.integers(0, 255, shape, np.uint8)
    single = shape if is_listed or x.ndim < 4 else shape[1:]
    with pytest.raises(UserError, match=re.escape(f"the shape {single}, expected is (H, W")) as told:
        segmenter.predict([x] if is_listed else x)
    assert bool(remedies) == ("give" in str(told.value))
    for remedy, count in remedies.items():
        assert remedy in str(told.value)
        found = segmenter.predict(eval(remedy, {"np": np, "x": x}))
        assert (len(found) if isinstance(found, list) else 1) == count


def test_what_libraries_call_an_image_is_read_as_its_file(make_run, tmp_path, rng):
    segmenter = Segmenter.load(make_run(), device="cpu", precision="fp32")
    color = Image.fromarray(rng.integers(0, 255, (40, 33, 3), np.uint8))
    exif = color.getexif()
    exif[ORIENTATION] = 6
    color.save(tmp_path / "turned.png", exif=exif)
    color.quantize(16).save(tmp_path / "palette.png")
    color.convert("LA").save(tmp_path / "alpha.png")
    for name in ("turned.png", "palette.png", "alpha.png"):
        expected = segmenter.predict(tmp_path / name).scores
        for given in (Image.open(tmp_path / name), [Image.open(tmp_path / name)], iter([Image.open(tmp_path / name)])):
            found = segmenter.predict(given)
            found = found if isinstance(found, Prediction) else next(iter(found))
            np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    grey = rng.integers(0, 200, (40, 33), np.uint8)
    expected = segmenter.predict(grey).scores
    learned = torch.from_numpy(grey).float().requires_grad_()
    ragged = np.array([grey, grey[:20]], object)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    listed = np.array([str(tmp_path / "grey.png")] * 2)
    for form in (learned, learned.bfloat16(), [learned], ragged, listed):
        found = segmenter.predict(form)
        found = found if isinstance(found, Prediction) else found[0]
        np.testing.assert_allclose(found.scores, expected, atol=1e-5)


def test_the_byte_order_of_an_array_does_not_matter(make_run, rng):
    segmenter = Segmenter.load(make_run(normalization="unit"), device="cpu", precision="fp32")
    image = rng.integers(0, 65535, (40, 33), np.uint16)
    np.testing.assert_array_equal(segmenter.predict(image.astype(">u2")).scores, segmenter.predict(image).scores)


@pytest.mark.parametrize("offset", [0.0, 2.0])  # it belongs to the run's own threshold
def test_the_threshold_can_be_given(make_run, files, offset):
    run = make_run()
    with_offset(run, offset)
    scores = Segmenter.load(run, device="cpu", precision="fp32").predict(files[0]).scores
    for threshold in (0.2, 0.7):
        found = Segmenter.load(run, device="cpu", precision="fp32", threshold=threshold).predict(files[0])
        assert np.array_equal(found.mask, scores >= threshold)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((20, 20), np.nan), "NaN"),
        (np.zeros((20, 20, 20, 20, 20)), "shape"),
        (np.zeros((0, 20)), "shape"),
        ("nowhere.png", "nowhere.png"),
        (7, "int"),
        (".", r"is a folder: give its files, sorted\(Path\('\.'\)\.iterdir\(\)\)"),
        (b"", "bytes: give the path"),
        ({"a": np.zeros((20, 20))}, r"dict: give list\(x.values\(\)\)"),
        ([None], "image 0 is of type NoneType"),
        ([[[1, 2], [3]]], "different lengths"),
        (np.ma.masked_greater(np.arange(400.0).reshape(20, 20), 7), "masked pixels"),
    ],
)
def test_what_is_no_image_is_named(make_run, value, message):
    with pytest.raises(UserError, match=message):
        Segmenter.load(make_run(), device="cpu").predict(value)


def test_settings_that_do_not_fit_are_named(make_run):
    run = make_run()
    with pytest.raises(UserError, match="is a part of a run: give the run, .*run, "):
        Segmenter.load(run / "checkpoints" / "best.pth")
    with pytest.raises(UserError, match="checkpoint '7'"):
        Segmenter.load(run, 7)
    with pytest.raises(UserError, match="overlap"):
        Segmenter.load(run, tile=64, overlap=40)
    with pytest.raises(UserError, match="tile, 0"):
        Segmenter.load(run, tile=0, overlap=0)
    with pytest.raises(UserError, match="batch_size -1"):
        Segmenter.load(run, batch_size=-1)
    with pytest.raises(UserError, match="two classes"):
        Segmenter.load(make_run(num_classes=3), threshold=0.3)
    with pytest.raises(UserError, match="export.py"):
        Segmenter.load(run, device="cpu", engine="onnx")
