"""How the options of a run come together: defaults < preset < config < recipe < given ones; what contradicts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from models import NETWORKS, network_options
from training.configuration import NETWORK_OPTIONS, PRESETS, RECIPES
from training.losses.spec import parse_loss
from training.methods import METHODS, method_options
from training.optimizers import OPTIMIZERS, SCHEDULES
from training.options import DEFAULTS, OPTIONS, TrainingOptions
from utils.cli import UserError, channel_names, one_of
from utils.option_fields import checked_value, plain_value, split_call

CHANGEABLE_ON_RESUME = tuple(name for name, own in OPTIONS.items() if own.may_change)
WITH_PARAMS = {"network": NETWORKS, "method": METHODS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
OPTIONS_OF = {"network": "network_options", "method": "method_options"}  # that what is named there takes itself
RECIPE_DECIDES = ("label_repair", "loss", "steps")
LENGTH = ("steps", "epochs", "repeat")
NAMED_DATA = ("dataset", "train_list", "val_list", "clean_list")
ASKED = (*NAMED_DATA, "steps", "threads")  # options that config.json also keeps as they were before they were settled
SETTLED = tuple((name, "auto") for name in ("preset", "label_repair", "repeat", "threads"))  # by the run itself
NOT_WITHOUT_LABELS = ("transition_matrix", "pred_invert", "fusion", "val_labels")
LABEL_FREE = "label_free"  # of the methods, that of --igtt
AVERAGED = ("supervised", LABEL_FREE)  # methods that take a preset's --ema
OWN_FLAGS = ("width", "pretrained")  # options of a network that have flags of their own


def resolve_options(
    given: Mapping[str, Any], has_accelerator: bool, config: Mapping[str, Any] | None = None
) -> TrainingOptions:
    """Combine defaults, preset, the config of a run to repeat, and given options.

    Args:
        given: option name → value, from ``parse_given`` or a caller.
        has_accelerator: whether preset ``auto`` means ``paper`` (True) or ``quick`` (False).
        config: of a run whose options count below the given ones.
    Raises:
        UserError: options that contradict each other.
    """
    given = taken_apart(given)
    repeated = {} if config is None else _to_repeat(config, given)
    preset = {**DEFAULTS, **repeated, **given}["preset"]
    if preset == "auto":
        preset = "paper" if has_accelerator else "quick"
    values = {**PRESETS[preset], **repeated, **_recipe(given), **given, "preset": preset}
    values |= run_length(values, _given_length(given, repeated))
    values |= _decided_later(values, given if _decides_anew(given) else {**repeated, **given})
    if "pretrained" in given and "width" not in given:
        values["width"] = None  # pretrained weights have the width they were trained with
    if given.get("channels") and "in_channels" not in given:
        values["in_channels"] = len(given["channels"])
    values["network_options"] = _network_options(values, given, repeated)
    method = values.get("method", DEFAULTS["method"])
    values["method_options"] = method_options(method, values.get("method_options", {}))
    if method not in AVERAGED:  # as other papers have them
        own = repeated if repeated.get("method") == method else {}
        values["ema"] = {**DEFAULTS, **own, **given}["ema"]
    if "checkpoint_every" in given and "checkpoint_from" not in given:
        values["checkpoint_from"] = DEFAULTS["checkpoint_from"]
    options = TrainingOptions.from_flat(values)
    if options.loss.spec is None:
        options = options.replace(loss="bce" if options.data.num_classes == 1 else "ce")
    if options.noise.noise_seed is None:
        options = options.replace(noise_seed=options.run.seed)
    _check(options)
    _check_use(options, given)
    return options


def taken_apart(given: Mapping[str, Any]) -> dict[str, Any]:
    """Given options with ``name(key=value,…)`` of network, optimizer and schedule as options of their own.

    Raises:
        UserError: an option or a value that does not exist, or an option that is given in both ways.
    """
    values = dict(given)
    for name in values:
        if name not in OPTIONS:
            from training.configuration.removed import removal

            raise UserError(removal(name, values[name], {}) or f"there is no option {name!r}")
    if "channels" in values:
        values["channels"] = channel_names(values["channels"])
    if isinstance(values.get("igtt"), bool):
        values["igtt"] = next(iter(RECIPES)) if values["igtt"] else None
    for name, registry in WITH_PARAMS.items():
        if name in values:
            values[name], params = split_call(values[name], f"--{name}")
            one_of(values[name], tuple(registry), f"--{name}")
            values |= _read_params(name, params, values)
    return {name: _checked(name, value) for name, value in values.items()}


def _checked(name: str, value: Any) -> Any:
    own = OPTIONS[name]
    shown = f"--{name}" if own.has_flag else name
    if own.choices and value is not None:
        one_of(str(value), [str(choice) for choice in own.choices], shown)
    try:
        return checked_value(own, DEFAULTS[name], value)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{shown}: {error}") from None


def _read_params(name: str, params: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the parameters of ``--name NAME(…)`` set."""
    inner = OWN_FLAGS if name == "network" else tuple(key for key, own in OPTIONS.items() if own.inside == name)
    values: dict[str, Any] = {}
    for key in params:
        if key in inner:
            values[key] = _parsed(f"--{name}: {key}", key, params[key])
            if given.get(key, values[key]) != values[key]:
                raise UserError(f"--{name}: {key}={params[key]} contradicts {as_typed(key, given[key])}")
        elif name not in OPTIONS_OF:
            raise UserError(f"--{name} has no parameter {key!r}; its parameters are: {', '.join(inner)}")
    if name in OPTIONS_OF:
        own = {key: plain_value(value) for key, value in params.items() if key not in inner}
        values[OPTIONS_OF[name]] = {**given.get(OPTIONS_OF[name], {}), **own}
    return values


