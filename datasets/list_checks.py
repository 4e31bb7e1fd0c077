"""Whether the files of a list are what it says: images, labels that fit them, values that mean classes.

Everything is looked at before a run begins, in parallel: of images the header, of labels every pixel. What the values
of labels mean is decided afterwards for all lists of a run together, see `decide_together`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.image_files import MIN_SIDE, Header, size_doubt, split_plane
from datasets.image_io import StoredLabel, read_image, read_image_header, read_stored_label
from datasets.label_maps import LabelMap
from datasets.label_summary import COMPONENTS_LOOKED_AT, FileValues, summarize
from datasets.label_values import LabelReading, decide_reading, refuse_differing_palettes
from datasets.labels import IGNORE
from datasets.list_parser import Sample, raise_faults
from utils.cli import UserError, map_with_progress, shortened
from utils.files import same_content
from utils.paths import display_path
from utils.processors import usable_processors

COLORS_LOOKED_AT = 8  # images whose pixels are looked at for colour

Say = Callable[[str], object]


@dataclass(frozen=True)
class Expectation:
    """How the images and labels of a run are read.

    Args:
        reading: how labels are; unless it is told what is foreground, values are still to be decided on.
        is_decided: whether nothing is left to decide, as for a list scored with the reading of a run.
        channels: of the images.
        selected: channels by number or OME name.
        only_binary: whether the command knows background and foreground alone and has no ``--num_classes``.
    """

    reading: LabelReading = LabelReading()
    is_decided: bool = False
    channels: int = 1
    selected: tuple[str, ...] = ()
    only_binary: bool = False

    @staticmethod
    def of(
        num_classes: int = 1,
        ignore_index: int | None = None,
        label_map: str | None = None,
        in_channels: int = 1,
        channels: Sequence[str] = (),
    ) -> Expectation:
        """From the options that say so on a command line."""
        meaning = None if label_map is None else LabelMap.parse(label_map, num_classes)
        reading = LabelReading(num_classes, ignore_index, meaning)
        return Expectation(reading, num_classes > 1 or reading.is_told, in_channels, tuple(channels))


class Check(NamedTuple):
    """What the check of one sample found; ``values`` are None without a label, and where their meaning is settled.

    ``classes`` are those of a label of K classes, ``palette`` that of `StoredLabel`.
    """

    header: Header | None
    faults: list[str]
    values: FileValues | None = None
    has_foreground: bool = False
    has_background: bool = False
    has_ignored: bool = False
    is_min_is_white: bool = False
    classes: frozenset[int] = frozenset()
    palette: Mapping[int, int] | None = None


@dataclass(frozen=True)
class ListSurvey:
    """A list whose files were looked at."""

    path: Path
    samples: list[Sample]
    checks: list[Check]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of every image."""
        return [(0, 0) if check.header is None else (check.header.height, check.header.width) for check in self.checks]

    def faults(self) -> list[tuple[int, str]]:
        """What is wrong with the files, with line numbers."""
        pairs = zip(self.samples, self.checks, strict=True)
        return [(sample.line, fault) for sample, check in pairs for fault in check.faults]

    def read_by(self, reading: LabelReading) -> list[Sample]:
        """The samples, whose labels are to be read so."""
        return [replace(sample, reading=reading) for sample in self.samples]

    def presence(self, reading: LabelReading) -> tuple[bool, bool]:
        """Whether any label has foreground, and whether any has background."""
        found = [(check.has_foreground, check.has_background) for check in self.checks if check.values is None]
        found += [reading.presence(check.values) for check in self.checks if check.values is not None]
        return any(foreground for foreground, _ in found), any(background for _, background in found)


