"""The methods of other papers: each rule on a problem small enough to be done by hand; runs that are resumed."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datasets.labels import IGNORE
from training.engine import Step
from training.fit import configure, fit
from training.losses import SegmentationLoss
from training.methods import METHODS, method_options
from training.methods.adele import (
    Adele,
    corrected_label,
    fit_learning_curve,
    learning_slows,
    scale_disagreement,
    slope_loss,
)
from training.methods.clslsr import label_errors, smoothed_targets
from training.methods.coteaching import CoTeaching
from training.methods.dast import QUEUE, DivergenceAware, divergence, sharpened, weighted_losses
from training.methods.scores import soft_cross_entropy
from training.methods.several import small_loss
from training.methods.spatial import label_error_field, posterior_gradient, precision_times, prior_mean
from training.methods.trinet import TriNet
from training.options import TrainingOptions
from utils.checkpoint import load_checkpoint
from utils.cli import UserError

RIVALS = tuple(name for name in METHODS if name not in ("supervised", "label_free"))


class Fixed(nn.Module):
    """Networks whose logits (N, 1, 1, H, W) are their parameters, whatever the images."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(logits)[:, None, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.values


def learned_pixels(method: Any, logits: list[list[float]], labels: list[int], epoch: int) -> list[list[int]]:
    """The pixels that a step changes, of each network."""
    network = Fixed(logits)
    method.begin(SimpleNamespace(epoch=epoch - 1), Path())
    step = Step(network, SegmentationLoss("bce"), torch.amp.GradScaler("cpu", enabled=False))
    method.backward(step, torch.zeros(1, 1, 1, len(labels)), torch.tensor([[labels]], dtype=torch.uint8))
    gradient = network.values.grad
    assert gradient is not None
    return [one.flatten().nonzero().flatten().tolist() for one in gradient]


def test_pixels_of_small_loss_are_counted_without_ignored_ones():
    logits = torch.tensor([[[[2.0, -2.0, 0.0, 9.0, 1.0]]]])
    labels = torch.tensor([[[1, 1, 1, IGNORE, 1]]], dtype=torch.uint8)
    assert small_loss(logits, labels, 0.5).flatten().tolist() == [True, False, False, False, True]
    assert small_loss(logits, labels, 1.0).sum() == 4


def test_each_of_two_networks_learns_what_is_easy_for_the_other():
    method = CoTeaching(TrainingOptions.from_flat({"epochs": 8}), None, forget=0.5, ramp=0.5)  # type: ignore[arg-type]
    assert [method.kept_share(epoch) for epoch in (1, 2, 4, 8)] == [0.875, 0.75, 0.5, 0.5]
    first, second = [3.0, 2.0, -2.0, -3.0], [-3.0, 2.0, -2.0, 3.0]  # easy: 0 and 1; 3 and 1
    assert learned_pixels(method, [first, second], [1, 1, 1, 1], epoch=8) == [[1, 3], [0, 1]]


def test_the_third_network_learns_what_is_easy_for_both_others():
    method = TriNet(TrainingOptions.from_flat({"epochs": 3}), None, select=0.5)  # type: ignore[arg-type]
    assert [method.kept_share(epoch) for epoch in (1, 2, 3)] == [1.0, 0.75, 0.5]
    logits = [[3.0, 2.0, -2.0, -3.0], [3.0, -2.0, 2.0, -3.0], [-3.0, 2.0, 3.0, -2.0]]  # easy: 01, 02, 12
    assert learned_pixels(method, logits, [1, 1, 1, 1], epoch=3) == [[2], [1], [0]]


def test_the_learning_curve_is_found_and_its_slope_is_that_of_calculus():
    a, b, c = 0.8, 0.5, 0.9
    ious = [a * (1 - math.exp(-b * t**c)) for t in range(1, 9)]
    assert fit_learning_curve(ious) == pytest.approx((a, b, c), abs=1e-3)
    assert slope_loss(1, math.log(2), 1, 2) == pytest.approx(0.5)  # the slope of 1 − 2^−t halves with each epoch
    assert learning_slows(ious, 0.9) and not learning_slows(ious[:4], 0.9)
    assert not learning_slows(ious[:3], 0.05) and not learning_slows([math.nan] * 8, 0.05)
    assert not learning_slows([0.0] * 8, 0.9)


