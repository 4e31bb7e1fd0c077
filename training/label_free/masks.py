r"""Building blocks of label-free training (iGTT): the first masks, and masks from predictions.

One refresh of the pseudo-labels is, image by image and without any label,

    scores → ``select_masks`` → ``orient_masks`` → (stored) → noise (``igtt_ems``) → labels of the next epoch

Notation: :math:`p \in [0,1]^N` the scores of an image, :math:`s \in \{0,1\}^N` a mask. Everything here is a function
of its arguments; what is random derives from (seed, image id). The published noise, ``label_noise.EMS_SPEC``, extracts
the meta-structure: a mask's skeleton keeps the place of an object and drops what the mask got wrong at its border,
shift and sampling leave only its density.

Source: Luo et al., *Deep Neural Networks Learn Meta-Structures from Noisy Labels in Semantic Segmentation*, AAAI-22.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from datasets.label_noise import make_noisy_label
from evaluation.classical import BASELINES
from evaluation.classical.choice import Vote, choose_vote
from evaluation.classical.methods import orient
from training.configuration.groups import INITIAL_LABELS
from utils.cli import one_of

CANDIDATES = 30
FIXED_POINT = 2.0**32
MAX_LOGIT = 14.0  # of a score of 1 - 8e-7, so that saturated scores count but do not decide alone

# From scores to masks


def stretch(scores: Tensor) -> Tensor:
    """Scores (B, 1, H, W) as (B, H·W), scaled image by image to fill [0, 1]; a constant image becomes 0."""
    flat = scores.flatten(1).float()
    low, high = flat.aminmax(dim=1, keepdim=True)
    return torch.where(high > low, (flat - low) / (high - low), 0.0)


def dmi_mask(scores: Tensor) -> Tensor:
    r"""The mask per image with the most determinant-based mutual information, in closed form over *all* masks.

    .. math:: \det(\mathcal P \mathcal S^\top) = N \sum p s - \sum p \sum s = N \sum_{x \in s} (p_x - \bar p)
              \;\Rightarrow\; s^* = [\,p > \bar p\,]

    with :math:`\mathcal P, \mathcal S` the 2 × N stacks of foreground and background.

    Args:
        scores: (B, 1, H, W), any range.
    Returns: bool (B, 1, H, W); empty where the scores are constant.
    Source: Xu et al., *L_DMI*, NeurIPS 2019.
    """
    values = stretch(scores)
    return (values > values.mean(1, keepdim=True)).view(scores.shape)


def bce_mask(scores: Tensor, candidates: int = CANDIDATES) -> Tensor:
    r"""The mask per image with the least cross-entropy, of one for each threshold evenly inside (min p, max p).

    What of the negative cross-entropy depends on the mask is :math:`\sum_s \mathrm{logit}\,p`; best is p > 1/2. Scores
    are stretched to [0, 1] first, else a hesitant network's best mask is none of the image. No candidate is the whole
    image. One pass sorts pixels into the bins between thresholds; cumulative sums of the bins, in fixed point and so
    independent of the order of addition, give every candidate.

    Args, returns: as :func:`dmi_mask`; of equally good candidates the smallest.
    """
    values = stretch(scores)
    bins = ((values * (candidates + 1)).ceil().long() - 1).clamp(0, candidates)  # thresholds below the pixel
    terms = values.logit(eps=1e-7).clamp(-MAX_LOGIT, MAX_LOGIT)
    sums = torch.zeros(len(terms), candidates + 1, dtype=torch.long, device=terms.device)
    sums.scatter_add_(1, bins, (terms * FIXED_POINT).long())
    above = sums.flip(1).cumsum(1)[:, :-1].float() / FIXED_POINT  # (B, K), from the highest threshold down
    best = candidates - above.argmax(1, keepdim=True)  # 1 … K
    return (bins >= best).view(scores.shape)


CRITERIA: dict[str, Callable[[Tensor], Tensor]] = {"dmi": dmi_mask, "bce": bce_mask}


def select_masks(scores: Tensor, criterion: str) -> Tensor:
    """The best mask per image, bool (B, 1, H, W), by a criterion of ``CRITERIA``; UserError for any other."""
    return CRITERIA[one_of(criterion, tuple(CRITERIA), "mask criterion")](scores)


def orient_masks(masks: Tensor, images: Tensor, foreground: str) -> Tensor:
    """Each mask or its complement, whichever is the structure: a determinant does not see the difference.

    Args:
        masks: bool (B, 1, H, W).
        images: (B, C, H, W), any scale.
        foreground: ``bright``, ``dark`` (brighter or darker than the rest on average), or ``minority`` (at most half
            of the pixels, the published rule).
    """
    one_of(foreground, ("bright", "dark", "minority"), "--foreground")
    if foreground == "minority":
        swap = masks.float().mean((1, 2, 3), keepdim=True) > 0.5
    else:
        brightness = images.float().mean(1, keepdim=True)
        excess = (brightness - brightness.mean((2, 3), keepdim=True)) * masks
        sign = 1 if foreground == "bright" else -1
        swap = sign * excess.sum((1, 2, 3), keepdim=True) < 0
    return masks ^ swap


# The first masks


def initial_mask(
    name: str, image: np.ndarray, foreground: str, *, seed: int, image_id: str, chosen: Vote | None = None
) -> np.ndarray:
    """The first pseudo-label of an image, before any network has seen it.

    ========================  ================================================================================
    ``black``                 nothing (as published); nothing is learned from it, so the first masks that teach come
                              from the random network
    ``random``                independent pixels, half of them foreground: no density, so nothing is learned
                              from it either; assumes that the random network's features suffice
    ``otsu``, ``kmeans``      two intensities, the same everywhere in an image
    ``local_threshold``       structures stand out from their surroundings; background may be uneven
    ``ridge``                 structures are lines a few pixels wide
    ``auto``                  the vote ``chosen`` for the whole set
    any other ``BASELINES``   see there
    ========================  ================================================================================

    Args:
        image: (H, W) or (H, W, C) as read; channels are averaged.
        foreground: ``bright``, ``dark`` or ``minority``, see :func:`evaluation.classical.methods.orient`.
        chosen: for ``auto``; None chooses by this image alone, see `evaluation.classical.choice`.
    Returns: uint8 (H, W), 0/1.
    """
    if name == "auto":
        return ((chosen or choose_vote([image]))(orient(image, foreground)) >= 0.5).astype(np.uint8)
    if one_of(name, INITIAL_LABELS, "initial labels") in BASELINES:
        return (BASELINES[name](orient(image, foreground)) >= 0.5).astype(np.uint8)
    black = np.zeros(image.shape[:2], np.uint8)
    return make_noisy_label(black, "random:0.5", seed, image_id) if name == "random" else black


def mask_agreement(before: Tensor, after: Tensor) -> Tensor:
    r"""Dice :math:`2 \sum s s' / \sum (s + s')` of an image's mask at two refreshes; 1 where both are empty.

    Args:
        before, after: bool (B, …).
    Returns: float32 (B,).
    """
    before, after = before.flatten(1), after.flatten(1)
    total = before.sum(1) + after.sum(1)
    return torch.where(total > 0, 2 * (before & after).sum(1) / total.clamp_min(1), 1.0)
