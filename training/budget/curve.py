r"""The learning curve of an annotation budget: a power law with a plateau, its intervals, and what it says in words.

.. math:: F = a - b \left(\frac{x_{full}}{x}\right)^{c}, \qquad x = n\,p^{\kappa}

n images with a share p of their foreground pixels labelled count as x fully labelled images. κ = 0: pixels left out
cost nothing; κ = 1: a labelled pixel is worth the same wherever it is. a is what unlimited annotation would reach, b
what it would add to the most annotation tried.
Source of the form: Cortes et al., *Learning curves: asymptotic values and rate of convergence*, NIPS 1993; κ is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.scores.bootstrap import percentile_interval, student_reach

POWERS = np.geomspace(0.05, 3, 42)
WORTHS = np.linspace(0, 1, 41)
MIN_SPREAD = 0.005  # of a score between repeats; a smaller one is chance where there are few
# Where points cannot tell, the power and the worth of pixels are taken near these: centre and standard deviation of
# log c and of κ.
USUAL_POWER, USUAL_WORTH = (np.log(0.5), 1.0), (0.5, 0.5)
MIN_CELLS = 3
RESAMPLES = 1000


@dataclass(frozen=True)
class Scores:
    """The scores of trained cells, one entry a training.

    Args:
        shares, images: annotation, (M,).
        scores: figures in [0, 1], (M,).
        repeats: number of the repeat, (M,); trainings of one repeat share seed and choice of images.
    """

    shares: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    repeats: np.ndarray

    @classmethod
    def of_records(cls, records: Sequence[dict[str, Any]]) -> Scores:
        """From records with ``share``, ``images``, ``score`` and ``repeat``."""
        names = ("share", "images", "score", "repeat")
        return cls(*(np.array([record[name] for record in records], float) for name in names))

    @property
    def levels(self) -> np.ndarray:
        """For every training the number of its (share, images) among the different ones, (M,)."""
        pairs = np.stack([self.shares, self.images], 1)
        return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)

    @property
    def number_of_repeats(self) -> int:
        """How many different repeats there are."""
        return len(np.unique(self.repeats))


@dataclass(frozen=True)
class Curve:
    """Fitted curves, see the module; every parameter an array (B,), entry 0 the fit to the scores as they are."""

    plateau: np.ndarray
    drop: np.ndarray
    power: np.ndarray
    worth: np.ndarray
    full: tuple[float, float]
    repeats: int

    def predict(self, share: np.ndarray | float, images: np.ndarray | float) -> np.ndarray:
        """Scores in [0, 1] for annotation of any common shape (…), as (B, …)."""
        share, images = np.broadcast_arrays(np.asarray(share, float), np.asarray(images, float))
        one = (slice(None), *(None,) * share.ndim)
        ratio = self.full[1] / images * (self.full[0] / share) ** self.worth[one]
        return np.clip(self.plateau[one] - self.drop[one] * ratio ** self.power[one], 0, 1)

    def parameters(self) -> dict[str, dict[str, float]]:
        """Each parameter with its 95 % interval, NaN without resamples."""
        named = {"plateau": self.plateau, "drop": self.drop, "power": self.power, "pixel_worth": self.worth}
        return {
            name: dict(zip(("value", "low", "high"), interval(values, self.repeats), strict=True))
            for name, values in named.items()
        }


def interval(values: np.ndarray, repeats: int) -> tuple[float, float, float]:
    """Value (entry 0) and 95 % interval (the other entries, from `resample`) of an array (B,); NaN without others."""
    if len(values) < 2:
        return float(values[0]), float("nan"), float("nan")
    low, high = percentile_interval(values[1:], student_reach(repeats))
    return float(values[0]), float(low), float(high)


@dataclass(frozen=True)
class Scatter:
    """How scores scatter between repeats: an effect of each repeat on all cells, and what is left in each training.

    Args:
        means: mean score of each training's cell, (M,).
        effects: of the repeats, (R,), and for every training the number of its repeat among them, (M,).
        rest: what is left, (M,); of cells that were trained once it is not known and 0.
        known: whether it is known, (M,).
    """

    means: np.ndarray
    effects: np.ndarray
    number: np.ndarray
    rest: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, data: Scores) -> Scatter:
        """Split the scores. Both parts are enlarged, as they scatter less about their own means than about the true."""
        levels, counts = data.levels, np.bincount(data.levels)
        means = (np.bincount(levels, data.scores) / counts)[levels]
        known = counts[levels] > 1
        residuals = np.where(known, data.scores - means, 0)
        number = np.unique(data.repeats, return_inverse=True)[1].reshape(-1)
        trained = np.bincount(number, known)
        effects = np.bincount(number, residuals) / np.maximum(trained, 1)
        rest = np.where(known, residuals - effects[number], 0)
        cells, repeats = (counts > 1).sum(), (trained > 0).sum()
        freedom = max(int(known.sum() - cells - repeats + 1), 1)
        rest = rest * np.sqrt(known.sum() / freedom)
        return cls(means, effects[trained > 0] * np.sqrt(repeats / max(repeats - 1, 1)), number, rest, known)

    @property
    def spread(self) -> float:
        """Standard deviation of what is left, which is what a curve through the cells has to bear; NaN if unknown."""
        return float(np.sqrt((self.rest[self.known] ** 2).mean())) if self.known.any() else float("nan")


def resample(data: Scores, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Scores (1 + resamples, M): row 0 as they are, the others bootstrapped over repeats.

    Each cell keeps its mean; the effect of a repeat is drawn anew for all cells together, what is left is drawn among
    the cell's own trainings, or among all where there is but one. Without repeats, row 0 alone.
    """
    scatter, levels = Scatter.of(data), data.levels
    if not scatter.known.any():
        return data.scores[None]
    rng = np.random.default_rng(seed)
    effects = rng.choice(scatter.effects, (resamples, scatter.number.max() + 1))
    rows = scatter.means + effects[:, scatter.number]
    for level in np.unique(levels):
        own = levels == level
        pool = scatter.rest[own] if scatter.known[own].any() else scatter.rest[scatter.known]
        rows[:, own] += rng.choice(pool, (resamples, own.sum()))
    return np.concatenate([data.scores[None], rows])


