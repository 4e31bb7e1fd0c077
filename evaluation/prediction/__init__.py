"""From a run's checkpoint and image files to score maps on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.prediction.predictor import (
        MapSettings,
        Picture,
        Predictor,
        find_checkpoint,
        load_network,
        memory_format,
        predict_pictures,
    )

__all__ = [
    "MapSettings",
    "Picture",
    "Predictor",
    "find_checkpoint",
    "load_network",
    "memory_format",
    "predict_pictures",
]


def __getattr__(name: str) -> Any:
    """Import the predictor when it is asked for: validation needs the tiles of this package alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from evaluation.prediction import predictor

    return getattr(predictor, name)
