"""The tree of the Cell Tracking Challenge: films as ``01/t000.tif``, labels as ``01_GT/SEG/man_seg000.tif``.

GT was drawn by people, of some frames; ST was made by computers, of all; ``01_RES/mask000.tif`` was found by a
program,
``01_ERR_SEG/mask000.tif`` has errors. Labels number their objects. Of a film in three dimensions a label
may be that of one plane, ``man_seg_000_005.tif``. The markers in TRA are no outlines.

Source: the challenge's naming and file content conventions; Maška et al., Nature Methods 20, 2023.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datasets.image_files import split_plane
from datasets.list_layouts import Tree
from datasets.list_rows import Parts
from utils.cli import UserError, counted
from utils.paths import display_path

FILMS = "(.*)/t[0-9]+[.]tif"  # of --group_by: the frames of a film stay together
FRAME = re.compile(r"(?P<film>\d+)/t(?P<frame>\d+)\.tif")
LABEL = re.compile(r"(?P<film>\d+)_(?P<kind>GT|ST)/SEG/man_seg_?(?P<frame>\d+)(?:_(?P<plane>\d+))?\.tif")
RESULT = re.compile(r"(?P<film>\d+)_(?P<kind>RES|ERR_SEG)/mask(?P<frame>\d+)\.tif")
MARKERS = re.compile(r"\d+_GT/TRA/man_track\d+\.tif")
DRAWN = {"GT", "ST"}


def film_rows(tree: Tree, kinds: Sequence[str], noisy_labels: str | None, say: Callable[[str], object]) -> Parts:
    """The rows of a tree of films, paired by film and frame; none where it is no such tree.

    Args:
        kinds: of the labels, GT, ST, RES or ERR_SEG, in the order of their columns; without them the one
            that is there, GT or ST before the others.
        noisy_labels: a kind that is not to be taken for the labels.
    Raises:
        UserError: a kind that is not there, several and none named, or markers alone.
    """
    frames, labels = {}, defaultdict(lambda: defaultdict(dict))
    for found in tree.files:
        if match := FRAME.fullmatch("/".join(found.path.parts[-2:])):
            frames[found.path.parent, int(match["frame"])] = found
        elif match := LABEL.fullmatch("/".join(found.path.parts[-3:])):
            film = found.path.parents[2] / match["film"]
            labels[match["kind"]][film, int(match["frame"])][match["plane"]] = found.path
        elif match := RESULT.fullmatch("/".join(found.path.parts[-2:])):
            film = found.path.parents[1] / match["film"]
            labels[match["kind"]][film, int(match["frame"])][None] = found.path
    if frames and not labels and any(MARKERS.fullmatch("/".join(found.path.parts[-3:])) for found in tree.files):
        raise UserError(
            f"{display_path(tree.top)} has the markers of the Cell Tracking Challenge (TRA), which are no outlines, "
            "and no labels: get those in SEG, of people (GT) or computers (ST)"
        )
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
    others = [kind for kind in there if kind != noisy_labels]
    taken = list(given) or [kind for kind in others if kind in DRAWN] or others
    if len(taken) > 1 and not given:
        raise UserError(
            f"{display_path(top)} has labels of {len(taken)} kinds: {named}; name the one that is meant, or several as "
            "those of annotators, with --labels"
        )
    return taken


def film_groups(parts: Parts) -> str | None:
    """FILMS where the images are frames of films that no folder divides, else None."""
    rows = parts.get(None, [])
    files = ["/".join(split_plane(row[0])[0].parts[-2:]) for row in rows if len(row) > 1]
    return FILMS if rows and len(files) == len(rows) and all(map(FRAME.fullmatch, files)) else None
