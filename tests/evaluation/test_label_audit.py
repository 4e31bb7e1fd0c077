"""The audit: verdicts, ceilings, predictions, evidence from images."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.label_noise import make_noisy_label
from datasets.transition_matrix import count_transitions
from evaluation.label_audit import audit_labels
from evaluation.label_audit.by_distance import bin_shares
from evaluation.label_audit.pixel_classifier import features_at
from evaluation.label_audit.predicted_iou import regression_target, single_weight
from evaluation.label_audit.without_reference import ImageAudit, ImageEvidence
from evaluation.scores import mean_iou
from utils.cli import UserError
from utils.files import plain

SIZE, IMAGES = 96, 16


@pytest.mark.parametrize(
    ("spec", "verdict", "ceiling"),
    [
        ("clean", "learnable", 1.0),
        ("sample:0.1", "learnable", 1.0),
        ("flip:0.3", "learnable", 1.0),
        ("missing:0.4", "learnable", 1.0),
        ("flip:0.9", "inverted", 1.0),
        ("dilate:5+flip:0.9", "inverted", None),  # inversion comes before the bias at boundaries
        ("dilate:5", "biased at boundaries", None),
        ("erode:5", "biased at boundaries", None),
        ("skeleton", "biased at boundaries", None),
        ("flip:0.5", "not learnable", "share"),
        ("dilate:5+flip:0.5", "not learnable", "share"),
        ("random:0.3", "not learnable", "share"),
    ],
)
def test_verdict_and_ceiling(blobs, spec, verdict, ceiling, noisy_labels):
    _, masks = blobs
    report = audit_labels(noisy_labels(masks, spec), masks)
    share = np.mean(masks)
    assert report.verdict == verdict
    if ceiling is None:
        assert report.ceiling.value < report.ceiling.distance_free - 0.03
        assert report.ceiling.distance_free == pytest.approx(1)
    else:
        assert report.ceiling.value == pytest.approx(share if ceiling == "share" else ceiling, abs=0.01)
    assert report.ceiling.nothing_differs == (verdict == "not learnable")
    assert report.invert == {"inverted": True, "not learnable": None}.get(verdict, False)
    assert any("all-foreground" in note for note in report.notes()) == (verdict == "not learnable")


def test_ceiling_of_dilated_labels_is_the_overlap_of_dilation_and_truth(blobs, noisy_labels):
    _, masks = blobs
    noisy = noisy_labels(masks, "dilate:5")
    overlap = sum(mask.sum() for mask in masks) / sum(label.sum() for label in noisy)
    assert audit_labels(noisy, masks).ceiling.value == pytest.approx(overlap, abs=0.04)


@pytest.mark.parametrize("spec", ["dilate:5", "erode:5", "skeleton"])
def test_ceiling_of_several_classes_is_the_mean_overlap_of_labels_and_truth(draw, noisy_labels, spec):
    masks = [draw(np.random.default_rng(i), classes=3)[1] for i in range(24)]
    noisy = noisy_labels(masks, spec, 3)
    overlap = mean_iou(sum(count_transitions(*pair, 3) for pair in zip(masks, noisy, strict=True)))
    assert audit_labels(noisy, masks, num_classes=3).ceiling.value == pytest.approx(overlap, abs=0.07)


def test_a_bias_so_strong_that_all_foreground_is_best_is_still_a_bias(noisy_labels):
    y, x = np.mgrid[:SIZE, :SIZE]
    masks = [((y + shift) % 12 < 6).astype(np.uint8) for shift in range(8)]
    report = audit_labels(noisy_labels(masks, "skeleton"), masks)
    assert report.verdict == "biased at boundaries"
    assert report.ceiling.value == pytest.approx(0.5, abs=0.02)
    assert not report.ceiling.nothing_differs


@pytest.mark.parametrize(
    ("classes", "spec", "verdict"),
    [
        (3, "flip:0.9", "inverted"),
        (3, "flip:0.3", "learnable"),
        (3, "random:0.3", "not learnable"),
        (3, "dilate:5", "biased at boundaries"),
        (19, "flip:0.9", "learnable"),
        (5, "flip:0.9", "inverted"),
    ],
)
def test_verdict_of_several_classes(classes, spec, verdict, noisy_labels):
    rng = np.random.default_rng(0)
    masks = [np.kron(rng.integers(0, classes, (4, 4)), np.ones((16, 16), int)).astype(np.uint8) for _ in range(10)]
    report = audit_labels(noisy_labels(masks, spec, classes), masks, num_classes=classes)
    assert report.verdict == verdict
    assert report.threshold is None
    if verdict in ("learnable", "inverted"):
        assert report.ceiling.value == pytest.approx(1, abs=0.02)
    assert report.transitions.merged == ([list(range(classes))] if verdict == "not learnable" else [])


def test_merged_classes_lower_the_ceiling_of_either_reading(draw):
    masks = [draw(np.random.default_rng(i), classes=3)[1] for i in range(8)]
    rng = np.random.default_rng(0)
    noisy = [np.where(mask > 0, rng.integers(1, 3, mask.shape), 0).astype(np.uint8) for mask in masks]
    report = audit_labels(noisy, masks, num_classes=3)
    assert report.transitions.merged == [[1, 2]]
    assert report.transitions.rank == 2
    assert report.ceiling.distance_free < 0.9
    assert report.verdict == "learnable"


def test_prediction_orders_label_sets_as_theory_does(blobs, noisy_labels):
    images, masks = blobs
    specs = ("clean", "flip:0.45", "dilate:9", "random:0.3")
    values = [audit_labels(noisy_labels(masks, spec), masks, images).predicted_iou for spec in specs]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.85
    assert values[-1] == pytest.approx(np.mean(masks))


def test_prediction_follows_inverted_labels(blobs, noisy_labels):
    images, masks = blobs
    found = [audit_labels(noisy_labels(masks, spec), masks, images).predicted_iou for spec in ("flip:0.1", "flip:0.9")]
    assert found[0] == pytest.approx(found[1], abs=0.01)


def test_prediction_depends_on_how_hard_the_images_are(blobs):
    images, masks = blobs
    hard = [(image + np.random.default_rng(i).normal(0, 3000, image.shape)) for i, image in enumerate(images)]
    assert audit_labels(masks, masks, hard).predicted_iou < audit_labels(masks, masks, images).predicted_iou - 0.1


def test_prediction_for_several_classes(draw, noisy_labels):
    rng = np.random.default_rng(1)
    images, masks = zip(*(draw(rng, classes=3) for _ in range(12)), strict=True)
    found = {
        spec: audit_labels(noisy_labels(masks, spec, 3), masks, images, num_classes=3).predicted_iou
        for spec in ("clean", "flip:0.9", "random:0.3")
    }
    assert found["clean"] > 0.8
    assert found["flip:0.9"] == pytest.approx(found["clean"], abs=0.1)  # decoded by Q⁻¹
    assert found["random:0.3"] < 0.4


def test_two_logits_are_audited_as_classes(blobs, noisy_labels):
    images, masks = blobs
    report = audit_labels(noisy_labels(masks, "sample:0.2", 2), masks, images, num_classes=2)
    assert report.verdict == "learnable" and report.invert is None and report.threshold is None
    assert any("decoded by Q⁻¹" in line for line in report.advice())
    shares = np.array([1 - np.mean(masks), np.mean(masks)])
    empty = audit_labels(noisy_labels(masks, "random:0.3", 2), masks, images, num_classes=2)
    assert empty.ceiling.value == pytest.approx(shares[0] / 2, abs=0.01)  # background everywhere: mean of its IoU and 0
    turned = audit_labels(noisy_labels(masks, "flip:0.9", 2), masks, images, num_classes=2)
    assert turned.verdict == "inverted" and turned.invert is None
    assert turned.predicted_iou == pytest.approx(report.predicted_iou, abs=0.05)


def test_threshold_is_the_one_that_noise_implies(blobs, noisy_labels):
    _, masks = blobs
    assert audit_labels(noisy_labels(masks, "sample:0.2"), masks).threshold == pytest.approx(0.1, abs=0.001)
    assert audit_labels(noisy_labels(masks, "random:0.2"), masks).threshold is None


def test_only_some_images_have_clean_labels(blobs, noisy_labels):
    images, masks = blobs
    noisy = noisy_labels(masks, "flip:0.3")
    some = [mask if i % 2 else None for i, mask in enumerate(masks)]
    report = audit_labels(noisy, some, images)
    assert (report.transitions.images, report.images, report.verdict) == (IMAGES // 2, IMAGES, "learnable")
    kept = [i for i in range(IMAGES) if i % 2]
    alone = audit_labels([noisy[i] for i in kept], [masks[i] for i in kept], [images[i] for i in kept])
    np.testing.assert_array_equal(report.transitions.matrix.rows, alone.transitions.matrix.rows)


def test_few_images_are_audited_without_intervals(blobs, noisy_labels):
    images, masks = blobs
    for count in (1, 3):
        report = audit_labels(noisy_labels(masks[:count], "flip:0.2"), masks[:count], images[:count])
        assert report.verdict == "learnable"
        assert report.to_json()["Q_low"] is None
        assert any("Too few" in note for note in report.notes())


@pytest.mark.parametrize("count", [1, 2, 4])
def test_chance_in_few_images_is_no_signal(count, draw):
    rng = np.random.default_rng(count)
    by_noise, by_strangers = [], []
    for seed in range(8):
        masks = [draw(rng)[1][:64, :64] for _ in range(count)]
        noisy = [make_noisy_label(mask, "random:0.3", seed, str(i)) for i, mask in enumerate(masks)]
        strangers = [draw(rng)[1][:64, :64] for _ in range(count)]  # structured labels of other images
        by_noise.append(audit_labels(noisy, masks).verdict)
        by_strangers.append(audit_labels(strangers, masks).verdict)
    assert set(by_noise) <= {"unknown", "not learnable"}
    assert sum(verdict in ("unknown", "not learnable") for verdict in by_strangers) >= 7


@pytest.mark.parametrize("classes", [2, 3])
def test_signal_in_few_images_is_seen(classes, draw, noisy_labels):
    masks = [draw(np.random.default_rng(seed), classes)[1] for seed in range(2)]
    number = 1 if classes == 2 else classes
    for labels, verdict in ((masks, "learnable"), (noisy_labels(masks, "flip:0.9", number), "inverted")):
        assert audit_labels(labels, masks, num_classes=number).verdict == verdict
    report = audit_labels(noisy_labels(masks, "random:0.3", number), masks, num_classes=number)
    assert report.verdict in ("unknown", "not learnable") and report.advice()


def test_unknown_where_the_truth_has_one_class(blobs, noisy_labels):
    _, masks = blobs
    report = audit_labels(noisy_labels(masks, "flip:0.2"), [np.zeros_like(mask) for mask in masks])
    assert report.verdict == "unknown"
    assert report.line() == "verdict: unknown (predicted IoU unknown, IoU ceiling unknown)"


@pytest.mark.parametrize(
    ("spec", "foreground", "verdict"),
    [
        ("clean", None, "unknown"),
        ("flip:0.3", "bright", "learnable"),
        ("flip:0.3", "dark", "inverted"),
        ("flip:0.3", "minority", "learnable"),
        ("flip:0.9", None, "unknown"),
        ("flip:0.9", "bright", "inverted"),
        ("flip:0.9", "minority", "inverted"),
        ("random:0.3", "bright", "not learnable"),
        ("random:0.3", None, "not learnable"),
    ],
)
def test_images_alone(blobs, spec, foreground, verdict, noisy_labels):
    images, masks = blobs
    report = audit_labels(noisy_labels(masks, spec), None, images, foreground=foreground)
    assert report.verdict == verdict
    assert isinstance(report, ImageAudit) and np.isnan(report.predicted_iou)
    assert report.invert == {"inverted": True, "learnable": False}.get(verdict)
    assert report.notes() and report.advice()


@pytest.mark.parametrize("spec", ["flip:0.45", "flip:0.55", "sample:0.02"])
@pytest.mark.parametrize("noise", [150, 1500])
def test_images_alone_never_call_weak_labels_unlearnable(spec, noise, draw, noisy_labels):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        pairs = [draw(rng) for _ in range(6 + 4 * seed)]
        images = [image + rng.normal(0, noise, image.shape) for image, _ in pairs]
        assert audit_labels(noisy_labels([mask for _, mask in pairs], spec), None, images).verdict != "not learnable"


@pytest.mark.parametrize(
    ("bounds", "nothing"),
    [
        ((-0.01, 0.02, -0.002, 0.002), True),
        ((0.003, 0.018, -0.002, 0.002), False),
        ((-0.01, 0.02, 0.001, 0.002), False),
        ((-0.01, 0.02, -0.002, 0.004), False),
        ((-0.06, 0.03, -0.002, 0.002), False),
    ],
)
def test_images_show_nothing_only_where_both_intervals_hold_zero(bounds, nothing):
    low, high, neighbours_low, neighbours_high = bounds
    evidence = ImageEvidence(0.01, low, high, 0.001, neighbours_low, neighbours_high, None)
    assert evidence.has_nothing is nothing


def test_structured_labels_of_other_images_are_not_called_unlearnable(draw):
    """Labels with structure may show in ways that simple features miss, so the audit does not know."""
    rng = np.random.default_rng(5)
    images = [rng.normal(0, 1, (SIZE, SIZE)) for _ in range(12)]
    labels = [draw(rng)[1] for _ in range(12)]
    assert audit_labels(labels, None, images).verdict == "unknown"


def test_too_few_images_alone_say_nothing(blobs):
    images, masks = blobs
    assert audit_labels(masks[:3], None, images[:3], foreground="bright").verdict == "unknown"


def test_the_same_seed_gives_the_same_audit(blobs, noisy_labels):
    images, masks = blobs
    noisy = noisy_labels(masks, "sample:0.3")
    first, second = (plain(audit_labels(noisy, masks, images, seed=4, max_images=9).to_json()) for _ in range(2))
    assert first == second
    whole = audit_labels(noisy, masks, max_images=IMAGES).transitions
    np.testing.assert_array_equal(whole.matrix.rows, first["Q"])  # Q counts every image


def test_a_second_annotator_is_named(blobs, noisy_labels):
    _, masks = blobs
    report = audit_labels(noisy_labels(masks, "wobble:1,6"), masks, reference="second annotator")
    assert report.details()["reference"] == "second annotator"
    assert any("second annotator" in note for note in report.notes())


def test_ignored_pixels_count_nowhere(blobs, noisy_labels):
    _, masks = blobs
    noisy = noisy_labels(masks, "flip:0.3")
    hidden = [np.where(np.arange(SIZE)[:, None] < 40, 255, label).astype(np.uint8) for label in noisy]
    cut, whole = audit_labels(hidden, masks), audit_labels([n[40:] for n in noisy], [m[40:] for m in masks])
    np.testing.assert_array_equal(cut.transitions.counts, whole.transitions.counts)


def test_labels_that_ignore_what_was_not_sampled_have_a_full_ceiling(blobs):
    images, masks = blobs
    noisy = [make_noisy_label(mask, "sample:0.05", 0, str(i), unlabelled="ignore") for i, mask in enumerate(masks)]
    report = audit_labels(noisy, masks, images)
    assert report.transitions.phi == pytest.approx(1)
    assert report.ceiling.value == pytest.approx(1, abs=0.01)
    assert report.predicted_iou > 0.8
    sparse = [make_noisy_label(mask, "sample:0.001", 0, str(i), unlabelled="ignore") for i, mask in enumerate(masks)]
    clean = audit_labels(masks, masks, images).predicted_iou
    assert audit_labels(sparse, masks, images).predicted_iou < clean - 0.02


def test_features_of_every_level_lie_where_the_image_shows_them():
    """A mirrored image has mirrored features; at 129 pixels a side every level has a pixel in the middle."""
    image = np.random.default_rng(0).normal(size=(129, 129)).astype(np.float32)
    rows, columns = np.mgrid[32:97:8, 32:97:8].reshape(2, -1)
    found = features_at(image, rows, columns)
    np.testing.assert_allclose(features_at(image[::-1, ::-1], 128 - rows, 128 - columns), found, atol=1e-4)


def test_prediction_is_for_the_images_that_will_be_trained_on(blobs, noisy_labels):
    images, masks = blobs
    noisy = noisy_labels(masks, "flip:0.45")
    few, same, many = (audit_labels(noisy, masks, images, training_images=count) for count in (4, None, 40 * IMAGES))
    assert few.predicted_iou < same.predicted_iou < many.predicted_iou - 0.05
    assert f"trained on {40 * IMAGES} images" in many.details()["predicted_iou_is"]
    stated = audit_labels(noisy, masks, images, training_images=IMAGES).predicted_iou
    assert same.predicted_iou == pytest.approx(stated, abs=1e-3)
    part = [mask if i < 8 else None for i, mask in enumerate(masks)]
    assert audit_labels(noisy, part, images).training_images == IMAGES


def test_windows_without_labels_teach_nothing():
    noisy, bins = np.full((9, 9), np.nan), np.zeros((9, 9), int)
    noisy[0, 0] = 1
    target, weight = regression_target(noisy, bins, np.array([0.4]))
    np.testing.assert_array_equal(np.argwhere(np.isfinite(target)), [[y, x] for y in range(3) for x in range(3)])
    np.testing.assert_allclose(target[:3, :3], 1, atol=1e-6)
    np.testing.assert_allclose(weight[:2, :2], [[1 / 9, 1 / 12], [1 / 12, 1 / 16]], atol=1e-6)
    assert not weight[3:].any()


def test_a_short_training_averages_errors_less():
    rng = np.random.default_rng(0)
    noisy, bins = (rng.random((64, 64)) < 0.4).astype(float), np.zeros((64, 64), int)
    long, short = (regression_target(noisy, bins, np.array([0.4]), single=weight)[0].std() for weight in (0, 1))
    assert long < 0.3 * short
    np.testing.assert_allclose(regression_target(noisy, bins, np.array([0.4]), single=1)[0], noisy, atol=1e-6)
    assert single_weight(None) == 0 and single_weight(50) == 1 and 0 < single_weight(5000) < 0.5


def test_bins_with_few_labels_lean_on_their_class():
    table = np.zeros((1, 2, 2, 1, 2), int)
    table[0, 1, 0, 0] = [0, 2000]
    table[0, 1, 1, 0] = [1, 0]
    table[0, 0, 0, 0] = [500, 500]
    shares = bin_shares(table)[:, 1]
    np.testing.assert_allclose(shares, [0.5, 0.5, 1, 20 / 21], atol=1e-3)


def test_wrong_use_is_explained(blobs):
    images, masks = blobs
    with pytest.raises(UserError, match="neither|there are none"):
        audit_labels(masks)
    with pytest.raises(UserError, match="bright, dark, minority"):
        audit_labels(masks, None, images, foreground="red")
    with pytest.raises(UserError, match="--num_classes 3 give clean labels"):
        audit_labels(masks, None, images, num_classes=3, foreground="bright")


def test_labels_that_belong_to_other_images_are_warned_of(rng):
    """Shuffled and transposed labels have structure that no image feature predicts; a few images prove nothing."""
    y, x = np.mgrid[:96, :96]
    labels = []
    for _ in range(8):
        disks = [
            (y - cy) ** 2 + (x - cx) ** 2 < radius**2
            for cy, cx, radius in zip(*rng.integers(10, 86, (2, 5)), rng.integers(6, 13, 5), strict=True)
        ]
        labels.append(np.any(disks, axis=0).astype(np.uint8))
    images = [(60 + 80 * label + rng.normal(0, 8, label.shape)).astype(np.uint8) for label in labels]
    assert audit_labels(labels, images=images).warnings() == []
    (warning,) = audit_labels(labels[1:] + labels[:1], images=images).warnings()
    assert "mismatched" in warning
    transposed = audit_labels([label.T.copy() for label in labels], images=images, foreground="bright")
    assert transposed.verdict == "unknown" and "transposed" in transposed.reason()
    assert audit_labels(labels[1:4], images=images[:3]).warnings() == []


def draw_crowds(seed):
    """Masks of squares, from two to twenty an image."""
    rng, masks = np.random.default_rng(seed), []
    for place in range(12):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for y, x in rng.integers(0, SIZE - 8, (2 + 18 * (place % 3) // 2, 2)):
            mask[y : y + 8, x : x + 8] = 1
        masks.append(mask)
    return masks


@pytest.fixture(scope="module")
def crowds():
    return draw_crowds(5)


def test_labels_that_know_only_how_much_there_is_teach_nothing(crowds):
    report = audit_labels(draw_crowds(13), crowds)
    assert report.transitions.phi_low > 0.02  # images with more foreground have more labels
    assert report.verdict == "not learnable" and "Inside images" in report.reason()


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        (lambda label: label.T, "transposed (rows and columns exchanged)"),
        (lambda label: label[::-1], "mirrored top to bottom"),
        (lambda label: np.rot90(label), "turned by 90° to the left"),
    ],
    ids=["transposed", "mirrored", "turned"],
)
def test_labels_that_were_turned_are_told_how(blobs, noisy_labels, turn, what):
    images, masks = blobs
    labels = [np.ascontiguousarray(turn(label)) for label in noisy_labels(masks, "flip:0.1")]
    report = audit_labels(labels, masks, images)
    assert report.verdict == "not learnable" and report.reason().startswith(f"The labels are {what}: taken back, ")
    assert "Undo that, in the files or in their export." in report.reason() and not report.warnings()
    assert report.transitions.turned.after > 0.5 > 0.2 > report.transitions.turned.before
    by_images = audit_labels(labels, None, images)
    assert by_images.reason().startswith(f"The labels seem {what}: taken back") and not by_images.warnings()
    assert not audit_labels(noisy_labels(masks, "flip:0.4"), masks, images).warnings()


def test_inverted_labels_among_others_are_told(crowds):
    mixed = [1 - mask if place < 4 else mask for place, mask in enumerate(crowds)]
    report = audit_labels(mixed, crowds)
    assert report.verdict == "unknown" and report.invert is None
    assert "Labels of 8 images show clean labels, those of 4 their inverse" in report.reason()


def test_labels_that_are_not_like_the_others_are_told(crowds):
    labels = [np.roll(mask, (43, 37), (0, 1)) if place % 6 == 0 else mask for place, mask in enumerate(crowds)]
    report = audit_labels(labels, crowds)
    assert report.warnings()[0].startswith("2 of the 12 labels that were compared have nothing to do with clean labels")
    assert not audit_labels(crowds, crowds).warnings()
    assert report.verdict == "learnable" and report.ceiling.value > 0.95


@pytest.mark.parametrize(("images", "annotated"), [(10, 4), (12, 10)])
def test_images_that_nobody_annotated_leave_the_others_learnable(blobs, images, annotated):
    shown, masks = (part[:images] for part in blobs)
    labels = [mask if place < annotated else np.zeros_like(mask) for place, mask in enumerate(masks)]
    report = audit_labels(labels, masks, shown)
    assert report.verdict == "learnable" and report.ceiling.value > 0.9
    (line,) = report.warnings()
    assert line.startswith(f"{images - annotated} of the {images} labels that were compared mark nothing where clean")
    assert "mark nothing, though their images look like the others" in audit_labels(labels, None, shown).warnings()[0]
    # Right labels of images that show nothing are no fault.
    empty = [
        image if place < annotated else np.random.default_rng(place).permutation(image[mask == 0][: image.size // 2])
        for place, (image, mask) in enumerate(zip(shown, masks, strict=True))
    ]
    empty = [np.resize(image, masks[0].shape) for image in empty]
    assert not audit_labels(labels, None, empty).warnings()


def test_a_learner_of_unlike_images_is_not_held_to_know_nothing(crowds):
    labels = [np.zeros_like(mask) if place % 5 < 2 else mask for place, mask in enumerate(crowds)]
    assert audit_labels(labels, crowds).ceiling.value > 0.95


def test_more_clean_labels_than_there_are_images_are_not_asked_for(blobs, noisy_labels):
    _, masks = blobs
    some = [mask if place < 6 else None for place, mask in enumerate(masks)]
    labels = [np.zeros_like(mask) if place == 3 else mask for place, mask in enumerate(masks)]
    asked = [line for line in audit_labels(labels, some).advice() if "would narrow" in line]
    assert all(f"all {len(masks) - 6} more images" in line for line in asked) and asked
    assert not any("would narrow" in line for line in audit_labels(labels, masks).advice())


@pytest.mark.parametrize(("images", "swapped"), [(5, (0, 3)), (6, (1, 4)), (8, (2, 6))])
def test_two_swapped_labels_among_few_leave_the_ceiling(blobs, images, swapped):
    shown, masks = (part[:images] for part in blobs)
    labels, (first, second) = list(masks), swapped
    labels[first], labels[second] = masks[second], masks[first]
    report = audit_labels(labels, masks, shown)
    assert report.verdict == "learnable"
    assert report.iou_ceiling > 0.95 and report.iou_ceiling >= report.predicted_iou - 0.01
