"""Stacks in lists: a file of many planes becomes a line a plane, ``stack.tif::N``, its label's plane beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets.image_files import PlaneStack
from datasets.image_io import read_stack
from datasets.list_pairing import Row
from utils.cli import UserError, counted, map_with_progress, shortened

UNNAMED = ("A", "Q", "I")  # the letter of an axis that a file does not name, in .npy and in TIFF
MOST_CHANNELS = 8  # more planes than these are slices or frames
STACK_SUFFIXES = (".tif", ".tiff", ".btf", ".npy", ".gif", ".webp")


def expand_stacks(rows: Sequence[Row], say: Callable[[str], object]) -> list[Row]:
    """Replace the row of a stack by rows of its planes.

    Planes are numbered over all axes but channels and samples, in the file's order. A label has as many planes as its
    image. Where all images have equally many, up to 8 on an axis that their files do not name, and labels have one,
    they are channels. Files that cannot be read stay as they are: whoever reads them says why.

    Args:
        rows: images with their labels.
        say: told of stacks, and of rows left out since image and label differ in their planes.
    Raises:
        UserError: no row is left.
    """
    files = list(dict.fromkeys(path for row in rows for path in row if path.suffix.lower() in STACK_SUFFIXES))
    stacks = dict(zip(files, map_with_progress(_stack, files, "looking for stacks"), strict=True))
    planes = {path: stack.planes for path, stack in stacks.items() if stack is not None and stack.planes > 1}
    if not planes:
        return list(rows)
    if count := _channels_of(rows, stacks):
        say(f"images have {count} planes and labels one: they are taken for {count} channels")
        return list(rows)
    expanded: list[Row] = []
    listed: list[Path] = []
    unequal: list[str] = []
    for row in rows:
        if differing := _disagreement([stacks.get(path) for path in row]):
            unequal.append(f"{row[0].name} ({differing})")
        elif row[0] in planes:
            listed.append(row[0])
            expanded += [tuple(Path(f"{path}::{number}") for path in row) for number in range(planes[row[0]])]
        else:
            expanded.append(row)
    if unequal:
        noun = "image" if len(unequal) == 1 else "images"
        say(f"left out: {len(unequal)} {noun} whose label has other planes: {shortened(unequal, 3)}")
    if unequal and not expanded:
        raise UserError(
            f"no label has as many planes as its image: {shortened(unequal, 3)}. Label every plane, or save the planes "
            "that are labelled as images; where channels were taken for planes or planes for channels, exchange them "
            "(in ImageJ with Image > Properties; in .npy files channels come last)"
        )
    if listed:
        shapes = [f"{path.name} {_described(stacks[path])}" for path in listed]
        say(f"{counted(listed, 'stack')}, listed plane by plane: {shortened(shapes, 3)}")
    return expanded


def _channels_of(rows: Sequence[Row], stacks: Mapping[Path, PlaneStack | None]) -> int:
    """How many planes of images seem to be channels, 0 where they do not."""
    shapes = {(stack.plane_axes, stack.planes) for row in rows if (stack := stacks.get(row[0])) is not None}
    labels = [path for row in rows for path in row[1:]]
    axes, count = next(iter(shapes), ("", 0))
    has_one = all(
        (stack := stacks.get(path)) is None or stack.planes == 1 and stack.channels != count for path in labels
    )
    are_channels = len(shapes) == 1 and axes in UNNAMED and 1 < count <= MOST_CHANNELS and labels and has_one
    return count if are_channels else 0


def _disagreement(stacks: Sequence[PlaneStack | None]) -> str:
    """How the planes of a row's files differ: in number, or in the order or the lengths of equal axes; else nothing."""
    counts = [1 if stack is None else stack.planes for stack in stacks]
    if len(set(counts)) > 1:
        return f"{' and '.join(map(str, counts))} planes"
    kinds = {(stack.plane_axes, stack.plane_shape): _described(stack) for stack in stacks if stack is not None}
    return " and ".join(kinds.values()) if len(kinds) > len({"".join(sorted(axes)) for axes, _ in kinds}) else ""


def _stack(path: Path) -> PlaneStack | None:
    try:
        return read_stack(path)
    except UserError:
        return None


def _described(stack: PlaneStack | None) -> str:
    return "" if stack is None else f"{'×'.join(map(str, stack.shape))} ({stack.axes})"
