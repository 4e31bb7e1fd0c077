"""The grammar of names with parameters, ``name(key=value,…)``, in which networks, losses and optimizers are given."""

from __future__ import annotations

import re
from typing import Any

from utils.errors import UserError

CALL = re.compile(r"(?P<name>\w+)(?:\((?P<params>[^()]*)\))?")
WORDS = {"true": True, "false": False, "none": None}


def split_call(text: str, what: str) -> tuple[str, dict[str, str]]:
    """Split ``name(key=value,…)`` into its name and its parameters; spaces do not matter.

    Args:
        what: what the text is, for the message, e.g. ``--network``.
    Raises:
        UserError: not of this form, or a parameter that appears more than once.

    >>> split_call("hrnet(width=18, stem_stride=4)", "--network")
    ('hrnet', {'width': '18', 'stem_stride': '4'})
    """
    match = CALL.fullmatch("".join(text.split()))
    if match is None:
        raise UserError(f"{what} {text!r} cannot be read: write NAME or NAME(key=value,…)")
    return match["name"], split_params(match["params"] or "", f"{what} {text!r}")


def split_params(text: str, what: str) -> dict[str, str]:
    """Split ``key=value,…`` into a dictionary; raise a UserError that begins with ``what`` where that fails."""
    params: dict[str, str] = {}
    for assignment in filter(None, text.split(",")):
        key, equals, value = assignment.partition("=")
        if not (key and equals and value):
            raise UserError(f"{what}: {assignment!r} is not of the form key=value")
        if key in params:
            raise UserError(f"{what}: {key} appears more than once")
        params[key] = value
    return params


def plain_value(text: str) -> Any:
    """The number, truth value or None that ``text`` stands for, else the text itself.

    >>> [plain_value(text) for text in ("8", "0.5", "true", "group")]
    [8, 0.5, True, 'group']
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
