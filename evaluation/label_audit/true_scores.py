r"""Scores against the truth, from labels that err, by what an audit knows of their errors by distance.

The audit gives :math:`q(d) = P(\text{label} = 1 \mid d)`, d the signed distance to the true outline, after the repair
that it found. Of a prediction, the share of labels is read by the signed distance s to the *predicted* outline,

.. math:: r(s) = (1 - \alpha) \sum_\delta f(\delta)\, q(s + \delta) + \alpha\, \bar q,

where the predicted outline lies a normally distributed δ beside the true one, and a share α of the predicted foreground
was invented, or of the background missed (:math:`\bar q` is then the mean label share of the other class). Mean and
deviation of δ and both α are fitted to r; with them the share of true foreground t(s) follows. What the fit leaves of r
is in part truth too: it is divided by the contrast of the labels, as the inverse of their transition matrix does it.
From t(s) follow IoU and F1.

Distance does not show where people and predictions fail at the same faint structures, which makes that too high. It is
seen on the audited images: a stand-in for a network (``stand_in.py``) learns their labels, and by what the IoU of its
masks is stated too high, at as much foreground as these predictions mark, the figure is lowered.

The interval resamples audited and test images, and is widened by what the model errs by on simulated labels: the more,
the more the errors of labels depend on the distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_io import read_label
from evaluation.label_audit.error_table import (
    DISTANCE,
    INSIDE,
    REACH,
    LabelErrors,
    Shares,
    StandInMasks,
    count_by_distance,
)
from evaluation.label_audit.verdict import read_audit
from evaluation.scores.bootstrap import MIN_IMAGES, small_sample_reach, student_reach
from evaluation.scores.images import ImageResult, Scorer
from evaluation.scores.maps import read_map
from evaluation.scores.validation import unit_names
from utils.cli import UserError
from utils.run_folder import LOG_ROOT, display_path

SHIFTS = np.arange(-12, 12.01, 0.25)  # of the predicted outline against the true one, pixels
# Fixed on simulated sets, see benchmarks/audit/true_scores.py.
PRIOR = 0.01  # weight of usual parameters beside the labels
USUAL, SPREAD = np.array([0.0, 0.0, -3.0, -4.0]), np.array([3.0, 1.0, 3.0, 3.0])
LOWEST, HIGHEST = (-8.0, -2.5, -9.0, -12.0), (8.0, 2.0, 3.0, 3.0)
RESAMPLES = 100
LEVEL = 0.9  # of the interval
RESIDUAL = 0.6  # part of what the fit leaves that is taken for truth
MODEL_ERROR = (0.015, 0.08)  # standard deviation of the IoU: of any labels, and of those that err by distance alone
MAX_WIDTH = 0.4  # of an interval that still says anything
MAX_IMPOSSIBLE = 0.05  # see `impossible_share`; at most 0.007 on simulated labels of all kinds that err as audited ones
CANNOT = ("by image", "by place", "not learnable", "unknown")  # in verdicts and kinds of bias


@dataclass(frozen=True)
class TrueScores:
    """IoU and F1 against the truth with bounds of a 90 % interval, or why there are none.

    Args:
        reason: why the truth cannot be told; empty where it can.
        iou, f1: estimates, pooled over pixels; NaN where they cannot be told, as their bounds.
        audited: images that the errors of labels are known from.
        outline: by how many pixels predicted outlines are wider (> 0) than the true ones.
    """

    reason: str = ""
    iou: float = float("nan")
    iou_bounds: tuple[float, float] = (float("nan"), float("nan"))
    f1: float = float("nan")
    f1_bounds: tuple[float, float] = (float("nan"), float("nan"))
    audited: int = 0
    outline: float = float("nan")

    def to_json(self) -> dict[str, Any]:
        """For metrics.json."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        if self.reason:
            return f"against the truth: cannot be told: {self.reason}"
        (low, high), (f1_low, f1_high) = self.iou_bounds, self.f1_bounds
        return (
            f"against the truth, estimated (90 % interval): IoU {self.iou:.3f} [{low:.3f}, {high:.3f}], "
            f"F1 {self.f1:.3f} [{f1_low:.3f}, {f1_high:.3f}]; errors of labels known from {self.audited} audited images"
        )


