"""From a run's checkpoint and image files to score maps on disk."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.prediction.pictures import predict_pictures
    from evaluation.prediction.predictor import Predictor, find_checkpoint, load_network, memory_format
    from evaluation.prediction.segmenter import Prediction, Segmenter
    from evaluation.prediction.settings import MapSettings, Picture

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

_MODULES = {
    "pictures": ("predict_pictures",),
    "predictor": ("Predictor", "find_checkpoint", "load_network", "memory_format"),
    "segmenter": ("Prediction", "Segmenter"),
    "settings": ("MapSettings", "Picture"),
}


def __getattr__(name: str) -> Any:
    """Import a module when something in it is asked for: validation needs the tiles of this package alone."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
