"""From files to score maps on one thread, by engine: images a second, processor time, IoU, size of the export.

All engines predict the test list of a set with one short run, trained and exported where it is not there. A cell is a
data set and a round, in which all take their turn, so that what else the machine does meets all alike; or its IoU.

    python datasets/make_lists.py --dataset nuc --source $SEG_TEST_DATA/nuc
    python datasets/make_lists.py --dataset er_ernet --source $SEG_TEST_DATA/er_ernet
    python benchmarks/speed/engines.py
    python benchmarks/speed/engines.py --summarize
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import tempfile
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.grid import Record, Study, markdown, run_study
from benchmarks.speed.record import machine_record
from benchmarks.speed.training import in_fresh_process
from utils.cli import UserError, run_command
from utils.run_folder import LOG_ROOT

DATASETS = ("nuc", "er_ernet", "er_sim")
WAYS = (
    *(("torch", "fp32"), ("torch", "bf16"), ("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")),
    ("openvino-int8", "bf16"),
)
RUN = "eng"
TRAINING = {"width": 16, "steps": 200, "epochs": 4, "crop": 96, "batch_size": 8, "threads": 1}
IMAGES = 100  # at least, a measurement: short lists are predicted again and again
ROUNDS = ("round 1", "round 2", "round 3")


def measure(dataset: str, what: str) -> dict[str, Any]:
    """What every way takes for a data set's test list in one turn each, or the IoU of its masks."""
    from benchmarks.trials import train
    from datasets.catalog import prepare_dataset

    prepare_dataset(dataset)
    run = LOG_ROOT / dataset / RUN
    if not (run / "checkpoints" / "best.pth").is_file():
        train(dataset, RUN, **TRAINING)
    refused = {engine: reason for engine, _ in WAYS if engine != "torch" and (reason := export_once(run, engine))}
    ways = [way for way in WAYS if way[0] not in refused]
    function = iou_and_size if what == "iou" else predict_once
    found = {f"{engine} {precision}": in_fresh_process(function, run, engine, precision) for engine, precision in ways}
    return {"training": TRAINING, "machine": machine_record("cpu"), "ways": found, "refused": refused}


def export_once(run: Path, engine: str) -> str | None:
    """Export a run unless it is done; why that was refused, as the gate of int8 does, else None."""
    from evaluation.model_formats.exporting import export_run

    if (run / "export" / engine / "model_card.json").is_file():
        return None
    try:
        export_run(run, engine)
    except UserError as refusal:
        return str(refusal)
    return None


def predict_once(run: Path, engine: str, precision: str) -> dict[str, float]:
    """Images a second and processor seconds an image, from files to maps, after a batch to warm up."""
    import torch

    from datasets.image_io import read_shape
    from datasets.lists import find_list, read_list
    from evaluation.prediction import MapSettings, Picture, load_network, predict_pictures
    from evaluation.prediction.runs import BATCH_SIZE, choose_predictor
    from utils.cli import Progress

    device = torch.device("cpu")
    network, checkpoint, _ = load_network(run)
    predictor = choose_predictor(network, device, precision, tta=False, engine=engine, run=run, checkpoint="best")
    samples = read_list(find_list("test", checkpoint["config"]["dataset"]))
    repeats = -(-IMAGES // len(samples))
    pictures = [
        Picture(sample.image, f"{turn}_{number}", read_shape(sample.image))
        for turn in range(repeats)
        for number, sample in enumerate(samples)
    ]
    settings, batch = MapSettings(normalization=checkpoint["config"]["normalization"]), BATCH_SIZE["cpu"]
    predictor(settings.network_input(pictures[:batch]))
    with tempfile.TemporaryDirectory() as folder, Progress(len(pictures), "predicting") as progress:
        started, used = time.perf_counter(), time.process_time()
        predict_pictures(predictor, pictures, settings, Path(folder), batch_size=batch, progress=progress)
        seconds, used = time.perf_counter() - started, time.process_time() - used
    return {"images_per_second": len(pictures) / seconds, "cpu_seconds_per_image": used / len(pictures)}


def iou_and_size(run: Path, engine: str, precision: str) -> dict[str, float]:
    """Pooled IoU on the test list at the run's threshold, by the commands; bytes of the weights that are loaded."""
    from evaluation import inference, metrics

    with tempfile.TemporaryDirectory() as folder:
        flags = ["--train_dir", run, "--engine", engine, "--precision", precision, "--out", folder]
        inference.main([*map(str, flags)])
        reached = metrics.evaluate_maps(Path(folder), report=False)["pooled"]["iou"]
    return {"iou": reached, "bytes": weight_bytes(run, engine)}


def weight_bytes(run: Path, engine: str) -> int:
    """Bytes of an export's weights; of torch's own, which a checkpoint holds beside others, four each."""
    if engine == "torch":
        from evaluation.prediction import load_network

        return sum(4 * value.numel() for value in load_network(run)[0].state_dict().values())
    names = ("model.onnx",) if engine == "onnx" else ("model.xml", "model.bin")
    return sum((run / "export" / engine / name).stat().st_size for name in names)


def best_of(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Way → the fastest of a data set's rounds, with its IoU and size."""
    timed = [record["ways"] for record in records if record["cell"]["what"] != "iou"]
    scored = next((record["ways"] for record in records if record["cell"]["what"] == "iou"), {})
    return {
        way: {
            "rate": max(each[way]["images_per_second"] for each in timed),
            "cpu": min(each[way]["cpu_seconds_per_image"] for each in timed),
            **scored.get(way, {}),
        }
        for way in timed[0]
    }


def table(records: Sequence[Record]) -> str:
    """Every way beside torch in fp32 and in bf16, by data set."""
    rows = []
    for dataset in dict.fromkeys(record["cell"]["dataset"] for record in records):
        ways = best_of([record for record in records if record["cell"]["dataset"] == dataset])
        plain, today = ways["torch fp32"]["cpu"], ways["torch bf16"]["cpu"]
        for way, found in ways.items():
            score = f"{found['iou']:.4f}" if "iou" in found else ""
            size = f"{found['bytes'] / 1e6:.1f}" if "bytes" in found else ""
            ratios = [f"{plain / found['cpu']:.2f}×", f"{today / found['cpu']:.2f}×"]
            rows.append([dataset, way, f"{found['rate']:.1f}", f"{1000 * found['cpu']:.1f}", *ratios, score, size])
    head = ["images", "engine", "images/s", "CPU ms an image", "of torch fp32", "of torch bf16", "test IoU", "MB"]
    return markdown(head, rows)


def tables(records: list[Record]) -> dict[str, str]:
    """The table, and under it what was refused."""
    refused = {f"{record['cell']['dataset']}: {text}" for record in records for text in record["refused"].values()}
    return {"engines": "\n\n".join([table(records), *sorted(refused)])}


STUDY = Study(
    name="engines",
    cells=[{"dataset": dataset, "what": what} for dataset in DATASETS for what in ("iou", *ROUNDS)],
    trial=measure,
    seconds=90,
    tables=tables,
    page="docs/SPEED.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
