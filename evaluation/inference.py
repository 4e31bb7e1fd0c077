"""Command: predict images with a trained run and write score maps below its ``results/``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.cli import CommandParser, Progress, UserError, run_command, whole_number
from utils.files import write_json
from utils.run_folder import REPO_ROOT, display_path, environment_record, find_run, quoted

if TYPE_CHECKING:
    from datasets.lists import Sample
    from evaluation.prediction import MapSettings, Picture

DEFAULT_THRESHOLD = 0.5
BATCH_SIZE = {"cpu": 4, "cuda": 32, "mps": 32}  # larger batches are slower on a CPU: caches overflow


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(
        prog="evaluation/inference.py",
        formatter_class=argparse.HelpFormatter,
        description="Predict images with a trained run.",
    )
    which = parser.add_argument_group("what")
    which.add_argument("--train_dir", required=True, metavar="RUN", help="run folder: a path or <dataset>/<run>")
    which.add_argument(
        "--test_ckpt_epoch", default="best", metavar="N|best|last", help="checkpoint of the run (default: best)"
    )
    images = which.add_mutually_exclusive_group()
    images.add_argument(
        "--data_list", metavar="LIST", help="list of images, with labels or without (default: the run's test list)"
    )
    images.add_argument("--input", nargs="+", metavar="FILE", help="image files or folders of images")
    which.add_argument(
        "--data_root", metavar="DIR", help="folder that relative paths in the list start from (default: the run's)"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--pred_invert",
        default="auto",
        choices=("auto", "on", "off"),
        help="invert scores (default: auto, as validation decided)",
    )
    how.add_argument("--tta", action="store_true", help="average the scores of the eight flips and rotations")
    how.add_argument(
        "--batch_size",
        type=whole_number(1),
        metavar="N",
        help="images of 256x256 at once, others count by their area (default: "
        f"{BATCH_SIZE['cpu']} on a CPU, else {BATCH_SIZE['cuda']})",
    )
    how.add_argument(
        "--tile",
        type=whole_number(64),
        default=512,
        metavar="PIXELS",
        help="images with a longer side are predicted in tiles of this side (default: 512)",
    )
    how.add_argument(
        "--overlap", type=whole_number(0), default=64, metavar="PIXELS", help="least overlap of tiles (default: 64)"
    )
    how.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="where to compute (default: auto)"
    )
    how.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="arithmetic (default: auto, fp32 if the run was told so, else bf16 or fp16 where the device "
        "computes with it)",
    )
    also = parser.add_argument_group("also written")
    also.add_argument("--masks", action="store_true", help="8-bit masks at the threshold, or of classes")
    also.add_argument("--overlays", type=whole_number(0), default=0, metavar="N", help="panels of the first N images")
    also.add_argument("--save_scores", action="store_true", help="scores of every class, beside the class map")
    options = parser.parse_args(arguments)
    if 2 * options.overlap > options.tile:
        parser.error(f"--overlap {options.overlap} is more than half of --tile {options.tile}")
    return options


@dataclass(frozen=True)
class Source:
    """The images to predict: samples, the list they come from if any, and the ending of the result folder's name."""

    samples: list[Sample]
    list_path: Path | None
    ending: str


def choose_images(options: argparse.Namespace, config: dict[str, Any]) -> Source:
    """The images of ``--input``, ``--data_list`` or the run's test list; an image named twice counts once."""
    from datasets.lists import find_list, read_list

    if options.input:
        return input_images([Path(name) for name in options.input])
    given = options.data_list or config.get("test_list")
    if given is None:
        raise UserError("the run's data set has no test list: give --data_list LIST or --input FILES")
    list_path = find_list(given, config["dataset"])
    samples = read_list(list_path, options.data_root or config.get("data_root"), labels="optional")
    test_list = config.get("test_list")
    is_test = test_list is not None and list_path.resolve() == (REPO_ROOT / test_list).resolve()
    return Source(without_repeats(samples), list_path, "" if is_test else f"_{list_path.stem}")


def input_images(paths: Sequence[Path]) -> Source:
    """Image files, and the images directly inside folders, as samples without labels."""
    from datasets.list_pairing import IMAGE_SUFFIXES, list_images
    from datasets.lists import Sample

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = list_images(path)
            if not inside:
                raise UserError(f"--input {path} is a folder without images ({', '.join(IMAGE_SUFFIXES)})")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"--input {path} does not exist")
    files = [Path(os.path.abspath(file)) for file in files]
    folder = Path(os.path.commonpath([file.parent for file in files]))
    samples = [Sample(file, None, file.as_posix(), line) for line, file in enumerate(files, start=1)]
    return Source(without_repeats(samples), None, f"_{folder.name or 'input'}")


