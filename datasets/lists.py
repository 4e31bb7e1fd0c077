"""The txt lists that say which images and labels belong to a data set: found, parsed, checked and written.

A line is a sample: ``image<TAB>label``, or the image alone; a list of its own may name clean labels of some images.
``txt/README.md`` explains lists to users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from datasets.label_values import LabelReading
from datasets.list_checks import (
    Expectation,
    ListSurvey,
    decide_labels,
    decide_together,
    refuse_one_sided,
    survey,
    survey_annotators,
    tell_color,
    tell_copies,
    tell_missing_classes,
    tell_one_sided,
)
from datasets.list_files import (
    CLEAN_LIST,
    NOISY_LIST,
    SPLITS,
    corrected_samples,
    default_training_list,
    find_list,
    label_required,
    list_folder,
    read_list,
    tell_unusual,
    write_list,
)
from datasets.list_parser import Sample, parse_list, raise_faults
from utils.cli import UserError, counted, shortened
from utils.run_folder import REPO_ROOT, display_path

NAMED_IMAGES = 5

__all__ = ["CLEAN_LIST", "NOISY_LIST", "SPLITS", "Sample", "corrected_samples", "decide_labels"]
__all__ += ["default_training_list", "find_list", "list_folder", "raise_faults", "read_checked_list"]
__all__ += ["read_checked_lists", "read_list", "survey_list", "survey_samples", "write_list"]


def survey_list(
    path: Path | str,
    expected: Expectation,
    data_root: Path | str | None = None,
    root: Path = REPO_ROOT,
    labels: str = "required",
    say: Callable[[str], object] = print,
    fusion: str = "first",
) -> ListSurvey:
    """`read_list`, and a look at all its files; the faults of the lines and of the files are reported together.

    Args:
        labels: as for `read_list`; also ``unread`` where lines may name labels that nobody looks at.
        fusion: how several labels of an image become one, to be said.
    """
    path = Path(path)
    samples, faults, note = parse_list(path, data_root, root, labels == "required")
    if labels == "unread":
        samples = [replace(sample, label=None, more_labels=()) for sample in samples]
    found = survey(samples, path, expected)
    raise_faults(path, sorted(faults + found.faults()), note)
    tell_unusual(samples, path, say, fusion)
    return found


def read_checked_lists(
    paths: Sequence[Path | str],
    expected: Expectation,
    data_root: Path | str | None = None,
    root: Path = REPO_ROOT,
    labels: Sequence[str] = ("required",),
    reading: LabelReading | None = None,
    say: Callable[[str], object] = print,
    clean_list: Path | None = None,
    fusion: str = "first",
) -> tuple[list[ListSurvey], LabelReading]:
    """Read and check the lists of a run, the training list first; decide once how all their labels are read.

    Args:
        labels: for each list, see `survey_list`.
        reading: what was decided before, for a run that goes on.
        clean_list: names images of the training list again, with clean labels; it comes last in what is returned.
        fusion: how several labels of an image in the training list become one; unless ``first``, all are looked at.
    Returns: the lists, whose samples know the reading, and the reading.
    Raises:
        UserError: as `read_list`; also files that are not what the list says, values without a meaning, and a
            training list without any foreground or without any background.
    """
    hows = [fusion, *["first"] * (len(paths) - 1)]
    surveys = [
        survey_list(path, expected, data_root, root, need, say, how)
        for path, need, how in zip(paths, labels, hows, strict=True)
    ]
    again = [] if clean_list is None else [survey_list(clean_list, expected, data_root, root, "required", say)]
    others = [] if fusion == "first" else survey_annotators(surveys[0], expected)
    reading = reading or decide_together([*surveys, *again, *others], expected, say)
    refuse_one_sided(surveys[0], reading)
    tell_missing_classes(surveys[0], reading, "such a class cannot be learned", say)
    for other in surveys[1:]:
        tell_one_sided(other, reading, say)
        tell_missing_classes(other, reading, "figures of such a class are undefined", say)
    tell_color(surveys, expected, say)
    tell_copies(surveys, say)
    return [replace(each, samples=each.read_by(reading)) for each in (*surveys, *again)], reading


def read_checked_list(
    path: Path | str,
    data_root: Path | str | None = None,
    root: Path = REPO_ROOT,
    labels: str = "required",
    num_classes: int = 1,
    ignore_index: int | None = None,
    in_channels: int = 1,
    say: Callable[[str], object] = print,
    label_map: str | None = None,
    channels: Sequence[str] = (),
) -> tuple[list[Sample], list[tuple[int, int]]]:
    """`read_list` and a look at every file, as `read_checked_lists` for a single training list.

    Returns: the samples and their sizes (H, W), in the order of the list.
    Raises:
        UserError: as `read_checked_lists`.
    """
    expected = Expectation.of(num_classes, ignore_index, label_map, in_channels, channels)
    label_required(labels)
    (found,), _ = read_checked_lists([path], expected, data_root, root, [labels], say=say)
    return found.samples, found.sizes


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


def survey_samples(
    samples: Sequence[Sample],
    list_path: Path | str,
    expected: Expectation | None = None,
    say: Callable[[str], object] = print,
    fusion: str = "first",
) -> ListSurvey:
    """Check the files of samples that were read before, as `read_checked_lists` does those of a list.

    Args:
        samples: what `read_list` returned for ``list_path``.
        fusion: unless ``first``, the labels of all annotators are looked at.
    Returns: the samples, which know how their labels are read, and the sizes of their images.
    Raises:
        UserError: every fault at once, with list and line: files that cannot be read, sizes that differ, images
            below 16×16, label values that are no class.
    """
    expected = expected or Expectation()
    found = survey(samples, Path(list_path), expected)
    raise_faults(Path(list_path), found.faults())
    others = [] if fusion == "first" else survey_annotators(found, expected)
    return replace(found, samples=found.read_by(decide_together([found, *others], expected, say)))
