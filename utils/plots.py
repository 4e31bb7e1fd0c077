"""What all plots have in common: colours, axes, and being written as a whole. No window and no global state."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import atomic_write

BLUE, ORANGE, GREY, INK = "#0b6fa4", "#d1641a", "#9aa7b3", "#1c2733"
COLORS = (BLUE, ORANGE, "#2a8f5c", "#8d4bab", "#b8860b", INK)
# Lines are told apart by dashes and markers as well as by colour, which not everyone sees and no grey print shows.
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = "osD^vP"


def line_style(number: int) -> dict[str, Any]:
    """Colour, dash and marker of the line ``number`` of a plot."""
    place = number % len(COLORS)
    return {
        "color": COLORS[place],
        "linestyle": DASHES[place],
        "marker": MARKERS[place],
        "markersize": 4,
        "markevery": 0.12,
        "linewidth": 1.6,
    }


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


def to_svg(figure: Figure, name: str) -> str:
    """A figure as an ``<svg>`` element to stand in a page: as wide as its place, text as text, no address in it.

    Args:
        name: no other figure of the page may have it; the same figure and name give the same text.
    """
    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', "", text).replace("xlink:href", "href")
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)


def write_figure(path: Path, figure: Figure, dpi: int = 110) -> None:
    """Write a figure as PNG, atomically."""
    with atomic_write(path) as file:
        file.write(to_png(figure, dpi))
