"""Methods without training: thresholds, clustering, filters."""

from __future__ import annotations

from utils.registry import Registry

# name → image (H, W) with bright structures, any scale → scores float32 (H, W) in [0, 1].
BASELINES = Registry(
    {
        "otsu": "evaluation.classical.methods:otsu",
        "local_threshold": "evaluation.classical.methods:local_threshold",
        "local_contrast": "evaluation.classical.methods:local_contrast",
        "kmeans": "evaluation.classical.methods:kmeans",
        "gaussian_mixture": "evaluation.classical.methods:gaussian_mixture",
        "chan_vese": "evaluation.classical.methods:chan_vese",
        "ridge": "evaluation.classical.methods:ridge",
        "random_walker": "evaluation.classical.methods:random_walker",
        "difference_of_gaussians": "evaluation.classical.methods:difference_of_gaussians",
        "vote": "evaluation.classical.methods:vote",
    }
)