def survey(samples: Sequence[Sample], list_path: Path, expected: Expectation, images: bool = True) -> ListSurvey:
    """Look at every image's header and every label whole, in parallel.

    Args:
        samples: those of the list ``list_path``.
        images: False looks at labels alone.
    """
    step = -(-len(samples) // COMPONENTS_LOOKED_AT) or 1

    def check(numbered: tuple[int, Sample]) -> Check:
        return _check_sample(numbered[1], expected, count_pieces=numbered[0] % step == 0, images=images)

    numbered = list(enumerate(samples))
    workers = 4 * usable_processors()  # they mostly wait for the disk
    checks = map_with_progress(check, numbered, f"checking {display_path(list_path)}", workers=workers)
    return ListSurvey(list_path, list(samples), checks)


def survey_annotators(found: ListSurvey, expected: Expectation) -> list[ListSurvey]:
    """Look at the labels of all annotators but the first; none where there are none.

    Raises:
        UserError: every fault of them at once.
    """
    rows = [replace(one, label=label, more_labels=()) for one in found.samples for label in one.more_labels]
    if not rows:
        return []
    others = survey(rows, found.path, expected)
    raise_faults(found.path, others.faults())
    return [others]


def _check_sample(sample: Sample, expected: Expectation, count_pieces: bool, images: bool) -> Check:
    header, faults = _check_image(sample.image, expected) if images else (None, [])
    if sample.label is None:
        return Check(header, faults)
    try:
        stored = read_stored_label(sample.label, expected.reading)
        size = stored.values.shape
        if header is not None and np.ptp(stored.values) and _is_same(sample.image, sample.label):
            faults.append(f"label {display_path(sample.label)} has the content of its image: one of them is wrong")
        if header is not None and size != (header.height, header.width):
            doubt = size_doubt(size, (header.height, header.width))
            sizes = f"{size[0]}×{size[1]}, its image {header.height}×{header.width}{doubt}"
            faults.append(f"label {display_path(sample.label)} is {sizes}")
        found = _check_label(stored, sample.label, expected, count_pieces)
        return found._replace(header=header, faults=faults, palette=stored.palette)
    except UserError as fault:
        return Check(header, [*faults, f"label {str(fault).removeprefix('label ')}"])


def _is_same(image: Path, label: Path) -> bool:
    (image_file, image_plane), (label_file, label_plane) = split_plane(image), split_plane(label)
    return image_plane == label_plane and bool(same_content([image_file, label_file]))


def _check_image(path: Path, expected: Expectation) -> tuple[Header | None, list[str]]:
    try:
        header = read_image_header(path, expected.channels, expected.selected)
    except UserError as fault:
        return None, [f"image {fault}"]
    size = f"{header.height}×{header.width}"
    too_small = f"image {display_path(path)} is {size}, at least {MIN_SIDE}×{MIN_SIDE} is needed"
    return header, [too_small] if min(header.height, header.width) < MIN_SIDE else []


def _check_label(stored: StoredLabel, path: Path, expected: Expectation, count_pieces: bool) -> Check:
    is_min_is_white = stored.is_min_is_white
    if not expected.is_decided and not stored.is_written:
        found = summarize(stored.values, stored.ignored, stored.is_color, count_pieces)
        return Check(None, [], found, has_ignored=bool(stored.ignored.any()), is_min_is_white=is_min_is_white)
    label = stored.classes(expected.reading, path)
    found = frozenset(np.flatnonzero(np.bincount(label.ravel(), minlength=IGNORE + 1)).tolist())
    classes = found - {IGNORE}
    return Check(None, [], None, bool(classes - {0}), 0 in found, IGNORE in found, is_min_is_white, classes)


# All lists of a run


def decide_together(surveys: Sequence[ListSurvey], expected: Expectation, say: Say = print) -> LabelReading:
    """Decide how the labels of all lists of a run are read, and say what is not plain.

    Raises:
        UserError: values that do not say what is foreground; names them, a file and the remedy.
    """
    checks = [(check, sample) for each in surveys for check, sample in zip(each.checks, each.samples, strict=True)]
    inverting = [sample.label for check, sample in checks if check.is_min_is_white]
    if inverting:
        say(
            f"{len(inverting)} labels are stored as MinIsWhite (an inverting look-up table), which is not applied: "
            f"their values are taken as they are; the first: {display_path(inverting[0] or Path())}"
        )
    palettes = [(check.palette, sample.label) for check, sample in checks if sample.label]
    refuse_differing_palettes(palettes, expected.reading.num_classes)
    if expected.is_decided:
        return expected.reading
    known = [(check.values, sample.label) for check, sample in checks if check.values and sample.label]
    reading, lines = decide_reading(
        [values for values, _ in known],
        [label for _, label in known],
        expected.reading,
        only_binary=expected.only_binary,
    )
    for line in lines:
        say(line)
    return reading


def decide_labels(
    samples: Sequence[Sample], list_path: Path | str, expected: Expectation, say: Say = print
) -> LabelReading:
    """How the labels of samples are read, for a list that belongs to no run; images are not looked at.

    Raises:
        UserError: labels that cannot be read, or values without a meaning.
    """
    if expected.is_decided:
        return expected.reading
    found = survey([sample for sample in samples if sample.label], Path(list_path), expected, images=False)
    raise_faults(Path(list_path), found.faults())
    reading = decide_together([found], expected, say)
    tell_one_sided(found, reading, say)
    return reading


def refuse_one_sided(survey: ListSurvey, reading: LabelReading) -> None:
    """Refuse a training list whose labels have no foreground at all, or no background.

    Raises:
        UserError: naming the list and what is missing.
    """
    if not any(sample.label for sample in survey.samples):
        return
    shown = display_path(survey.path)
    foreground, background = survey.presence(reading)
    has_ignored = any(check.has_ignored for check in survey.checks)
    if not foreground and has_ignored and (reading.num_classes > 1 or reading.ignore_index == IGNORE):
        remedy = "leave out --ignore_index 255" if reading.num_classes == 1 else "use --num_classes 1"
        raise UserError(
            f"{shown}: no label has any foreground, only background and ignored pixels (255); "
            f"if these are masks of 0 and 255, {remedy}"
        )
    if reading.num_classes == 1 and not (foreground and background):
        missing = "foreground" if not foreground else "background"
        raise UserError(
            f"{shown}: no label has any {missing}, so that there is nothing to learn; are these the right labels? "
            "(--label_map says what values mean; --igtt trains without labels)"
        )


def tell_one_sided(survey: ListSurvey, reading: LabelReading, say: Say = print) -> None:
    """Say that the labels of a validation or test list leave figures undefined: all background, or all foreground."""
    foreground, background = survey.presence(reading)
    if reading.num_classes == 1 and any(sample.label for sample in survey.samples) and not (foreground and background):
        missing = "foreground" if not foreground else "background"
        say(
            f"{display_path(survey.path)}: no label has any {missing}: IoU, F1 and other figures that need it are "
            "undefined; where they would choose the best epoch, the last is taken"
        )


def tell_missing_classes(survey: ListSurvey, reading: LabelReading, use: str, say: Say = print) -> None:
    """Say which classes no label of a list holds; ``use`` is what that means for them."""
    present = frozenset[int]().union(*(check.classes for check in survey.checks))
    missing = [str(number) for number in range(reading.num_classes) if number not in present]
    if reading.num_classes > 1 and present and missing:
        say(f"{display_path(survey.path)}: no label holds class {shortened(missing)}: {use}")


def tell_color(surveys: Sequence[ListSurvey], expected: Expectation, say: Say = print) -> None:
    """Say once that images in colour are read as grey, where their colours differ at all, or grey ones as colour."""
    if expected.channels not in (1, 3) or expected.selected:
        return
    headers = {
        sample.image: check.header
        for each in surveys
        for check, sample in zip(each.checks, each.samples, strict=True)
        if check.header is not None
    }
    if expected.channels == 3:
        grey = [image for image, header in headers.items() if header.channels == 1]
        if grey:
            say(
                f"{len(grey)} of {len(headers)} images have one channel, which stands for all 3 that are read; the "
                f"first: {display_path(grey[0])}"
            )
        return
    colored = [image for image, header in headers.items() if header.is_color]
    looked_at = colored[:: -(-len(colored) // COLORS_LOOKED_AT) or 1]
    if any(has_colors(path) for path in looked_at):
        say(
            f"{len(colored)} images are in colour and are read as grey (luminance): --in_channels 3 reads their "
            f"colours; the first: {display_path(colored[0])}"
        )


def has_colors(path: Path) -> bool:
    """Whether an image's channels differ anywhere; of a file that cannot be read not."""
    try:
        image = read_image(path, channels=3)
    except UserError:  # a broken file is told where it is read
        return False
    return bool((np.ptp(image, axis=2) > 0).any())


def tell_copies(surveys: Sequence[ListSurvey], say: Say = print) -> None:
    """Say that one image stands in several places: under two names, or in the training and the validation list."""
    images = [(image, each.path) for each in surveys for image in dict.fromkeys(item.image for item in each.samples)]
    groups = same_content(dict.fromkeys(split_plane(image)[0] for image, _ in images))
    first_of = {file: group[0] for group in groups for file in group}
    places: dict[tuple[Path, int | None], list[tuple[Path, Path]]] = defaultdict(list)
    for image, list_path in images:
        file, plane = split_plane(image)
        places[first_of.get(file, file), plane].append((image, list_path))
    copies = [found for found in places.values() if len(found) > 1]
    if copies:
        (first, first_list), (second, second_list) = copies[0][:2]
        say(
            f"{len(copies)} images appear more than once with the same content; the first: {display_path(first)} "
            f"({display_path(first_list)}) and {display_path(second)} ({display_path(second_list)})"
        )
