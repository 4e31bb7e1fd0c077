"""Losses by name, their weighted sums such as ``bce+0.5*dice``, and the module that computes them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from datasets.image_io import IGNORE
from training import loss_functions
from utils.cli import UserError, one_of

NOT_SPEC_PARAMETERS = ("logits", "labels", "pixel_weights", "matrix", "inverse")
TERM = re.compile(
    r"(?:(?P<factor>\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\*)?(?P<name>[a-z_]+)(?:\((?P<params>[^()]*)\))?(?:\+|$)"
)


@dataclass(frozen=True)
class LossTerm:
    """A loss that specs can name.

    Args:
        function: (logits, labels, **params) -> (B,), see ``loss_functions``.
        weighting: how images are averaged: ``pixels``, by the weight of their pixels that count, or ``images``, all
            alike that have any.
        bounds: parameter → (least, greatest) value that a spec may give it.
        only: ``binary`` or ``classes`` for a loss that exists for one logit, or for several, alone.
    """

    function: Callable[..., Tensor]
    weighting: str
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    only: str | None = None

    @property
    def defaults(self) -> dict[str, float]:
        """The parameters that a spec may set, with their defaults."""
        parameters = inspect.signature(self.function).parameters
        return {name: value.default for name, value in parameters.items() if name not in NOT_SPEC_PARAMETERS}


SMOOTH = {"smooth": (1e-6, 1e6)}
LOSSES: dict[str, LossTerm] = {
    "bce": LossTerm(loss_functions.cross_entropy, "pixels", only="binary"),
    "ce": LossTerm(loss_functions.cross_entropy, "pixels"),
    "dice": LossTerm(loss_functions.soft_dice_loss, "images", SMOOTH),
    "iou": LossTerm(loss_functions.soft_iou_loss, "images", SMOOTH),
    "tversky": LossTerm(loss_functions.tversky_loss, "images", {"alpha": (0, 1e6), "beta": (0, 1e6), **SMOOTH}),
    "focal": LossTerm(loss_functions.focal_loss, "pixels", {"gamma": (0, 10)}),
}


@dataclass(frozen=True)
class Summand:
    """One part of a loss spec: factor × LOSSES[name](…, **params)."""

    factor: float
    name: str
    params: dict[str, float]

    @property
    def term(self) -> LossTerm:
        """The entry of ``LOSSES``."""
        return LOSSES[self.name]


def parse_loss(spec: str) -> tuple[Summand, ...]:
    """Read a loss spec: ``TERM('+'TERM)*``, a term being ``[factor*]name[(parameter=value,…)]``.

    ``bce+0.5*dice`` and ``tversky(alpha=0.3,beta=0.7)`` are specs; spaces do not matter.

    Raises:
        UserError: not of this form, an unknown name or parameter, or a value out of range.
    """
    text = "".join(spec.split()).lower()
    summands, position = [], 0
    while position < len(text):
        match = TERM.match(text, position)
        if match is None:
            break
        factor = float(match["factor"] or 1)
        name = one_of(match["name"], tuple(LOSSES), f"--loss {spec!r}: loss")
        summands.append(Summand(factor, name, _parse_params(spec, name, match["params"])))
        position = match.end()
    if not summands or position < len(text) or text.endswith("+"):
        raise UserError(
            f"--loss {spec!r} cannot be read from {text[position:]!r} on: write terms joined by '+', such as "
            "bce+0.5*dice or focal(gamma=2)"
        )
    return tuple(summands)


def _parse_params(spec: str, name: str, text: str | None) -> dict[str, float]:
    """Read ``gamma=2,…`` and check it against what loss ``name`` takes."""
    known = LOSSES[name].defaults
    params = {}
    for assignment in filter(None, (text or "").split(",")):
        key, _, value = assignment.partition("=")
        if key not in known:
            listed = ", ".join(f"{item}={default:g}" for item, default in known.items()) or "none"
            raise UserError(f"--loss {spec!r}: {name} has no parameter {key!r}; its parameters are: {listed}")
        least, greatest = LOSSES[name].bounds[key]
        try:
            params[key] = float(value)
        except ValueError:
            params[key] = float("nan")
        if not least <= params[key] <= greatest:
            raise UserError(f"--loss {spec!r}: {key}={value} of {name} must be a number from {least:g} to {greatest:g}")
    return params


def frequency_weights(class_counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Class weights N / (K·n_k) that give every class the same total weight and pixels a mean weight of 1.

    Args:
        class_counts: pixels n_k of each class; K is the number of classes that occur. An absent class gets weight 1.
    Returns: float64 (len(class_counts),).
    """
    counts = np.asarray(class_counts, dtype=np.float64)
    present = counts > 0
    weights = np.ones_like(counts)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


