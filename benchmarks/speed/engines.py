"""From files to score maps on one thread, by engine: images a second, processor time, IoU, size of the export.

All engines predict the test list of a set with one short run, trained and exported where it is not there. A cell is a
data set and a round, in which all take their turn, so that what else the machine does meets all alike.

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
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.grid import Record, Study, markdown, run_study
from benchmarks.speed.record import machine_record
from benchmarks.speed.training import in_fresh_process
from utils.cli import UserError, run_command
from utils.run_folder import LOG_ROOT

if TYPE_CHECKING:
    from evaluation.prediction import MapSettings, Picture

DATASETS = ("nuc", "er_ernet", "er_sim")
WAYS = (
    *(("torch", "fp32"), ("torch", "bf16"), ("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")),
    ("openvino-int8", "bf16"),
)
RUN = "eng"
TRAINING = {"width": 16, "steps": 200, "epochs": 4, "crop": 96, "batch_size": 8, "threads": 1}
IMAGES = 60  # a measurement: spread over a long test list, and a short one again until they are as many
TURNS = 1


def measure(dataset: str, turn: int) -> dict[str, Any]:
    """What every way takes for a data set's test list in one turn each, and the IoU of its masks."""
    from benchmarks.trials import train
    from datasets.catalog import prepare_dataset

    prepare_dataset(dataset)
    run = LOG_ROOT / dataset / RUN
    if not (run / "checkpoints" / "best.pth").is_file():
        train(dataset, RUN, **TRAINING)
    refused = {engine: reason for engine, _ in WAYS if engine != "torch" and (reason := export_once(run, engine))}
    ways = [way for way in WAYS if way[0] not in refused]
    found = {f"{engine} {precision}": in_fresh_process(predict, run, engine, precision) for engine, precision in ways}
    return {"training": TRAINING, "machine": machine_record("cpu"), "ways": found, "refused": refused}


def export_once(run: Path, engine: str) -> str | None:
    """Export a run unless it is done; why that was refused, as the gate of int8 does, else None."""
    from evaluation.prediction.model_formats.exporting import export_run

    if (run / "export" / engine / "model_card.json").is_file():
        return None
    try:
        export_run(run, engine)
    except UserError as refusal:
        return str(refusal)
    return None


def predict(run: Path, engine: str, precision: str) -> dict[str, float]:
    """Images a second and processor seconds an image, from files to maps, after a batch to warm up; IoU; bytes."""
    from datasets.image_io import read_shape
    from datasets.lists import find_list, read_list
    from evaluation.prediction import Picture, predict_pictures
    from evaluation.prediction.members import BATCH_SIZE, Members
    from evaluation.prediction.settings import decide_settings
    from utils.cli import Progress

    members = Members.load(run, device="cpu", precision=precision, engine=engine)
    predictor = members.predictor()
    listed = read_list(find_list("test", members.config["dataset"]))
    samples = listed[:: max(1, len(listed) // IMAGES)]
    pictures = [
        Picture(sample.image, f"{again}_{number}", read_shape(sample.image), label=sample.label)
        for again in range(-(-IMAGES // len(samples)))
        for number, sample in enumerate(samples)
    ]
    settings, batch = decide_settings(members.decisions), BATCH_SIZE["cpu"]
    predictor(settings.network_input(pictures[:batch]))
    with tempfile.TemporaryDirectory() as folder, Progress(len(pictures), "predicting") as progress:
        started, used = time.perf_counter(), time.process_time()
        predict_pictures(predictor, pictures, settings, Path(folder), batch_size=batch, progress=progress)
        seconds, used = time.perf_counter() - started, time.process_time() - used
        reached = masks_iou(pictures[: len(samples)], settings, Path(folder))
    rates = {"images_per_second": len(pictures) / seconds, "cpu_seconds_per_image": used / len(pictures)}
    return {**rates, "iou": reached, "bytes": weight_bytes(run, engine)}


def masks_iou(pictures: Sequence[Picture], settings: MapSettings, folder: Path) -> float:
    """Pooled IoU of the masks of maps on disk."""
    from datasets.image_io import read_label, read_scores
    from evaluation.scores import class_iou, confusion_matrix

    def count(picture: Picture) -> np.ndarray:
        mask = settings.to_mask(read_scores(folder / "pred" / f"{picture.name}.tif"))
        label = read_label(str(picture.label), 1, settings.ignore_index, settings.reading)
        return confusion_matrix(mask, label, 2)

    return float(class_iou(sum(map(count, pictures)))[1])


def weight_bytes(run: Path, engine: str) -> int:
    """Bytes of an export's weights; of torch's own, which a checkpoint holds beside others, four each."""
    if engine == "torch":
        from evaluation.prediction import load_network

        return sum(4 * value.numel() for value in load_network(run)[0].state_dict().values())
    names = ("model.onnx",) if engine == "onnx" else ("model.xml", "model.bin")
    return sum((run / "export" / engine / name).stat().st_size for name in names)


def best_of(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Way → the fastest of a data set's rounds, with its IoU and size."""
    turns = [record["ways"] for record in records]
    return {
        way: {
            "rate": max(turn[way]["images_per_second"] for turn in turns),
            "cpu": min(turn[way]["cpu_seconds_per_image"] for turn in turns),
            "iou": turns[0][way]["iou"],
            "bytes": turns[0][way]["bytes"],
        }
        for way in turns[0]
    }


def table(records: Sequence[Record]) -> str:
    """Every way beside torch in fp32 and in bf16, by data set."""
    rows = []
    for dataset in dict.fromkeys(record["cell"]["dataset"] for record in records):
        ways = best_of([record for record in records if record["cell"]["dataset"] == dataset])
        plain, today = ways["torch fp32"]["cpu"], ways["torch bf16"]["cpu"]
        for way, found in ways.items():
            score, size = f"{found['iou']:.4f}", f"{found['bytes'] / 1e6:.1f}"
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
    cells=[{"dataset": dataset, "turn": turn} for turn in range(TURNS) for dataset in DATASETS],
    trial=measure,
    seconds=90,
    tables=tables,
    page="docs/SPEED.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
