r"""How good a given label is, judged by out-of-sample predictions: quality of pixels and of images, noise-aware.

Cleanlab's self-confidence of a pixel is the predicted probability of its given label,
:math:`q(x) = p_{y(x)}(x)`. Under label noise that is low for right labels too: where nine of ten foreground pixels
were left out, every kept one has a probability of 0.1. A network learns the *density* of labels, so here the local
density of the given label is held against the local mean of the predicted posterior, both in (2h+1)² windows W:

.. math:: \rho_k(x) = \frac1{|W|} \sum_{y \in W(x)} [\text{label}(y) = k], \qquad
          \pi_k(x) = \frac1{|W|} \sum_{y \in W(x)} p_k(y), \qquad
          q(x) = \exp\Bigl(-\sum_k \rho_k \ln \frac{\rho_k}{\pi_k}\Bigr).

q is 1 where labels are as dense as expected and falls with the Kullback–Leibler divergence; for h = 0 it is the
self-confidence. Noise that is the same everywhere is expected, and costs nothing. Scores are calibrated first: p is
the share of foreground *labels* among pixels of a score, made monotone, so that thresholds, inversion and
overconfidence drop out. The quality of an image is the soft minimum of its pixels', as cleanlab's, times the overlap
with what is expected, of which only differences beyond chance are taken away, as far as predictions are sure of them:
alone, the soft minimum is decided by doubtful pixels along outlines where labels are otherwise clean.

Sources: Lad and Mueller, *Estimating label quality and errors in semantic segmentation data via any model*, arXiv
2307.05080 (self-confidence, soft minimum); Northcutt et al., *Confident learning*, JAIR 2021 (class thresholds);
the densities are this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.labels import IGNORE
from evaluation.label_audit.by_distance import window_mean
from evaluation.scores import BINS, auc

WINDOW = 3  # h: windows of 7×7 pixels
TEMPERATURE = 0.3  # of the soft minimum; cleanlab's 0.1 looks at fewer pixels, the doubtful ones along each boundary
FLOOR = 1e-3  # of posteriors: no single pixel proves a label wrong
MIN_REACH = 0.05  # of evidence: predictions that never tell classes apart are sure of nothing
MIN_LIFT = 0.05  # by which a class must be likelier where its labels lie than anywhere, of its share or of the rest
MIN_FOUND = 0.2  # of a class's labelled area, that must be expected for it to be judged: else most of it is "invented"
EVIDENCE = 5.4  # nats: half the 99.9 % quantile of χ² with one degree of freedom


def calibration_table(histogram: np.ndarray) -> np.ndarray:
    """The share of foreground labels among pixels of each score, monotone in the score (isotonic regression).

    Falling where foreground scores lower than background, as with labels that are inverted against the scores.

    Args:
        histogram: of scores against the labels to be judged, (2, BINS).
    Returns: float32 (BINS,) in [0, 1]; bins without pixels are interpolated.
    """
    from scipy.optimize import isotonic_regression

    total = histogram.sum(0)
    occupied = np.flatnonzero(total)
    if not occupied.size:
        return np.linspace(0, 1, BINS, dtype=np.float32)
    shares = histogram[1, occupied] / total[occupied]
    falling = auc(histogram) < 0.5  # NaN, where there is one class alone, is not
    fitted = isotonic_regression(shares, weights=total[occupied].astype(float), increasing=not falling).x
    return np.interp(np.arange(BINS), occupied, fitted).astype(np.float32)


def class_table(confusion: np.ndarray) -> np.ndarray:
    """The share of each label among pixels of each predicted class, rows = prediction.

    Args:
        confusion: pixels, rows = label, columns = prediction, (K, K).
    Returns: float32 (K, K), rows sum to 1; a class that is never predicted has equal shares.
    """
    counts = confusion.T.astype(float)
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), 1 / len(counts)).astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """How a map becomes the posterior of the labels to be judged.

    Args:
        table: binary: P(label 1 | score), (BINS,); K classes: P(label | predicted class), (K, K).
        confidence: mean posterior of each class over the pixels that carry its label, (K,) (confident learning's
            class thresholds); 1 for a class that no label has, infinite for one that predictions do not tell from the
            others, which is then never expected.
        sure: of each class, how sure predictions are that it is not there, and that it is: medians, (K, 2).
        outline: binary: how sure they are along the labels' outlines, see `object_issues.with_outlines`.
    """

    table: np.ndarray
    confidence: np.ndarray
    sure: np.ndarray
    outline: float = 0.5

    @classmethod
    def of_histogram(cls, histogram: np.ndarray) -> Calibration:
        """For binary score maps, from their histogram against the labels (2, BINS)."""
        table = calibration_table(histogram)
        sums = np.array([(histogram[0] * (1 - table)).sum(), (histogram[1] * table).sum()])
        confidence = _mean_or_one(sums, histogram.sum(1))
        return cls(table, confidence, _usual(np.stack([1 - table, table]), confidence, histogram.sum(0)))

    @classmethod
    def of_confusion(cls, confusion: np.ndarray) -> Calibration:
        """For class maps, from their confusion with the labels (K, K), rows = label."""
        table = class_table(confusion)
        confidence = _mean_or_one((confusion * table.T).sum(1), confusion.sum(1))
        share = confusion.sum(1) / max(confusion.sum(), 1)
        untold = (share > 0) & (confidence - share < MIN_LIFT * np.minimum(share, 1 - share))
        found = np.bincount((table / confidence).argmax(1), confusion.sum(0), len(table))
        untold |= found < MIN_FOUND * confusion.sum(1)
        confidence[1:][untold[1:]] = np.inf
        return cls(table, confidence, _usual(table.T, confidence, confusion.sum(0)))

    @property
    def untold(self) -> list[int]:
        """The classes that predictions do not tell from the others, which cannot be judged by them."""
        return np.flatnonzero(np.isinf(self.confidence)).tolist()

    def relative(self, posterior: np.ndarray, index: int) -> np.ndarray:
        """A class against the likeliest other one, each as a share of its usual posterior; above ½ where it wins, (…).

        Args:
            posterior: P(label = k), (K, …).
        """
        return _relative(posterior, self.confidence, index)

    def evidence(self, posterior: np.ndarray, index: int) -> np.ndarray:
        """How sure it is that a class is there, as against what the noise of the labels allows, 0…1, (H, W).

        One half where objects are usually outlined, 1 where it is as sure as predictions of the class usually are.

        Args:
            posterior: P(label = k), (K, H, W).
        """
        relative = self.relative(posterior, index)
        low, high = self.sure[index]
        reach = np.where(
            relative > self.outline, max(high - self.outline, MIN_REACH), max(self.outline - low, MIN_REACH)
        )
        return np.clip(0.5 + 0.5 * (relative - self.outline) / reach, 0, 1).astype(np.float32)

    def sureness(self, posterior: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """How sure predictions are of given classes, (H, W): 1 as sure as they usually are, 0 at even odds or below.

        Args:
            posterior: P(label = k), (K, H, W).
            classes: a class for every pixel, (H, W).
        """
        evidence = np.stack([self.evidence(posterior, index) for index in range(len(posterior))])
        return np.maximum(2 * np.take_along_axis(evidence, classes[None], 0)[0] - 1, 0)

    def expected(self, posterior: np.ndarray) -> np.ndarray:
        """The class that is expected of every pixel, uint8 (H, W)."""
        if len(posterior) == 2:
            return (self.evidence(posterior, 1) > 0.5).astype(np.uint8)
        return (posterior / self.confidence[:, None, None]).argmax(0).astype(np.uint8)

    def posterior(self, prediction: np.ndarray) -> np.ndarray:
        """P(label = k) of every pixel, float32 (K, H, W), each at least FLOOR and of sum 1.

        Args:
            prediction: scores (H, W) in [0, 1], or class indices (H, W).
        """
        if self.table.ndim == 1:
            foreground = self.table[np.clip((prediction * BINS).astype(np.int32), 0, BINS - 1)]
            shares = np.stack([1 - foreground, foreground])
        else:
            shares = np.moveaxis(self.table[prediction], -1, 0)
        shares = np.maximum(shares, np.float32(FLOOR))
        return shares / shares.sum(0)


def _relative(posterior: np.ndarray, confidence: np.ndarray, index: int) -> np.ndarray:
    """A class against the likeliest other one, each as a share of its usual posterior; above ½ where it wins, (…)."""
    ratios = posterior / confidence.reshape(-1, *[1] * (posterior.ndim - 1))
    return ratios[index] / np.maximum(ratios[index] + np.delete(ratios, index, 0).max(0), 1e-12)


def _usual(posterior: np.ndarray, confidence: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Medians of `_relative` over the pixels where a class loses, and where it wins, (K, 2).

    Args:
        posterior: P(label = k) of each score or predicted class, (K, n).
        pixels: of each of those, (n,).
    """
    usual = np.tile([0.0, 1.0], (len(confidence), 1))
    for index in range(len(confidence)):
        relative = _relative(posterior, confidence, index)
        for column, side in enumerate((relative <= 0.5, relative > 0.5)):
            order = np.argsort(relative[side])
            weights = np.cumsum(pixels[side][order])
            if weights.size and weights[-1] > 0:
                usual[index, column] = relative[side][order][np.searchsorted(weights, weights[-1] / 2)]
    return usual


