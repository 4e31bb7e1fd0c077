"""How networks learn from labels that may be wrong: a file for each method; plain training is one of them.

A method is imported when a run asks for it. Its options are the keyword arguments of its class beside ``options`` and
``data``, with their defaults; ``BOUNDS`` says between which values they lie.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from utils.errors import UserError
from utils.registry import Registry

METHODS = Registry(
    {
        "supervised": "training.methods.supervised:Supervised",
        "label_free": "training.label_free:PseudoLabels",
        "coteaching": "training.methods.coteaching:CoTeaching",
        "trinet": "training.methods.trinet:TriNet",
        "adele": "training.methods.adele:Adele",
        "clslsr": "training.methods.clslsr:ConfidentSmoothing",
        "dast": "training.methods.dast:DivergenceAware",
        "spatial": "training.methods.spatial:SpatialCorrection",
    }
)


def method_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method: its defaults, and over them those that are given.

    Raises:
        UserError: the method has no such option, or not with such a value.

    >>> method_options("coteaching", {"forget": 0.3})
    {'forget': 0.3, 'ramp': 0.25}
    """
    if name == "supervised" and not given:  # most runs; others load what they use
        return {}
    method = METHODS[name]
    parameters = inspect.signature(method).parameters
    known = {key: each.default for key, each in parameters.items() if key not in ("options", "data")}
    for key, value in given.items():
        if key not in known:
            listed = ", ".join(f"{each}={default:g}" for each, default in known.items()) or "none"
            raise UserError(f"--method {name} has no option {key!r}; its options are: {listed}")
        least, greatest = method.BOUNDS[key]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not least <= value <= greatest:
            raise UserError(f"--method {name}: {key}={value} must be a number from {least:g} to {greatest:g}")
    return {**known, **{key: type(known[key])(value) for key, value in given.items()}}
