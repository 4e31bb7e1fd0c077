r"""A pilot, a training of a tenth of the steps, sharpens the predicted IoU: its learning curve is fitted and extended.

.. math:: \text{IoU}(s) = v - g\,\frac{(S/s)^c - 1}{(S/s_n)^c - 1}

with S the steps of the run to be predicted, s_n those of the pilot, v the IoU that the run will reach, g what the pilot
lacks of it, c the power of the curve. v, g and c are weighed on a grid: before the pilot, v is as the audit predicted
it, g is small rather than large, the more so the longer the pilot, c near one half; the pilot's figures then weigh as
`ERROR` says. The result is the mean of v and its central 90 %.

Labels that are drawn too narrow have no pilot: few steps leave outlines blurred, and of a blurred outline a low
threshold takes the true one; more steps draw it as it was labelled (benchmarks/audit/pilots.py).
Source of the form: Cortes et al., *Learning curves: asymptotic values and rate of convergence*, NIPS 1993.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from datasets.lists import Sample
from evaluation.label_audit.predicted_iou import PredictedIoU
from evaluation.label_audit.verdict import Audit
from evaluation.label_audit.with_reference import ReferenceAudit
from utils.cli import UserError

SHARE = 0.1  # of the steps, that a pilot takes at most
MIN_HELD_OUT, MAX_HELD_OUT = 4, 20  # images with clean labels that a pilot is scored on
HALF_OF_90 = 1.645  # standard deviations in the half width of a 90 % interval
ERROR = 0.03  # of a figure of the pilot against its curve
TOGETHER = 2.0  # figures of one training err together: all of them weigh as so many
USUAL_GAP = 1.0  # mean of g, times the square root of the pilot's steps: fixed on simulated sets
USUAL_POWER = np.log(0.5), 0.7  # centre and standard deviation of log c
VALUES, GAPS, POWERS = np.linspace(0, 1, 201), np.linspace(0, 0.6, 61), np.geomspace(0.1, 3, 15)

# Trains on the first samples, scores on the second, for so many steps at most, inverted or not (None: as validation
# says); returns (steps, IoU) during the training.
Pilot = Callable[[Sequence[Sample], Sequence[Sample], int, bool | None], list[tuple[int, float]]]


def split_for_pilot(
    samples: Sequence[Sample], references: Sequence[Sample | None], seed: int
) -> tuple[list[Sample], list[Sample]]:
    """The samples that a pilot trains on, and those, with their reference labels, that it is scored on.

    Raises:
        UserError: too few reference labels to leave some out.
    """
    known = [place for place, reference in enumerate(references) if reference is not None]
    count = min(len(known) // 2, MAX_HELD_OUT)
    if count < MIN_HELD_OUT:
        raise UserError(
            f"--pilot needs clean labels of at least {2 * MIN_HELD_OUT} images, half of which it leaves out of "
            f"training and is scored on; there are {len(known)}: give more with --clean_list, or leave --pilot out"
        )
    chosen = {known[place] for place in np.random.default_rng(seed).permutation(len(known))[:count].tolist()}
    held_out = [reference for place in sorted(chosen) if (reference := references[place]) is not None]
    return [sample for place, sample in enumerate(samples) if place not in chosen], held_out


def with_pilot(
    audit: Audit,
    pilot: Pilot,
    samples: Sequence[Sample],
    references: Sequence[Sample | None],
    *,
    seed: int,
    say: Callable[[str], object],
) -> Audit:
    """The audit with a predicted IoU that a pilot has sharpened, which is said.

    Args:
        samples: with the labels to be trained on.
        references: with the reference label of each, or None.
    """
    if not isinstance(audit, ReferenceAudit) or audit.prediction is None or audit.steps is None:
        say("pilot: none, since the audit predicts no IoU that it could sharpen")
        return audit
    if audit.offset is not None and audit.offset < 0:
        say("pilot: none, since it would mislead: the labels are too narrow, and few steps make more of such than many")
        return audit
    train, held_out = split_for_pilot(samples, references, seed)
    points = pilot(train, held_out, max(int(SHARE * audit.steps), 1), audit.invert)
    found = sharpened(audit.prediction, points, audit.steps)
    validated = audit.validated and audit.validated.scaled(found.value / max(audit.prediction.value, 1e-9))
    piloted = replace(audit, prediction=found, validated=validated)
    steps, reached = points[-1]
    say(
        f"pilot: {steps} of {audit.steps} steps on {len(train)} images reach an IoU of {reached:.2f} on "
        f"{len(held_out)} others; predicted IoU {audit.predicted_iou:.2f} → {piloted.predicted_iou:.2f}"
    )
    return piloted


def sharpened(prediction: PredictedIoU, points: Sequence[tuple[int, float]], steps: int) -> PredictedIoU:
    """A predicted IoU after a pilot.

    >>> before = PredictedIoU(0.8, 0.7, 0.9, relative=0.9, clean=0.89)
    >>> after = sharpened(before, [(30, 0.55), (40, 0.57), (50, 0.58)], steps=500)
    >>> after.value < 0.78 and after.high - after.low < before.high - before.low
    True

    Args:
        points: (steps, IoU) during the pilot; its later half is fitted, since the first steps follow no power law.
        steps: of the run that is predicted.
    """
    later = [point for point in points if np.isfinite(point[1])][len(points) // 2 :]
    if not later:
        return prediction
    at, reached = np.array(later, float).T
    value, gap, power = VALUES[:, None, None], GAPS[None, :, None], POWERS[None, None, :]
    deviation = max((prediction.high - prediction.low) / 2, 1e-3) / HALF_OF_90
    log_weight = -0.5 * ((value - prediction.value) / deviation) ** 2 - gap / (USUAL_GAP / np.sqrt(at[-1]))
    log_weight = log_weight - 0.5 * ((np.log(power) - USUAL_POWER[0]) / USUAL_POWER[1]) ** 2
    each = min(1.0, TOGETHER / len(at))
    for step, iou in zip(at, reached, strict=True):
        lack = ((steps / step) ** power - 1) / ((steps / at[-1]) ** power - 1)
        log_weight = log_weight - 0.5 * each * ((value - gap * lack - iou) / ERROR) ** 2
    weight = np.exp(log_weight - log_weight.max()).sum((1, 2))
    weight /= weight.sum()
    mean = float(weight @ VALUES)
    low, high = np.interp((0.05, 0.95), np.cumsum(weight), VALUES).tolist()
    relative = min(1.0, mean / prediction.clean) if prediction.clean > 0 else prediction.relative
    return PredictedIoU(mean, low, high, relative, prediction.clean)