def refusal(audit: Mapping[str, Any]) -> str:
    """Why an audit cannot correct scores, in words; empty where it can."""
    if audit.get("errors_by_distance") is None:
        return (
            "the audit has no clean labels to know errors by distance from, or is of an earlier version: "
            "run evaluation/audit_labels.py --clean_list LIST"
        )
    images = len(audit["errors_by_distance"]["pixels"])
    if images < MIN_IMAGES:
        return f"errors by distance are known from {images} audited images, at least {MIN_IMAGES} are needed"
    said = [audit["verdict"], *(bias["kind"] for bias in audit.get("bias") or ())]
    found = next((what for what in CANNOT if any(what in each for each in said)), None)
    if found in ("by image", "by place"):
        return f"the labels err {found} (verdict: {audit['verdict']}), which the distance to the outline does not tell"
    return "" if found is None else f"the verdict of the audit is: {found}"


def find_audit(given: str | Path) -> Path:
    """The audit.json that a path, the folder of a run or audit, or its name below train_log means.

    Raises:
        UserError: there is none.
    """
    for place in (Path(given), LOG_ROOT / given):
        for file in (place, place / "audit.json"):
            if file.is_file():
                return file
    raise UserError(
        f"--label_audit {given}: there is no audit.json, neither as a path nor below {display_path(LOG_ROOT)}: give "
        "the folder of a run, or of what evaluation/audit_labels.py --clean_list LIST wrote"
    )


def scores_against_truth(results: Sequence[ImageResult], scorer: Scorer, given: str | Path) -> TrueScores:
    """Estimate what the scores of images would be against clean labels.

    Args:
        given: the audit, see `find_audit`.
    Raises:
        UserError: no audit, or several classes.
    """
    if scorer.num_classes > 1:
        raise UserError("--label_audit is for binary labels: with several classes errors by distance are not modelled")
    audit = read_audit(find_audit(given))
    if reason := refusal(audit):
        return TrueScores(reason)
    errors = LabelErrors.from_json(audit["errors_by_distance"])
    names = [result.sample.image_id for result in results]
    units = unit_names(names)
    tables: dict[str, np.ndarray] = {}
    for result, unit in zip(results, names if len(set(units)) == 1 else units, strict=True):
        mask = scorer.mask(read_map(result.map_path, 1, scorer.scale))
        label = read_label(result.sample.require_label(), 1, scorer.ignore_index, result.sample.reading)
        tables[unit] = tables.get(unit, 0) + count_by_distance(mask, errors.repaired(label))
    return estimate_true_scores(errors, np.stack(list(tables.values())))


def estimate_true_scores(errors: LabelErrors, table: np.ndarray, seed: int = 0) -> TrueScores:
    """Estimate the scores of predictions against the truth.

    Args:
        table: of `count_by_distance` for each test image, its mask and its repaired label, (n, 2 · REACH, 2); images
            of one field of view count as one.
    """
    if len(table) < 2:
        reason = "there is one test image: how much such images differ needs two"
        return TrueScores(reason, audited=len(errors.pixels))
    pooled, known = table.sum(0), errors.shares()
    if impossible_share(pooled, known) > MAX_IMPOSSIBLE:
        reason = (
            "these labels do not err as the audited ones did: audit labels of this kind, or score without --label_audit"
        )
        return TrueScores(reason, audited=len(errors.pixels))
    parameters = fit(pooled, known)
    value = float(np.clip(_iou(pooled, known, parameters) - _overstated(errors.stand_in, pooled, known), 0, 1))
    rng = np.random.default_rng(seed)
    audited, tested = len(errors.pixels), len(table)
    resampled = []
    for _ in range(RESAMPLES):
        shares = errors.shares(rng.multinomial(audited, np.full(audited, 1 / audited)).astype(float))
        drawn = np.tensordot(rng.multinomial(tested, np.full(tested, 1 / tested)), table, 1)
        found = _iou(drawn, shares, fit(drawn, shares, parameters))
        resampled.append(found - _overstated(errors.stand_in, drawn, shares, rng))
    reach = small_sample_reach(min(audited, tested)) / student_reach(10**6)
    deviation = MODEL_ERROR[0] + MODEL_ERROR[1] * errors.dependence()
    spread = reach * (np.array(resampled) - np.median(resampled)) + rng.normal(0, deviation, RESAMPLES)
    low, high = np.clip(value + np.quantile(spread, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)), 0, 1)
    if high - low > MAX_WIDTH:
        reason = f"the labels say too little: the IoU lies anywhere from {low:.2f} to {high:.2f}"
        return TrueScores(reason, audited=audited)
    f1, f1_low, f1_high = (2 * iou / (1 + iou) for iou in (value, low, high))
    return TrueScores(
        "", value, (float(low), float(high)), f1, (f1_low, f1_high), audited=audited, outline=-float(parameters[0])
    )


