"""JSON files that come back: one message where a file is not what it was written as, whatever the damage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import read_json
from utils.paths import display_path


@dataclass(frozen=True)
class Kind:
    """What the value of a field may be: the word for it, and the test."""

    name: str
    accepts: Callable[[Any], bool]

    def or_null(self) -> Kind:
        """This, or null."""
        return Kind(f"{self.name} or null", lambda value: value is None or self.accepts(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Kind("text", lambda value: isinstance(value, str))
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a number", _is_number)
FRACTION = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
COUNT = Kind("a whole number of at least 0", lambda value: _is_number(value) and value == int(value) and value >= 0)
POSITIVE = Kind("a whole number above 0", lambda value: _is_number(value) and value == int(value) and value > 0)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LIST = Kind("a list", lambda value: isinstance(value, list))
TEXTS = Kind("a list of texts", lambda value: LIST.accepts(value) and all(map(TEXT.accepts, value)))
NUMBERS = Kind("a list of numbers", lambda value: LIST.accepts(value) and all(map(NUMBER.accepts, value)))
NUMBER_BY_TEXT = Kind(
    "an object of numbers", lambda value: OBJECT.accepts(value) and NUMBERS.accepts([*value.values()])
)
TEXT_BY_TEXT = Kind("an object of texts", lambda value: OBJECT.accepts(value) and TEXTS.accepts([*value.values()]))


def check_record(
    content: Any,
    path: Path | str,
    required: Mapping[str, Kind],
    optional: Mapping[str, Kind] | None = None,
    remedy: str = "",
) -> dict[str, Any]:
    """``content`` where it is an object that has the required fields, and all fields named here are of their kinds.

    Args:
        path: the file it comes from.
        remedy: what to do, at the end of the message.
    Raises:
        UserError: naming the file, the field and what it should be.
    """
    advice = f"; {remedy}" if remedy else ""
    if not isinstance(content, dict):
        raise UserError(f"{display_path(Path(path))} must hold an object, {{…}}, not {_shown(content)}{advice}")
    for name, kind in {**required, **(optional or {})}.items():
        if name not in content:
            if name in required:
                raise UserError(f"{display_path(Path(path))} has no {name!r}, which must be {kind.name}{advice}")
        elif not kind.accepts(content[name]):
            raise UserError(
                f"{display_path(Path(path))}: {name!r} is {_shown(content[name])}, it must be {kind.name}{advice}"
            )
    return content


def read_record(
    path: Path | str, required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, remedy: str = ""
) -> dict[str, Any]:
    """Read a JSON file and check it, see `check_record`."""
    return check_record(read_json(path), path, required, optional, remedy)


def _shown(value: Any, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
