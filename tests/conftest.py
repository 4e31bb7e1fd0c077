"""Shared fixtures: small data sets on disk, a workspace copy of the repository, the real data where present."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: bit-identical runs need an equal number of threads
import torch

REPO_ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("models", "datasets", "training", "evaluation", "utils")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    with_slow, with_gpu = config.getoption("--runslow"), torch.cuda.is_available()
    for item in items:
        if "slow" in item.keywords and not with_slow:
            item.add_marker(pytest.mark.skip(reason="slow: run with --runslow"))
        if "gpu" in item.keywords and not with_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every kind of device that a test is run on."""
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def real_data() -> Path:
    """The folder of real images that ``SEG_TEST_DATA`` names; tests that need it skip where none is named."""
    folder = os.environ.get("SEG_TEST_DATA")
    if not folder:
        pytest.skip("needs real images: set SEG_TEST_DATA, see CONTRIBUTING.md")
    assert Path(folder).is_dir(), f"SEG_TEST_DATA={folder} is not a directory"
    return Path(folder)


def draw_disks(rng: np.random.Generator, size: int = 64, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A noisy uint8 image of bright disks and its exact 0/1 mask, both (size, size)."""
    y, x = np.mgrid[:size, :size]
    mask = np.zeros((size, size), bool)
    for _ in range(count):
        cy, cx, radius = rng.uniform(8, size - 8), rng.uniform(8, size - 8), rng.uniform(5, 9)
        mask |= (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
    image = np.clip(60 + 100 * mask + rng.normal(0, 12, mask.shape), 0, 255).astype(np.uint8)
    return image, mask.astype(np.uint8)


def write_disk_dataset(
    root: Path, name: str = "disks", counts: tuple[int, int, int] = (8, 3, 3), size: int = 64
) -> Path:
    """Write ``datasets/<name>`` and ``txt/<name>`` below ``root``; both label lists of training are clean."""
    import cv2

    rng = np.random.default_rng(7)
    lists = root / "txt" / name
    (lists / "train").mkdir(parents=True)
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        folder = root / "datasets" / name / split
        (folder / "images").mkdir(parents=True)
        (folder / "labels").mkdir()
        lines = []
        for number in range(count):
            image, mask = draw_disks(rng, size)
            cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
            cv2.imwrite(str(folder / "labels" / f"{number}.png"), mask * 255)
            place = f"datasets/{name}/{split}"
            lines.append(f"{place}/images/{number}.png\t{place}/labels/{number}.png\n")
        if split == "train":
            (lists / "train" / "train_gt.txt").write_text("".join(lines))
            (lists / "train" / "train_noisyLabel.txt").write_text("".join(lines))
        else:
            (lists / f"{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """A root folder with the small data set ``disks``: 8, 3 and 3 images of 64×64."""
    return write_disk_dataset(tmp_path)


@pytest.fixture(scope="session")
def draw_many_disks():
    """``draw_many_disks(root, counts=(8, 3, 3))`` → the root with the data set ``disks``, of so many images a split."""
    return write_disk_dataset


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's code with the small data set ``disks``, for the commands of one file of tests."""
    root = tmp_path_factory.mktemp("workspace")
    for room in ROOMS:
        (root / room).mkdir()
        for source in (
            path for ending in ("*.py", "*.html", "*.css", "*.js") for path in (REPO_ROOT / room).rglob(ending)
        ):
            target = root / source.relative_to(REPO_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    for source in (REPO_ROOT / "main.py", REPO_ROOT / "requirements.txt"):
        if source.exists():
            shutil.copy(source, root / source.name)
    return write_disk_dataset(root)


def torchrun(
    *command: object, cwd: Path, processes: int = 2, max_restarts: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script in several processes of this machine, which meet on the loopback interface alone."""
    launch = (
        "--standalone",
        "--local_addr",
        "127.0.0.1",
        "--nproc_per_node",
        processes,
        "--max_restarts",
        max_restarts,
    )
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if "lo" in (name for _, name in socket.if_nameindex()) else {}
    try:
        return subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *map(str, (*launch, *command))],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1", **loopback, **(env or {})},
        )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"no end after {late.timeout} s\n{late.stdout}\n{late.stderr}") from None


@pytest.fixture
def run_tool(workspace: Path):
    """Run a command of the workspace: ``run_tool("main.py", "--dataset", "disks")`` → CompletedProcess."""

    def run(script: str, *arguments: object, timeout: float = 300, env: dict[str, str] | None = None):
        return subprocess.run(
            [sys.executable, script, *map(str, arguments)],
            cwd=workspace,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )

    return run
