"""Command-line options declared as fields of dataclasses: one line an option, from which its flag and help follow.

And the grammar of names with parameters, ``name(key=value,…)``, in which networks, losses and optimizers are given.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.cli import UserError, one_of, whole_number

positive_int, non_negative_int = whole_number(1), whole_number()


def non_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} must be a finite number of at least 0")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be above 0")
    return value


def up_to(most: float) -> Callable[[str], float]:
    """An argparse type: a number above 0 and at most ``most``."""

    def parse(text: str) -> float:
        value = positive_float(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{text!r} must be at most {most:g}")
        return value

    return parse


def below_one(text: str) -> float:
    """A number from 0 to below 1."""
    value = non_negative_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be below 1")
    return value


def fold_of(text: str) -> str:
    """``k/K`` with 1 ≤ k ≤ K and K ≥ 2."""
    number, slash, parts = text.partition("/")
    if not (slash and number.isdigit() and parts.isdigit() and 1 <= int(number) <= int(parts) and int(parts) >= 2):
        raise argparse.ArgumentTypeError(f"{text!r} must be k/K with k from 1 to K and K at least 2, e.g. 1/5")
    return text


def name_with_params(names: Collection[str]) -> Callable[[str], str]:
    """An argparse type: ``name`` or ``name(key=value,…)`` with a name among ``names``."""

    def parse(text: str) -> str:
        try:
            one_of(split_call(text, "")[0], tuple(names), "")
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None
        return text

    return parse


@dataclass(frozen=True)
class Option:
    """How an option is given, and what it goes with.

    Args:
        help: one line.
        parse: from the text of the command line; raises an ``ArgumentTypeError`` that says what is wrong.
        metavar: what stands for the value in ``--help``.
        choices: the values there are.
        nargs: as in argparse; with ``?``, the flag alone means the first choice.
        flag: its flat name where the field has another.
        needs: the option without which this one does nothing, or ``option=value`` where it takes that value.
        inside: the option in whose ``name(key=value)`` it is given, instead of by a flag of its own.
        python_only: it is set by ``configure({...})`` alone.
        may_change: whether it may change when a run is resumed.
        is_copied: whether ``--config`` takes it over from another run.
    """

    help: str
    parse: Callable[[str], Any] | None = None
    metavar: str | None = None
    choices: Collection[Any] = ()
    nargs: str | None = None
    flag: str | None = None
    needs: str | None = None
    inside: str | None = None
    python_only: bool = False
    may_change: bool = False
    is_copied: bool = True

    @property
    def has_flag(self) -> bool:
        """Whether the command line has a flag for it."""
        return not (self.python_only or self.inside)


def checked_value(own: Option, default: Any, value: Any) -> Any:
    """A value that is given in Python, as the command line would have read it.

    Args:
        own, default: of the option.
    Raises:
        argparse.ArgumentTypeError: the command line would not take it; says why.
    """
    if isinstance(default, bool):
        if isinstance(value, str) or value not in (True, False):
            raise argparse.ArgumentTypeError(f"{value!r} must be True or False")
        return bool(value)
    if isinstance(default, tuple):
        parts = value.split() if isinstance(value, str) else value
        parts = () if parts is None or parts is False else parts
        return tuple(map(str, parts if isinstance(parts, Iterable) else [parts]))
    if isinstance(default, dict) or (value is None and default is None):
        return value
    if own.parse is not None:
        return own.parse(str(value))
    if not own.has_flag or own.choices:
        return value
    if not isinstance(value, (str, os.PathLike)):
        raise argparse.ArgumentTypeError(f"{value!r} must be text")
    return os.fspath(value)


def option(default: Any, help: str, parse: Callable[[str], Any] | None = None, **keywords: Any) -> Any:
    """A dataclass field: its default, its help, its type on the command line, and other fields of :class:`Option`."""
    metadata = {"option": Option(help, parse, **keywords)}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


class Switch(argparse.Action):
    """``--name`` is True and ``--no_name`` False."""

    def __init__(self, option_strings: Sequence[str], dest: str, **keywords: Any) -> None:
        negated = [f"--no_{flag.removeprefix('--')}" for flag in option_strings]
        super().__init__([*option_strings, *negated], dest, nargs=0, **keywords)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, not str(option_string).startswith("--no_"))


def add_option(group: Any, name: str, own: Option, *, is_switch: bool, note: str) -> None:
    """Add an option to an argparse group; it appears in the parser's result only when it is given.

    Args:
        name: its flat name.
        is_switch: whether it is given as ``--name`` or ``--no_name``.
        note: what takes effect without it, for the help.
    """
    help_text = f"{own.help} ({note})" if note else own.help
    keywords: dict[str, Any] = {"help": help_text.replace("%", "%%"), "default": argparse.SUPPRESS}
    if is_switch:
        group.add_argument(f"--{name}", action=Switch, **keywords)
        return
    choices = tuple(own.choices)
    given = {"type": own.parse, "metavar": own.metavar, "choices": choices, "nargs": own.nargs}
    keywords |= {key: value for key, value in given.items() if value}
    if own.nargs == "?":
        keywords["const"] = choices[0]
    group.add_argument(f"--{name}", **keywords)


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
