"""Signals and streams, in processes of their own: the first signal unwinds, the second ends, lost output is no end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from utils.run_folder import REPO_ROOT
from utils.signals import STOP_SIGNALS

WAITS = """
import time
from utils.cli import run_command
def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("tidied up", flush=True)
run_command(main)
"""
TAKES_LONG = """
import hashlib
from utils.cli import run_command
def main():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha512", b"one long call", b"of a library", 10**9)
run_command(main)
"""
ANSWERED_BY_AN_ERROR = """
import time
from utils.cli import run_command
def main():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except BaseException:
        raise ImportError("initialization failed") from None
run_command(main)
"""
SWALLOWS = """
import time
print("ready", flush=True)
try:
    time.sleep(1)
except BaseException:
    pass
"""
IMPORTS = """
import sys, time
from utils.cli import run_command
def main():
    sys.path.insert(0, {folder!r})
    import swallows
    try:
        time.sleep(60)
    finally:
        print("tidied up", flush=True)
run_command(main)
"""
TIDIES_LONG = """
import time
from utils.cli import run_command
def main():
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        time.sleep(60)
run_command(main)
"""
PRINTS = """
import os, sys, time
from utils.cli import run_command
def main():
    for number in range(20000):
        print("a line", number)
        print("another", file=sys.stderr)
    with open(sys.argv[1], "w") as done:
        for _ in range(2):  # as a library in C warns
            os.write(2, b"warning\\n")
            time.sleep(0.4)
        done.write("done")
run_command(main)
"""


def hear_signals() -> None:
    """In a child: hear what a shell in the background, or ``nohup``, may have had this process ignore."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def started(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPO_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_unwinds_and_its_number_is_in_the_exit_status(number):
    process = started(WAITS)
    process.send_signal(number)
    out, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number and out == "tidied up\n"
    assert "Traceback" not in error


def test_a_library_that_answers_a_signal_by_an_error_does_not_change_the_exit_status():
    process = started(ANSWERED_BY_AN_ERROR)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (128 + signal.SIGTERM, "stopped by SIGTERM\n")


def test_a_stop_amid_an_import_is_raised_after_it(tmp_path):
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    process = started(IMPORTS.format(folder=str(tmp_path)))
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (128 + signal.SIGTERM, "tidied up\n", "stopped by SIGTERM\n")


def test_a_stop_that_was_swallowed_is_in_the_exit_status():
    main = f"def main():\n{textwrap.indent(SWALLOWS, '    ')}"
    process = started(f"from utils.cli import run_command\n{main}\nrun_command(main)")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("code", [TAKES_LONG, TIDIES_LONG])
def test_a_second_signal_waits_for_nothing(code):
    process = started(code)
    for _ in range(2):
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == 128 + signal.SIGTERM


def test_signals_of_forked_workers_are_not_counted():
    code = WAITS.replace(
        "    try:\n",
        """    import os, signal
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(0)
    os.waitpid(child, 0)
    try:
""",
        1,
    )
    process = started(code)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "tidied up\n")


def test_what_is_ignored_stays_ignored():
    ignoring = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{WAITS}"
    process = started(ignoring)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


@pytest.mark.parametrize(
    "redirection", ["> /dev/full", "2> /dev/full", ">&-", "2>&-", ">&- 2>&-", "<&- 2>&-", "| head -1"]
)
def test_lost_output_does_not_end_the_work(tmp_path, redirection):
    if "/dev/full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    done = tmp_path / "done"
    (tmp_path / "prints.py").write_text(PRINTS)
    command = f"set -o pipefail; {sys.executable} {tmp_path}/prints.py {done} {redirection}"
    answer = subprocess.run(
        ["bash", "-c", command],
        cwd=REPO_ROOT,
        env={**os.environ, "PYTHONPATH": str(REPO_ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert answer.returncode == 0 and done.read_text() == "done"


def test_a_current_folder_that_is_gone_is_named(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    (tmp_path / "waits.py").write_text(WAITS)
    command = ["bash", "-c", f"rmdir {gone}; exec {sys.executable} {tmp_path}/waits.py"]
    answer = subprocess.run(
        command, cwd=gone, env={**os.environ, "PYTHONPATH": str(REPO_ROOT)}, capture_output=True, text=True
    )
    assert answer.returncode == 2 and "the current folder was removed" in answer.stderr
