"""Label noise drawn on the device, afresh every epoch: the grammar's steps that need no object of the label.

The shares are as exact as those of ``datasets.noise_steps``, but the random stream is torch's, of the device: the
labels are others than NumPy's. Nothing here waits for the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from datasets.label_noise import Step
from datasets.labels import IGNORE, label_classes
from utils.cli import UserError
from utils.device import pinned

ALMOST = 1e-9  # 0.3 · 10 is 3, not 2.9999…


@dataclass(frozen=True)
class Draw:
    """What steps need besides label and values: the number of classes K ≥ 2, what unlabelled pixels become, chance."""

    classes: int
    unlabelled: str
    rng: torch.Generator


def check_steps(steps: tuple[Step, ...]) -> None:
    """Refuse a spec with steps that only the CPU makes.

    Raises:
        UserError: naming them.
    """
    others = [step.text for step in steps if step.name not in DEVICE_STEPS]
    if others:
        raise UserError(
            f"--noise_device gpu does not make {', '.join(others)}; it makes {', '.join(DEVICE_STEPS)}: "
            "use --noise_device cpu"
        )


def make_noisy_label_on_device(
    label: Tensor,
    steps: tuple[Step, ...],
    seed: int,
    image_id: str,
    epoch: int,
    num_classes: int = 1,
    unlabelled: str = "background",
) -> Tensor:
    """Put label noise on a clean label, uint8 (H, W) with IGNORE, on the label's device; see ``make_noisy_label``.

    The random stream is a function of (seed, spec, image id, epoch) and of the kind of device.
    """
    text = "\0".join([str(seed), *(step.text for step in steps), image_id, str(epoch)])
    rng = torch.Generator(label.device)
    rng.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True))
    draw = Draw(label_classes(num_classes), unlabelled, rng)
    noisy = label
    for step in steps:
        noisy = torch.where(noisy == IGNORE, IGNORE, DEVICE_STEPS[step.name](noisy, draw, *step.values))
    return noisy


def spread(label: Tensor, counts: Tensor, rng: torch.Generator) -> Tensor:
    """Give every class away by counts, to pixels drawn without replacement.

    Args:
        label: uint8 (H, W).
        counts: int64 (K, K + 1): of the pixels of each class, how many become each class, and IGNORE in the last
            column; a row sums to the number of its pixels.
    Returns: uint8 (H, W); pixels that are no class become IGNORE.
    """
    classes = len(counts)
    place = torch.where(label < classes, label, classes).flatten().long()
    # Sorted by class and, within a class, at random: a pixel's rank is its place among those of its class.
    order = (place + torch.rand(place.shape, generator=rng, device=label.device, dtype=torch.float64)).argsort()
    starts = counts.sum(1).cumsum(0) - counts.sum(1)
    rank = torch.empty_like(place)
    rank[order] = torch.arange(len(place), device=label.device)
    ends = torch.cat([counts.cumsum(1), torch.zeros_like(counts[:1])])[place]
    target = (rank - torch.cat([starts, starts[:1]])[place])[:, None].ge(ends).sum(1)
    target = torch.where((place == classes) | (target >= classes), IGNORE, target)
    return target.reshape(label.shape).to(torch.uint8)


def class_sizes(label: Tensor, classes: int) -> Tensor:
    """Pixels of each class, int64 (K,)."""
    return torch.stack([(label == value).sum() for value in range(classes)])


def exact_share(share: float, total: Tensor) -> Tensor:
    """floor(share · total + 0.5), as ``noise_steps.share_count``."""
    return (share * total.double() + 0.5).floor().long()


def sample(label: Tensor, draw: Draw, share: float) -> Tensor:
    """Keep an exact share of each class ≠ 0; the rest becomes 0, or, of every class, IGNORE."""
    present = class_sizes(label, draw.classes)
    kept = exact_share(share, present)
    counts = _with_ignored(torch.diag(kept))
    counts[:, -1 if draw.unlabelled == "ignore" else 0] += present - kept
    return spread(label, counts, draw.rng)


def flip(label: Tensor, draw: Draw, foreground_share: float, background_share: float | None = None) -> Tensor:
    """Move an exact share of every class evenly to the others; what is left over goes to different ones at random."""
    classes = draw.classes
    background_share = foreground_share if background_share is None else background_share
    present = class_sizes(label, classes)
    moved = exact_share(foreground_share, present)
    moved[0] = exact_share(background_share, present[0])
    others = ~torch.eye(classes, dtype=torch.bool, device=label.device)
    lottery = torch.rand(classes, classes, generator=draw.rng, device=label.device).masked_fill(~others, 2)
    left = (moved % (classes - 1))[:, None]
    each = (moved // (classes - 1))[:, None]
    counts = (each + (lottery.argsort(1).argsort(1) < left)) * others + torch.diag(present - moved)
    return spread(label, _with_ignored(counts), draw.rng)


def random_label(label: Tensor, draw: Draw, share: float) -> Tensor:
    """Independent pixels: foreground with probability ``share``, each class ≠ 0 equally likely."""
    others = draw.classes - 1
    draws = torch.rand(label.shape, generator=draw.rng, device=label.device, dtype=torch.float64)
    value = 1 + (draws * (others / max(share, ALMOST))).long().clamp_max(others - 1)
    return torch.where(draws < share, value, 0).to(torch.uint8)


def apply_matrix(label: Tensor, draw: Draw, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Move pixels so that the realised transition matrix is ``matrix``, counts rounded by the largest remainder."""
    shares = pinned(torch.tensor(matrix, dtype=torch.float64), label.device).to(label.device, non_blocking=True)
    present = class_sizes(label, len(shares))
    exact = shares * present[:, None]
    counts = (exact + ALMOST).floor().long()
    left = present - counts.sum(1)
    ranks = (counts - exact).argsort(dim=1, stable=True).argsort(dim=1)
    return spread(label, _with_ignored(counts + (ranks < left[:, None])), draw.rng)


