"""Images of a training list whose clean labels are known: given by a list of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datasets.list_parser import Sample
from utils.cli import UserError, counted, shortened
from utils.run_folder import display_path

NAMED_IMAGES = 5


def with_clean_labels(
    samples: Sequence[Sample], train_list: Path, clean: Sequence[Sample], clean_list: Path
) -> list[Sample]:
    """The samples of a training list, which know the clean labels of the images that the clean list names too.

    Raises:
        UserError: the lists have no image in common.
    """
    labels = {sample.image.resolve(): sample.label for sample in clean}
    matched = [replace(sample, clean_label=labels.get(sample.image.resolve())) for sample in samples]
    if not any(sample.clean_label for sample in matched):
        raise UserError(
            f"--clean_list {display_path(clean_list)} names none of the images of {display_path(train_list)}: its "
            f"first is {display_path(clean[0].image)}, that of the training list {display_path(samples[0].image)}; "
            "both lists must name the same image files"
        )
    return matched


def tell_clean(samples: Sequence[Sample], clean: Sequence[Sample], clean_list: Path) -> str:
    """How many images have a clean label, in a line."""
    known = [sample for sample in samples if sample.clean_label]
    line = f"{counted(known, 'image')} of {len(samples)} with a clean label of {display_path(clean_list)}"
    left = len({sample.image for sample in clean}) - len({sample.image for sample in known})
    return f"{line}; {left} of its images are not in the training list and are not used" if left > 0 else line


def refuse_trained_on(val: Sequence[Sample], val_list: Path, clean: Sequence[Sample], clean_list: Path) -> None:
    """Refuse a validation list that shares images with the clean list, which are trained on."""
    trained_on = {sample.image.resolve() for sample in clean}
    shared = [display_path(sample.image) for sample in val if sample.image.resolve() in trained_on]
    if shared:
        raise UserError(
            f"images of --clean_list {display_path(clean_list)} are in {display_path(val_list)} too: they are trained "
            f"on, and cannot judge the training: {shortened(shared, NAMED_IMAGES)}; take them out of one of the lists"
        )