def fit_curve(data: Scores, resampled: np.ndarray | None = None) -> Curve | None:
    """Fit the curve to all scores at once and to every resample.

    For each power and worth of a grid, plateau and drop follow in closed form (0 ≤ b, a ≤ 1); the pair with the
    least squared error over the variance between repeats is taken, with a weak preference for usual values
    (`USUAL_POWER`, `USUAL_WORTH`) that decides only what the points leave open.

    Args:
        resampled: from `resample`, (B, M); default: the scores as they are.
    Returns: None with fewer than three different cells.
    """
    if len(np.unique(data.levels)) < MIN_CELLS:
        return None
    scores = data.scores[None] if resampled is None else resampled
    power, worth = (grid.reshape(-1) for grid in np.meshgrid(POWERS, WORTHS, indexing="ij"))
    full = most_annotation(data)
    ratio = full[1] / data.images * (full[0] / data.shares) ** worth[:, None]
    plateau, drop, error = _solve(scores, ratio ** power[:, None])
    spread = np.fmax(Scatter.of(data).spread, MIN_SPREAD)
    usual = ((np.log(power) - USUAL_POWER[0]) / USUAL_POWER[1]) ** 2 + ((worth - USUAL_WORTH[0]) / USUAL_WORTH[1]) ** 2
    best = (error / spread**2 + usual).argmin(1)
    rows = np.arange(len(scores))
    return Curve(plateau[rows, best], drop[rows, best], power[best], worth[best], full, data.number_of_repeats)


