"""A study is a resumable grid of trials: one line of JSON a trial, tables in docs/ made from them.

Finished trials are kept, so that a study can be stopped and gone on with; ``--part k/K`` lets several processes, also
of several machines that share the folder, work on one. A trial that fails is reported at the end and costs no other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import shutil
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli import CommandParser, UserError
from utils.files import append_jsonl, atomic_write, read_jsonl
from utils.run_folder import LOG_ROOT, REPO_ROOT, display_path, environment_record
from utils.run_lock import run_lock

Cell = dict[str, Any]  # what a trial differs by from the others, JSON values by name
Record = dict[str, Any]  # ``{"cell": …, "seconds": …, what the trial found, "environment": …}``
Tables = dict[str, str]  # Markdown by the name of its place in a page

RESULTS = REPO_ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Study:
    """What a benchmark tries and how its results are shown.

    Args:
        name: of the file of results, ``benchmarks/results/<name>.jsonl``.
        cells: all of its trials.
        trial: takes a cell's values by name and returns what it found.
        seconds: a trial takes, about; measured ones take its place.
        tables: of finished trials, in the order of the cells; see ``write_tables``.
        page: file in docs/ that holds the tables.
        draw: makes the pictures of the page from finished trials.
    """

    name: str
    cells: Sequence[Cell]
    trial: Callable[..., dict[str, Any]]
    seconds: float
    tables: Callable[[list[Record]], Tables]
    page: str
    draw: Callable[[list[Record]], None] | None = None

    @property
    def results(self) -> Path:
        """Where the finished trials that the repository keeps are."""
        return RESULTS / f"{self.name}.jsonl"


def read_results(path: Path) -> dict[str, Record]:
    """Finished trials by the key of their cell; a line that is no record, broken or cut by a crash, is none."""
    return {key(record["cell"]): record for record in read_jsonl(path) if isinstance(record.get("cell"), dict)}


def key(cell: Cell) -> str:
    """A cell as text, the same for equal cells."""
    return json.dumps(cell, sort_keys=True)


def finished(cells: Sequence[Cell], path: Path) -> list[Record]:
    """The records of those cells that are finished, in their order."""
    records = read_results(path)
    return [records[key(cell)] for cell in cells if key(cell) in records]


@contextmanager
def claimed(cell: Cell, path: Path) -> Iterator[bool]:
    """Whether this process alone tries a cell of a file of results, while the context lasts."""
    name = hashlib.sha256(f"{path.resolve()} {key(cell)}".encode()).hexdigest()[:16]
    folder = LOG_ROOT / ".trials" / name
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(run_lock(folder))
        except UserError:  # another process has it
            yield False
            return
        yield True
    shutil.rmtree(folder, ignore_errors=True)


def run_trials(
    cells: Sequence[Cell], trial: Callable[..., dict[str, Any]], path: Path, *, seconds: float, until: float = math.inf
) -> dict[str, str]:
    """Try the cells that are not finished and append what each found. No two processes try the same.

    Args:
        seconds: that a trial takes, as long as none in the file was timed.
        until: time by ``time.monotonic`` by which all is to be done: a trial that takes longer is not begun.
    Returns: the cells that failed, as text, with the error of each.
    """
    records, failed = read_results(path), {}
    open_cells = [cell for cell in cells if key(cell) not in records]
    timed = [record["seconds"] for record in records.values() if record.get("seconds") is not None]
    seconds = statistics.median(timed) if timed else seconds
    print(
        f"{len(cells)} trials, {len(cells) - len(open_cells)} finished; {len(open_cells)} to do at about "
        f"{seconds:.0f} s each: {len(open_cells) * seconds / 60:.0f} min",
        flush=True,
    )
    for cell in open_cells:
        if time.monotonic() + seconds > until:
            print("the time is up; the same command goes on where this one ends", flush=True)
            break
        with claimed(cell, path) as mine:
            if not mine or key(cell) in read_results(path):  # by another process meanwhile
                continue
            name, started = " ".join(map(str, cell.values())), time.monotonic()
            print(f"== {name}", flush=True)
            try:
                found = trial(**cell)
            except Exception as error:
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {error}"
                continue
            append_record(path, {"cell": cell, "seconds": time.monotonic() - started, **found})
    return failed


def append_record(path: Path, record: Record) -> None:
    """Append a record on a line of its own, also after one that a crash has cut, with its environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b"\n":
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n")
    append_jsonl(path, {"environment": environment_record(), **record})


