"""Label noise: one grammar for every label type, applied reproducibly.

``SPEC := step('+'step)*`` and ``step := name[:value[,value]]``, applied from left to right to the whole label;
`STEPS` lists the steps. Blanks around names, values and ``+`` mean nothing. After ``ntm:`` all up to ``.json`` is the
path.

Every step draws from a random stream of its own, a function of (seed, step text, image id) and, where labels are drawn
afresh, the epoch: never of the order of images, of workers or of other steps. The step text is the step as written,
without blanks: ``flip:0.3`` and ``flip:0.30`` mean the same and draw differently. Where a spec has the same step again,
the second draws from the stream of ``<text>#2``, and so on: ``sample:0.5+sample:0.5`` halves twice.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from datasets import noise_steps
from datasets.labels import label_classes
from datasets.transition_matrix import TransitionMatrix, flip_matrix, random_matrix, read_matrix, sample_matrix
from utils.cli import UserError, one_of
from utils.run_folder import REPO_ROOT, display_path

EMS_SPEC = "skeleton+shift:1+sample:0.1"  # extraction of meta-structure, the label-free training's last step
UNLABELLED = ("background", "ignore")
MAX_PIXELS = 32767
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
PERCENT = re.compile(r"(\d+\.?\d*)%?", re.ASCII)
MATRIX_PATH = re.compile(r"ntm\s*:(.*?\.json)\s*(?:\+|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One parsed step: its name, its checked values, and the text that names its random stream."""

    name: str
    values: tuple[Any, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a value of a step must be: a number within limits."""

    letter: str
    meaning: str
    highest: float
    lowest: float = 0
    whole: bool = False
    odd: bool = False

    def check(self, value: float) -> bool:
        """Whether the number is allowed."""
        fits = self.lowest <= value <= self.highest and (not self.whole or value == int(value))
        return fits and (not self.odd or value % 2 == 1)


@dataclass(frozen=True, slots=True)
class NoiseStep:
    """A step of the grammar.

    Attributes:
        apply: the function of `noise_steps`, called with label and values.
        quantities: what its values are.
        optional: how many of them, from the end, may be left out.
        needs: which of ``rng``, ``num_classes``, ``unlabelled`` it takes besides.
        matrix: values and number of classes K → transition matrix (K, K); None where the step depends on space.
        example: how it is written.
    """

    apply: Callable[..., np.ndarray]
    quantities: tuple[Parameter, ...] = ()
    optional: int = 0
    needs: tuple[str, ...] = ()
    matrix: Callable[..., np.ndarray] | None = None
    example: str = ""

    def form(self, name: str) -> str:
        """How the step is written, with letters for its values."""
        letters = [quantity.letter for quantity in self.quantities]
        least = len(letters) - self.optional
        text = f"{name}:{','.join(letters[:least])}" if letters else name
        return text + "".join(f"[,{letter}]" for letter in letters[least:])


def _share(letter: str, meaning: str) -> Parameter:
    return Parameter(letter, f"{meaning}, from 0 to 1", 1)


_SIDE = Parameter("k", f"the side of a square kernel, an odd number from 1 to {MAX_PIXELS}", MAX_PIXELS, 1, True, True)
_WHOLE = f"a whole number of pixels from 0 to {MAX_PIXELS}"
_LENGTH = f"pixels from 0 to {MAX_PIXELS}"

STEPS: dict[str, NoiseStep] = {
    "clean": NoiseStep(noise_steps.clean, matrix=lambda classes: np.eye(classes), example="clean"),
    "sample": NoiseStep(
        noise_steps.sample,
        (_share("p", "the share of pixels to keep"),),
        needs=("unlabelled", "rng"),
        matrix=sample_matrix,
        example="sample:0.1",
    ),
    "flip": NoiseStep(
        noise_steps.flip,
        (_share("f", "the share of the foreground"), _share("b", "the share of the background")),
        optional=1,
        needs=("num_classes", "rng"),
        matrix=flip_matrix,
        example="flip:0.45,0.2",
    ),
    "random": NoiseStep(
        noise_steps.random_label,
        (_share("r", "the probability of foreground"),),
        needs=("num_classes", "rng"),
        matrix=random_matrix,
        example="random:0.3",
    ),
    "dilate": NoiseStep(noise_steps.dilate, (_SIDE,), example="dilate:5"),
    "erode": NoiseStep(noise_steps.erode, (_SIDE,), example="erode:5"),
    "skeleton": NoiseStep(noise_steps.skeleton, example="skeleton"),
    "shift": NoiseStep(
        noise_steps.shift,
        (Parameter("r", f"the farthest move, {_WHOLE}", MAX_PIXELS, whole=True),),
        needs=("rng",),
        example="shift:1",
    ),
    "wobble": NoiseStep(
        noise_steps.wobble,
        (
            Parameter("A", f"the amplitude, {_LENGTH}", MAX_PIXELS),
            Parameter("L", f"the correlation length, pixels from 0.1 to {MAX_PIXELS}", MAX_PIXELS, 0.1),
        ),
        needs=("rng",),
        example="wobble:2,10",
    ),
    "missing": NoiseStep(
        noise_steps.missing, (_share("p", "the share of objects to drop"),), needs=("rng",), example="missing:0.2"
    ),
    "merge": NoiseStep(
        noise_steps.merge, (Parameter("d", f"the widest gap, {_WHOLE}", MAX_PIXELS, whole=True),), example="merge:3"
    ),
    "polygon": NoiseStep(
        noise_steps.polygon, (Parameter("t", f"the tolerance, {_LENGTH}", MAX_PIXELS),), example="polygon:2"
    ),
    "offset": NoiseStep(
        noise_steps.offset,
        (Parameter("r", f"the widening, pixels from -{MAX_PIXELS} to {MAX_PIXELS}", MAX_PIXELS, -MAX_PIXELS),),
        example="offset:-1.5",
    ),
    "move": NoiseStep(
        noise_steps.move,
        tuple(
            Parameter(letter, f"the move {way}, a whole number of pixels", MAX_PIXELS, -MAX_PIXELS, whole=True)
            for letter, way in (("dy", "down"), ("dx", "right"))
        ),
        needs=("num_classes",),
        example="move:3,-2",
    ),
    "ntm": NoiseStep(
        noise_steps.apply_matrix, needs=("rng",), matrix=lambda rows, classes: np.array(rows), example="ntm:matrix.json"
    ),
}


def parse_spec(text: str, num_classes: int = 1) -> tuple[Step, ...]:
    """Parse and check a label noise spec; the file of an ``ntm`` step is read.

    >>> [step.name for step in parse_spec("skeleton + shift:1 + sample:0.1")]
    ['skeleton', 'shift', 'sample']

    Args:
        text: e.g. ``skeleton+shift:1+sample:0.1``.
        num_classes: 1 (binary) or K.
    Raises:
        UserError: what is wrong with which step, what is allowed, and how to write it.
    """
    return tuple(_parse_step(step, num_classes) for step in _split(text))


def parse_repair(text: str, num_classes: int = 1) -> tuple[Step, ...]:
    """Parse a spec that corrects labels, such as ``offset:-1.5`` or ``move:0,2``; it draws nothing at random.

    Raises:
        UserError: as `parse_spec`; also a step that makes noise.
    """
    steps = parse_spec(text, num_classes)
    for step in steps:
        if "rng" in STEPS[step.name].needs:
            known = ", ".join(rule.form(name) for name, rule in STEPS.items() if "rng" not in rule.needs)
            raise UserError(f"--label_repair {text}: {step.text} draws at random; a repair is made of: {known}")
    return steps


def spec_folder_name(text: str) -> str:
    """The spec as part of a file name: ``:`` is ``-``, ``*`` is ``x``, ``ntm:FILE`` is ``ntm-<stem>-<8 hex>``.

    The eight hexadecimal digits begin the SHA-256 of the matrix file's content.
    """
    parts = []
    for step in _split(text):
        if step.startswith("ntm:"):
            path = _matrix_path(step)
            step = f"ntm-{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
        parts.append(step)
    return "+".join(parts).replace(":", "-").replace("*", "x")


def make_noisy_label(
    label: np.ndarray,
    spec: str | tuple[Step, ...],
    seed: int,
    image_id: str,
    num_classes: int = 1,
    epoch: int | None = None,
    unlabelled: str = "background",
) -> np.ndarray:
    """Put label noise on a clean label.

    >>> label = np.ones((10, 10), np.uint8)
    >>> int(make_noisy_label(label, "sample:0.3", seed=0, image_id="7.tif").sum())  # an exact share
    30

    Args:
        label: uint8 (H, W), class indices with IGNORE.
        spec: the noise, as text or parsed for the same ``num_classes``.
        seed: ≥ 0.
        image_id: names the image, see ``lists.Sample``.
        epoch: for labels drawn afresh each epoch; None for labels made once.
        unlabelled: what ``sample`` does not keep becomes ``background``, or is ``ignore``-d.
    Returns: a new label; IGNORE stays IGNORE.
    """
    *_, noisy = noisy_stages(label, spec, seed, image_id, num_classes, epoch, unlabelled)
    return noisy


def noisy_stages(
    label: np.ndarray,
    spec: str | tuple[Step, ...],
    seed: int,
    image_id: str,
    num_classes: int = 1,
    epoch: int | None = None,
    unlabelled: str = "background",
) -> Iterator[np.ndarray]:
    """The label after each step of the spec, see `make_noisy_label`."""
    steps = parse_spec(spec, num_classes) if isinstance(spec, str) else spec
    one_of(unlabelled, UNLABELLED, "--unlabelled")
    if label.dtype != np.uint8 or label.ndim != 2:
        raise ValueError(f"a label is uint8 (H, W), got {label.dtype} {label.shape}")
    label = np.ascontiguousarray(label)
    texts = [step.text for step in steps]
    for number, step in enumerate(steps):
        rule = STEPS[step.name]
        inputs: dict[str, Any] = {"num_classes": num_classes, "unlabelled": unlabelled}
        if "rng" in rule.needs:
            occurrence = texts[: number + 1].count(step.text)
            inputs["rng"] = step_generator(seed, step.text, image_id, epoch, occurrence)
        label = rule.apply(label, *step.values, **{need: inputs[need] for need in rule.needs})
        yield label


def step_generator(
    seed: int, step_text: str, image_id: str, epoch: int | None = None, occurrence: int = 1
) -> np.random.Generator:
    """The random stream of a step on an image; ``occurrence`` counts equal steps within a spec from 1."""
    text = step_text if occurrence == 1 else f"{step_text}#{occurrence}"
    entropy = [seed, *(int.from_bytes(hashlib.sha256(part.encode()).digest(), "big") for part in (text, image_id))]
    return np.random.default_rng(np.random.SeedSequence(entropy if epoch is None else [*entropy, epoch]))


def spec_transition_matrix(
    spec: str | tuple[Step, ...], num_classes: int = 1, unlabelled: str = "background"
) -> TransitionMatrix | None:
    """The transition matrix that a spec has in theory: the product of its steps' matrices, in order.

    Args:
        unlabelled: with ``ignore``, sampling is the identity among the pixels that count.
    Returns: None if any step depends on space (morphology, shifts, objects).
    """
    steps = parse_spec(spec, num_classes) if isinstance(spec, str) else spec
    classes = label_classes(num_classes)
    product = np.eye(classes)
    for step in steps:
        if STEPS[step.name].matrix is None:
            return None
        if step.name != "sample" or unlabelled == "background":
            product = product @ STEPS[step.name].matrix(*step.values, classes=classes)
    return TransitionMatrix(product)


# Parsing


def _split(text: str) -> list[str]:
    """The texts of a spec's steps, without blanks."""
    rest, steps = text.strip(), []
    while True:
        if re.match(r"ntm\s*:", rest):
            match = MATRIX_PATH.match(rest)
            if match is None:
                _fail(rest, "its path does not end in .json", "ntm:matrix.json")
            steps.append(f"ntm:{match[1].strip()}")
            ends = match.end() == len(rest) and not match[0].endswith("+")
            rest = rest[match.end() :].strip()
        else:
            head, plus, rest = rest.partition("+")
            steps.append("".join(head.split()))
            ends, rest = not plus, rest.strip()
        if not steps[-1]:
            raise UserError(f"label noise {text!r} has an empty step; join steps by one '+', as in {EMS_SPEC}")
        if ends:
            return steps


def _parse_step(text: str, num_classes: int) -> Step:
    name, colon, rest = text.partition(":")
    if name not in STEPS:
        _fail_unknown(text)
    if name == "ntm" and not colon:
        _fail(text, "it takes the file of a transition matrix", STEPS[name].example)
    if name == "ntm":
        matrix = read_matrix(_matrix_path(text), num_classes)
        return Step(name, (tuple(map(tuple, matrix.tolist())),), text)
    rule = STEPS[name]
    written = rest.split(",") if colon else []
    if name == "flip" and num_classes > 1 and len(written) > 1:
        _fail(text, f"with {num_classes} classes it takes one value, the share of every class", f"flip:{written[0]}")
    most = len(rule.quantities)
    if not most - rule.optional <= len(written) <= most:
        number = "no value" if most == 0 else "one value" if most == 1 else "two values"
        number = "one or two values" if rule.optional else number
        _fail(text, f"it takes {number} ({rule.form(name)}), not {len(written)}", rule.example)
    values = tuple(map(_parse_value, written, rule.quantities, [text] * most, [rule.example] * most))
    return Step(name, values, text)


def _parse_value(written: str, quantity: Parameter, step: str, example: str) -> float | int:
    value = float(written) if NUMBER.fullmatch(written) else math.nan
    if quantity.check(value):
        return int(value) if quantity.whole else value
    if quantity.highest == 1 and PERCENT.fullmatch(written):
        example = re.sub(PERCENT, _percent_as_share, step)
    elif quantity.odd and 1 < value < MAX_PIXELS:
        name, below = step.partition(":")[0], int(value) - (int(value) % 2 == 0)
        example = f"{name}:{below} or {name}:{below + 2}"
    _fail(step, f"{quantity.letter} is {quantity.meaning}, not {written!r}", example)


def _percent_as_share(match: re.Match[str]) -> str:
    number = float(match[1])
    return f"{min(number, 100) / 100:g}" if number > 1 or match[0].endswith("%") else match[1]


def _fail(step: str, fault: str, suggestion: str) -> NoReturn:
    raise UserError(f"label noise step {step!r}: {fault}; write, for example, {suggestion}")


def _fail_unknown(text: str) -> NoReturn:
    match = re.match(r"([A-Za-z_]*)[^\w.]*([\d.,]*)", text)
    near = difflib.get_close_matches(match[1].lower(), STEPS, 1, 0.7)
    suggestion = EMS_SPEC if not near else f"{near[0]}:{match[2]}" if match[2] else STEPS[near[0]].example
    forms = ", ".join("ntm:FILE.json" if name == "ntm" else rule.form(name) for name, rule in STEPS.items())
    _fail(text, f"there is no such step; choose from: {forms}", suggestion)


def _matrix_path(step: str) -> Path:
    written = step.removeprefix("ntm:")
    for path in (Path(written), REPO_ROOT / written):
        if path.is_file():
            return path
    _fail(
        step,
        f"the matrix file {display_path(Path(written))} does not exist",
        "ntm:matrix.json, with the path of a transition matrix as the audit writes it",
    )
