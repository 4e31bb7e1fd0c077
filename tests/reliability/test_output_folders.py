"""A command replaces what it wrote before, and touches nothing else; a command that fails leaves the previous whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from utils.cli import UserError
from utils.output_folder import Writer, new_folder, replaced_output, try_output
from utils.run_folder import REPO_ROOT
from utils.run_lock import run_lock

NOTES = Writer("notes", "notes.json", keys=("pages",), others=("cover.txt",))
FIGURES = Writer("figures", "figures.json", keys=("count",))


def write(folder: Path, names: dict[str, str], **settings: object) -> None:
    with replaced_output(folder, NOTES, **settings) as partial:
        for name, content in {**names, "notes.json": '{"pages": 1}'}.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(content)


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_what_was_written_before_is_replaced_and_all_else_stays(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/mine.txt").write_text("precious")
    write(tmp_path, {"pages/1.txt": "one", "pages/old/2.txt": "two"})
    with replaced_output(tmp_path, FIGURES) as partial:
        (partial / "figures.json").write_text("of the first")
    write(tmp_path, {"pages/1.txt": "new"}, outdated=[FIGURES])
    assert content(tmp_path) == {"pages/1.txt": "new", "pages/mine.txt": "precious", "notes.json": '{"pages": 1}'}
    assert not (tmp_path / "pages/old").exists()


@pytest.mark.parametrize("expected", [(), ("cover.txt",)])
def test_a_file_in_the_way_that_is_not_recorded_is_refused(tmp_path, expected):
    (tmp_path / "cover.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds cover\.txt, which this command did not write"):
        write(tmp_path, {"cover.txt": "ours"}, expected=expected)
    assert content(tmp_path) == {"cover.txt": "precious"}


@pytest.mark.parametrize("taken", ["pages/1.txt", "pages", "notes.json"])
def test_what_cannot_be_replaced_is_refused_and_the_previous_output_stays(tmp_path, taken):
    write(tmp_path, {"pages/1.txt": "one", "0.txt": "zero"})
    path = tmp_path / taken
    if taken == "pages":
        (path / "1.txt").unlink()
        path.rmdir()
        path.write_text("a file in the place of a folder")
    else:
        path.unlink()
        path.mkdir()
        (path / "mine.txt").write_text("precious")
    before = content(tmp_path)
    with pytest.raises(UserError, match=f"holds {taken}, which this command did not write"):
        write(tmp_path, {"pages/1.txt": "new", "0.txt": "new"})
    assert content(tmp_path) == before


def test_files_of_an_earlier_version_are_known_by_their_describing_file(tmp_path):
    (tmp_path / "notes.json").write_text('{"pages": 3}')
    (tmp_path / "cover.txt").write_text("ours, of before")
    write(tmp_path, {"1.txt": "one"})
    assert content(tmp_path) == {"1.txt": "one", "notes.json": '{"pages": 1}'}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.json").write_text('["another program"]')
    with pytest.raises(UserError, match=r"notes\.json, which this command did not write"):
        write(foreign, {})


def test_a_runs_own_files_are_not_those_of_an_earlier_version(tmp_path):
    (tmp_path / "notes.json").write_text('{"pages": 3}')
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"notes\.json, which this command did not write"):
        write(tmp_path, {})


def test_a_trial_refuses_what_the_work_would_and_leaves_all_as_it_was(tmp_path):
    for folder in (tmp_path / "a/b", tmp_path):
        try_output(folder, NOTES, expected=["notes.json", "pages/1.txt"])
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/1.txt").write_text("mine")
    with pytest.raises(UserError, match=r"pages/1\.txt, which this command did not write"):
        try_output(tmp_path, NOTES, expected=["notes.json", "pages/1.txt"])
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]
    with pytest.raises(NotADirectoryError):
        try_output(tmp_path / "pages/1.txt/a", NOTES)


@pytest.mark.parametrize("job", [None, {"input": "a"}])
def test_work_that_fails_leaves_the_previous_output_whole(tmp_path, job):
    write(tmp_path, {"1.txt": "one"})
    before = content(tmp_path)
    with pytest.raises(ZeroDivisionError), replaced_output(tmp_path, NOTES, job=job) as partial:
        (partial / "1.txt").write_text("half")
        raise ZeroDivisionError
    assert {name: text for name, text in content(tmp_path).items() if not name.startswith(".partial")} == before


@pytest.mark.parametrize("there", ["", "a", "a/b", "a/b/mine"])
def test_work_that_fails_leaves_no_folder_that_it_made(tmp_path, there):
    folder = tmp_path / "a/b"
    if there:
        (tmp_path / there).mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), replaced_output(folder, NOTES) as partial:
        (partial / "1.txt").write_text("half")
        raise ZeroDivisionError
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {parent.as_posix() for parent in (Path(there), *Path(there).parents)} - {"."}
    with pytest.raises(ZeroDivisionError), replaced_output(folder, NOTES, job={"input": "a"}):
        raise ZeroDivisionError
    assert (folder / ".partial/job.json").is_file()  # what a rerun goes on with


def test_a_failure_leaves_the_lock_file_that_was_there(tmp_path):
    write(tmp_path, {"1.txt": "one"})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), replaced_output(tmp_path, NOTES):
        raise ZeroDivisionError
    assert sorted(tmp_path.iterdir()) == before and tmp_path / ".lock" in before


def test_an_equal_job_goes_on_and_another_starts_anew(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), replaced_output(tmp_path, NOTES, job={"input": "a"}) as partial:
            seen = (partial / "1.txt").exists()
            (partial / "1.txt").write_text("done")
            raise ZeroDivisionError
    assert seen
    with replaced_output(tmp_path, NOTES, job={"input": "b"}) as partial:
        assert not (partial / "1.txt").exists()
        (partial / "notes.json").write_text("{}")
    assert content(tmp_path) == {"notes.json": "{}"} and not (tmp_path / ".partial").exists()


@pytest.mark.parametrize("job", [None, {"input": "a"}])
def test_a_partial_folder_of_somebody_else_is_refused(tmp_path, job):
    partial = tmp_path / (".partial" if job else ".partial-notes")
    partial.mkdir()
    (partial / ".job.json.12345.tmp").touch()  # killed at once
    write(tmp_path, {"1.txt": "one"}, job=job)
    partial.mkdir()
    (partial / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds mine\.txt and no job\.json"):
        write(tmp_path, {"1.txt": "new"}, job=job)
    assert (partial / "mine.txt").read_text() == "precious" and (tmp_path / "1.txt").read_text() == "one"
    (partial / "job.json").write_text("{}")
    partial.rename(tmp_path / "elsewhere")
    partial.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=partial.name):
        write(tmp_path, {"1.txt": "new"}, job=job)
    assert (tmp_path / "elsewhere/mine.txt").exists()


def test_a_link_to_another_disk_is_refused_before_the_previous_output_goes(tmp_path):
    disk = Path("/dev/shm")
    if not disk.is_dir() or disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    write(tmp_path, {"pages/1.txt": "one"})
    with tempfile.TemporaryDirectory(dir=disk) as elsewhere:
        (tmp_path / "pages").rename(tmp_path / "moved")
        (tmp_path / "pages").symlink_to(elsewhere)
        before = content(tmp_path)
        with pytest.raises(UserError, match="lies on another disk"):
            write(tmp_path, {"pages/1.txt": "new"})
        assert content(tmp_path) == before


HOLD = """
import sys, time
from pathlib import Path
from utils.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_that_another_process_writes_to_is_refused_by_its_number(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {other.pid} on "):
            write(tmp_path, {})
        other.kill()
        other.wait()
        with run_lock(tmp_path):
            pass


STOPPED = """
import os, signal, sys
from pathlib import Path
from utils.cli import run_command
from utils.output_folder import Writer, new_folder, replaced_output, try_output

def stopped(move):
    def stopped_at_first(*paths):
        os.kill(os.getpid(), signal.SIGTERM)
        return move(*paths)
    return stopped_at_first

def main():
    folder = Path(sys.argv[1])
    notes = Writer("notes", "notes.json", ())
    filled = new_folder(folder) if sys.argv[2] == "whole" else replaced_output(folder, notes)
    with filled as fresh:
        (fresh / "1.txt").write_text("new")
        (fresh / "notes.json").write_text("{}")
        name = "rename" if sys.argv[2] == "whole" else "replace"
        setattr(os, name, stopped(getattr(os, name)))
    print("done")

run_command(main)
"""


@pytest.mark.parametrize("how", ["whole", "beside others"])
def test_a_signal_amid_the_swap_is_answered_after_it(tmp_path, how):
    folder = tmp_path / "labels"
    write(folder, {"1.txt": "old", "2.txt": "old"})
    command = [sys.executable, "-c", STOPPED, str(folder), how]
    answer = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True)
    assert answer.returncode == 128 + signal.SIGTERM and "Traceback" not in answer.stderr
    assert content(folder) == {"1.txt": "new", "notes.json": "{}"}
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".old"] == []


