"""Engines that compute a run's scores from an export: the same scores as torch, faster on processors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.prediction.model_formats import ENGINES
from evaluation.prediction.predictor import Predictor
from utils.cli import UserError, one_of
from utils.files import OBJECT, check_record, content_digest, read_record
from utils.packages import import_for
from utils.run_folder import display_path, quoted

CARD = "model_card.json"  # of an export: describes it, and names the checkpoint it was made of

MODEL_FILES = {"onnx": "model.onnx", "openvino": "model.xml", "openvino-int8": "model.xml"}
INPUT, OUTPUT = "image", "scores"  # tensors of a graph
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}

Compute = Callable[[np.ndarray], np.ndarray]  # network input float32 (B, C, H, W) → scores float32 (B, K, H, W)


@dataclass(frozen=True)
class EnginePredictor(Predictor):
    """A `Predictor` whose ``network`` is a `Compute`.

    Args:
        inverted: whether it gives inverted scores, which are turned back: inversion is a matter of the settings.
        again: loads the same in another process, to which an engine cannot be sent.
    """

    inverted: bool = False
    again: Callable[[], EnginePredictor] | None = None

    def __reduce__(self) -> tuple[Callable[[], EnginePredictor], tuple[()]]:
        if self.again is None:
            raise TypeError("this engine was not loaded from an export and cannot be sent to another process")
        return self.again, ()

    def _scores(self, images: Tensor) -> Tensor:
        scores = torch.from_numpy(self.network(np.ascontiguousarray(images.numpy())))
        return 1 - scores if self.inverted else scores


def load_engine(
    engine: str, run: Path, checkpoint: Path, *, device: torch.device, precision: str, tta: bool
) -> EnginePredictor:
    """Load a run's export in the engine that computes it.

    Args:
        engine: a key of ``ENGINES`` but ``torch``.
        checkpoint: what the export must have been made of.
        precision: as `Predictor` takes it.
    Raises:
        UserError: no export, one of another checkpoint, or a package that is missing.
    """
    folder = run / "export" / one_of(engine, tuple(ENGINES), "engine")
    again = f"make it with: python evaluation/export.py --train_dir {quoted(display_path(run))} --to {engine}"
    again += "" if checkpoint.stem == "best" else f" --test_ckpt_epoch {checkpoint.stem.removeprefix('epoch_')}"
    facts = check_export(folder, checkpoint, f"--engine {engine}", again)
    path = folder / MODEL_FILES[engine]
    try:
        compute = ENGINES[engine](path, precision, f"--engine {engine}")
    except UserError:
        raise
    except Exception as error:  # each engine has kinds of its own for a file that it cannot read
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(f"{display_path(path)} cannot be loaded ({reason}); {again}") from None
    again = partial(load_engine, engine, run, checkpoint, device=device, precision=precision, tta=tta)
    inverted = bool(facts.get("scores_inverted"))
    return EnginePredictor(compute, device, precision, augment=tta, inverted=inverted, again=again)


def check_export(folder: Path, checkpoint: Path, what: str, again: str) -> dict[str, Any]:
    """What an export's card says of it, where the export is whole and of this checkpoint.

    Args:
        what: the option that asks for it.
        again: how to make it, for messages.
    Raises:
        UserError: there is none, it is of another checkpoint, or a file of it is not what was written.
    """
    if not (folder / CARD).is_file():
        raise UserError(f"{what}: the run has no such export yet; {again}")
    facts = read_record(folder / CARD, {"export": OBJECT}, remedy=again)["export"]
    if facts.get("checkpoint_sha256") != content_digest(checkpoint):
        raise UserError(f"{display_path(folder)} was made of another checkpoint than {checkpoint.name}: {again}")
    digests = check_record(facts.get("files", {}), folder / CARD, {}, remedy=again)  # earlier exports name none
    for name, digest in digests.items():
        if not (folder / name).is_file() or content_digest(folder / name) != digest:
            raise UserError(f"{display_path(folder / name)} is gone or not what was exported: {again}")
    return facts


def onnx_session(path: Path, precision: str, what: str) -> Compute:
    """An ONNX graph in onnxruntime, in fp32, with as many threads as torch has."""
    (onnxruntime,) = import_for(what, "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def openvino_session(path: Path, precision: str, what: str) -> Compute:
    """An OpenVINO graph compiled for this processor, with as many threads as torch has."""
    (openvino,) = import_for(what, "openvino")
    return compile_openvino(openvino.Core().read_model(path), precision)


def compile_openvino(model: Any, precision: str) -> Compute:
    """An OpenVINO model in memory, compiled for this processor.

    Args:
        precision: of what is not quantized.
    """
    (openvino,) = import_for("OpenVINO", "openvino")
    hints = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    own = threading.local()  # a request holds one input at a time

    def compute(images: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer(images, share_inputs=True, share_outputs=True)[0].copy()

    return compute
