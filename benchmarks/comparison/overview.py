"""The README's picture: a test image of each run, the kind of label it was trained on, its score, its errors.

    python benchmarks/comparison/overview.py er_sim/noisy mito_sim/noisy nuc_sim/noisy nuc/clean \\
        --out docs/images/overview.jpg

Each run must have been predicted (``evaluation/inference.py``) on its test list. The noisy label shown is that of the
test image, made as the training labels were.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import argparse

from utils.cli import CommandParser, UserError, run_command
from utils.files import read_json
from utils.run_folder import REPO_ROOT, find_run

JPEG_QUALITY = 88


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="predicted runs, <dataset>/<run>[:<test image>]")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture to write")
    parser.add_argument("--side", type=int, default=256, help="pixels of a panel (default: 256)")
    return parser.parse_args()


def training_spec(config: dict) -> str:
    """The label noise of a run: its option, or what the manifest beside its training labels says."""
    from datasets.lists import find_list, read_list

    if config["label_noise"]:
        return config["label_noise"]
    label = read_list(find_list(config["train_list"], config["dataset"]))[0].label
    manifest = label.parent / "manifest.json"
    return read_json(manifest)["spec"] if manifest.exists() else "clean"


def row(name: str, side: int):
    """image | label as trained on | score | errors of one test image, uint8 (side, about 4·side, 3)."""
    from datasets.image_io import read_image, read_label, read_scores
    from datasets.label_noise import make_noisy_label
    from datasets.lists import find_list, read_list
    from utils.overlays import beside, show_classes, show_errors, show_image, show_scores, shrink

    run_name, _, place = name.partition(":")
    run = find_run(run_name)
    config = read_json(run / "config.json")
    folders = sorted((run / "results").glob("epoch_*/predictions.json"))
    if not folders:
        raise UserError(f"{run_name} has no predictions: python evaluation/inference.py --train_dir {run_name} …")
    record = read_json(folders[-1])
    samples = read_list(find_list(config["test_list"], config["dataset"]))
    sample = samples[int(place) if place else len(samples) // 2]
    image, label = read_image(sample.image), read_label(sample.require_label())
    scores = read_scores(folders[-1].parent / record["maps"][sample.image_id])
    noisy = make_noisy_label(label, training_spec(config), config["noise_seed"], sample.image_id)
    mask = (scores >= record["threshold"]).astype(label.dtype)
    pictures = [show_image(image), show_classes(noisy), show_scores(scores), show_errors(image, mask, label)]
    return beside([shrink(picture, side, average=False) for picture in pictures])


def main() -> None:
    """Draw a row for every run and write the picture."""
    options = parse_arguments()
    import cv2

    from utils.overlays import beside

    picture = beside([row(name, options.side) for name in options.runs], axis=0)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.out), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    out = options.out.resolve()
    print(out.relative_to(REPO_ROOT) if out.is_relative_to(REPO_ROOT) else out)


if __name__ == "__main__":
    run_command(main)
