"""Which data sets there are: real ones that the user puts in place, simulated ones that are made on first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from datasets.list_files import SPLITS, find_list, list_folder
from utils.errors import UserError
from utils.files import check_open
from utils.run_folder import REPO_ROOT, display_path, quoted


class Download(NamedTuple):
    """Where the images of a published data set come from, and the simulated set that resembles it."""

    source: str
    stand_in: str


CBMI = 'IEEE DataPort, "Fluorescence microscopy images CBMI" (free, needs an account)'
SIMULATED_SUFFIX = "_sim"  # of data sets that are simulated, whose code other sets do not load
DOWNLOADS = {
    "er": Download(CBMI, "er_sim"),
    "mito": Download(CBMI, "mito_sim"),
    "nuc": Download("the Broad Bioimage Benchmark Collection, BBBC038 (Data Science Bowl 2018)", "nuc_sim"),
}


def prepare_dataset(
    name: str,
    train_list: str | Path | None = None,
    real_only: bool = False,
    root: Path = REPO_ROOT,
    say: Callable[[str], object] = print,
) -> str:
    """Settle which data set ``--dataset name`` means, and see to it that it is there.

    A simulated set is made on first use. ``er`` without lists, images or training list becomes ``er_sim``, said
    aloud, since the paper's images are a registered download that a newcomer does not have yet.

    Args:
        name: the data set.
        train_list: the ``--train_list`` given, if any; it must exist, and then the set needs nothing else. A bare name
            may also be that of a list of the simulated set.
        real_only: refuse to go on with simulated images in place of real ones.
        root: the folder that has ``txt`` and ``datasets``.
        say: takes the lines meant for the user.
    Returns: the name to go on with.
    Raises:
        UserError: images without lists (with the command that makes them), a set that is unknown or not in place.
    """
    check_name(name)
    if is_simulated(name):
        from datasets.simulation import make_dataset

        make_dataset(name, root=root, say=say)
        return name
    has_images = (root / "datasets" / name / "train" / "images").is_dir() or has_files(name, root)
    may_be_simulated = name == "er" and not (real_only or has_images or has_lists(name, root))
    if train_list is not None:
        try:
            find_list(train_list, name, root)
            return name
        except UserError:
            if not may_be_simulated or Path(train_list).name != str(train_list):
                raise  # a bare name may be that of a list of the simulated set
    if has_lists(name, root):
        return name
    if has_images:
        raise UserError(_lists_missing(name, root))
    if may_be_simulated:
        say(f"{_images_missing(name, root)}\ngoing on with simulated images, data set {DOWNLOADS[name].stand_in}")
        return prepare_dataset(DOWNLOADS[name].stand_in, root=root, say=say)
    if name in DOWNLOADS:
        instead = f"\nsimulated images instead: --dataset {DOWNLOADS[name].stand_in}"
        raise UserError(_images_missing(name, root) + instead)
    from datasets.simulation import SIMULATED

    known = ", ".join(sorted({*known_datasets(root), *SIMULATED}))
    raise UserError(
        f"data set {name!r} is unknown: there are no lists in {display_path(root / 'txt' / name)} and no images in "
        f"{display_path(root / 'datasets' / name)}/train/images; data sets that exist: {known} "
        "(those ending in _sim are simulated on first use)"
    )


def is_simulated(name: str) -> bool:
    """Whether a data set is simulated on first use, lists included."""
    if not name.endswith(SIMULATED_SUFFIX):
        return False
    from datasets.simulation import SIMULATED

    return name in SIMULATED


def check_name(name: str) -> None:
    """Raise a UserError unless ``name`` can name a data set: a plain folder name, not one like an option."""
    if not name or name in (".", "..") or name.startswith("-") or any(mark in name for mark in "/\\\0"):
        raise UserError(f"data set {name!r}: a plain name is expected, that of a folder in datasets/ and txt/")


def check_no_lists(name: str, root: Path) -> None:
    """Refuse the name of a data set that has validation or test images, which would count as those of the arrays."""
    own = [path for path in (list_folder(name, root) / f"{split}.txt" for split in SPLITS[1:]) if path.is_file()]
    if is_simulated(name) or own:
        raise UserError(
            f"name={name!r}: a data set of this name has validation or test images, which a run on arrays would take: "
            "choose another name"
        )


def has_lists(name: str, root: Path = REPO_ROOT) -> bool:
    """Whether a data set has at least one list."""
    check_open(folder := list_folder(name, root))
    return any(folder.rglob("*.txt"))


def has_files(name: str, root: Path = REPO_ROOT) -> bool:
    """Whether a data set has images, in folders of whatever layout."""
    from datasets.list_pairing import is_image_file

    check_open(folder := root / "datasets" / name)
    return any(map(is_image_file, folder.rglob("*")))


def known_datasets(root: Path = REPO_ROOT) -> list[str]:
    """The data sets that have lists or training images below ``root``, sorted."""
    list_folders = [*(root / "txt").glob("*"), *(root / "datasets" / "txt").glob("*")]
    listed = {folder.name for folder in list_folders if any(folder.rglob("*.txt"))}
    return sorted(listed | {images.parts[-3] for images in (root / "datasets").glob("*/train/images")})


def _lists_missing(name: str, root: Path) -> str:
    return (
        f"data set {name} has images ({display_path(root / 'datasets' / name)}) but no lists "
        f"({display_path(root / 'txt' / name)}); make them with:\n"
        f"  python datasets/make_lists.py --dataset {quoted(name)}"
    )


def _images_missing(name: str, root: Path) -> str:
    folder = display_path(root / "datasets" / name)
    return (
        f"data set {name}: the images are not there. Get them from {DOWNLOADS[name].source}, put them into "
        f"{folder}/{{train,val,test}}/{{images,labels}} and type: python datasets/make_lists.py --dataset {name}"
    )
