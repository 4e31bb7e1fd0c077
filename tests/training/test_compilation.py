"""A compiled network is the same network; where nothing compiles the run says so in one line and goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from models import build_network
from tests.training.test_fit import SMALL
from training.run.compilation import compile_network
from utils.files import read_jsonl
from utils.run_folder import REPO_ROOT

CPU = torch.device("cpu")


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_network_computes_the_same_with_the_same_weights(backend):
    network, said = build_network("lightunet", width=4, init="kaiming"), []
    compiled = compile_network(network, CPU, accumulate=1, say=said.append, backend=backend)
    if compiled is network:
        pytest.skip(said[0])
    images = torch.randn(2, 1, 33, 20, generator=torch.Generator().manual_seed(0))
    logits = compiled(images)
    logits.square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    expected = network(images)
    expected.square().mean().backward()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients, network.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=1e-3, atol=1e-5)
    assert len(said) == 1 and "compiling" in said[0]


FIT = f"""
import sys
from pathlib import Path
from training.fit import configure, fit
root = Path(sys.argv[1])
fit(configure({{**{SMALL!r}, "epochs": 1, "compile": True, "audit": False, "run_name": "none"}}, root), root)
"""


@pytest.mark.slow
def test_without_a_compiler_training_goes_on_and_one_line_says_so(disks, tmp_path):
    environment = {**os.environ, "CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    answer = subprocess.run(
        [sys.executable, "-c", FIT, disks], cwd=REPO_ROOT, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("--compile")]
    assert "nothing compiles here (" in line and "Traceback" not in answer.stderr
    assert len(read_jsonl(disks / "train_log" / "disks" / "none" / "metrics.jsonl")) == 1
