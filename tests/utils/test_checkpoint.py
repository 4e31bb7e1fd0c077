"""Checkpoints notice damage: no single changed bit, cut or foreign file is taken for what was written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.checkpoint import CHECKPOINT_KEYS, load_checkpoint, load_tensors, save_checkpoint, verify_checksum
from utils.cli import UserError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    state = {key: None for key in CHECKPOINT_KEYS} | {"model": {"w": torch.arange(500.0)}, "epoch": 3}
    save_checkpoint(tmp_path / "last.pth", state)
    return tmp_path / "last.pth"


def test_what_was_saved_comes_back_and_is_an_ordinary_archive(saved):
    assert verify_checksum(saved)
    assert torch.equal(load_checkpoint(saved)["model"]["w"], torch.arange(500.0))
    assert torch.load(saved, weights_only=True)["epoch"] == 3
    assert zipfile.ZipFile(saved).testzip() is None


def test_every_changed_bit_is_noticed(saved, rng):
    whole = saved.read_bytes()
    for position in rng.choice(8 * len(whole), 400, replace=False):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        saved.write_bytes(damaged)
        with pytest.raises(UserError, match=r"last\.pth"):
            load_checkpoint(saved)


def test_every_bit_of_the_start_and_of_the_end_counts(saved):
    whole = saved.read_bytes()
    for position in (*range(40), *range(8 * (len(whole) - 100), 8 * len(whole))):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        saved.write_bytes(damaged)
        with pytest.raises(UserError, match=r"last\.pth"):
            load_checkpoint(saved)


def test_a_cut_or_longer_file_is_noticed(saved, rng):
    whole = saved.read_bytes()
    for content in [*(whole[:cut] for cut in rng.integers(0, len(whole), 40)), whole + b"\0", whole + whole]:
        saved.write_bytes(content)
        with pytest.raises(UserError, match=r"last\.pth"):
            load_checkpoint(saved)


def test_one_of_before_checksums_loads_with_a_note(saved, capsys):
    torch.save(load_checkpoint(saved), saved)
    assert not verify_checksum(saved)
    assert load_checkpoint(saved)["epoch"] == 3
    assert "no checksum" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x80\x04K\x01.", b"\x80\x02]q\x00.", np.arange(99).tobytes()])
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth"):
        load_checkpoint(tmp_path / "weights.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"weights .*none\.pth does not exist"):
        load_tensors(tmp_path / "none.pth", what="weights")
