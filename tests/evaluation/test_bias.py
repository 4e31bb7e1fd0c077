"""Systematic errors of labels: each kind is found where it was made, and nothing where there is none."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from datasets.label_noise import make_noisy_label
from evaluation.label_audit import audit_labels
from evaluation.label_audit.bias_search import find_biases
from evaluation.label_audit.by_distance import inward_distance
from evaluation.label_audit.geometry import smoother_outlines
from evaluation.label_audit.moves import Moved, find_move
from evaluation.label_audit.structures import find_dots, find_left_out, find_outlines
from evaluation.label_audit.threshold import blurred_outline, network_blur

SIZE = 96


@pytest.fixture(scope="module")
def cells():
    """Images of cells, half of them dim, and their masks."""
    rng, pairs = np.random.default_rng(7), []
    y, x = np.mgrid[:SIZE, :SIZE]
    for _ in range(12):
        mask, light = np.zeros((SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE))
        for number in range(6):
            cy, cx, radius = *rng.uniform(8, SIZE - 8, 2), rng.uniform(6, 10)
            cell = (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
            mask[cell] = 1
            light[cell] = 900 if number % 2 else 300
        pairs.append((cv2.GaussianBlur(light, (0, 0), 1) + rng.normal(500, 60, mask.shape), mask))
    return [image for image, _ in pairs], [mask for _, mask in pairs]


def kinds(images, masks, labels) -> list[str]:
    return [bias.kind for bias in find_biases(masks, labels, images).found]


@pytest.mark.parametrize("spec", ["clean", "flip:0.3", "sample:0.3", "random:0.3"])
def test_errors_that_know_nothing_are_no_bias(cells, spec, noisy_labels):
    images, masks = cells
    assert kinds(images, masks, noisy_labels(masks, spec)) == []


@pytest.mark.parametrize(("down", "right"), [(3, 3), (-2, 0), (0, 4)])
def test_a_move_is_found_and_undone(cells, noisy_labels, down, right):
    images, masks = cells
    found = find_biases(masks, noisy_labels(masks, f"move:{down},{right}"), images)
    assert (found.moved.down, found.moved.right) == (down, right)
    assert [bias.kind for bias in found.found] == [f"moved by ({down}, {right})"]
    for label, mask in zip(found.labels, masks, strict=True):
        np.testing.assert_array_equal(label[label != 255], mask[label != 255])


def test_maps_of_other_images_are_not_moved(cells):
    _, masks = cells
    maps = [mask.astype(np.float32) for mask in masks]
    assert not find_move(maps, maps[1:] + maps[:1])


@pytest.mark.parametrize(("spec", "offset"), [("offset:2", 2), ("offset:-1.5", -1.5), ("dilate:5", 2), ("erode:5", -2)])
def test_outlines_drawn_wider_or_narrower(cells, noisy_labels, spec, offset):
    images, masks = cells
    for noise in ("", "+flip:0.2"):
        found = find_biases(masks, noisy_labels(masks, spec + noise), images)
        assert found.offset == pytest.approx(offset, abs=0.5)
        assert found.found[0].what == ("wider" if offset > 0 else "narrower")
        assert found.found[0].low <= found.found[0].size <= found.found[0].high


def test_dim_cells_that_were_missed(cells):
    images, masks = cells
    smooth = [cv2.GaussianBlur(image, (0, 0), 2) for image in images]
    labels = [((mask == 1) & (blur > 1000)).astype(np.uint8) for mask, blur in zip(masks, smooth, strict=True)]
    found = find_biases(masks, labels, images)
    (bias,) = [bias for bias in found.found if bias.kind == "by image"]
    assert bias.what == "dim structures missed" and bias.size > 0.9
    assert found.imitation < 0.7
    audit = audit_labels(labels, masks, images)
    assert audit.verdict.startswith("biased") and "by image" in audit.verdict
    assert not any("--transition_matrix" in line for line in audit.advice("Q.json"))


def test_half_of_each_image_left_out(cells):
    images, masks = cells
    labels = [np.where(np.arange(SIZE) < SIZE // 2, mask, 0).astype(np.uint8) for mask in masks]
    assert kinds(images, masks, labels) == ["by place"]
    assert audit_labels(labels, masks, images).verdict == "biased by place"


def test_second_annotators_get_no_corrected_loss(cells, noisy_labels):
    images, masks = (part[:7] for part in cells)
    given = {
        reference: audit_labels(noisy_labels(masks, "flip:0.2"), masks, images, reference=reference).advice("Q.json")
        for reference in ("clean labels", "second annotator")
    }
    said = {reference: any("forward" in line for line in lines) for reference, lines in given.items()}
    assert said == {"clean labels": True, "second annotator": False}


def disc(radius=30):
    y, x = np.mgrid[:128, :128]
    return ((y - 64) ** 2 + (x - 64) ** 2 <= radius**2).astype(np.uint8)


@pytest.mark.parametrize("spec", ["offset:2", "offset:-2", "offset:-4"])
def test_the_threshold_draws_the_true_outline_of_blurred_labels(spec):
    mask = disc()
    label = make_noisy_label(mask, spec, 0, "").astype(np.float32)
    distance = inward_distance(mask)
    blur = network_blur([distance])
    threshold = blurred_outline([distance], [label], blur).threshold
    drawn = cv2.GaussianBlur(label, (0, 0), blur) >= threshold
    assert (drawn != mask).sum() < 0.15 * (label != mask).sum()
    assert network_blur([distance], clean_iou=0.7) > blur


def test_what_outlines_cost():
    mask = disc()
    wide = make_noisy_label(mask, "offset:3", 0, "")
    distance, overlap = [inward_distance(mask)], mask.sum() / wide.sum()
    clean, biased = (blurred_outline(distance, [label.astype(np.float32)], 1.5) for label in (mask, wide))
    assert clean.cost(0.5) == pytest.approx(0, abs=0.001)
    assert biased.cost(0.5) == pytest.approx(1 - overlap, abs=0.02)
    assert biased.cost(0.95) < 0.5 * (1 - overlap)


def test_labels_moved_every_way_cost_less_than_one_move():
    truth = (np.indices((128, 128)).sum(0) % 24 < 8).astype(np.uint8)
    distance, rate = [inward_distance(truth)], [truth.astype(np.float32)]
    moved = make_noisy_label(truth, "move:3,3", 0, "")
    one_way = (truth & moved).sum() / (truth | moved).sum()
    assert one_way < blurred_outline(distance, rate, 1.5, np.hypot(3, 3)).overlap < 0.99
    assert blurred_outline(distance, rate, 1.5).overlap == 1


def test_labels_without_a_bias_keep_the_threshold_that_their_noise_implies(cells, noisy_labels):
    images, masks = (part[:7] for part in cells)
    audits = {
        spec: audit_labels(noisy_labels(masks, spec), masks, images) for spec in ("clean", "flip:0.3", "dilate:5")
    }
    assert [audits[spec].threshold for spec in ("clean", "flip:0.3")] == [pytest.approx(0.5, abs=0.001)] * 2
    assert audits["dilate:5"].threshold > 0.7


@pytest.mark.parametrize(("spec", "repair"), [("move:3,-2", "move:-3,2"), ("clean", None), ("flip:0.2", None)])
def test_the_repair_that_is_advised(cells, noisy_labels, spec, repair):
    images, masks = (part[:7] for part in cells)
    audit = audit_labels(noisy_labels(masks, spec), masks, images)
    assert audit.to_json()["repair"] == repair
    assert any(f"--label_repair {repair}" in line for line in audit.advice()) == (repair is not None)


def test_what_a_repair_wins_is_predicted(cells, noisy_labels):
    images, masks = (part[:7] for part in cells)
    clean, wide = (audit_labels(noisy_labels(masks, spec), masks, images) for spec in ("clean", "dilate:7"))
    assert "repaired_iou" not in clean.record()
    assert wide.predicted_iou < 0.9 * clean.predicted_iou
    repaired = wide.record()["repaired_iou"]
    assert wide.predicted_iou + 0.03 < repaired < clean.predicted_iou
    gain = f"(predicted IoU {wide.predicted_iou:.2f} → {repaired:.2f})"
    assert f"Repair them all at once: --label_repair {wide.repair} {gain}." in wide.advice()


@pytest.mark.parametrize(("spec", "least"), [("dilate:7", 0.85), ("skeleton", 0.7), ("flip:0.2", 0), ("clean", 0)])
def test_clean_validation_images_win_back_what_wrong_boundaries_cost(cells, noisy_labels, spec, least):
    images, masks = (part[:7] for part in cells)
    labels = noisy_labels(masks, spec)
    plain, judged = (audit_labels(labels, masks, images, steps=300, validated=own) for own in (False, True))
    assert judged.verdict == plain.verdict and judged.prediction and plain.prediction
    assert judged.prediction.value == pytest.approx(plain.prediction.value, abs=0.01)  # sums of threads differ
    assert judged.bias_cost == pytest.approx(plain.bias_cost, abs=0.01)
    if not least:
        assert judged.validated is None and "Clean validation images" not in judged.reason()
        return
    assert judged.predicted_iou > plain.predicted_iou + 0.1 and judged.to_json()["relative_iou"] > least
    assert "Clean validation images, which choose the epoch" in judged.reason() and judged.reason() != plain.reason()
    assert "judged by clean validation images" in judged.prediction_basis()
    assert judged.repaired and plain.repaired and plain.advice()[0].startswith("Repair them all at once")
    worse = replace(judged, repaired=replace(judged.repaired, value=judged.predicted_iou - 0.1))
    assert worse.advice()[0].startswith("Train on them as they are: with clean validation images that does more")


def test_wide_labels_get_a_repair_that_narrows(cells, noisy_labels):
    images, masks = cells
    audit = audit_labels(noisy_labels(masks, "offset:2"), masks, images)
    assert audit.verdict == "biased at boundaries"
    assert float(audit.repair.removeprefix("offset:")) == pytest.approx(-2, abs=0.5)
    assert audit.threshold > 0.7


@pytest.mark.parametrize("spec", ["offset:0.7", "offset:1.7", "offset:-1.2"])
def test_the_interval_of_an_offset_holds_what_the_grid_of_pixels_hides(cells, noisy_labels, spec):
    images, masks = cells
    (bias,) = find_biases(masks, noisy_labels(masks, spec), images).found
    assert bias.low <= abs(float(spec[7:])) <= bias.high < bias.low + 1.5


def test_labels_that_are_turned_by_far_are_not_called_wider(cells):
    _, masks = cells
    found = find_biases(masks, warped(masks, angle=10), None)
    assert found.offset == 0 and not found.moved
    assert not any("wider" in bias.what or "narrower" in bias.what for bias in found.found)


@pytest.fixture(scope="module")
def plates():
    """Masks of many cells, 160 × 160."""
    rng, masks = np.random.default_rng(2), []
    for _ in range(8):
        mask = np.zeros((160, 160), np.uint8)
        for y, x in rng.integers(0, 160, (25, 2)).tolist():
            cv2.circle(mask, (x, y), int(rng.integers(4, 8)), 1, -1)
        masks.append(mask)
    return masks


def warped(masks, angle=0.0, scale=1.0):
    height, width = masks[0].shape
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), angle, scale)
    return [cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST) for mask in masks]


def jittered(masks):
    moves = np.random.default_rng(0).integers(-4, 5, (len(masks), 2))
    return [
        make_noisy_label(mask, f"move:{down},{right}", 0, "") for mask, (down, right) in zip(masks, moves, strict=True)
    ]


@pytest.mark.parametrize(
    ("displace", "text", "size"),
    [
        (jittered, "moved differently in every image, by {} px on average", 3.4),
        (lambda masks: warped(masks, angle=-3), "turned clockwise by {}°", 3),
        (lambda masks: warped(masks, scale=1.06), "enlarged by {}%", 6),
    ],
)
def test_labels_that_no_common_move_takes_back(plates, displace, text, size):
    found = find_biases(plates, displace(plates), None)
    (bias,) = found.found
    before, after = text.split("{}")
    assert bias.text().startswith(before) and after in bias.text()
    assert bias.low <= size <= bias.high and bias.size == pytest.approx(size, rel=0.3)
    assert found.offset == 0 and not found.moved


def test_what_to_do_about_displaced_labels(plates):
    (first, *_) = audit_labels(warped(plates, angle=3), plates).advice()
    assert first.startswith("Look for what turned them")


def tubules(width=4):
    """Masks of straight thin structures in many directions."""
    rng, masks = np.random.default_rng(3), []
    for _ in range(8):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for top, left, bottom, right in rng.integers(0, SIZE, (4, 4)).tolist():
            cv2.line(mask, (left, top), (right, bottom), 1, width)
        masks.append(mask)
    return masks


@pytest.mark.parametrize(
    ("spec", "what"), [("wobble:3,8", "outlines off to either side"), ("dilate:3+flip:0.2", "wider")]
)
def test_thin_structures_beside_their_place_are_not_wide(spec, what):
    masks = tubules()
    labels = [make_noisy_label(mask, spec, 0, str(place)) for place, mask in enumerate(masks)]
    assert [bias.what for bias in find_biases(masks, labels, None).found] == [what]


@pytest.mark.parametrize(("spec", "is_smoother"), [("wobble:3,8", False), ("polygon:5", True)])
def test_only_smooth_outlines_are_smoother(spec, is_smoother):
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, radius = np.arctan2(y - SIZE / 2, x - SIZE / 2), np.hypot(y - SIZE / 2, x - SIZE / 2)
    masks = [(radius < 28 + 5 * np.sin(9 * angle + phase)).astype(np.uint8) for phase in range(8)]
    labels = [make_noisy_label(mask, spec, 0, str(place)) for place, mask in enumerate(masks)]
    found = smoother_outlines(masks, labels, [np.zeros((SIZE, SIZE), bool)] * len(masks))
    assert (found is not None) == is_smoother


@pytest.fixture(scope="module")
def dots():
    """Masks of small and large dots on a lattice, some cut by the border."""
    rng, masks = np.random.default_rng(5), []
    for _ in range(8):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for y in range(2, SIZE, 23):
            for x in range(2, SIZE, 23):
                cv2.circle(mask, (x, y), int(rng.choice([3, 7])), 1, -1)
        masks.append(mask)
    return masks


def without(mask, is_missed):
    """A mask without the structures for which ``is_missed(area, touches)``."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    edge = set(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]).tolist())
    missed = [part for part in range(1, len(stats)) if is_missed(stats[part, cv2.CC_STAT_AREA], part in edge)]
    return np.where(np.isin(parts, missed), 0, mask).astype(np.uint8)


