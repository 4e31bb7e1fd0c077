"""From a few labelled images to masks, without a command: python examples/train_and_predict.py"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository is cloned, not installed

import numpy as np

from evaluation.prediction import Segmenter
from training.fit import fit_images


def draw(rng: np.random.Generator, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image of a bright disk, and its mask; put your own arrays or files in their place."""
    y, x = np.mgrid[:size, :size]
    mask = np.hypot(*(grid - centre for grid, centre in zip((y, x), rng.uniform(30, 66, 2), strict=True))) < 20
    return (60 + 90 * mask + rng.normal(0, 20, mask.shape)).clip(0, 255).astype(np.uint8), mask.astype(np.uint8)


images, labels = zip(*(draw(np.random.default_rng(seed)) for seed in range(10)), strict=True)
options = {"preset": "quick", "steps": 40, "width": 4, "crop": 64, "tensorboard": False}
run = fit_images(images[:6], labels[:6], validation=(images[6:9], labels[6:9]), name="example", **options)
found = Segmenter.load(run).predict(images[9])
print(f"{run}: scores {found.scores.shape}, IoU {(found.mask & labels[9]).sum() / (found.mask | labels[9]).sum():.2f}")
