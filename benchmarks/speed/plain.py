"""The plain recipe that the fast one is held against: what one writes first.

Images are decoded in every epoch by as many worker processes as there are cores; float32 with PyTorch's defaults
(TF32 in convolutions on GPUs that have it), channels first, a stock optimizer, the loss read in every step. Label
noise is vectorised: its speed is a figure of its own. Below, EMS by loops over pixels and metrics by scikit-learn,
one threshold after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from datasets.image_io import read_image, read_label, write_scores
from datasets.label_noise import make_noisy_label, parse_spec
from datasets.lists import Sample
from datasets.transforms import TrainingTransform, normalize
from models import build_network, start_from_shares
from training.optimizers import build_schedule
from training.options import TrainingOptions
from utils.processors import usable_processors

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


class PlainDataset(Dataset):
    """Images and noisy labels, read from their files whenever they are drawn."""

    def __init__(self, samples: Sequence[Sample], options: TrainingOptions) -> None:
        self.samples, self.noise = samples, parse_spec(options.noise.label_noise)
        self.repeat, self.noise_seed = options.augmentation.repeat, options.noise.noise_seed
        self.transform = TrainingTransform(options.augmentation.crop)

    def __len__(self) -> int:
        return len(self.samples) * self.repeat

    def __getitem__(self, draw: int) -> tuple[Tensor, Tensor]:
        sample = self.samples[draw % len(self.samples)]
        label = make_noisy_label(read_label(sample.require_label()), self.noise, self.noise_seed, sample.image_id)
        rng = np.random.default_rng([torch.initial_seed() % 2**63, draw])
        image = torch.from_numpy(normalize(read_image(sample.image)))
        return self.transform(image, torch.from_numpy(label), rng)


def foreground_share(samples: Sequence[Sample], options: TrainingOptions) -> float:
    """The share of foreground in the noisy labels, at which scores start."""
    dataset = PlainDataset(samples, options)
    return float(np.mean([dataset[place][1].float().mean().item() for place in range(min(20, len(samples)))]))


def train_plainly(options: TrainingOptions, samples: Sequence[Sample], device: str) -> tuple[nn.Module, list[float]]:
    """Train as ``options`` say, in the plain way; the network and the images per second of every epoch."""
    torch.manual_seed(options.run.seed)
    network = build_network(options.network.name, **options.network.options)
    if options.network.head_bias == "shares":
        share = foreground_share(samples, options)
        start_from_shares(network, [1 - share, share])
    network.to(device)
    settings = {"momentum": options.optimization.momentum} if options.optimization.optimizer == "sgd" else {}
    optimizer = OPTIMIZERS[options.optimization.optimizer](
        network.parameters(), lr=options.optimization.lr, weight_decay=options.optimization.weight_decay, **settings
    )
    loader = DataLoader(
        PlainDataset(samples, options),
        options.optimization.batch_size,
        shuffle=True,
        num_workers=usable_processors(),
        pin_memory=device == "cuda",
    )
    schedule = build_schedule(
        options.optimization.schedule,
        optimizer,
        options.optimization.epochs * len(loader),
        len(loader),
        step_epochs=options.optimization.step_epochs,
        gamma=options.optimization.step_gamma,
    )
    speeds = []
    for _ in range(options.optimization.epochs):
        network.train()
        started, total = time.perf_counter(), 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            loss = F.binary_cross_entropy_with_logits(network(images)[:, 0], labels.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        speeds.append(len(loader.dataset) / (time.perf_counter() - started))
    return network, speeds


@torch.no_grad()
def predict_plainly(network: nn.Module, images: Sequence[Path], folder: Path, device: str, batch: int) -> None:
    """Read, predict and write images of one size, one batch after the other."""
    network.eval()
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        inputs = torch.stack([torch.from_numpy(normalize(read_image(image))) for image in some]).to(device)
        scores = torch.sigmoid(network(inputs)).cpu().numpy()
        for number, (image, image_scores) in enumerate(zip(some, scores, strict=True), start=start):
            write_scores(folder / f"{number}_{image.stem}.tif", image_scores[0])


def shift_by_loop(mask: np.ndarray, reach: int, rng: np.random.Generator) -> np.ndarray:
    """The shift as one writes it first: pixel by pixel, one draw for each direction."""
    height, width = mask.shape
    shifted = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        new_y = min(max(y + rng.integers(-reach, reach + 1), 0), height - 1)
        new_x = min(max(x + rng.integers(-reach, reach + 1), 0), width - 1)
        shifted[new_y, new_x] = 1
    return shifted


def thin_by_loop(mask: np.ndarray) -> np.ndarray:
    """The skeleton of a 0/1 mask by Zhang and Suen's thinning (CACM 1984), pixel by pixel."""
    image = np.pad(mask.astype(np.uint8), 1)
    height, width = image.shape
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            inside = [(y, x) for y in range(1, height - 1) for x in range(1, width - 1) if image[y, x]]
            removed = [(y, x) for y, x in inside if _is_removable(image, y, x, first)]
            for y, x in removed:
                image[y, x] = 0
            changed = changed or bool(removed)
    return image[1:-1, 1:-1]


def _is_removable(image: np.ndarray, y: int, x: int, first: bool) -> bool:
    """Whether a pixel goes in the first or second half of a pass; its neighbours are counted clockwise from the top."""
    around = [
        int(image[y + dy, x + dx]) for dy, dx in ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
    ]
    top, right, bottom, left = around[::2]
    rises = sum(before < after for before, after in zip(around, [*around[1:], around[0]], strict=True))
    sides = (top * right * bottom, right * bottom * left) if first else (top * right * left, top * bottom * left)
    return 2 <= sum(around) <= 6 and rises == 1 and sides == (0, 0)


def ems_by_loop(
    mask: np.ndarray, share: float, rng: np.random.Generator, thin: Callable[[np.ndarray], np.ndarray] = thin_by_loop
) -> np.ndarray:
    """Extraction of the meta-structure pixel by pixel; ``thin`` makes the skeleton."""
    shifted = shift_by_loop(thin(mask).astype(np.uint8), 1, rng)
    kept = np.zeros_like(shifted)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if shifted[y, x] == 1 and rng.random() < share:
                kept[y, x] = 1
    return kept


def metrics_by_threshold(scores: np.ndarray, label: np.ndarray, thresholds: Sequence[float]) -> dict[str, Any]:
    """Best F1 over the thresholds, AUC and average precision of an image by scikit-learn."""
    from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

    truth, flat = label.ravel(), scores.ravel()
    f1 = []
    for threshold in thresholds:
        _, fp, fn, tp = confusion_matrix(truth, flat >= threshold, labels=[0, 1]).ravel().tolist()
        f1.append(2 * tp / max(2 * tp + fp + fn, 1))
    return {"f1": max(f1), "auc": roc_auc_score(truth, flat), "average_precision": average_precision_score(truth, flat)}