@pytest.mark.parametrize("noise", ["clean", "flip:0.1"])
@pytest.mark.parametrize(
    ("is_missed", "kind", "what"),
    [
        (lambda area, touches: area < 50, "by image", "small structures"),
        (lambda area, touches: area > 100, "by image", "large structures"),
        (lambda area, touches: touches, "by place", "structures at the image border"),
    ],
)
def test_structures_that_were_left_out(dots, is_missed, kind, what, noise):
    labels = [make_noisy_label(without(mask, is_missed), noise, 0, str(at)) for at, mask in enumerate(dots)]
    (bias,) = find_biases(dots, labels, None).found
    assert bias.kind == kind and bias.what.startswith(f"{what} missed") and bias.low > 0.65


def test_structures_that_were_left_out_at_random_are_no_bias(dots):
    labels = [make_noisy_label(mask, "missing:0.4", 0, str(place)) for place, mask in enumerate(dots)]
    assert find_biases(dots, labels, None).found == ()


def test_a_move_of_wide_labels_is_the_one_that_is_undone(cells, noisy_labels):
    images, masks = (part[:7] for part in cells)
    audit = audit_labels(noisy_labels(masks, "move:3,-2+dilate:5"), masks, images)
    assert audit.verdict == "biased moved by (3, -2) and at boundaries"
    assert audit.repair.startswith("move:-3,2+offset:-2")


