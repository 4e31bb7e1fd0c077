"""Command: predict images with a trained run and write score maps below its ``results/``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder, which shadows others

import argparse
from collections.abc import Sequence

from evaluation.objects import INSTANCES
from evaluation.prediction.model_formats import ENGINES
from utils.cli import CommandParser, channel_list, run_command, whole_number


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = CommandParser(prog="evaluation/inference.py", description="Predict images with a trained run.")
    what = parser.add_argument_group("what")
    add, add_images = what.add_argument, what.add_mutually_exclusive_group().add_argument
    add("--train_dir", required=True, metavar="RUN", help="run folder, also of --folds: a path or <dataset>/<run>")
    add("--ensemble", nargs="+", default=(), metavar="RUN", help="further runs, whose scores are averaged with its own")
    add("--test_ckpt_epoch", default="best", metavar="N|best|last", help="checkpoint of the run (default: best)")
    add_images("--data_list", metavar="LIST", help="list of images, labelled or not (default: the run's test list)")
    add_images("--input", nargs="+", type=Path, metavar="FILE", help="image files, stacks, or folders of them")
    add("--data_root", metavar="DIR", help="folder that relative paths in the list start from (default: the run's)")
    channels = "channels to read, by number or OME name (default: the run's)"
    add("--channels", type=channel_list, default=(), metavar="C,…", help=channels)
    add("--label_map", metavar="V:CLASS,…", help="what label values or colours mean (default: as the run decided)")
    add = parser.add_argument_group("how").add_argument
    inversion, devices = ("auto", "on", "off"), ("auto", "cpu", "cuda", "mps")
    add("--pred_invert", default="auto", choices=inversion, help="invert scores (default: auto, as validation decided)")
    add("--tta", action="store_true", help="average the scores of the eight flips and rotations")
    add("--recalibrate_norm", action="store_true", help="count batch norm's statistics anew on these images")
    batch = "images of 256x256 at once, others count by their area (default: 4 on a CPU, else 32)"
    add("--batch_size", type=whole_number(1), metavar="N", help=batch)
    tile = "images with a longer side are predicted in tiles of this side (default: 512)"
    add("--tile", type=whole_number(64), default=512, metavar="PIXELS", help=tile)
    add("--overlap", type=whole_number(0), default=64, metavar="PIXELS", help="least overlap of tiles (default: 64)")
    add("--device", default="auto", choices=devices, help="where to compute (default: auto)")
    arithmetic = "arithmetic (default: auto, fp32 if the run was told so, else bf16 or fp16 where the device has it)"
    add("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help=arithmetic)
    computes = "what computes; all but torch need an export of the run, evaluation/export.py (default: torch)"
    add("--engine", default="torch", choices=tuple(ENGINES), help=computes)
    add = parser.add_argument_group("what is written").add_argument
    add("--out", type=Path, metavar="DIR", help="where it goes (default: results/ of the run)")
    add("--masks", action="store_true", help="8-bit masks at the threshold, or of classes")
    add("--overlays", type=whole_number(0), default=0, metavar="N", help="image, label, score, errors of the first N")
    add("--save_scores", action="store_true", help="scores of every class, beside the class map")
    add("--calibrate", action="store_true", help="calibrate scores on the validation images; masks stay the same")
    add("--spread", action="store_true", help="standard deviation of the scores between runs, flips and rotations")
    objects = "objects, parted by components (default) or watershed: label TIFFs, tables, ImageJ's rois.zip"
    add("--instances", nargs="?", const="components", choices=[*INSTANCES], metavar="METHOD", help=objects)
    add("--min_area", type=whole_number(1), default=1, metavar="PIXELS", help="least area of an object (default: 1)")
    options = parser.parse_args(arguments)
    if options.min_area > 1 and options.instances is None:
        parser.error("--min_area belongs to --instances: maps and masks keep what is small")
    if 2 * options.overlap > options.tile:
        parser.error(f"--overlap {options.overlap} is more than half of --tile {options.tile}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict what the command line names."""
    options = vars(parse_options(arguments))
    from evaluation.prediction.runs import predict_run

    which, inputs = options.pop("test_ckpt_epoch"), options.pop("input") or ()
    predict_run(options.pop("train_dir"), which, inputs=inputs, **options)


if __name__ == "__main__":
    run_command(main)
