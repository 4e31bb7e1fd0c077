"""How the options of a run come together: defaults < preset < given options; what contradicts, what may change.

No torch import.
"""

from __future__ import annotations

from typing import Any

from training.options import DEFAULTS, PRESETS, PRESETS_BY_NETWORK, RECIPES, TrainingOptions
from utils.cli import UserError, one_of

# What other options are about: without them these would do nothing.
ABOUT = {
    "label_noise": ("label_noise_refresh", "noise_seed", "unlabelled"),
    "igtt": ("igtt_init", "igtt_warmup", "igtt_ems", "igtt_criterion", "foreground"),
}

LAST_WITH_REMOVED = "a715d67"
# What runs of before could be told and no longer can, with the value that is left.
REMOVED = {
    "igtt_refresh": "epoch",
    "igtt_final_share": None,
    "igtt_tta": False,
    "igtt_patience": 0,
    "use_evaluation": False,
    "noise_device": "cpu",
}

# What may differ when a run is resumed; anything else would make it another run.
CHANGEABLE_ON_RESUME = ("epochs", "stop_after", "device", "workers", "cache")


def resolve_options(given: dict[str, Any], has_accelerator: bool) -> TrainingOptions:
    """Combine defaults, preset and given options.

    Args:
        given: option name → value, from ``parse_given`` or a caller.
        has_accelerator: whether preset ``auto`` means ``paper`` (True) or ``quick`` (False).
    Raises:
        UserError: options that contradict each other.
    """
    preset = given.get("preset", DEFAULTS["preset"])
    if preset == "auto":
        preset = "paper" if has_accelerator else "quick"
    network = given.get("network", DEFAULTS["network"])
    given = {**label_free_recipe(given), **given}
    values = {**PRESETS[preset], **PRESETS_BY_NETWORK.get((preset, network), {}), **given, "preset": preset}
    values |= run_length(values, given)
    if "pretrained" in given and "width" not in given:
        values["width"] = None  # pretrained weights have the width they were trained with
    if given.get("channels"):
        values.setdefault("in_channels", len(given["channels"]))
    options = TrainingOptions.from_flat(values)
    _check_use(options, given)
    if options.loss.spec is None:
        options = options.replace(loss="bce" if options.data.num_classes == 1 else "ce")
    if options.noise.noise_seed is None:
        options = options.replace(noise_seed=options.run.seed)
    _check(options)
    return options