def _mean_or_one(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)


@dataclass(frozen=True)
class LabelQuality:
    """A label beside what is expected of it, in windows around every pixel.

    Args:
        given: local density of the given labels, (K, H, W).
        expected: local mean of the posterior, (K, H, W).
        pixels: labelled pixels in the window, (H, W).
        valid: pixels that carry a label, bool (H, W).
    """

    given: np.ndarray
    expected: np.ndarray
    pixels: np.ndarray
    valid: np.ndarray

    @property
    def divergence(self) -> np.ndarray:
        """Kullback–Leibler divergence of the given from the expected density, nats, (H, W); 0 without labels."""
        ratio = np.log(np.maximum(self.given, 1e-12) / self.expected)
        return np.maximum(np.where(self.given > 0, self.given * ratio, 0).sum(0), 0) * self.valid

    @property
    def quality(self) -> np.ndarray:
        """Quality of every pixel in (0, 1], (H, W); 1 where no label is."""
        return np.exp(-self.divergence)

    def stated(self, confidence: np.ndarray) -> np.ndarray:
        """The class that the given labels stand for around each pixel, as against their usual density, (H, W)."""
        return (self.given / confidence[:, None, None]).argmax(0)

    def predicted(self, confidence: np.ndarray) -> np.ndarray:
        """The class that the predictions stand for around each pixel, (H, W)."""
        return (self.expected / confidence[:, None, None]).argmax(0)

    def issues(self, confidence: np.ndarray) -> np.ndarray:
        """Pixels around which labels stand for another class than predictions, by more than chance; bool (H, W).

        Chance: labels that err independently with the expected density, a likelihood ratio at the 0.1 % level.
        """
        differs = self.stated(confidence) != self.predicted(confidence)
        return differs & (self.divergence * self.pixels > EVIDENCE) & self.valid


