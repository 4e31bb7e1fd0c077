"""From a run's checkpoint and image files to score maps on disk."""

from typing import TYPE_CHECKING

from utils.registry import on_demand

if TYPE_CHECKING:
    from evaluation.prediction.pictures import predict_pictures
    from evaluation.prediction.predictor import Predictor, find_checkpoint, load_network, memory_format
    from evaluation.prediction.segmenter import Prediction, Segmenter
    from evaluation.prediction.settings import MapSettings, Picture

__all__ = ["Prediction", "Segmenter", "MapSettings", "Picture", "Predictor"]
__all__ += ["find_checkpoint", "load_network", "memory_format", "predict_pictures"]

# Validation needs the tiles of this package alone.
__getattr__ = on_demand(
    __name__,
    pictures="predict_pictures",
    predictor="Predictor find_checkpoint load_network memory_format",
    segmenter="Prediction Segmenter",
    settings="MapSettings Picture",
)
