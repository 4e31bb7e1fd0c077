"""The picture of an audit: Q by distance to the boundary, density maps of labels and reference, examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datasets.labels import IGNORE
from evaluation.label_audit.by_distance import BANDWIDTH, local_density
from evaluation.label_audit.verdict import Audit
from evaluation.label_audit.with_reference import ReferenceAudit
from utils.overlays import show_image
from utils.plots import BLUE, GREY, INK, ORANGE

EXAMPLES = 3
CLOSED = 24.0  # pixels at which the open ends of the distance axis are drawn


def _draw_shares(axes: Axes, profile: dict, centers: np.ndarray, color: str) -> None:
    share = np.asarray(profile["share"], float)
    if profile["low"] is not None:
        axes.fill_between(centers, profile["low"], profile["high"], color=color, alpha=0.25, linewidth=0)
    axes.plot(centers, share, "o-", color=color, markersize=3, linewidth=1.2)
    axes.set_ylim(-0.03, 1.03)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_profile(by_distance: Axes, by_depth: Axes, audit: ReferenceAudit) -> None:
    """The two profiles; a flat line on either side of the boundary is noise that a network averages out."""
    binary = audit.num_classes == 1
    profile = audit.profile["by_distance"]
    edges = [np.clip(np.asarray(profile[key], float), -CLOSED, CLOSED) for key in ("from", "to")]
    _draw_shares(by_distance, profile, np.mean(edges, 0), BLUE)
    if binary:
        by_distance.axvline(0, color=GREY, linestyle=":", linewidth=1)
        for row, side in zip(audit.transitions.matrix.rows, (-1, 1), strict=True):
            by_distance.plot([0, side * CLOSED], [row[1]] * 2, "--", color=ORANGE, linewidth=1)
    by_distance.set_xlabel(f"{'signed ' if binary else ''}distance to the true boundary, pixels")
    by_distance.set_ylabel("share labelled foreground" if binary else "share labelled right")
    depth = audit.profile["by_depth"]
    _draw_shares(by_depth, depth, np.mean([depth["from"], depth["to"]], 0), BLUE)
    by_depth.set_xlabel("relative depth in the foreground (1 = centre line)")


def _map_panel(axes: Axes, values: np.ndarray, title: str, **options) -> None:
    axes.imshow(values, interpolation="nearest", **options)
    axes.set_title(title, fontsize=8, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])


def _foreground_density(label: np.ndarray) -> np.ndarray:
    """Density of all classes but 0, (H, W)."""
    return local_density(np.where(label == IGNORE, IGNORE, label > 0).astype(np.uint8))


def draw_audit(
    audit: Audit,
    labels: Sequence[np.ndarray],
    images: Sequence[np.ndarray] | None,
    truths: Sequence[np.ndarray] | None = None,
) -> Figure:
    """Draw an audit.

    Args:
        labels, images, truths: a few examples, (H, W) each, in the same order; the first EXAMPLES are shown.
    """
    rows, columns = min(len(labels), EXAMPLES), 5
    top = 1 if isinstance(audit, ReferenceAudit) else 0
    figure = Figure(figsize=(2.3 * columns, 2.8 * top + 2.3 * rows + 0.4), layout="constrained")
    grid = figure.add_gridspec(top + rows, columns, height_ratios=[1.2] * top + [1] * rows)
    figure.suptitle(audit.line(), color=INK)
    if isinstance(audit, ReferenceAudit):
        _draw_profile(figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:]), audit)
    binary = audit.num_classes == 1
    classes = {"cmap": "gray" if binary else "tab20", "vmin": 0, "vmax": 1 if binary else audit.num_classes - 1}
    for row in range(rows):
        panels = [(labels[row], "label", classes)]
        density = {"cmap": "magma", "vmin": 0}
        panels.append((_foreground_density(labels[row]), f"its density, h = {BANDWIDTH}", density))
        if truths is not None:
            panels.append((truths[row], audit.reference, classes))
            panels.append((_foreground_density(truths[row]), "its density", density))
        if images is not None:
            panels.insert(0, (show_image(images[row]), "image", {}))
        for column, (values, title, options) in enumerate(panels):
            shown = np.where(values == IGNORE, np.nan, values) if options is classes else values
            _map_panel(figure.add_subplot(grid[top + row, column]), shown, title if row == 0 else "", **options)
    return figure
