"""An epoch's pseudo-labels exist as a whole or not at all, and come back as they were."""

from __future__ import annotations

import numpy as np
import pytest

from training.label_free.store import MANIFEST, PseudoLabelStore
from utils.cli import UserError

IDS = ("datasets/er/train/images/1.tif", "datasets/er/train/images/1.png", "/data/ä b%/1.tif", "../1.tif", "x" * 300)


def fill(store: PseudoLabelStore, epoch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Write a complete epoch of random masks of different sizes."""
    masks = {image_id: (rng.random((17, 20 + n)) < 0.5).astype(np.uint8) for n, image_id in enumerate(IDS)}
    for image_id, mask in masks.items():
        store.write(epoch, image_id, mask)
    store.complete(epoch, list(masks), {"criterion": "dmi", "agreement": float("nan")})
    return masks


def test_masks_come_back_by_image_id(tmp_path, rng):
    store = PseudoLabelStore(tmp_path / "igtt")
    masks = fill(store, 3, rng)
    again = PseudoLabelStore(tmp_path / "igtt")
    for image_id, mask in masks.items():
        assert np.array_equal(again.read(3, image_id), mask)
    record = again.record(3)
    assert record["epoch"] == 3 and record["criterion"] == "dmi" and record["agreement"] is None
    assert {image_id: tmp_path / "igtt" / "epoch_3" / name for image_id, name in record["masks"].items()} == {
        image_id: again.path(3, image_id) for image_id in IDS
    }
    assert len(set(record["masks"].values())) == len(IDS)


def test_an_epoch_cut_short_does_not_exist(tmp_path, rng):
    store = PseudoLabelStore(tmp_path)
    fill(store, 1, rng)
    store.write(2, IDS[0], np.zeros((16, 16), np.uint8))
    (tmp_path / "epoch_x").mkdir()
    assert store.epochs() == [1]
    with pytest.raises(UserError, match=r"epoch_2.*epochs that do: 1"):
        store.record(2)


def test_an_image_that_is_new_since_the_epoch_is_named_with_the_remedy(tmp_path, rng):
    store = PseudoLabelStore(tmp_path)
    fill(store, 1, rng)
    with pytest.raises(UserError, match=r"the pseudo-label of new\.tif: put lists and files back"):
        store.read(1, "new.tif")


def test_resuming_discards_newer_epochs(tmp_path, rng):
    store = PseudoLabelStore(tmp_path)
    for epoch in (1, 2, 9, 10):
        fill(store, epoch, rng)
    store.write(11, IDS[0], np.zeros((16, 16), np.uint8))
    store.discard_newer(2)
    assert store.epochs() == [1, 2] and {path.name for path in tmp_path.iterdir()} == {"epoch_1", "epoch_2"}
    store.discard_newer(2)
    assert store.epochs() == [1, 2]


def test_only_epochs_that_checkpoints_name_are_kept(tmp_path, rng):
    store = PseudoLabelStore(tmp_path)
    for epoch in (1, 2, 3, 4):
        fill(store, epoch, rng)
    store.keep_only({2, 4, 7})
    assert store.epochs() == [2, 4]


def test_missing_and_broken_masks_are_named(tmp_path, rng):
    store = PseudoLabelStore(tmp_path / "igtt")
    assert store.epochs() == []
    store.discard_newer(0)
    with pytest.raises(UserError, match="1-"):
        store.read(1, IDS[0])
    fill(store, 1, rng)
    path = store.path(1, IDS[0])
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=path.name):
        store.read(1, IDS[0])
    assert (path.parent / MANIFEST).is_file()
