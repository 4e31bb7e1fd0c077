"""Losses by name, their weighted sums such as ``bce+0.5*dice``, and the module that computes them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from datasets.labels import IGNORE
from training.losses import density as density_loss
from training.losses import functions as loss_functions
from training.losses import robust as robust_losses
from utils.cli import UserError, one_of

NOT_SPEC_PARAMETERS = ("logits", "labels", "pixel_weights", "matrix", "inverse")
TERM = re.compile(
    r"(?:(?P<factor>\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\*)?(?P<name>[a-z_]+)(?:\((?P<params>[^()]*)\))?(?:\+|$)"
)


PROPER = ("bce", "ce", "forward", "backward")  # strictly proper scoring rules


@dataclass(frozen=True)
class LossSpec:
    """A loss that specs can name.

    Args:
        function: (logits, labels, **params) -> (B,), see ``loss_functions``.
        weighting: how images are averaged: ``pixels``, by the weight of their pixels that count, or ``images``, all
            alike that have any.
        bounds: parameter → (least, greatest) value that a spec may give it.
        binary_only: the loss exists for one logit alone.
        spatial: the loss looks at where pixels lie, not only at their scores, labels and weights.
    """

    function: Callable[..., Tensor]
    weighting: str
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    binary_only: bool = False
    spatial: bool = False

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
    "bce": LossSpec(loss_functions.cross_entropy, "pixels", binary_only=True),
    "ce": LossSpec(loss_functions.cross_entropy, "pixels"),
    "dice": LossSpec(loss_functions.soft_dice_loss, "images", SMOOTH),
    "iou": LossSpec(loss_functions.soft_iou_loss, "images", SMOOTH),
    "tversky": LossSpec(loss_functions.tversky_loss, "images", {"alpha": COST, "beta": COST, **SMOOTH}),
    "focal": LossSpec(loss_functions.focal_loss, "pixels", {"gamma": (0, 10)}),
    "boundary": LossSpec(
        loss_functions.boundary_cross_entropy, "pixels", {"weight": COST, "sigma": (0.1, 50)}, spatial=True
    ),
    "cldice": LossSpec(loss_functions.soft_cl_dice_loss, "images", {"iterations": (0, 100), **SMOOTH}, spatial=True),
    "dmi": LossSpec(loss_functions.dmi_loss, "images", {"eps": (1e-30, 1)}),
    "density": LossSpec(
        density_loss.density_cross_entropy, "pixels", {"bandwidth": (0, 50)}, binary_only=True, spatial=True
    ),
    "forward": LossSpec(robust_losses.forward_corrected_loss, "pixels"),
    "backward": LossSpec(robust_losses.backward_corrected_loss, "pixels"),
    "gce": LossSpec(robust_losses.generalized_cross_entropy, "pixels", {"q": (1e-3, 1)}),
    "mae": LossSpec(robust_losses.mean_absolute_error, "pixels"),
    "sce": LossSpec(
        robust_losses.symmetric_cross_entropy, "pixels", {"alpha": COST, "beta": COST, "log_zero": LOG_ZERO}
    ),
    "nce": LossSpec(robust_losses.normalized_cross_entropy, "pixels"),
    "rce": LossSpec(robust_losses.reverse_cross_entropy, "pixels", {"log_zero": LOG_ZERO}),
    "nr_dice": LossSpec(robust_losses.noise_robust_dice_loss, "images", {"gamma": (1, 2), **SMOOTH}),
    "tloss": LossSpec(robust_losses.t_loss, "images", {"nu": (1e-3, 1e6)}),
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
        whole = isinstance(known[key], int)
        if not least <= params[key] <= greatest or (whole and params[key] % 1):
            kind = "whole number" if whole else "number"
            raise UserError(f"--loss {spec!r}: {key}={value} of {name} must be a {kind} from {least:g} to {greatest:g}")
    return params


def needs_transition_matrix(spec: str) -> bool:
    """Whether a term of the spec is corrected by the labels' transition matrix."""
    return any({"matrix", "inverse"} & set(summand.term.arguments) for summand in parse_loss(spec))


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
        transition_matrix: Q, (K, K), rows = truth, for ``forward`` and ``backward``.

    Raises:
        UserError: a faulty spec, or one that does not go with the other arguments.
    """

    def __init__(
        self,
        spec: str = "bce",
        num_classes: int | None = None,
        class_weights: Sequence[float] | np.ndarray | None = None,
        transition_matrix: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.summands = spec, parse_loss(spec, num_classes)
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        table = None if class_weights is None else self._weight_table(class_weights, num_classes)
        self.register_buffer("weight_of_label", table, persistent=False)
        self._set_matrices(transition_matrix, num_classes)

    def _set_matrices(self, transition_matrix: np.ndarray | None, num_classes: int | None) -> None:
        """Keep Q and Q⁻¹ as buffers where a term takes them."""
        taken = {name for summand in self.summands for name in summand.term.arguments} & {"matrix", "inverse"}
        if taken and transition_matrix is None:
            raise UserError(f"--loss {self.spec} needs the labels' transition matrix: give --transition_matrix FILE")
        for name in ("matrix", "inverse"):
            value = None
            if name in taken:
                value = robust_losses.checked_matrix(transition_matrix, num_classes)
                value = torch.as_tensor(robust_losses.invert_matrix(value) if name == "inverse" else value)
            self.register_buffer(name, None if value is None else value.float(), persistent=False)

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

    def _image_weights(self, labels: Tensor, pixel_weights: Tensor | None) -> Tensor:
        """w_ti, (T, B)."""
        valid = labels != IGNORE
        pixels = (valid.float() if pixel_weights is None else pixel_weights * valid).sum((1, 2))
        images = valid.any(2).any(1).to(pixels.dtype)
        by_weighting = {"pixels": pixels, "images": images}
        return torch.stack([by_weighting[summand.term.weighting] for summand in self.summands])

    @property
    def is_proper(self) -> bool:
        """Whether the scores that minimise the loss are probabilities, or odds weighted by the class weights."""
        return all(summand.name in PROPER for summand in self.summands)

    def weights(self, labels: Tensor) -> Tensor:
        """The denominators of these labels (B, H, W): for each term the images' total weight, (T,)."""
        return self._image_weights(labels, self._pixel_weights(labels)).sum(1)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of a batch, or its share of a larger one.

        Args:
            logits: (B, C, H, W).
            labels: (B, H, W) integers, 255 ignored.
            weights: (T,) denominators of the larger batch that this is a part of; by default this batch's own.
        Returns: a scalar; 0 where nothing counts.
        """
        check_classes(self.summands, logits.shape[1])
        pixel_weights = self._pixel_weights(labels)
        image_weights = self._image_weights(labels, pixel_weights)
        weights = image_weights.sum(1) if weights is None else weights
        values = torch.stack(
            [self._values(summand, logits, labels, pixel_weights) for summand in self.summands]
        )  # (T, B)
        means = (values * image_weights).sum(1) / torch.where(weights > 0, weights, 1)
        return sum(summand.factor * mean for summand, mean in zip(self.summands, means, strict=True))

    def _values(self, summand: LossTerm, logits: Tensor, labels: Tensor, pixel_weights: Tensor | None) -> Tensor:
        """l_ti of one term, (B,)."""
        params: dict[str, object] = dict(summand.params)
        params |= {name: getattr(self, name) for name in ("matrix", "inverse") if name in summand.term.arguments}
        if summand.term.weighting == "pixels":
            params["pixel_weights"] = pixel_weights
        return summand.term.function(logits, labels, **params)