def test_confident_predictions_replace_labels_of_the_corrected_class_alone():
    label = np.array([[0, 0, 1, 1, 2, IGNORE]], np.uint8)
    sure, scores = [1, 1, 0, 2, 1, 1], np.full((3, 1, 6), 0.05)
    for place, number in enumerate(sure):
        scores[number, 0, place] = 0.9
    scores[:, 0, 1] = 0.3, 0.4, 0.3  # not confident
    assert corrected_label(label, scores, [1], 0.8).tolist() == [[1, 0, 0, 1, 2, IGNORE]]
    without = np.where(label == 1, 0, label).astype(np.uint8)
    assert corrected_label(without, scores, [1], 0.8).tolist() == without.tolist(), "the image has no such class"


def test_scales_disagree_by_their_divergence_from_the_mean():
    labels = torch.zeros(1, 1, 2, dtype=torch.uint8)
    one, two = (torch.tensor([[[[value, 0.0]]]]) for value in (math.log(9.0), math.log(99.0)))  # 0.9, 0.99; 0.5
    assert scale_disagreement([one, one], labels, 0.8) == pytest.approx(0, abs=1e-6)
    mean = 0.945
    by_hand = sum(p * math.log(p / mean) + (1 - p) * math.log((1 - p) / (1 - mean)) for p in (0.9, 0.99)) / 2
    assert scale_disagreement([one, two], labels, 0.8).item() == pytest.approx(by_hand / 2, rel=1e-4)


def test_labels_off_the_diagonal_of_the_confident_joint_are_smoothed():
    foreground = torch.tensor([[[0.9, 0.6, 0.2, 0.9]]])
    scores, thresholds = torch.stack([1 - foreground, foreground], 1), torch.tensor([0.7, 0.8])
    labels = torch.tensor([[[0, 0, 1, IGNORE]]], dtype=torch.uint8)
    wrong = label_errors(scores, labels, thresholds)
    assert wrong.tolist() == [[[True, False, True, False]]]  # 0.6 and 0.4 reach neither threshold
    targets = smoothed_targets(labels, wrong, 2, 0.25)
    assert targets[0, :, 0].T.tolist() == [[0.875, 0.125], [1, 0], [0.125, 0.875], [0, 0]]
    value = soft_cross_entropy(torch.zeros(1, 1, 1, 4), labels, targets=targets)
    assert value.item() == pytest.approx(math.log(2))


def test_disagreement_of_two_networks_weighs_their_losses():
    labels = torch.ones(1, 1, 1, dtype=torch.uint8)
    half, most = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), math.log(3.0))  # 0.5, 0.75
    there = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    back = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    distance = (there + back) / 2
    assert divergence(half, most, labels).item() == pytest.approx(distance, rel=1e-5)
    assert divergence(half, half, labels).item() == 0
    found = weighted_losses(half, most, labels)
    weight = math.exp(-16 * distance)
    assert [each.item() for each in found] == pytest.approx([weight * math.log(2), weight * math.log(4 / 3)], rel=1e-4)
    assert sharpened(torch.tensor([1 / 3, 2 / 3, 1.0]), 0.5).tolist() == pytest.approx([0.2, 0.8, 1.0])


