"""The tree of the Cell Tracking Challenge: films as ``01/t000.tif``, labels as ``01_GT/SEG/man_seg000.tif``.

GT was drawn by people, of some frames; ST was made by computers, of all. Labels number their objects. Of a film in
three dimensions a label may be that of one plane, ``man_seg_000_005.tif``. The markers in TRA are no outlines.

Source: the challenge's naming and file content conventions; Maška et al., Nature Methods 20, 2023.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets.list_layouts import Tree
from datasets.list_rows import Parts
from utils.cli import UserError, counted
from utils.paths import display_path

FILMS = "(.*)/t[0-9]+[.]tif"  # of --group_by: the frames of a film stay together
FRAME = re.compile(r"(?P<film>\d+)/t(?P<frame>\d+)\.tif")
LABEL = re.compile(r"(?P<film>\d+)_(?P<kind>GT|ST)/SEG/man_seg_?(?P<frame>\d+)(?:_(?P<plane>\d+))?\.tif")


def film_rows(tree: Tree, kinds: Sequence[str], noisy_labels: str | None, say: Callable[[str], object]) -> Parts:
    """The rows of a tree of films, paired by film and frame; none where it is no such tree.

    Args:
        kinds: of the labels, GT or ST, in the order of their columns; without them the kind that is there.
        noisy_labels: a kind that is not to be taken for the labels.
    Raises:
        UserError: a kind that is not there, or both and none named.
    """
    frames, labels = {}, defaultdict(lambda: defaultdict(dict))
    for found in tree.files:
        if match := FRAME.fullmatch("/".join(found.path.parts[-2:])):
            frames[found.path.parent, int(match["frame"])] = found
        elif match := LABEL.fullmatch("/".join(found.path.parts[-3:])):
            film = found.path.parents[2] / match["film"]
            labels[match["kind"]][film, int(match["frame"])][match["plane"]] = found.path
    if not frames or not labels:
        return {}
    taken = _taken_kinds({kind: len(labels[kind]) for kind in sorted(labels)}, kinds, noisy_labels, tree.top)
    parts: Parts = defaultdict(list)
    alone = 0
    for key, found in frames.items():
        of_frame = [labels[kind].get(key, {}) for kind in taken]
        alone += not any(of_frame)
        for plane in sorted({plane for each in of_frame for plane in each}, key=lambda plane: int(plane or 0)):
            image = found.path if plane is None else Path(f"{found.path}::{int(plane)}")
            parts[found.split].append((image, *(each[plane] for each in of_frame if plane in each)))
    films, named = counted({film for film, _ in frames}, "film"), " and ".join(taken)
    without = f", left out {alone} without" if alone else ""
    say(f"{films} of the Cell Tracking Challenge, {counted(frames, 'frame')}; labels are those of {named}{without}")
    return dict(parts)


def _taken_kinds(there: Mapping[str, int], given: Sequence[str], noisy_labels: str | None, top: Path) -> list[str]:
    """The kinds of labels that are meant, of those that are there with so many frames."""
    named = ", ".join(f"{kind} of {counted(count, 'frame')}" for kind, count in there.items())
    if missing := [kind for kind in given if kind not in there]:
        raise UserError(f"{display_path(top)} has no labels of {' and '.join(missing)}; it has {named}")
    taken = list(given) or [kind for kind in there if kind != noisy_labels]
    if len(taken) > 1 and not given:
        raise UserError(
            f"{display_path(top)} has labels of 2 kinds: {named}; name the one that is meant, or both as those of two "
            "annotators, with --labels"
        )
    return taken


def film_groups(parts: Parts) -> str | None:
    """FILMS where the images are frames of films that no folder divides, else None."""
    rows = parts.get(None, [])
    return FILMS if rows and all(len(row) > 1 and row[1].name.startswith("man_seg") for row in rows) else None
