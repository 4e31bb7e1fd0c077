"""Options of before: what they are spelled like now, and how an earlier run's config reads today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.cli import UserError
from utils.option_fields import Option

NETWORK_OPTIONS = ("norm", "init", "backbone", "output_stride", "stem_stride", "activation_checkpointing")
RESPELLED = {
    **{name: f'--network "NAME({name}={{value}})"' for name in NETWORK_OPTIONS},
    "igtt_recipe": "--igtt {value}",
}
LAST_WITH_GONE = "a715d67"
# What is no more, and what it did where it was left out.
GONE: dict[str, tuple[Any, str]] = {
    "igtt_final_share": (None, "it added nothing (docs/LABEL_FREE.md)"),
    "igtt_tta": (False, "it added nothing (docs/LABEL_FREE.md)"),
    "igtt_refresh": ("epoch", "no rule was better than refreshing every epoch (docs/LABEL_FREE.md)"),
    "igtt_patience": (0, "use --stop_after N"),
    "use_evaluation": (False, "label-free runs read no labels; train on those of the validation list instead"),
    "noise_device": ("cpu", "noise is drawn on the CPU, beside the training"),
    "channels_last": (True, "the memory layout follows from the device"),
}


def removal(name: str, value: Any, options: Mapping[str, Option]) -> str | None:
    """What to say to an option that the command line does not, or no longer, have; None for all others.

    Args:
        name: its flat name.
        value: what it was given, for the new spelling.
        options: those there are.
    """
    value = "true" if value in (None, "", True) else value
    if name in RESPELLED:
        return f"--{name} is spelled {RESPELLED[name].format(value=value)} now"
    if name in GONE:
        return f"--{name} is no more: {GONE[name][1]}"
    own = options.get(name)
    if own is not None and own.inside:
        return f'--{name} is spelled --{own.inside} "NAME({name}={value})" now'
    if own is not None and own.python_only:
        return f"--{name} is set from Python alone: fit(configure({{…, '{name}': {value}}}))"
    return None


def typed_removal(argument: str, following: str, options: Mapping[str, Option]) -> str | None:
    """As :func:`removal`, for a flag ``--…`` of the command line and the argument after it."""
    flag, _, value = argument[2:].partition("=")
    name = flag.removeprefix("no_").removeprefix("no-")
    return removal(name, value or ("" if following.startswith("-") else following), options)


def modernized(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config in today's names.

    Raises:
        UserError: the run used what is no more.
    """
    config = {"fusion": "first", **config}  # runs of before read the first label alone
    for name, (unused, _) in GONE.items():
        value = config.pop(name, unused)
        if value != unused and (config.get("igtt") or not name.startswith("igtt_")) and name != "channels_last":
            raise UserError(
                f"the run was started with --{name} {value}, which no longer exists: start a new run, or resume it at "
                f"commit {LAST_WITH_GONE}"
            )
    network_options = {name: config.pop(name, None) for name in (*NETWORK_OPTIONS,)}
    if "network_options" not in config:
        network_options |= {name: config.get(name) for name in ("width", "pretrained")}
        config["network_options"] = {name: value for name, value in network_options.items() if value is not None}
    recipe = config.pop("igtt_recipe", None)
    if isinstance(config.get("igtt"), bool):
        config["igtt"] = (recipe or "best") if config["igtt"] else None
    if config.get("igtt") is None:
        config |= dict.fromkeys(("igtt_init", "igtt_ems", "igtt_criterion", "igtt_warmup", "foreground"))
    return config
