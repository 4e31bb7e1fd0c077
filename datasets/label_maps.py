"""``--label_map``: what the values or colours of labels mean, said by the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.labels import IGNORE, label_classes
from utils.errors import UserError
from utils.paths import display_path

WHITE = 0xFFFFFF
LISTED_VALUES = 10
FORM = '"VALUE:CLASS,…", a value a number or a colour #rrggbb, a class a number or ignore: "1:0,2:1,-1:ignore"'
ENTRY = re.compile(r"\s*(?:(#[0-9a-fA-F]{6})|([+-]?\d+(?:\.\d+)?))\s*:\s*(\d+|ignore)\s*")


def color_name(color: int) -> str:
    """``#rrggbb`` of a colour 0xRRGGBB.

    >>> color_name(0xff0000)
    '#ff0000'
    """
    return f"#{color:06x}"


def listed(values: Sequence[float] | np.ndarray, is_color: bool = False) -> str:
    """Values for people, the first few and the number of the rest."""
    names = [color_name(int(value)) if is_color else f"{value:g}" for value in values[:LISTED_VALUES]]
    return ", ".join(names) + (f" and {len(values) - LISTED_VALUES} more" if len(values) > LISTED_VALUES else "")


def background_first(values: Sequence[int], is_color: bool = False, commonest: int | None = None) -> list[int]:
    """Values or colours in ascending order, but the likeliest background in front: 0, of colours also white.

    Args:
        commonest: of colours, the background where there is neither black nor white.

    >>> background_first([-1, 0]), [color_name(color) for color in background_first([0xFF0000, 0xFFFFFF], True)]
    ([0, -1], ['#ffffff', '#ff0000'])
    """
    likely = next((value for value in ((0, WHITE, commonest) if is_color else (0,)) if value in values), None)
    return sorted(values, key=lambda value: (value != likely, value))


@dataclass(frozen=True)
class LabelMap:
    """What values and colours mean.

    Args:
        values: value → class or `IGNORE`.
        colors: 0xRRGGBB → class or `IGNORE`.
        text: how it was given.
    """

    values: dict[float, int]
    colors: dict[int, int]
    text: str

    @staticmethod
    def parse(text: str, num_classes: int = 1) -> LabelMap:
        """Parse ``1:0,2:1,-1:ignore`` or ``#ff0000:1,#000000:0``.

        Raises:
            UserError: another form, a value named twice, or a class that there is not.

        >>> LabelMap.parse("1:0,2:1,-1:ignore").values
        {1.0: 0, 2.0: 1, -1.0: 255}
        """
        values: dict[float, int] = {}
        colors: dict[int, int] = {}
        for entry in text.strip().strip(",").split(","):
            match = ENTRY.fullmatch(entry)
            if match is None:
                raise UserError(f"--label_map {text!r}: {entry.strip()!r} is not understood; expected {FORM}")
            color, value, meaning = match.groups()
            target = IGNORE if meaning == "ignore" else int(meaning)
            if meaning != "ignore" and target >= label_classes(num_classes):
                highest = label_classes(num_classes) - 1
                raise UserError(
                    f"--label_map {text!r}: there is no class {target}, with --num_classes {num_classes} they are "
                    f"0 to {highest}, or ignore"
                )
            known, key = (colors, int(color[1:], 16)) if color else (values, float(value))
            if known.setdefault(key, target) != target:
                raise UserError(f"--label_map {text!r}: {color or value} appears more than once")
        return LabelMap(values, colors, text)

    @property
    def names_foreground(self) -> bool:
        """Whether it says what is foreground; else it names only background and what counts nowhere."""
        return bool(self.colors) or not {*self.values.values()} <= {0, IGNORE}

    def settle(self, values: np.ndarray, ignored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (H, W) of a file without colours, 0 where they are named background, and which of them are ignored."""
        settled = values
        for value, meaning in self.values.items():
            if meaning == IGNORE:
                ignored = ignored | (values == value)
            else:
                settled = np.where(values == value, values.dtype.type(0), settled)
        return settled, ignored

    def classes(
        self, values: np.ndarray, ignored: np.ndarray, path: Path, is_color: bool, num_classes: int
    ) -> np.ndarray:
        """Values (H, W) → uint8 class indices with `IGNORE`; values that are not named stay where they are a class.

        Args:
            values: as stored, or 0xRRGGBB where ``is_color``.
        Raises:
            UserError: a value that is neither named nor a class.
        """
        highest = label_classes(num_classes) - 1
        label = np.full(values.shape, IGNORE, np.uint8)
        unknown = ~ignored
        for value, meaning in (self.colors if is_color else self.grey_values()).items():
            chosen = values == value
            label[chosen] = meaning
            unknown &= ~chosen
        stays = unknown & ((values == 0) if is_color else np.isin(values, range(highest + 1)))
        label[stays] = values[stays]
        unknown &= ~stays
        if unknown.any():
            found = np.unique(values[unknown])
            remedy = f"add what {'it means' if len(found) == 1 else 'they mean'}"
            if len(found) > LISTED_VALUES:
                remedy = "if JPEG or anti-aliasing left them between the others, save the labels as PNG, without either"
            raise UserError(
                f"{display_path(path)} holds {listed(found, is_color)} in {int(unknown.sum())} pixels, "
                f'which --label_map "{self.text}" does not name: {remedy}'
            )
        label[ignored] = IGNORE
        return label

    def grey_values(self) -> dict[float, int]:
        """The meaning of values in a file without colours, in which #rrggbb with equal parts is a grey."""
        greys = {color & 0xFF: meaning for color, meaning in self.colors.items() if color % 0x010101 == 0}
        return {**{float(grey): meaning for grey, meaning in greys.items()}, **self.values}
