"""A package for the BioImage Model Zoo, which Fiji (deepImageJ), ilastik and QuPath read: format 0.5, ONNX weights."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import read_image, write_image
from datasets.transforms import needs_preparation, prepare
from evaluation.prediction.engines import INPUT, OUTPUT, onnx_session
from evaluation.prediction.model_card import CITATION, card_text, make_card
from evaluation.prediction.model_formats.graph import OPSET, export_onnx, largest_difference
from evaluation.prediction.model_formats.trained import TrainedModel
from utils.cli import UserError
from utils.overlays import panels
from utils.packages import import_for

PACKAGE = "model.zip"
TEST_SIDE = 256  # pixels; larger images show their middle
MIN_SIDE = 16
MIN_NAME, MAX_NAME = 5, 128  # letters
SPEC = "bioimageio.spec.model.v0_5"
EPS = 1e-6  # that the zoo adds to deviations; ours has none
CITED_DOI = "10.1609/aaai.v36i2.20085"


def write_package(folder: Path, model: TrainedModel) -> dict[str, Any]:
    """Write ``model.zip`` with weights, test tensors, cover and card, and pass it to the zoo's own test.

    Raises:
        UserError: the test failed, or author or licence are not what the zoo takes; with its words.
    """
    spec, core, _ = import_for("--to bioimageio", SPEC, "bioimageio.core", "onnx")
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        files = Path(place)
        export_onnx(files / "model.onnx", model)
        compute = onnx_session(files / "model.onnx", "fp32", "--to bioimageio")
        difference = largest_difference(model, compute, "--to bioimageio")
        image = example_image(model)
        network_input = model.settings.scaled_rows(image)(0, image.shape[0]).numpy()[None]
        scores = compute(network_input)
        np.save(files / "test_input.npy", package_input(image, network_input, model.settings.normalization))
        np.save(files / "test_output.npy", scores)
        write_image(files / "cover.png", cover(image, scores, model))
        card = make_card(model.run, model.state) | {"export": model.describe("bioimageio")}
        (files / "documentation.md").write_text(card_text(card), encoding="utf-8")
        try:
            described = describe(spec, files, model, image.dtype)
        except ValueError as error:
            raise UserError(f"--to bioimageio: {refusal(error, model.license)}") from None
        package = import_for("--to bioimageio", "bioimageio.spec")[0].save_bioimageio_package
        path = package(described, output_path=folder / PACKAGE)
        summary = core.test_model(path)
    if summary.status != "passed":
        errors = [error.msg for detail in summary.details for error in detail.errors]
        raise UserError(f"--to bioimageio: bioimageio.core's own test failed: {'; '.join(errors)}")
    return {"bioimageio_test": summary.status, "largest_difference_to_torch": difference}


def refusal(error: ValueError, license: str | None) -> str:
    """Why the zoo's library did not take the description, in a sentence or two."""
    faults = error.errors() if hasattr(error, "errors") else []  # type: ignore[attr-defined]
    if any("license" in map(str, fault["loc"]) for fault in faults):
        return f"--license {license!r} is no SPDX identifier; CC-BY-4.0, CC0-1.0 and MIT are"
    reason = faults[0]["msg"] if faults else str(error)
    return f"the zoo does not take the description: {reason}. pip install -r requirements-export.txt has what fits"


