"""Exit statuses and messages that users and scripts rely on."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys

import pytest

from utils.cli import CommandParser, Progress, UserError, one_of, run_command, whole_number
from utils.signals import STOP_SIGNALS, Stopped


@pytest.fixture(autouse=True)
def command_in_process(monkeypatch):
    """``run_command`` listens to signals, and leaves at once, in what is here the process of all tests."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def raise_it(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "message"),
    [
        (lambda: None, 0, ""),
        (raise_it(UserError("a.png is empty")), 2, "error: a.png is empty\n"),
        (raise_it(KeyboardInterrupt()), 130, "interrupted\n"),
        (raise_it(Stopped(signal.SIGTERM)), 143, "stopped by SIGTERM\n"),
        (raise_it(OSError(errno.EROFS, "Read-only file system", "log/a")), 2, "error: log/a: Read-only file system; "),
        (raise_it(OSError(errno.ENOSPC, "No space left on device")), 1, "error: No space left on device; make room"),
        (raise_it(MemoryError("Unable to allocate 80 GiB")), 1, "error: out of memory (Unable to allocate 80 GiB): "),
        (raise_it(ImportError("libGL.so.1: cannot open", name="cv2")), 2, "opencv-python-headless"),
        (raise_it(ModuleNotFoundError("No module named 'torch'", name="torch.nn")), 2, "torch is not installed for "),
    ],
)
def test_exit_status_and_message(main, status, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    error = capsys.readouterr().err
    assert stop.value.code == status and message in error and "Traceback" not in error


def test_a_missing_file_of_the_project_is_no_missing_package():
    with pytest.raises(ModuleNotFoundError):
        run_command(raise_it(ModuleNotFoundError("No module named 'evaluation.gone'", name="evaluation.gone")))


def test_of_several_processes_that_are_stopped_one_says_so(monkeypatch, capsys):
    monkeypatch.setattr(UserError, "said_elsewhere", True)  # as torchrun starts them, all but the first
    with pytest.raises(SystemExit) as stop:
        run_command(raise_it(Stopped(signal.SIGTERM)))
    assert (stop.value.code, capsys.readouterr().err) == (143, "")


@pytest.mark.parametrize("main", [raise_it(UserError("no list")), lambda: CommandParser().error("no list")])
@pytest.mark.parametrize("is_told", [True, False])
def test_of_several_processes_that_fail_alike_the_others_wait_for_the_first(main, is_told, monkeypatch, capsys):
    def sleep(seconds: float) -> None:
        assert seconds >= 30
        if is_told:
            raise Stopped(signal.SIGTERM)  # by torchrun, once the first has ended

    monkeypatch.setattr(UserError, "said_elsewhere", True)
    monkeypatch.setattr("utils.cli.time.sleep", sleep)
    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert stop.value.code == 2 and ("no list" in capsys.readouterr().err) is not is_told


def test_a_failed_run_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)


def test_a_bad_option_is_one_line(capsys):
    parser = CommandParser(prog="tool.py")
    parser.add_argument("--network", choices=("unet",))
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--network", "vnet"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert all(word in error for word in ("--network", "vnet", "unet"))


@pytest.mark.parametrize("arguments", [["--input", ""], ["--input="], ["--input", "a", ""], [""]])
def test_an_empty_value_is_refused(arguments, capsys):
    parser = CommandParser(prog="tool.py")
    parser.add_argument("--input", nargs="+")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(arguments)
    assert "there is an empty value" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("254", 254)])
def test_whole_numbers_within_limits_are_taken(text, number):
    assert whole_number(0, 254)(text) == number


@pytest.mark.parametrize("text", ["-1", "255", "1.5", "", "²", "٣", "ten", "1e3"])
def test_other_numbers_are_refused_with_the_limits(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 0 to 254"):
        whole_number(0, 254)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="of at least 300"):
        whole_number(300)(text)


def test_one_of_names_value_and_choices():
    with pytest.raises(UserError, match="'vnet'.*unet, hrnet"):
        one_of("vnet", ("unet", "hrnet"), "network")


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys):
    with Progress(3, "epoch 1/1", every_s=0) as progress:
        progress.update(2, loss=0.25)
    out = capsys.readouterr().out
    assert out.startswith("epoch 1/1: 2/3 images  loss 0.25")
