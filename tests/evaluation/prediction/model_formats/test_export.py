"""Exports against the network they were made of: any image size, inversion, the command's maps, refusals, cards."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
import torch

from datasets.image_io import read_label
from evaluation import export, inference
from evaluation.prediction import Prediction, Segmenter, load_network
from evaluation.prediction.engines import compile_openvino
from evaluation.prediction.model_card import card_text, make_card, validation_figures
from evaluation.prediction.model_formats.graph import largest_difference
from evaluation.prediction.model_formats.model_zoo import example_image
from evaluation.prediction.model_formats.openvino_models import calibration_images, check_gate, validation_samples
from evaluation.prediction.model_formats.trained import TrainedModel
from evaluation.prediction.settings import MapSettings
from models import build_network, to_scores
from utils import device
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.cli import UserError
from utils.files import read_json, write_json

SIZES = [(17, 16), (300, 340), (65, 64), (64, 65), (65, 65), (1, 5)]  # one more than a tile, and less than a stride
TOLERANCE = 1e-4
SMALL = {
    "unet": {"width": 4, "init": "kaiming"},
    "lightunet": {"width": 4, "init": "kaiming", "local_contrast": 16},
    "hrnet": {"width": 4, "stem_stride": 4},
    "deeplabv3plus": {},
    "unet_resnet18": {"norm": "group"},
}


def export_to(run: Path, to: str, *options: object) -> Path:
    export.main([*map(str, ("--train_dir", run, "--to", to, *options))])
    return run / "export" / to


def images_of(size: tuple[int, int], channels: int = 1) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, channels, *size)).astype(np.float32)


def model_of(run: Path, state: dict, **given: str) -> TrainedModel:
    return TrainedModel(torch.nn.Identity(), MapSettings(), run, run / "checkpoints/best.pth", state, **given)


def torch_scores(run: Path, images: np.ndarray) -> np.ndarray:
    network, _, _ = load_network(run)
    with torch.inference_mode():
        return to_scores(network(torch.from_numpy(images))).numpy()


def bright_disks(run: Path, spread: float) -> None:
    """Make the run's U-Net call bright pixels foreground by its first channel; its second is ``spread`` times that."""
    path = run / "checkpoints/best.pth"
    state = load_checkpoint(path)
    network = build_network("unet", width=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.weight.fill_(1)
        for conv in (network.down[0][0], network.down[0][3], network.up[-1].convs[0], network.up[-1].convs[3]):
            conv.weight[0, 0, 1, 1] = 1  # the middle of the kernel: pixels pass as they are
        network.down[0][0].weight[1, 0, 1, 1] = spread
        network.down[0][3].weight[1, 1, 1, 1] = 1
        network.head.weight[0, 0], network.head.bias[0] = 10, -5
    save_checkpoint(path, state | {"model": network.state_dict()})


@pytest.mark.parametrize("invert", [False, True])
def test_onnx_gives_the_scores_of_torch_at_any_size(make_run, invert):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnx", reason="needs onnx")
    run = make_run(invert=invert)
    session = onnxruntime.InferenceSession(export_to(run, "onnx") / "model.onnx")
    for size in SIZES:
        images = images_of(size)
        expected = torch_scores(run, images)
        (found,) = session.run(["scores"], {"image": images})
        assert found.shape == expected.shape and np.ptp(expected) > 0.05
        np.testing.assert_allclose(found, 1 - expected if invert else expected, atol=TOLERANCE)
    described = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    assert described["mask"]["threshold"] == 0.4
    assert described["output"]["inversion"] == ("done in the graph" if invert else "none")


@pytest.mark.slow
@pytest.mark.parametrize("network", [name for name in SMALL if name != "unet"])
def test_every_network_can_be_exported(make_run, network):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    run = make_run(network=network, network_options=SMALL[network], in_channels=3, num_classes=4)
    session = onnxruntime.InferenceSession(export_to(run, "onnx") / "model.onnx")
    for size in SIZES:
        images = images_of(size, channels=3)
        (found,) = session.run(["scores"], {"image": images})
        np.testing.assert_allclose(found, torch_scores(run, images), atol=TOLERANCE)


def test_torchscript_and_safetensors_hold_the_network(make_run):
    safetensors = pytest.importorskip("safetensors", reason="needs safetensors")
    run = make_run(invert=True)
    traced = torch.jit.load(str(export_to(run, "torchscript") / "model.pt"))
    for size in SIZES:
        images = images_of(size)
        found = traced(torch.from_numpy(images)).detach()
        np.testing.assert_allclose(found, 1 - torch_scores(run, images), atol=TOLERANCE)
    with safetensors.safe_open(export_to(run, "safetensors") / "model.safetensors", "pt") as file:
        how, output = (json.loads(file.metadata()[name]) for name in ("build_network", "output"))
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    network = build_network(how["network"], how["in_channels"], how["num_classes"], **how["network_options"]).eval()
    network.load_state_dict(weights)
    images = images_of((33, 47))
    with torch.inference_mode():
        found = to_scores(network(torch.from_numpy(images)))
    np.testing.assert_allclose(found, torch_scores(run, images), atol=1e-5)
    assert (output["name"], output["inversion"]) == ("logits", "take 1 − score") and "sigmoid" in output["type"]


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_an_engine_writes_the_maps_of_torch(make_run, tmp_path, engine):
    pytest.importorskip("onnxruntime" if engine == "onnx" else engine, reason=f"needs {engine}")
    run = make_run(invert=True)
    export_to(run, engine)
    image = np.random.default_rng(0).integers(0, 60000, (65, 64), np.uint16)
    tifffile.imwrite(tmp_path / "odd.tif", image)
    listed = ["--train_dir", str(run), "--precision", "fp32", "--tile", "64", "--overlap", "16", "--masks"]
    outs = {name: tmp_path / name for name in ("torch", engine)}
    for name, out in outs.items():
        inference.main([*listed, "--engine", name, "--out", str(out), "--input", str(tmp_path / "odd.tif")])
    maps = [tifffile.imread(out / "pred/odd.tif") for out in outs.values()]
    np.testing.assert_allclose(*maps, atol=TOLERANCE)
    names = [sorted(path.relative_to(out).as_posix() for path in out.rglob("*.[tpj]*")) for out in outs.values()]
    assert names[0] == names[1] and "masks/odd.png" in names[0]
    records = [read_json(out / "predictions.json") for out in outs.values()]
    assert [record["engine"] for record in records] == ["torch", engine]
    assert all(record["inverted"] and record["precision"] == "fp32" for record in records)
    segmenter = Segmenter.load(run, device="cpu", precision="fp32", engine=engine)
    by_hand = pickle.loads(pickle.dumps(segmenter)).predict(image)  # as a pool of processes has it
    expected = Segmenter.load(run, device="cpu", precision="fp32").predict(image)
    np.testing.assert_allclose(by_hand.scores, expected.scores, atol=TOLERANCE)
    joint = Segmenter.load(
        run, device="cpu", precision="fp32", engine=engine, ensemble=[shutil.copytree(run, f"{run}2")]
    )
    same = pickle.loads(pickle.dumps(joint)).predict(image)
    np.testing.assert_allclose(same.scores, joint.predict(image).scores, atol=TOLERANCE)


def test_openvino_computes_in_several_threads_at_once():
    openvino = pytest.importorskip("openvino", reason="needs openvino")
    image = openvino.opset13.parameter([1, 1, -1, -1], np.float32)
    compute = compile_openvino(openvino.Model([openvino.opset13.sqrt(image)], [image]), "fp32")
    images = [np.full((1, 1, 400, 400), number, np.float32) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(compute, images))
    assert all(np.array_equal(scores, np.sqrt(image)) for scores, image in zip(found, images, strict=True))


def test_engines_compute_on_the_processor_where_there_is_a_gpu(make_run, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    run = make_run()
    export_to(run, "onnx")
    monkeypatch.setattr(device, "accelerator", lambda: "cuda")
    segmenter = Segmenter.load(run, engine="onnx")
    assert segmenter.predictor.device.type == "cpu"
    assert isinstance(segmenter.predict(np.zeros((20, 30))), Prediction)
    with pytest.raises(UserError, match="--engine onnx computes on the processor"):
        Segmenter.load(run, device="cuda", engine="onnx")


def test_an_export_of_another_checkpoint_is_not_used(make_run):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    run = make_run()
    export_to(run, "onnx")
    state = load_checkpoint(run / "checkpoints/best.pth")
    save_checkpoint(run / "checkpoints/last.pth", state | {"epoch": 3})
    with pytest.raises(UserError, match="--to onnx --test_ckpt_epoch last"):
        Segmenter.load(run, "last", device="cpu", engine="onnx")
    export_to(run, "onnx", "--test_ckpt_epoch", "last")
    Segmenter.load(run, "last", device="cpu", engine="onnx")


@pytest.mark.parametrize("are_known", [True, False])
def test_an_export_that_is_damaged_is_one_message(make_run, are_known):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    run = make_run()
    export_to(run, "onnx")
    folder = run / "export/onnx"
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    if not are_known:  # as earlier versions wrote them, which noted no content of files
        card = read_json(folder / "model_card.json")
        del card["export"]["files"]
        write_json(folder / "model_card.json", card)
        content = content[: len(content) // 2]
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx (is gone or|cannot be loaded).*make it with: python"):
        Segmenter.load(run, device="cpu", engine="onnx")


def test_a_missing_package_is_one_message_with_the_line_to_type(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"--to onnx needs the package onnx.*pip install -r requirements-export.txt"):
        export_to(make_run(), "onnx")


def test_an_export_that_differs_is_not_written(make_run, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from evaluation.prediction.model_formats import graph

    run = make_run()
    kept = (export_to(run, "onnx") / "model.onnx").read_bytes()
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match=r"differ from torch's by"):
        export_to(run, "onnx")
    assert (run / "export/onnx/model.onnx").read_bytes() == kept


def test_an_export_whose_scores_are_not_finite_is_not_written(make_run):
    run = make_run()
    network, _, _ = load_network(run)
    model = replace(model_of(run, load_checkpoint(run / "checkpoints/best.pth")), network=network)
    with pytest.raises(UserError, match="--to onnx: its scores differ from torch's by nan"):
        largest_difference(model, lambda images: np.full_like(images, np.nan), "--to onnx")


def test_the_card_says_what_the_run_is(make_run):
    noisy = {"label_noise": "flip:0.3", "val_labels": "noisy", "val_is_one_field": True}
    run = make_run(train_images=8, train_fields=2, val_images=3, **noisy)
    wide = {"kind": "at boundaries", "what": "wider", "size": 2.0, "unit": "px"}
    write_json(run / "audit.json", {"verdict": "biased at boundaries", "predicted_iou": 0.7, "bias": [wide]})
    folder = export_to(run, "torchscript", "--authors", "A. Person", "--license", "CC-BY-4.0")
    card, text = read_json(folder / "model_card.json"), (folder / "README.md").read_text()
    limits = (
        "parts of 2 fields of view",
        "biased at boundaries: wider by 2.0 px",
        "crops of one field",
        "noisy too",
        "noise, flip:0.3",
    )
    figures = ("predicted IoU 0.70", "8 training", "threshold | 0.4", "aaai.v36i2.20085")
    for said in (*limits, *figures, "A. Person", "CC-BY-4.0"):
        assert said in text
    assert card["export"]["format"] == "torchscript" and card["validation"]["iou"] is None
    assert card["data"]["train_list"] == "train_gt.txt" and str(run.parents[2]) not in json.dumps(card)
    text = (export_to(run, "torchscript") / "README.md").read_text()
    assert text.count("**missing**") == 2


def test_the_card_tells_of_first_weights_annotators_and_classes(make_run):
    run = make_run(init_from="/lab/train_log/er/first", annotators=3, fusion="vote", method="coteaching", num_classes=3)
    write_json(run / "audit.json", {"verdict": "unknown"})
    text = card_text(make_card(run, load_checkpoint(run / "checkpoints/best.pth")))
    for said in (
        "and, before, those of the run er/first;",
        "up to 3 an image, labels fused by vote",
        "method | coteaching",
        "validation mean IoU",
        "could not tell whether the training labels are right",
    ):
        assert said in text
    assert "/lab" not in text and " alone" not in text
    plain = load_checkpoint(make_run() / "checkpoints/best.pth")
    assert "annotators" not in card_text(make_card(run, plain))
    assert "| threshold | 0.5 |" in card_text(make_card(run, plain | {"threshold": None}))  # at which masks are made


FLIP, TURN = [[0.7, 0.3], [0.1, 0.9]], [[0.2, 0.8], [0.9, 0.1]]
SWAP = [[0.4, 0.6, 0.0], [0.6, 0.4, 0.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("config", "invert", "said"),
    [
        ({}, False, []),
        ({"labels": {"matrix": [[1.0, 0.0], [0.0, 1.0]]}, "score_matrix": [[1.0, 0.0], [0.0, 1.0]]}, False, []),
        ({"labels": {"matrix": FLIP}}, False, []),  # of runs before, which do not tell how they learned
        (
            {"labels": {"matrix": FLIP}, "score_matrix": FLIP},
            False,
            ["0.3 the truth is surely background, at 0.9 surely"],
        ),
        (
            {"labels": {"matrix": TURN}, "score_matrix": TURN},
            True,
            ["0.2 the truth is surely background, at 0.9 surely"],
        ),
        (
            {"labels": {"matrix": FLIP}, "score_matrix": [[1.0, 0.0], [0.0, 1.0]]},
            False,
            ["| probabilities of the truth"],
        ),
        (
            {"labels": {"matrix": SWAP}, "score_matrix": SWAP, "decode_matrix": SWAP, "num_classes": 3},
            False,
            ["| probabilities of the noisy labels, not of the truth |", "not in the export", "as a row, by the matrix"],
        ),
    ],
)
def test_the_card_says_what_scores_mean_where_label_noise_is_known(make_run, config, invert, said):
    run = make_run(invert=invert, **config)
    text = (export_to(run, "safetensors") / "README.md").read_text()
    assert [line in text for line in said] == [True] * len(said)
    assert bool(said) == ("| scores |" in text) and ("| masks |" in text) == ("decode_matrix" in config)
    assert "not in the export" not in card_text(make_card(run, load_checkpoint(run / "checkpoints/best.pth")))


@pytest.mark.parametrize(("num_classes", "expected"), [(1, 0.5), (2, 0.7)])
def test_the_card_states_the_metric_that_training_chose_by(num_classes, expected):
    table = np.array([[9, 1], [0, 1]])  # IoU of the background 0.9, of the foreground 0.5
    checkpoint = {"epoch": 2, "best": {"epoch": 2, "tables": [table] * 3}, "config": {"num_classes": num_classes}}
    assert validation_figures(checkpoint)["iou"] == pytest.approx(expected)


def test_a_full_disk_is_named_before_anything_is_written(make_run, monkeypatch):
    run = make_run()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="No space left") as failure:
        export_to(run, "safetensors")
    assert failure.value.filename.endswith("export/safetensors") and not (run / "export").exists()


def test_the_gate_refuses_what_int8_hurts():
    check_gate({"fp32": 0.9, "int8": 0.8985}, 20)
    check_gate({"fp32": 0.9, "int8": 0.95}, 20)
    for int8 in (0.897, float("nan")):
        with pytest.raises(UserError, match=rf"{int8:.4f}.*0.9000"):
            check_gate({"fp32": 0.9, "int8": int8}, 20)
    for nothing in (0.0, float("nan")):  # labels without foreground
        with pytest.raises(UserError, match=r"on 1 validation image fp32 .*cannot show what int8 costs"):
            check_gate({"fp32": nothing, "int8": nothing}, 1)


def test_labels_that_int8_is_judged_by_are_checked_and_read_as_the_run_read_them(make_run, disks):
    meaning = {"num_classes": 1, "ignore_index": None, "label_map": None, "cut": 127.5, "objects": False}
    run = make_run(label_reading=meaning)
    model = model_of(run, load_checkpoint(run / "checkpoints/best.pth"))
    label = disks / "datasets/disks/val/labels/1.png"
    mask = cv2.imread(str(label), cv2.IMREAD_GRAYSCALE)
    for path in label.parent.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) // 255)  # not 0 and 255, as in training
    sample = validation_samples(model)[1]
    np.testing.assert_array_equal(read_label(label, reading=sample.reading), mask > 0)
    cv2.imwrite(str(label), mask[:60] // 255)
    with pytest.raises(UserError, match=r"val\.txt:2: label .*1\.png is 60×64, its image 64×64"):
        validation_samples(model)


def test_a_package_shows_an_image_of_the_list_that_is_given(make_run, tmp_path, rng):
    """The run's own lists may be gone."""
    image = rng.integers(0, 255, (40, 300), np.uint8)
    cv2.imwrite(str(tmp_path / "other.png"), image)
    (tmp_path / "mine.txt").write_text("other.png\n")
    state = load_checkpoint(make_run(val_list="gone.txt") / "checkpoints/best.pth")
    model = model_of(tmp_path, state, val_list=str(tmp_path / "mine.txt"))
    np.testing.assert_array_equal(example_image(model), image[:, 22:278])


@pytest.mark.parametrize(
    ("read", "option", "own"),
    [
        (calibration_images, "train_list", "train_list"),
        (validation_samples, "val_list", "val_list"),
        (example_image, "val_list", "train_list"),
    ],
)
def test_an_export_says_what_gives_other_images_where_the_runs_own_are_gone(make_run, disks, read, option, own):
    lists = {"train_list": disks / "txt/disks/train/train_gt.txt", "val_list": disks / "txt/disks/val.txt"}
    moved = {"val_list": None} if own != option else {}
    run = make_run(**(moved | {own: "/elsewhere/list.txt"}))
    state = load_checkpoint(run / "checkpoints/best.pth")
    with pytest.raises(UserError, match=rf"(?s)^--to .* no list '/elsewhere/list.txt'.*\n.*: --{option} LIST$"):
        read(model_of(run, state))
    assert len(read(model_of(run, state, **{option: str(lists[option])})))
    away = load_checkpoint(make_run(**moved, data_root="/elsewhere") / "checkpoints/best.pth")
    with pytest.raises(UserError, match=r"/elsewhere is not a directory.*give --data_root DIR"):
        read(model_of(run, away))
    assert len(read(model_of(run, away, data_root=str(disks))))
    shutil.rmtree(disks / "datasets")
    with pytest.raises(UserError, match=rf"(?s)png does not exist.*--data_root.*--{option} LIST$"):
        read(model_of(run, away, data_root=str(disks)))


@pytest.mark.parametrize(
    ("to", "option", "readers"),
    [
        ("onnx", "val_list", "--to openvino-int8 and --to bioimageio"),
        ("safetensors", "data_root", "--to openvino-int8 and --to bioimageio"),
        ("bioimageio", "train_list", "--to openvino-int8"),
    ],
)
def test_an_option_that_a_format_does_not_read_is_refused(make_run, to, option, readers):
    run = make_run()
    with pytest.raises(UserError, match=rf"^--{option} mine does nothing with --to {to}: .* it is for {readers}$"):
        export_to(run, to, f"--{option}", "mine")
    assert not (run / "export").exists()


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["zscore", "unit", "local"])
def test_the_model_zoo_takes_the_package(make_run, normalization):
    """`write_package` passes it to the zoo's own test, which compares the test tensors."""
    pytest.importorskip("bioimageio.core", reason="needs bioimageio.core")
    if metadata.version("pydantic") >= "2.13":
        pytest.skip("this pydantic cannot write packages: see requirements-export.txt")
    run = make_run(normalization=normalization, invert=True)
    folder = export_to(run, "bioimageio", "--authors", "A. Person", "--license", "CC-BY-4.0")
    assert read_json(folder / "model_card.json")["export"]["checked"]["bioimageio_test"] == "passed"
    with zipfile.ZipFile(folder / "model.zip") as package:
        assert {"cover.png", "test_input.npy", "test_output.npy", "model.onnx"} <= set(package.namelist())
        described, documented = package.read("rdf.yaml").decode(), package.read("documentation.md").decode()
    assert ("the package does this by itself" in documented) == (normalization != "local")
    assert "A. Person" in described and "CC-BY-4.0" in described
    with pytest.raises(UserError, match="'mine' is no SPDX identifier"):
        export_to(run, "bioimageio", "--license", "mine")


@pytest.mark.slow
def test_int8_is_written_where_it_costs_nothing_and_refused_where_it_does(make_run):
    """A channel 3000 times as large leaves the one that tells foreground from background no step of 8 bits."""
    pytest.importorskip("nncf", reason="needs nncf")
    pytest.importorskip("openvino", reason="needs openvino")
    run = make_run()
    bright_disks(run, spread=1.0)
    folder = export_to(run, "openvino-int8")
    reached = read_json(folder / "model_card.json")["export"]["checked"]["validation_iou"]
    assert reached["fp32"] > 0.8 and reached["fp32"] - reached["int8"] <= 0.002
    Segmenter.load(run, device="cpu", engine="openvino-int8").predict(np.zeros((65, 40), np.uint8))
    bright_disks(run, spread=3000.0)
    before = (folder / "model.bin").read_bytes()
    with pytest.raises(UserError, match=r"refused: on 3 validation images int8 reaches an IoU of 0\.\d+, fp32 0\.\d+"):
        export_to(run, "openvino-int8")
    assert (folder / "model.bin").read_bytes() == before
