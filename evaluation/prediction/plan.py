"""What is predicted into which folder: images and folder are checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from evaluation.prediction.members import Members
from evaluation.prediction.result_folders import check_chosen_folder, result_folder
from evaluation.prediction.settings import MapSettings, Picture
from evaluation.prediction.sources import Source, make_pictures
from evaluation.prediction.stacks import joined_name
from evaluation.scores.map_folder import COMPARISON, METRICS, PREDICTIONS, earlier_files
from utils.output_folder import try_output
from utils.run_folder import display_path


@dataclass(frozen=True)
class Plan:
    """What is predicted into which folder.

    Args:
        inputs: what tells the folder from those of other inputs.
        failed: why images cannot be read.
    """

    source: Source
    inputs: list[str]
    folder: Path
    pictures: list[Picture]
    failed: dict[Path, str]


def make_plan(
    members: Members, source: Source, settings: MapSettings, *, overlays: int = 0, out: Path | None = None
) -> Plan:
    """Check the images, and the folder that their maps go to.

    Args:
        overlays: how many of the first images get a panel.
        out: the folder given; default: the input's own below the run's ``results/``.
    Raises:
        UserError: no image can be read, or the folder holds what is not to be replaced.
        OSError: nothing can be written there.
    """
    pictures, failed = make_pictures(source, settings, overlays)
    inputs = [*source.inputs, *(f"with {display_path(run)}" for run in members.runs[1:])]
    folder = choose_folder(out, members.home, members.result_name, source.ending, inputs)
    try_output(folder, PREDICTIONS, **known_files(folder, pictures, settings), outdated=(METRICS, COMPARISON))
    return Plan(source, inputs, folder, pictures, failed)


@contextmanager
def planned_validation(members: Members, source: Source, settings: MapSettings, *, has_place: bool) -> Iterator[Plan]:
    """How validation images are predicted: into the run, which keeps their maps.

    Args:
        has_place: whether the other maps go to a folder that was given; then the run need not be writable.
    """
    with ExitStack() as held:
        try:
            plan = make_plan(members, source, settings)
        except OSError:
            if not has_place:
                raise
            plan = make_plan(members, source, settings, out=Path(held.enter_context(TemporaryDirectory())))
        yield plan


def choose_folder(out: Path | None, run: Path, name: str, ending: str, inputs: Sequence[str]) -> Path:
    """The folder given, if it holds nothing else, or the input's own below the run's ``results/``."""
    if out is None:
        return result_folder(run, name, ending, inputs)
    check_chosen_folder(out, run, inputs)
    return out


def known_files(folder: Path, pictures: Sequence[Picture], settings: MapSettings) -> dict[str, set[str]]:
    """The files that a prediction will write, and those that an earlier one wrote; for `replaced_output`."""
    expected = {joined_name(name) for picture in pictures for name in settings.files(picture)}
    return {"expected": expected, "earlier": earlier_files(folder)}
