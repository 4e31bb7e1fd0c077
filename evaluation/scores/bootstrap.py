r"""Intervals from resampling images, honest for the few images that segmentation has.

Pixels of one image are not independent, so every interval here comes from resampling images (or repeats of a
training), never from binomials over pixels. Plain percentiles of a bootstrap are too narrow for few images: of ten
they cover 87 to 90 % instead of 95 %. So means get studentized intervals, which follow skew, and at least Student's;
other statistics get expanded percentiles.

No interval knows of failures that its sample does not show.

Source: Efron & Tibshirani, An introduction to the bootstrap, 1993, chapter 12 (studentized); Hesterberg, What teachers
should know about the bootstrap, 2015, section 3.4 (expanded percentiles).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95
MIN_IMAGES = 5  # fewer say too little of the spread between images for resampling
RESAMPLES = 1000
ROUNDING = 1e-12  # errors up to it are those of arithmetic on equal values


def bootstrap_counts(counts: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Summed counts of images drawn with replacement.

    Args:
        counts: a count table per image, (n, …).
    Returns: float (resamples, …).
    """
    images = len(counts)
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)
    return (weights @ counts.reshape(images, -1).astype(float)).reshape(resamples, *counts.shape[1:])


def student_reach(count: int) -> float:
    """Standard errors between a mean of ``count`` values and the bounds of its 95 % interval: 12.7 for two, …, 1.96."""
    from scipy.special import stdtrit

    return float(-stdtrit(count - 1, (1 - CONFIDENCE) / 2))


def small_sample_reach(count: int) -> float:
    r"""`student_reach` times :math:`\sqrt{n/(n-1)}`, for errors that were estimated from resamples of n images."""
    return student_reach(count) * float(np.sqrt(count / (count - 1)))


def percentile_interval(resampled: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Bounds of the 95 % interval of any statistic: the percentiles at :math:`\Phi(\pm reach)`.

    Args:
        resampled: the statistic of every resample, (B, …); NaN are left out.
        reach: `small_sample_reach` of the number of images; `student_reach` where the resamples were enlarged already.
    Returns: (low, high), each (…,); NaN where no resample is defined.
    """
    from scipy.special import ndtr

    tail = ndtr(-reach)
    if not np.isnan(resampled).any():
        low, high = np.quantile(resampled, (tail, 1 - tail), axis=0)
        return low, high
    defined = np.isfinite(resampled).any(0)
    low, high = np.nanquantile(np.where(defined, resampled, 0.0), (tail, 1 - tail), axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)


def counts_interval(
    metric: Callable[[np.ndarray], np.ndarray], counts: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Bounds of the 95 % interval of a metric of pooled counts; NaN with fewer than MIN_IMAGES.

    Args:
        metric: of summed tables of counts, (B, …) → (B,).
        counts: a table per image, (n, …).
    """
    if len(counts) < MIN_IMAGES:
        return float("nan"), float("nan")
    resampled = metric(bootstrap_counts(counts, seed, resamples))
    low, high = percentile_interval(resampled, small_sample_reach(len(counts)))
    return float(low), float(high)


def bootstrap_mean(
    values: np.ndarray, *, limits: tuple[float, float] = (0.0, 1.0), seed: int = 0, resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean of per-image values with its 95 % interval, Student's or the studentized bootstrap's if that is wider.

    No bound lies further off than `student_reach` of two values: resamples of few values without the one that differs
    have hardly a spread, and would else put bounds anywhere.

    >>> mean, low, high = bootstrap_mean(np.array([0.81, 0.9, 0.88, 0.93, 0.35, 0.86, 0.91, 0.84, 0.9, 0.87]))
    >>> round(mean, 3), low < 0.75 < 0.88 < high  # one failure among ten: wide, and wider downwards
    (0.825, True)

    Args:
        values: a metric per image; NaN (undefined) ones are left out.
        limits: what the values, and so their mean, cannot leave.
    Returns: (mean, low, high); all NaN without values, the bounds NaN with a single one.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    count = len(values)
    if count < 2:
        return float(values.mean()) if count else float("nan"), float("nan"), float("nan")
    mean, error = float(values.mean()), float(values.std(ddof=1)) / count**0.5
    below = above = student_reach(count)
    if count >= MIN_IMAGES and error > ROUNDING:
        reaches = _studentized_reaches(values, seed, resamples)
        below, above = (min(max(below, reach), student_reach(2)) for reach in reaches)
    return mean, max(mean - below * error, limits[0]), min(mean + above * error, limits[1])


def unit_values(values: np.ndarray, units: Sequence[str]) -> np.ndarray:
    r"""A value for each unit that errs as a whole, such as a stack of planes, with the mean of all values.

    They are :math:`m + (S_u - m n_u) U / n` of sums S and counts n of U units and the mean m of all n values, by which
    a ratio of sums errs (linearization; Cochran, Sampling techniques, 1977, section 6.3). NaN are left out.

    >>> unit_values(np.array([0.5, 0.7, 0.9, np.nan]), ["a", "a", "b", "b"]).round(3)
    array([0.567, 0.833])
    """
    defined = ~np.isnan(values)
    values, places = values[defined], np.unique(np.array(units)[defined], return_inverse=True)[1]
    if not len(values):
        return values
    sums, counts = np.bincount(places, values), np.bincount(places)
    return values.mean() + (sums - values.mean() * counts) * len(counts) / len(values)


def _studentized_reaches(values: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    """How many standard errors the interval of a mean reaches downwards and upwards."""
    rng, count = np.random.default_rng(seed), len(values)
    block = max(1, 2**20 // count)
    ratios = []
    for start in range(0, resamples, block):
        drawn = values[rng.integers(0, count, (min(block, resamples - start), count))]
        errors = drawn.std(1, ddof=1) / count**0.5
        spread = errors > ROUNDING  # a resample of equal values has no error to be measured by
        ratios.append((drawn.mean(1)[spread] - values.mean()) / errors[spread])
    low, high = np.quantile(np.concatenate(ratios), ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(high), float(-low)