class SegmentationLoss(nn.Module):
    r"""A weighted sum of losses, averaged so that it does not depend on how a batch is divided.

    .. math:: L = \sum_t \lambda_t \frac{\sum_i w_{ti}\, l_{ti}}{\sum_i w_{ti}}

    for terms t and images i, with w the weight of an image's pixels that count (pixel losses) or 1 for an image that
    has any (region losses). Where a batch is computed in parts, on several processes or one after the other,
    ``weights(labels)`` summed over the parts is handed to each ``forward``, and the parts' losses add up to L.

    Args:
        spec: see :func:`parse_loss`.
        num_classes: 1 for binary, else K, to find contradictions before training; None leaves them to ``forward``.
        class_weights: weight of each class (binary: background, foreground) in pixel losses; region losses, which
            look at one class after the other, do not use it.
    Raises:
        UserError: a faulty spec, or one that does not go with the other arguments.
    """

    def __init__(
        self,
        spec: str = "bce",
        num_classes: int | None = None,
        class_weights: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.summands = spec, parse_loss(spec)
        if num_classes is not None:
            self._check_classes(num_classes)
        table = None if class_weights is None else self._weight_table(class_weights, num_classes)
        self.register_buffer("weight_of_label", table, persistent=False)

    def _check_classes(self, num_classes: int) -> None:
        for summand in self.summands:
            if summand.term.only == "binary" and num_classes > 1:
                raise UserError(f"--loss {summand.name} is for binary labels; with {num_classes} classes use ce")

    @staticmethod
    def _weight_table(class_weights: Sequence[float] | np.ndarray, num_classes: int | None) -> Tensor:
        """The weight of each 8-bit label, (256,); 0 for what is no class."""
        weights = torch.as_tensor(np.asarray(class_weights, dtype=np.float32))
        if num_classes is not None and len(weights) != max(num_classes, 2):
            raise UserError(f"{len(weights)} class weights were given for {max(num_classes, 2)} classes")
        if not torch.isfinite(weights).all() or weights.min() < 0 or weights.max() <= 0:
            raise UserError(f"class weights {weights.tolist()} must be finite and ≥ 0, one of them above 0")
        table = torch.zeros(256)
        table[: len(weights)] = weights
        return table

    def _pixel_weights(self, labels: Tensor) -> Tensor | None:
        return None if self.weight_of_label is None else self.weight_of_label[labels.long()]

    def _image_weights(self, labels: Tensor) -> Tensor:
        """w_ti, (T, B)."""
        valid = labels != IGNORE
        pixel_weights = self._pixel_weights(labels)
        pixels = (valid.float() if pixel_weights is None else pixel_weights * valid).sum((1, 2))
        images = valid.any(2).any(1).to(pixels.dtype)
        by_weighting = {"pixels": pixels, "images": images}
        return torch.stack([by_weighting[summand.term.weighting] for summand in self.summands])

    def weights(self, labels: Tensor) -> Tensor:
        """The denominators of these labels (B, H, W): for each term the images' total weight, (T,)."""
        return self._image_weights(labels).sum(1)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of a batch, or its share of a larger one.

        Args:
            logits: (B, C, H, W).
            labels: (B, H, W) integers, 255 ignored.
            weights: (T,) denominators of the larger batch that this is a part of; by default this batch's own.
        Returns: a scalar; 0 where nothing counts.
        """
        self._check_classes(logits.shape[1])
        image_weights = self._image_weights(labels)
        weights = image_weights.sum(1) if weights is None else weights
        values = torch.stack([self._values(summand, logits, labels) for summand in self.summands])  # (T, B)
        factors = values.new_tensor([summand.factor for summand in self.summands])
        means = (values * image_weights).sum(1) / torch.where(weights > 0, weights, 1)
        return (factors * means).sum()

    def _values(self, summand: Summand, logits: Tensor, labels: Tensor) -> Tensor:
        """l_ti of one term, (B,)."""
        params: dict[str, object] = dict(summand.params)
        if summand.term.weighting == "pixels":
            params["pixel_weights"] = self._pixel_weights(labels)
        return summand.term.function(logits, labels, **params)
