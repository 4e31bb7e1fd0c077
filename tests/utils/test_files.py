"""Writes are whole or absent, JSON is strict, tables leave out what is undefined, no two names are equal."""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from utils.cli import UserError
from utils.files import append_jsonl, atomic_write, plain, read_json, read_jsonl, unique_stems, write_csv, write_json
from utils.run_folder import REPO_ROOT


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_write(path) as file:
        file.write(b"new")
        raise OSError("disk full")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_is_strict_and_keeps_what_numpy_held(tmp_path):
    write_json(tmp_path / "a.json", {"nan": math.nan, "array": np.arange(3), "scalar": np.float32(0.5), "p": tmp_path})
    content = json.loads((tmp_path / "a.json").read_text())
    assert content == {"nan": None, "array": [0, 1, 2], "scalar": 0.5, "p": tmp_path.as_posix()}


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan"), np.array([1.0, math.nan])[1]])
def test_undefined_numbers_become_null(value):
    assert plain(value) is None


def test_json_saved_by_windows_editors_is_read(tmp_path):
    (tmp_path / "q.json").write_bytes(codecs.BOM_UTF8 + b'{\r\n  "classes": 2\r\n}\r\n')
    assert read_json(tmp_path / "q.json") == {"classes": 2}


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"epoch": 1})
    with open(path, "a") as file:
        file.write('{"epoch": 2, "lo')
    assert read_jsonl(path) == [{"epoch": 1}]


KILLED_WRITER = """
import sys
from pathlib import Path
import torch
from utils.checkpoint import CHECKPOINT_KEYS, save_checkpoint

number = 0
while True:
    number += 1
    state = dict.fromkeys(CHECKPOINT_KEYS)
    save_checkpoint(Path(sys.argv[1]), {**state, "epoch": number, "model": {"w": torch.full((200_000,), number)}})
    print(number, flush=True)
"""


def test_sigkill_while_saving_always_leaves_a_loadable_checkpoint(tmp_path, rng):
    from utils.checkpoint import load_checkpoint

    path = tmp_path / "last.pth"
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED_WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPO_ROOT,
            env={**os.environ, "PYTHONPATH": str(REPO_ROOT)},
        )
        first = int(writer.stdout.readline())
        time.sleep(float(rng.uniform(0, 0.05)))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        state = load_checkpoint(path)
        assert state["epoch"] >= first and torch_all_equal(state["model"]["w"], state["epoch"])


def torch_all_equal(tensor, value) -> bool:
    return bool((tensor == value).all())


def test_a_malicious_pickle_is_refused(tmp_path):
    import pickle

    from utils.checkpoint import load_checkpoint

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    import torch

    for name, write in (("plain.pth", lambda f: pickle.dump(Harm(), f)), ("zip.pth", lambda f: torch.save(Harm(), f))):
        with open(tmp_path / name, "wb") as file:
            write(file)
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"PK\x03\x04broken"])
def test_a_broken_checkpoint_is_named(tmp_path, content):
    from utils.checkpoint import load_checkpoint

    (tmp_path / "last.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pth"):
        load_checkpoint(tmp_path / "last.pth")


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a/7.tif", "a/8.tif"], ["7", "8"]),
        (["a/7.tif", "b/7.png", "b/8.png"], ["a__7", "b__7", "8"]),
        (["1/images/7.tif", "2/images/7.tif"], ["1__images__7", "2__images__7"]),
        (["a/7.tif", "a/7.png"], ["7_tif", "7_png"]),
        (["a/X.tif", "b/x.tif"], ["a__X", "b__x"]),
        (["a/7.tif", "b/7.tif", "c/a__7.tif"], ["a__7", "b__7", "c__a__7"]),
    ],
)
def test_names_are_short_and_unique(images, names):
    assert unique_stems([Path(image) for image in images]) == names


def test_a_table_leaves_undefined_numbers_out(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b", "c"], [["x,y", 1 / 3, math.nan], ["z", np.float64(2), 10_000_000]])
    assert (tmp_path / "t.csv").read_text() == 'a,b,c\n"x,y",0.333333,\nz,2,10000000\n'


def test_what_numpy_says_of_a_full_disk_names_file_and_reason(tmp_path):
    def is_full() -> None:
        raise OSError("2304 requested and 1980 written")

    with pytest.raises(OSError, match="No space left on device") as raised, atomic_write(tmp_path / "a.tif"):
        is_full()
    assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(tmp_path / "a.tif")
    assert not list(tmp_path.iterdir())