@pytest.mark.parametrize(("spec", "what"), [("dilate:5", "wider by 2.0"), ("erode:5", "narrower by 2.0")])
def test_outlines_of_half_of_the_labels(cells, noisy_labels, spec, what):
    images, masks = cells
    labels = [item if place % 2 else masks[place] for place, item in enumerate(noisy_labels(masks, spec))]
    audit = audit_labels(labels, masks, images)
    (bias,) = audit.biases.found
    assert audit.verdict == "biased at boundaries" and audit.offset == 0
    assert bias.text().startswith(f"outlines of 6 of 12 labels {what}")
    assert "Look for what sets these labels apart" in audit.advice()[0] or audit.repair
    assert not audit.errors_forget_image and not any("forward" in line for line in audit.advice("Q.json"))


@pytest.mark.parametrize(("inner", "outer"), [(5, 1), (3, 3), (1, 5)])
def test_outlines_that_nobody_filled(plates, inner, outer):
    def edge(mask, operation, side):
        return operation(mask, np.ones((side, side), np.uint8))

    labels = [edge(mask, cv2.dilate, outer) - edge(mask, cv2.erode, inner) for mask in plates]
    audit = audit_labels(labels, plates)
    assert audit.verdict == "biased at boundaries" and "only outlines drawn (filled, an IoU of 0." in audit.reason()
    assert audit.invert is False and audit.repair is None and audit.advice()[0].startswith("Fill the outlines")
    assert not any("forward" in line for line in audit.advice("Q.json"))


