r"""Building blocks of label-free training (iGTT): masks from predictions, structures from masks, rules without labels.

One refresh of the pseudo-labels is, image by image and without any label,

    scores → ``select_masks`` → ``orient_masks`` → (stored) → ``extract_structure`` → labels of the next epoch

Notation: :math:`p \in [0,1]^N` the scores of an image, :math:`s \in \{0,1\}^N` a mask. Everything here is a function
of its arguments; what is random derives from (seed, epoch, image id).

Source: Luo et al., *Deep Neural Networks Learn Meta-Structures from Noisy Labels in Semantic Segmentation*, AAAI-22.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.label_noise import EMS_SPEC, make_noisy_label, parse_spec
from evaluation.classical.foreground import orient
from evaluation.classical.methods import BASELINES
from utils.cli import one_of

CANDIDATES = 30
FIXED_POINT = 2.0**32
MAX_LOGIT = 14.0  # of a score of 1 - 8e-7, so that saturated scores count but do not decide alone

SumAbove = Callable[[Tensor], Tensor]


# From scores to masks


def stretch(scores: Tensor) -> Tensor:
    """Scores (B, 1, H, W) as (B, H·W), scaled image by image to fill [0, 1]; a constant image becomes 0."""
    flat = scores.flatten(1).float()
    low, high = flat.aminmax(dim=1, keepdim=True)
    return torch.where(high > low, (flat - low) / (high - low), 0.0)


def dmi_gain(scores: Tensor, guide: Tensor | None, sum_above: SumAbove) -> Tensor:
    r""":math:`|\mathrm{Cov}(p, s)| = |\det(\mathcal P \mathcal S^\top)| / N^2`, to be maximized.

    :math:`\mathcal P, \mathcal S` are the 2 × N stacks of foreground and background. Source: Xu et al., *L_DMI*,
    NeurIPS 2019. Its best mask has the closed form :math:`s = [p > \bar p]`, see :func:`select_masks`.
    """
    return sum_above(scores - scores.mean(1, keepdim=True)).abs() / scores.shape[1]


def iou_gain(scores: Tensor, guide: Tensor | None, sum_above: SumAbove) -> Tensor:
    r""":math:`\sum p s \,/\, \sum (p + s - p s)`: the soft intersection over union with the scores."""
    area = sum_above(scores)
    return area / (scores.sum(1, keepdim=True) + sum_above(torch.ones_like(scores)) - area).clamp_min(1e-12)


def bce_gain(scores: Tensor, guide: Tensor | None, sum_above: SumAbove) -> Tensor:
    r""":math:`\sum_s \mathrm{logit}\,p`: what of the negative cross-entropy depends on the mask; best at p > 1/2."""
    return sum_above(scores.logit(eps=1e-7).clamp(-MAX_LOGIT, MAX_LOGIT))


def contrast_gain(scores: Tensor, guide: Tensor | None, sum_above: SumAbove) -> Tensor:
    r""":math:`\mathrm{Cov}(g, s)^2 / \mathrm{Var}(s)`: the variance of the image g between mask and background.

    Otsu's criterion, over the masks that the network proposes instead of those of an intensity threshold: the scores
    say where structures are, the image how wide they are.
    """
    if guide is None:
        raise ValueError("criterion 'contrast' looks at the image: hand it in as guide")
    guide = guide.flatten(1).float()
    guide = (guide - guide.mean(1, keepdim=True)) / guide.std(1, keepdim=True).clamp_min(1e-12)
    count = sum_above(torch.ones_like(guide)) / guide.shape[1]
    covariance = sum_above(guide) / guide.shape[1]
    return covariance**2 / (count * (1 - count)).clamp_min(1e-12)


# name → gain (B, K) of K candidate masks, from stretched scores (B, N), the guide and the sums above K thresholds.
CRITERIA: dict[str, Callable[[Tensor, Tensor | None, SumAbove], Tensor]] = {
    "dmi": dmi_gain,
    "iou": iou_gain,
    "bce": bce_gain,
    "contrast": contrast_gain,
}


def search_masks(scores: Tensor, criterion: str, guide: Tensor | None = None, candidates: int = CANDIDATES) -> Tensor:
    """The best of ``candidates`` masks per image, one for each threshold evenly inside (min p, max p).

    Scores are stretched to [0, 1] first, else a hesitant network's best IoU mask is the whole image and its best BCE
    mask none of it. No candidate is the whole image. One pass sorts pixels into the bins between thresholds;
    cumulative sums of the bins, in fixed point and so independent of the order of addition, give every candidate.

    Args:
        scores: (B, 1, H, W), any range.
        criterion: a key of ``CRITERIA``.
        guide: images (B, 1, H, W) for the criterion ``contrast``.
    Returns: bool (B, 1, H, W); of equally good candidates the smallest mask, and empty where the scores are constant.
    """
    gain = CRITERIA[one_of(criterion, tuple(CRITERIA), "mask criterion")]
    values = stretch(scores)
    bins = ((values * (candidates + 1)).ceil().long() - 1).clamp(0, candidates)  # thresholds below the pixel

    def sum_above(terms: Tensor) -> Tensor:
        fixed = (terms * FIXED_POINT).long()
        sums = torch.zeros(len(terms), candidates + 1, dtype=torch.long, device=terms.device)
        sums.scatter_add_(1, bins, fixed)
        return sums.flip(1).cumsum(1)[:, :-1].float() / FIXED_POINT  # (B, K), from the highest threshold down

    best = candidates - gain(values, guide, sum_above).argmax(1, keepdim=True)  # 1 … K
    return (bins >= best).view(scores.shape)


def select_masks(scores: Tensor, criterion: str = "dmi", guide: Tensor | None = None) -> Tensor:
    r"""The best mask per image: for ``dmi`` in closed form over *all* masks, else of 30 thresholds.

    .. math:: \det(\mathcal P \mathcal S^\top) = N \sum p s - \sum p \sum s = N \sum_{x \in s} (p_x - \bar p)
              \;\Rightarrow\; s^* = [\,p > \bar p\,]

    Args, returns: as :func:`search_masks`.
    """
    if criterion != "dmi":
        return search_masks(scores, criterion, guide)
    values = stretch(scores)
    return (values > values.mean(1, keepdim=True)).view(scores.shape)


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


# From masks to labels


def extract_structure(mask: np.ndarray, seed: int, epoch: int, image_id: str, spec: str = EMS_SPEC) -> np.ndarray:
    """Extraction of the meta-structure (EMS) from an oriented mask: skeleton, shift by up to 1 px, a tenth of it.

    Args:
        mask: uint8 (H, W), 0/1.
        spec: any noise spec; the mask's skeleton keeps the place of an object and drops what the mask got wrong at
            its border, shift and sampling leave only its density. ``clean`` trains on the mask itself.
    Returns: uint8 (H, W), a function of its arguments alone.
    """
    return make_noisy_label(mask, spec, seed, image_id, epoch=epoch)


def anneal_sampling(spec: str, progress: float, final_share: float) -> str:
    """The spec with the share of its ``sample`` steps moved from its own value to ``final_share``, geometrically.

    Few pixels while masks are poor, more as they improve. Shares are rounded to three digits.

    Args:
        progress: 0 at the first epoch, 1 at the last.
        final_share: in (0, 1].
    """
    texts = []
    for step in parse_spec(spec):
        share = step.values[0] if step.name == "sample" else 0.0
        moved = share > 0
        texts.append(f"sample:{share ** (1 - progress) * final_share**progress:.3g}" if moved else step.text)
    return "+".join(texts)


def initial_mask(name: str, image: np.ndarray, foreground: str, seed: int, image_id: str) -> np.ndarray:
    """The first pseudo-label of an image, before any network has seen it.

    ========================  ================================================================================
    ``black``                 nothing (as published); nothing is learned from it, so the first masks that teach come
                              from the random network
    ``random``                independent pixels, half of them foreground: no density, so nothing is learned
                              from it either; assumes that the random network's features suffice
    ``otsu``, ``kmeans``      two intensities, the same everywhere in an image
    ``local_threshold``       structures stand out from their surroundings; background may be uneven
    ``ridge``                 structures are lines a few pixels wide
    any other ``BASELINES``   see there
    ========================  ================================================================================

    Args:
        image: (H, W) as read.
        foreground: ``bright``, ``dark`` or ``minority``, see :func:`evaluation.classical.foreground.orient`.
    Returns: uint8 (H, W), 0/1.
    """
    if one_of(name, INITIAL_LABELS, "initial labels") in BASELINES:
        return (BASELINES[name](orient(image, foreground)) >= 0.5).astype(np.uint8)
    black = np.zeros(image.shape[:2], np.uint8)
    return make_noisy_label(black, "random:0.5", seed, image_id) if name == "random" else black


INITIAL_LABELS = ("black", "random", *BASELINES)


# Rules that use no label


def separation(scores: Tensor) -> Tensor:
    r"""How clearly scores part two classes: DMI with their own best mask, in closed form.

    .. math:: \max_s |\mathrm{Cov}(p, s)| = \mathrm{Cov}(p, [p > \bar p]) = \tfrac12\,\overline{|p - \bar p|}

    Args:
        scores: (B, 1, H, W) in [0, 1].
    Returns: (B,) in [0, 1/4].
    """
    flat = scores.flatten(1).float()
    return (flat - flat.mean(1, keepdim=True)).abs().mean(1) / 2


def mask_agreement(before: Tensor, after: Tensor) -> Tensor:
    r"""Dice :math:`2 \sum s s' / \sum (s + s')` of an image's mask at two refreshes; 1 where both are empty.

    Args:
        before, after: bool (B, …).
    Returns: float32 (B,).
    """
    before, after = before.flatten(1), after.flatten(1)
    total = before.sum(1) + after.sum(1)
    return torch.where(total > 0, 2 * (before & after).sum(1) / total.clamp_min(1), 1.0)


def has_settled(agreements: Sequence[float], level: float = 0.99, patience: int = 3) -> bool:
    """Whether the last ``patience`` refreshes each changed the masks by no more than 1 − ``level`` in mean Dice."""
    return len(agreements) >= patience and min(agreements[-patience:]) >= level
