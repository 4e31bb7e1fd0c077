"""Packages that only some commands need: imported where they are used, and asked for by name."""

from __future__ import annotations

import importlib
from types import ModuleType

from utils.errors import UserError

EXPORT_REQUIREMENTS = "requirements-export.txt"


def import_for(what: str, *modules: str) -> list[ModuleType]:
    """Import modules that ``what``, an option and its value, cannot do without.

    Raises:
        UserError: one is not installed; the message holds the line to type.
    """
    found = []
    for name in modules:
        try:
            found.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
                raise
            raise UserError(
                f"{what} needs the package {error.name.split('.')[0]}, which is not installed: "
                f"pip install -r {EXPORT_REQUIREMENTS}"
            ) from None
    return found
