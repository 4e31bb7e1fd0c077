"""Speed of every network: one epoch of the paper's recipe, at its published size on a GPU."""

from __future__ import annotations

from benchmarks.speed.record import Figure, Settings
from benchmarks.speed.training import in_fresh_process, train_fast, training_options


def measure_networks(settings: Settings) -> list[Figure]:
    """Images a second of an epoch after a first one, and peak memory.

    Widths are those published where the device is a GPU, else that of the settings.
    """
    from models import NETWORKS

    width = None if settings.device == "cuda" else settings.width
    given = training_options(settings, width=width, epochs=2)
    figures = []
    for name in NETWORKS:
        found = in_fresh_process(train_fast, {**given, "network": name})
        what = f"{name}, {settings.crop}², batch {settings.batch_size}"
        facts = {"width": width or "as published", "precision": found["precision"], "peak MiB": found["peak"]}
        figures.append(Figure(what, "images/s", found["speeds"][0], more=facts))
    return figures
