"""From a run's checkpoint and image files to score maps on disk."""

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
