"""Losses by name and the grammar of their weighted sums, such as ``bce+0.5*dice``.

Importing this file costs no torch: a loss is imported when it is first used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from utils.cli import UserError, one_of
from utils.option_fields import split_params

if TYPE_CHECKING:
    from torch import Tensor

NOT_SPEC_PARAMETERS = ("logits", "labels", "pixel_weights", "matrix", "inverse")
TERM = re.compile(
    r"(?:(?P<factor>\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\*)?(?P<name>[a-z_]+)(?:\((?P<params>[^()]*)\))?(?:\+|$)"
)


MAX_FACTOR = 1e6


@dataclass(frozen=True)
class LossSpec:
    """A loss that specs can name.

    Args:
        place: ``file:name`` in this package of (logits, labels, **params) -> (B,), see ``pixel.py``.
        weighting: how images are averaged: ``pixels``, by the weight of their pixels that count, or ``images``, all
            alike that have any.
        bounds: parameter → (least, greatest) value that a spec may give it.
        binary_only: the loss exists for one logit alone.
        spatial: the loss looks at where pixels lie, not only at their scores, labels and weights; it takes no shares.
        proper: a strictly proper scoring rule: least at the rows of Q, or, corrected by Q, at the truth.
    """

    place: str
    weighting: str
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    binary_only: bool = False
    spatial: bool = False
    proper: bool = False

    @cached_property
    def function(self) -> Callable[..., Tensor]:
        """The loss itself."""
        return resolve_name(f"training.losses.{self.place}")

    @property
    def arguments(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the function."""
        return inspect.signature(self.function).parameters

    @property
    def defaults(self) -> dict[str, float]:
        """The parameters that a spec may set, with their defaults."""
        return {name: value.default for name, value in self.arguments.items() if name not in NOT_SPEC_PARAMETERS}


SMOOTH, COST, LOG_ZERO = {"smooth": (1e-6, 1e6)}, (0.0, 1e6), (-1e3, -1e-3)
LOSSES: dict[str, LossSpec] = {
    "bce": LossSpec("pixel:cross_entropy", "pixels", binary_only=True, proper=True),
    "ce": LossSpec("pixel:cross_entropy", "pixels", proper=True),
    "dice": LossSpec("region:soft_dice_loss", "images", SMOOTH),
    "iou": LossSpec("region:soft_iou_loss", "images", SMOOTH),
    "tversky": LossSpec("region:tversky_loss", "images", {"alpha": COST, "beta": COST, **SMOOTH}),
    "focal": LossSpec("pixel:focal_loss", "pixels", {"gamma": (0, 10)}),
    "boundary": LossSpec("pixel:boundary_cross_entropy", "pixels", {"weight": COST, "sigma": (0.1, 50)}, spatial=True),
    "cldice": LossSpec("region:soft_cl_dice_loss", "images", {"iterations": (0, 100), **SMOOTH}, spatial=True),
    "dmi": LossSpec("information:dmi_loss", "images", {"eps": (1e-30, 1)}),
    "forward": LossSpec("robust:forward_corrected_loss", "pixels", proper=True),
    "backward": LossSpec("robust:backward_corrected_loss", "pixels", proper=True),
    "gce": LossSpec("robust:generalized_cross_entropy", "pixels", {"q": (1e-3, 1)}),
    "mae": LossSpec("robust:mean_absolute_error", "pixels"),
    "sce": LossSpec("robust:symmetric_cross_entropy", "pixels", {"alpha": COST, "beta": COST, "log_zero": LOG_ZERO}),
    "nce": LossSpec("robust:normalized_cross_entropy", "pixels"),
    "rce": LossSpec("robust:reverse_cross_entropy", "pixels", {"log_zero": LOG_ZERO}),
    "nr_dice": LossSpec("robust:noise_robust_dice_loss", "images", {"gamma": (1, 2), **SMOOTH}),
    "tloss": LossSpec("robust:t_loss", "images", {"nu": (1e-3, 1e6)}),
}


