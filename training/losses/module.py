"""The module that computes a weighted sum of losses, and the class weights it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from datasets.labels import IGNORE, label_classes
from datasets.transition_matrix import TransitionMatrix
from training.losses.spec import LossTerm, check_classes, parse_loss
from utils.cli import UserError


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

    >>> logits, labels = torch.zeros(2, 1, 8, 8), torch.ones(2, 8, 8, dtype=torch.uint8)
    >>> round(SegmentationLoss("bce")(logits, labels).item(), 4)  # log 2
    0.6931

    Args:
        spec: see :func:`parse_loss`.
        num_classes: 1 for binary, else K, to find contradictions before training; None leaves them to ``forward``.
        class_weights: weight of each class (binary: background, foreground) in pixel losses; region losses, which
            look at one class after the other, do not use it.
        transition_matrix: of the labels, for ``forward`` and ``backward``.

    Raises:
        UserError: a faulty spec, or one that does not go with the other arguments.
    """

    def __init__(
        self,
        spec: str = "bce",
        num_classes: int | None = None,
        class_weights: Sequence[float] | np.ndarray | None = None,
        transition_matrix: TransitionMatrix | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.summands = spec, parse_loss(spec, num_classes)
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        table = None if class_weights is None else self._weight_table(class_weights, num_classes)
        self.register_buffer("weight_of_label", table, persistent=False)
        self._set_matrices(transition_matrix, num_classes)

    def _set_matrices(self, matrix: TransitionMatrix | None, num_classes: int | None) -> None:
        """Keep Q and Q⁻¹ as buffers where a term takes them."""
        taken = {name for summand in self.summands for name in summand.term.arguments} & {"matrix", "inverse"}
        if taken and matrix is None:
            raise UserError(f"--loss {self.spec} needs the labels' transition matrix: give --transition_matrix FILE")
        if taken and num_classes is not None and matrix.classes != label_classes(num_classes):
            raise UserError(
                f"the transition matrix is of {matrix.classes} classes, --num_classes {num_classes} means "
                f"{label_classes(num_classes)}"
            )
        for name in ("matrix", "inverse"):
            value = None
            if name in taken:
                from training.losses.robust import inverse_for_loss

                value = torch.tensor(inverse_for_loss(matrix) if name == "inverse" else matrix.rows).float()
            self.register_buffer(name, value, persistent=False)

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
        """The weight of every pixel's class, (B, H, W), of shares the mean over both; None where all weigh 1."""
        if self.weight_of_label is None or not labels.is_floating_point():
            return None if self.weight_of_label is None else self.weight_of_label[labels.long()]
        share = labels.masked_fill(labels == IGNORE, 0)
        return share * self.weight_of_label[1] + (1 - share) * self.weight_of_label[0]

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
        return all(summand.term.proper for summand in self.summands)

    def weights(self, labels: Tensor) -> Tensor:
        """The denominators of these labels (B, H, W): for each term the images' total weight, (T,)."""
        return self._image_weights(labels, self._pixel_weights(labels)).sum(1)

    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss of a batch, or its share of a larger one.

        Args:
            logits: (B, C, H, W).
            labels: (B, H, W) integers, 255 ignored; or, binary, shares of foreground as floats, 255 ignored.
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
            if labels.is_floating_point():
                return self._expected(summand, logits, labels, params)
            params["pixel_weights"] = pixel_weights
        return summand.term.function(logits, labels, **params)

    def _expected(self, summand: LossTerm, logits: Tensor, shares: Tensor, params: dict[str, object]) -> Tensor:
        r"""A pixel loss of shares y of foreground, (B,): the mean of :math:`y\,l(p, 1) + (1 - y)\,l(p, 0)`."""
        known = shares != IGNORE
        total, value = torch.zeros(len(shares), device=shares.device), torch.zeros(len(shares), device=shares.device)
        for label in (0, 1):
            share = (shares if label else 1 - shares) * known
            weights = share if self.weight_of_label is None else share * self.weight_of_label[label]
            labels = torch.where(known, label, IGNORE).to(torch.uint8)
            weight = weights.sum((1, 2))
            value = value + weight * summand.term.function(logits, labels, pixel_weights=weights, **params)
            total = total + weight
        return value / torch.where(total > 0, total, 1)