def run_length(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Steps and epochs of a run: a preset's steps count unless ``--epochs`` or ``--repeat`` say how long it is.

    Args:
        values: what presets and given options come to.
    Raises:
        UserError: given options that contradict each other.
    """
    epochs, repeats = "epochs" in given, given.get("repeat", "auto") != "auto"
    if given.get("steps") is None:
        is_counted = epochs or repeats or values.get("steps") is None
        return {"steps": None, "repeat": given["repeat"] if repeats else 1} if is_counted else {"repeat": "auto"}
    if repeats:
        raise UserError(
            f"--steps {given['steps']} and --repeat {given['repeat']} both say how long an epoch is: give one"
        )
    if not epochs:
        return {"epochs": min(values["epochs"], given["steps"]), "repeat": "auto"}  # no epoch without a step
    if given["steps"] < given["epochs"]:
        raise UserError(f"--steps {given['steps']} is less than a step in each of --epochs {given['epochs']}")
    return {"repeat": "auto"}


def label_free_recipe(given: dict[str, Any]) -> dict[str, Any]:
    """The options of ``--igtt_recipe``, which implies ``--igtt``; of ``best`` where only ``--igtt`` is given."""
    recipe = given.get("igtt_recipe")
    if recipe is None and not given.get("igtt"):
        return {}
    recipe = recipe or "best"
    return {**RECIPES[one_of(recipe, tuple(RECIPES), "--igtt_recipe")], "igtt": True, "igtt_recipe": recipe}


def _check_use(options: TrainingOptions, given: dict[str, Any]) -> None:
    """Refuse given options that are about another one which is off."""
    for needed, names in ABOUT.items():
        for name in names if not options.flat()[needed] else ():
            if given.get(name, DEFAULTS[name]) != DEFAULTS[name]:
                raise UserError(f"{as_typed(name, given[name])} does nothing without --{needed}: give both or neither")


def _check(options: TrainingOptions) -> None:
    channels = options.data.channels
    if channels and len(channels) != options.data.in_channels:
        raise UserError(
            f"--in_channels {options.data.in_channels} does not fit --channels {','.join(channels)}, which are "
            f"{len(channels)}: leave one of the two out"
        )
    if options.data.num_classes > 254:
        raise UserError(f"--num_classes {options.data.num_classes} is more than 254, which 8-bit labels cannot hold")
    if options.data.num_classes > 1 and options.loss.pred_invert == "on":
        raise UserError("--pred_invert on is for binary labels; several classes are corrected by their matrix")
    if options.label_free.igtt and (
        options.data.num_classes > 1 or options.noise.label_noise or options.data.fold or options.loss.class_weights
    ):
        raise UserError(
            "--igtt is for two classes and reads no labels: leave out --num_classes, --label_noise, --fold "
            "and --class_weights (--igtt_ems takes a noise spec)"
        )
    if options.augmentation.crop < 16:
        raise UserError(f"--crop {options.augmentation.crop} is below 16 pixels, the networks' least size")
    if options.optimization.momentum >= 1:
        raise UserError(f"--momentum {options.optimization.momentum} must be below 1")
    if options.optimization.warmup_epochs and options.optimization.warmup_epochs >= options.optimization.epochs:
        raise UserError(
            f"--warmup_epochs {options.optimization.warmup_epochs} must be below --epochs {options.optimization.epochs}"
        )
    if options.optimization.accumulate > options.optimization.batch_size:
        accumulate, batch_size = options.optimization.accumulate, options.optimization.batch_size
        raise UserError(f"--accumulate {accumulate} is more than --batch_size {batch_size}")
    if options.run.stop_after is not None and options.run.stop_after > options.optimization.epochs:
        raise UserError(
            f"--stop_after {options.run.stop_after} lies after the last of --epochs {options.optimization.epochs}"
        )


def as_typed(name: str, value: Any) -> str:
    """An option as it stands on a command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([f"--{name}", *map(str, values)])


def resume_options(given: dict[str, Any], config: dict[str, Any]) -> TrainingOptions:
    """The options of a resumed run: those of its config, with the changeable ones that were given.

    Raises:
        UserError: an option was given that differs from the run's and may not change, or the run has one that no longer
            exists.
    """
    for name, left in REMOVED.items():
        if config.get(name, left) != left:
            raise UserError(
                f"the run was started with {as_typed(name, config[name])}, which no longer exists: start a new run, or "
                f"resume it at commit {LAST_WITH_REMOVED}"
            )
    known = {
        name: tuple(config[name]) if isinstance(config[name], list) else config[name]
        for name in DEFAULTS
        if name in config
    }
    known["stop_after"] = None
    asked = config.get("asked", {})  # what was typed may read otherwise than what it came to
    for name, value in given.items():
        is_same = value in (known.get(name, DEFAULTS[name]), asked.get(name, known.get(name)))
        is_same = is_same or (name, value) == ("preset", "auto")
        if name not in (*CHANGEABLE_ON_RESUME, "resume") and not is_same:
            had = known.get(name)
            before = f"the run, which had no --{name}" if had is None else f"the run's {as_typed(name, had)}"
            raise UserError(
                f"{as_typed(name, value)} differs from {before}: on --resume only "
                + ", ".join(f"--{changeable}" for changeable in CHANGEABLE_ON_RESUME)
                + " may change; start a new run for anything else"
            )
    changed = {name: given[name] for name in CHANGEABLE_ON_RESUME if name in given}
    if known.get("steps") and "epochs" in given:  # epochs stay as long as they are
        changed["steps"] = max(1, round(known["steps"] * given["epochs"] / known["epochs"]))
    options = TrainingOptions.from_flat({**known, **changed, "resume": given.get("resume")})
    _check(options)
    return options
