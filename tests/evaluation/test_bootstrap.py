"""Intervals from few images cover what they say, whatever the distribution of the scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evaluation.scores.bootstrap import (
    bootstrap_counts,
    bootstrap_mean,
    percentile_interval,
    small_sample_reach,
    student_reach,
    unit_values,
)
from training.budget.curve import Scores, cell_means, resample

IMAGES, TRIALS, RESAMPLES = 10, 1000, 1000


def sometimes_failed(rng: np.random.Generator, count: int) -> np.ndarray:
    """Scores of a network that fails on every third image (of rarer failures ten images often show none)."""
    return np.where(rng.random(count) < 1 / 3, rng.beta(2, 5, count), rng.beta(20, 2, count))


DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "normal": (lambda rng, count: rng.normal(0.7, 0.1, count), 0.7),
    "near one": (lambda rng, count: rng.beta(9, 1, count), 0.9),
    "near zero": (lambda rng, count: rng.beta(1, 9, count), 0.1),
    "skewed": (lambda rng, count: rng.beta(2, 5, count), 2 / 7),
    "all or nothing": (lambda rng, count: (rng.random(count) < 0.7).astype(float), 0.7),
    "sometimes failed": (sometimes_failed, 2 / 7 / 3 + 20 / 22 * 2 / 3),
}


def coverage(interval_of: Callable[[np.ndarray, int], tuple], draw: Callable, mean: float) -> float:
    """Share of TRIALS sets of IMAGES scores whose interval holds the mean that they were drawn with."""
    rng = np.random.default_rng(7)
    bounds = [interval_of(draw(rng, IMAGES), trial) for trial in range(TRIALS)]
    return float(np.mean([low <= mean <= high for low, high in bounds]))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_intervals_of_ten_images_cover_the_mean(name):
    assert coverage(lambda v, seed: bootstrap_mean(v, seed=seed, resamples=RESAMPLES)[1:], *DISTRIBUTIONS[name]) >= 0.92


@pytest.mark.parametrize("name", ["normal", "skewed"])
def test_expanded_percentiles_of_ten_images_cover_the_mean(name):
    """As the audit takes them, of figures that are no means."""

    def of_counts(values: np.ndarray, seed: int) -> tuple:
        counts = np.stack([values, np.ones(IMAGES)], 1)
        drawn = bootstrap_counts(counts, seed, RESAMPLES)
        return percentile_interval(drawn[:, 0] / drawn[:, 1], small_sample_reach(IMAGES))

    assert coverage(of_counts, *DISTRIBUTIONS[name]) >= 0.92


def test_intervals_of_ten_repeats_cover_the_mean():
    """As the annotation budget takes them."""

    def of_repeats(values: np.ndarray, seed: int) -> tuple:
        data = Scores(np.ones(IMAGES), np.full(IMAGES, 20.0), values, np.arange(IMAGES))
        (row,) = cell_means(data, resample(data, RESAMPLES, seed))
        return row["low"], row["high"]

    assert coverage(of_repeats, *DISTRIBUTIONS["normal"]) >= 0.92


def test_plain_percentiles_would_not():
    """The measure tells an interval that is too narrow from an honest one."""

    def plain(values: np.ndarray, seed: int) -> tuple:
        means = np.random.default_rng(seed).choice(values, (RESAMPLES, IMAGES)).mean(1)
        return tuple(np.quantile(means, (0.025, 0.975)))

    assert coverage(plain, *DISTRIBUTIONS["near one"]) < 0.92


def test_reaches_are_those_of_students_t():
    assert student_reach(2) == pytest.approx(12.706, abs=1e-3)
    assert student_reach(10) == pytest.approx(2.262, abs=1e-3)
    assert student_reach(10_000) == pytest.approx(1.960, abs=1e-3)
    assert small_sample_reach(5) == pytest.approx(2.776 * np.sqrt(5 / 4), abs=1e-3)


def test_two_images_get_students_interval_within_the_limits():
    mean, low, high = bootstrap_mean(np.array([0.5, 0.52]))
    reach = 12.706 * 0.01  # the standard error is half the difference
    assert (mean, low, high) == pytest.approx((0.51, 0.51 - reach, 0.51 + reach), abs=1e-4)
    assert bootstrap_mean(np.array([0.1, 0.9]))[1:] == (0, 1)
    assert bootstrap_mean(np.array([3.0, 40.0]), limits=(0, np.inf))[2] > 40


def test_an_interval_leans_to_where_a_failure_lies():
    mean, low, high = bootstrap_mean(np.array([0.9] * 6 + [0.88, 0.92, 0.91, 0.2]))
    assert mean - low > 1.5 * (high - mean) and high <= 1


def test_one_value_far_off_leaves_the_bounds_within_reach_of_two_values():
    values = np.array([3.0, 4.0, 3.5, 4.2, 3.1, 220.0])
    mean, low, high = bootstrap_mean(values, limits=(0, np.inf))
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert low < mean < high <= mean + student_reach(2) * error < 600


def test_intervals_of_ten_stacks_cover_the_mean_of_all_planes():
    def drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        planes = rng.integers(1, 6, IMAGES)
        stacks = np.repeat(np.arange(IMAGES), planes)
        return np.repeat(rng.normal(0.7, 0.1, IMAGES), planes) + rng.normal(0, 0.02, len(stacks)), stacks

    def covered(values: np.ndarray) -> bool:
        mean, low, high = bootstrap_mean(values, resamples=RESAMPLES)
        return low <= 0.7 <= high

    rng, together, apart = np.random.default_rng(7), [], []
    for _ in range(TRIALS // 4):
        values, stacks = drawn(rng)
        units = unit_values(values, stacks.astype(str))
        assert len(units) == IMAGES and units.mean() == pytest.approx(values.mean())
        together.append(covered(units))
        apart.append(covered(values))
    assert np.mean(together) >= 0.9 > 0.8 > np.mean(apart)


def test_equal_scores_have_no_width():
    assert bootstrap_mean(np.full(8, 0.25)) == (0.25, 0.25, 0.25)


def test_undefined_values_are_left_out_and_the_answer_repeats_itself():
    values = np.array([0.5, np.nan, 0.7, 0.9, 0.65, 0.8])
    assert bootstrap_mean(values) == bootstrap_mean(values[~np.isnan(values)]) == bootstrap_mean(values)
    assert bootstrap_mean(np.array([0.4]))[0] == 0.4 and np.isnan(bootstrap_mean(np.array([0.4]))[1:]).all()
    assert np.isnan(bootstrap_mean(np.array([np.nan]))).all()


def test_undefined_resamples_are_left_out():
    resampled = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    low, high = percentile_interval(resampled, small_sample_reach(10))
    assert 1 <= low[0] <= high[0] <= 3
    assert np.isnan(low[1])


def test_values_that_are_equal_but_for_rounding_have_an_interval():
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]) - np.array([0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert bootstrap_mean(values) == pytest.approx((0.1, 0.1, 0.1))
