"""From files to tensors: lists, images and labels, label noise, simulated micrographs, augmentation."""

import sys

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