def assess(label: np.ndarray, posterior: np.ndarray, window: int = WINDOW) -> LabelQuality:
    """Local densities of a label and of what is expected of it.

    Args:
        label: class indices with 255 ignored, (H, W).
        posterior: P(label = k), (K, H, W).
        window: h; windows have (2h+1)² pixels and end at the image's edge.
    """
    area = (2 * window + 1) ** 2
    valid = label != IGNORE
    share = np.maximum(window_mean(valid, window), 0.5 / area)
    given = np.stack([window_mean(label == index, window) for index in range(len(posterior))]) / share
    expected = np.stack([window_mean(plane * valid, window) for plane in posterior]) / share
    return LabelQuality(given, np.maximum(expected, 1e-12), share * area, valid=valid)


def soft_minimum(values: np.ndarray, temperature: float = TEMPERATURE) -> float:
    r"""A mean that leans towards the lowest values; NaN without values.

    .. math:: \frac{\sum_i s_i\, e^{(1 - s_i)/T}}{\sum_i e^{(1 - s_i)/T}}

    Args:
        values: qualities in [0, 1], any shape.
        temperature: T; 0⁺ is the minimum, infinity the mean.
    """
    if values.size == 0:
        return float("nan")
    values = np.asarray(values, np.float64)
    weights = np.exp((values.min() - values) / temperature)
    return float((values * weights).sum() / weights.sum())


def image_quality(assessed: LabelQuality, confidence: np.ndarray, sure: np.ndarray | float = 1.0) -> float:
    r"""The quality of a label in [0, 1]: its overlap with what is expected, times the soft minimum; NaN without pixels.

    .. math:: \Bigl(1 - \frac{\sum_{\text{issues}} s^2}{|\text{stated} \cup \text{predicted}|}\Bigr) \cdot
              \text{softmin}\; q

    Where a network fails on an image, its haze is all doubt, and contradicts the label of half the image.

    Args:
        confidence: of each class, see `Calibration`, (K,).
        sure: s, how sure predictions are of the classes that they stand for, see `Calibration.sureness`, (H, W).
    """
    valid = assessed.valid
    if not valid.any():
        return float("nan")
    foreground = ((assessed.stated(confidence) > 0) | (assessed.predicted(confidence) > 0)) & valid
    union = max(int(foreground.sum()), (2 * WINDOW + 1) ** 2)  # a single window is no image
    overlap = 1 - (assessed.issues(confidence) * np.square(sure)).sum() / union
    return float(max(overlap, 0) * soft_minimum(assessed.quality[valid]))


def outliers(qualities: np.ndarray, deviations: float = 3.0) -> np.ndarray:
    """Which images stand out as worse than the others, bool (n,).

    More than ``deviations`` robust standard deviations (1.4826 · median absolute deviation) below the median; half
    of the images may be wrong before that fails.
    """
    middle = np.nanmedian(qualities)
    spread = 1.4826 * np.nanmedian(np.abs(qualities - middle))
    return qualities < middle - deviations * max(spread, 1e-6)
