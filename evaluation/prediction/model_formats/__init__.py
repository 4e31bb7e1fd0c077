"""Trained networks in formats that other programs read, and the engines that compute scores from them."""

from utils.registry import Registry

# name of --to → what writes it: (folder, model) → facts for the model card
FORMATS = Registry(
    {
        "onnx": "evaluation.prediction.model_formats.graph:write_onnx",
        "openvino": "evaluation.prediction.model_formats.openvino_models:write_openvino",
        "openvino-int8": "evaluation.prediction.model_formats.openvino_models:write_int8",
        "torchscript": "evaluation.prediction.model_formats.graph:write_torchscript",
        "bioimageio": "evaluation.prediction.model_formats.model_zoo:write_package",
        "safetensors": "evaluation.prediction.model_formats.graph:write_safetensors",
    }
)

WITHOUT_GRAPH = ("safetensors",)  # formats of weights alone, whose networks give logits
SCALES_BY_ITSELF = ("bioimageio",)  # formats that also hold the normalization, where it is no more than scaling

# option of export.py → the formats that look at images, and take others by it than the run's own
IMAGES_OF = {
    "train_list": ("openvino-int8",),
    "val_list": ("openvino-int8", "bioimageio"),
    "data_root": ("openvino-int8", "bioimageio"),
}

# name of --engine → what loads it; all but torch compute from an export of the run
ENGINES = Registry(
    {
        "torch": "evaluation.prediction.predictor:Predictor",
        "onnx": "evaluation.prediction.engines:onnx_session",
        "openvino": "evaluation.prediction.engines:openvino_session",
        "openvino-int8": "evaluation.prediction.engines:openvino_session",
    }
)
FP32_ENGINES = ("onnx",)  # those that compute in nothing else