@dataclass(frozen=True)
class LossTerm:
    """One part of a loss spec: factor × LOSSES[name](…, **params)."""

    factor: float
    name: str
    params: dict[str, float]

    @property
    def term(self) -> LossSpec:
        """The entry of ``LOSSES``."""
        return LOSSES[self.name]


def parse_loss(spec: str, num_classes: int | None = None) -> tuple[LossTerm, ...]:
    """Read a loss spec: ``TERM('+'TERM)*``, a term being ``[factor*]name[(parameter=value,…)]``.

    ``bce+0.5*dice`` and ``tversky(alpha=0.3,beta=0.7)`` are specs; spaces do not matter.

    >>> [(term.factor, term.name, term.params) for term in parse_loss("bce + 0.5*tversky(alpha=0.3)")]
    [(1.0, 'bce', {}), (0.5, 'tversky', {'alpha': 0.3})]

    Args:
        num_classes: 1 for binary, else K; None where the classes do not matter yet.
    Raises:
        UserError: not of this form, an unknown name or parameter, a value out of range, or a loss for fewer classes.
    """
    text = "".join(spec.split()).lower()
    summands, position = [], 0
    while position < len(text):
        match = TERM.match(text, position)
        if match is None:
            break
        factor = float(match["factor"] or 1)
        name = one_of(match["name"], tuple(LOSSES), f"--loss {spec!r}: loss")
        if not 0 < factor <= MAX_FACTOR:
            raise UserError(f"--loss {spec!r}: the factor of {name} must be above 0 and at most {MAX_FACTOR:g}")
        summands.append(LossTerm(factor, name, _parse_params(spec, name, match["params"])))
        position = match.end()
    if not summands or position < len(text) or text.endswith("+"):
        raise UserError(
            f"--loss {spec!r} cannot be read from {text[position:]!r} on: write terms joined by '+', such as "
            "bce+0.5*dice or focal(gamma=2)"
        )
    check_classes(summands, num_classes or 1)
    return tuple(summands)


def check_classes(summands: Sequence[LossTerm], num_classes: int) -> None:
    """Refuse, by a UserError, losses for binary labels with more classes."""
    for summand in summands:
        if summand.term.binary_only and num_classes > 1:
            raise UserError(f"--loss {summand.name} is for binary labels; with {num_classes} classes use ce")


def refuse_shares(spec: str) -> None:
    """Refuse, by a UserError that names it, a loss without a form for shares of foreground as labels."""
    hard = [summand.name for summand in parse_loss(spec) if summand.term.spatial]
    if hard:
        known = ", ".join(name for name, loss in LOSSES.items() if not loss.spatial)
        raise UserError(
            f"--loss {spec}: {hard[0]} looks at the outlines of labels, which shares of several annotators do not "
            f"have; use --fusion first, which reads the first label of each line, or one of: {known}"
        )


def _parse_params(spec: str, name: str, text: str | None) -> dict[str, float]:
    """Read ``gamma=2,…`` and check it against what loss ``name`` takes."""
    known = LOSSES[name].defaults
    params = {}
    for key, value in split_params(text or "", f"--loss {spec!r}").items():
        if key not in known:
            listed = ", ".join(f"{item}={default:g}" for item, default in known.items()) or "none"
            raise UserError(f"--loss {spec!r}: {name} has no parameter {key!r}; its parameters are: {listed}")
        least, greatest = LOSSES[name].bounds[key]
        try:
            params[key] = float(value)
        except ValueError:
            params[key] = float("nan")
        whole = isinstance(known[key], int)
        if not least <= params[key] <= greatest or (whole and params[key] % 1):
            kind = "whole number" if whole else "number"
            raise UserError(f"--loss {spec!r}: {key}={value} of {name} must be a {kind} from {least:g} to {greatest:g}")
    return params


def needs_transition_matrix(spec: str) -> bool:
    """Whether a term of the spec is corrected by the labels' transition matrix."""
    return any({"matrix", "inverse"} & set(summand.term.arguments) for summand in parse_loss(spec))
