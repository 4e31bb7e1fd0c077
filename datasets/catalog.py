"""Which data sets there are: a name means files under ``datasets/<name>`` and lists under ``txt/<name>``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets.lists import list_folder
from utils.cli import UserError
from utils.run_folder import REPO_ROOT, display_path

SIMULATED_NAMES = ("er_sim", "mito_sim", "nuc_sim")
DOWNLOAD = "IEEE DataPort, 'Fluorescence microscopy images CBMI' (free registration)"
SOURCES = {"er": DOWNLOAD, "mito": DOWNLOAD, "nuc": "Broad Bioimage Benchmark Collection, BBBC038"}


def prepare_dataset(
    name: str,
    train_list: str | None = None,
    real_only: bool = False,
    root: Path = REPO_ROOT,
    say: Callable[[str], object] = print,
) -> str:
    """Make sure that a data set can be read, and say under which name.

    Simulated sets are made on first use. Where nothing of ``er`` is in place, ``er_sim`` stands in for it.

    Args:
        train_list: a list that the user named; with one, no lists need to lie under ``txt/<name>``.
        real_only: raise instead of falling back on simulated images.
        say: takes the lines meant for the user.
    Returns: ``name``, or ``er_sim`` for an absent ``er``.
    Raises:
        UserError: images without lists, a set that is not in place, or an unknown name.
    """
    if name in SIMULATED_NAMES:
        from datasets.simulate import make_dataset

        make_dataset(name, root=root, say=say)
        return name
    if train_list is not None or has_lists(name, root):
        return name
    if has_images(name, root):
        raise UserError(
            f"{display_path(_images_folder(name, root))} has images, but {display_path(root / 'txt' / name)} has no "
            f"lists; write them with: python datasets/make_lists.py --dataset {name}"
        )
    if name == "er" and not real_only:
        say(absence("er", root))
        say("going on with simulated micrographs instead: er_sim (--real_only makes this an error)")
        return prepare_dataset("er_sim", root=root, say=say)
    if name in SOURCES:
        simulated = "" if real_only else f", or use simulated images: --dataset {name}_sim"
        raise UserError(absence(name, root) + simulated)
    raise UserError(f"there is no data set {name!r}; there are: {', '.join(known_datasets(root))}")


def absence(name: str, root: Path = REPO_ROOT) -> str:
    """Where the files of a published set are found and where they belong."""
    folder = display_path(root / "datasets" / name)
    return (
        f"the images of {name!r} are not here. Download: {SOURCES[name]}; put them into "
        f"{folder}/{{train,val,test}}/{{images,labels}} and run: python datasets/make_lists.py --dataset {name}"
    )


def has_lists(name: str, root: Path = REPO_ROOT) -> bool:
    """Whether any list of the set exists."""
    return any(list_folder(name, root).rglob("*.txt"))


def has_images(name: str, root: Path = REPO_ROOT) -> bool:
    """Whether the set's folder of training images exists."""
    return _images_folder(name, root).is_dir()


def _images_folder(name: str, root: Path) -> Path:
    return root / "datasets" / name / "train" / "images"


def known_datasets(root: Path = REPO_ROOT) -> list[str]:
    """Names of sets with images or lists, and of those that can be simulated."""
    found = {path.parents[1].name for path in (root / "datasets").glob("*/train/images")}
    for lists in (root / "txt", root / "datasets" / "txt"):
        found |= {path.name for path in lists.glob("*") if path.is_dir() and any(path.rglob("*.txt"))}
    return sorted(found | set(SIMULATED_NAMES))
