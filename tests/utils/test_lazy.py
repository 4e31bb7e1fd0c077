"""Items are made when asked for, and kept while memory lasts."""

from __future__ import annotations

import numpy as np
import pytest

from utils.lazy import LazySequence


def test_items_are_kept_while_memory_lasts():
    made = []

    def load(place: int) -> np.ndarray:
        made.append(place)
        return np.full(4, place, np.uint8)

    items = LazySequence(load, 3, keep_bytes=8)
    for _ in range(2):
        assert [int(item[0]) for item in items] == [0, 1, 2]
    assert made == [0, 1, 2, 2] and len(items) == 3
    with pytest.raises(IndexError):
        items[3]


def test_nothing_is_kept_unless_asked_for():
    items = LazySequence(lambda place: np.full(4, place), 2)
    assert items[1] is not items[1]
    assert LazySequence(lambda place: None, 1)[0] is None
