"""Sequences whose items are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """``load(0)``, ``load(1)``, …, each made whenever it is asked for.

    Args:
        load: makes the item of a place.
        length: number of items.
        keep_bytes: items are kept while their arrays take no more memory than this in all.
    """

    def __init__(self, load: Callable[[int], Item], length: int, keep_bytes: int = 0) -> None:
        self._load, self._length, self._room = load, length, keep_bytes
        self._kept: dict[int, Item] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> Item:  # type: ignore[override]  # no slices
        if not 0 <= place < self._length:
            raise IndexError(place)
        if place in self._kept:
            return self._kept[place]
        item = self._load(place)
        size = getattr(item, "nbytes", 0)
        if size <= self._room:
            self._room -= size
            self._kept[place] = item
        return item
