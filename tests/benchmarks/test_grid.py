"""Studies: trials that are kept, gone on with and shared; tables in docs/ that are what the results say."""

from __future__ import annotations

import importlib
import json

import pytest

from benchmarks.grid import (
    REPO_ROOT,
    RESULTS,
    Study,
    append_record,
    choose_cells,
    finished,
    key,
    read_results,
    replace_table,
    run_study,
    run_trials,
)
from benchmarks.protocol.cells import TABLES
from benchmarks.speed.record import table as speed_table
from utils.cli import UserError

CELLS = [{"dataset": name, "spec": spec} for name in ("one", "two") for spec in ("clean", "flip:0.3")]
STUDIES = (
    *("audit.noise_grid", "audit.noise_costs", "audit.classes", "audit.planted_errors"),
    *(
        "audit.human_labels",
        "audit.annotators",
        "audit.clean_labels",
        "audit.pilots",
        "audit.recipe",
        "audit.thresholds",
    ),
    *(
        "comparison.smp",
        "comparison.other_labs",
        "label_free.methods",
        "label_free.ablations",
        "label_free.first_labels",
    ),
)


def count_letters(dataset: str, spec: str) -> dict[str, int]:
    return {"letters": len(dataset + spec)}


def make_study() -> Study:
    return Study(
        name="test", cells=CELLS, trial=count_letters, seconds=1, tables=lambda records: {}, page="docs/results/none.md"
    )


def test_finished_trials_are_kept_and_failed_ones_tried_again(tmp_path, capsys):
    path, tried = tmp_path / "results/test.jsonl", []

    def fail_once(dataset: str, spec: str) -> dict[str, int]:
        tried.append((dataset, spec))
        if len(tried) == 2:
            raise ValueError("a flaw")
        return count_letters(dataset, spec)

    assert run_trials(CELLS, fail_once, path, seconds=90) == {"one flip:0.3": "ValueError: a flaw"}
    assert "4 trials, 0 finished; 4 to do at about 90 s each: 6 min" in capsys.readouterr().out
    before = read_results(path)
    assert run_trials(CELLS, fail_once, path, seconds=90) == {}
    assert "4 trials, 3 finished; 1 to do at about 0 s each" in capsys.readouterr().out
    assert tried == [*(tuple(cell.values()) for cell in CELLS), ("one", "flip:0.3")]
    records = finished(CELLS, path)
    assert [record["cell"] for record in records] == CELLS and len(before) == 3
    assert all(record["letters"] == len("".join(record["cell"].values())) for record in records)
    assert records[0]["environment"]["versions"]["torch"] and records[0]["seconds"] >= 0


def test_a_line_cut_by_a_crash_costs_one_trial(tmp_path):
    path = tmp_path / "test.jsonl"
    append_record(path, {"cell": CELLS[0], "seconds": 1})
    append_record(path, {"cell": CELLS[1], "seconds": 1})
    path.write_bytes(path.read_bytes()[:-40])
    assert list(read_results(path)) == [key(CELLS[0])]
    append_record(path, {"cell": CELLS[2], "seconds": 1})
    assert [record["cell"] for record in finished(CELLS, path)] == [CELLS[0], CELLS[2]]


def test_parts_share_the_cells_and_skip_what_others_finished(tmp_path):
    parts = [choose_cells(CELLS, None, [], f"{part}/3") for part in (1, 2, 3)]
    assert sorted(key(cell) for part in parts for cell in part) == sorted(map(key, CELLS))
    path = tmp_path / "test.jsonl"

    def finish_all(dataset: str, spec: str) -> dict[str, int]:
        for cell in CELLS[1:]:  # another process
            append_record(path, {"cell": cell, "seconds": 1, "other": True})
        return {}

    assert run_trials(CELLS, finish_all, path, seconds=1) == {}
    assert len(path.read_text().splitlines()) == len(CELLS)


def test_cells_are_chosen_by_value_and_data_set():
    assert choose_cells(CELLS, None, ["spec=clean"], "1/1") == [CELLS[0], CELLS[2]]
    assert choose_cells(CELLS, ["mine"], [], "1/1") == [{**cell, "dataset": "mine"} for cell in CELLS[:2]]
    with pytest.raises(UserError, match="--only spec=dilate:3: no cell has that value"):
        choose_cells(CELLS, None, ["spec=dilate:3"], "1/1")
    for part in ("3/2", "0/2", "x", "1"):
        with pytest.raises(UserError, match=f"--part {part} must be k/K"):
            choose_cells(CELLS, None, [], part)


def test_the_command_names_failed_trials_and_ends_with_status_1(tmp_path, capsys):
    study, out = make_study(), tmp_path / "test.jsonl"
    run_study(study, "A test.", ["--out", str(out), "--only", "dataset=one"])
    run_study(study, "A test.", ["--out", str(out), "--list"])
    assert capsys.readouterr().out.count("× ") == 2
    broken = Study(**{**vars(study), "trial": lambda dataset, spec: 1 / 0})
    with pytest.raises(SystemExit) as stopped:
        run_study(broken, "A test.", ["--out", str(out)])
    assert stopped.value.code == 1
    assert "failed: two clean: ZeroDivisionError" in capsys.readouterr().out


def test_tables_are_put_between_their_marks_alone():
    page = "before\n<!-- table a -->\nold\n<!-- end table -->\nafter\n<!-- table b -->\n<!-- end table -->\n"
    changed = replace_table(page, "a", "| new \\1 |\n")
    assert changed == page.replace("old", "| new \\1 |") and replace_table(changed, "a", "| new \\1 |") == changed
    with pytest.raises(UserError, match="no place for the table c"):
        replace_table(page, "c", "")


@pytest.mark.parametrize("name", STUDIES)
def test_tables_in_the_docs_are_those_of_the_results(name):
    study = importlib.import_module(f"benchmarks.{name}").STUDY
    records = finished(study.cells, study.results)
    assert len(records) == len(study.cells) == len(read_results(study.results))
    text = (REPO_ROOT / study.page).read_text(encoding="utf-8")
    tables = study.tables(records)
    assert tables
    for place, table in tables.items():
        assert replace_table(text, place, table) == text, f"{study.page}: run benchmarks/{name} with --summarize"


@pytest.mark.parametrize("name", ["speed", "gpu"])
def test_the_speed_tables_in_the_docs_are_those_of_the_results(name):
    text = (REPO_ROOT / "docs/SPEED.md").read_text(encoding="utf-8")
    records = list(read_results(RESULTS / f"{name}.jsonl").values())
    assert records and replace_table(text, name, speed_table(records)) == text


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no strict JSON")


def test_every_result_belongs_to_a_script_and_is_strict_json():
    scripts = "".join(path.read_text(encoding="utf-8") for path in (REPO_ROOT / "benchmarks").rglob("*.py"))
    results = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert [path for path in results if path.suffix != ".jsonl"] == []
    for path in results:
        of_study = path.parent.name == "study" and path.stem in TABLES
        assert of_study or f'name="{path.stem}"' in scripts or path.name in scripts
        for line in path.read_text(encoding="utf-8").splitlines():
            assert {"environment"} <= set(json.loads(line, parse_constant=refuse))
