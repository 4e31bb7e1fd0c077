"""The measurements for a GPU: order, limits in time, and what is kept when one is cut off."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import gpu
from benchmarks.grid import read_results
from benchmarks.speed.measure import PARTS
from utils.cli import UserError


def test_every_part_can_be_measured():
    assert set(gpu.LIMITS) <= set(PARTS) and list(gpu.LIMITS)[:3] == ["gpu_tests", "ceilings", "graphs"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_dry_run_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.jsonl")])
    with pytest.raises(UserError, match="no CUDA device here; --tiny"):
        gpu.main()


def test_a_part_is_kept_as_soon_as_it_is_done_and_one_that_is_cut_off_is_named(tmp_path):
    out = tmp_path / "gpu.jsonl"
    assert gpu.run_parts(["ceilings"], out, budget=60, tiny=True) == {}
    kept = out.read_text()
    (record,) = read_results(out).values()
    assert record["cell"]["part"] == "ceilings" and record["cell"]["tiny"] and record["figures"][0]["value"] > 0
    failed = gpu.run_parts(["ceilings", "recipe", "noise_row"], out, budget=0.5, tiny=True)  # the first is finished
    assert list(failed) == ["recipe", "noise_row"] and failed["noise_row"] == "no time left"
    assert failed["recipe"].startswith("cut off after") and out.read_text() == kept


@pytest.mark.slow
def test_rows_of_studies_run_at_their_smallest_sizes(tmp_path):
    out = tmp_path / "gpu.jsonl"
    assert gpu.run_parts(["noise_row", "label_free"], out, budget=600, tiny=True) == {}
    found = [record["figures"][0] for record in read_results(out).values()]
    assert [figure["unit"] for figure in found] == ["IoU", "IoU"] and all(0 <= figure["value"] <= 1 for figure in found)
