"""What a training run can be told: all options in their groups, and the parser of the command line.

On the command line, in config.json and in ``configure({...})`` options are flat: ``lr``, not ``optimization.lr``. How
they come together is in ``training/configuration/resolve.py``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from itertools import zip_longest
from typing import Any

from training.configuration import PRESETS, RECIPES
from training.configuration.groups import (
    AugmentationOptions,
    DataOptions,
    LabelFreeOptions,
    LossOptions,
    MachineOptions,
    NetworkOptions,
    NoiseOptions,
    OptimizationOptions,
    RunOptions,
)
from utils.cli import CommandParser
from utils.option_fields import Option, add_option


def _titled(group: type, title: str) -> Any:
    return field(default_factory=group, metadata={"title": title, "group": group})


@dataclass(frozen=True)
class TrainingOptions:
    """Every option of a run, in groups; ``resolve_options`` fills what depends on preset and machine."""

    data: DataOptions = _titled(DataOptions, "data")
    noise: NoiseOptions = _titled(NoiseOptions, "label noise")
    label_free: LabelFreeOptions = _titled(LabelFreeOptions, "training without labels")
    augmentation: AugmentationOptions = _titled(AugmentationOptions, "augmentation")
    network: NetworkOptions = _titled(NetworkOptions, "network")
    loss: LossOptions = _titled(LossOptions, "loss")
    optimization: OptimizationOptions = _titled(OptimizationOptions, "optimization")
    run: RunOptions = _titled(RunOptions, "run")
    machine: MachineOptions = _titled(MachineOptions, "machine")

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> TrainingOptions:
        """Options by their flat names, defaults for all others.

        Raises:
            TypeError: a name that no option has.
        """
        return cls().replace(**values)

    def replace(self, **values: Any) -> TrainingOptions:
        """The same options but for these, by their flat names."""
        changed: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in PLACES:
                raise TypeError(f"there is no option {name!r}")
            group, key = PLACES[name]
            changed.setdefault(group, {})[key] = value
        return replace(self, **{group: replace(getattr(self, group), **own) for group, own in changed.items()})

    def flat(self) -> dict[str, Any]:
        """Flat name → value."""
        return {name: getattr(getattr(self, group), key) for name, (group, key) in PLACES.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values by flat name, for config.json and checkpoints."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.flat().items()}


def _flat_name(own: Field[Any]) -> str:
    return own.metadata["option"].flag or own.name


# Flat name → how the option is given, and the group and field that hold it.
OPTIONS: dict[str, Option] = {}
PLACES: dict[str, tuple[str, str]] = {}
for _group in fields(TrainingOptions):
    for _own in fields(_group.metadata["group"]):
        OPTIONS[_flat_name(_own)], PLACES[_flat_name(_own)] = _own.metadata["option"], (_group.name, _own.name)
DEFAULTS = TrainingOptions().flat()


def default_note(name: str) -> str:
    """What takes effect where an option is not given: by preset, by recipe, or its default."""
    inner = [key for key, own in OPTIONS.items() if own.inside == name]

    def shown(values: Mapping[str, Any]) -> str:
        params = ",".join(f"{key}={values[key]:g}" for key in inner if key in values)
        value = " ".join(values[name]) if isinstance(values[name], tuple) else values[name]
        return ("none" if value in (None, "") else f"{value}") + (f"({params})" if params else "")

    notes = [f"{preset}: {shown(values)}" for preset, values in PRESETS.items() if name in values]
    default = DEFAULTS[name]
    if not notes and default not in (None, ()) and not isinstance(default, bool):
        notes = [f"default: {default}"]
    if default is True:
        notes = ["default: yes"]
    prefix = "" if OPTIONS[name].needs == "igtt" else "--igtt "
    recipes = [f"{prefix}{recipe}: {shown(values)}" for recipe, values in RECIPES.items() if name in values]
    return ", ".join(notes + recipes)


class _TrainingParser(CommandParser):
    """Tells what options of before are spelled like now."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = sys.argv[1:] if args is None else list(args)
        for text, following in zip_longest(arguments, arguments[1:], fillvalue=""):
            if text.startswith("--") and text.partition("=")[0] not in self._option_string_actions:
                from training.configuration.removed import typed_removal

                message = typed_removal(text, following, OPTIONS)
                if message:
                    self.error(message)
        return super().parse_known_args(arguments, namespace)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``main.py``; its result holds given options only."""
    parser = _TrainingParser(
        prog="main.py",
        usage="main.py --dataset NAME [options]",
        description="Train a segmentation network on noisy, sparse or clean labels.",
    )
    for group in fields(TrainingOptions):
        titled = parser.add_argument_group(group.metadata["title"])
        for own in fields(group.metadata["group"]):
            name = _flat_name(own)
            if OPTIONS[name].has_flag:
                is_switch = isinstance(DEFAULTS[name], bool)
                add_option(titled, name, OPTIONS[name], is_switch=is_switch, note=default_note(name))
    return parser


def parse_given(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Parse a command line into the options that were given, by flat name."""
    given = vars(make_parser().parse_args(arguments))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