@pytest.mark.parametrize(
    ("inner", "outer", "said"), [(5, 1, "middles left out"), (1, 5, "background far from outlines marked")]
)
def test_rims_that_enclose_nothing(inner, outer, said):
    masks = [(np.arange(SIZE) + 3 * place) % 32 < 14 for place in range(8)]
    masks = [np.broadcast_to(mask, (SIZE, SIZE)).astype(np.uint8) for mask in masks]
    wide, narrow = (
        [make_noisy_label(mask, f"{step}:{side}", 0, "") for mask in masks]
        for step, side in (("dilate", outer), ("erode", inner))
    )
    audit = audit_labels([one - other for one, other in zip(wide, narrow, strict=True)], masks)
    assert said in audit.reason() and not any("forward" in line for line in audit.advice("Q.json"))


def test_dots_are_told_from_narrow_outlines(plates, noisy_labels):
    dots = []
    for mask in plates:
        dots.append(np.zeros_like(mask))
        for x, y in cv2.connectedComponentsWithStats(mask)[3][1:].round().astype(int).tolist():
            cv2.circle(dots[-1], (x, y), 1, 1, -1)
    audit = audit_labels(dots, plates)
    assert audit.verdict == "biased at boundaries" and "only dots drawn, 3 px across" in audit.reason()
    assert find_dots(plates, plates) is None
    assert all(find_dots(plates, noisy_labels(plates, spec)) is None for spec in ("sample:0.1", "erode:5", "skeleton"))


