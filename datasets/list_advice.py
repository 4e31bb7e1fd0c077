"""What lists need to be trained on: a look at their images and labels, and the command to type next."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.image_files import MIN_SIDE, Wanted, size_doubt, split_plane
from datasets.image_io import IGNORE_IN_BINARY_FILES, read_header, read_stack, read_stored_label
from datasets.label_maps import LabelMap, background_first, color_name, listed
from datasets.label_summary import FileValues, are_gradual, number_objects, summarize
from datasets.label_values import (
    FEW_VALUES,
    JPEG_SUFFIXES,
    PLAIN,
    LabelReading,
    decide_reading,
    refuse_differing_palettes,
    void_value,
)
from datasets.labels import IGNORE
from datasets.list_checks import has_colors
from datasets.list_doubts import copied_labels, partly_inverted
from datasets.list_guess import seems_label
from datasets.list_pairing import LABEL_BEGINNINGS, LABEL_ENDINGS, Row, stem, without_affix
from datasets.list_preview import spread
from utils.cli import UserError, counted, map_with_progress, shortened
from utils.run_folder import display_path, quoted

LOOKED_AT = 1000  # samples of a data set; more are spread evenly
COUNTED_PIECES = 200  # labels whose connected objects are counted
COLORS_LOOKED_AT = 24  # images in colour that are read to see whether their channels differ
VOID_COLORS = {0xE0E0C0}  # the border of PASCAL VOC
LISTED_FAULTS = 5
FAR = 2  # a value beyond this multiple of the others' number is no class of theirs


class LookedAt(NamedTuple):
    """What a sample's files say.

    Args:
        size, label_size: height and width, None where the file cannot be read.
        values: of the label; None without one.
        presence: whether there is foreground, and background, where the user says what values mean.
        palette: that of `StoredLabel`.
        fault: what is wrong with a file.
    """

    channels: int
    is_color: bool
    size: tuple[int, int] | None
    label_size: tuple[int, int] | None
    values: FileValues | None
    fault: str
    presence: tuple[bool, bool] | None = None
    palette: Mapping[int, int] | None = None


@dataclass(slots=True)
class Advice:
    """What training needs, and what the contact sheet shows.

    Attributes:
        options: of the training command.
        notes: lines for the user.
        reading: how labels are read for the sheet.
        classes, void: values of classes, the background first, and values that count nowhere; none in binary labels.
        in_channels, channels: of the images, as of `read_image`.
    """

    options: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reading: LabelReading = LabelReading()
    classes: list[int] = field(default_factory=list)
    void: list[int] = field(default_factory=list)
    in_channels: int = 1
    channels: tuple[str, ...] = ()


def advise(contents: Mapping[str, Sequence[Row]], label_map: str | None = None, channels: Sequence[str] = ()) -> Advice:
    """Look at the samples of lists and find what training on them needs.

    Args:
        contents: the rows of every list.
        label_map: what values of labels mean, where it is said.
        channels: of the images, by number or OME name; empty: those that there are.
    Returns: ``--num_classes``, ``--ignore_index``, ``--label_map`` and ``--in_channels`` where they are needed; notes
        say why, and name files that are broken, of another size than their label, or of values without meaning.
    Raises:
        UserError: no image can be read, or no label.
    """
    rows = list(dict.fromkeys((row[0], *row[1:2]) for each in contents.values() for row in each))
    rows = [rows[index] for index in spread(len(rows), LOOKED_AT)]
    if not rows:
        return Advice()
    step = -(-len(rows) // COUNTED_PIECES)
    told = None if label_map is None else advise_told(label_map)
    look = functools.partial(_look, reading=LabelReading() if told is None else told.reading, channels=tuple(channels))
    jobs = [(row, index % step == 0) for index, row in enumerate(rows)]
    found = map_with_progress(look, jobs, "looking at images and labels")
    _refuse_unreadable(rows, found)
    labels = [(each.values, row[1]) for each, row in zip(found, rows, strict=True) if each.values is not None]
    files, paths = [values for values, _ in labels], [path for _, path in labels]
    if told is None or told.reading.is_told:
        advice = told or advise_labels(files, paths)
    else:
        advice = advise_labels(files, paths, told.reading)
    try:
        palettes = [(each.palette, row[1]) for each, row in zip(found, rows, strict=True) if each.values is not None]
        refuse_differing_palettes(palettes, len(advice.classes))
    except UserError as error:
        advice.notes.append(f"warning: {error}")
    if len(advice.classes) > 2 and any(path.suffix.lower() in JPEG_SUFFIXES for _, path in labels):
        advice.notes.append(
            "warning: labels are JPEG, in which classes run into each other at edges, and so do numbers of objects and "
            "masks of 0 and 1: save them as PNG"
        )
    advice.notes += _one_sided(found, advice) if labels else _masks_among([row[0] for row in rows])
    if len(advice.classes) <= 2:
        looked = [(row, each.values) for each, row in zip(found, rows, strict=True) if each.values is not None]
        advice.notes += copied_labels(looked)
        advice.notes += [] if advice.reading.is_told else partly_inverted(looked, advice.reading)
    advice.notes += _planes_left_out([(path, not values.foreground.size) for values, path in labels])
    if channels:
        advice.in_channels, advice.channels = len(channels), tuple(channels)
        advice.options.append(f"--channels {quoted(','.join(channels))}")
    else:
        _advise_channels(rows, found, advice)
    faults = [each.fault for each in found if each.fault]
    faults += [_size_fault(row, each) for row, each in zip(rows, found, strict=True) if _sizes_differ(each)]
    advice.notes += [f"warning: {fault}" for fault in faults[:LISTED_FAULTS]]
    if len(faults) > LISTED_FAULTS:
        advice.notes.append(f"and {len(faults) - LISTED_FAULTS} more like these")
    if faults:
        advice.notes.append("(training refuses these: mend them, or take them away and make the lists again)")
    return advice


def next_command(dataset: str, contents: Mapping[str, Sequence[Row]], options: Sequence[str], train_list: str) -> str:
    """The command to type after the lists are written.

    Args:
        train_list: the name of the training list in ``contents``.
    """
    if train_list not in contents:
        return "next, predict with a trained network: python evaluation/inference.py --help"
    labelled = any(len(row) > 1 for row in contents[train_list])
    return " ".join(["next: python main.py --dataset", quoted(dataset), *options, *([] if labelled else ["--igtt"])])


def _look(job: tuple[Row, bool], reading: LabelReading, channels: tuple[str, ...]) -> LookedAt:
    (image, *labels), count_pieces = job
    count, is_color, size, label_size, values, fault, presence, palette = 1, False, None, None, None, "", None, None
    try:
        count, is_color, size = _image_facts(image, channels)
        if min(size) < MIN_SIDE:
            fault = f"image {display_path(image)} is {size[0]}×{size[1]}, at least {MIN_SIDE}×{MIN_SIDE} is needed"
    except UserError as error:
        fault = f"image {error}"
    try:
        for label in labels:
            stored = read_stored_label(label, reading)
            label_size, palette = stored.values.shape[:2], stored.palette
            values = summarize(stored.values, stored.ignored, stored.is_color, count_pieces)
            if reading.is_told:
                classes = stored.classes(reading, label)
                presence = bool(((classes != 0) & (classes != IGNORE)).any()), bool((classes == 0).any())
    except UserError as error:
        fault = fault or f"label {str(error).removeprefix('label ')}"
    return LookedAt(count, is_color, size, label_size, values, fault, presence, palette)


def _refuse_unreadable(rows: Sequence[Row], found: Sequence[LookedAt]) -> None:
    """Refuse lists of which no image, or no label, can be read."""
    labelled = [each for row, each in zip(rows, found, strict=True) if len(row) > 1]
    for what, sizes, looked_at in (
        ("image", [each.size for each in found], found),
        ("label", [each.label_size for each in labelled], labelled),
    ):
        if sizes and not any(sizes):
            raise UserError(
                f"none of the {what}s ({len(sizes)}) can be read, so that no list is written: {looked_at[0].fault}"
            )


def _image_facts(image: Path, channels: tuple[str, ...]) -> tuple[int, bool, tuple[int, int]]:
    stack, plane = read_stack(image), split_plane(image)[1]
    planes_or_channels = stack.planes if plane is None and "S" not in stack.axes else 1
    wanted = len(channels) or stack.sizes.get("C", planes_or_channels)
    header = read_header(image, Wanted(wanted, channels))
    return header.channels, header.is_color, (header.height, header.width)


def _sizes_differ(each: LookedAt) -> bool:
    return each.size is not None and each.label_size is not None and tuple(each.size) != tuple(each.label_size)


def _size_fault(row: Row, each: LookedAt) -> str:
    (height, width), (label_height, label_width) = each.size or (0, 0), each.label_size or (0, 0)
    doubt = size_doubt((label_height, label_width), (height, width))
    return (
        f"label {display_path(row[1])} is {label_height}×{label_width}, its image {display_path(row[0])} "
        f"{height}×{width}{doubt}"
    )


# Channels


def _advise_channels(rows: Sequence[Row], found: Sequence[LookedAt], advice: Advice) -> None:
    counts = {each.channels for each in found if each.size is not None}
    colored = [row[0] for row, each in zip(rows, found, strict=True) if each.is_color]
    stacked = {each.channels for each in found if each.size is not None and not each.is_color}
    several = sorted(counts - {1, 3} | stacked - {1})
    if several:
        advice.in_channels = several[-1]
        advice.options.append(f"--in_channels {several[-1]}")
        if len(counts) > 1:
            known = ", ".join(map(str, sorted(counts)))
            advice.notes.append(f"images have {known} channels: --channels 0 (or 0,2, …) takes the same of each")
    elif 3 in counts and any(map(has_colors, (colored[index] for index in spread(len(colored), COLORS_LOOKED_AT)))):
        advice.in_channels = 3
        advice.options.append("--in_channels 3")
        advice.notes.append(f"{counted(colored, 'image')} in colour: without --in_channels 3 they are read as grey")


def _one_sided(found: Sequence[LookedAt], advice: Advice) -> list[str]:
    """A warning where no label has any foreground, or any background: nothing can be learned from them."""
    if advice.classes or any(each.fault for each in found) or any(note.startswith("warning") for note in advice.notes):
        return []
    present = [each.presence or advice.reading.presence(each.values) for each in found if each.values is not None]
    there = dict(zip(("foreground", "background"), map(any, zip(*present, strict=True)), strict=True))
    ask = "are these the right labels? (--label_map says what values mean)"
    return [f"warning: no label has any {what}: {ask}" for what, is_there in there.items() if not is_there]


def _planes_left_out(labels: Sequence[tuple[Path, bool]]) -> list[str]:
    """A warning where most planes between annotated ones are empty, as where every tenth plane was annotated.

    Args:
        labels: the files, and whether they hold background alone.
    """
    planes: dict[Path, dict[int, bool]] = defaultdict(dict)
    for path, is_empty in labels:
        file, plane = split_plane(path)
        if plane is not None:
            planes[file][plane] = is_empty
    between = {}
    for file, empty in planes.items():
        annotated = [plane for plane in empty if not empty[plane]] or [0]
        between[file] = [empty[plane] for plane in empty if min(annotated) < plane < max(annotated)]
    gaps = [file for file, empty in between.items() if sum(empty) > len(empty) / 2]
    if not gaps:
        return []
    without, looked_at = (sum(count(between[file]) for file in gaps) for count in (sum, len))
    return [
        f"warning: {without} of {looked_at} planes between annotated ones have no foreground "
        f"({shortened([file.name for file in gaps], 3)}): those that nobody annotated teach that all is background; "
        "take their lines out of the lists"
    ]


def _masks_among(images: Sequence[Path]) -> list[str]:
    """A warning where images that have no labels seem to be labels, by their names or by their values."""
    looked_at = [images[index] for index in spread(len(images), COLORS_LOOKED_AT)]
    named = [image for image in looked_at if without_affix(stem(image), LABEL_BEGINNINGS, LABEL_ENDINGS) != stem(image)]
    found = {} if named else {image: why for image in looked_at if (why := seems_label(image))}
    masks = named or list(found)
    if not masks:
        return []
    why = "are named as labels are" if named else found[masks[0]]
    return [
        f"warning: {len(masks)} of {counted(looked_at, 'image')} looked at {why} ({masks[0].name}): are they labels? "
        "Put them into a folder of their own (--labels names it), or say what their names end or begin with "
        "(--label_suffix)"
    ]


# Labels


def advise_told(label_map: str) -> Advice:
    """What is needed where the user says what values mean.

    Raises:
        UserError: the map is not understood.
    """
    known = LabelMap.parse(label_map, IGNORE - 1)
    meanings = {*known.values.values(), *known.colors.values()} - {IGNORE}
    count = max(meanings, default=0) + 1
    num_classes = count if count > 2 else 1
    reading = LabelReading(num_classes, None, LabelMap.parse(label_map, num_classes))
    options = [*([f"--num_classes {count}"] if count > 2 else []), f'--label_map "{label_map}"']
    return Advice(options, [], reading, list(range(count)) if count > 2 else [])


def advise_labels(files: Sequence[FileValues], paths: Sequence[Path], plain: LabelReading = PLAIN) -> Advice:
    """What the values of labels need said.

    Args:
        files: their values, without those that a manifest or ``plain`` says are ignored.
        paths: the files, for messages.
        plain: what the user says of background and void.
    """
    options = [] if plain.label_map is None else [f'--label_map "{plain.label_map.text}"']
    if not files:
        return Advice(options)
    try:
        reading, notes = decide_reading(files, paths, plain)
    except UserError as error:
        advice = None if options else _advise_objects(files) or _advise_classes(files)
        return advice or Advice(options, [f"warning: {error}"])
    if reading.objects and not any(file.is_color for file in files):
        notes.append("(to train on them as classes instead: --num_classes, one more than the highest number)")
    return Advice(options, notes, reading)


def _advise_objects(files: Sequence[FileValues]) -> Advice | None:
    """Options for numbered objects whose background is not 0, or beside which a value counts nowhere; else None."""
    if any(file.is_color or file.is_cut_short for file in files):
        return None
    marks = {void for file in files if (void := void_value(file.values))}
    voids = sorted(marks | {value for file in files for value in file.values if value < 0})
    pixels = Counter[float]()
    for file in files:
        pixels.update(dict(zip(file.values.tolist(), file.counts.tolist(), strict=True)))
    commonest = max(pixels.keys() - voids, key=pixels.__getitem__, default=0)
    background = [commonest] if 0 not in pixels and commonest else []
    objects = [file.without([*background, *voids]) for file in files]
    if not number_objects(objects):
        return None
    label_map = ",".join([*(f"{value:g}:0" for value in background), *(f"{value:g}:ignore" for value in voids)])
    most = max(len(file.foreground) for file in objects)
    notes = [f"labels number objects, up to {most} in an image: all are foreground"]
    notes += [f"{value:g} is taken for background" for value in background]
    notes += [f"{value:g} is taken for void, pixels that count nowhere" for value in voids]
    if (most_pixels := max(pixels, key=pixels.__getitem__)) in voids:
        add = f"add {-most_pixels:g} to all values" if most_pixels < 0 else "write 0 there"
        notes.append(
            f"warning: most pixels hold {most_pixels:g}: if this is background, {add}; here they count nowhere"
        )
    reading = LabelReading(label_map=LabelMap.parse(label_map), objects=True)
    return Advice([f'--label_map "{label_map}"'], notes, reading)


def _advise_classes(files: Sequence[FileValues]) -> Advice | None:
    """Options for labels of more than two values, or without background; None where no values can be classes."""
    if any(file.is_cut_short for file in files):
        return None
    is_color = any(file.is_color for file in files)
    pixels: Counter[float] = Counter()
    for file in files:
        values = file.values * (0x010101 if is_color and not file.is_color else 1)
        pixels.update(dict(zip(values.tolist(), file.counts.tolist(), strict=True)))
    found = np.array(sorted(pixels))
    if len(found) > FEW_VALUES or (found != np.rint(found)).any() or (not is_color and are_gradual(files)):
        return None
    commonest = int(pixels.most_common(1)[0][0])
    void = _void_values([int(value) for value in found], is_color)
    classes = background_first([int(value) for value in found if int(value) not in void], is_color, commonest)
    if len(classes) == 1 < len(found):  # 0 and -1, or 1 and -1: nothing else could be foreground
        classes, void = background_first([int(value) for value in found], is_color), []
    shown = listed(found, is_color)
    if not is_color and classes[0] == 0 and 0 < classes[-1] < FAR * len(classes) + FAR and not any(v < 0 for v in void):
        return _plain_classes(classes, void, shown)
    names = [color_name(value) if is_color else str(value) for value in classes]
    entries = [f"{name}:{number}" for number, name in enumerate(names)]
    entries += [f"{color_name(value) if is_color else value}:ignore" for value in void]
    count = [] if len(classes) <= 2 else [f"--num_classes {len(classes)}"]
    note = f"labels hold {shown}: does --label_map say what they mean? (0 is background, ignore counts nowhere)"
    options = [*count, f'--label_map "{",".join(entries)}"']
    return Advice(options, [note], LabelReading(len(classes) if count else 1), classes, void)


def _plain_classes(classes: Sequence[int], void: Sequence[int], shown: str) -> Advice:
    """Options for values 0, 1, 2, …, some of which may count nowhere."""
    count = classes[-1] + 1
    options = [f"--num_classes {count}"] if count > 2 else []
    notes = [f"labels hold {shown}: {count} classes" if count > 2 else f"labels hold {shown}"]
    if void and (count <= 2 or void != [IGNORE]):
        options.append(f"--ignore_index {void[0]}")
    if void:
        notes.append(f"{void[0]} is taken for void, pixels that count nowhere (--ignore_index {void[0]})")
    elif count > 2:
        last, binary = classes[-1], ",".join(f"{value}:{min(value, 1)}" for value in classes)
        notes.append(
            f"(if one of them, {last} perhaps, is void and counts nowhere: --ignore_index {last}; if all but 0 is "
            f'foreground: --label_map "{binary}" in place of --num_classes)'
        )
    return Advice(options, notes, LabelReading(count if count > 2 else 1), list(range(count)), list(void))


def _void_values(values: Sequence[int], is_color: bool) -> list[int]:
    """The values that mark pixels without a class: −1, 255 or one as far off, VOC's border colour."""
    if is_color:
        return [value for value in values if value in VOID_COLORS]
    negative = [value for value in values if value < 0]
    rest = [value for value in values if value >= 0]
    if rest == [0, IGNORE_IN_BINARY_FILES, 255]:  # as this project writes them
        return [*negative, IGNORE_IN_BINARY_FILES]
    is_far = len(rest) > 2 and rest[-1] >= IGNORE - 5 and rest[-2] <= max(FEW_VALUES, FAR * len(rest))
    return [*negative, rest[-1]] if is_far else negative
