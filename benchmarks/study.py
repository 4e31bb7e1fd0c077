"""The study: the paper's claims, rival methods, and labels as people make them, under one protocol.

Each table is a grid of trials, a line of ``benchmarks/results/study/TABLE.jsonl`` each. Finished ones are kept, so the
study can be stopped and gone on with, and any number of processes that share the folder work on it. Real images must
have lists: ``python datasets/make_lists.py --dataset NAME --source FOLDER``.

    python benchmarks/study.py --tables real --seeds 1 --budget 90
    python benchmarks/study.py --summarize
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, not this folder

import argparse
import time
from collections.abc import Sequence

from benchmarks.grid import RESULTS, list_cells, read_results, run_trials, tell_outcome, write_tables
from benchmarks.protocol.cells import STEPS, TABLES, WIDTH, cells_of
from utils.cli import CommandParser, UserError, run_command, whole_number
from utils.run_folder import REPO_ROOT, display_path

FOLDER = RESULTS / "study"
PAGE = REPO_ROOT / "docs" / "results" / "README.md"
SECONDS = 90.0  # that a trial takes, before one was timed


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--tables", nargs="+", choices=tuple(TABLES), default=list(TABLES), metavar="NAME", help=", ".join(TABLES))
    add("--datasets", nargs="+", metavar="NAME", help="these data sets, which have lists, instead")
    add("--seeds", type=whole_number(1), default=3, metavar="S", help="seeds from 0 (default: 3)")
    add("--steps", nargs="+", type=whole_number(1), default=STEPS, metavar="N", help="budgets (default: 300 1000 3000)")
    add("--budget", type=whole_number(1), metavar="MINUTES", help="begin no trial that would end later")
    add("--width", type=whole_number(1), default=WIDTH, metavar="CHANNELS", help="of the U-Net's first level")
    add("--crop", type=whole_number(16), default=128, metavar="PIXELS", help="training window (default: 128)")
    add("--out", type=Path, default=FOLDER, metavar="DIR", help="where the trials are kept")
    add("--list", action="store_true", help="print the trials, those finished marked with ×")
    add("--summarize", action="store_true", help="no trial: write tables and figures of finished ones")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Try what is not finished, table after table.

    Raises:
        SystemExit: with status 1 when trials failed, after naming them.
    """
    from functools import partial

    from benchmarks.protocol.trial import Protocol, run_cell

    until = time.monotonic() + 60 * options.budget if options.budget else float("inf")
    trial, failed = partial(run_cell, Protocol(crop=options.crop)), {}
    for table in options.tables:
        cells = cells_of(table, options.seeds, options.steps, options.width, options.datasets)
        print(f"table {table}:", flush=True)
        failed |= run_trials(cells, trial, options.out / f"{table}.jsonl", seconds=SECONDS, until=until)
    tell_outcome(failed, options.out)


def summarize(out: Path) -> None:
    """Print the tables of finished trials; what the repository keeps also goes into its page, with the figures."""
    from benchmarks.protocol.figures import draw
    from benchmarks.protocol.tables import make_tables

    records = {table: list(read_results(out / f"{table}.jsonl").values()) for table in TABLES}
    if not any(records.values()):
        raise UserError(f"{display_path(out)} has no finished trial of the study")
    tables = make_tables(records)
    print(*tables.values(), sep="\n\n")
    if out.resolve() == FOLDER:
        write_tables(PAGE, tables)
        draw(records, REPO_ROOT / "docs" / "images")


def main(arguments: Sequence[str] | None = None) -> None:
    """List, run or summarize."""
    options = parse_arguments(arguments)
    if options.summarize:
        summarize(options.out)
    elif options.list:
        for table in options.tables:
            cells = cells_of(table, options.seeds, options.steps, options.width, options.datasets)
            list_cells(cells, options.out / f"{table}.jsonl", f"{table} ")
    else:
        run(options)


if __name__ == "__main__":
    run_command(main)
