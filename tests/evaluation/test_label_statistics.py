"""Label statistics: planted oddities are found, and what was not looked for is said."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.label_audit.statistics import label_statistics


def test_statistics_find_planted_oddities(blobs, noisy_labels):
    images, masks = blobs
    labels = noisy_labels(masks, "flip:0.1")
    labels[1], labels[2] = labels[2], labels[1]
    labels[4] = (1 - masks[4]).astype(np.uint8)
    labels[6] = np.zeros_like(masks[6])
    labels[7] = np.ones_like(masks[7])
    labels[9] = labels[8].copy()
    found = label_statistics(labels, images)
    assert found.images == len(masks)
    assert (found.empty, found.full, found.duplicates) == ([6], [7], [[8, 9]])
    assert [i for i, _ in found.inverted_looking] == [4]
    assert {(i, j) for i, j, *_ in found.fits_another} == {(1, 2), (2, 1), (9, 8)}
    lines = "\n".join(found.lines([f"image {i}" for i in range(len(masks))]))
    assert "1 label without foreground: image 6" in lines and "image 8, image 9" in lines


def test_statistics_of_clean_labels_find_nothing(blobs):
    images, masks = blobs
    found = label_statistics(masks, images)
    assert found.inverted_looking == found.fits_another == found.duplicates == found.empty == []
    assert found.class_shares[1] == pytest.approx(np.mean(masks))
    assert found.signal > 0.8


def test_statistics_say_what_was_not_looked_for(blobs, monkeypatch, noisy_labels):
    images, masks = blobs

    def said(found) -> str:
        return "\n".join(found.lines([str(i) for i in range(len(masks))]))

    assert "other image" not in said(label_statistics(masks, images))
    assert "(3 images, 4 are needed)" in said(label_statistics(masks[:3], images[:3]))
    assert "(no images" in said(label_statistics(masks))
    assert "too weakly" in said(label_statistics(noisy_labels(masks, "random:0.3"), images))
    monkeypatch.setattr("evaluation.label_audit.statistics.MAX_COMPARED", 12)
    found = label_statistics(masks, images)
    assert found.compared == 12 and "only the first 12 labels were compared" in said(found)


def test_statistics_without_images_and_with_ignored_pixels():
    label = np.array([[0, 1, 255], [2, 2, 255]], np.uint8)
    found = label_statistics([label, np.full((2, 3), 255, np.uint8)], num_classes=3)
    np.testing.assert_allclose(found.class_shares, [0.25, 0.25, 0.5])
    assert found.ignored_share == pytest.approx(8 / 12)
    assert np.isnan(found.foreground_shares[1]) and found.empty == []


def _disks(rng: np.random.Generator, count: int, brightness: float) -> tuple[np.ndarray, np.ndarray]:
    """An image of disks between dim and five times as bright, all labelled."""
    y, x = np.mgrid[:128, :128]
    image, label = rng.normal(10, 1.5, (128, 128)), np.zeros((128, 128), np.uint8)
    for row, column in rng.integers(10, 118, (count, 2)):
        disk = (y - row) ** 2 + (x - column) ** 2 < 36
        image[disk] += brightness * rng.uniform(0.5, 2.5)
        label[disk] = 1
    return image.astype(np.float32), label


def test_right_labels_of_images_unlike_the_others_are_not_suspected():
    rng = np.random.default_rng(0)
    scenes = [_disks(rng, 100, 20) for _ in range(30)] + [_disks(rng, 1, 200) for _ in range(4)]
    images, labels = [image for image, _ in scenes], [label for _, label in scenes]
    found = label_statistics(labels, images)
    assert found.signal > 0.5 and found.inverted_looking == found.fits_another == []
    labels[3] = 1 - labels[3]
    assert [i for i, _ in label_statistics(labels, images).inverted_looking] == [3]
