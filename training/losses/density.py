"""Learning the local density of labels in place of their single pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE
from training.losses.functions import full_precision, pixel_mean


def density_target(labels: Tensor, bandwidth: int) -> Tensor:
    r"""Local density of the foreground, as a target that reaches 1 in every image that has any.

    .. math:: t = \frac{k_h * y}{\max k_h * y}

    with :math:`k_h` the mean over the (2h + 1)² window, inside the image and without IGNORE. Shifting pixels at random
    by up to h has the expectation :math:`k_h * y` and sampling scales it, so on a skeleton this is what EMS teaches on
    average, without the noise of its draws.

    Args:
        labels: uint8 (B, H, W), 0/1 and IGNORE.
        bandwidth: h in pixels.
    Returns: float32 (B, H, W) in [0, 1].
    """
    known = labels != IGNORE
    planes = torch.stack([(labels == 1) & known, known], 1).float()  # (B, 2, H, W)
    foreground, all_known = F.avg_pool2d(planes, 2 * bandwidth + 1, 1, bandwidth).unbind(1)
    density = foreground / torch.where(all_known > 0, all_known, 1)
    highest = density.amax((1, 2), keepdim=True)
    return density / torch.where(highest > 0, highest, 1)


@full_precision
def density_cross_entropy(
    logits: Tensor, labels: Tensor, *, pixel_weights: Tensor | None = None, bandwidth: int = 1
) -> Tensor:
    r"""Binary cross-entropy :math:`-t \log p - (1 - t) \log(1 - p)` against :func:`density_target`, per image.

    Of the form of the losses in ``training/losses/functions.py``; a binary, spatial pixel loss.

    Args:
        bandwidth: h in whole pixels; 0 is the plain cross-entropy.
    """
    target = density_target(labels, int(bandwidth)).to(logits.dtype)
    pixels = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    return pixel_mean(pixels, labels, pixel_weights)
