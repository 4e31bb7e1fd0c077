"""Nothing that was put is lost but what a newer job of its name replaces; errors and Ctrl-C come out."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from utils.background import MAX_WAITING, BackgroundWriter, LazySequence, in_background, read_ahead
from utils.checkpoint import take_snapshot
from utils.run_folder import REPO_ROOT

WAIT_S = 30


class Gate:
    """A job that begins, and ends when it is let."""

    def __init__(self) -> None:
        self.begun, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.opened.wait(WAIT_S)


def busy(writer: BackgroundWriter) -> Gate:
    """Keep the writer at a job until the gate is opened."""
    gate = Gate()
    writer.put("gate", gate)
    assert gate.begun.wait(WAIT_S)
    return gate


def note(done: list[str], what: str) -> Callable[[], None]:
    return lambda: done.append(what)


def test_the_newest_job_of_a_name_is_done_and_the_last_put_comes_last():
    done: list[str] = []
    with BackgroundWriter() as writer:
        gate = busy(writer)
        for epoch in (1, 2, 3):
            if epoch < 3:
                writer.put("best", note(done, f"best {epoch}"))
            writer.put("last", note(done, f"last {epoch}"))
        writer.put("epoch_3", note(done, "epoch_3"))
        assert done == []
        gate.opened.set()
    assert done == ["best 2", "last 3", "epoch_3"]


def test_jobs_that_wait_are_few():
    done: list[str] = []
    with BackgroundWriter() as writer:
        gate = busy(writer)
        for number in range(MAX_WAITING):
            writer.put(str(number), note(done, str(number)))
        late = threading.Thread(target=writer.put, args=("late", note(done, "late")))
        late.start()
        late.join(0.05)
        assert late.is_alive()
        gate.opened.set()
        late.join(WAIT_S)
    assert done == [*map(str, range(MAX_WAITING)), "late"]


def test_an_error_ends_its_own_job_and_is_raised_once_by_the_next_call():
    done: list[str] = []
    writer = BackgroundWriter()
    gate = busy(writer)

    def fail() -> None:
        raise OSError(28, "No space left on device")

    writer.put("best", fail)
    writer.put("last", note(done, "last"))
    gate.opened.set()
    with pytest.raises(OSError, match="No space left"):
        writer.wait()
    assert done == ["last"]
    with pytest.raises(OSError, match="No space left"), writer:
        writer.put("last", fail)
    with writer:
        writer.put("last", note(done, "again"))
    assert done == ["last", "again"]


def test_jobs_may_begin_while_waiting_looks_at_them(monkeypatch):
    done: list[str] = []
    writer = BackgroundWriter()
    gate = busy(writer)
    for name in ("best", "last"):
        writer.put(name, note(done, name))
    submit = writer._pool.submit

    def submit_and_let_all_begin(job: Callable[[], None]) -> Future:
        gate.opened.set()
        turn = submit(job)
        turn.result(WAIT_S)
        return turn

    monkeypatch.setattr(writer._pool, "submit", submit_and_let_all_begin)
    writer.wait()
    assert done == ["best", "last"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_leaving_by_an_error_finishes_what_was_put(error):
    done: list[str] = []

    def fail() -> None:
        done.append("tried")
        raise OSError("broken disk")

    with pytest.raises(error) as raised, BackgroundWriter() as writer:
        gate = busy(writer)
        writer.put("best", fail)
        writer.put("last", note(done, "last"))
        threading.Timer(0.05, gate.opened.set).start()
        raise error
    assert done == ["tried", "last"]
    assert raised.value.__notes__ == ["besides, writing failed: OSError: broken disk"]


def test_a_second_interrupt_waits_for_the_job_that_has_begun_alone():
    script = """
import os, signal, time
from utils.background import BackgroundWriter

def slow():
    for _ in range(2):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.3)
    print("written", flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had them ignored
with BackgroundWriter() as writer:
    writer.put("last", slow)
    writer.put("best", lambda: print("not begun", flush=True))
    time.sleep(30)
"""
    answer = subprocess.run([sys.executable, "-c", script], cwd=REPO_ROOT, capture_output=True, text=True, timeout=20)
    assert answer.stdout == "written\n" and "KeyboardInterrupt" in answer.stderr


def contents(device: torch.device) -> dict:
    weight = torch.arange(6.0, device=device).reshape(1, 2, 3, 1).to(memory_format=torch.channels_last)
    return {"model": {"weight": weight}, "groups": [{"betas": (0.9, 0.99), "step": weight[0, 0, 0]}], "epoch": 3}


def test_a_snapshot_stays_as_it_was_taken(device):
    device = torch.device(device)
    content, untouched = contents(device), contents(torch.device("cpu"))
    snapshot = take_snapshot(content, device)
    content["model"]["weight"].zero_()
    content["groups"][0]["betas"] = (0.5, 0.5)
    taken = snapshot()
    assert torch.equal(taken["model"]["weight"], untouched["model"]["weight"])
    assert taken["model"]["weight"].stride() == untouched["model"]["weight"].stride()
    assert taken["model"]["weight"].device.type == "cpu" and taken["epoch"] == 3
    assert taken["groups"][0]["betas"] == (0.9, 0.99) and torch.equal(taken["groups"][0]["step"], torch.tensor([0.0]))


def test_reading_ahead_keeps_the_order_and_raises_in_place():
    assert list(read_ahead(lambda item: item * item, range(20), ahead=5, workers=3)) == [n * n for n in range(20)]
    results = read_ahead(lambda item: 1 // item, [1, 0, 1], ahead=1, workers=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_thread_makes_items_in_order_and_no_more_than_two_ahead():
    made = []

    def numbers():
        for number in range(6):
            made.append(number)
            yield number
        raise ZeroDivisionError

    items = in_background(numbers())
    for number in range(5):
        assert next(items) == number and len(made) <= number + 3
    assert next(items) == 5
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_items_are_kept_while_memory_lasts():
    made = []

    def load(place: int) -> np.ndarray:
        made.append(place)
        return np.full(4, place, np.uint8)

    items = LazySequence(load, 3, keep_bytes=8)
    for _ in range(2):
        assert [int(item[0]) for item in items] == [0, 1, 2]
    assert made == [0, 1, 2, 2] and len(items) == 3
    with pytest.raises(IndexError):
        items[3]


def test_nothing_is_kept_unless_asked_for():
    items = LazySequence(lambda place: np.full(4, place), 2)
    assert items[1] is not items[1]
    assert LazySequence(lambda place: None, 1)[0] is None
