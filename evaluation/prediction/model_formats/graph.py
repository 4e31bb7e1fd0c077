"""Networks as graphs that take images of any size: ONNX and TorchScript; and weights alone, as safetensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.prediction.engines import INPUT, MODEL_FILES, OUTPUT, onnx_session
from evaluation.prediction.model_formats.trained import TrainedModel
from models import to_scores
from models.blocks import SegmentationNetwork
from utils.cli import UserError
from utils.packages import import_for

OPSET = 17
CHECKED_SIZES = ((17, 16), (300, 340), (129, 97))
TOLERANCE = 1e-4
DYNAMIC = {name: {0: "batch", 2: "height", 3: "width"} for name in (INPUT, OUTPUT)}


class ScoreGraph(nn.Module):
    """Network input of any size → scores, with padding, cropping and inversion as tensor operations.

    ``SegmentationNetwork.forward`` decides by sizes that are Python numbers, which a trace would freeze. Here every
    padded row and column is looked up: at its mirror image, or, where the image is too small for that, at its border.

    Args:
        network: in evaluation mode.
        invert: give 1 − score.
    """

    def __init__(self, network: SegmentationNetwork, invert: bool = False) -> None:
        super().__init__()
        self.network, self.invert = network, invert

    def forward(self, images: Tensor) -> Tensor:
        """Float32 (B, C, H, W) → scores float32 (B, K, H, W), H and W ≥ 1."""
        shape = torch._shape_as_tensor(images)
        height, width = shape[2], shape[3]
        (padded_height, top), (padded_width, left) = self._padded(height), self._padded(width)
        widest = torch.maximum(padded_height - height - top, top), torch.maximum(padded_width - width - left, left)
        fits = (widest[0] < height) & (widest[1] < width)
        rows = _places(height, padded_height, top, fits=fits)
        columns = _places(width, padded_width, left, fits=fits)
        logits = self.network.compute_logits(images.index_select(2, rows).index_select(3, columns))
        scores = to_scores(logits[:, :, top : top + height, left : left + width])
        return 1 - scores if self.invert else scores

    def _padded(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """The size that the network computes with and the pixels before the image, as `split_padding` has them."""
        stride = self.network.stride
        steps = torch.div(size + stride - 1, stride, rounding_mode="floor")
        padded = torch.clamp(steps * stride, min=2 * stride)
        return padded, torch.div(padded - size, 2, rounding_mode="floor")


def _places(size: Tensor, padded: Tensor, before: Tensor, fits: Tensor) -> Tensor:
    """Which pixel of an axis each of its padded pixels shows."""
    places, last = torch.arange(padded) - before, size - 1  # type: ignore[call-overload]
    mirrored = last - (last - places.abs()).abs()
    return torch.where(fits, mirrored, torch.minimum(places.clamp(min=0), last))


def score_graph(model: TrainedModel) -> ScoreGraph:
    """The graph of a model; UserError for a network that is no `SegmentationNetwork`."""
    if not isinstance(model.network, SegmentationNetwork):
        raise UserError(f"{type(model.network).__name__} pads its images by itself and cannot be exported")
    return ScoreGraph(model.network, model.settings.invert).eval()


def largest_difference(model: TrainedModel, compute: Callable[[np.ndarray], np.ndarray], what: str) -> float:
    """How far an export's scores lie from torch's in fp32, on images of odd sizes.

    Raises:
        UserError: further than TOLERANCE.
    """
    rng, found = np.random.default_rng(0), 0.0
    for size in CHECKED_SIZES:
        images = rng.normal(size=(2, model.settings.in_channels, *size)).astype(np.float32)
        with torch.inference_mode():
            scores = to_scores(model.network(torch.from_numpy(images))).numpy()
        expected = 1 - scores if model.settings.invert else scores
        found = float(np.maximum(found, np.abs(compute(images) - expected).max()))  # NaN stays, unlike with max
    if not found <= TOLERANCE:
        raise UserError(f"{what}: its scores differ from torch's by {found:.2g}, more than {TOLERANCE:g}: not written")
    return found


def write_onnx(folder: Path, model: TrainedModel) -> dict[str, Any]:
    """Write ``model.onnx``, with its metadata in the file."""
    (onnx,) = import_for("--to onnx", "onnx")
    path = folder / MODEL_FILES["onnx"]
    export_onnx(path, model)
    graph = onnx.load(str(path))
    interface = {name: json.dumps(part) for name, part in model.interface("onnx").items()}
    onnx.helper.set_model_props(graph, interface)
    onnx.save(graph, str(path))
    difference = largest_difference(model, onnx_session(path, "fp32", "--to onnx"), "--to onnx")
    return {"opset": OPSET, "largest_difference_to_torch": difference}


def export_onnx(path: Path, model: TrainedModel) -> None:
    """Write the graph alone."""
    with quiet():
        torch.onnx.export(
            score_graph(model),
            (example_input(model),),
            str(path),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes=DYNAMIC,
            opset_version=OPSET,
            dynamo=False,
        )


def write_torchscript(folder: Path, model: TrainedModel) -> dict[str, Any]:
    """Write ``model.pt``, with its metadata in the archive as ``interface.json``."""
    path = folder / "model.pt"
    with quiet():
        traced = torch.jit.trace(score_graph(model), example_input(model), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={"interface.json": json.dumps(model.interface("torchscript"))})
        loaded = torch.jit.load(str(path))

    @torch.inference_mode()
    def compute(images: np.ndarray) -> np.ndarray:
        return loaded(torch.from_numpy(images)).numpy()

    return {"largest_difference_to_torch": largest_difference(model, compute, "--to torchscript")}


def write_safetensors(folder: Path, model: TrainedModel) -> dict[str, Any]:
    """Write ``model.safetensors``: the checkpoint's weights, and in its header what rebuilds the network."""
    (safetensors,) = import_for("--to safetensors", "safetensors.torch")
    config = model.config
    rebuild = {name: config[name] for name in ("network", "network_options", "in_channels", "num_classes")}
    metadata = {
        name: json.dumps(part) for name, part in {**model.interface("safetensors"), "build_network": rebuild}.items()
    }
    weights = {name: value.contiguous() for name, value in model.state["model"].items()}
    path = folder / "model.safetensors"
    safetensors.save_file(weights, str(path), metadata)
    loaded = safetensors.load_file(str(path))
    if any(not torch.equal(loaded[name], value) for name, value in weights.items()):
        raise UserError("--to safetensors: the weights that were read back differ from those written: not written")
    return {"tensors": len(weights), "largest_difference_to_torch": 0.0}


def example_input(model: TrainedModel) -> Tensor:
    """An image that is padded in both directions, to trace with."""
    return torch.randn(1, model.settings.in_channels, 50, 70, generator=torch.Generator().manual_seed(0))


def quiet() -> warnings.catch_warnings:
    """A context in which torch does not warn of tracing, which is meant here."""
    return warnings.catch_warnings(action="ignore")
