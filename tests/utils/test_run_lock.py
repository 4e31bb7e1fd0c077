"""A run has one owner, who is named; the lock dies with its process and is not inherited by children."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import run_lock as run_lock_module
from utils.cli import RunFailed, UserError
from utils.run_folder import REPO_ROOT
from utils.run_lock import LOCK, check_owned, remove_temporary_files, run_lock

HOLD = """
import subprocess, sys, time
from pathlib import Path
from utils.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    print(child.pid, flush=True)
    time.sleep(60)
"""


TAKE = """
import sys
from pathlib import Path
from utils.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    pass
"""


@pytest.fixture
def owner(tmp_path: Path):
    """A process that owns ``tmp_path``, and the number of a child of it that outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=REPO_ROOT, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    os.kill(child, signal.SIGKILL)


def test_a_second_owner_is_refused_and_told_who_the_first_is(owner, tmp_path):
    with pytest.raises(UserError, match=f"in use by process {owner.pid} on"), run_lock(tmp_path):
        pytest.fail("two owners")


def test_the_lock_is_gone_with_a_killed_owner_though_its_child_lives(owner, tmp_path):
    owner.kill()
    owner.wait()
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_forked_children_do_not_keep_the_lock(tmp_path):
    with run_lock(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        subprocess.run([sys.executable, "-c", TAKE, str(tmp_path)], cwd=REPO_ROOT, check=True)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_run_can_be_owned_again_after_a_failure(tmp_path):
    with pytest.raises(RuntimeError), run_lock(tmp_path):
        raise RuntimeError("training failed")
    with run_lock(tmp_path):
        pass


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that knows no locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_without_locks_a_live_process_of_this_host_is_respected(without_locks, tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"host": platform.node(), "process": os.getppid(), "since": "now"}))
    with pytest.raises(UserError, match=f"process {os.getppid()}"), run_lock(tmp_path):
        pytest.fail("two owners")


@pytest.mark.parametrize("content", ["", "\0\0", '{"host', '{"host": "elsewhere", "process": 1}', '{"host": 1}'])
def test_without_locks_the_run_goes_on_and_says_so(without_locks, tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    said = []
    with run_lock(tmp_path, said.append):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert len(said) == 1 and "no locks" in said[0]


def test_a_lock_file_that_its_owner_removes_is_made_anew(tmp_path, monkeypatch):
    lock, removals = run_lock_module._lock, iter([True])

    def lock_after_removal(file):
        lock(file)
        if next(removals, False):
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(run_lock_module, "_lock", lock_after_removal)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
        check_owned(tmp_path)
        (tmp_path / LOCK).rename(tmp_path / "moved")
        with pytest.raises(RunFailed, match="removed, renamed or replaced"):
            check_owned(tmp_path)


@pytest.mark.parametrize("kind", ["file", "link", "pipe"])
def test_a_lock_file_of_something_else_is_refused_and_stays(tmp_path, kind):
    precious = tmp_path / (LOCK if kind == "file" else "precious.txt")
    precious.write_text('{"pages": 3}')
    if kind == "link":
        (tmp_path / LOCK).symlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(tmp_path / LOCK)
    with pytest.raises(UserError, match=r"\.lock is a (file of something else|link)"), run_lock(tmp_path):
        pytest.fail("owned")
    assert precious.read_text() == '{"pages": 3}'


def test_temporary_files_of_dead_writers_are_removed_and_nothing_else(tmp_path):
    for name in (".last.pth.12345.tmp", "last.pth", "notes.tmp", ".hidden"):
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "last.pth", "notes.tmp"]
