"""Counts and figures: known answers, scikit-learn's numbers, additivity, exact thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from evaluation import scores as s
from tests.evaluation.conftest import reference_figures


def disk(size: int, center: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return ((y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2).astype(np.uint8)


def draw(rng: np.random.Generator, count: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping scores of both classes, float32, and their labels."""
    labels = (rng.random(count) < 0.3).astype(np.uint8)
    return np.clip(rng.normal(0.35 + 0.3 * labels, 0.2), 0, 1).astype(np.float32), labels


# histograms


def test_bins_agree_with_comparisons_at_every_edge():
    values = np.array([0, 1 / s.BINS, np.nextafter(np.float32(0.5), 0), 0.5, 65535 / s.BINS, 1], np.float32)
    histogram = s.score_histogram(values, np.ones(6, np.uint8))
    assert histogram[1].nonzero()[0].tolist() == [0, 1, 32767, 32768, 65535]
    assert histogram[1, 65535] == 2 and histogram[0].sum() == 0
    for k in (1, 32768, 65535):
        assert histogram[1, k:].sum() == (values >= k / s.BINS).sum()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_torch_and_numpy_histograms_are_equal(rng, dtype):
    values, labels = draw(rng)
    labels[::7] = 255
    tensor = torch.from_numpy(values).to(dtype)
    theirs = s.score_histogram(tensor, torch.from_numpy(labels))
    ours = s.score_histogram(tensor.double().numpy(), labels)
    assert theirs.dtype == torch.int64 and (theirs.numpy() == ours).all()
    assert ours.sum() == (labels != 255).sum()


def test_histograms_add_up_and_ignore_counts_nowhere(rng):
    values, labels = draw(rng)
    parts = [s.score_histogram(v, y) for v, y in zip(np.split(values, 5), np.split(labels, 5), strict=True)]
    assert (sum(parts) == s.score_histogram(values, labels)).all()
    ignored = np.where(np.arange(len(labels)) % 2, labels, 255)
    assert (s.score_histogram(values, ignored) == s.score_histogram(values[1::2], labels[1::2])).all()


def test_inverted_histogram_is_that_of_the_complement(rng):
    values = (rng.integers(0, s.BINS, 1000) + 0.5) / s.BINS  # centers of bins
    labels = rng.integers(0, 2, 1000)
    histogram = s.score_histogram(values, labels)
    assert (s.invert_histogram(histogram) == s.score_histogram(1 - values, labels)).all()
    assert s.auc(s.invert_histogram(histogram)) == pytest.approx(1 - s.auc(histogram), abs=1e-12)
    assert (s.invert_histogram(torch.from_numpy(histogram)).numpy() == s.invert_histogram(histogram)).all()


def test_nan_is_below_every_threshold():
    values, labels = np.array([np.nan, 0.5, np.nan], np.float32), np.array([1, 1, 0], np.uint8)
    for histogram in (s.score_histogram(values, labels), s.score_histogram(*map(torch.from_numpy, (values, labels)))):
        assert histogram[:, 0].tolist() == [1, 1] and histogram[1, s.BINS // 2] == 1 and histogram.sum() == 3


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        s.score_histogram(np.zeros((2, 3)), np.zeros((3, 2), np.uint8))


# figures


def test_two_disks_have_the_iou_of_their_pixels():
    one, two = disk(64, (32, 32), 10), disk(64, (32, 38), 10)
    counts = s.confusion_counts(one, two)
    union, common = (one | two).sum(), (one & two).sum()
    assert (counts.tp, counts.fp + counts.fn, counts.tn) == (common, union - common, 64 * 64 - union)
    assert s.iou(counts) == common / union
    assert s.f1(counts) == pytest.approx(2 * s.iou(counts) / (1 + s.iou(counts)))


def test_a_square_inside_a_square_by_hand():
    label, mask = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    label[2:8, 2:8], mask[2:8, 2:5] = 1, 1  # half of a 6 × 6 square
    counts = s.confusion_counts(mask, label)
    figures = {name: figure(counts) for name, figure in s.COUNT_METRICS.items()}
    assert figures == {"iou": 0.5, "f1": 2 / 3, "accuracy": 0.82, "precision": 1, "sensitivity": 0.5, "specificity": 1}


@pytest.mark.parametrize(
    ("mask", "label", "overlap", "undefined"),
    [
        (0, 0, 1.0, {"precision", "sensitivity"}),
        (1, 0, 0.0, {"sensitivity"}),
        (0, 1, 0.0, {"precision", "specificity"}),
    ],
)
def test_empty_masks(mask, label, overlap, undefined):
    counts = s.confusion_counts(np.full((4, 4), mask), np.full((4, 4), label))
    assert s.iou(counts) == s.f1(counts) == overlap
    assert {name for name, figure in s.COUNT_METRICS.items() if np.isnan(figure(counts))} == undefined


def test_figures_without_a_class_are_undefined():
    only_background = s.score_histogram(np.linspace(0, 1, 10), np.zeros(10, np.uint8))
    assert np.isnan([s.auc(only_background), s.average_precision(only_background)]).all()
    assert s.youden_threshold(only_background)[0] == 0.5 and np.isnan(s.youden_threshold(only_background)[1])
    nothing = np.zeros((2, s.BINS), np.int64)
    assert s.best_threshold(nothing) == (0.5, 1.0) and np.isnan(s.calibration_error(nothing))


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.734375])
def test_counts_equal_scikit_learn(rng, threshold):
    values, labels = draw(rng)
    mask = values >= threshold
    counts = s.counts_at(s.score_histogram(values, labels), threshold)
    assert counts == s.confusion_counts(mask, labels)
    tn, fp, fn, tp = sklearn.confusion_matrix(labels, mask).ravel()
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (tp, fp, fn, tn)
    theirs = reference_figures(labels, mask)
    for name, figure in s.COUNT_METRICS.items():
        assert figure(counts) == pytest.approx(theirs[name], abs=1e-14), name