def without_repeats(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, each image once."""
    return list({sample.image: sample for sample in reversed(samples)}.values())[::-1]


def make_pictures(source: Source, in_channels: int, overlays: int) -> list[Picture]:
    """Check every image's header, all faults at once, and name the maps."""
    from dataclasses import replace

    from datasets.lists import check_samples
    from evaluation.prediction import Picture
    from utils.files import unique_stems

    unlabelled = [replace(sample, label=None) for sample in source.samples]
    sizes = check_samples(unlabelled, source.list_path or "--input", in_channels=in_channels)
    names = unique_stems([sample.image for sample in source.samples])
    return [
        Picture(sample.image, name, size, sample.label, overlay=number < overlays)
        for number, (sample, name, size) in enumerate(zip(source.samples, names, sizes, strict=True))
    ]


def decide_settings(options: argparse.Namespace, checkpoint: dict[str, Any]) -> MapSettings:
    """Direction and threshold from the checkpoint; turning the direction round by hand mirrors the threshold."""
    from datasets.transition_matrix import ScoreDecoder
    from evaluation.prediction import MapSettings

    config = checkpoint["config"]
    if config["num_classes"] > 1 and options.pred_invert == "on":
        raise UserError("--pred_invert on is for binary labels; this run has several classes")
    trained = bool(checkpoint["pred_invert"])
    invert = {"auto": trained, "on": True, "off": False}[options.pred_invert]
    threshold = DEFAULT_THRESHOLD if checkpoint["threshold"] is None else float(checkpoint["threshold"])
    return MapSettings(
        num_classes=config["num_classes"],
        in_channels=config["in_channels"],
        ignore_index=config.get("ignore_index"),
        normalization=config["normalization"],
        threshold=threshold if invert == trained else 1 - threshold,
        invert=invert,
        decoder=ScoreDecoder.of_config(config),
        masks=options.masks,
        save_scores=options.save_scores,
    )


def make_record(
    pictures: Sequence[Picture], source: Source, settings: MapSettings, run: Path, epoch: int, **more: Any
) -> dict[str, Any]:
    """The content of predictions.json."""
    binary = settings.num_classes == 1
    return {
        "run": display_path(run),
        "epoch": epoch,
        "list": None if source.list_path is None else display_path(source.list_path),
        "num_classes": settings.num_classes,
        "in_channels": settings.in_channels,
        "ignore_index": settings.ignore_index,
        "threshold": settings.threshold if binary else None,
        "inverted": settings.invert,
        **more,
        "maps": {display_path(picture.image): f"pred/{picture.name}.tif" for picture in pictures},
        "sizes": {display_path(picture.image): list(picture.size) for picture in pictures},
    }


def summarize(pictures: Sequence[Picture], folder: Path, record: dict[str, Any]) -> str:
    """What was written where, and the command that scores it."""
    threshold = "" if record["threshold"] is None else f", threshold {record['threshold']:.4f}"
    inverted = ", inverted" if record["inverted"] else ""
    speed = record["timing"]["images_per_second"]
    images = "1 image" if len(pictures) == 1 else f"{len(pictures)} images"
    labelled = any(picture.label for picture in pictures)
    labels = "" if labelled else " --test_data_dir LIST_WITH_LABELS"
    return (
        f"{images} of epoch {record['epoch']} → {display_path(folder / 'pred')}{threshold}{inverted}"
        f" ({speed:.1f} images/s on {record['device']})\n"
        f"python evaluation/metrics.py --prd_dir {quoted(display_path(folder / 'pred'))}{labels}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the network, predict every image, record what was done."""
    options = parse_options(arguments)
    run = find_run(options.train_dir)
    import torch

    from evaluation.prediction import Predictor, find_checkpoint, load_network, predict_pictures
    from evaluation.scores.map_folder import clear_results
    from models.blocks import fold_batch_norms
    from utils.device import choose_device, choose_precision

    device = torch.device(choose_device(options.device))
    network, checkpoint, epoch = load_network(run, options.test_ckpt_epoch, device)
    config = checkpoint["config"]
    source = choose_images(options, config)
    settings = decide_settings(options, checkpoint)
    pictures = make_pictures(source, settings.in_channels, options.overlays)
    told_fp32 = config.get("precision") == "fp32"
    precision = "fp32" if told_fp32 and options.precision == "auto" else choose_precision(options.precision, device)
    predictor = Predictor(fold_batch_norms(network), device, precision, options.tta)

    folder = run / "results" / f"epoch_{epoch}{source.ending}"
    clear_results(folder)
    started = time.monotonic()
    with Progress(len(pictures), "predicting") as progress:
        predict_pictures(
            predictor,
            pictures,
            settings,
            folder,
            batch_size=options.batch_size or BATCH_SIZE[device.type],
            window=options.tile,
            overlap=options.overlap,
            progress=progress,
        )
    seconds = time.monotonic() - started
    record = make_record(
        pictures,
        source,
        settings,
        run,
        epoch,
        dataset=config["dataset"],
        data_root=options.data_root or config.get("data_root"),
        checkpoint=display_path(find_checkpoint(run, options.test_ckpt_epoch)),
        tta=options.tta,
        precision=precision,
        tile=options.tile,
        overlap=options.overlap,
        device=str(device),
        timing={"images": len(pictures), "seconds": seconds, "images_per_second": len(pictures) / seconds},
        environment=environment_record(str(device)),
    )
    write_json(folder / "predictions.json", record)
    print(summarize(pictures, folder, record))


if __name__ == "__main__":
    run_command(main)