@pytest.mark.parametrize("term", ["consistency", "supplement"])
def test_a_fifth_of_the_noisy_batches_gets_each_term(term):
    images = [SimpleNamespace(clean_label=clean) for clean in (None, Path())]
    data: Any = SimpleNamespace(train=SimpleNamespace(samples=images))
    weights = {"consistency": 0.0, "supplement": 0.0, term: 1.0}
    method = DivergenceAware(TrainingOptions.from_flat({"epochs": 1}), data, **weights, select=0.2)
    labels, noisy = torch.ones(1, 1, 1, dtype=torch.uint8), torch.zeros(1, 1, 1, 1)
    added = []
    for logit in torch.linspace(0.1, 0.2, QUEUE):  # each a rank of its own among the others
        clean = logit.view(1, 1, 1, 1)
        own = [float(loss) for loss in weighted_losses(clean, noisy, labels)]
        others = [[float(loss) for loss in each] for each in zip(*_losses_but(logit, noisy, labels), strict=True)]
        method.begin(SimpleNamespace(epoch=0, memory={"clean_losses": others[0], "noisy_losses": others[1]}), Path())
        assert own[0] < own[1]
        added.append(float(method._selective(clean, noisy, labels)) > 0)
    assert sum(added) == QUEUE * 0.2


