"""Speed of prediction: the network alone, from files to maps, and an image of 10,000 × 10,000 pixels."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.counts import clock, count, matrix_product, synchronize
from benchmarks.speed.record import Figure, Settings, median_ms
from benchmarks.speed.training import in_fresh_process, peak_mib, samples_of

SIZE = 256
HUGE = 10_000  # pixels along a side


def measure_inference(settings: Settings) -> list[Figure]:
    """Images of 256² a second through the network, and from files to maps; the plain way beside it."""

    samples_of("test")
    ways = ("fast", "plain") if settings.baseline else ("fast",)
    found = {way: in_fresh_process(predict_for_a_while, settings, way) for way in ways}
    fast, plain = found["fast"], found.get("plain", {})
    operations, _ = count(settings.width, SIZE, training=False)
    ceiling = matrix_product(settings, fast["precision"])
    what = f"width {settings.width} at {SIZE}², batch {batch_size(settings)}"
    facts = {
        "precision": fast["precision"],
        "share_of_product": fast["network"] * operations / ceiling,
        "peak MiB": fast["peak"],
    }
    goal = 4000.0 if (settings.device, settings.width) == ("cuda", 64) else None
    figures = [
        Figure(f"network, {what}", "images/s", fast["network"], plain.get("network"), goal=goal, more=facts),
        Figure(f"files to maps, {what}", "images/s", fast["files"], plain.get("files")),
    ]
    if settings.device == "cuda" or settings.tiny:  # compiling takes longer than most folders of images
        compiled = in_fresh_process(predict_for_a_while, settings, "compiled")
        figures.append(
            Figure(f"network, {what}, compiled", "images/s", compiled["network"], plain.get("network"), goal=goal)
        )
        tensorrt = in_fresh_process(predict_by_tensorrt, settings)
        if isinstance(tensorrt, str):
            figures[-1].more["TensorRT"] = tensorrt
        else:
            name = f"network, {what}, TensorRT"
            figures.append(Figure(name, "images/s", tensorrt, plain.get("network"), goal=goal))
    return figures


def predict_by_tensorrt(settings: Settings) -> float | str:
    """Images a second of the network alone in half precision by TensorRT, or why there is no such figure."""
    import torch

    from models import build_network
    from models.blocks import fold_batch_norms

    try:
        import torch_tensorrt  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "not measured: torch_tensorrt is not installed"
    network = fold_batch_norms(build_network("unet", width=settings.width, init="kaiming").eval()).half().cuda()
    images = torch.randn(batch_size(settings), 1, SIZE, SIZE, device="cuda", dtype=torch.half)
    try:
        engine = torch_tensorrt.compile(network, ir="dynamo", inputs=[images], enabled_precisions={torch.half})
    except Exception as error:  # another library's, of any kind: no reason to lose the other figures
        return f"not measured: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def predict() -> None:
        torch.sigmoid(engine(images))
        synchronize("cuda")

    with torch.no_grad():
        milliseconds = median_ms(predict, 4 * settings.seconds, least=3, clock=clock("cuda"))
    return len(images) / (milliseconds / 1000)


def batch_size(settings: Settings) -> int:
    """Images predicted at once, as the command chooses."""
    from evaluation.prediction.members import BATCH_SIZE

    return BATCH_SIZE[settings.device]


def predict_for_a_while(settings: Settings, way: str) -> dict[str, Any]:
    """Images a second of the network alone, of files to maps, and peak memory.

    Args:
        way: ``fast``, ``compiled``, which is the network alone, or ``plain``.
    """
    import torch

    from benchmarks.speed.plain import predict_plainly
    from evaluation.prediction import MapSettings, Picture, Predictor, memory_format, predict_pictures
    from models import build_network
    from models.blocks import fold_batch_norms
    from training.run.compilation import compile_network
    from utils.cli import Progress
    from utils.device import choose_precision

    device, batch = torch.device(settings.device), batch_size(settings)
    network = build_network("unet", width=settings.width, init="kaiming").eval().to(device)
    precision = "fp32" if way == "plain" else choose_precision("auto", device)
    images = torch.randn(batch, 1, SIZE, SIZE, device=device)
    if way == "plain":
        predictor = torch.no_grad()(lambda inputs: torch.sigmoid(network(inputs)))
    else:
        network = fold_batch_norms(network).to(memory_format=memory_format(device))
        if way == "compiled":
            network = compile_network(network, device, 1, print)
        predictor = Predictor(network, device, precision)

    def predict() -> None:
        predictor(images)
        synchronize(settings.device)

    seconds = 0 if settings.tiny else 4 * settings.seconds
    milliseconds = median_ms(predict, seconds, least=3, clock=clock(settings.device))
    if way == "compiled":
        return {"network": batch / (milliseconds / 1000)}
    repeat = 1 if settings.tiny or settings.device == "cpu" else 50
    files = [sample.image for _ in range(repeat) for sample in samples_of("test")]
    with tempfile.TemporaryDirectory() as folder, Progress(len(files), "predicting") as progress:
        started = time.perf_counter()
        if way == "fast":
            pictures = [Picture(image, f"{number}_{image.stem}", (SIZE, SIZE)) for number, image in enumerate(files)]
            predict_pictures(predictor, pictures, MapSettings(), Path(folder), batch_size=batch, progress=progress)
        else:
            predict_plainly(network, files, Path(folder), settings.device, batch)
        seconds = time.perf_counter() - started
    return {
        "network": batch / (milliseconds / 1000),
        "files": len(files) / seconds,
        "precision": precision,
        "peak": peak_mib(settings.device),
    }


def measure_huge(settings: Settings) -> list[Figure]:
    """Seconds and peak memory for one image of 10,000² pixels of 16 bits, file to map."""
    side = 600 if settings.tiny else HUGE
    seconds, peak, before = in_fresh_process(predict_huge, settings, side)
    return [
        Figure(
            f"{side}×{side} image of 16 bits, width {settings.width}",
            "s",
            seconds,
            more={"peak resident MiB": peak, "before MiB": before, "one float32 copy MiB": 4 * side**2 / 2**20},
        )
    ]


def predict_huge(settings: Settings, side: int) -> tuple[float, float, float]:
    """Seconds, and peak resident MiB after and before."""
    import torch

    from evaluation.prediction import MapSettings, Picture, Predictor, memory_format, predict_pictures
    from evaluation.prediction.members import BATCH_SIZE
    from models import build_network
    from models.blocks import fold_batch_norms
    from utils.cli import Progress
    from utils.device import choose_precision

    device = torch.device(settings.device)
    network = fold_batch_norms(build_network("unet", width=settings.width, init="kaiming").eval().to(device))
    predictor = Predictor(network.to(memory_format=memory_format(device)), device, choose_precision("auto", device))
    with tempfile.TemporaryDirectory() as folder, Progress(1, "predicting") as progress:
        path = Path(folder) / "huge.tif"
        in_fresh_process(write_noise, path, side)
        predictor(torch.zeros(1, 1, 512, 512))
        before = peak_mib("cpu")
        started = time.perf_counter()
        predict_pictures(
            predictor,
            [Picture(path, "map", (side, side))],
            MapSettings(),
            Path(folder),
            batch_size=BATCH_SIZE[settings.device],
            progress=progress,
        )
        return time.perf_counter() - started, peak_mib("cpu"), before


def write_noise(path: Path, side: int) -> None:
    """Write an image of noise, uint16 (side, side)."""
    from datasets.image_io import write_image

    write_image(path, np.random.default_rng(0).integers(0, 60_000, (side, side), np.uint16))