def test_a_recorded_name_outside_the_folder_is_not_removed(tmp_path):
    (tmp_path / "other.txt").write_text("precious")
    folder = tmp_path / "out"
    write(folder, {})
    (folder / ".written.json").write_text('{"notes": ["../other.txt", "notes.json"]}')
    write(folder, {})
    assert (tmp_path / "other.txt").read_text() == "precious"


KILLED = """
import os, signal, sys
from pathlib import Path
from utils.output_folder import new_folder
folder, when = Path(sys.argv[1]), sys.argv[2]
rename = os.rename
def kill_after_first(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
with new_folder(folder) as fresh:
    (fresh / "1.png").write_text("new")
    if when == "filling":
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename = kill_after_first
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("when", ["filling", "swapping"])
def test_what_a_kill_leaves_of_a_folder_that_is_replaced_is_tidied_up(tmp_path, when):
    folder = tmp_path / "labels_x"
    (tmp_path / ".labels_x.tmp").mkdir()  # of somebody else
    for name in ("labels_x", "labels_y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_text("before")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), when])
    assert killed.returncode == -9 and folder.exists() == (when == "filling")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "labels_y"):
        raise ZeroDivisionError
    assert (folder / "1.png").read_text() == (tmp_path / "labels_y/1.png").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".labels_x.tmp", "labels_x", "labels_y"]