def example_image(model: TrainedModel) -> np.ndarray:
    """The middle of the first validation image, else training image, as it is read."""
    settings, own = model.settings, model.config.get("val_list") or model.config["train_list"]
    samples, _ = model.listed_samples("val_list", "--to bioimageio shows an image of the run", own=own)
    image = read_image(samples[0].image, settings.in_channels, settings.channels)
    top, left = (max(0, (size - TEST_SIDE) // 2) for size in image.shape[:2])
    return np.ascontiguousarray(image[top : top + TEST_SIDE, left : left + TEST_SIDE])


def package_input(image: np.ndarray, network_input: np.ndarray, normalization: str) -> np.ndarray:
    """What the package takes, float32 (1, C, H, W): pixels, hot ones mended, where the zoo knows the normalization."""
    if needs_preparation(normalization):
        return network_input
    pixels = prepare(image, normalization)
    return (pixels if pixels.ndim == 3 else pixels[..., None]).transpose(2, 0, 1)[None].astype(np.float32)


def cover(image: np.ndarray, scores: np.ndarray, model: TrainedModel) -> np.ndarray:
    """Image and scores (K classes: the class map) side by side, uint8 RGB."""
    classes = model.settings.num_classes
    result = scores[0, 0] if classes == 1 else scores[0].argmax(0).astype(np.uint8)
    return panels(image, None, result, model.settings.threshold, classes)


def describe(spec: Any, files: Path, model: TrainedModel, pixels: np.dtype) -> Any:
    """The package's description, as the zoo's library checks it."""
    settings = model.settings
    channels = [spec.Identifier(f"channel{number}") for number in range(settings.in_channels)]
    names = ["foreground"] if settings.num_classes == 1 else [f"class{k}" for k in range(settings.num_classes)]
    sides = [spec.SpaceInputAxis(id=axis, size=spec.ParameterizedSize(min=MIN_SIDE, step=1)) for axis in ("y", "x")]
    same = {axis: spec.SizeReference(tensor_id=spec.TensorId(INPUT), axis_id=spec.AxisId(axis)) for axis in "yx"}
    image = spec.InputTensorDescr(
        id=spec.TensorId(INPUT),
        axes=[spec.BatchAxis(), spec.ChannelAxis(channel_names=channels), *sides],
        test_tensor=spec.FileDescr(source=files / "test_input.npy"),
        preprocessing=preprocessing(spec, settings.normalization, pixels),
    )
    scores = spec.OutputTensorDescr(
        id=spec.TensorId(OUTPUT),
        axes=[
            spec.BatchAxis(),
            spec.ChannelAxis(channel_names=[spec.Identifier(name) for name in names]),
            *(spec.SpaceOutputAxis(id=axis, size=size) for axis, size in same.items()),
        ],
        test_tensor=spec.FileDescr(source=files / "test_output.npy"),
    )
    return spec.ModelDescr(
        name=zoo_name(model.config["dataset"], model.run.name),
        description=f"Segments images of {model.config['dataset']}; threshold {settings.threshold:.4g}.",
        authors=[spec.Author(name=name) for name in model.authors],
        license=model.license,
        cite=[spec.CiteEntry(text=CITATION, doi=spec.Doi(CITED_DOI))],
        covers=[spec.FileDescr(source=files / "cover.png")],
        documentation=spec.FileDescr(source=files / "documentation.md"),
        inputs=[image],
        outputs=[scores],
        weights=spec.WeightsDescr(onnx=spec.OnnxWeightsDescr(source=files / "model.onnx", opset_version=OPSET)),
        tags=["segmentation", model.config["network"]],
    )


def zoo_name(dataset: str, run: str) -> str:
    """What the zoo calls a run: 5 to 128 letters without accents, digits and a few marks, whatever the run's name is.

    >>> zoo_name("kerne_2.0", "lauf_ä"), zoo_name("er", "a")
    ('kerne 2-0 lauf a', 'er a segmentation')
    """
    plain = unicodedata.normalize("NFKD", f"{dataset} {run}".replace("_", " "))
    plain = re.sub(r"[^A-Za-z0-9+() -]+", "-", "".join(each for each in plain if not unicodedata.combining(each)))
    return (plain if len(plain) >= MIN_NAME else f"{plain} segmentation")[:MAX_NAME]


def preprocessing(spec: Any, normalization: str, pixels: np.dtype) -> list[Any]:
    """The run's normalization in the zoo's words; hot pixels are not among them, see the card."""
    if normalization == "zscore":
        how = spec.ZeroMeanUnitVarianceKwargs(axes=[spec.AxisId("y"), spec.AxisId("x")], eps=EPS)
        return [spec.ZeroMeanUnitVarianceDescr(kwargs=how)]
    if normalization == "unit":
        largest = np.iinfo(pixels).max if pixels.kind == "u" else 1
        return [spec.ScaleLinearDescr(kwargs=spec.ScaleLinearKwargs(gain=1 / largest))]
    return []
