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
    from evaluation.prediction.segmenter import Prediction, Segmenter

__all__ = [
    "Prediction",
    "Segmenter",
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
    if name in ("Prediction", "Segmenter"):
        from evaluation.prediction import segmenter as module
    else:
        from evaluation.prediction import predictor as module

    return getattr(module, name)
