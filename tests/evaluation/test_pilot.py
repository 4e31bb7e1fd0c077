"""The pilot of an audit: what its learning curve does to the predicted IoU, and the command."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from evaluation.audit_labels import make_parser
from evaluation.label_audit import audit_labels
from evaluation.label_audit import pilot as pilot_module
from evaluation.label_audit.lists import audit_list
from evaluation.label_audit.pilot import sharpened as sharpen
from evaluation.label_audit.pilot import split_for_pilot, with_pilot
from evaluation.label_audit.predicted_iou import PredictedIoU
from evaluation.label_audit.verdict import read_audit
from evaluation.label_audit.with_reference import ReferenceAudit
from training.budget.pilot import DATA_OPTIONS, make_pilot, own_run, run_pilot
from training.options import OPTIONS
from utils.cli import UserError

BEFORE = PredictedIoU(0.8, 0.7, 0.9, relative=0.9, clean=0.89)


def curve(value: float, gap: float, power: float = 0.5) -> list[tuple[int, float]]:
    """A pilot of 50 steps of 500 whose run will reach ``value``."""
    lack = ((500 / np.arange(5, 51, 5)) ** power - 1) / (10**power - 1)
    return [(5 * place + 5, value - gap * each) for place, each in enumerate(lack)]


@pytest.mark.parametrize("value", [0.72, 0.8, 0.88])
def test_a_pilot_moves_the_prediction_towards_what_its_curve_leads_to(value):
    found = sharpen(BEFORE, curve(value, 0.08), 500)
    assert abs(found.value - value) < max(0.8 * abs(BEFORE.value - value), 0.02)
    assert found.low < found.value < found.high and found.high - found.low < 0.95 * (BEFORE.high - BEFORE.low)
    assert found.relative == pytest.approx(min(1, found.value / BEFORE.clean))


def test_early_figures_and_undefined_ones_move_nothing():
    late = [(step, iou if step > 25 else float("nan")) for step, iou in curve(0.72, 0.08)]
    early = [(step, iou if step > 25 else 0.0) for step, iou in curve(0.72, 0.08)]
    assert sharpen(BEFORE, early, 500) == sharpen(BEFORE, curve(0.72, 0.08), 500)
    assert sharpen(BEFORE, [(step, float("nan")) for step, _ in late], 500) == BEFORE


def test_a_sure_prediction_stays_and_a_low_pilot_says_little_of_an_unsure_one():
    sure = PredictedIoU(0.8, 0.79, 0.81, relative=0.9, clean=0.89)
    assert sharpen(sure, curve(0.7, 0.08), 500).value == pytest.approx(0.8, abs=0.02)
    assert sharpen(BEFORE, curve(0.8, 0.4), 500).value > 0.7  # still rising steeply


def test_images_left_out_are_not_trained_on_and_have_reference_labels():
    samples, references = list(range(20)), [f"clean {place}" if place % 2 else None for place in range(20)]
    train, held_out = split_for_pilot(samples, references, seed=3)  # pyright: ignore[reportArgumentType]
    assert len(held_out) == 5 and len(train) == 15
    assert not {f"clean {sample}" for sample in train} & set(held_out)
    with pytest.raises(UserError, match=r"at least 8 images.*there are 7: give more with --clean_list"):
        split_for_pilot(samples, references[:15], seed=3)  # pyright: ignore[reportArgumentType]


def test_the_audit_trains_a_tenth_of_the_steps_and_leaves_nothing_behind(disks, tmp_path):
    said: list[str] = []
    tiny = {"dataset": "disks", "label_noise": "flip:0.3", "width": 4, "crop": 32, "batch_size": 4, "preset": "quick"}
    folder = audit_list(
        "disks",
        "train_gt.txt",
        label_noise="flip:0.3",
        steps=40,
        pilot=partial(run_pilot, given=tiny, root=disks, say=said.append),
        out=tmp_path / "audit",
        root=disks,
        say=said.append,
    )
    assert "pilot: training for 4 steps" in said
    assert any(line.startswith("pilot: 4 of 40 steps on 4 images reach an IoU of") for line in said)
    found = read_audit(folder / "audit.json")
    assert found["steps"] == 40 and found["predicted_iou_low"] < found["predicted_iou"] < found["predicted_iou_high"]
    assert not list((disks / "train_log/disks").glob("audit_pilot*"))


def test_a_pilot_sharpens_what_clean_validation_images_reach_as_well(blobs, noisy_labels, monkeypatch):
    images, masks = blobs
    audit = audit_labels(noisy_labels(masks, "dilate:7"), masks, images, steps=300, validated=True)
    monkeypatch.setattr(pilot_module, "split_for_pilot", lambda *_: ([], []))
    found = with_pilot(audit, lambda *_: [(10, 0.1), (30, 0.2)], [], [], seed=0, say=lambda line: None)
    assert isinstance(found, ReferenceAudit) and found.prediction and found.validated
    assert found.prediction.value < found.predicted_iou == found.validated.value < audit.predicted_iou


def test_labels_that_are_too_narrow_get_no_pilot(blobs, noisy_labels):
    images, masks = blobs
    audit, said = audit_labels(noisy_labels(masks, "erode:5"), masks, images, steps=300), []
    assert with_pilot(audit, lambda *_: pytest.fail("trained"), [], [], seed=0, say=said.append) is audit
    assert "pilot: none, since it would mislead: the labels are too narrow" in said[0]


def test_an_interrupted_pilot_leaves_nothing_and_takes_along_what_a_kill_left(tmp_path):
    runs = tmp_path / "train_log/disks"
    for name in ("audit_pilot_0123abcd", "audit_pilot_mine"):
        (runs / name / "checkpoints").mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt) as stopped, own_run(tmp_path) as name:
        (runs / name).mkdir()
        stop = KeyboardInterrupt()
        stop.add_note("go on with: --resume")
        raise stop
    assert [path.name for path in runs.iterdir()] == ["audit_pilot_mine"]
    assert stopped.value.__notes__ == ["the pilot was given up, and nothing of it is kept"]


def test_a_pilot_is_told_how_the_audit_reads_labels():
    audited = vars(make_parser().parse_args(["--dataset", "disks", "--ignore_index", "0", "--pilot"]))
    given = make_pilot(audited).keywords["given"]  # pyright: ignore[reportFunctionMemberAccess]
    assert given == {"dataset": "disks", "num_classes": 1, "ignore_index": 0, "seed": 0}
    assert set(DATA_OPTIONS) <= {name for name in audited} & set(OPTIONS)
