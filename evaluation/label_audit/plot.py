"""The picture of an audit: verdict, Q by distance to the boundary, examples with outlines, densities, differences."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from datasets.labels import IGNORE
from evaluation.label_audit.by_distance import BANDWIDTH, local_density
from evaluation.label_audit.verdict import Audit
from evaluation.label_audit.with_reference import ReferenceAudit
from utils.overlays import FOUND, IGNORED, INVENTED, MISSED, show_classes, show_errors, show_image
from utils.plots import BLUE, GREY, INK, ORANGE

EXAMPLES = 3
CLOSED = 24.0  # pixels at which the open ends of the distance axis are drawn
LABEL_LINE, REFERENCE_LINE = "#f0e442", "#56b4e9"  # yellow and sky blue of Okabe and Ito
WORDS = 100  # characters of a line of the title


def draw_audit(
    audit: Audit,
    labels: Sequence[np.ndarray],
    images: Sequence[np.ndarray] | None,
    truths: Sequence[np.ndarray] | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """Draw an audit, its verdict and reason first.

    Args:
        labels, images, truths: a few examples, (H, W) each, in the same order; the first EXAMPLES are shown.
        names: of their files.
    """
    rows = min(len(labels), EXAMPLES)
    columns = 2 + (images is not None) + 2 * (truths is not None)
    top = 1 if isinstance(audit, ReferenceAudit) else 0
    width = 2.5 * max(columns, 4)
    figure = Figure(figsize=(width, 2.9 * top + 2.6 * rows + 1.6), layout="constrained")
    head, body = figure.subfigures(2, 1, height_ratios=[0.9, 2.9 * top + 2.6 * rows])
    _write_verdict(head, audit)
    grid = body.add_gridspec(top + rows, columns, height_ratios=[1.1] * top + [1] * rows)
    if isinstance(audit, ReferenceAudit):
        middle = (columns + 1) // 2
        _draw_profile(body.add_subplot(grid[0, :middle]), body.add_subplot(grid[0, middle:]), audit)
    for row in range(rows):
        truth = None if truths is None else truths[row]
        image = None if images is None else images[row]
        panels = _example(audit, labels[row], image, truth)
        for column, (title, draw) in enumerate(panels):
            axes = body.add_subplot(grid[top + row, column])
            draw(axes)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(title, fontsize=9, color=INK)
            if column == 0 and names:
                axes.set_ylabel(_shortened(names[row]), fontsize=7, color=INK)
    _draw_legend(body, audit, images is not None, truths is not None)
    return figure


def _write_verdict(figure: SubFigure, audit: Audit) -> None:
    figure.text(0.01, 0.92, f"Verdict: {audit.verdict}", fontsize=14, weight="bold", color=INK, va="top")
    reason = textwrap.shorten(audit.reason(), 2 * WORDS, placeholder=" …")
    numbers = audit.line().partition("(")[2].rstrip(")")
    text = "\n".join([f"{audit.images} labels; {numbers}", *textwrap.wrap(reason, WORDS)])
    figure.text(0.01, 0.58, text, fontsize=9, color=INK, va="top")


def _shortened(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _draw_shares(axes: Axes, profile: dict, centers: np.ndarray, color: str) -> None:
    share = np.asarray(profile["share"], float)
    if profile["low"] is not None:
        axes.fill_between(centers, profile["low"], profile["high"], color=color, alpha=0.25, label="95 % interval")
    axes.plot(centers, share, "o-", color=color, markersize=3, linewidth=1.2, label="labels")
    axes.set_ylim(-0.03, 1.03)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_profile(by_distance: Axes, by_depth: Axes, audit: ReferenceAudit) -> None:
    """The two profiles; a flat line on either side of the boundary is noise that a network averages out."""
    binary = audit.num_classes == 1
    profile = audit.profile["by_distance"]
    edges = [np.clip(np.asarray(profile[key], float), -CLOSED, CLOSED) for key in ("from", "to")]
    _draw_shares(by_distance, profile, np.mean(edges, 0), BLUE)
    if binary:
        by_distance.axvline(0, color=GREY, linestyle=":", linewidth=1, label="true boundary")
        for row, side in zip(audit.transitions.matrix.rows, (-1, 1), strict=True):
            name = "mean over pixels (Q)" if side > 0 else None
            by_distance.plot([0, side * CLOSED], [row[1]] * 2, "--", color=ORANGE, linewidth=1.4, label=name)
    by_distance.legend(frameon=False, fontsize=7)
    by_distance.set_xlabel(
        f"{'outside ← ' if binary else ''}distance to the true boundary, pixels{' → inside' * binary}"
    )
    by_distance.set_ylabel("share labelled foreground" if binary else "share labelled right")
    depth = audit.profile["by_depth"]
    _draw_shares(by_depth, depth, np.mean([depth["from"], depth["to"]], 0), BLUE)
    by_depth.set_xlabel("relative depth in the foreground (1 = centre line)")


def _example(
    audit: Audit, label: np.ndarray, image: np.ndarray | None, truth: np.ndarray | None
) -> list[tuple[str, Callable[[Axes], object]]]:
    """The panels of an example: title, and what draws it."""
    background = np.zeros((*label.shape, 3), np.uint8) if image is None else show_image(image)

    def outlines(axes: Axes) -> None:
        axes.imshow(background, interpolation="nearest")
        for drawn, color in ((truth, REFERENCE_LINE), (label, LABEL_LINE)):
            if drawn is not None and 0 < np.count_nonzero(drawn) < drawn.size:
                inside = ((drawn != 0) & (drawn != IGNORE)).astype(float)
                axes.contour(inside, levels=[0.5], colors=[color], linewidths=0.8)

    def flat(values: np.ndarray) -> Callable[[Axes], object]:
        return lambda axes: axes.imshow(values, interpolation="nearest")

    def density(values: np.ndarray) -> Callable[[Axes], object]:
        return lambda axes: axes.imshow(_foreground_density(values), cmap="magma", vmin=0, vmax=1)

    panels = [] if image is None else [("image and outlines", outlines)]
    panels.append(("label", flat(show_classes(label, audit.num_classes))))
    panels.append((f"density of the label, ±{BANDWIDTH} px", density(label)))
    if truth is not None:
        panels.append((f"density of the {audit.reference}", density(truth)))
        panels.append(("where they differ", flat(show_errors(background, label, truth))))
    return panels


def _draw_legend(figure: SubFigure, audit: Audit, with_images: bool, with_truth: bool) -> None:
    entries = []
    if with_images:
        entries.append(Line2D([], [], color=LABEL_LINE, linewidth=3, label="outline of the label"))
        if with_truth:
            entries.append(Line2D([], [], color=REFERENCE_LINE, linewidth=3, label=f"of the {audit.reference}"))
    if with_truth:
        for color, name in (
            (FOUND, "both"),
            (MISSED, "the label lacks it"),
            (INVENTED, "the label has too much, or another class"),
            (IGNORED, "not counted"),
        ):
            entries.append(Patch(facecolor=np.divide(color, 255), edgecolor=GREY, label=name))
    shown = ScalarMappable(Normalize(0, 1), "magma")
    for level in (0.0, 0.5, 1.0):
        entries.append(Patch(facecolor=shown.to_rgba(level), edgecolor=GREY, label=f"density {level:g}"))
    figure.legend(handles=entries, loc="outside lower center", ncols=5, frameon=False, fontsize=8)


def _foreground_density(label: np.ndarray) -> np.ndarray:
    """Density of all classes but 0, (H, W)."""
    return local_density(np.where(label == IGNORE, IGNORE, label > 0).astype(np.uint8))