def _parsed(what: str, name: str, text: str) -> Any:
    parse = OPTIONS[name].parse
    try:
        return parse(text) if parse else text
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{what}: {error}") from None


def _network_options(values: Mapping[str, Any], given: Mapping[str, Any], repeated: Mapping[str, Any]) -> dict:
    """All options that the network gets: the preset's where it has them, or a repeated run's, given ones, flags."""
    network, preset = values.get("network", DEFAULTS["network"]), values["preset"]
    known = network_options(network)
    base = PRESETS[preset]["network_options"] | NETWORK_OPTIONS.get((preset, network), {})
    base = repeated.get("network_options", base) | _recipe(given).get("network_options", {})
    base = {name: value for name, value in base.items() if name in known}
    flags = {name: values[name] for name in OWN_FLAGS if values.get(name) is not None}
    flags = {name: value for name, value in flags.items() if name in given or name in known}
    return {**base, **given.get("network_options", {}), **flags}


def _to_repeat(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that another one takes over, but for what is about its network where that is another."""
    if not isinstance(config, Mapping) or not {"preset", "network"} <= set(config):
        raise UserError("--config is not the config.json of a run: it names no preset and no network")
    known = as_of_today(config)
    values = {name: known[name] for name, own in OPTIONS.items() if own.is_copied and name in known}
    if given.get("preset", values["preset"]) != values["preset"]:
        raise UserError(f"{as_typed('preset', given['preset'])} does nothing with --config, which sets every option")
    values |= {name: value for name, value in config.get("asked", {}).items() if name in NAMED_DATA}
    if values.get("noise_seed") == values.get("seed"):  # which another --seed replaces, too
        values.pop("noise_seed", None)
    values["network_options"] = {
        name: value for name, value in values["network_options"].items() if name not in OWN_FLAGS
    }
    if given.get("network", values["network"]) != values["network"]:
        del values["network_options"]
        values.pop("pretrained", None)
    if given.get("method", values.get("method")) != values.get("method"):
        values.pop("method_options", None)
        if values.get("method", DEFAULTS["method"]) not in AVERAGED:
            values.pop("ema", None)
    if given.get("igtt", values.get("igtt")) != values.get("igtt"):
        of_recipe = RECIPES.get(str(values.get("igtt")), {})
        values = {name: value for name, value in values.items() if name not in of_recipe or value != of_recipe[name]}
    if _decides_anew(given):
        if values.get("clean_list") is None:  # by which alone a run is plain without being asked to
            values.pop("recipe", None)
        decided = {each["name"] for each in config.get("decisions", ())} & set(RECIPE_DECIDES)
        asked = {"steps": config.get("asked", {}).get("steps")} if "steps" in decided else {}
        values = {name: value for name, value in values.items() if name not in decided} | asked
    return with_tuples(values)


def _decides_anew(given: Mapping[str, Any]) -> bool:
    """Whether what a recipe decides is no longer that of a run to repeat."""
    return "clean_list" in given or "recipe" in given


def as_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config in today's names, see `training.configuration.removed`."""
    from training.configuration.removed import modernized

    return modernized(config)


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values from JSON, which knows no tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _given_length(given: Mapping[str, Any], repeated: Mapping[str, Any]) -> dict[str, Any]:
    """What says how long a run is: given options, and of a run to repeat those that do not contradict them."""
    length = {name: repeated[name] for name in LENGTH if repeated.get(name) is not None}
    if "steps" in given:
        length = {}
    elif "epochs" in given or "repeat" in given:
        length.pop("steps", None)
    return length | {name: given[name] for name in LENGTH if name in given}


def run_length(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
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


def _decided_later(values: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """What ``--recipe`` comes to, and which options it is to decide by the clean labels.

    Args:
        fixed: options that are given, or a repeated run's that it does not decide anew.
    """
    makes_labels = values.get("label_noise") is not None or values.get("igtt") is not None
    recipe = values.get("recipe") or ("auto" if values.get("clean_list") and not makes_labels else "plain")
    if recipe == "auto" and makes_labels:
        name = "igtt" if values.get("igtt") is not None else "label_noise"
        raise UserError(f"--recipe auto decides by the labels of a list, and --{name} makes others: leave one out")
    if recipe == "plain":
        return {"recipe": recipe, "left_to_recipe": ()}
    left = tuple(name for name in RECIPE_DECIDES if name not in fixed)
    if any(name in fixed for name in LENGTH):
        left = tuple(name for name in left if name != "steps")
    return {"recipe": recipe, "left_to_recipe": left}


def _recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that ``--igtt RECIPE`` sets."""
    return {} if given.get("igtt") is None else RECIPES[given["igtt"]]


def _check_use(options: TrainingOptions, given: Mapping[str, Any]) -> None:
    """Refuse given options that would do nothing beside the others."""
    values = options.flat()
    for name in given:
        needed, _, wanted = (OPTIONS[name].needs or "").partition("=")
        is_used = not needed or (str(values[needed]) == wanted if wanted else values[needed])
        if not is_used and given[name] != DEFAULTS[name]:
            needed = as_typed(needed, wanted) if wanted else f"--{needed}"
            raise UserError(f"{as_typed(name, given[name])} does nothing without {needed}: give both or neither")
    told = {name: as_typed(name, given[name]) for name in given if given[name] != DEFAULTS[name]}
    useless = [name for name in NOT_WITHOUT_LABELS if name in told and options.label_free.igtt]
    if useless:
        raise UserError(f"{told[useless[0]]} does nothing with --igtt, which reads no labels: leave one of the two out")
    if options.label_free.igtt and given.get("method") == "supervised":
        raise UserError("--method supervised learns from labels, and --igtt reads none: leave one of the two out")
    if "init_from" in told and "pretrained" in told:
        raise UserError(
            "--init_from and --pretrained both say what weights a run starts with: leave one of the two out"
        )
    if options.data.num_classes > 1 and options.loss.pred_invert != "auto":
        raise UserError(
            f"--pred_invert {options.loss.pred_invert} is for binary labels; several classes are corrected by their "
            "transition matrix"
        )
    if "class_weights" in told and all(each.term.weighting == "images" for each in parse_loss(options.loss.spec)):
        raise UserError(
            f"{told['class_weights']} does nothing with --loss {options.loss.spec}, which takes none: "
            "leave it out, or add a loss of pixels, such as bce"
        )
    if options.noise.unlabelled == "ignore" and "unlabelled" in told and options.noise.label_noise is not None:
        from datasets.label_noise import parse_spec

        if all(step.name != "sample" for step in parse_spec(options.noise.label_noise, options.data.num_classes)):
            raise UserError(
                f"--unlabelled ignore says what sampling drops becomes, and --label_noise {options.noise.label_noise} "
                "has no step sample:p: leave it out"
            )


def _check(options: TrainingOptions) -> None:
    data, steps, free = options.data, options.optimization, options.label_free.igtt
    if data.channels and len(data.channels) != data.in_channels:
        raise UserError(
            f"--in_channels {data.in_channels} does not fit --channels {','.join(data.channels)}, which are "
            f"{len(data.channels)}: leave one of the two out"
        )
    if data.folds is not None:
        raise UserError("--folds trains several runs: main.py does so, and training.run.cross_fit.cross_fit in Python")
    if data.num_classes > 254:
        raise UserError(f"--num_classes {data.num_classes} is more than 254, which 8-bit labels cannot hold")
    if free and (data.num_classes > 1 or options.noise.label_noise or data.fold or options.loss.class_weights):
        raise UserError(
            "--igtt is for two classes and reads no labels: leave out --num_classes, --label_noise, --fold "
            "and --class_weights"
        )
    method = options.loss.method
    if (method == LABEL_FREE and not free) or (free and method not in ("supervised", LABEL_FREE)):
        raise UserError(f"--method {method}: training without labels is --igtt, and takes no other method")
    if free and (data.clean_list or options.noise.label_repair):
        raise UserError("--igtt reads no labels: leave out --clean_list and --label_repair")
    if options.noise.label_repair == "auto" and data.clean_list is None:
        raise UserError("--label_repair auto is chosen by clean labels of some training images: give --clean_list LIST")
    if options.augmentation.crop < 16:
        raise UserError(f"--crop {options.augmentation.crop} is below 16 pixels, the networks' least size")
    if steps.momentum >= 1:
        raise UserError(f"{as_typed('momentum', steps.momentum)}: momentum must be below 1")
    if steps.warmup_epochs and steps.warmup_epochs >= steps.epochs:
        typed = as_typed("warmup_epochs", steps.warmup_epochs)
        raise UserError(f"{typed}: the warm-up must be shorter than --epochs {steps.epochs}")
    if steps.accumulate > steps.batch_size:
        raise UserError(f"--accumulate {steps.accumulate} is more than --batch_size {steps.batch_size}")
    if options.run.stop_after is not None and options.run.stop_after > steps.epochs:
        raise UserError(f"--stop_after {options.run.stop_after} lies after the last of --epochs {steps.epochs}")


def as_typed(name: str, value: Any) -> str:
    """An option as it stands on a command line, or in ``configure({...})`` where it has no flag."""
    own = OPTIONS[name]
    if name in OPTIONS_OF.values():
        of = next(key for key, options in OPTIONS_OF.items() if options == name)
        return f'--{of} "NAME({",".join(f"{key}={each}" for key, each in value.items())})"'
    if own.inside:
        return f'--{own.inside} "NAME({name}={value})"'
    if own.python_only:
        return f"{name}={value!r}"
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    values = value if isinstance(value, tuple) else (value,)
    return f"--{name} {(' ' if own.nargs else ',').join(map(str, values))}"


def resume_options(given: Mapping[str, Any], config: Mapping[str, Any]) -> TrainingOptions:
    """The options of a resumed run: those of its config, with the changeable ones that were given.

    Raises:
        UserError: an option was given that differs from the run's and may not change.
    """
    given = taken_apart(given)
    changeable = (*CHANGEABLE_ON_RESUME, *(["lr"] if config.get("diverged") else []))  # what a lower rate may mend
    known = with_tuples({name: value for name, value in as_of_today(config).items() if name in OPTIONS})
    known["stop_after"] = None
    asked = config.get("asked", {})  # what was typed may read otherwise than what it came to
    for name, value in given.items():
        had = known.get(name, DEFAULTS[name])
        is_same = value in (had, asked.get(name, had)) or (name, value) in SETTLED
        if name in OPTIONS_OF.values():
            is_same = {**had, **value} == had
        if name not in (*changeable, "resume") and not is_same:
            before = f"the run's {as_typed(name, had)}"
            if had is None:
                before = f"the run, which had no {f'--{name}' if OPTIONS[name].has_flag else name}"
            raise UserError(
                f"{as_typed(name, value)} differs from {before}: on --resume only "
                + ", ".join(f"--{free}" for free in changeable)
                + " may change; start a new run for anything else"
            )
    changed = {name: given[name] for name in changeable if name in given}
    if known.get("steps") and "epochs" in given:  # epochs stay as long as they are
        changed["steps"] = max(1, round(known["steps"] * given["epochs"] / known["epochs"]))
    options = TrainingOptions.from_flat({**known, **changed, "resume": given.get("resume")})
    _check(options)
    return options


def check_values(config: Mapping[str, Any], path: str) -> None:
    """Refuse a config whose options have values that a command line would not take.

    Raises:
        UserError: naming file, option and value.
    """
    for name, value in as_of_today(config).items():
        own, default = OPTIONS.get(name), DEFAULTS.get(name)
        if value is None and default is not None:
            raise UserError(f"{path}: {name} is null; put back a copy, or start the run anew")
        if own is None or value is None or value == default or isinstance(default, dict):
            continue
        values = value if isinstance(value, list) else [value]
        try:
            kinds = [isinstance(value, bool), isinstance(value, list), isinstance(value, dict)]
            if kinds != [isinstance(default, bool), isinstance(default, tuple), False]:
                raise argparse.ArgumentTypeError(f"{value!r} is of another type")
            for each in values:
                if own.parse is None and own.has_flag and not isinstance(default, bool) and not isinstance(each, str):
                    raise argparse.ArgumentTypeError(f"{each!r} is no text")
                parsed = own.parse(str(each)) if own.parse is not None and not isinstance(default, tuple) else each
                if own.choices and str(each) not in map(str, own.choices):
                    raise argparse.ArgumentTypeError(f"{each!r} is none of {', '.join(map(str, own.choices))}")
                if isinstance(parsed, (int, float)) != isinstance(each, (int, float)):
                    raise argparse.ArgumentTypeError(f"{each!r} is of another type")
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{path}: {name}: {error}; put back a copy, or start the run anew") from None
