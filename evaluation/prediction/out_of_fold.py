"""The maps of a cross-fit in one folder: every image predicted by the run that did not see its label."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import read_label
from datasets.lists import Sample, find_list, read_list
from evaluation.prediction.result_folders import describe_results
from evaluation.scores import BINS, score_histogram
from evaluation.scores.label_meaning import read_as_recorded
from evaluation.scores.map_folder import METRICS, PREDICTIONS, find_maps, match_maps, read_predictions
from evaluation.scores.maps import read_map, whole_numbers
from evaluation.scores.validation import choose_threshold, group_numbers
from utils.background import read_ahead
from utils.cli import UserError
from utils.files import read_json, unique_stems, write_json
from utils.output_folder import replaced_output
from utils.run_folder import REPO_ROOT, display_path, environment_record, quoted

OUT_OF_FOLD = "out_of_fold"
SHARED = ("num_classes", "in_channels", "channels", "ignore_index", "label_reading", "dataset", "data_root")


def write_out_of_fold(folder: Path, runs: Sequence[Path], predictions: Sequence[Path]) -> Path:
    """Gather the maps of all parts into ``out_of_fold/``, with the threshold that all of them together choose.

    Args:
        folder: of the cross-fit.
        runs: one for each part.
        predictions: folders with the maps of what each run left out.
    Returns: the folder, which is like any other folder of predictions.
    """
    records = [read_predictions(place / PREDICTIONS.record) for place in predictions]
    sources = {
        image: place / name
        for record, place in zip(records, predictions, strict=True)
        for image, name in record["maps"].items()
    }
    images = [Path(image) for image in sources]
    maps = {image: f"pred/{name}.tif" for image, name in zip(sources, unique_stems(images), strict=True)}
    config = read_json(runs[0] / "config.json")
    target = folder / OUT_OF_FOLD
    with replaced_output(target, PREDICTIONS, expected=maps.values(), outdated=[METRICS]) as partial:
        (partial / "pred").mkdir(parents=True)
        for image, name in maps.items():
            shutil.copyfile(sources[image], partial / name)
        record = {
            **{name: records[0].get(name) for name in SHARED},
            "list": config["train_list"],
            "out_of_fold": True,
            "runs": [display_path(run) for run in runs],
            "threshold": pooled_decision(records, "threshold"),
            "mask_offset": pooled_decision(records, "mask_offset") or 0.0,
            "inverted": any(record.get("inverted") for record in records),
            "maps": maps,
            "sizes": {image: size for record in records for image, size in record.get("sizes", {}).items()},
            "results": describe_results(partial),
            "environment": environment_record(),
        }
        write_json(partial / PREDICTIONS.record, record)
        belongs_to_offset = bool(record["mask_offset"])  # which was chosen at that threshold, and undoes another
        if record["threshold"] is not None and not belongs_to_offset and not knows_noise(config):
            threshold, _ = choose_threshold(grouped_histograms(partial), record["threshold"])
            write_json(partial / PREDICTIONS.record, {**record, "threshold": threshold})
    return target


def pooled_decision(records: Sequence[dict[str, Any]], name: str) -> float | None:
    """The mean of what the runs decided; None where they decided nothing."""
    values = [record[name] for record in records if record.get(name) is not None]
    return float(np.mean(values)) if values else None


def knows_noise(config: dict[str, Any]) -> bool:
    """Whether the labels are known to be noisy, so that no threshold may be chosen by agreement with them."""
    labels = config.get("labels") or {}
    return any(labels.get(name) is not None for name in ("matrix", "prior")) or bool(config.get("label_noise"))


def grouped_histograms(predictions: Path) -> np.ndarray:
    """Score histograms of a folder of maps against the labels of its list, by groups of images, (n, 2, BINS)."""
    folder = find_maps(predictions)
    samples = labelled(folder.record)
    pairs = match_maps(samples, folder).pairs
    scale = whole_numbers(path for _, path in pairs).scale
    ignore_index = folder.record.get("ignore_index")

    def count(pair: tuple[Sample, Path]) -> np.ndarray:
        label = read_label(pair[0].require_label(), 1, ignore_index, pair[0].reading)
        return score_histogram(read_map(pair[1], scale=scale), label)

    numbers = group_numbers([sample.image_id for sample, _ in pairs])
    groups = np.zeros((max(numbers) + 1, 2, BINS), np.int64)
    for number, histogram in zip(numbers, read_ahead(count, pairs, ahead=4, workers=2), strict=True):
        groups[number] += histogram
    return groups


def labelled(record: dict[str, Any]) -> list[Sample]:
    """The samples of the list that out-of-fold maps belong to, read as its runs read them."""
    list_path = find_list(os.fspath(REPO_ROOT / record["list"]), record["dataset"])
    samples = read_list(list_path, record.get("data_root"), say=lambda line: None)
    how = {"num_classes": record["num_classes"], "ignore_index": record.get("ignore_index")}
    return read_as_recorded(samples, list_path, record, **how, say=lambda line: None)


def read_out_of_fold(folder: Path) -> dict[str, Any]:
    """The record of a cross-fit's maps.

    Raises:
        UserError: it is not finished.
    """
    path = folder / OUT_OF_FOLD / PREDICTIONS.record
    if not path.is_file():
        raise UserError(
            f"{display_path(folder)} is a cross-fit that is not finished; go on with it: "
            f"python main.py --resume {quoted(display_path(folder))}"
        )
    return read_predictions(path)