def test_rings_that_are_no_outlines_stay_rings(plates):
    rings = [mask - cv2.erode(mask, np.ones((5, 5), np.uint8)) for mask in plates]
    assert find_outlines(rings, rings) is None


def test_bounds_hold_a_move_that_was_found_more_exactly():
    found = Moved(1, 1, low=1.4, high=2.2).at(2, 2)
    assert (found.down, found.right, found.low) == (2, 2, 1.4) and found.high == found.length


def test_scattered_pixels_are_no_outlines(plates, noisy_labels):
    large = [np.kron(mask, np.ones((3, 3), np.uint8)) for mask in plates]
    assert find_outlines(large, noisy_labels(large, "shift:3")) is None


def test_middles_of_a_mesh_are_no_outlines():
    lines = [(np.arange(SIZE) + place) % 16 for place in range(8)]
    meshes, middles = (
        [np.logical_or.outer(np.abs(at - 3) <= reach, np.abs(at - 3) <= reach).astype(np.uint8) for at in lines]
        for reach in (2, 0)
    )
    assert find_outlines(meshes, middles) is None


def test_few_structures_that_chance_left_out_have_nothing_in_common():
    truth = np.zeros((8, SIZE, SIZE), np.uint8)
    truth[:, 4:44, 4:44] = truth[:, 60:72, 60:72] = 1
    labels = truth.copy()
    labels[:5, 60:72, 60:72] = 0
    assert find_left_out(list(truth), list(labels)).kind is None
    many = np.concatenate([truth] * 4), np.concatenate([labels] * 4)
    assert find_left_out(*map(list, many)).what == "small structures missed, 20 of 64"


