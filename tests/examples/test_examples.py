"""The scripts of examples/ and the notebook do what they say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.array_sets import channels_of, write_array_list
from datasets.image_io import read_image, read_label
from datasets.lists import read_list
from datasets.transition_matrix import ScoreDecoder
from evaluation import export
from evaluation.prediction import Segmenter
from training.fit import fit_images
from utils.cli import UserError
from utils.files import read_json
from utils.run_folder import REPO_ROOT

TINY = {"preset": "quick", "width": 2, "crop": 32, "steps": 4, "epochs": 2, "tensorboard": False, "audit": False}


@pytest.fixture
def copy(workspace, tmp_path) -> Path:
    """A copy of the repository that a script may write into."""
    root = tmp_path / "copy"
    shutil.copytree(workspace, root)
    for name in ("examples", "docs"):
        shutil.copytree(REPO_ROOT / name, root / name)
    return root


def run_script(*command: object, cwd: Path, python: str | Path = sys.executable) -> str:
    answer = subprocess.run([str(python), *map(str, command)], cwd=cwd, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def disk_arrays(root: Path, name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    samples = read_list(root / f"txt/disks/{name}.txt", root)
    return [read_image(sample.image) for sample in samples], [read_label(sample.label) for sample in samples]


def test_scripts_are_short():
    for script in (REPO_ROOT / "examples").glob("*.py"):
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 30


def test_arrays_train_a_run_that_predicts(disks):
    images, labels = disk_arrays(disks, "train/train_gt")
    run = fit_images(images, labels, validation=disk_arrays(disks, "val"), name="mine", root=disks, seed=3, **TINY)
    card = read_json(run / "model_card.json")
    assert run.parent == disks / "train_log/mine" and "## Limits" in (run / "README.md").read_text(encoding="utf-8")
    assert card["data"]["train_images"] == 8 and 0 <= card["validation"]["iou"] <= 1
    again = fit_images(images, labels, validation=disk_arrays(disks, "val"), name="mine", root=disks, seed=3, **TINY)
    files = list((disks / "datasets/mine/arrays").glob("*.npy"))
    assert len(files) == 2 * (8 + 3)  # equal arrays are written once
    first, second = (Segmenter.load(each, device="cpu").predict(images[0]) for each in (run, again))
    assert np.array_equal(first.scores, second.scores) and first.mask.shape == images[0].shape


def test_files_and_colour_train_too(disks, rng):
    samples = read_list(disks / "txt/disks/train/train_gt.txt", disks)
    run = fit_images([each.image for each in samples], [each.label for each in samples], name="f", root=disks, **TINY)
    color = rng.integers(0, 255, (3, 40, 40, 3), np.uint8)
    labels = (color[..., 0] > 128).astype(np.uint8)
    colored = fit_images(list(color), list(labels), name="c", root=disks, **TINY)
    single = fit_images(color[:, None, :, :, 0], labels[:, None], name="s", root=disks, **TINY)
    assert Segmenter.load(single, device="cpu").settings.in_channels == 1
    assert Segmenter.load(run, device="cpu").settings.in_channels == 1
    assert Segmenter.load(colored, device="cpu").predict(color[0]).scores.shape == (40, 40)


def test_tensors_and_pictures_are_kept_as_their_files_are_read(disks, rng):
    colors = rng.integers(0, 255, (3, 40, 40, 3), np.uint8)
    pictures = [Image.fromarray(color).quantize(16) for color in colors]
    label = Image.fromarray(np.tril(np.ones((40, 40), np.uint8)))
    label.putpalette([0, 0, 0, 200, 30, 30])
    opaque = [np.concatenate([color, np.full((40, 40, 1), 255, np.uint8)], -1) for color in colors]
    learned = torch.from_numpy(colors.mean(-1)).requires_grad_()
    for images, expected in (
        (pictures, np.asarray(pictures[1].convert("RGB"))),
        (opaque, colors[1]),
        (learned, colors[1].mean(-1)),
    ):
        listed = read_list(write_array_list(images, [label] * 3, "kept", disks), root=disks)
        found = read_image(listed[1].image, channels_of(images[0]) or 1)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert np.array_equal(read_label(listed[1].require_label()), np.tril(np.ones((40, 40))))


def test_what_does_not_fit_together_is_named(disks):
    images, labels = disk_arrays(disks, "val")
    for bad, message in (
        ((images, labels[:2]), "3 images and 2 labels"),
        (([], []), "no images"),
        (([images[0][0]], [labels[0]]), r"image 0 has the shape \(64,\)"),
        (([np.stack([images[0]] * 3)], [labels[0]]), r"image 0 has the shape \(3, 64, 64\), .* \(H, W, channels\)"),
        (("folder", labels), "images: a list of arrays or files"),
        ((images, 5), "labels: a list of arrays or files"),
        (([images[0], images[1] * 1j], labels[:2]), "image 1 holds complex128 values"),
        ((images, [*labels[:2], np.full((64, 64), np.nan)]), "label 2 holds NaN or infinity in 4096 of 4096 pixels"),
        ((iter(images), labels), "images: a list of arrays .* not list_iterator"),
        ((images, [labels[0], None, labels[2]]), "label 1 is of type NoneType"),
        ((images, [np.stack([1 - each, each], -1) for each in labels]), r"label 0 .* give x\.argmax\(-1\)"),
        ((images, [np.stack([1 - each, each]) for each in labels]), r"label 0 .* give x\.argmax\(-3\)"),
        (([np.stack([each] * 3) for each in images], labels), r"image 0 .* give np\.moveaxis\(x, -3, -1\)"),
        (([np.ma.masked_less(each, 99) for each in images], labels), "image 0 has masked pixels"),
    ):
        with pytest.raises(UserError, match=message):
            fit_images(*bad, name="bad", root=disks, **TINY)
    small = [labels[0], labels[1], labels[2][:32]]
    with pytest.raises(UserError, match=r"bad/arrays/\w+\.npy \(label 2\) is 32×64, its image"):
        fit_images(images, small, name="bad", root=disks, **TINY)
    with pytest.raises(UserError, match=r"\.npy \(validation label 2\) is 32×64"):
        fit_images(images, labels, validation=(images, small), name="bad", root=disks, **TINY)
    with pytest.raises(UserError, match="a plain name is expected"):
        fit_images(images, labels, name="../outside", root=disks, **TINY)
    assert not (disks / "outside").exists()
    for given in (
        {"dataset": "er"},
        {"train_list": "mine.txt"},
        {"val_list": "val.txt", "validation": (images, labels)},
    ):
        with pytest.raises(UserError, match=f"{next(iter(given))}=.* contradicts"):
            fit_images(images, labels, name="bad", root=disks, **given, **TINY)
    with pytest.raises(UserError, match="2 validation images and 3 labels"):
        fit_images(images, labels, validation=(images[:2], labels), name="bad", root=disks, **TINY)
    for name in ("er_sim", "disks"):  # whose own validation images would choose the checkpoint
        with pytest.raises(UserError, match=f"name='{name}'.* has validation or test images"):
            fit_images(images, labels, name=name, root=disks, **TINY)
    with pytest.raises(UserError, match=r"validation: a pair of images and labels"):
        fit_images(images, labels, validation=(images, None), name="bad", root=disks, **TINY)  # pyright: ignore
    with pytest.raises(UserError, match=r"validation: a pair of images and labels"):
        fit_images(images, labels, validation=images, name="bad", root=disks, **TINY)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_the_training_script_runs(copy):
    assert "IoU 0." in run_script("examples/train_and_predict.py", cwd=copy)


@pytest.fixture
def exported(disks) -> tuple[Path, np.ndarray, np.ndarray]:
    """An ONNX file, an image as .npy, and the mask that the Segmenter gives it."""
    pytest.importorskip("onnx", reason="needs onnx")
    images, labels = disk_arrays(disks, "train/train_gt")
    run = fit_images(images, labels, name="mine", root=disks, **{**TINY, "steps": 60, "width": 4, "crop": 64})
    export.main(["--train_dir", str(run), "--to", "onnx"])
    np.save(disks / "image.npy", images[0])
    return (
        run / "export/onnx/model.onnx",
        disks / "image.npy",
        Segmenter.load(run, "best", "cpu", "fp32").predict(images[0]).mask,
    )


def check_onnx_script(exported, folder: Path, python: str | Path) -> None:
    shutil.copy(REPO_ROOT / "examples/onnx_only.py", folder)
    model, image, expected = exported
    assert "foreground" in run_script("onnx_only.py", model, image, "mask.npy", cwd=folder, python=python)
    found = np.load(folder / "mask.npy")
    assert np.mean(found != expected) < 1e-3 and 0 < found.mean() < 1


def test_the_onnx_script_gives_the_mask_of_the_segmenter(exported, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    check_onnx_script(exported, tmp_path, sys.executable)


def test_the_onnx_script_corrects_scores_for_label_noise_and_tells_what_it_leaves_out(tmp_path, rng):
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, 20, 30]) for name in ("image", "scores")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["image"], ["scores"])], "same", *[[e] for e in ends]
    )
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    decoder = ScoreDecoder(np.array([[0.7, 0.3, 0.0], [0.1, 0.8, 0.1], [0.4, 0.0, 0.6]]))
    mask = {"threshold": None, "scores_times_matrix_before": decoder.inverse.tolist(), "outlines_moved_by_pixels": 1.5}
    described = {"input": {"normalization": "zscore"}, "mask": mask}
    onnx.helper.set_model_props(model, {name: json.dumps(part) for name, part in described.items()})
    onnx.save(model, str(tmp_path / "model.onnx"))
    image = rng.normal(size=(20, 30, 3))
    image[9, 9, 0] = 1e4
    np.save(tmp_path / "image.npy", image)
    said = run_script(REPO_ROOT / "examples/onnx_only.py", "model.onnx", "image.npy", "mask.npy", cwd=tmp_path)
    scores = ((image - image.mean((0, 1))) / image.std((0, 1))).transpose(2, 0, 1)
    assert np.array_equal(np.load(tmp_path / "mask.npy"), decoder(scores).argmax(0))
    assert (decoder(scores).argmax(0) != scores.argmax(0)).any() and "moved by +1.5 pixels" in said
    assert "hot pixels" in said


@pytest.mark.slow
def test_an_environment_of_numpy_and_onnxruntime_is_enough(exported, tmp_path):
    place = tmp_path / "clean"
    venv.create(place, with_pip=True)
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [str(python), "-m", "pip", "install", "-q", "numpy", "onnxruntime"]
    answer = subprocess.run(install, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip(f"pip could not install onnxruntime: {answer.stderr[-200:]}")
    assert subprocess.run([str(python), "-c", "import torch"], capture_output=True).returncode != 0
    check_onnx_script(exported, tmp_path, python)


@pytest.mark.slow
def test_the_notebook_runs_from_ten_images_to_a_mask(copy):
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    client = pytest.importorskip("nbclient", reason="needs nbclient")
    notebook = nbformat.read(copy / "docs/quickstart.ipynb", 4)
    kept = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in kept) == 2  # as it is shown
    client.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(copy / "docs")}}).execute()
    texts = "".join(output.get("text", "") for output in notebook.cells[-2].outputs)
    assert float(texts.split("IoU ")[1].split()[0]) > 0.6