def _losses_but(logit: Tensor, noisy: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Losses of both networks in the other batches of the queue."""
    others = [each for each in torch.linspace(0.1, 0.2, QUEUE) if each != logit]
    return [weighted_losses(each.view(1, 1, 1, 1), noisy, labels) for each in others]


def test_the_precision_of_the_field_is_the_inverse_of_its_covariance():
    distance = np.abs(np.subtract.outer(range(3), range(3))), np.abs(np.subtract.outer(range(4), range(4)))
    covariance = np.kron(0.6 ** distance[0], 0.6 ** distance[1])
    field = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = field.reshape(2, 12).numpy() @ np.linalg.inv(covariance)
    assert np.allclose(precision_times(field, 0.6).reshape(2, 12).numpy(), expected)


def test_a_patch_of_doubtful_labels_is_doubted_more_than_a_lone_pixel():
    own, labels = torch.full((1, 16, 16), 0.95), torch.zeros(1, 16, 16, dtype=torch.uint8)
    own[0, 2:7, 2:7] = own[0, 12, 12] = 0.2
    labels[0, 4, 4] = IGNORE
    error = label_error_field(own, labels, 2, rate=0.1, correlation=0.5)
    assert error[0, 4, 4] == 0 and error[0, 3, 4] > 0.6 > 0.2 > error[0, 12, 12] > error[0, 10, 3]
    alone = label_error_field(own, labels, 2, rate=0.1, correlation=0.0)
    assert alone[0, 3, 4].item() == pytest.approx(alone[0, 12, 12].item(), abs=1e-4)


def log_posterior(field: Tensor, own: Tensor, mean: float, correlation: float) -> Tensor:
    """Log-density of fields (1, H, W) given binary labels, all of them known, up to a constant."""
    error, away = torch.special.ndtr(field), field - mean
    fit = ((1 - error) * own + error * (1 - own)).log()
    return (fit - 0.5 * away * precision_times(away, correlation)).sum()


def test_the_field_has_its_prior_where_labels_tell_nothing_and_a_mode_elsewhere():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    assert label_error_field(torch.full((1, 4, 4), 0.5), labels, 2, 0.1, 0.5).amax() < 0.1
    assert torch.special.ndtr(torch.tensor(prior_mean(0.1) / math.sqrt(2))).item() == pytest.approx(0.1)
    rng = torch.Generator().manual_seed(1)
    own = torch.rand(1, 4, 4, generator=rng)
    error = label_error_field(own, labels, 2, 0.1, 0.5)
    # Back from the probability of an error to the field, and no nearby field is likelier.
    share = error / (error + (1 - error) * (1 - own) / own)
    field, mean = torch.special.ndtri(share.double()), prior_mean(0.1)
    best = log_posterior(field, own.double(), mean, 0.5)
    at = field.clone().requires_grad_(True)
    log_posterior(at, own.double(), mean, 0.5).backward()
    assert torch.allclose(posterior_gradient(field, own.double(), labels, 2, mean, 0.5), at.grad)
    for _ in range(20):
        other = field + 0.1 * torch.randn(1, 4, 4, generator=rng)
        assert log_posterior(other, own.double(), mean, 0.5) < best


SMALL = {"dataset": "disks", "preset": "quick", "width": 2, "crop": 32, "batch_size": 4, "device": "cpu", "steps": 18}
SMALL |= {"tensorboard": False, "audit": False, "precision": "fp32", "epochs": 6, "pred_invert": "off"}
SPECS = {"adele": "adele(slope=0.05,confidence=0.5)", "coteaching": "coteaching(forget=0.3)"}


def start(root: Path, name: str, **given: Any) -> Path:
    if name == "dast":
        lines = (root / "txt/disks/train/train_gt.txt").read_text().splitlines(keepends=True)
        (root / "txt/disks/train/clean.txt").write_text("".join(lines[:3]))
        given |= {"clean_list": "clean", "recipe": "plain"}
    spec = {"label_noise": "flip:0.2", "method": SPECS.get(name, name)}
    return fit(configure({**SMALL, **spec, **given}, root), root)


@pytest.mark.parametrize("name", RIVALS)
def test_a_resumed_run_ends_as_one_that_was_never_stopped(name, disks, capsys):
    whole = start(disks, name, run_name="whole", checkpoint_every=1)
    assert f"method {name}(" in capsys.readouterr().out
    part = whole.with_name("part")
    shutil.copytree(whole, part)
    for last in ("last", "best", "epoch_6"):
        (part / "checkpoints" / f"{last}.pth").unlink()
    fit(configure({"resume": str(part)}, disks), disks)
    one, two = (load_checkpoint(folder / "checkpoints" / "last.pth") for folder in (whole, part))
    for key in {"model", "student"} & set(one):
        assert all(torch.equal(value, two[key][each]) for each, value in one[key].items())
    plain = lambda memory: {key: each for key, each in memory.items() if key != "teacher"}  # noqa: E731
    assert plain(one.get("memory", {})) == plain(two.get("memory", {}))
    assert one["config"]["method"] == name and one["config"]["method_options"] == method_options(
        name, {"adele": {"slope": 0.05, "confidence": 0.5}, "coteaching": {"forget": 0.3}}.get(name, {})
    )


def test_labels_are_corrected_once_learning_slows(disks, monkeypatch):
    changed = []
    monkeypatch.setattr(
        "datasets.segmentation.SegmentationDataset.set_label", lambda self, index, label: changed.append(index)
    )
    start(disks, "adele", run_name="corrected", steps=60)
    assert sorted(set(changed)) == list(range(8))
    assert Adele.changes_labels


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "coteaching(tau=0.3)"}, "--method coteaching has no option 'tau'; its options are: forget=0.2"),
        ({"method": "trinet(select=2)"}, "--method trinet: select=2 must be a number from 0.05 to 1"),
        ({"method": "coteach"}, "coteaching"),
        ({"method": "label_free"}, "training without labels is --igtt"),
        ({"method": "adele", "igtt": "best"}, "training without labels is --igtt"),
        ({"method": "clslsr", "loss": "dice"}, "it takes --loss bce or ce"),
        ({"method": "dast"}, "give --clean_list"),
        ({"method": "dast", "clean_list": "train_gt", "val_list": None}, "names all training images"),
        ({"method": "adele", "label_noise": "flip:0.2", "label_noise_refresh": "epoch"}, "draws anew"),
    ],
)
def test_contradictions_are_told(disks, given, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        fit(configure({**SMALL, **given}, disks), disks)


def test_other_options_of_the_method_may_not_be_given_on_resume(disks):
    run = start(disks, "coteaching", run_name="kept", stop_after=1, epochs=2, steps=2)
    assert configure({"resume": str(run), "method": "coteaching(forget=0.3)"}, disks).loss.method == "coteaching"
    with pytest.raises(UserError, match="forget=0.4"):
        configure({"resume": str(run), "method": "coteaching(forget=0.4)"}, disks)