def test_a_small_move_costs_little_and_is_undone_all_the_same(cells, noisy_labels):
    images, masks = cells
    audit = audit_labels(noisy_labels(masks, "move:1,0"), masks, images)
    assert audit.verdict == "learnable" and audit.repair == "move:-1,0"
    assert "moved by 1.0 px" in audit.reason() and "costs little" in audit.reason()
    assert any("--label_repair move:-1,0" in line for line in audit.advice())


def test_constant_labels_are_not_moved(cells):
    _, masks = cells
    maps = [mask.astype(np.float32) for mask in masks]
    assert not find_move(maps, [np.ones_like(item) for item in maps])


def test_the_audit_names_the_move_that_the_repair_undoes():
    """Of a few large objects, which a move leaves mostly where they are."""
    masks = [disc(26 + place) for place in range(8)]
    labels = [make_noisy_label(mask, "move:2,-1+dilate:5", 0, "") for mask in masks]
    audit = audit_labels(labels, masks)
    assert audit.biases.moved and audit.repair.startswith("move:-2,1+offset:-2")
    assert "moved by (2, -1)" in audit.verdict


def test_lines_within_large_objects_are_narrower():
    masks = [disc(26 + place) for place in range(8)]
    audit = audit_labels([make_noisy_label(mask, "erode:41", 0, "") for mask in masks], masks)
    assert audit.offset < -5 and audit.verdict == "biased at boundaries"


def test_labels_that_want_a_repair_get_no_matrix_of_unrepaired_ones(cells, noisy_labels):
    images, masks = cells
    audit = audit_labels(noisy_labels(masks, "flip:0.2"), masks, images)
    wide = replace(audit, repair="offset:1")
    assert audit.errors_forget_image and not wide.errors_forget_image
    assert not any("--transition_matrix" in line for line in wide.advice("Q.json"))


def test_three_clean_images_advise_what_the_recipe_does(cells, noisy_labels):
    """They tell a repair, but no transition matrix."""
    images, masks = (part[:3] for part in cells)
    wide, flipped = (audit_labels(noisy_labels(masks, spec), masks, images) for spec in ("dilate:5", "flip:0.2"))
    assert any(f"--label_repair {wide.repair}" in line for line in wide.advice("Q.json")) and wide.repair
    assert not any("forward" in line for line in flipped.advice("Q.json"))


def test_outlines_of_a_second_annotator_are_not_told_from_the_image(cells):
    """Images show where either of two people erred."""
    images, masks = cells
    one, other = ([make_noisy_label(mask, "wobble:3,8", seed, "") for mask in masks] for seed in (0, 1))
    found = [
        {bias.kind for bias in find_biases(other, one, images, is_clean=is_clean).found} for is_clean in (True, False)
    ]
    assert "by image" in found[0] and "by image" not in found[1]


def test_classes_that_are_exchanged_are_named():
    truth = [np.kron(np.eye(3, dtype=np.uint8) + 1, np.ones((16, 16), np.uint8)) % 3 for _ in range(6)]
    report = audit_labels([np.array([0, 2, 1], np.uint8)[item] for item in truth], truth, num_classes=3)
    assert report.verdict == "inverted" and "most of class 1 is labelled 2" in report.reason()


def test_labels_of_several_classes_get_the_repair_that_the_recipe_makes(cells, noisy_labels):
    _, masks = cells
    truth = [mask + cv2.erode(mask, np.ones((7, 7), np.uint8)) for mask in masks]
    labels = [make_noisy_label(item, "move:3,-2", 0, "", 3) for item in truth]
    audit = audit_labels(labels, truth, num_classes=3)
    assert audit.repair == "move:-3,2" and "--label_repair move:-3,2" in audit.advice()[0]
