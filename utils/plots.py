"""What all plots have in common: colours, axes, and being written as a whole. No window and no global state."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import atomic_write

BLUE, ORANGE, GREY, INK = "#0b6fa4", "#d1641a", "#9aa7b3", "#1c2733"
COLORS = (BLUE, ORANGE, "#2a8f5c", "#8d4bab", "#b8860b", INK)


def style_axes(axes: Axes, x: str, y: str) -> None:
    """Name the axes; a light grid behind the data in place of a frame."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6eaee", linewidth=0.8)
    axes.set_axisbelow(True)


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def write_figure(path: Path, figure: Figure, dpi: int = 110) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(path) as file:
        file.write(to_png(figure, dpi))