@pytest.mark.parametrize("levels", [4, 256, s.BINS])
def test_curves_equal_scikit_learn_exactly_on_quantized_scores(rng, levels):
    values, labels = draw(rng)
    values = np.floor(values * (levels - 1)) / levels
    histogram = s.score_histogram(values, labels)
    assert s.auc(histogram) == pytest.approx(sklearn.roc_auc_score(labels, values), abs=1e-12)
    assert s.average_precision(histogram) == pytest.approx(sklearn.average_precision_score(labels, values), abs=1e-12)


def test_curves_equal_scikit_learn_on_raw_scores(rng):
    values, labels = draw(rng, 50_000)
    histogram = s.score_histogram(values, labels)
    assert s.auc(histogram) == pytest.approx(sklearn.roc_auc_score(labels, values), abs=1e-4)
    assert s.average_precision(histogram) == pytest.approx(sklearn.average_precision_score(labels, values), abs=1e-4)


def test_calibration_error_of_honest_and_of_shifted_scores(rng):
    truth = rng.random(200_000)
    labels = (rng.random(truth.shape) < truth).astype(np.uint8)
    assert s.calibration_error(s.score_histogram(truth, labels)) < 0.01
    assert s.calibration_error(s.score_histogram(np.full(10, 0.9), np.repeat([0, 1], 5))) == pytest.approx(
        0.4, abs=1e-5
    )


# thresholds


def test_best_threshold_is_no_worse_than_any_score(rng):
    values, labels = draw(rng, 2000)
    values = np.floor(values * s.BINS).clip(max=s.BINS - 1) / s.BINS
    threshold, best = s.best_threshold(s.score_histogram(values, labels))
    assert best == s.iou(s.confusion_counts(values >= threshold, labels))
    assert best == max(s.iou(s.confusion_counts(values >= value, labels)) for value in values)


def test_of_tied_thresholds_the_middle_is_taken():
    histogram = s.score_histogram(np.array([0.25, 0.25, 0.75]), np.array([0, 0, 1]))
    for threshold, figure in (s.best_threshold(histogram), s.youden_threshold(histogram)):
        assert threshold == pytest.approx(0.5, abs=2 / s.BINS) and figure == 1


def test_youden_is_kept_by_flips_and_best_f1_is_not(rng):
    truth = (rng.random(400_000) < 0.3).astype(np.uint8)
    values = np.clip(rng.normal(0.3 + 0.3 * truth, 0.12), 0, 1)
    noisy = np.where(rng.random(truth.shape) < 0.3, 1 - truth, truth)
    clean_histogram, noisy_histogram = s.score_histogram(values, truth), s.score_histogram(values, noisy)
    assert s.youden_threshold(noisy_histogram)[0] == pytest.approx(s.youden_threshold(clean_histogram)[0], abs=0.03)
    assert s.best_threshold(noisy_histogram)[0] < s.best_threshold(clean_histogram)[0] - 0.05


# many classes


def test_confusion_matrix_equals_scikit_learn(rng):
    label, prediction = rng.integers(0, 4, (2, 50, 50)).astype(np.uint8)
    label[:5] = 255
    matrix = s.confusion_matrix(prediction, label, 4)
    valid = label != 255
    assert (matrix == sklearn.confusion_matrix(label[valid], prediction[valid], labels=range(4))).all()
    assert (s.confusion_matrix(torch.from_numpy(prediction), torch.from_numpy(label), 4).numpy() == matrix).all()
    theirs = sklearn.jaccard_score(label[valid], prediction[valid], average=None)
    assert s.class_iou(matrix) == pytest.approx(theirs, abs=1e-14)
    assert s.mean_iou(matrix) == pytest.approx(theirs.mean(), abs=1e-14)
    assert s.class_f1(matrix) == pytest.approx(sklearn.f1_score(label[valid], prediction[valid], average=None))


def test_a_class_absent_everywhere_is_left_out_and_a_missed_one_is_not():
    matrix = np.array([[8, 0, 2, 0], [0, 0, 4, 0], [0, 0, 6, 0], [0, 0, 0, 0]])
    per_class = s.class_iou(matrix)
    assert per_class[:3].tolist() == [0.8, 0.0, 0.5] and np.isnan(per_class[3])
    assert s.mean_iou(matrix) == pytest.approx(1.3 / 3)
    assert np.isnan(s.mean_iou(np.zeros((3, 3), np.int64)))
