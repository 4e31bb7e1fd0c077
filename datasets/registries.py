"""The names of normalizations and augmentations, listed by ``--help``; importing this file costs nothing."""

from __future__ import annotations

from utils.registry import Registry

# name → from pixels (for ``local``: prepared ones) to how they are scaled.
NORMALIZATIONS = Registry(
    {
        "zscore": "datasets.transforms:z_score",
        "unit": "datasets.transforms:to_unit",
        "local": "datasets.transforms:as_prepared",
    }
)

# name → from a strength, which has a default, to transforms of torchvision; geometry comes before intensity.
STRONG_AUGMENTATIONS = Registry(
    {
        "rotate": "datasets.augmentation:rotate",
        "scale": "datasets.augmentation:scale",
        "elastic": "datasets.augmentation:elastic",
        "brightness": "datasets.augmentation:brightness",
        "contrast": "datasets.augmentation:contrast",
        "blur": "datasets.augmentation:blur",
        "noise": "datasets.augmentation:noise",
    }
)