def _solve(scores: np.ndarray, terms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of scores (B, M) on a − b · terms (G, M) with 0 ≤ b, a ≤ 1: a, b and squared error, each (B, G)."""
    count = scores.shape[1]
    total, terms_total = scores.sum(1)[:, None], terms.sum(1)
    products, squares = scores @ terms.T, (terms**2).sum(1)
    scatter = squares - terms_total**2 / count
    drop = (total * terms_total / count - products) / np.maximum(scatter, 1e-12)
    drop = np.where(scatter > 1e-9, drop.clip(0), 0)
    plateau = (total + drop * terms_total) / count
    over = plateau > 1
    plateau = np.where(over, 1, plateau)
    drop = np.where(over, ((terms_total - products) / squares).clip(0), drop)
    error = (
        (scores**2).sum(1)[:, None]
        - 2 * plateau * total
        + 2 * drop * products
        + count * plateau**2
        - 2 * plateau * drop * terms_total
        + drop**2 * squares
    )
    return plateau, drop, error.clip(0)


def most_annotation(data: Scores) -> tuple[float, float]:
    """Share and images of the trained cell with the most annotation: the largest share of the most images."""
    most = data.images.max()
    return float(data.shares[data.images == most].max()), float(most)


def cell_means(data: Scores, resampled: np.ndarray) -> list[dict[str, Any]]:
    """Each different cell with its mean score and that in relation to the most annotation, intervals over repeats.

    Returns: records with share, images, repeats, mean/low/high, of_full/of_full_low/of_full_high; most annotation
        first, by labelled amount.
    """
    levels = data.levels
    means = {level: resampled[:, levels == level].mean(1) for level in np.unique(levels)}
    full, repeats = most_annotation(data), data.number_of_repeats
    reference = next(
        means[level] for level in means if (data.shares[levels == level][0], data.images[levels == level][0]) == full
    )
    rows = []
    for level, values in means.items():
        own = levels == level
        record = {"share": float(data.shares[own][0]), "images": int(data.images[own][0]), "repeats": int(own.sum())}
        record.update(zip(("mean", "low", "high"), interval(values, repeats), strict=True))
        relative = values / np.maximum(reference, 1e-9)
        record.update(zip(("of_full", "of_full_low", "of_full_high"), interval(relative, repeats), strict=True))
        rows.append(record)
    return sorted(rows, key=lambda row: (-row["share"] * row["images"], -row["images"]))


# In words


def percent(share: float) -> str:
    """A share as a percentage for people: 5 %, 12.5 %."""
    return f"{100 * share:.3g} %"


def show_score(value: float) -> str:
    """A score for people."""
    return f"{value:.2f}"


def describe_annotation(share: float, images: int) -> str:
    """Annotation in words, as the subject of a sentence."""
    pixels = "All foreground pixels" if share == 1 else f"{percent(share)} of the foreground pixels"
    return f"{pixels} on {images} image{'' if images == 1 else 's'}"


def _between(low: float, high: float, show: Callable[[float], str]) -> str:
    """An interval in words after a comma, or nothing where there is none."""
    return "" if np.isnan(low) else f", 95 % interval {show(low)} to {show(high)}"


def cheapest_sentence(rows: Sequence[dict[str, Any]], target: float, score: str, is_full: bool) -> str:
    """The least annotation tried whose score reaches ``target`` of that with the most, in plain words.

    Args:
        rows: from `cell_means`.
        score: the figure's name, as people know it.
        is_full: whether the most annotation tried is the full labels of the whole list.
    """
    most = max(rows, key=lambda row: (row["images"], row["share"]))
    enough = [row for row in rows if row["of_full"] >= target]
    if not enough:  # of a score of 0 there are no shares
        return (
            f"Not even the most annotation tried taught anything, {score} {show_score(most['mean'])} with "
            f"{most['images']} images: take more --steps, or look at the labels."
        )
    least = min(enough, key=lambda row: (row["share"] * row["images"], row["images"]))
    of_what = f"full-label {score}" if is_full else f"{score} of the most annotation tried"
    if least is most:
        return (
            f"No smaller amount of annotation tried reaches {percent(target)} of the {of_what}, "
            f"{show_score(most['mean'])} with {most['images']} images."
        )
    return (
        f"{describe_annotation(least['share'], least['images'])} reach {_whole_percent(least['of_full'])} of the "
        f"{of_what} ({show_score(least['mean'])} of {show_score(most['mean'])}"
        f"{_between(least['of_full_low'], least['of_full_high'], _whole_percent)})."
    )


def _whole_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def outlook_sentences(curve: Curve, data: Scores, score: str) -> list[str]:
    """What the fitted curve says of more images and of fewer pixels, in plain words; nothing of what did not vary."""
    share, images = curve.full
    sentences = []
    if len(np.unique(data.images)) > 1:
        gain, low, high = interval(curve.predict(share, 2 * images) - curve.predict(share, images), curve.repeats)
        sentences.append(
            f"By the fitted curve, twice as many images would add about {show_score(gain)} {score}"
            f"{_between(low, high, show_score)}."
        )
    if len(np.unique(data.shares)) > 1:
        worth, low, high = interval(0.1**curve.worth, curve.repeats)
        low, high = min(low, high), max(low, high)
        sentences.append(
            f"By the fitted curve, labelling a tenth of the pixels is worth labelling {_whole_percent(worth)} of the "
            f"images in full{_between(low, high, _whole_percent)}."
        )
    return sentences
