"""Maps as files, of this project or of any other program: from their values to scores or classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.image_io import read_scores, read_stored_label
from datasets.label_summary import (
    COMPONENTS_LOOKED_AT,
    FileValues,
    are_single_objects,
    number_objects,
    summarize,
    union_of_values,
)
from datasets.label_values import FEW_VALUES, LabelReading, listed
from utils.cli import UserError
from utils.run_folder import display_path

FEW_CLASSES = 8  # maps of more whole values than these may be scores of a network that is sure of nothing


class WholeNumbers(NamedTuple):
    """What whole numbers in maps mean.

    Args:
        scale: what they are divided by: 0 stands for their type's maximum, 1 where all but 0 is foreground.
        number_objects: whether each value but 0 is an object.
    """

    scale: float = 0.0
    number_objects: bool = False


def whole_numbers(paths: Iterable[Path], say: Callable[[str], object] = print) -> WholeNumbers:
    """What whole numbers in maps mean, in whichever type.

    All but 0 is foreground where maps number objects, or where none reaches half of its type's range and all hold 0 and
    one other value.

    Args:
        paths: the maps; they are read until one tells that they are scores.
        say: told of numbered objects, and of a foreground that is neither 1 nor the highest value.
    Raises:
        UserError: maps of a few whole values that are no scores, such as class indices, or 1 and 2; masks of 0 and 1,
            or of numbered objects, beside masks of 0 and 255.
    """
    files: dict[Path, FileValues] = {}
    high: tuple[Path, np.ndarray] | None = None
    for path in paths:
        values = _stored_values(path)
        is_real = values.dtype.kind == "f"
        if is_real and (values % 1).any():
            return WholeNumbers()
        highest = values.max()
        is_high = not is_real and highest > np.iinfo(values.dtype).max / 2
        if is_high and ((values == 0) | (values == highest)).all():
            high = high or (path, np.unique([0, highest]))
        elif is_high or len(files) < COMPONENTS_LOOKED_AT:
            files[path] = summarize(values, np.zeros(values.shape, bool))
            if is_high and not are_single_objects([files[path]]):
                return WholeNumbers()
    if high is None:
        return _meaning_of(files, say) if files else WholeNumbers()
    marked = {path: file for path, file in files.items() if len(file.foreground)}
    if marked:
        found = [*marked.values()]
        if all(len(file.foreground) == 1 for file in found) or are_single_objects(found):
            path = next(iter(marked))
            raise _mixed(high, (path, marked[path].values))
        _meaning_of(marked, say)
    return WholeNumbers()


def _meaning_of(files: Mapping[Path, FileValues], say: Callable[[str], object]) -> WholeNumbers:
    """The meaning of maps that number objects, or do not reach half of their type's range; see `whole_numbers`."""
    found = union_of_values([*files.values()])
    if found[-1] <= 1:
        return WholeNumbers(1.0)
    if found[0] == 0 and len(found) == 2:
        say(f"the maps hold 0 and {found[1]:g}: all but 0 is foreground")
        return WholeNumbers(1.0)
    are_many = len(found) > FEW_CLASSES and are_single_objects([*files.values()])
    if found[0] == 0 and (are_many or number_objects([*files.values()])):
        say("the maps number objects: all but 0 is foreground")
        return WholeNumbers(1.0, number_objects=True)
    if len(found) <= FEW_CLASSES and found[-1] <= FEW_VALUES and any(file.flat[1:].any() for file in files.values()):
        raise UserError(
            f"the maps hold {listed(found)} ({display_path(next(iter(files)))}, …), which are neither scores, nor 0 "
            "and one other value, nor numbered objects: save foreground as 255, or scores from 0 to 1 as real numbers"
        )
    masks = {float(file.values[-1]): (path, file.values) for path, file in files.items() if file.values[-1] > 0}
    if len(masks) > 1 and all(len(file.foreground) <= 1 for file in files.values()):
        raise _mixed(masks[max(masks)], masks[min(masks)])
    return WholeNumbers()


def _mixed(one: tuple[Path, np.ndarray], other: tuple[Path, np.ndarray]) -> UserError:
    """The fault of masks whose foreground has different values, told by a file of each kind and what it holds."""
    (path, values), (other_path, other_values) = one, other
    return UserError(
        f"the map {display_path(path)} holds {listed(values)}, the map {display_path(other_path)} "
        f"{listed(other_values)}: foreground of one passes for background in the other. Save all maps with the same "
        "two values, or scores from 0 to 1 as real numbers"
    )


def read_map(path: Path, num_classes: int = 1, scale: float = 0.0) -> np.ndarray:
    """Read a map of any origin.

    Args:
        path: binary: scores as floats in [0, 1] or as whole numbers; K classes: class indices, or scores (K, H, W) in
            a float32 TIFF. Palettes are read as those of labels.
        scale: what whole numbers are divided by, at most to 1; 0 stands for their type's maximum. See `whole_numbers`.
    Returns: float32 (H, W) in [0, 1], or uint8 class indices (H, W) for K > 1.
    Raises:
        UserError: unreadable, in colours, or values out of range.
    """
    if num_classes > 1:
        return _read_class_map(path, num_classes)
    values = _stored_values(path)
    low, high = float(values.min()), float(values.max())
    is_real = values.dtype.kind == "f"
    if low >= 0 and (scale or not is_real):
        highest = np.float32(scale or np.iinfo(values.dtype).max)
        return np.minimum(values.astype(np.float32) / highest, np.float32(1))
    if low < 0 or high > 1:
        raise UserError(
            f"{display_path(path)} is no score map: its values run from {low:.4g} to {high:.4g}, expected 0 to 1"
            " (put logits through a sigmoid first)"
        )
    return values.astype(np.float32, copy=False)


def read_numbers(path: Path) -> np.ndarray:
    """The numbers of the objects in a map that numbers them, (H, W), 0 where there is none."""
    return _stored_values(path)


def _stored_values(path: Path, num_classes: int = 1) -> np.ndarray:
    """The values of a map (H, W) as they are stored, for whatever they mean."""
    stored = read_stored_label(path, LabelReading(num_classes))
    if stored.is_color:
        raise UserError(f"the map {display_path(path)} is in colours: one grey value a class is expected, or scores")
    return stored.values


def _read_class_map(path: Path, num_classes: int) -> np.ndarray:
    try:
        classes = _stored_values(path, num_classes)
    except UserError as error:
        try:
            classes = read_scores(path)
        except UserError:
            raise error from None
        if classes.ndim != 3 or len(classes) != num_classes:
            raise
        return classes.argmax(0).astype(np.uint8)
    bad = np.unique(classes[(classes >= num_classes) | (classes < 0) | (classes != np.floor(classes))])
    if bad.size:
        raise UserError(
            f"{display_path(path)} holds {', '.join(f'{value:g}' for value in bad[:10])}, "
            f"which {'is' if bad.size == 1 else 'are'} none of the {num_classes} classes 0…{num_classes - 1}"
        )
    return classes.astype(np.uint8)
