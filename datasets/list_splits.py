"""Training, validation and test parts of images that no folder divides: seeded, groups of images never torn apart."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from datasets.list_files import SPLITS
from utils.cli import UserError, counted

DEFAULT_SPLIT = "70/15/15"


def parse_shares(text: str) -> tuple[float, float, float]:
    """The shares of training, validation and test in ``70/15/15`` or ``80/20``; they sum to 1.

    >>> parse_shares("80/20")
    (0.8, 0.2, 0.0)

    Raises:
        UserError: not two or three numbers, none for training, or all zero.
    """
    parts = text.split("/")
    try:
        shares = [float(part) for part in parts]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or not shares[0] > 0 or any(not 0 <= share < float("inf") for share in shares):
        raise UserError(f"--split {text!r}: expected the parts of train, val and test, such as 70/15/15 or 80/20")
    train, val, test = (share / sum(shares) for share in (*shares, 0.0)[:3])
    return train, val, test


def group_names(ids: Sequence[str], pattern: str | None) -> list[str]:
    """The group of every image: what a regular expression finds in its id, its first bracket if it has one.

    >>> group_names(["cell3_t1.tif", "cell3_t2.tif", "blank.tif"], "(cell[0-9]+)_")
    ['cell3', 'cell3', 'blank.tif']

    Raises:
        UserError: a pattern that is none, or that nothing matches.
    """
    if pattern is None:
        return list(ids)
    try:
        found = [re.search(pattern, name) for name in ids]
    except re.error as error:
        raise UserError(f"--group_by {pattern!r} is no regular expression: {error}") from None
    if not any(found):
        raise UserError(f"--group_by {pattern!r} matches no image; the first is {ids[0]}")
    return [
        name if match is None else next((part for part in match.groups() if part is not None), match.group())
        for name, match in zip(ids, found, strict=True)
    ]


def split_groups(
    groups: Sequence[Hashable], shares: Sequence[float], seed: int = 0, settled: Mapping[Hashable, str] | None = None
) -> list[str]:
    """The part of every image, drawn so that the parts' sizes are as near to the shares as whole groups allow.

    Args:
        groups: the group of every image.
        shares: of train, val and test, ≥ 0, sum 1. A part with a share gets at least one group while there are enough.
        seed: another one draws another split.
        settled: groups whose part is known, from a split made before.
    Returns: ``train``, ``val`` or ``test`` for every image, in order.
    """
    part_of: dict[Hashable, str] = dict(settled or {})
    sizes: dict[Hashable, int] = defaultdict(int)
    for group in groups:
        sizes[group] += 1
    missing = {part: share * len(groups) for part, share in zip(SPLITS, shares, strict=True)}
    for group, size in sizes.items():
        if group in part_of:
            missing[part_of[group]] -= size
    names = sorted((group for group in sizes if group not in part_of), key=str)
    order = np.random.default_rng(seed).permutation(len(names))
    waiting = sorted((names[index] for index in order), key=lambda group: -sizes[group])
    wanted = [part for part, share in zip(SPLITS, shares, strict=True) if share > 0]
    for index, group in enumerate(waiting):
        empty = [part for part in wanted if part not in part_of.values()]
        choice = empty if 0 < len(empty) >= len(waiting) - index else wanted
        part_of[group] = max(choice, key=lambda part: missing[part])
        missing[part_of[group]] -= sizes[group]
    return [part_of[group] for group in groups]


def split_fold(groups: Sequence[Hashable], fold: str) -> list[bool]:
    """Whether part k of K holds an image, for ``k/K``: the K parts are fixed, disjoint and of nearly equal size.

    The largest groups are dealt first, each to the part with the fewest images, groups of one size in a random order.

    Args:
        groups: the group of every image; groups are never torn apart.
    Raises:
        UserError: more parts than groups.
    """
    number, parts = map(int, fold.split("/"))
    sizes = Counter(groups)
    if parts > len(sizes):
        together = "" if len(sizes) == len(groups) else f" in {len(sizes)} groups that stay together"
        raise UserError(f"--fold {fold}: the training list has only {counted(groups, 'image')}{together}")
    places = np.random.default_rng(parts).permutation(len(sizes)).tolist()
    counts, part_of = [0] * parts, {}
    for _, _, group in sorted(zip((-size for size in sizes.values()), places, sizes, strict=True)):
        part_of[group] = counts.index(min(counts))
        counts[part_of[group]] += sizes[group]
    return [part_of[group] == number - 1 for group in groups]


def split_in_order(count: int, shares: Sequence[float]) -> list[str]:
    """The part of each of ``count`` items in a row, cut at the shares: first train, then val, then test.

    A part with a share gets at least one item while there are enough.

    >>> split_in_order(4, (0.5, 0.25, 0.25))
    ['train', 'train', 'val', 'test']
    """
    sizes = np.diff(np.floor(np.cumsum(shares) * count + 0.5).astype(int), prepend=0)
    for part, share in enumerate(shares):
        if share > 0 and sizes[part] == 0 and sizes.max() > 1:
            sizes[np.argmax(sizes)] -= 1
            sizes[part] += 1
    return [part for part, size in zip(SPLITS, sizes, strict=True) for _ in range(size)]