def _overstated(
    stand_in: StandInMasks | None, table: np.ndarray, shares: Shares, rng: np.random.Generator | None = None
) -> float:
    """By how much the IoU of masks like those of a table is stated too high; 0 where no stand-in was tried.

    Args:
        rng: draws the images of the stand-in; None takes each once.
    """
    if stand_in is None:
        return 0.0
    images = stand_in.pixels.shape[1]
    weights = None if rng is None else rng.multinomial(images, np.full(images, 1 / images)).astype(float)
    alike, true = stand_in.like(table, weights)
    return _iou(alike, shares, fit(alike, shares)) - true


def fit(table: np.ndarray, shares: Shares, start: np.ndarray | None = None) -> np.ndarray:
    """Mean of δ, the logarithm of its deviation, and the logits of both α, (4,).

    Args:
        table: pixels by distance to the predicted outline and those labelled, (2 · REACH, 2).
        start: near the solution; None tries several.
    """
    from scipy.optimize import least_squares

    pixels, rate = _rates(table)
    weight, prior = np.sqrt(pixels / (rate * (1 - rate) + 0.05)), PRIOR * np.sqrt(pixels.sum())
    shifted = _shifted(shares)

    def misfit(parameters: np.ndarray) -> np.ndarray:
        expected = _mixed(shifted @ _shift_shares(parameters), parameters, shares.outer, shares.inner)
        return np.concatenate([weight * (expected - rate), prior * (parameters - USUAL) / SPREAD])

    starts = [start] if start is not None else [np.array([mean, 0.3, -3, -4]) for mean in (0.0, -2.0, 2.0)]
    solutions = [least_squares(misfit, first, bounds=(LOWEST, HIGHEST)) for first in starts]
    return min(solutions, key=lambda solution: solution.cost).x


def impossible_share(table: np.ndarray, shares: Shares) -> float:
    """How far shares of labels lie where no prediction brings them, since each is a mean of what the audit found.

    The mean over pixels, as a part of the range that the audited labels have: flipped labels have no empty background.

    Args:
        table: see `fit`.
    """
    pixels, rate = _rates(table)
    low, high = shares.by_distance.min(), shares.by_distance.max()
    beyond = np.maximum(np.maximum(low - rate, rate - high), 0)
    return float((pixels * beyond).sum() / max(pixels.sum(), 1) / max(high - low, 1e-3))


def _rates(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and the share of foreground labels by distance, float (2 · REACH,) each."""
    pixels, labelled = table.T.astype(float)
    return pixels, np.divide(labelled, pixels, out=np.zeros_like(pixels), where=pixels > 0)


def _shifted(shares: Shares) -> np.ndarray:
    """q(s + δ), (2 · REACH, SHIFTS)."""
    place = np.clip(np.floor(DISTANCE[:, None] + SHIFTS), -REACH, REACH - 1).astype(int) + REACH
    return shares.by_distance[place]


def _shift_shares(parameters: np.ndarray) -> np.ndarray:
    """f(δ) at SHIFTS."""
    from scipy.special import ndtr

    deviation, half = np.exp(parameters[1]), (SHIFTS[1] - SHIFTS[0]) / 2
    shares = ndtr((SHIFTS + half - parameters[0]) / deviation) - ndtr((SHIFTS - half - parameters[0]) / deviation)
    return shares / shares.sum()


def _mixed(shares: np.ndarray, parameters: np.ndarray, outer: float, inner: float) -> np.ndarray:
    """Shares by distance where a part of the foreground was invented and a part of the background missed."""
    from scipy.special import expit

    invented, missed = expit(parameters[2:])
    return np.where(INSIDE, (1 - invented) * shares + invented * outer, (1 - missed) * shares + missed * inner)


def _iou(table: np.ndarray, shares: Shares, parameters: np.ndarray) -> float:
    """IoU of predictions with the truth, by parameters that were fitted to the table and what they leave of it."""
    pixels, rate = _rates(table)
    shifts = _shift_shares(parameters)
    expected = _mixed(_shifted(shares) @ shifts, parameters, shares.outer, shares.inner)
    truth = _mixed((DISTANCE[:, None] + SHIFTS >= 0) @ shifts, parameters, 0.0, 1.0)
    contrast = shares.inner - shares.outer
    true = pixels * (truth + RESIDUAL * (rate - expected) / (contrast if abs(contrast) > 1e-3 else np.inf))
    found = float(np.clip(true[INSIDE].sum(), 0, pixels[INSIDE].sum()))
    union = pixels[INSIDE].sum() + max(true[~INSIDE].sum(), 0)
    return float(found / union) if union else 1.0
