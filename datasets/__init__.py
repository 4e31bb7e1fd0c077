"""From files to tensors: lists, images and labels, label noise, simulated micrographs, augmentation.

Here are the names of normalizations, augmentations and fusions of labels, for ``--help``; what they stand for is
imported when it is asked for.
"""

import sys

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

# One word for several of them: what changes from one lab to another.
AUGMENTATION_PRESETS = {
    "robust": ("scale:0.4", "brightness:0.5", "contrast:0.4", "gamma:0.7", "spectrum:0.4", "blur:1.5", "noise:0.4")
}

# name → from the labels (A, H, W) of several annotators and the number of classes to one, see datasets.label_fusion.
FUSIONS = Registry(
    {
        "vote": "datasets.label_fusion:vote_share",
        "weighted": "datasets.label_fusion:weighted_share",
        "repaired": "datasets.label_fusion:weighted_share",  # after the repair of each annotator
        "staple": "datasets.label_fusion:staple_share",
    }
)

# What people and libraries import from Hugging Face's package of the same name.
_ELSEWHERE = frozenset(
    {"ClassLabel", "Dataset", "DatasetDict", "Features", "IterableDataset", "Value", "concatenate_datasets"}
    | {"load_dataset", "load_from_disk", "arrow_dataset", "builder", "download", "features", "iterable_dataset"}
)


def __getattr__(name: str) -> object:
    if name in _ELSEWHERE:
        raise ModuleNotFoundError(
            f"datasets.{name} belongs to Hugging Face's package `datasets`, and this is the folder datasets/ of "
            f"{__path__[0].removesuffix('datasets')}: use that package in an environment and a folder of its own",
            name=f"datasets.{name}",
        )
    raise AttributeError(f"module 'datasets' has no attribute {name!r}")


class _Elsewhere:
    """Asked last, for ``import datasets.arrow_dataset``, which does not ask for an attribute."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> None:
        if fullname.startswith("datasets."):
            module = fullname.removeprefix("datasets.")
            if module in _ELSEWHERE:
                __getattr__(module)


sys.meta_path.append(_Elsewhere)  # type: ignore[arg-type]
