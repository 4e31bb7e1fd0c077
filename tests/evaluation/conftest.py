"""Images of blobs with exact masks, and noise on them, for tests of the audit; scikit-learn's figures of scores."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from datasets.label_noise import make_noisy_label
from models import build_network
from utils.checkpoint import save_checkpoint

SIZE, IMAGES = 96, 16


def draw_blobs(rng: np.random.Generator, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A noisy uint16 image of blobs, brighter the higher their class, and its mask."""
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for number in range(3 * (classes - 1)):
        cy, cx, radius = *rng.uniform(10, SIZE - 10, 2), rng.uniform(6, 12)
        mask[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = number % (classes - 1) + 1
    image = 1000 + 800.0 * mask + rng.normal(0, 150, mask.shape)
    return image.astype(np.uint16), mask


@pytest.fixture(scope="session")
def blobs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(3)
    pairs = [draw_blobs(rng) for _ in range(IMAGES)]
    return [image for image, _ in pairs], [mask for _, mask in pairs]


def reference_figures(labels: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """scikit-learn's figures of a binary mask, by our names."""
    return {
        "iou": sklearn.jaccard_score(labels, mask),
        "f1": sklearn.f1_score(labels, mask),
        "accuracy": sklearn.accuracy_score(labels, mask),
        "precision": sklearn.precision_score(labels, mask),
        "sensitivity": sklearn.recall_score(labels, mask),
        "specificity": sklearn.recall_score(labels, mask, pos_label=0),
    }


def noisy_labels(masks, spec: str, num_classes: int = 1) -> list[np.ndarray]:
    return [make_noisy_label(mask, spec, 0, str(i), num_classes) for i, mask in enumerate(masks)]


@pytest.fixture(name="draw")
def drawing():
    """``draw(rng, classes=2)`` → a noisy image of blobs and its mask."""
    return draw_blobs


@pytest.fixture(name="noisy_labels")
def noise():
    """``noisy_labels(masks, spec, num_classes=1)`` → the same noise on every mask."""
    return noisy_labels


@pytest.fixture
def make_run(disks):
    """``make_run(invert=False, **config)`` → a run folder with a small untrained network, for the set ``disks``."""

    def make(invert: bool = False, network: str = "unet", **changes: object) -> Path:
        run = disks / "train_log" / "disks" / "run"
        config = {
            "dataset": "disks",
            "network": network,
            "network_options": {"width": 4, "init": "kaiming"},
            "in_channels": 1,
            "num_classes": 1,
            "normalization": "zscore",
            "data_root": str(disks),
            "train_list": str(disks / "txt/disks/train/train_gt.txt"),
            "val_list": str(disks / "txt/disks/val.txt"),
            "test_list": str(disks / "txt/disks/test.txt"),
            **changes,
        }
        torch.manual_seed(0)
        options = config["network_options"]
        built = build_network(network, config["in_channels"], config["num_classes"], **options)
        state = {
            "model": built.state_dict(),
            **dict.fromkeys(("optimizer", "scheduler", "scaler", "rng"), {}),
            "best": {"epoch": 2, "figure": 0.5},
            "epoch": 2,
            "config": config,
            "pred_invert": invert,
            "threshold": 0.4 if config["num_classes"] == 1 else None,
        }
        save_checkpoint(run / "checkpoints" / "best.pth", state)
        return run

    return make


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of this machine, driven by Playwright; tests of pages skip where either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is installed")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Open a file: ``open_page(path, width)`` → page; in the end no page has had an error or asked for an address."""
    contexts, troubles = [], []

    def opened(path: Path, width: int = 1280):
        context = browser.new_context(viewport={"width": width, "height": 800}, accept_downloads=True)
        page = context.new_page()
        contexts.append(context)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: message.type == "error" and troubles.append(message.text))
        local = ("file:", "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(local) or troubles.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def canvas_pixels(page, selector: str) -> list[int]:
    """Red, green and blue of every pixel of a canvas."""
    script = """canvas => [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]
        .filter((_, i) => i % 4 < 3)"""
    return page.eval_on_selector(selector, script)
