"""The options of a run: what each is (``groups``), and how given ones, a preset and a recipe make all (``resolve``).

Here are the values that one word sets: presets for all runs, recipes for label-free ones. By flat names, as in
``configure``.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "epochs": 100,
        "batch_size": 32,
        "crop": 256,
        "optimizer": "sgd",
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "lr": 0.05,
        "schedule": "step",
        "step_epochs": 20,
        "step_gamma": 0.1,
        "network_options": {"init": "normal"},
        "head_bias": "zero",
        "checkpoint_every": 2,
        "checkpoint_from": 80,
    },
    "quick": {
        "steps": 500,
        "epochs": 20,
        "batch_size": 16,
        "crop": 128,
        "width": 16,
        "optimizer": "adamw",
        "weight_decay": 1e-4,
        "lr": 3e-3,
        "schedule": "one_cycle",
        "ema": 0.99,
        "augment": ("brightness:0.5", "contrast:0.5"),  # other fields of view are brighter or dimmer
        "network_options": {"init": "kaiming"},
        "checkpoint_every": 5,
    },
}

# At the image's full resolution HRNet needs twenty times the U-Net's arithmetic, at a quarter of it as much.
NETWORK_OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("quick", "unet"): {"local_contrast": 16},
    ("quick", "lightunet"): {"local_contrast": 16},
    ("quick", "hrnet"): {"stem_stride": 4},
}

RECIPES: dict[str, dict[str, Any]] = {
    "best": {
        "steps": None,  # measured in epochs, after each of which labels are refreshed
        "augment": (),  # first labels are of images as they are
        "igtt_init": "auto",
        "igtt_ems": "clean",
        "igtt_criterion": "bce",
        "igtt_warmup": 0.5,
        "foreground": "auto",
        "loss": "bce",
        "ema": 0.99,
        "normalization": "local",  # of the whole image, so the network need not do it
        "network_options": {"local_contrast": 0},
    },
    "published": {
        "steps": None,
        "augment": (),
        "ema": 0.0,
        "network_options": {"local_contrast": 0},
        "igtt_init": "black",
        "igtt_ems": "skeleton+shift:1+sample:0.1",  # tested equal to label_noise.EMS_SPEC
        "igtt_criterion": "dmi",
        "igtt_warmup": 0.0,
        "foreground": "minority",
        "loss": "dmi+iou",
    },
}
