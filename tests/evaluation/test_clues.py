"""What images alone say of labels: each clue is found where it was made, and none where labels are right."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.label_audit import audit_labels
from evaluation.label_audit.clues import Clues
from evaluation.label_audit.without_reference import image_evidence


def clues(images, labels) -> Clues:
    return image_evidence(labels, images).clues


def test_right_labels_have_no_clues(blobs):
    images, masks = blobs
    assert clues(images, masks).lines() == []
    said = audit_labels(masks, None, images).reason()
    assert "Images predict the labels (correlation 0.9" in said and "a guess is that they are not inverted" in said
    assert "no part was left out in all images" in said and "pixels of their edges" in said
    assert "a guess" not in audit_labels(masks, None, images, foreground="bright").reason()


@pytest.mark.parametrize(("down", "right", "said"), [(3, 3, "below"), (-2, 0, "above")])
def test_moved_labels(draw, noisy_labels, down, right, said):
    images, masks = zip(*(draw(np.random.default_rng(seed)) for seed in range(40)), strict=True)
    found = clues(images, noisy_labels(masks, f"move:{down},{right}"))
    assert abs(found.moved.down - down) <= 1 and abs(found.moved.right - right) <= 1
    assert said in found.lines()[0] and f"move:{-found.moved.down},{-found.moved.right} takes" in found.lines()[0]


@pytest.mark.parametrize(("spec", "edge", "said"), [("offset:3", -3, "too wide"), ("offset:-2", 2, "too narrow")])
def test_edges_beside_the_outlines(blobs, noisy_labels, spec, edge, said):
    images, masks = blobs
    audit = audit_labels(noisy_labels(masks, spec), None, images)
    assert audit.evidence.clues.edge == pytest.approx(edge, abs=1)
    assert said in audit.reason()
    assert "5 images" in audit.advice()[-1]


def test_labels_that_lie_off_to_either_side_are_not_called_wide(blobs, noisy_labels):
    images, masks = blobs
    found = clues(images, noisy_labels(masks, "wobble:6,20"))
    assert found.lines() == [] and "no clear edge there tells how exactly" in found.nothing_found()


def test_a_half_that_was_never_annotated(blobs):
    images, masks = blobs
    labels = [np.where(np.arange(mask.shape[1]) < mask.shape[1] // 2, mask, 0).astype(np.uint8) for mask in masks]
    assert clues(images, labels).by_place
    assert not clues(images, masks).by_place


def test_labels_of_the_larger_part_are_guessed_to_be_inverted(blobs):
    images, masks = blobs
    assert any("a guess" in line for line in clues(images, [1 - mask for mask in masks]).lines())


def test_labels_farther_off_than_was_looked_are_not_taken_back(draw, noisy_labels):
    images, masks = zip(*(draw(np.random.default_rng(seed)) for seed in range(40)), strict=True)
    (line, *_) = clues(images, noisy_labels(masks, "move:0,9")).lines()
    assert line == "The labels lie 6 px right of what the images show, or farther."


def test_mismatched_labels_are_not_said_to_lie_where_images_show_them(draw):
    images, masks = zip(*(draw(np.random.default_rng(seed)) for seed in range(40)), strict=True)
    rng = np.random.default_rng(0)
    labels = [np.where(rng.random() < 0.45, mask, mask[::-1, ::-1].T) for mask in masks]
    audit = audit_labels(labels, None, images)
    assert "mismatched" in audit.warnings()[0] and "hardly predict" in audit.reason()
    assert "where the images show them" not in audit.reason()


def test_speckled_labels_are_not_said_to_have_structure(blobs, noisy_labels):
    images, masks = blobs
    for spec in ("flip:0.3", "random:0.3"):
        said = audit_labels(noisy_labels(masks, spec), None, images).reason()
        assert "structure of their own" not in said
        assert "too speckled" in said if spec == "flip:0.3" else "chance" in said or "unrelated" in said
