"""Train a segmentation network: ``python main.py --dataset er``. See ``python main.py --help`` and README.md."""

from __future__ import annotations

import os

from training.options import parse_given
from utils.cli import run_command
from utils.run_folder import find_cross_fit


def main() -> None:
    """Parse the command line, then train one run, or with ``--folds`` several."""
    given = parse_given()
    if os.environ.get("RANK", "0") == "0":  # torchrun starts many
        print("loading torch …", flush=True)  # seconds on a slow disk, in which nothing else would be said
    from training.fit import configure, fit  # imports torch: not before --help has been answered

    cross_fit_folder = find_cross_fit(given.get("resume", ""))
    if "folds" in given or cross_fit_folder:
        from training.run.cross_fit import cross_fit

        cross_fit({**given, **({"resume": str(cross_fit_folder)} if cross_fit_folder else {})}, configure, fit)
    else:
        fit(configure(given))


if __name__ == "__main__":
    run_command(main)