def dilate(label: Tensor, draw: Draw, side: int) -> Tensor:
    """Grow every class ≠ 0 by a square kernel of odd ``side``, the higher on top."""
    # The highest class within reach is what painting the grown classes in index order leaves on top.
    return _highest(torch.where(label == IGNORE, 0, label), side)


def erode(label: Tensor, draw: Draw, side: int) -> Tensor:
    """Shrink every class ≠ 0 by a square kernel of odd ``side``; neither the outside nor ignored pixels erode."""
    # A pixel keeps its class where every pixel within reach is of it or ignored.
    lowest = 255 - _highest(255 - label, side)
    highest = _highest(torch.where(label == IGNORE, 0, label), side)
    return torch.where((lowest == label) & (highest == label), label, 0)


def shift(label: Tensor, draw: Draw, reach: int) -> Tensor:
    """Scatter every foreground pixel by up to ±``reach`` in x and y; clamped, collisions merge, the higher on top."""
    height, width = label.shape
    moves = torch.randint(-reach, reach + 1, (2, height, width), generator=draw.rng, device=label.device)
    row = (moves[0] + torch.arange(height, device=label.device)[:, None]).clamp(0, height - 1)
    column = (moves[1] + torch.arange(width, device=label.device)).clamp(0, width - 1)
    known = torch.where(label == IGNORE, 0, label).flatten().int()
    scattered = torch.zeros_like(known).scatter_reduce(0, (row * width + column).flatten(), known, "amax")
    return scattered.reshape(label.shape).to(torch.uint8)


def _with_ignored(counts: Tensor) -> Tensor:
    return torch.cat([counts, torch.zeros_like(counts[:, :1])], 1)


def _highest(label: Tensor, side: int) -> Tensor:
    """The highest value within the square of odd ``side`` around each pixel; the outside is 0."""
    rows = max_pool2d(label[None, None].float(), (side, 1), stride=1, padding=(side // 2, 0))
    return max_pool2d(rows, (1, side), stride=1, padding=(0, side // 2))[0, 0].to(torch.uint8)


DEVICE_STEPS: dict[str, Callable[..., Tensor]] = {
    "clean": lambda label, draw: label,
    "sample": sample,
    "flip": flip,
    "random": random_label,
    "ntm": apply_matrix,
    "dilate": dilate,
    "erode": erode,
    "shift": shift,
}
