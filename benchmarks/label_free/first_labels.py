"""First labels on images that grow dimmer, denser and larger, and on real ones: Dice of the plain and the chosen vote.

No network is trained. Simulated images differ from the sets of `datasets.simulation` in one thing at a time; limits of
`evaluation.classical.choice` were chosen on them, before any real image was looked at.

    python benchmarks/label_free/first_labels.py
    python benchmarks/label_free/first_labels.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.trials import part_of_list
from utils.cli import run_command

SNRS = (1, 2, 4, 8)
# What a simulated set is changed in: name → set, attributes of its specimen.
CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "er_sim": ("er_sim", {}),
    "er_sim, denser": ("er_sim", {"spacing": (11.0, 15.0)}),
    "er_sim, larger": ("er_sim", {"spacing": (40.0, 60.0), "radius": (4.5, 6.5)}),
    "mito_sim": ("mito_sim", {}),
    "mito_sim, denser": ("mito_sim", {"foreground": (0.3, 0.4)}),
    "mito_sim, larger": ("mito_sim", {"radius": (5.0, 8.0), "length": (20.0, 90.0)}),
    "nuc_sim": ("nuc_sim", {}),
    "nuc_sim, denser": ("nuc_sim", {"foreground": (0.4, 0.5)}),
    "nuc_sim, larger": ("nuc_sim", {"diameter": (60.0, 100.0), "foreground": (0.15, 0.4)}),
    "nuc_sim, smaller": ("nuc_sim", {"diameter": (8.0, 14.0)}),
}
REAL = ("nuc", "nuc16", "er_ernet", "vessel", "stare")
SIMULATED_IMAGES, REAL_IMAGES = 4, 20

Pairs = list[tuple[np.ndarray, np.ndarray]]


def simulated_pairs(name: str, snr: int, first: int = 0, count: int = SIMULATED_IMAGES) -> Pairs:
    """Images uint16 (256, 256) of a changed set, from one number on, and their masks."""
    from datasets.simulation import IMAGE_SIZE, SIMULATED, detect, expected_electrons

    source, specimen = CHANGED[name]
    recipe = SIMULATED[source]
    recipe = replace(
        recipe,
        specimen=replace(recipe.specimen, **specimen),
        microscope=replace(recipe.microscope, snr=(float(snr), float(snr))),
    )
    pairs = []
    for index in range(first, first + count):
        digest = hashlib.sha256(f"{name}/{snr}/{index}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        specimen_drawn, electrons = expected_electrons(recipe, rng, IMAGE_SIZE)
        pairs.append((detect(electrons, recipe.microscope, rng), specimen_drawn.mask))
    return pairs


def write_pairs(pairs: Pairs, folder: Path, name: str) -> Path:
    """Write images and labels below a folder, and their list; returns the list."""
    from datasets.image_io import write_image, write_label
    from datasets.lists import write_list

    rows = [(folder / name / f"{index}.tif", folder / name / f"{index}_mask.png") for index in range(len(pairs))]
    (folder / name).mkdir(parents=True, exist_ok=True)
    for (image, mask), paths in zip(pairs, rows, strict=True):
        write_image(paths[0], image)
        write_label(paths[1], np.asarray(mask, np.uint8))
    write_list(folder / f"{name}.txt", rows)
    return folder / f"{name}.txt"


def real_pairs(name: str) -> Pairs:
    """Validation images of a real set, and their labels: test images stay out of choices."""
    from datasets.image_io import read_image, read_label
    from datasets.lists import read_list

    samples = read_list(part_of_list(name, "val", REAL_IMAGES, "first_labels"))
    return [(read_image(sample.image), read_label(sample.require_label())) for sample in samples]


def run_trial(dataset: str, snr: int | None) -> dict[str, Any]:
    """Mean Dice over images of the plain vote, the chosen one and its voters, and what it was chosen by."""
    from evaluation.classical import BASELINES
    from evaluation.classical.choice import choose_vote, noise_agreement
    from evaluation.classical.methods import orient, resolve_foreground
    from evaluation.scores import confusion_counts, f1

    pairs = real_pairs(dataset) if snr is None else simulated_pairs(dataset, snr)
    images = [image for image, _ in pairs]
    direction = resolve_foreground("auto", images)
    chosen = choose_vote(images)
    methods = {"vote": BASELINES["vote"], "chosen": chosen}
    dice = {
        name: float(
            np.mean([f1(confusion_counts(method(orient(image, direction)) >= 0.5, mask)) for image, mask in pairs])
        )
        for name, method in methods.items()
    }
    agreement = np.median([noise_agreement(chosen, orient(image, direction)) for image in images[:4]])
    found = {"noise": chosen.noise, "size": chosen.size, "sigma": chosen.sigma, "voters": list(chosen.voters)}
    return {"dice": dice, **found, "foreground": direction, "agreement": float(agreement), "images": len(pairs)}


def row_of(record: Record) -> list[str]:
    """A line of the table."""
    snr, dice = record["cell"]["snr"], record["dice"]
    how = f"smoothed by {record['sigma']:g} px" if record["sigma"] else "as it is"
    how += ", DoG" if "difference_of_gaussians" in record["voters"] else ""
    estimates = [f"{record['noise']:.2f}", f"{record['size']:g} px", how]
    name = f"`{record['cell']['dataset'].partition(',')[0]}`{''.join(record['cell']['dataset'].partition(',')[1:])}"
    best = max(dice.values())
    shown = [f"**{dice[key]:.3f}**" if dice[key] == best else f"{dice[key]:.3f}" for key in ("vote", "chosen")]
    return [name, "" if snr is None else f"{snr}", *estimates, *shown, f"{record['agreement']:.2f}"]


def tables(records: list[Record]) -> Tables:
    """A line a set; simulated ones, then real ones."""
    header = ["images", "SNR", "noise", "size", "chosen vote", "vote", "chosen", "agreement with noisier images"]
    simulated = [record for record in records if record["cell"]["snr"] is not None]
    real = [record for record in records if record["cell"]["snr"] is None]
    both = {"first labels, simulated": simulated, "first labels, real": real}
    return {name: markdown(header, [row_of(record) for record in some]) for name, some in both.items()}


STUDY = Study(
    name="first_labels",
    cells=[{"dataset": name, "snr": snr} for name in CHANGED for snr in SNRS]
    + [{"dataset": name, "snr": None} for name in REAL],
    trial=run_trial,
    seconds=8,
    tables=tables,
    page="docs/results/label_free.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
