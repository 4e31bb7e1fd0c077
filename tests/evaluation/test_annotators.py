"""Annotators whose faults are known: the audit names them, with and without clean labels."""

from __future__ import annotations

import json

import numpy as np
import pytest

from datasets.image_io import write_image, write_label
from datasets.lists import write_list
from evaluation.label_audit.annotators import CLEAN, CONSENSUS, judge_annotators
from evaluation.label_audit.lists import audit_list

FAULTS = {
    "good": "wobble:1,8",
    "wide": "offset:3",
    "aside": "move:0,4",
    "careless": "missing:0.5",
    "fair": "wobble:1,6",
}


@pytest.fixture(scope="module")
def judged(blobs, noisy_labels):
    _, masks = blobs
    by_name = {name: noisy_labels(masks, spec) for name, spec in FAULTS.items()}
    rows = [{name: labels[place] for name, labels in by_name.items()} for place in range(len(masks))]
    return {
        kind: {one.name: one for one in judge_annotators(rows, clean)}
        for kind, clean in ((CLEAN, masks), (CONSENSUS, None))
    }


@pytest.fixture(scope="module", name="noisy_labels")
def noise_of_the_module():
    from datasets.label_noise import make_noisy_label

    return lambda masks, spec: [make_noisy_label(mask, spec, 0, str(i)) for i, mask in enumerate(masks)]


@pytest.mark.parametrize("kind", [CLEAN, CONSENSUS])
def test_each_fault_is_found_and_no_other(judged, kind):
    found = judged[kind]
    assert {one.reference for one in found.values()} == {kind}
    wide, aside, careless = (found[name] for name in ("wide", "aside", "careless"))
    assert wide.offset == pytest.approx(3, abs=0.75) and wide.offset_bounds[0] > 0 and wide.area_bounds[0] > 1.3
    assert wide.repair is not None and "offset:-" in wide.repair  # one who lies aside moves the consensus by a pixel
    assert aside.moved == (0, 4) and aside.repair == "move:0,-4"
    assert careless.is_out_of_line and careless.area_bounds[1] < 0.8
    for name in ("good", "fair"):
        assert found[name].moved == (0, 0) and not found[name].is_out_of_line
        assert abs(found[name].offset) <= (0 if kind == CLEAN else 1)  # the others' faults draw the consensus aside


def test_the_consensus_ranks_as_clean_labels_do(judged):
    names = list(FAULTS)
    ious = [[judged[kind][name].iou for name in names] for kind in (CLEAN, CONSENSUS)]
    assert np.corrcoef(ious)[0, 1] > 0.95


def test_few_images_say_nothing(blobs):
    _, masks = blobs
    assert judge_annotators([{"a": mask, "b": mask} for mask in masks[:4]]) == []


def test_the_audit_of_a_list_tells_and_writes(blobs, noisy_labels, tmp_path):
    images, masks = blobs
    rows, clean = [], []
    labels = {name: noisy_labels(masks, FAULTS[name]) for name in ("good", "wide", "fair")}
    for place, (image, mask) in enumerate(zip(images, masks, strict=True)):
        write_image(tmp_path / f"images/{place}.tif", image)
        for name, own in labels.items():
            write_label(tmp_path / name / f"{place}.png", own[place])
        write_label(tmp_path / "clean" / f"{place}.png", mask)
        rows.append((tmp_path / f"images/{place}.tif", *(tmp_path / name / f"{place}.png" for name in labels)))
        clean.append((tmp_path / f"images/{place}.tif", tmp_path / "clean" / f"{place}.png"))
    write_list(tmp_path / "txt/blobs/train/crowd.txt", rows, tmp_path)
    write_list(tmp_path / "txt/blobs/train/clean.txt", clean[:8], tmp_path)
    said = []
    folder = audit_list("blobs", "crowd", clean_list="clean", root=tmp_path, say=said.append, steps=50)
    text = "\n".join(map(str, said))
    assert "annotators against clean labels, in 8 images" in text and "wide: IoU" in text and "wider by" in text
    written = json.loads((folder / "audit.json").read_text())
    assert [one["name"] for one in written["annotators"]][-1] == "wide"
    assert abs(written["offset"]) < 0.5  # two of three draw right