def write_tables(page: Path, tables: Tables) -> None:
    """Put each table between ``<!-- table NAME -->`` and ``<!-- end table -->`` of a page; all else stays."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = replace_table(text, name, table)
    with atomic_write(page) as file:
        file.write(text.encode())


def replace_table(text: str, name: str, table: str) -> str:
    """A page's text with one table put in its place.

    Raises:
        UserError: the page has no such place.
    """
    place = re.compile(rf"(<!-- table {re.escape(name)} -->\n).*?(<!-- end table -->)", re.DOTALL)
    if not place.search(text):
        raise UserError(f"the page has no place for the table {name}: add <!-- table {name} --> … <!-- end table -->")
    return place.sub(lambda found: f"{found[1]}{table.strip()}\n{found[2]}", text, count=1)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(
        ["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
    )


def parse_arguments(study: Study, description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a study."""
    parser = CommandParser(description=description.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="try these data sets, which have lists, instead")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME=VALUE", help="cells of this value, such as spec=flip:0.3"
    )
    parser.add_argument("--part", default="1/1", metavar="k/K", help="work on every K-th cell, from the k-th")
    parser.add_argument("--out", type=Path, default=study.results, metavar="FILE", help="where the trials are kept")
    parser.add_argument("--list", action="store_true", help="print the cells, those finished marked with ×")
    parser.add_argument("--summarize", action="store_true", help="no trial: write tables and pictures of finished ones")
    return parser.parse_args(arguments)


def on_datasets(cells: Sequence[Cell], datasets: Sequence[str]) -> list[Cell]:
    """The cells on other data sets, each once."""
    moved = [{**cell, "dataset": name} for name in datasets for cell in cells]
    return list({key(cell): cell for cell in moved}.values())


def choose_cells(cells: Sequence[Cell], datasets: Sequence[str] | None, only: Sequence[str], part: str) -> list[Cell]:
    """The cells of a study that the command line asks for.

    Raises:
        UserError: nothing has such a value, or the part is none.
    """
    if datasets:
        cells = on_datasets(cells, datasets)
    for condition in only:
        name, _, value = condition.partition("=")
        chosen = [cell for cell in cells if name in cell and str(cell[name]) == value]
        if not chosen:
            known = {name: sorted({str(cell[name]) for cell in cells if name in cell}) for name in cells[0]}
            raise UserError(f"--only {condition}: no cell has that value; there are {known}")
        cells = chosen
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise UserError(f"--part {part} must be k/K with k from 1 to K")
    return list(cells[int(number) - 1 :: int(parts)])


def run_study(study: Study, description: str | None, arguments: Sequence[str] | None = None) -> None:
    """The command of a study: try what is not finished, or write tables and pictures of what is.

    Raises:
        SystemExit: with status 1 when trials failed, after naming them.
    """
    options = parse_arguments(study, description, arguments)
    cells = choose_cells(study.cells, options.datasets, options.only, options.part)
    if options.list:
        list_cells(cells, options.out)
    elif options.summarize:
        summarize(study, options.out)
    else:
        failed = run_trials(cells, study.trial, options.out, seconds=study.seconds)
        tell_outcome(failed, options.out)


def list_cells(cells: Sequence[Cell], path: Path, title: str = "") -> None:
    """Print cells, those finished in a file of results marked with ×."""
    records = read_results(path)
    print(*(f"{'×' if key(cell) in records else ' '} {title}{key(cell)}" for cell in cells), sep="\n")


def tell_outcome(failed: Mapping[str, str], out: Path) -> None:
    """Say where results are and what comes next.

    Raises:
        SystemExit: with status 1 when trials failed, after naming them.
    """
    for name, error in failed.items():
        print(f"failed: {name}: {error}")
    if failed:
        raise SystemExit(1)
    print(f"written to {display_path(out)}; next: the same command with --summarize")


def summarize(study: Study, path: Path) -> None:
    """Print the tables of finished trials and name the others; what the repository keeps also goes into its page."""
    records = finished(study.cells, path)
    if not records:
        raise UserError(f"{display_path(path)} has no finished trial of this study")
    tables = study.tables(records)
    print(*tables.values(), sep="\n\n")
    done = {key(record["cell"]) for record in records}
    missing = [key(cell) for cell in study.cells if key(cell) not in done]
    print("\nmissing:", ", ".join(missing) or "none")
    if path.resolve() == study.results:
        write_tables(REPO_ROOT / study.page, tables)
        if study.draw is not None:
            study.draw(records)
