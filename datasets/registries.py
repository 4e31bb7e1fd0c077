"""Names of normalizations, augmentations and fusions of labels, for ``--help``; importing this file costs nothing."""

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
        "gamma": "datasets.augmentation:gamma",
        "spectrum": "datasets.augmentation:spectrum",
        "blur": "datasets.augmentation:blur",
        "noise": "datasets.augmentation:noise",
    }
)

# name → from the labels (A, H, W) of several annotators and the number of classes to one, see datasets.label_fusion.
FUSIONS = Registry(
    {
        "vote": "datasets.label_fusion:vote_share",
        "weighted": "datasets.label_fusion:weighted_share",
        "repaired": "datasets.label_fusion:weighted_share",  # after the repair of each annotator
        "staple": "datasets.label_fusion:staple_share",
    }
)

# One word for several of them: what changes from one lab to another.
AUGMENTATION_PRESETS = {
    "robust": ("scale:0.4", "brightness:0.5", "contrast:0.4", "gamma:0.7", "spectrum:0.4", "blur:1.5", "noise:0.4")
}
