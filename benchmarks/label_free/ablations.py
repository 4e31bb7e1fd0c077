"""The label-free recipe with one ingredient changed at a time, scored on validation lists: tables of what was found.

The options that these trials tried added nothing and have left the code; they were run at commit a715d67, by
``python benchmarks/label_free.py --ablations`` there.

    python benchmarks/label_free/ablations.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the repository root, not this folder

import numpy as np

from benchmarks.grid import Record, Study, Tables, markdown, run_study
from benchmarks.label_free.tables import values_of
from utils.cli import UserError, run_command

DATASETS = ("er_sim", "mito_sim", "nuc_sim", "nuc")
ROWS = {
    "as it is": "**`best` as it is**",
    "two networks": "two networks: a second one learns the masks of the first",
    "never refreshed": "never refreshed",
    "refreshed by the audit": "refreshed by the audit",
    "refreshed by DMI": "refreshed by DMI",
    "no average of weights": "no average of weights",
    "flips averaged": "predictions averaged over flips",
    "plain z-score": "z-score",
    "density as target": "`density(bandwidth=1)` as the loss",
    "DMI and IoU losses": "DMI and IoU as the loss",
    "contrast masks": "masks by contrast",
    "ridges first": "ridge filter first",
    "Otsu first": "Otsu first",
    "sampled masks": "a tenth of the masks' pixels (`sample:0.1`)",
    "sampled masks, masks by DMI": "the same, masks by DMI",
    "EMS": "EMS",
    "EMS, masks by DMI": "EMS, masks by DMI",
    "EMS, sampling annealed to 1": "EMS, sampling annealed to 1",
    "multi-scale skeletons": "EMS with skeletons of three scales",
    "EMS, density as target": "EMS, `density(bandwidth=2)` as the loss",
    "EMS, density as target, masks by DMI": "the same, masks by DMI",
    "published, from the vote": "`published`, but the vote first",
}


def tables(records: list[Record]) -> Tables:
    """Dice, in brackets at the best threshold, means of the seeds; AUC, mean of the sets."""
    rows = []
    for name, shown in ROWS.items():
        mean = {
            metric: [float(np.mean(values_of(records, name, dataset, metric))) for dataset in DATASETS]
            for metric in ("dice", "oracle_dice", "auc")
        }
        pairs = zip(mean["dice"], mean["oracle_dice"], strict=True)
        rows.append([shown, *(f"{dice:.3f} ({oracle:.3f})" for dice, oracle in pairs), f"{np.mean(mean['auc']):.3f}"])
    return {"label_free ablations": markdown(["", *(f"`{name}`" for name in DATASETS), "AUC"], rows)}


def refuse(**cell: object) -> NoReturn:
    """The options of these trials are gone."""
    raise UserError("the options that these trials need have left the code: run them at commit a715d67")


STUDY = Study(
    name="label_free_ablations",
    cells=[
        {"method": name, "dataset": dataset, "seed": seed, "epochs": 5}
        for name in ROWS
        for dataset in DATASETS
        for seed in (0, 1)
    ],
    trial=refuse,
    seconds=40,
    tables=tables,
    page="docs/LABEL_FREE.md",
)

if __name__ == "__main__":
    run_command(lambda: run_study(STUDY, __doc__))
