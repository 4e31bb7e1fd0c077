r"""Whether one prediction is better than another on the same images: differences in pairs, tested and with intervals.

Images differ far more from each other than predictions of one image do, so that intervals of two means tell little;
the interval of the mean difference tells what is asked. The test needs no distribution: were both equally good, every
difference could as well have the other sign.

Source: Fisher, The Design of Experiments, 1935, section 21; Smucker, Allan & Carterette, A comparison of statistical
significance tests for information retrieval evaluation, CIKM 2007.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.scores.bootstrap import bootstrap_mean

EXACT = 14  # pairs up to which all 2ⁿ signs are tried
RESAMPLES = 9999  # random signs beyond that


class PairedDifference(NamedTuple):
    """Means over the pairs that both define, their difference second − first with its 95 % interval, and p."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    pairs: int


def paired_difference(first: np.ndarray, second: np.ndarray, *, largest: float = np.inf) -> PairedDifference:
    """Compare a metric of two predictions, image by image or group by group.

    Args:
        first, second: values of the same images in the same order, (n,); pairs with a NaN are left out.
        largest: what the values, which are at least 0, cannot exceed, nor their difference.
    """
    defined = ~(np.isnan(first) | np.isnan(second))
    first, second = np.asarray(first, np.float64)[defined], np.asarray(second, np.float64)[defined]
    pairs = len(first)
    if not pairs:
        return PairedDifference(*[float("nan")] * 6, pairs=0)
    mean, low, high = bootstrap_mean(second - first, limits=(-largest, largest))
    means = float(first.mean()), float(second.mean())
    return PairedDifference(*means, mean, low, high, sign_flip_p(second - first), pairs)


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
    """The two-sided p-value of a permutation test of paired differences, (n,).

    How often the mean is as far from 0 as here when every difference takes either sign: of all signs up to EXACT
    differences, else of RESAMPLES random ones and the observed ones. The smallest p of n differences is 2^(1−n).

    >>> sign_flip_p(np.array([0.1, 0.2, 0.3, 0.1])), sign_flip_p(np.array([0.1, -0.1]))
    (0.125, 1.0)
    """
    count = len(differences)
    observed = abs(differences.sum()) * (1 - 1e-9)
    if count <= EXACT:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
        return float((np.abs(signs @ differences) >= observed).mean())
    rng = np.random.default_rng(seed)
    block, reached = max(1, 2**22 // count), 0
    for start in range(0, RESAMPLES, block):
        signs = 1 - 2 * rng.integers(0, 2, (min(block, RESAMPLES - start), count), np.int8)
        reached += int((np.abs(signs @ differences) >= observed).sum())
    return (reached + 1) / (RESAMPLES + 1)


def group_means(values: np.ndarray, groups: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The groups in the order in which they appear, and the mean of each; NaN are left out.

    >>> group_means(np.array([1.0, 3.0, np.nan, 5.0]), ["b", "b", "a", "a"])
    (['b', 'a'], array([2., 5.]))
    """
    names = list(dict.fromkeys(groups))
    places = np.array([names.index(group) for group in groups])
    defined = ~np.isnan(values)
    sums, counts = (np.bincount(places[defined], weights, len(names)) for weights in (values[defined], None))
    return names, np.divide(sums, counts, out=np.full(len(names), np.nan), where=counts > 0)
