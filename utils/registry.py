"""Tables of names whose entries are imported when they are first asked for, so that ``--help`` can list them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
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


def on_demand(package: str, **modules: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that imports a module of its own when a name from it is asked for.

    Args:
        modules: each with the names, parted by blanks, that the package offers from it.
    """
    places = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return get
