"""Tables of names whose entries are imported when they are first asked for, so that ``--help`` can list them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pkgutil import resolve_name
from typing import Any


class Registry(Mapping[str, Any]):
    """Names and what they stand for.

    Args:
        places: name → ``package.module:attribute``.

    >>> shapes = Registry({"circle": "math:tau", "square": "math:e"})
    >>> list(shapes), round(shapes["circle"], 2)
    (['circle', 'square'], 6.28)
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = dict(places)

    def __getitem__(self, name: str) -> Any:
        return resolve_name(self.places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
