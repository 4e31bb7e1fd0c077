"""How the labels that maps are held against are read: as the run read its own, where theirs are of that kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.label_values import LabelReading
from datasets.list_checks import Expectation
from datasets.lists import Sample, decide_labels
from utils.cli import UserError


def read_as_recorded(
    samples: Sequence[Sample],
    list_path: Path,
    record: dict[str, Any],
    *,
    num_classes: int,
    ignore_index: int | None,
    label_map: str | None = None,
    say: Callable[[str], object] = print,
) -> list[Sample]:
    """Samples whose labels are read as they mean it: by ``label_map``, by what the run was told, or by their values.

    Args:
        samples: of the list ``list_path``.
        record: predictions.json or config.json, whose ``label_reading`` the run decided; may be empty.
        label_map: what values mean, said now.
    Raises:
        UserError: labels that cannot be read, or values without a meaning.
    """
    recorded = None if label_map else LabelReading.from_json(record.get("label_reading"))
    if recorded is not None and (recorded.num_classes, recorded.ignore_index) != (num_classes, ignore_index):
        recorded = None
    if recorded is not None and recorded.label_map is not None:
        label_map = recorded.label_map.text
    expected = Expectation.of(num_classes, ignore_index, label_map)
    reading = _decide(samples, list_path, expected, recorded, say)
    return [replace(sample, reading=reading) for sample in samples]


def _decide(
    samples: Sequence[Sample],
    list_path: Path,
    expected: Expectation,
    recorded: LabelReading | None,
    say: Callable[[str], object],
) -> LabelReading:
    """The labels' own reading, unless the run was told one, or decided one of the same kind on more labels."""
    if recorded is not None and (recorded.is_told or recorded.num_classes > 1):
        return recorded
    try:
        own = decide_labels(samples, list_path, expected, say)
    except UserError:
        if recorded is None or not recorded.objects:
            raise
        return recorded  # a few numbered objects look like classes where no other label is there to differ from
    both_cut = recorded is not None and recorded.cut is not None and own.cut is not None
    return recorded if recorded is not None and both_cut else own
