# ruff: noqa: F401
"""How good a segmentation is: counts, the metrics that follow from them, and their intervals.

``confusion`` counts and derives, ``surface`` measures boundaries and thin structures, ``bootstrap`` says how sure
a mean is, ``images`` holds score maps on disk against labels.
"""

from evaluation.scores.bootstrap import bootstrap_mean
from evaluation.scores.confusion import (
    BINS,
    COUNT_METRICS,
    DEFAULT_THRESHOLD,
    Counts,
    accuracy,
    auc,
    average_precision,
    best_threshold,
    calibration_error,
    class_counts,
    class_f1,
    class_iou,
    confusion_counts,
    confusion_matrix,
    counts_at,
    counts_at_all,
    defined_mean,
    f1,
    foreground_iou,
    invert_histogram,
    iou,
    mean_iou,
    precision,
    ratio,
    score_histogram,
    sensitivity,
    specificity,
    youden_threshold,
)
