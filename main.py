"""Train a segmentation network: ``python main.py --dataset er``. See ``python main.py --help`` and README.md."""

from __future__ import annotations

from training.options import parse_given
from utils.cli import run_command


def main() -> None:
    """Parse the command line, then train."""
    given = parse_given()
    from training.fit import configure, fit  # imports torch: not before --help has been answered

    fit(configure(given))


if __name__ == "__main__":
    run_command(main)
