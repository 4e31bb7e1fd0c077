"""OpenVINO graphs in fp32, and in int8, calibrated on training images, where that costs no accuracy."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.image_io import read_label, read_shape
from datasets.list_checks import Expectation, survey
from datasets.lists import Sample, raise_faults
from evaluation.prediction.engines import INPUT, MODEL_FILES, Compute, EnginePredictor, compile_openvino
from evaluation.prediction.members import BATCH_SIZE
from evaluation.prediction.model_formats.graph import export_onnx, largest_difference
from evaluation.prediction.model_formats.trained import TrainedModel
from evaluation.prediction.segmenter import READERS, Segmenter
from evaluation.prediction.settings import MapSettings, Picture
from evaluation.scores import confusion_matrix, foreground_iou, mean_iou
from evaluation.scores.label_meaning import read_as_recorded
from utils.background import read_ahead
from utils.cli import UserError, counted
from utils.packages import import_for
from utils.run_folder import display_path

CALIBRATION_IMAGES = 64
CALIBRATION_SIDE = 512  # pixels; larger images show their middle
MAX_LOSS = 0.002  # of validation IoU, that int8 may cost


def write_openvino(folder: Path, model: TrainedModel) -> dict[str, Any]:
    """Write ``model.xml`` and ``model.bin`` in fp32, with the metadata in the former."""
    graph = convert(model, "--to openvino")
    difference = largest_difference(model, compile_openvino(graph, "fp32"), "--to openvino")
    save(graph, folder / MODEL_FILES["openvino"], model)
    return {"largest_difference_to_torch": difference}


def write_int8(folder: Path, model: TrainedModel) -> dict[str, Any]:
    """Write ``model.xml`` and ``model.bin`` in int8, where the validation images say that it costs at most MAX_LOSS.

    Raises:
        UserError: it costs more, with the figures; or there are no validation images to say so.
    """
    nncf, _ = import_for("--to openvino-int8", "nncf", "openvino")
    validation = validation_samples(model)
    images = calibration_images(model)
    graph = convert(model, "--to openvino-int8")
    quantized = nncf.quantize(
        graph,
        nncf.Dataset(images, lambda image: {INPUT: image}),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(patterns=[r".*/local_contrast/.*"], validate=False),  # no weights to save
    )
    compared = {"fp32": compile_openvino(graph, "fp32"), "int8": compile_openvino(quantized, "fp32")}
    reached = validation_iou(model, validation, compared)
    check_gate(reached, len(validation))
    save(quantized, folder / MODEL_FILES["openvino-int8"], model)
    return {
        "calibration_images": len(images),
        "validation_images": len(validation),
        "validation_iou": reached,
        "largest_loss_allowed": MAX_LOSS,
    }


def check_gate(reached: dict[str, float], images: int) -> None:
    """Refuse int8 that costs more than MAX_LOSS of the IoU that fp32 reaches, or of which that is not known."""
    where = f"--to openvino-int8 is refused: on {counted(images, 'validation image')}"
    if not reached["fp32"] > 0:
        raise UserError(
            f"{where} fp32 reaches an IoU of {reached['fp32']:.4f}: they cannot show what int8 costs. Give images "
            "whose labels have foreground, --val_list LIST, or take --to openvino"
        )
    if not reached["fp32"] - reached["int8"] <= MAX_LOSS:
        raise UserError(
            f"{where} int8 reaches an IoU of "
            f"{reached['int8']:.4f}, fp32 {reached['fp32']:.4f}; at most {MAX_LOSS} may be lost. Take --to openvino"
        )


def convert(model: TrainedModel, what: str) -> Any:
    """The model as an OpenVINO graph of any input size, in memory."""
    _, openvino = import_for(what, "onnx", "openvino")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(path, model)
        return openvino.convert_model(path)


def save(graph: Any, path: Path, model: TrainedModel) -> None:
    """Write an OpenVINO graph, weights in fp32, with the metadata as ``rt_info``."""
    (openvino,) = import_for("--to openvino", "openvino")
    for name, part in model.interface("openvino").items():
        graph.set_rt_info(json.dumps(part), ["segmentation", name])
    openvino.save_model(graph, str(path), compress_to_fp16=False)


def calibration_images(model: TrainedModel) -> list[np.ndarray]:
    """Network input of training images spread over their list, float32 (1, C, H, W) each."""
    settings = model.settings
    samples, _ = model.listed_samples("train_list", "--to openvino-int8 is calibrated on training images")
    chosen = np.unique(np.linspace(0, len(samples) - 1, CALIBRATION_IMAGES).astype(int))

    def read(index: int) -> np.ndarray:
        image = network_input(samples[index], settings)
        top, left = (max(0, (size - CALIBRATION_SIDE) // 2) for size in image.shape[-2:])
        return np.ascontiguousarray(image[..., top : top + CALIBRATION_SIDE, left : left + CALIBRATION_SIDE])

    return list(read_ahead(read, chosen.tolist(), ahead=READERS, workers=READERS))


def network_input(sample: Sample, settings: MapSettings) -> np.ndarray:
    """A sample's image as the network takes it, float32 (1, C, H, W)."""
    size = read_shape(sample.image, settings.in_channels, settings.channels)
    return settings.network_input([Picture(sample.image, "", size)]).numpy()


def validation_samples(model: TrainedModel) -> list[Sample]:
    """The labelled images that int8 is judged by, which know how their labels are read.

    Raises:
        UserError: the run has none, and none are given; or files that are gone, or do not fit each other.
    """
    if model.val_list is None and model.config.get("val_list") is None:
        raise UserError(
            f"--to openvino-int8 compares int8 with fp32 on validation images, and {display_path(model.run)} has none: "
            "give --val_list LIST, or take --to openvino"
        )
    use, settings = "--to openvino-int8 is judged by validation images", model.settings
    samples, listed = model.listed_samples("val_list", use, labels="required")
    told = settings.reading and settings.reading.label_map and settings.reading.label_map.text
    classes = (settings.num_classes, settings.ignore_index)
    expected = Expectation.of(*classes, told, settings.in_channels, settings.channels)
    raise_faults(listed, survey(samples, listed, expected).faults())
    return read_as_recorded(samples, listed, model.config, num_classes=classes[0], ignore_index=classes[1])


def validation_iou(model: TrainedModel, samples: Sequence[Sample], engines: dict[str, Compute]) -> dict[str, float]:
    """Pooled IoU of each engine's masks, of K classes the mean over classes."""
    settings = model.settings
    classes = max(settings.num_classes, 2)
    metric = mean_iou if settings.num_classes > 1 else foreground_iou
    return {name: metric(_count(compute, samples, settings, classes)) for name, compute in engines.items()}


def _count(compute: Compute, samples: Sequence[Sample], settings: MapSettings, classes: int) -> np.ndarray:
    predictor = EnginePredictor(compute, torch.device("cpu"), inverted=settings.invert)
    predicted = Segmenter(predictor, settings, BATCH_SIZE["cpu"]).predict(sample.image for sample in samples)
    table = np.zeros((classes, classes), np.int64)
    for sample, prediction in zip(samples, predicted, strict=True):
        label = read_label(sample.require_label(), reading=sample.reading)
        table += confusion_matrix(prediction.mask, label, classes)
    return table
